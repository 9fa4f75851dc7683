//! `containerd.services.version.v1`.

use tonic::{Request, Response, Status};

use crate::Daemon;
use crate::api::containerd::services::version::v1::VersionResponse;
use crate::api::containerd::services::version::v1::version_server::Version;

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }
}

#[tonic::async_trait]
impl Version for Service {
    async fn version(&self, _: Request<()>) -> Result<Response<VersionResponse>, Status> {
        let options = self.daemon.options();
        let (version, revision) = (options.version.clone(), options.revision.clone());
        Ok(Response::new(VersionResponse { version, revision }))
    }
}
