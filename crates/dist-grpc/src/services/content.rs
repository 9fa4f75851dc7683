//! `containerd.services.content.v1`.

mod read;
mod write;
mod writers;

use dist_core::{
    Context as _, Digest, Error, ErrorKind, Filter, Info, IngestKey, IngestStatus, Result,
};
use dist_store::{ContentStore, Sharing};
use futures_util::stream;
use prost::Name;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::BoxStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument as _;

use self::writers::Writers;
use crate::answer::{answer, reply};
use crate::api::containerd::events::ContentDelete;
use crate::api::containerd::services::content::v1 as api;
use crate::api::containerd::services::content::v1::content_server::Content;
use crate::backend::Realm;
use crate::daemon::blocking;
use crate::translate::{hash_map, required, status, timestamp};
use crate::{Daemon, filters, mask};

/// How many blobs one message of a listing describes.
const BLOCK: usize = 100;

/// Answers of a `Write` stream that wait for the client.
const ANSWERS: usize = 4;

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
    realm: Realm,
    writers: Writers,
}

/// The content that a request can see.
#[derive(Clone)]
struct Space {
    daemon: Daemon,
    realm: Realm,
    content: ContentStore,
    sharing: Sharing,
}

impl Space {
    /// Says what was done, and how much was deleted by it; the raw realm's daemon has events and
    /// collections of its own.
    fn changed<M: Name>(&self, topic: &str, event: &M, deletions: u64) {
        if self.realm == Realm::Namespaced {
            self.daemon.publish(self.content.namespace(), topic, event);
        }
        self.mutated(deletions);
    }

    fn mutated(&self, deletions: u64) {
        if self.realm == Realm::Namespaced {
            self.daemon.mutated(deletions);
        }
    }
}

impl Service {
    pub(crate) fn new(daemon: Daemon, realm: Realm) -> Self {
        Self { daemon, realm, writers: Writers::default() }
    }

    fn space(&self, metadata: &MetadataMap) -> Result<Space> {
        let scope = self.realm.scope(metadata)?;
        let content = self.daemon.engine().store().content(scope);
        let (daemon, realm) = (self.daemon.clone(), self.realm);
        let sharing = daemon.options().content_sharing;
        Ok(Space { daemon, realm, content, sharing })
    }

    /// Opens what a request asks for.
    async fn open(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<BoxStream<api::ReadContentResponse>> {
        let content = self.space(request.metadata())?.content;
        let request = request.into_inner();
        read::read(content, digest(&request.digest)?, request).await
    }

    /// Ends an ingest, whoever writes to it.
    async fn end(&self, request: Request<api::AbortRequest>) -> Result<()> {
        let space = self.space(request.metadata())?;
        let key = key(&request.get_ref().r#ref)?;
        match self.writers.abort(space.content.namespace(), &key).await {
            Some(result) => result,
            None => blocking(move || space.content.abort(&key)).await,
        }
    }
}

#[tonic::async_trait]
impl Content for Service {
    async fn info(
        &self,
        request: Request<api::InfoRequest>,
    ) -> Result<Response<api::InfoResponse>, Status> {
        let work = |space: &Space, request: api::InfoRequest| {
            let info = space.content.info(&digest(&request.digest)?)?;
            Ok(api::InfoResponse { info: Some(api_info(info)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn update(
        &self,
        request: Request<api::UpdateRequest>,
    ) -> Result<Response<api::UpdateResponse>, Status> {
        let work = |space: &Space, request: api::UpdateRequest| {
            let info = required(request.info, "info")?;
            let digest = digest(&info.digest)?;
            let labels = info.labels.into_iter().collect();
            let object = || format!("content info {digest}");
            let change = mask::label_change(labels, request.update_mask, object)?;
            let info = space.content.update_labels(&digest, &change)?;
            space.mutated(0);
            Ok(api::UpdateResponse { info: Some(api_info(info)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list(
        &self,
        request: Request<api::ListContentRequest>,
    ) -> Result<Response<BoxStream<api::ListContentResponse>>, Status> {
        let work = |space: &Space, request: api::ListContentRequest| {
            let filter = Filter::parse(&request.filters)?;
            let mut found = space.content.list()?;
            found.retain(|info| filter.matches(&filters::Of(info)));
            Ok(found)
        };
        let found = answer(request, |metadata, _| self.space(metadata), work).await?.into_inner();
        let mut infos = found.into_iter().map(api_info).peekable();
        let blocks = std::iter::from_fn(move || {
            infos.peek()?;
            Some(Ok(api::ListContentResponse { info: infos.by_ref().take(BLOCK).collect() }))
        });
        Ok(Response::new(Box::pin(stream::iter(blocks))))
    }

    async fn delete(
        &self,
        request: Request<api::DeleteContentRequest>,
    ) -> Result<Response<()>, Status> {
        let work = |space: &Space, request: api::DeleteContentRequest| {
            space.content.delete(&digest(&request.digest)?)?;
            space.changed("/content/delete", &ContentDelete { digest: request.digest }, 1);
            Ok(())
        };
        let deleted = answer(request, |metadata, _| self.space(metadata), work).await?;
        self.daemon.emptier().make_way(&self.daemon).await;
        Ok(deleted)
    }

    async fn read(
        &self,
        request: Request<api::ReadContentRequest>,
    ) -> Result<Response<BoxStream<api::ReadContentResponse>>, Status> {
        reply(self.open(request).await)
    }

    async fn status(
        &self,
        request: Request<api::StatusRequest>,
    ) -> Result<Response<api::StatusResponse>, Status> {
        let work = |space: &Space, request: api::StatusRequest| {
            let found = space.content.ingest_status(&key(&request.r#ref)?)?;
            Ok(api::StatusResponse { status: Some(api_status(found)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list_statuses(
        &self,
        request: Request<api::ListStatusesRequest>,
    ) -> Result<Response<api::ListStatusesResponse>, Status> {
        let work = |space: &Space, request: api::ListStatusesRequest| {
            let filter = Filter::parse(&request.filters)?;
            let mut found = space.content.ingests()?;
            found.retain(|status| filter.matches(&filters::Of(status)));
            let statuses = found.into_iter().map(api_status).collect();
            Ok(api::ListStatusesResponse { statuses })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn write(
        &self,
        request: Request<Streaming<api::WriteContentRequest>>,
    ) -> Result<Response<BoxStream<api::WriteContentResponse>>, Status> {
        let space = self.space(request.metadata()).map_err(|error| status(&error))?;
        let (answers, receiver) = mpsc::channel(ANSWERS);
        // A task of its own, so that the stream ends in order when the client is gone.
        let stream = write::run(space, self.writers.clone(), request.into_inner(), answers);
        tokio::spawn(stream.in_current_span());
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn abort(&self, request: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        let aborted = self.end(request).await;
        self.daemon.emptier().make_way(&self.daemon).await;
        reply(aborted)
    }
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().context(ErrorKind::InvalidArgument, || format!("read digest {text:?}"))
}

/// The ingest that a request names. There is none without a name.
fn key(text: &str) -> Result<IngestKey> {
    if text.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no ingest without a reference"));
    }
    text.parse().context(ErrorKind::InvalidArgument, || "read reference".into())
}

fn api_info(info: Info) -> api::Info {
    api::Info {
        digest: info.digest.to_string(),
        size: i64::try_from(info.size).unwrap_or(i64::MAX),
        created_at: Some(timestamp(info.created_at)),
        updated_at: Some(timestamp(info.updated_at)),
        labels: hash_map(&info.labels),
    }
}

fn api_status(status: IngestStatus) -> api::Status {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    api::Status {
        started_at: Some(timestamp(status.started_at)),
        updated_at: Some(timestamp(status.updated_at)),
        r#ref: status.key.as_str().to_owned(),
        offset: number(status.offset),
        total: status.total.map_or(0, number),
        expected: status.expected.map_or_else(String::new, |digest| digest.to_string()),
    }
}
