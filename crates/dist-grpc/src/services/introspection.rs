//! `containerd.services.introspection.v1`.

use crate::Daemon;
use crate::api::containerd::services::introspection::v1::introspection_server::Introspection;

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
impl Introspection for Service {}
