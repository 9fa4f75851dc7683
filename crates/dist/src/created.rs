//! Blobs are told of as made when they are durable, and not before.

use std::sync::{Arc, Mutex, PoisonError};

use dist_core::{Digest, Event, Progress};

/// Progress in which [`Event::Created`] waits until the blobs are durable, or the operation ends.
pub(crate) struct Created {
    progress: Arc<dyn Progress>,
    waiting: Mutex<Vec<(Digest, u64)>>,
}

impl Created {
    /// Passes everything else on at once.
    pub(crate) fn withheld(progress: Arc<dyn Progress>) -> Self {
        Self { progress, waiting: Mutex::default() }
    }

    /// Tells of those that were made until now.
    pub(crate) fn tell(&self) {
        let waiting =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for (digest, size) in waiting {
            self.progress.event(Event::Created { digest, size });
        }
    }
}

impl Progress for Created {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Created { digest, size } => {
                self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((digest, size));
            }
            event => self.progress.event(event),
        }
    }
}

impl Drop for Created {
    /// What an operation that failed has brought is there until the next one, or a power cut.
    fn drop(&mut self) {
        self.tell();
    }
}
