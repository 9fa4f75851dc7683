//! `containerd.services.snapshots.v1`.

use crate::Daemon;
use crate::api::containerd::services::snapshots::v1::snapshots_server::Snapshots;

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
impl Snapshots for Service {}
