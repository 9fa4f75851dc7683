//! When a host was heard last, by whichever connection: what makes the silence of one of them
//! suspicious.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// How long a connection that has brought something may be silent when others of the same host have
/// brought something in the meantime.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// For how long others must have gone on to bring something: what was under way to all of them when
/// a link broke does not count.
const MEANTIME: Duration = Duration::from_millis(250);

/// Counts the time since it was made, for all connections to one host.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    origin: Instant,
    last: Arc<AtomicU64>,
}

impl Heard {
    pub(crate) fn new() -> Self {
        Self { origin: Instant::now(), last: Arc::default() }
    }

    /// Notes that something came just now.
    pub(crate) fn note(&self) {
        self.note_at(Instant::now());
    }

    fn note_at(&self, now: Instant) {
        self.last.fetch_max(self.millis(now), Ordering::Relaxed);
    }

    /// Whether something came after one connection had fallen silent.
    pub(crate) fn since(&self, silent: Instant) -> bool {
        self.last.load(Ordering::Relaxed) > self.millis(silent + MEANTIME)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_came_later_counts() {
        let heard = Heard::new();
        let silent = heard.origin + Duration::from_secs(1);
        assert!(!heard.since(silent));
        heard.note_at(silent + MEANTIME);
        assert!(!heard.since(silent), "it was under way");
        heard.clone().note_at(silent + MEANTIME + Duration::from_millis(1));
        assert!(heard.since(silent));
        heard.note_at(silent);
        assert!(heard.since(silent) && !heard.since(silent + SILENCE));
    }
}
