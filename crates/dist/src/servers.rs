//! What is known of the hosts that blobs come from, and when one more connection to one is worth
//! having.
//!
//! A large blob begins on one connection. Where its reader waits for bytes most of the time, a
//! second connection is tried: it is kept if all that comes from the host comes faster by it, and
//! one or two more are tried then. What made nothing faster is given up at the end of its part, and
//! nothing is tried again for a while. So a host whose connections are slow one by one is used by
//! several, and a link that is full, or a reader that is busy, is left to one.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a rate is measured at least.
const WINDOW: Duration = Duration::from_millis(350);

/// How long connections may take to get up to speed, at least; their set-up time where that is longer.
const SETTLE: Duration = Duration::from_millis(150);

/// How long new connections may take to bring their first byte.
const SLOWEST_START: Duration = Duration::from_secs(3);

/// How long nothing is tried after the first failure; it doubles from there.
const PAUSE: Duration = Duration::from_secs(10);

/// The longest such pause.
const MAX_PAUSE: Duration = Duration::from_secs(160);

/// How much faster all must come for new connections to be kept, where twice of that is possible.
const GAIN: f64 = 0.15;

/// The share of the time that a reader must wait for the network, before it gets its second
/// connection and before it gets more.
const WAITS: (f64, f64) = (0.5, 0.25);

/// Two rates that differ by less are the same.
const STEADY: f64 = 0.2;

/// A blob that comes within so many seconds as it is gets no further connection.
pub(crate) const WORTH_SECONDS: f64 = 2.0;

/// The smallest rest of a blob that is worth it.
pub(crate) const WORTH_BYTES: u64 = 32 << 20;

/// The most connections beyond the first of each blob, to all hosts: each may hold a megabyte.
const MOST_EXTRA: usize = 12;

/// All hosts that one process fetches from.
#[derive(Debug)]
pub(crate) struct Servers {
    /// The most connections to one host for blobs.
    most: usize,
    extra: Arc<AtomicUsize>,
    known: Mutex<HashMap<String, Arc<Server>>>,
}

impl Servers {
    /// Allows `most` connections to each host; 1 is never more than one for each blob.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, extra: Arc::default(), known: Mutex::default() }
    }

    /// The host of this name.
    pub(crate) fn find(&self, name: &str) -> Arc<Server> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || Arc::new(Server::new(self.most, Arc::clone(&self.extra)));
        Arc::clone(known.entry(name.to_owned()).or_insert_with(make))
    }
}

/// One host.
#[derive(Debug)]
pub(crate) struct Server {
    most: usize,
    extra: Arc<AtomicUsize>,
    came: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bodies that are open.
    streams: usize,
    /// Somebody tries more of them just now.
    trying: bool,
    /// How many were worth having.
    helped: usize,
    /// More are not tried before.
    not_before: Option<Instant>,
    pause: Option<Duration>,
    /// It has no parts to give.
    whole_only: bool,
}

impl Server {
    fn new(most: usize, extra: Arc<AtomicUsize>) -> Self {
        Self { most, extra, came: AtomicU64::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a body.
    pub(crate) fn stream(self: &Arc<Self>) -> Stream {
        self.state().streams += 1;
        Stream(Arc::clone(self))
    }

    /// Whether blobs may come in parts.
    pub(crate) fn has_parts(&self) -> bool {
        self.most > 1 && !self.state().whole_only
    }

    /// Notes that it has no parts to give.
    pub(crate) fn is_whole_only(&self) {
        self.state().whole_only = true;
    }

    /// Notes that it wants fewer requests.
    pub(crate) fn is_busy(&self) {
        self.state().calm(Instant::now());
    }
}

impl State {
    /// Nothing is tried for a while.
    fn calm(&mut self, now: Instant) {
        let pause = self.pause.map_or(PAUSE, |pause| (pause * 2).min(MAX_PAUSE));
        self.pause = Some(pause);
        self.not_before = Some(now + pause);
    }
}

/// An open body of a host.
#[derive(Debug)]
pub(crate) struct Stream(Arc<Server>);

impl Stream {
    /// Counts what came.
    pub(crate) fn came(&self, bytes: usize) {
        self.0.came.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.state().streams -= 1;
    }
}

/// The right to a number of connections beyond the first.
#[derive(Debug)]
struct Extra {
    all: Arc<AtomicUsize>,
    count: usize,
}

impl Extra {
    /// Takes as many of `wanted` as there are.
    fn take(&mut self, wanted: usize) -> usize {
        let mut taken = 0;
        let _ = self.all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |all| {
            taken = wanted.min(MOST_EXTRA.saturating_sub(all));
            Some(all + taken)
        });
        self.count += taken;
        taken
    }

    fn give_back(&mut self, count: usize) {
        let count = count.min(self.count);
        self.count -= count;
        self.all.fetch_sub(count, Ordering::Relaxed);
    }
}

impl Drop for Extra {
    fn drop(&mut self) {
        self.give_back(self.count);
    }
}

/// How a blob is doing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    /// Its connections.
    pub(crate) connections: usize,
    /// Those of them that have not brought a byte yet.
    pub(crate) silent: usize,
    /// Its bytes that came, on all of them.
    pub(crate) came: u64,
    /// Its bytes that are still to come.
    pub(crate) missing: u64,
}

/// What to do about a blob's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Advice {
    /// Have so many.
    Grow {
        /// The number.
        to: usize,
        /// How many bytes one of them brings in a second.
        rate: u64,
    },
    /// Go back to so many.
    Shrink {
        /// The number.
        to: usize,
    },
}

/// Watches one blob come, and decides how many connections it has.
#[derive(Debug)]
pub(crate) struct Pace {
    server: Arc<Server>,
    extra: Extra,
    phase: Phase,
    since: Instant,
    /// What had come from the host, and of the blob, at `since`.
    came: (u64, u64),
    waited: Duration,
    /// The host's rate in the window before.
    last: Option<f64>,
    /// Whether what was tried last made all as much faster as it could.
    in_full: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Watching,
    /// New connections are being made.
    Making(Trial),
    /// They get up to speed until then.
    Settling(Trial, Instant),
    Measuring(Trial),
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    began: Instant,
    /// The host's rate before.
    rate: f64,
    /// Connections of the blob.
    from: usize,
    to: usize,
    /// Connections of the host before.
    streams: usize,
}

impl Pace {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        let extra = Extra { all: Arc::clone(&server.extra), count: 0 };
        let came = (server.came.load(Ordering::Relaxed), 0);
        let (since, waited) = (Instant::now(), Duration::ZERO);
        let phase = Phase::Watching;
        Self { server, extra, phase, since, came, waited, last: None, in_full: false }
    }

    /// Counts time for which the reader had nothing to do.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Looks at the clock; says what to do when there is something.
    pub(crate) fn look(&mut self, now: Instant, blob: Standing) -> Option<Advice> {
        match self.phase {
            Phase::Making(trial) => {
                let took = now.duration_since(trial.began);
                if took > SLOWEST_START || blob.connections < trial.to {
                    return Some(self.fail(trial, now, blob));
                }
                if blob.silent == 0 {
                    self.phase = Phase::Settling(trial, now + took.clamp(SETTLE, SLOWEST_START));
                }
                None
            }
            Phase::Settling(trial, until) => {
                if now >= until {
                    self.phase = Phase::Measuring(trial);
                    self.begin_window(now, blob);
                }
                None
            }
            Phase::Measuring(trial) => {
                let measured = self.measure(now, blob)?;
                self.judge(trial, measured, now, blob)
            }
            Phase::Watching => {
                let before = self.last;
                let (rate, mine, waits) = self.measure(now, blob)?;
                self.last = Some(rate);
                let steady = before.is_some_and(|before| (rate - before).abs() <= STEADY * before);
                if steady { self.attempt(now, (rate, mine, waits), blob) } else { None }
            }
        }
    }

    fn begin_window(&mut self, now: Instant, blob: Standing) {
        self.since = now;
        self.came = (self.server.came.load(Ordering::Relaxed), blob.came);
        self.waited = Duration::ZERO;
    }

    /// The rates of the host and of the blob, in bytes a second, and the share of time that was
    /// spent waiting, at the end of a window; `None` within one.
    fn measure(&mut self, now: Instant, blob: Standing) -> Option<(f64, f64, f64)> {
        let time = now.duration_since(self.since);
        if time < WINDOW {
            return None;
        }
        let (all, mine) = self.came;
        let seconds = time.as_secs_f64();
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let rates = (rate(self.server.came.load(Ordering::Relaxed), all), rate(blob.came, mine));
        let waits = self.waited.as_secs_f64() / seconds;
        self.begin_window(now, blob);
        Some((rates.0, rates.1, waits))
    }

    /// Begins to try more connections, where that is worth it and the server allows it.
    fn attempt(
        &mut self,
        now: Instant,
        (rate, mine, waits): (f64, f64, f64),
        blob: Standing,
    ) -> Option<Advice> {
        let least = if blob.connections > 1 { WAITS.1 } else { WAITS.0 };
        let worth = blob.missing >= WORTH_BYTES && blob.missing as f64 >= mine * WORTH_SECONDS;
        if !worth || waits < least || mine < 1.0 {
            return None;
        }
        let mut state = self.server.state();
        let calm = state.not_before.is_some_and(|until| now < until);
        let free = self.server.most.saturating_sub(state.streams);
        if state.trying || state.whole_only || calm || free == 0 {
            return None;
        }
        let wanted = match state.helped.saturating_sub(state.streams) {
            0 if self.in_full => blob.connections,
            0 => 1,
            known => known,
        };
        let more = self.extra.take(wanted.min(free));
        if more == 0 {
            return None;
        }
        state.trying = true;
        let (from, to) = (blob.connections, blob.connections + more);
        let streams = state.streams;
        drop(state);
        tracing::debug!(from, to, rate, "trying more connections");
        self.phase = Phase::Making(Trial { began: now, rate, from, to, streams });
        Some(Advice::Grow { to, rate: (mine / from.max(1) as f64) as u64 })
    }

    /// Keeps what made all faster.
    fn judge(
        &mut self,
        trial: Trial,
        (rate, mine, waits): (f64, f64, f64),
        now: Instant,
        blob: Standing,
    ) -> Option<Advice> {
        let (before, added) = (trial.streams.max(1) as f64, (trial.to - trial.from) as f64);
        let possible = added / before;
        let gain = rate / trial.rate - 1.0;
        tracing::debug!(from = trial.from, to = trial.to, rate, gain, waits, "tried");
        if gain < GAIN.min(possible / 2.0) {
            return Some(self.fail(trial, now, blob));
        }
        self.in_full = gain >= 0.7 * possible;
        self.phase = Phase::Watching;
        self.last = Some(rate);
        let mut state = self.server.state();
        state.trying = false;
        state.pause = None;
        state.helped = state.helped.max(trial.streams + trial.to - trial.from);
        drop(state);
        // The next step needs no other window than this.
        self.attempt(now, (rate, mine, waits), blob)
    }

    /// Goes back to what was before a trial.
    fn fail(&mut self, trial: Trial, now: Instant, blob: Standing) -> Advice {
        self.extra.give_back(trial.to - trial.from);
        self.phase = Phase::Watching;
        (self.in_full, self.last) = (false, None);
        self.begin_window(now, blob);
        let mut state = self.server.state();
        state.trying = false;
        state.helped = state.helped.min(trial.streams);
        state.calm(now);
        Advice::Shrink { to: trial.from }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if !matches!(self.phase, Phase::Watching) {
            self.server.state().trying = false;
        }
    }
}
