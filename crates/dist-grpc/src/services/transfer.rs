//! `containerd.services.transfer.v1`.

use crate::Daemon;
use crate::api::containerd::services::transfer::v1::transfer_server::Transfer;

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
impl Transfer for Service {}
