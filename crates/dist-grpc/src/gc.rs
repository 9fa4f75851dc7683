//! When garbage is collected.

use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::Result;
use dist_store::{Collected, GcOptions, Store};
use tokio::sync::Mutex;

use crate::daemon::blocking;

/// Collections of one store, never two at once.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    /// Objects that were deleted since the last collection began.
    deletions: AtomicU64,
    /// Changes of the metadata since then, deletions among them.
    mutations: AtomicU64,
    running: Mutex<()>,
}

impl Collector {
    /// Takes note of a change of the metadata that deleted so many objects.
    pub(crate) fn mutated(&self, deletions: u64) {
        self.deletions.fetch_add(deletions, Ordering::Relaxed);
        self.mutations.fetch_add(1, Ordering::Relaxed);
    }

    /// Collects all that is garbage now.
    pub(crate) async fn collect(&self, store: Store) -> Result<()> {
        let _running = self.running.lock().await;
        self.deletions.store(0, Ordering::Relaxed);
        self.mutations.store(0, Ordering::Relaxed);
        blocking(move || dist::collect(&store, GcOptions::default(), &mut Collected::default()))
            .await
    }
}
