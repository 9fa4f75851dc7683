//! What requests delete leaves the disk behind their backs.
//!
//! A request that deletes answers when its rows are gone, durably, and the files have been moved to
//! the trash: to unlink a large file takes seconds where the file system discards what comes free.
//! One task empties the trash, from right after the first such request. So that the space of what
//! was deleted comes free about as fast as it is deleted, a request waits for the task where many
//! things lie there; where little space is free, and at the end of the daemon, the store removes
//! files before the answer. A daemon that dies leaves the rest to the next collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Mutex, Notify, OwnedMutexGuard};
use tokio_util::sync::CancellationToken;

use crate::Daemon;
use crate::daemon::blocking;

/// How many things may lie in the trash before requests wait.
const MOST: usize = 64;

/// What empties the trash.
#[derive(Debug, Default)]
pub(crate) struct Emptier {
    /// Things thrown away since the trash was last looked through.
    waiting: AtomicUsize,
    /// It is not emptied any more: whoever throws something away removes it.
    closed: AtomicBool,
    news: Notify,
    emptying: Arc<Mutex<()>>,
}

impl dist_store::Emptier for Emptier {
    fn thrown_away(&self) -> bool {
        // In this order, and the other one at the end: one of the two sees the other.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        self.news.notify_one();
        !self.closed.load(Ordering::SeqCst)
    }
}

impl Emptier {
    /// Has everybody remove at once what he throws away from now on: work that a stop has cut off
    /// still cleans up.
    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Waits where too much lies in the trash.
    pub(crate) async fn make_way(&self, daemon: &Daemon) {
        if self.waiting.load(Ordering::Relaxed) > MOST {
            empty(daemon).await;
        }
    }

    /// Waits until nothing is being removed any more.
    pub(crate) async fn idle(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.emptying).lock_owned().await
    }
}

/// Empties the trash when something was thrown away, until `stop`, and then once more.
pub(crate) async fn run(daemon: &Daemon, stop: CancellationToken) {
    while stop.run_until_cancelled(daemon.emptier().news.notified()).await.is_some() {
        empty(daemon).await;
    }
    daemon.emptier().close();
    empty(daemon).await;
}

async fn empty(daemon: &Daemon) {
    let emptier = daemon.emptier();
    let alone = emptier.idle().await;
    if emptier.waiting.swap(0, Ordering::SeqCst) == 0 {
        return; // somebody else has done it meanwhile
    }
    let store = daemon.engine().store().clone();
    let work = move || {
        let emptied = dist_snapshot::empty_trash(&store);
        drop(alone);
        emptied
    };
    if let Err(error) = blocking(work).await {
        tracing::warn!(?error, "the trash could not be emptied");
    }
}

#[cfg(test)]
mod tests {
    use dist_store::Emptier as _;

    use super::Emptier;

    #[test]
    fn nothing_is_left_in_the_trash_after_it_was_emptied_for_the_last_time() {
        let emptier = Emptier::default();
        assert!(emptier.thrown_away());
        emptier.close();
        assert!(!emptier.thrown_away());
    }
}
