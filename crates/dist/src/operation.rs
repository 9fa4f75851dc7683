//! Work that brings content or unpacks it: on a store of this process, or through a daemon.
//!
//! [`crate::fetch`], [`crate::fetch_blob`] and [`crate::unpack_manifest`] are written against these
//! traits, so that each is written once. An operation has a lease, which keeps what it finds and
//! brings; when it ends, labels keep that instead.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{Digest, Image, Labels, Progress, Resource, Result, Warning};
use dist_store::{Registration, SettleMode};

use crate::blocking::Alive;
use crate::ingest::Intake;
use crate::layers::Plan;
use crate::session::Session;
use crate::unpack::Unpacker;
use crate::{Contents, Engine, Remotes, discard};

/// A place where operations work. It has all that the place has to say: where names are resolved,
/// where blobs go, what unpacks, what keeps.
pub trait Operations: Send + Sync {
    /// The same place, for blocking threads.
    fn shared(&self) -> Arc<dyn Operations>;

    /// How this process speaks to registries.
    fn remotes(&self) -> &Remotes;

    /// The blobs; what is ingested gets `labels`, where it lacks them.
    fn contents(&self, labels: Labels) -> Arc<dyn Contents>;

    /// The name of the snapshotter that is unpacked with.
    ///
    /// # Errors
    /// `FailedPrecondition` where there is none; `Unavailable`.
    fn snapshotter_name(&self) -> Result<String>;

    /// Begins an operation that needs `needs`, whether they are there or not. Blocks.
    ///
    /// # Errors
    /// `Storage`, `Unavailable`.
    fn begin(&self, needs: BTreeSet<Resource>) -> Result<Box<dyn Operation>>;

    /// Discards the blobs of unpacked layers, where this place does that; `documents` are those
    /// that may name them. Blocks.
    ///
    /// # Errors
    /// `Storage`.
    fn discard(
        &self,
        _plan: &Plan,
        _snapshotter: &str,
        _documents: &BTreeSet<Digest>,
    ) -> Result<()> {
        Ok(())
    }

    /// Does what can wait until the user has his answer. Blocks.
    ///
    /// # Errors
    /// `Storage`.
    fn settle(&self) -> Result<()>;
}

/// One operation. Dropped without [`Operation::finish`] it has failed: what it brought is kept for
/// an hour, so that it can be tried again.
#[async_trait]
pub trait Operation: Send + Sync {
    /// The blobs; what is ingested is kept.
    fn contents(&self) -> Arc<dyn Contents>;

    /// Unpacks the layers of `plan` that are not unpacked, with the snapshotter of this name; `jobs`
    /// at once where that can be.
    ///
    /// # Errors
    /// `NotFound` naming a blob that is missing; those of the layers and of the snapshotter.
    async fn unpack(
        &self,
        plan: &Plan,
        snapshotter: &str,
        jobs: usize,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Warning>>;

    /// Ends the operation: from now on labels and names keep what it brought. Blocks.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`, `Unavailable`.
    fn finish(self: Box<Self>, registration: Registration) -> Result<Vec<Image>>;
}

impl Operations for Engine {
    fn shared(&self) -> Arc<dyn Operations> {
        Arc::new(self.clone())
    }

    fn remotes(&self) -> &Remotes {
        self.remotes()
    }

    fn contents(&self, labels: Labels) -> Arc<dyn Contents> {
        Arc::new(self.content().labelled(labels))
    }

    fn snapshotter_name(&self) -> Result<String> {
        Ok(self.snapshotter_name().to_owned())
    }

    fn begin(&self, needs: BTreeSet<Resource>) -> Result<Box<dyn Operation>> {
        Ok(Box::new(Session::begin(self, needs)?))
    }

    fn discard(&self, plan: &Plan, snapshotter: &str, documents: &BTreeSet<Digest>) -> Result<()> {
        discard::discard(&self.with_snapshotter(snapshotter), plan, documents, None)
    }

    fn settle(&self) -> Result<()> {
        self.store().settle(SettleMode::Exit).map(drop)
    }
}

#[async_trait]
impl Operation for Session {
    fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(self.engine().content())
    }

    async fn unpack(
        &self,
        plan: &Plan,
        snapshotter: &str,
        jobs: usize,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<Warning>> {
        let alive = Alive::new();
        let intake = Intake {
            content: Operation::contents(self),
            downloads: None,
            progress,
            cancel: alive.cancel(),
        };
        let engine = self.engine().with_snapshotter(snapshotter);
        Unpacker::new(&engine, intake, alive.stop(), jobs)?.run(plan).await
    }

    fn finish(self: Box<Self>, registration: Registration) -> Result<Vec<Image>> {
        let store = self.engine().store().clone();
        let images = Self::finish(*self, registration)?;
        store.settle(SettleMode::Answer)?;
        Ok(images)
    }
}
