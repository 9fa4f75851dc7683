//! `containerd.services.namespaces.v1`.

use crate::Daemon;
use crate::api::containerd::services::namespaces::v1::namespaces_server::Namespaces;

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
impl Namespaces for Service {}
