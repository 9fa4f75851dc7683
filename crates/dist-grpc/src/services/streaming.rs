//! `containerd.services.streaming.v1`.

use crate::Daemon;
use crate::api::containerd::services::streaming::v1::streaming_server::Streaming;

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
impl Streaming for Service {}
