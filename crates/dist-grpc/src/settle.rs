//! When the snapshots that clients commit are made durable.
//!
//! A committed snapshot whose files may not be on the disk is dropped after an unclean stop, with
//! all that stands on it. Clients commit many in a row and each sync costs as much as all of them,
//! so one sync follows a while after the first commit, and one at the end of the daemon.

use std::time::Duration;

use dist_store::SettleMode;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Daemon;
use crate::daemon::blocking;

/// How long a commit waits for others: as long as the kernel's own writing back does.
const DELAY: Duration = Duration::from_secs(5);

/// Syncs after commits.
#[derive(Debug, Default)]
pub(crate) struct Settler {
    committed: Notify,
}

impl Settler {
    /// Says that a snapshot was committed.
    pub(crate) fn committed(&self) {
        self.committed.notify_one();
    }

    async fn wait(&self) {
        self.committed.notified().await;
        tokio::time::sleep(DELAY).await;
    }
}

/// Syncs after commits until `stop`, and then once more.
pub(crate) async fn run(daemon: &Daemon, stop: CancellationToken) {
    while stop.run_until_cancelled(daemon.settler().wait()).await.is_some() {
        settle(daemon).await;
    }
    settle(daemon).await;
}

async fn settle(daemon: &Daemon) {
    let store = daemon.engine().store().clone();
    if let Err(error) = blocking(move || store.settle(SettleMode::Base)).await {
        tracing::warn!(?error, "snapshots could not be written to the disk");
    }
}
