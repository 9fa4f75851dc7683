//! How many blobs are sent at once: more of them for as long as more bring more.
//!
//! It begins with a few. What came in a moment is compared with what came with half as many: where it
//! was not clearly more, the network, the registry or the disk is what limits, and half as many do. On
//! a machine whose cores have all to do nothing is tried at all.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dist_core::{Event, Progress, Result};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// How many begin at once.
const FIRST: usize = 2;

/// How many there are at most where nobody says otherwise: each has a piece of memory.
pub(crate) const USUAL: usize = 8;

/// What is compared: the bytes of so long.
const WINDOW: Duration = Duration::from_millis(200);

/// How much more twice as many must bring.
const GAIN: f64 = 1.1;

/// For how many windows a number that was found stays.
const REST: u32 = 25;

/// What a blob counts beside its bytes, for a request costs time too.
const BLOB: u64 = 256 << 10;

/// Tells on, and counts the bytes that move.
pub(crate) struct Counted {
    to: Arc<dyn Progress>,
    moved: AtomicU64,
}

impl Counted {
    pub(crate) fn new(to: Arc<dyn Progress>) -> Arc<Self> {
        Arc::new(Self { to, moved: AtomicU64::new(0) })
    }

    fn add(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Progress for Counted {
    fn event(&self, event: Event<'_>) {
        if let Event::Advanced { bytes, .. } = &event {
            self.add(*bytes);
        }
        self.to.event(event);
    }
}

/// Does all of `work`, in its order, at most `most` at once. Ends with the first error.
pub(crate) async fn all<F: Future<Output = Result<()>>>(
    work: Vec<F>,
    most: usize,
    counted: &Counted,
) -> Result<()> {
    let mut pace = Pace::new(most);
    let (mut waiting, mut running) = (work.into_iter(), FuturesUnordered::new());
    let mut windows = interval_at(Instant::now() + WINDOW, WINDOW);
    windows.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cores = Cores::now();
    loop {
        while running.len() < pace.allowed
            && let Some(next) = waiting.next()
        {
            running.push(next);
        }
        tokio::select! {
            done = running.next() => match done {
                Some(done) => {
                    done?;
                    counted.add(BLOB);
                }
                None => return Ok(()),
            },
            _ = windows.tick(), if waiting.len() > 0 => {
                let was = std::mem::replace(&mut cores, Cores::now());
                pace.judge(counted.moved.swap(0, Ordering::Relaxed), was.had_rest(&cores));
            }
        }
    }
}

/// How many may be under way.
#[derive(Debug)]
struct Pace {
    allowed: usize,
    most: usize,
    /// With how many there was how much, before there were more.
    before: Option<(usize, u64)>,
    /// For how many windows nothing is tried.
    rest: u32,
}

impl Pace {
    fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { allowed: FIRST.min(most), most, before: None, rest: 0 }
    }

    /// Takes what moved in a window in which all that may were under way.
    fn judge(&mut self, moved: u64, cores_have_rest: bool) {
        if let Some((allowed, before)) = self.before.take()
            && (moved as f64) < before as f64 * GAIN
        {
            (self.allowed, self.rest) = (allowed, REST);
        }
        if self.rest > 0 {
            self.rest -= 1;
        } else if cores_have_rest && self.allowed < self.most {
            self.before = Some((self.allowed, moved));
            self.allowed = self.allowed.saturating_mul(2).min(self.most);
            tracing::debug!(allowed = self.allowed, "more blobs at once");
        }
    }
}

/// For how long the machine's cores worked and rested, in ticks (proc(5), `/proc/stat`).
#[derive(Default)]
struct Cores {
    worked: u64,
    rested: u64,
}

impl Cores {
    /// Nothing where the system does not tell.
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let all = text.lines().next().and_then(|line| line.strip_prefix("cpu "));
        let ticks: Vec<u64> =
            all.into_iter().flat_map(str::split_whitespace).flat_map(str::parse).collect();
        match ticks.as_slice() {
            [user, nice, system, idle, waits, rest @ ..] => {
                let rest: u64 = rest.iter().take(3).sum(); // the others are counted already
                Self { worked: user + nice + system + rest, rested: idle + waits }
            }
            _ => Self::default(),
        }
    }

    /// Whether, until `now`, a tenth of the time was nobody's.
    fn had_rest(&self, now: &Self) -> bool {
        let worked = now.worked.saturating_sub(self.worked);
        let rested = now.rested.saturating_sub(self.rested);
        rested * 10 >= worked + rested
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// What `pace` allows after windows in which a network of so much moved what it can.
    fn after(pace: &mut Pace, windows: u32, moved: impl Fn(usize) -> u64) -> usize {
        for _ in 0..windows {
            pace.judge(moved(pace.allowed), true);
        }
        pace.allowed
    }

    #[test]
    fn more_are_allowed_while_they_bring_more() {
        let each = |allowed: usize| allowed as u64 * 10;
        assert_eq!(after(&mut Pace::new(8), 1, each), 4);
        assert_eq!(after(&mut Pace::new(8), 20, each), 8);
        assert_eq!(after(&mut Pace::new(5), 20, each), 5, "no more than there may be");
        assert_eq!(after(&mut Pace::new(1), 20, each), 1);
        assert_eq!(after(&mut Pace::new(0), 20, each), 1);
    }

    #[test]
    fn what_does_not_help_is_taken_back_and_tried_again_later() {
        let four_fill_it = |allowed: usize| 10 * allowed.min(4) as u64;
        let mut pace = Pace::new(64);
        assert_eq!(after(&mut pace, 3, four_fill_it), 4);
        assert_eq!(after(&mut pace, REST - 1, four_fill_it), 4);
        assert_eq!(after(&mut pace, 1, four_fill_it), 8, "the network may be another");
        assert_eq!(after(&mut pace, 1, four_fill_it), 4);
    }

    #[test]
    fn busy_cores_get_no_more_to_do() {
        let mut pace = Pace::new(8);
        pace.judge(10, false);
        assert_eq!(pace.allowed, FIRST);
        let cores = |worked, rested| Cores { worked, rested };
        assert!(!cores(100, 50).had_rest(&cores(200, 55)));
        assert!(cores(100, 50).had_rest(&cores(200, 80)));
        assert!(Cores::default().had_rest(&Cores::default()), "where nothing is known");
        assert!(Cores::now().rested > 0);
    }

    #[tokio::test]
    async fn all_is_done_and_the_first_error_ends_it() {
        let (counted, under_way) = (Counted::new(Arc::new(())), AtomicUsize::new(0));
        let one = async |fails: bool| {
            let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            under_way.fetch_sub(1, Ordering::SeqCst);
            assert!(now <= 3, "{now}");
            let error = || dist_core::Error::new(dist_core::ErrorKind::NotFound, "x");
            if fails { Err(error()) } else { Ok(()) }
        };
        let work = |fails: Option<usize>| (0..20).map(move |at| fails == Some(at)).map(&one);
        all(work(None).collect(), 3, &counted).await.unwrap();
        assert_eq!(counted.moved.load(Ordering::Relaxed), 20 * BLOB);
        all(work(Some(7)).collect(), 3, &counted).await.unwrap_err();
        assert!(counted.moved.load(Ordering::Relaxed) < 40 * BLOB);
    }
}
