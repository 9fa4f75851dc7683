//! `containerd.services.content.v1`.

use crate::Daemon;
use crate::api::containerd::services::content::v1::content_server::Content;

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
impl Content for Service {}
