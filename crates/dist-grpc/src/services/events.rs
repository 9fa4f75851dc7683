//! `containerd.services.events.v1`.

use crate::Daemon;
use crate::api::containerd::services::events::v1::events_server::Events;

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
impl Events for Service {}
