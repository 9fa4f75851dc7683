//! Where the time of an operation goes.
//!
//! A thread that works for a [`Meter`] is always in one [`Stage`]; [`enter`] changes it until its
//! answer is dropped. Where nobody measures that costs a look at a thread's own variable.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a thread is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Finding out what a name stands for.
    Resolve,
    /// Fetching indexes, manifests and configs.
    Documents,
    /// Waiting for bytes of layers from the remote.
    Download,
    /// Writing blobs.
    Store,
    /// Inflating layers.
    Inflate,
    /// Hashing blobs and layers.
    Hash,
    /// Making files of layers, or images.
    Untar,
    /// Waiting until the disk has what was written.
    Sync,
    /// Giving names to what is whole: blobs, snapshots, the image.
    Commit,
    /// Waiting for another thread or process.
    Wait,
    /// Anything else.
    Other,
    /// Nothing: other threads do its work, and are measured. Not a part of what is reported.
    Idle,
}

impl Stage {
    /// All that is reported, in the order in which a layer passes it.
    pub const ALL: [Self; 11] = [
        Self::Resolve,
        Self::Documents,
        Self::Download,
        Self::Store,
        Self::Inflate,
        Self::Hash,
        Self::Untar,
        Self::Sync,
        Self::Commit,
        Self::Wait,
        Self::Other,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve",
            Self::Documents => "documents",
            Self::Download => "download",
            Self::Store => "store",
            Self::Inflate => "inflate",
            Self::Hash => "hash",
            Self::Untar => "untar",
            Self::Sync => "sync",
            Self::Commit => "commit",
            Self::Wait => "wait",
            Self::Other => "other",
            Self::Idle => "idle",
        })
    }
}

/// Adds up how long threads were in which stage.
#[derive(Clone, Debug)]
pub struct Meter(Arc<Sums>);

#[derive(Debug)]
struct Sums {
    began: Instant,
    nanos: [AtomicU64; Stage::ALL.len() + 1],
}

/// How long an operation took and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// The time of all threads in each stage, in the order of [`Stage::ALL`].
    pub stages: Vec<(Stage, Duration)>,
    /// How much of it went on at the same time as something else: the sum of the stages less this
    /// is the total.
    pub overlap: Duration,
    /// From the beginning to the end.
    pub total: Duration,
}

impl Default for Meter {
    /// Begins the operation.
    fn default() -> Self {
        Self(Arc::new(Sums { began: Instant::now(), nanos: Default::default() }))
    }
}

impl Meter {
    /// Counts this thread's time from now on, in `stage` first, until the answer is dropped.
    #[must_use]
    pub fn start(&self, stage: Stage) -> Running {
        let lap = Lap { meter: self.clone(), stage, since: Instant::now() };
        Running { outer: LAP.replace(Some(lap)) }
    }

    /// The one that counts this thread's time, and what that is spent on.
    #[must_use]
    pub fn of_this_thread() -> Option<(Self, Stage)> {
        LAP.with_borrow(|lap| lap.as_ref().map(|lap| (lap.meter.clone(), lap.stage)))
    }

    fn add(&self, stage: Stage, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanos[stage as usize].fetch_add(nanos, Ordering::Relaxed);
    }

    /// Ends the operation. What no thread has counted is [`Stage::Other`].
    #[must_use]
    pub fn finish(&self) -> Timings {
        let total = self.0.began.elapsed();
        let time = |stage: Stage| {
            Duration::from_nanos(self.0.nanos[stage as usize].load(Ordering::Relaxed))
        };
        let mut stages = Stage::ALL.map(|stage| (stage, time(stage))).to_vec();
        let sum: Duration = stages.iter().map(|(_, time)| *time).sum();
        if let Some((_, other)) = stages.last_mut() {
            *other += total.saturating_sub(sum);
        }
        Timings { stages, overlap: sum.saturating_sub(total), total }
    }
}

thread_local! {
    static LAP: RefCell<Option<Lap>> = const { RefCell::new(None) };
}

struct Lap {
    meter: Meter,
    stage: Stage,
    since: Instant,
}

impl Lap {
    /// Counts what has passed and goes on in another stage; returns the one before.
    fn switch(&mut self, stage: Stage) -> Stage {
        let now = Instant::now();
        self.meter.add(self.stage, now - self.since);
        self.since = now;
        std::mem::replace(&mut self.stage, stage)
    }
}

/// A thread whose time is counted.
pub struct Running {
    outer: Option<Lap>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut lap) = LAP.replace(self.outer.take()) {
            lap.switch(Stage::Other);
        }
    }
}

/// A stage that a thread is in until this is dropped.
#[must_use]
pub struct Entered(Option<Stage>);

/// Puts this thread into `stage`, where its time is counted.
pub fn enter(stage: Stage) -> Entered {
    Entered(LAP.with_borrow_mut(|lap| lap.as_mut().map(|lap| lap.switch(stage))))
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(outer) = self.0 {
            LAP.with_borrow_mut(|lap| lap.as_mut().map(|lap| lap.switch(outer)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn each_moment_counts_once() {
        const STEP: Duration = Duration::from_millis(2);
        let meter = Meter::default();
        let began = Instant::now();
        let running = meter.start(Stage::Untar);
        {
            let _inflate = enter(Stage::Inflate);
            spin(STEP);
            let _hash = enter(Stage::Hash);
            spin(STEP);
        }
        spin(STEP);
        drop(running);
        let counted = began.elapsed();
        drop(enter(Stage::Store)); // counts for nobody
        let Timings { stages, overlap, total } = meter.finish();
        let of = |wanted| stages.iter().find(|(stage, _)| *stage == wanted).unwrap().1;
        for stage in [Stage::Inflate, Stage::Hash, Stage::Untar] {
            assert!(of(stage) >= STEP, "{stage}");
        }
        assert_eq!(of(Stage::Store), Duration::ZERO);
        assert!(of(Stage::Inflate) + of(Stage::Hash) + of(Stage::Untar) <= counted);
        assert_eq!(stages.iter().map(|(_, time)| *time).sum::<Duration>() - overlap, total);
    }

    #[test]
    fn threads_overlap() {
        let meter = Meter::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let _running = meter.start(Stage::Wait);
                    assert!(Meter::of_this_thread().is_some());
                    spin(Duration::from_millis(2));
                });
            }
        });
        assert!(Meter::of_this_thread().is_none());
        meter.add(Stage::Resolve, Duration::from_secs(1000));
        let Timings { stages, overlap, total } = meter.finish();
        assert!(overlap >= Duration::from_secs(999));
        assert_eq!(stages.iter().map(|(_, time)| *time).sum::<Duration>() - overlap, total);
    }
}
