//! `containerd.services.diff.v1`.

use crate::Daemon;
use crate::api::containerd::services::diff::v1::diff_server::Diff;

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
impl Diff for Service {}
