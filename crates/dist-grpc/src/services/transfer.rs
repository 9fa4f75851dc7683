//! `containerd.services.transfer.v1`: images from one place to another, told as it goes.
//!
//! | from | to | |
//! | --- | --- | --- |
//! | registry | store | pull |
//! | store | registry | push |
//! | store | store | tag |
//! | store | export stream | export |
//! | import stream | store | import |
//! | import stream | export stream | the same bytes, for tests of clients |

mod announce;
mod archive;
mod bytes;
mod progress;
mod pull;
mod push;
mod registry;
mod store;

use std::sync::Arc;

use dist::Engine;
use dist_core::{Context as _, Error, ErrorKind, Image, Namespace, Progress, Result};
use prost_types::Any;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use self::announce::Announcing;
use self::progress::Reporter;
use crate::answer::reply;
use crate::api::containerd::services::images::v1::{ImageCreate, ImageUpdate};
use crate::api::containerd::services::transfer::v1::TransferRequest;
use crate::api::containerd::services::transfer::v1::transfer_server::Transfer;
use crate::api::containerd::types::transfer::{
    ImageExportStream, ImageImportStream, ImageStore, OciRegistry,
};
use crate::daemon::blocking;
use crate::streams::Stream;
use crate::translate::{hash_map, required};
use crate::{Daemon, context, typed};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
    /// Each transfer may keep threads waiting for its client or its registry: there must be some
    /// left for everybody else.
    running: Semaphore,
}

/// How many transfers run at once; others wait.
const RUNNING: usize = 32;

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon, running: Semaphore::new(RUNNING) }
    }

    async fn run(&self, request: Request<TransferRequest>) -> Result<()> {
        let scope = context::scope(request.metadata())?;
        let _turn = self
            .running
            .acquire()
            .await
            .context(ErrorKind::Internal, || "wait for other transfers".into())?;
        let TransferRequest { source, destination, options } = request.into_inner();
        let source = End::read(&required(source, "source")?)?;
        let destination = End::read(&required(destination, "destination")?)?;
        let job = Job {
            daemon: self.daemon.clone(),
            namespace: scope.namespace.clone(),
            engine: self.daemon.engine().in_scope(scope),
            progress_stream: options.unwrap_or_default().progress_stream,
        };
        match (source, destination) {
            (End::Registry(from), End::Store(to)) => pull::pull(&job, &from, &to).await,
            (End::Store(from), End::Registry(to)) => push::push(&job, &from, &to).await,
            (End::Store(from), End::Store(to)) => tag(&job, &from, &to).await,
            (End::Import(from), End::Store(to)) => archive::import(&job, &from, &to).await,
            (End::Store(from), End::Export(to)) => archive::export(&job, &from, &to).await,
            (End::Import(from), End::Export(to)) => echo(&job, &from, &to).await,
            (from, to) => {
                let message = format!("transfer from {} to {}", from.name(), to.name());
                Err(Error::new(ErrorKind::Unsupported, message))
            }
        }
    }
}

#[tonic::async_trait]
impl Transfer for Service {
    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<()>, Status> {
        reply(self.run(request).await)
    }
}

/// One end of a transfer.
enum End {
    Registry(OciRegistry),
    Store(ImageStore),
    Import(ImageImportStream),
    Export(ImageExportStream),
    Unknown(String),
}

impl End {
    fn read(any: &Any) -> Result<Self> {
        Ok(if typed::is::<OciRegistry>(any) {
            Self::Registry(typed::unpack(any)?)
        } else if typed::is::<ImageStore>(any) {
            Self::Store(typed::unpack(any)?)
        } else if typed::is::<ImageImportStream>(any) {
            Self::Import(typed::unpack(any)?)
        } else if typed::is::<ImageExportStream>(any) {
            Self::Export(typed::unpack(any)?)
        } else {
            Self::Unknown(any.type_url.clone())
        })
    }

    fn name(&self) -> String {
        match self {
            Self::Registry(registry) => registry_name(registry),
            Self::Store(store) => format!("Local Image Store ({})", store.name),
            Self::Import(_) => "an import stream".to_owned(),
            Self::Export(_) => "an export stream".to_owned(),
            Self::Unknown(url) => format!("{url:?}"),
        }
    }
}

/// What progress calls a registry.
fn registry_name(registry: &OciRegistry) -> String {
    format!("OCI Registry ({})", registry.reference)
}

/// What all transfers need.
struct Job {
    daemon: Daemon,
    namespace: Namespace,
    engine: Engine,
    progress_stream: String,
}

impl Job {
    /// Where to report to; `moving` is the word for bytes on their way.
    fn reporter(&self, moving: &'static str) -> Result<Reporter> {
        let stream = match self.progress_stream.as_str() {
            "" => None,
            id => Some(self.stream(id)?),
        };
        Ok(Reporter::new(stream, moving))
    }

    /// What the engine reports to where it brings something into the store.
    fn progress(&self, reporter: &Reporter) -> Arc<dyn Progress> {
        Arc::new(Announcing {
            daemon: self.daemon.clone(),
            namespace: self.namespace.clone(),
            progress: reporter.progress(),
        })
    }

    fn stream(&self, id: &str) -> Result<Stream> {
        self.daemon.streams().take(&self.namespace, id)
    }

    /// Tells subscribers which names have come or changed.
    fn publish(&self, images: &[Image]) {
        for image in images {
            let (name, labels) = (image.name.as_str().to_owned(), hash_map(&image.labels));
            if image.created_at == image.updated_at {
                let event = ImageCreate { name, labels };
                self.daemon.publish(&self.namespace, "/images/create", &event);
            } else {
                let event = ImageUpdate { name, labels };
                self.daemon.publish(&self.namespace, "/images/update", &event);
            }
            self.daemon.mutated(0);
        }
    }
}

/// Gives an image more names.
async fn tag(job: &Job, from: &ImageStore, to: &ImageStore) -> Result<()> {
    let reporter = job.reporter("")?;
    let (images, source, to) = (job.engine.images(), store::parse(&from.name)?, to.clone());
    let images = blocking(move || {
        let target = images.get(&source)?.target;
        let (names, labels) = (store::digested_names(&to, &target.digest)?, store::labels(&to));
        names.iter().map(|name| images.put(name, &target, &labels)).collect::<Result<Vec<_>>>()
    })
    .await?;
    job.publish(&images);
    for image in &images {
        reporter.image("saved", image.name.as_str(), &image.target);
    }
    reporter.end().await;
    Ok(())
}

/// Sends back what comes.
async fn echo(job: &Job, from: &ImageImportStream, to: &ImageExportStream) -> Result<()> {
    let (mut reader, feed) = bytes::incoming(job.stream(&from.stream)?);
    let (mut writer, drain) = bytes::outgoing(job.stream(&to.stream)?);
    let copying = blocking(move || {
        let copied = std::io::copy(&mut reader, &mut writer);
        let flushed = copied.and_then(|_| std::io::Write::flush(&mut writer));
        dist_core::Context::context(flushed, ErrorKind::Unavailable, || "copy bytes".to_owned())
    });
    let (copied, ()) = futures_util::future::join(drain.run(copying), feed).await;
    copied
}
