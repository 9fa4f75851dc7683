//! How many requests a host gets at once: all, until it says that there are too many.
//!
//! An answer 429 halves the number that are under way, and every answer that is none of these lets a
//! fraction of one more in, one more for each round of them. While a host asks to wait
//! (`Retry-After`), nobody asks it anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// With so many at once there is no limit any more.
const MANY: f64 = 64.0;

pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    under_way: usize,
    /// How many may be.
    most: Option<f64>,
    /// Nothing is asked before.
    not_before: Option<Instant>,
}

impl Default for Gate {
    fn default() -> Self {
        let state = State { under_way: 0, most: None, not_before: None };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }
}

/// A request that is under way.
pub(crate) struct Pass<'a>(&'a Gate);

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there may be one more request; for what the host asks to wait only where somebody
    /// is patient.
    pub(crate) async fn enter(&self, patient: bool) -> Pass<'_> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let mut state = self.state();
                let until = state.not_before.filter(|until| patient && *until > Instant::now());
                if until.is_none() && state.most.is_none_or(|most| (state.under_way as f64) < most)
                {
                    state.under_way += 1;
                    return Pass(self);
                }
                until
            };
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => changed.await,
            }
        }
    }

    /// Notes an answer that was not that there are too many.
    pub(crate) fn went_well(&self) {
        let mut state = self.state();
        let most = state.most.map(|most| most + 1.0 / most);
        state.most = most.filter(|most| *most < MANY);
    }

    /// Notes that there are too many, and for how long nothing is to be asked.
    pub(crate) fn too_many(&self, wait: Option<Duration>) {
        let mut state = self.state();
        let now = Instant::now();
        // Those that were sent together are told together: they count as one.
        if state.not_before.is_some_and(|until| until > now) {
            return;
        }
        let most = state.most.unwrap_or(MANY).min(state.under_way.max(1) as f64) / 2.0;
        state.most = Some(most.max(1.0));
        state.not_before = wait.map(|wait| now + wait);
        tracing::debug!(most, ?wait, "the host wants fewer requests");
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state().under_way -= 1;
        self.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(gate: &Gate) -> Option<f64> {
        gate.state().most
    }

    #[tokio::test]
    async fn too_many_are_halved_and_grow_again() {
        let gate = Gate::default();
        let mut passes = Vec::new();
        for _ in 0..8 {
            passes.push(gate.enter(true).await);
        }
        let (wait, began) = (Duration::from_millis(200), Instant::now());
        gate.too_many(Some(wait));
        gate.too_many(Some(wait));
        assert_eq!(most(&gate), Some(4.0));
        passes.clear();
        drop(gate.enter(false).await); // somebody with another host to go to
        for _ in 0..4 {
            passes.push(gate.enter(true).await);
        }
        assert!(began.elapsed() >= wait, "it was asked to wait");
        assert!(futures_util::poll!(std::pin::pin!(gate.enter(true))).is_pending());
        for _ in 0..4 {
            gate.went_well();
        }
        passes.push(gate.enter(true).await);
        assert!(most(&gate).is_some_and(|most| (4.8..5.0).contains(&most)));
        passes.clear();
        for _ in 0..5000 {
            gate.went_well();
        }
        assert_eq!(most(&gate), None);
    }

    #[tokio::test]
    async fn one_is_always_let_in_and_the_next_one_after_it() {
        let gate = Gate::default();
        for _ in 0..10 {
            gate.too_many(None);
        }
        let pass = gate.enter(true).await;
        let mut next = std::pin::pin!(gate.enter(true));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(pass);
        drop(next.await);
    }
}
