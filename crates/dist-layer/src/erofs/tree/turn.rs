//! One large tree at a time in a process, whoever unpacks: what many layers take together is bounded
//! by one's limit and a small part for each other.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use dist_core::{Cancel, Result};

/// How often who waits looks whether it shall stop: nothing wakes it for that.
const LOOK: Duration = Duration::from_millis(100);

/// Whether there is a large one.
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

/// The right to be large; given back when dropped.
#[derive(Debug)]
pub(super) struct Turn(());

impl Turn {
    /// Waits for it. Whoever has it needs nothing of who waits: a layer is unpacked without the others.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn wait(cancel: &Cancel) -> Result<Self> {
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            cancel.check()?;
            let woken = FREE.wait_timeout(taken, LOOK);
            taken = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        *taken = true;
        Ok(Self(()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREE.notify_one();
    }
}
