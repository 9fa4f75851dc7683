//! `containerd.services.snapshots.v1`.

use crate::Daemon;
use crate::api::containerd::services::snapshots::v1::snapshots_server::Snapshots;
use crate::backend::Realm;

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
    realm: Realm,
}

impl Service {
    pub(crate) fn new(daemon: Daemon, realm: Realm) -> Self {
        Self { daemon, realm }
    }
}

#[tonic::async_trait]
impl Snapshots for Service {}
