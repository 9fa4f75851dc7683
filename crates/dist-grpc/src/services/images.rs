//! `containerd.services.images.v1`.

use crate::Daemon;
use crate::api::containerd::services::images::v1::images_server::Images;

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
impl Images for Service {}
