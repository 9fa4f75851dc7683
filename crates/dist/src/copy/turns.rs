//! Blobs and manifests that several copies want at once: one sends each, and the others find it there.
//!
//! It is less to do, and docker-registry does not bear that a manifest is put while an index that names
//! it is: it may read a link that is being written.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use dist_core::Digest;
use tokio::sync::OwnedMutexGuard;

type Place = Arc<tokio::sync::Mutex<Known>>;

/// Repositories of one registry.
#[derive(Default)]
struct Known {
    /// Those that the blob was sent to.
    sent: BTreeSet<String>,
    /// Those that may have it.
    likely: Vec<String>,
}

/// Who may send what to which registry.
#[derive(Default)]
pub(crate) struct Turns(Mutex<HashMap<(String, Digest), Place>>);

/// The right to send one, until it is dropped.
pub(super) struct Turn(OwnedMutexGuard<Known>);

impl Turns {
    /// Notes that a repository may have a blob, before anything is copied.
    pub(crate) fn suppose(&mut self, host: &str, digest: &Digest, repository: String) {
        let places = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry((host.to_owned(), *digest)).or_default();
        if let Some(known) = Arc::get_mut(place) {
            known.get_mut().likely.push(repository);
        }
    }

    /// Waits until nobody else sends this to this registry.
    pub(super) async fn wait(&self, host: &str, digest: &Digest) -> Turn {
        let place = {
            let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(places.entry((host.to_owned(), *digest)).or_default())
        };
        Turn(place.lock_owned().await)
    }
}

impl Turn {
    /// Whether it was sent to a repository.
    pub(super) fn was_sent(&self, repository: &str) -> bool {
        self.0.sent.contains(repository)
    }

    /// The repositories that may have the blob, the best first.
    pub(super) fn repositories(&self) -> Vec<String> {
        self.0.sent.iter().chain(&self.0.likely).cloned().collect()
    }

    /// Notes that a repository has it.
    pub(super) fn sent(mut self, repository: &str) {
        self.0.sent.insert(repository.to_owned());
    }
}
