//! `containerd.services.version.v1`.

use crate::Daemon;
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
impl Version for Service {}
