//! `containerd.services.leases.v1`.

use crate::Daemon;
use crate::api::containerd::services::leases::v1::leases_server::Leases;

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
impl Leases for Service {}
