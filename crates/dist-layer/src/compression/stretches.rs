//! Stretches of a gzip layer inflated ahead, by threads that help the one that inflates in order,
//! while cores are idle.
//!
//! The thread that reads copies some stretches for the helpers and leaves every one after theirs to
//! the thread that inflates in order. That one asks between two blocks whether a guess begins there
//! ([`super::inflate::guess`]), waits for it, and gives its bytes out.
//!
//! Each helper has two spaces of 2.8 MiB for what it makes, and two buffers of 448 KiB for what it
//! makes it of: with the 768 KiB that are read ahead for it, 7.3 MiB. While both spaces are full it
//! waits; where both buffers are, a stretch is not guessed. Nobody else ever waits for a space: one
//! that is full is of a stretch before all that a helper has not decoded yet, so that who inflates in
//! order is done with it before he asks for these.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use dist_core::{Stage, enter};

use super::inflate::Window;
use super::inflate::guess::{BEYOND, Guess, Guesser, STRETCH, Space};
use crate::Cores;
use crate::cores::HELPERS;

/// Spaces and buffers of each helper: while one of a stretch is used, the next one is filled.
const EACH: usize = 2;

/// Compressed bytes that a member has before stretches of it are guessed.
const LARGE: u64 = 2 << 20;

/// Compressed bytes that are not guessed after a guess that was for nothing.
const IN_VAIN: u64 = 8 << 20;

/// Stretches that may wait for a helper, or to be asked for.
const WAITING: usize = 8;

/// Starts a thread for a helper; false where no core is idle or none can be started.
pub(super) trait Start: FnMut(Receiver<Job>) -> bool {}
impl<F: FnMut(Receiver<Job>) -> bool> Start for F {}

/// What divides the compressed bytes as they are read.
pub(super) struct Cutter<S> {
    start: S,
    /// Of the next byte that is read.
    offset: u64,
    helpers: Vec<SyncSender<Job>>,
    /// Stretches that helpers got since one was left out.
    turn: usize,
    open: Vec<Job>,
    coming: SyncSender<Coming>,
    idle: Receiver<Vec<u8>>,
    back: SyncSender<Vec<u8>>,
    not_before: Arc<AtomicU64>,
}

/// What goes back when it is dropped.
struct Lent<T: Default> {
    what: T,
    back: SyncSender<T>,
}

impl<T: Default> Drop for Lent<T> {
    fn drop(&mut self) {
        // There is room for all of them; nobody wants them once the layer is read.
        let _ = self.back.try_send(std::mem::take(&mut self.what));
    }
}

/// A stretch to decode.
pub(super) struct Job {
    from: u64,
    helper: usize,
    /// The compressed bytes: the stretch, and some after it.
    input: Lent<Vec<u8>>,
    done: Option<SyncSender<Ready>>,
}

/// A stretch that a helper has got. Nothing comes where it could not be decoded.
struct Coming {
    from: u64,
    ready: Receiver<Ready>,
}

/// A guess, and where it is in the layer's compressed bytes, in bits.
pub(super) struct Ready {
    space: Lent<Space>,
    guess: Guess,
    start: u64,
    end: u64,
}

/// What the thread that inflates in order asks.
pub(super) struct Guesses {
    coming: Receiver<Coming>,
    next: Option<Coming>,
    ready: Option<Ready>,
    not_before: Arc<AtomicU64>,
}

/// Makes both ends; `offset` is that of the first byte that will be read.
pub(super) fn pair<S: Start>(offset: u64, start: S) -> (Cutter<S>, Guesses) {
    let (back, idle) = sync_channel(EACH * HELPERS);
    let (coming_in, coming) = sync_channel(WAITING);
    let not_before = Arc::new(AtomicU64::new(LARGE));
    let cutter = Cutter {
        start,
        offset,
        helpers: Vec::new(),
        turn: 0,
        open: Vec::new(),
        coming: coming_in,
        idle,
        back,
        not_before: Arc::clone(&not_before),
    };
    (cutter, Guesses { coming, next: None, ready: None, not_before })
}

impl<S: Start> Cutter<S> {
    /// Sees the next bytes. Returns how many helpers were started.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> usize {
        let before = self.helpers.len();
        while !bytes.is_empty() {
            let within = (self.offset % STRETCH as u64) as usize;
            if within == 0 {
                self.begin();
            }
            let (part, rest) = bytes.split_at(bytes.len().min(STRETCH - within));
            for job in &mut self.open {
                let input = &mut job.input.what;
                input.extend_from_slice(&part[..part.len().min(STRETCH + BEYOND - input.len())]);
            }
            self.offset += part.len() as u64;
            bytes = rest;
            while self.open.first().is_some_and(|job| job.input.what.len() == STRETCH + BEYOND) {
                let job = self.open.remove(0);
                self.hand_out(job);
            }
        }
        self.helpers.len() - before
    }

    /// Takes a buffer for the stretch that begins here, unless it is left out.
    fn begin(&mut self) {
        if self.offset < self.not_before.load(Ordering::Relaxed) {
            return;
        }
        if self.helpers.len() < HELPERS {
            let (jobs_in, jobs) = sync_channel(WAITING);
            if (self.start)(jobs) {
                self.helpers.push(jobs_in);
                for _ in 0..EACH {
                    let _ = self.back.try_send(Vec::with_capacity(STRETCH + BEYOND));
                }
            }
        }
        if self.turn >= self.helpers.len() {
            self.turn = 0;
            return;
        }
        if let Ok(mut what) = self.idle.try_recv() {
            what.clear();
            let input = Lent { what, back: self.back.clone() };
            self.open.push(Job { from: self.offset, helper: self.turn, input, done: None });
        }
        self.turn += 1;
    }

    fn hand_out(&self, mut job: Job) {
        let (done, ready) = sync_channel(1);
        job.done = Some(done);
        let coming = Coming { from: job.from, ready };
        // Where either is full, the stretch is decoded in order.
        if self.coming.try_send(coming).is_ok()
            && let Some(helper) = self.helpers.get(job.helper)
        {
            let _ = helper.try_send(job);
        }
    }
}

/// Decodes stretches while cores are idle, until there are no more.
pub(super) fn help(jobs: &Receiver<Job>, cores: &Cores) {
    let mut guesser = Guesser::new();
    let (back, idle) = sync_channel(EACH);
    for _ in 0..EACH {
        let _ = back.try_send(Space::new());
    }
    while let Ok(Job { from, input, done, .. }) = jobs.recv() {
        let Ok(what) = idle.recv() else { return };
        let mut space = Lent { what, back: back.clone() };
        let (Some(_core), Some(done)) = (cores.idle(), done) else { continue };
        let _inflate = enter(Stage::Inflate);
        if let Some(guess) = guesser.guess(&input.what, &mut space.what, STRETCH) {
            let [start, end] = [guess.start, guess.end].map(|bits| 8 * from + bits as u64);
            let _ = done.send(Ready { space, guess, start, end });
        }
    }
}

impl Guesses {
    /// Tells that a member begins at this byte.
    pub(super) fn member(&self, offset: u64) {
        self.not_before.store(offset + LARGE, Ordering::Relaxed);
    }

    /// The guess that begins at this bit, a block's first. Waits for one that may.
    pub(super) fn at(&mut self, here: u64) -> Option<Ready> {
        loop {
            match &self.ready {
                Some(ready) if ready.start == here => return self.ready.take(),
                Some(ready) if ready.start > here => return None,
                Some(_) => self.in_vain(here),
                None => {}
            }
            self.ready = None;
            if self.next.is_none() {
                self.next = self.coming.try_recv().ok();
            }
            if 8 * self.next.as_ref()?.from > here {
                return None;
            }
            let Coming { from, ready } = self.next.take()?;
            if here < 8 * (from + STRETCH as u64) {
                let _wait = enter(Stage::Wait);
                self.ready = ready.recv().ok();
                if self.ready.is_none() {
                    self.in_vain(here);
                }
            }
        }
    }

    fn in_vain(&self, here: u64) {
        self.not_before.fetch_max(here / 8 + IN_VAIN, Ordering::Relaxed);
    }
}

impl Ready {
    /// The byte that the guess ends in or before, and how many of its bits are left.
    pub(super) fn end(&self) -> (u64, u32) {
        (self.end / 8, (8 - (self.end % 8) as u32) % 8)
    }

    pub(super) fn length(&self) -> usize {
        self.guess.length()
    }

    /// The compressed byte up to which about the first `given` bytes came from.
    pub(super) fn used(&self, given: usize) -> u64 {
        let bytes = (self.end - self.start) / 8;
        self.start / 8 + (bytes as u128 * given as u128 / self.length().max(1) as u128) as u64
    }

    /// Writes the bytes from `at` on to `out`; returns how many.
    pub(super) fn give(&self, at: usize, window: &Window, out: &mut [u8]) -> usize {
        self.space.what.give(&self.guess, at, window, out)
    }
}

#[cfg(test)]
mod tests;
