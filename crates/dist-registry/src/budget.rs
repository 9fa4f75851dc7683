//! What all connections of a process may cost together: bytes a second, and bodies at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How much of what was not used up to now may be made up for.
const BURST: Duration = Duration::from_millis(50);

/// A limit that all its clones share.
#[derive(Clone, Default)]
pub struct Budget {
    rate: Option<Arc<Rate>>,
    bodies: Option<(usize, Arc<Semaphore>)>,
}

struct Rate {
    bytes_per_second: u64,
    /// Until when what was taken so far lasts.
    until: Mutex<Instant>,
}

impl Budget {
    /// Allows so many bytes a second, received and sent, and so many bodies with content at once;
    /// `None` is any number.
    #[must_use]
    pub fn new(bytes_per_second: Option<u64>, bodies: Option<usize>) -> Self {
        let rate = bytes_per_second.map(|bytes_per_second| {
            let until = Mutex::new(Instant::now());
            Arc::new(Rate { bytes_per_second: bytes_per_second.max(1), until })
        });
        let bodies = bodies.map(|most| (most.max(1), Arc::new(Semaphore::new(most.max(1)))));
        Self { rate, bodies }
    }

    /// How many bodies with content there may be at once.
    #[must_use]
    pub fn bodies(&self) -> Option<usize> {
        self.bodies.as_ref().map(|(most, _)| *most)
    }

    /// Takes so many bytes, and waits for as long as they last.
    pub(crate) async fn take(&self, bytes: usize) {
        if let Some(rate) = &self.rate {
            tokio::time::sleep_until(rate.take(bytes, Instant::now())).await;
        }
    }

    /// Waits for a body's turn; what is returned is held as long as the body is open.
    pub(crate) async fn body(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes it.
        let (_, places) = self.bodies.clone()?;
        places.acquire_owned().await.ok()
    }
}

impl Rate {
    fn take(&self, bytes: usize, now: Instant) -> Instant {
        let lasts = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *until = (*until).max(now.checked_sub(BURST).unwrap_or(now)) + lasts;
        *until
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Budget")
            .field("bytes_per_second", &self.rate.as_ref().map(|rate| rate.bytes_per_second))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_lasts_as_long_as_the_rate_says() {
        let budget = Budget::new(Some(1_000_000), None);
        let rate = budget.clone().rate.unwrap();
        let mut now = Instant::now();
        let began = now;
        // Whoever takes waits until then, and several do at once.
        for _ in 0..100 {
            let ends: Vec<_> = (0..5).map(|_| rate.take(10_000, now)).collect();
            now = ends[4];
        }
        let took = (now - began).as_secs_f64();
        assert!((4.75..=5.05).contains(&took), "{took}");
        // Time that nobody used is no credit.
        now += Duration::from_secs(60);
        let took = rate.take(2_000_000, now) - now;
        assert!(took >= Duration::from_millis(1950), "{took:?}");
    }

    #[tokio::test]
    async fn bodies_wait_for_each_other() {
        let budget = Budget::new(None, Some(2));
        let (first, second) = (budget.body().await, budget.clone().body().await);
        assert!(first.is_some() && second.is_some());
        let mut third = std::pin::pin!(budget.body());
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        assert!(third.await.is_some());
        assert!(Budget::default().body().await.is_none());
    }
}
