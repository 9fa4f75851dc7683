//! One blob over several connections.
//!
//! ```text
//! data  [ taken up ][ there ][ worker 1 ··· )[ there ][ worker 2 ··· )[ a gap ··········· ]
//!                   ^ offset: the reader                              ^ claimed next
//! ```
//!
//! Each worker has one connection and claims one gap after the other, in their order; what it
//! receives goes into the ingest's file at its place. The reader takes it up from there in order, so
//! that the page cache is all the memory that bytes wait in. Where nothing is left to claim, the
//! longest claim is divided. A claim whose connection fails or is silent while others are not is
//! simply a gap again.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dist_core::{Descriptor, Error, ErrorKind, Event, Extents, Parts, Progress, Result};
use tokio::task::AbortHandle;

use crate::blocking::{Body, Downloads};
use crate::servers::Standing;

/// The shortest and the longest part that is asked for while there are several connections.
const LENGTHS: (u64, u64) = (4 << 20, 64 << 20);

/// The shortest part near the end of a blob, and how many of them make one of the usual length.
const LAST_LENGTH: (u64, u64) = (1 << 20, 6);

/// How many seconds a part should take.
const PART_SECONDS: f64 = 1.2;

/// A claim whose rest is shorter is not divided.
const DIVIDED: u64 = 4 << 20;

/// How long a connection may be silent while others bring something.
const SILENCE: Duration = Duration::from_secs(5);

/// What was heard so lately counts as not silent.
const LATELY: Duration = Duration::from_secs(1);

/// How long the reader waits before it looks around.
const LOOK: Duration = Duration::from_millis(100);

/// Failures without a byte in between after which the workers give up. What is missing is then asked
/// for as if there were no parts: that finds out, and tells, what is wrong.
const FAILURES: u32 = 4;

/// How much must come on a connection before earlier failures are forgotten.
const PROGRESS: u64 = 64 << 10;

/// The pause of a worker after a failure; it doubles with each.
const PAUSE: Duration = Duration::from_millis(100);

/// What parts are part of.
pub(crate) struct Whole {
    pub(crate) desc: Descriptor,
    pub(crate) downloads: Downloads,
    pub(crate) parts: Arc<dyn Parts>,
    pub(crate) progress: Arc<dyn Progress>,
}

/// The workers of one blob. Dropping it ends them.
pub(crate) struct Crew(Arc<Shared>);

struct Shared {
    whole: Whole,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    claims: Vec<Claim>,
    /// How many workers there should be.
    wanted: usize,
    /// How many there are.
    workers: usize,
    /// How long a part is.
    length: u64,
    /// The bytes that the workers brought.
    came: u64,
    /// Counts what may interest the reader.
    news: u64,
    failures: u32,
    /// What nobody can go on after.
    failed: Option<Error>,
    closed: bool,
}

/// What one connection is to bring.
struct Claim {
    id: u64,
    /// The next byte.
    at: u64,
    end: u64,
    /// How far the connection would bring it.
    asked: u64,
    brought: u64,
    heard: Option<Instant>,
    began: Instant,
    stopper: AbortHandle,
}

/// What a worker has come to.
enum Reached {
    Nothing,
    /// The end of what it asked for.
    End,
    /// What somebody else brings.
    Another,
}

/// What the reader may find when it has waited.
pub(crate) enum Found {
    /// It should look again.
    Perhaps,
    /// Nobody is at work any more.
    Nobody,
}

impl Crew {
    /// Begins with a body that brings all from `at` on, where there is one, and one worker.
    pub(crate) fn new(whole: Whole, body: Option<(Body, u64)>) -> Self {
        let state = State {
            claims: Vec::new(),
            wanted: 1,
            workers: 0,
            length: LENGTHS.0,
            came: 0,
            news: 0,
            failures: 0,
            failed: None,
            closed: false,
        };
        let size = whole.desc.size;
        let shared = Arc::new(Shared { whole, state: Mutex::new(state), changed: Condvar::new() });
        let first = body.map(|(body, at)| {
            let mut state = shared.state();
            let id = state.add(at..size, body.stopper());
            if let Some(claim) = state.claims.last_mut() {
                claim.heard = Some(Instant::now());
            }
            (id, body)
        });
        shared.hire(first);
        Self(shared)
    }

    /// Has so many workers, each of which is expected to bring `rate` bytes a second.
    pub(crate) fn grow(&self, wanted: usize, rate: u64) {
        let more = {
            let mut state = self.0.state();
            state.length = ((rate as f64 * PART_SECONDS) as u64).clamp(LENGTHS.0, LENGTHS.1);
            state.wanted = wanted;
            wanted.saturating_sub(state.workers)
        };
        for _ in 0..more {
            self.0.hire(None);
        }
    }

    /// Has no more than so many workers, as soon as the others have brought what they claimed.
    /// Those that brought nothing so far end at once.
    pub(crate) fn shrink(&self, wanted: usize) {
        let mut state = self.0.state();
        state.wanted = wanted;
        let excess = state.workers.saturating_sub(wanted);
        state.claims.iter().filter(|claim| claim.heard.is_none()).take(excess).for_each(|claim| {
            claim.stopper.abort();
        });
    }

    /// How the blob is doing.
    pub(crate) fn standing(&self) -> Standing {
        let there = self.0.whole.parts.there().bytes();
        let state = self.0.state();
        let heard = state.claims.iter().filter(|claim| claim.heard.is_some()).count();
        Standing {
            connections: state.workers,
            silent: state.workers - heard.min(state.workers),
            came: state.came,
            missing: self.0.whole.desc.size.saturating_sub(there),
        }
    }

    /// A number that changes when something came.
    pub(crate) fn news(&self) -> u64 {
        self.0.state().news
    }

    /// Waits until there are other news than `seen`, for a moment at most.
    ///
    /// # Errors
    /// `Storage` where something could not be written.
    pub(crate) fn wait(&self, seen: u64) -> Result<Found> {
        let mut state = self.0.state();
        if state.news == seen && state.workers > 0 && state.failed.is_none() {
            state = self.0.wait(state, LOOK);
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if state.news == seen && state.workers == 0 {
            return Ok(Found::Nobody);
        }
        state.drop_silent(Instant::now());
        Ok(Found::Perhaps)
    }
}

impl Drop for Crew {
    /// Nobody is left at work when this returns.
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.claims.iter().for_each(|claim| claim.stopper.abort());
        self.0.changed.notify_all();
        while state.workers > 0 {
            state = self.0.wait(state, LOOK);
        }
    }
}

impl State {
    fn add(&mut self, range: Range<u64>, stopper: AbortHandle) -> u64 {
        let id = self.claims.last().map_or(0, |last| last.id + 1);
        let Range { start: at, end } = range;
        let (asked, heard, began) = (end, None, Instant::now());
        self.claims.push(Claim { id, at, end, asked, brought: 0, heard, began, stopper });
        id
    }

    fn take(&mut self, id: u64) -> Option<Claim> {
        let place = self.claims.iter().position(|claim| claim.id == id)?;
        Some(self.claims.remove(place))
    }

    /// Gives connections back what was taken from them and has not come.
    fn reopen(&mut self, there: &Extents, size: u64) {
        let mut known = there.clone();
        for claim in &self.claims {
            known.insert(claim.at..claim.end);
        }
        for claim in &mut self.claims {
            if known.end_at(claim.end) == claim.end {
                let end = known.next_from(claim.end).unwrap_or(size);
                claim.end = end.min(claim.asked).max(claim.end);
            }
        }
    }

    fn claim(&mut self, id: u64) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| claim.id == id)
    }

    /// Ends connections that are silent although others are not.
    fn drop_silent(&mut self, now: Instant) {
        let since = |claim: &Claim| now.duration_since(claim.heard.unwrap_or(claim.began));
        let lively = |claim: &Claim| claim.heard.is_some() && since(claim) < LATELY;
        if self.claims.iter().any(lively) {
            self.claims.iter().filter(|claim| since(claim) > SILENCE).for_each(|claim| {
                tracing::debug!(at = claim.at, "a part is silent");
                claim.stopper.abort();
            });
        }
    }

    /// Chooses what a free worker brings next; `None` where all is claimed and nothing is worth
    /// being divided.
    fn choose(&mut self, mut known: Extents, size: u64) -> Option<Range<u64>> {
        for claim in &self.claims {
            known.insert(claim.at..claim.end);
        }
        let gap = match known.gap(0, size) {
            Some(gap) => gap,
            None => self.divide()?,
        };
        if self.wanted <= 1 {
            return Some(gap);
        }
        // The parts get shorter towards the end, so that all connections end at about the same time.
        let unclaimed = size.saturating_sub(known.bytes()).max(gap.end - gap.start);
        let least = LAST_LENGTH.0.max(self.length / LAST_LENGTH.1);
        let share = (unclaimed / (2 * self.wanted as u64)).max(least);
        let end = gap.end.min(gap.start + self.length.min(share));
        // A rest that is not worth a request of its own goes along.
        let end = if gap.end - end < least / 2 { gap.end } else { end };
        Some(gap.start..end)
    }

    /// Takes the rest of the longest claim away from it, but for what it brings before a new
    /// connection is of use.
    fn divide(&mut self) -> Option<Range<u64>> {
        let length = self.length;
        let longest = self.claims.iter_mut().max_by_key(|claim| claim.end - claim.at)?;
        let rest = longest.end - longest.at;
        if rest < DIVIDED {
            return None;
        }
        let kept = if rest > 2 * length { length } else { rest / 2 };
        let end = std::mem::replace(&mut longest.end, longest.at + kept);
        Some(longest.end..end)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Starts a worker, with what it begins with if that has begun already.
    fn hire(self: &Arc<Self>, first: Option<(u64, Body)>) {
        self.state().workers += 1;
        let worker = Worker(Arc::clone(self));
        self.whole.downloads.spawn(move || worker.run(first));
    }
}

/// Counted as long as it lives, whether it gets to run or not.
struct Worker(Arc<Shared>);

impl Drop for Worker {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.workers -= 1;
        state.news += 1;
        drop(state);
        self.0.changed.notify_all();
    }
}

/// What a worker does when a claim has ended.
#[derive(PartialEq, Eq)]
enum Next {
    Claim,
    Leave,
}

impl Worker {
    fn run(self, mut first: Option<(u64, Body)>) {
        while let Some((id, body)) = first.take().or_else(|| self.begin()) {
            if self.bring(id, body) == Next::Leave {
                return;
            }
        }
    }

    /// Claims a gap and asks for it; `None` where there is nothing left to do.
    fn begin(&self) -> Option<(u64, Body)> {
        let whole = &self.0.whole;
        let mut state = self.0.state();
        if state.closed || state.failed.is_some() || state.workers > state.wanted {
            return None;
        }
        let range = state.choose(whole.parts.there(), whole.desc.size)?;
        tracing::debug!(start = range.start, end = range.end, "asking for a part");
        let body = whole.downloads.start_part(&whole.desc, range.clone());
        Some((state.add(range, body.stopper()), body))
    }

    /// Brings what was claimed.
    fn bring(&self, id: u64, mut body: Body) -> Next {
        loop {
            let chunk = match body.next_chunk() {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return self.end(id, None),
                Err(error) => return self.end(id, Some(error)),
            };
            match self.write(id, chunk) {
                Ok(Reached::Nothing) => {}
                Ok(Reached::End) => {
                    // Read to its end, a connection is used again.
                    let _ = body.next_chunk();
                    return self.end(id, None);
                }
                Ok(Reached::Another) => return self.end(id, None),
                Err(error) => {
                    let mut state = self.0.state();
                    state.take(id);
                    // After the reader has gone nothing can be written, and nobody minds.
                    if error.kind() != ErrorKind::Cancelled {
                        state.failed.get_or_insert(error);
                    }
                    return Next::Leave;
                }
            }
        }
    }

    /// Puts a chunk in its place, as far as it was claimed.
    fn write(&self, id: u64, mut chunk: Bytes) -> Result<Reached> {
        let (shared, whole) = (&*self.0, &self.0.whole);
        let at = {
            let mut state = shared.state();
            let Some(claim) = state.claim(id) else { return Err(Error::cancelled()) };
            let left = claim.end.saturating_sub(claim.at);
            chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            claim.at
        };
        let new = whole.parts.write_at(at, &chunk)?;
        whole.progress.event(Event::Advanced { digest: whole.desc.digest, bytes: new });
        let mut state = shared.state();
        state.came += new;
        state.news += 1;
        let Some(claim) = state.claim(id) else { return Err(Error::cancelled()) };
        claim.at += chunk.len() as u64;
        claim.brought += chunk.len() as u64;
        claim.heard = Some(Instant::now());
        let reached = match claim.end {
            end if claim.at < end => Reached::Nothing,
            end if end == claim.asked => Reached::End,
            _ => Reached::Another,
        };
        if claim.brought >= PROGRESS {
            state.failures = 0;
        }
        drop(state);
        shared.changed.notify_all();
        Ok(reached)
    }

    /// Gives a claim back: what of it did not come is a gap again.
    fn end(&self, id: u64, error: Option<Error>) -> Next {
        let (shared, downloads) = (&*self.0, &self.0.whole.downloads);
        let mut state = shared.state();
        let claim = state.take(id);
        if state.closed || downloads.check().is_err() {
            return Next::Leave;
        }
        match error {
            None if claim.is_some_and(|claim| claim.brought > 0) => return Next::Claim,
            None => {}
            Some(error) => {
                tracing::debug!(?error, "a part did not come whole");
                match error.kind() {
                    ErrorKind::Unsupported => {
                        if let Some(server) = downloads.server() {
                            server.is_whole_only();
                        }
                        state.wanted = 1;
                        state.reopen(&shared.whole.parts.there(), shared.whole.desc.size);
                        return Next::Leave;
                    }
                    ErrorKind::Busy => {
                        if let Some(server) = downloads.server() {
                            server.is_busy();
                        }
                        state.wanted = state.wanted.min(state.workers.saturating_sub(1)).max(1);
                        return Next::Leave;
                    }
                    ErrorKind::Corrupt => {
                        state.failed.get_or_insert(error);
                        return Next::Leave;
                    }
                    // It was ended because it was silent, or not needed.
                    ErrorKind::Cancelled if state.workers > state.wanted => return Next::Leave,
                    _ => {}
                }
            }
        }
        state.failures += 1;
        if state.failures >= FAILURES {
            state.wanted = 0;
            return Next::Leave;
        }
        let until = Instant::now() + PAUSE * (1 << state.failures);
        while !state.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Claim;
            }
            state = shared.wait(state, left);
        }
        Next::Leave
    }
}
