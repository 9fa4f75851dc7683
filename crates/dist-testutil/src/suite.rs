//! Says how long each suite took, past the test runner's capture.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

static TOTALS: Mutex<BTreeMap<&'static str, (u32, Duration)>> = Mutex::new(BTreeMap::new());

/// Prints its suite's running total when it is dropped.
#[derive(Debug)]
pub struct Timed {
    suite: &'static str,
    since: Instant,
}

/// Begins one test of `suite`.
pub fn timed(suite: &'static str) -> Timed {
    Timed { suite, since: Instant::now() }
}

/// Whether the long sweeps run whole (`make torture`) and not sampled.
pub fn torture() -> bool {
    std::env::var_os("DIST_TORTURE").is_some_and(|value| !value.is_empty())
}

impl Drop for Timed {
    fn drop(&mut self) {
        let took = self.since.elapsed();
        let mut totals = TOTALS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let total = totals.entry(self.suite).or_default();
        total.0 += 1;
        total.1 += took;
        let line = format!(
            "suite {}: {:.1} s after {} of its tests (this one: {:.1} s)\n",
            self.suite,
            total.1.as_secs_f64(),
            total.0,
            took.as_secs_f64()
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
}
