//! `containerd.services.diff.v1`.

use dist::{ApplyBlob, DiffBlob, apply_blob, diff_blob};
use dist_core::{
    Cancel, Compression, Context as _, Error, ErrorKind, MediaType, Mount, Result, check_labels,
};
use dist_store::ContentStore;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::Daemon;
use crate::answer::reply;
use crate::api::containerd::services::diff::v1::diff_server::Diff;
use crate::api::containerd::services::diff::v1::{
    ApplyRequest, ApplyResponse, DiffRequest, DiffResponse,
};
use crate::api::containerd::types;
use crate::context;
use crate::daemon::blocking;
use crate::translate::{api_descriptor, descriptor, mount, required};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn content(&self, metadata: &MetadataMap) -> Result<ContentStore> {
        Ok(self.daemon.engine().in_scope(context::scope(metadata)?).content())
    }

    async fn apply_layer(&self, request: Request<ApplyRequest>) -> Result<ApplyResponse> {
        let (metadata, _, request) = request.into_parts();
        let content = self.content(&metadata)?;
        let layer = descriptor(required(request.diff, "diff")?)?;
        let mounts = mounts(request.mounts);
        let options = ApplyBlob { limits: *self.daemon.engine().limits(), sync: request.sync_fs };
        let (cancel, _guard) = Cancel::guarded();
        let store = self.daemon.engine().store().clone();
        let apply = move || apply_blob(&store, &content, &layer, &mounts, options, &cancel);
        let applied = blocking(apply).await?;
        Ok(ApplyResponse { applied: Some(api_descriptor(&applied)) })
    }

    async fn make_layer(&self, request: Request<DiffRequest>) -> Result<DiffResponse> {
        let (metadata, _, request) = request.into_parts();
        let content = self.content(&metadata)?;
        let options = options(&request)?;
        let (lower, upper) = (mounts(request.left), mounts(request.right));
        let (cancel, _guard) = Cancel::guarded();
        let made = blocking(move || diff_blob(&content, &lower, &upper, &options, &cancel)).await?;
        self.daemon.mutated(0);
        Ok(DiffResponse { diff: Some(api_descriptor(&made)) })
    }
}

#[tonic::async_trait]
impl Diff for Service {
    async fn apply(
        &self,
        request: Request<ApplyRequest>,
    ) -> Result<Response<ApplyResponse>, Status> {
        reply(self.apply_layer(request).await)
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        reply(self.make_layer(request).await)
    }
}

fn mounts(mounts: Vec<types::Mount>) -> Vec<Mount> {
    mounts.into_iter().map(mount).collect()
}

fn options(request: &DiffRequest) -> Result<DiffBlob> {
    let compression = match MediaType::parse(&request.media_type) {
        MediaType::Other(name) if name.is_empty() => Compression::Gzip,
        MediaType::Layer(compression) => compression,
        _ => {
            let message = format!("make a layer of type {:?}", request.media_type);
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
    };
    let key = match request.r#ref.as_str() {
        "" => None,
        text => Some(
            text.parse().context(ErrorKind::InvalidArgument, || format!("read ref {text:?}"))?,
        ),
    };
    let labels = request.labels.clone().into_iter().collect();
    check_labels(&labels)?;
    let source_date_epoch = request.source_date_epoch.as_ref().map(|time| time.seconds);
    Ok(DiffBlob { compression, key, labels, source_date_epoch })
}
