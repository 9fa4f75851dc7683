//! The processors that layers share while they are unpacked.
//!
//! Work on one thread costs the least: what a chunk's next user needs is still in the cache. So a
//! layer is split over threads only while a core would be idle otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// Cores that one layer keeps busy.
const LAYER: usize = 2;

/// Threads at most, of all layers together, that inflate ahead for others: each has some MiB, and
/// more would gain little, as hashing what is inflated can't be divided.
pub(crate) const HELPERS: usize = 2;

/// A number of cores, shared by all clones.
#[derive(Clone, Debug)]
pub struct Cores {
    idle: Arc<AtomicIsize>,
    helpers: Arc<AtomicIsize>,
    count: usize,
}

impl Cores {
    /// As many as this process may use.
    #[must_use]
    pub fn available() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }

    /// A number of them; with one nothing is ever split.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let counter =
            |count| Arc::new(AtomicIsize::new(isize::try_from(count).unwrap_or(isize::MAX)));
        let helpers = HELPERS.min(count.saturating_sub(LAYER));
        Self { idle: counter(count), helpers: counter(helpers), count }
    }

    /// Takes one for a thread that works in any case.
    pub(crate) fn enter(&self) -> Core {
        self.idle.fetch_sub(1, Ordering::Relaxed);
        Core(Arc::clone(&self.idle))
    }

    /// Takes one that is idle.
    pub(crate) fn idle(&self) -> Option<Core> {
        take(&self.idle)
    }

    /// Whether there are more than one layer keeps busy.
    pub(crate) fn may_help(&self) -> bool {
        self.count > LAYER
    }

    /// Takes one of the [`HELPERS`], if a core is idle now. Working takes a core in addition.
    pub(crate) fn helper(&self) -> Option<Core> {
        let idle = self.idle.load(Ordering::Relaxed) > 0;
        if idle { take(&self.helpers) } else { None }
    }
}

fn take(from: &Arc<AtomicIsize>) -> Option<Core> {
    let take = |left: isize| (left > 0).then(|| left - 1);
    let taken = from.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    taken.ok().map(|_| Core(Arc::clone(from)))
}

/// One core, to write options without thinking of them.
impl Default for Cores {
    fn default() -> Self {
        Self::new(1)
    }
}

/// What is in use; given back when dropped.
#[derive(Debug)]
pub(crate) struct Core(Arc<AtomicIsize>);

impl Drop for Core {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
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

    #[test]
    fn helpers_are_few_and_need_idle_cores() {
        assert!(!Cores::new(1).may_help() && !Cores::new(2).may_help());
        for (count, most) in [(1, 0), (2, 0), (3, 1), (4, 2), (8, HELPERS)] {
            let cores = Cores::new(count);
            let helpers: Vec<_> = std::iter::from_fn(|| cores.clone().helper()).collect();
            assert_eq!(helpers.len(), most, "{count} cores");
        }
        let cores = Cores::new(8);
        assert!(cores.may_help());
        let busy: Vec<_> = std::iter::from_fn(|| cores.idle()).collect();
        assert_eq!(busy.len(), 8, "a helper that waits takes no core");
        assert!(cores.helper().is_none());
    }
}
