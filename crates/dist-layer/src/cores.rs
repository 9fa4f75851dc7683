//! The processors that layers share while they are unpacked.
//!
//! Work on one thread costs the least: what a chunk's next user needs is still in the cache. So a
//! layer is split over threads only while a core would be idle otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// A number of cores, shared by all clones.
#[derive(Clone, Debug)]
pub struct Cores(Arc<AtomicIsize>);

impl Cores {
    /// As many as this process may use.
    #[must_use]
    pub fn available() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// A number of them; with one nothing is ever split.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self(Arc::new(AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX))))
    }

    /// Takes one for a thread that works in any case.
    pub(crate) fn enter(&self) -> Core {
        self.0.fetch_sub(1, Ordering::Relaxed);
        Core(self.clone())
    }

    /// Takes one that is idle.
    pub(crate) fn idle(&self) -> Option<Core> {
        let take = |idle: isize| (idle > 0).then(|| idle - 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok().map(|_| Core(self.clone()))
    }
}

/// One core, to write options without thinking of them.
impl Default for Cores {
    fn default() -> Self {
        Self::new(1)
    }
}

/// A core in use; given back when dropped.
#[derive(Debug)]
pub(crate) struct Core(Cores);

impl Drop for Core {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_idle_is_given_out() {
        let cores = Cores::new(2);
        let entered = cores.enter();
        let idle = cores.idle().unwrap();
        assert!(cores.clone().idle().is_none());
        let third = cores.enter();
        drop(idle);
        assert!(cores.idle().is_none(), "one more than there are works");
        drop((entered, third));
        let both = (cores.idle().unwrap(), cores.idle().unwrap());
        assert!(cores.idle().is_none());
        drop(both);
    }
}
