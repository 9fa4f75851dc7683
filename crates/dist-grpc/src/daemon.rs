//! What all services share.

use std::ffi::OsString;
use std::sync::Arc;

use dist::Engine;
use dist_core::{Error, ErrorKind, Namespace, Result};
use dist_run::Containers;
use dist_store::{Removal, Sharing};
use prost::Name;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::bus::Bus;
use crate::gc::{Collector, GcSchedule};
use crate::metrics::Metrics;
use crate::settle::Settler;
use crate::streams::Streams;
use crate::trash::Emptier;

/// What a daemon is told when it starts.
#[derive(Clone, Debug)]
pub struct DaemonOptions {
    /// The version.
    pub version: String,
    /// The revision of the source; empty where it is not known.
    pub revision: String,
    /// Who may take what another namespace has without bringing its bytes.
    pub content_sharing: Sharing,
    /// When it collects garbage.
    pub gc: GcSchedule,
    /// Where shims and runtimes are looked for.
    pub programs: Option<OsString>,
}

/// One engine behind the API. Clones share it.
#[derive(Clone)]
pub struct Daemon(Arc<Inner>);

struct Inner {
    engine: Engine,
    options: DaemonOptions,
    bus: Bus,
    collector: Collector,
    settler: Settler,
    emptier: Arc<Emptier>,
    streams: Streams,
    metrics: Metrics,
    stopping: CancellationToken,
}

impl Daemon {
    /// Puts the API in front of an engine.
    #[must_use]
    pub fn new(engine: Engine, options: DaemonOptions) -> Self {
        let collector = Collector::new(options.gc.clone());
        let (bus, settler, streams, stopping) = Default::default();
        let emptier = Arc::<Emptier>::default();
        let engine = engine
            .with_sharing(options.content_sharing)
            .with_removal(Removal::Later(Arc::clone(&emptier) as _));
        let metrics = Metrics::new(&options.version);
        let inner =
            Inner { engine, options, bus, collector, settler, emptier, streams, metrics, stopping };
        Self(Arc::new(inner))
    }

    /// What it was told when it started.
    pub(crate) fn options(&self) -> &DaemonOptions {
        &self.0.options
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// The containers of a namespace.
    pub(crate) fn containers(&self, namespace: &Namespace) -> Containers {
        let engine = self.engine().in_namespace(namespace.clone());
        Containers::new(engine, self.options().programs.clone())
    }

    /// Ends when nobody is accepted any more and what waits has to end.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// The streams that clients have opened.
    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The events.
    pub(crate) fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// Tells subscribers what happened. Called after it is durable, never inside a transaction.
    pub(crate) fn publish<M: Name>(&self, namespace: &Namespace, topic: &str, event: &M) {
        self.bus().publish(namespace.as_str(), topic, event);
    }

    /// Says that a request changed the metadata and deleted so many objects by it. Called after it
    /// is durable; a collection follows when enough has happened.
    pub(crate) fn mutated(&self, deletions: u64) {
        self.0.collector.mutated(deletions);
    }

    /// What collects garbage.
    pub(crate) fn collector(&self) -> &Collector {
        &self.0.collector
    }

    /// What makes committed snapshots durable.
    pub(crate) fn settler(&self) -> &Settler {
        &self.0.settler
    }

    /// What empties the trash.
    pub(crate) fn emptier(&self) -> &Emptier {
        &self.0.emptier
    }

    /// Removes all that nothing keeps now, for requests that ask to wait for it: its space, and that
    /// of what was deleted before, is free when this returns.
    ///
    /// # Errors
    /// `Storage`: some of it could not be removed.
    pub(crate) async fn collect(&self) -> Result<()> {
        self.0.collector.collect(self).await?;
        // A collection empties the trash, but not what another task is just unlinking.
        drop(self.emptier().idle().await);
        Ok(())
    }
}

/// Runs blocking work where it blocks no other request, to its end even if the client is gone.
///
/// # Errors
/// What `work` returns; `Internal` where it panics.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, "a request panicked").with_source(error)),
    }
}

/// Does work of several steps to its end, even if the client is gone.
///
/// # Errors
/// What `work` returns; `Internal` where it panics.
pub(crate) async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    match tokio::spawn(work.in_current_span()).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Internal, "a request panicked").with_source(error)),
    }
}
