//! When garbage is collected: after a start, after deletions and many changes, by whatever process,
//! and when something ends by itself.

mod watch;

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use dist_core::{Resource, Result};
use dist_store::{Collected, GcOptions, Object, Store};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use self::watch::Watch;
use crate::Daemon;
use crate::api::containerd::events::SnapshotRemove;
use crate::api::containerd::services::images::v1::ImageDelete;
use crate::daemon::blocking;

/// The shortest time that a collection counts for, as with containerd.
const SHORTEST: Duration = Duration::from_millis(5);

/// How long changes gather before they are looked at.
const GATHER: Duration = Duration::from_millis(250);

/// After this time a collection runs even where nothing happened, so that a clock that was set, or
/// a change that was not noticed, costs no more than that.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// How often and how soon a daemon collects. The defaults and their meaning are containerd's.
#[derive(Clone, Debug, PartialEq)]
pub struct GcSchedule {
    /// The share of the time that collections may take, 0 to 0.5.
    pub pause_threshold: f64,
    /// How many deletions make a collection run at once; 0 for never. Even one makes it run when
    /// `pause_threshold` allows it.
    pub deletion_threshold: u64,
    /// After how many changes a collection runs although nothing was deleted; 0 for never.
    pub mutation_threshold: u64,
    /// How long a collection waits after what it runs for.
    pub schedule_delay: Duration,
    /// How long after the start the first one runs.
    pub startup_delay: Duration,
}

impl Default for GcSchedule {
    fn default() -> Self {
        Self {
            pause_threshold: 0.02,
            deletion_threshold: 0,
            mutation_threshold: 100,
            schedule_delay: Duration::ZERO,
            startup_delay: Duration::from_millis(100),
        }
    }
}

/// Collections of one store, never two at once.
#[derive(Debug)]
pub(crate) struct Collector {
    schedule: GcSchedule,
    since: Mutex<Since>,
    /// Something happened, or a collection ended.
    news: Notify,
    /// Collections that were asked for.
    asked: AtomicU64,
    history: Arc<tokio::sync::Mutex<History>>,
}

/// What happened since the last collection began.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    deletions: u64,
    mutations: u64,
    /// The store's own count of deletions, of all processes, up to which they are known.
    counted: i64,
    /// When the next thing ends, in nanoseconds since the epoch.
    next_end: Option<i64>,
}

impl Since {
    /// Begins anew, for a collection. What is counted stays known: who looks at the store's count
    /// before the collection does would otherwise take all that was ever deleted for new.
    fn begin(&mut self) -> Self {
        let counted = self.counted;
        std::mem::replace(self, Self { counted, ..Self::default() })
    }

    /// Takes note of the store's own count, which is less than is known where a collection began
    /// meanwhile.
    fn count(&mut self, counted: i64) {
        self.deletions += u64::try_from(counted - self.counted).unwrap_or(0);
        self.counted = self.counted.max(counted);
    }
}

#[derive(Debug, Default)]
struct History {
    /// The last request that a collection began after.
    answered: u64,
    runs: u32,
    time: Duration,
}

impl Collector {
    pub(crate) fn new(schedule: GcSchedule) -> Self {
        Self {
            schedule,
            since: Mutex::default(),
            news: Notify::new(),
            asked: AtomicU64::new(0),
            history: Arc::default(),
        }
    }

    fn since(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a change of the metadata that deleted so many objects.
    pub(crate) fn mutated(&self, deletions: u64) {
        let mut since = self.since();
        since.deletions += deletions;
        since.mutations += 1;
        drop(since);
        self.news.notify_one();
    }

    /// Collects all that is garbage now. Those who ask while one runs share the next one.
    pub(crate) async fn collect(&self, daemon: &Daemon) -> Result<()> {
        let ticket = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let mut history = Arc::clone(&self.history).lock_owned().await;
        if history.answered >= ticket {
            return Ok(());
        }
        let daemon = daemon.clone();
        blocking(move || daemon.collector().run(&daemon, &mut history)).await
    }

    /// Collects, and tells what went.
    fn run(&self, daemon: &Daemon, history: &mut History) -> Result<()> {
        let asked = self.asked.load(Ordering::Acquire);
        let store = daemon.engine().store();
        let began = std::time::Instant::now();
        let mut collected = Collected::default();
        let before = self.since().begin();
        // Read before: what is deleted while it runs is a reason for the next.
        let result = store.deletions().and_then(|counted| {
            self.since().counted = counted;
            dist::collect(store, GcOptions::default(), &mut collected)
        });
        publish(daemon, &collected);
        daemon.metrics().collected(began.elapsed(), &result);
        history.time += began.elapsed();
        history.runs += 1;
        let mut since = self.since();
        if result.is_ok() {
            history.answered = asked;
            since.next_end = collected.next_end;
        } else {
            since.deletions += before.deletions.max(1);
        }
        drop(since);
        self.news.notify_one();
        let (removed, leaked) = (collected.removed.len(), collected.leaked.len());
        tracing::debug!(removed, leaked, took = ?began.elapsed(), "collected garbage");
        result
    }

    /// The time between two collections that leaves them their share of the time.
    async fn interval(&self) -> Duration {
        let history = self.history.lock().await;
        let average = history.time.checked_div(history.runs).unwrap_or_default().max(SHORTEST);
        let share = self.schedule.pause_threshold.clamp(0.0, 0.5);
        if share > 0.0 { average.div_f64(share).saturating_sub(average) } else { GATHER }
    }

    /// Whether enough happened for a collection.
    fn wants(&self) -> bool {
        let since = self.since();
        let threshold = self.schedule.mutation_threshold;
        since.deletions > 0 || (threshold > 0 && since.mutations >= threshold)
    }

    /// Whether so much happened that nothing is to be waited for.
    fn is_urgent(&self) -> bool {
        let threshold = self.schedule.deletion_threshold;
        threshold > 0 && self.since().deletions >= threshold
    }

    /// Waits for a reason to collect, and until `due` for most.
    async fn reason(&self, store: &Store, due: Instant, watch: Option<&Watch>) {
        loop {
            let mut ended = false;
            tokio::select! {
                () = self.news.notified() => {}
                () = written(watch) => {}
                () = sleep(until(self.since().next_end)) => ended = true,
            }
            if ended {
                return;
            }
            if !self.wants() {
                sleep(GATHER).await;
                self.look(store).await;
            }
            if self.is_urgent() {
                sleep(self.schedule.schedule_delay).await;
            } else if self.wants() {
                sleep_until(due.max(Instant::now() + self.schedule.schedule_delay)).await;
            }
            // One that was asked for may have run meanwhile.
            if self.wants() {
                return;
            }
        }
    }

    /// Looks for what other processes did, and for what ends earlier than was known.
    async fn look(&self, store: &Store) {
        let store = store.clone();
        match blocking(move || Ok((store.deletions()?, store.next_end()?))).await {
            Ok((counted, next_end)) => {
                let mut since = self.since();
                since.count(counted);
                since.next_end = since.next_end.into_iter().chain(next_end).min();
            }
            Err(error) => tracing::warn!(?error, "looking for changes of the metadata failed"),
        }
    }
}

/// Collects when there is a reason, for ever.
pub(crate) async fn run(daemon: &Daemon) -> Infallible {
    let (collector, store) = (daemon.collector(), daemon.engine().store().clone());
    let watch = match Watch::new(store.root()) {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(?error, "what other processes delete is collected within the hour");
            None
        }
    };
    sleep(collector.schedule.startup_delay).await;
    loop {
        let ended = daemon.collect().await;
        let due = Instant::now() + collector.interval().await;
        match ended {
            Ok(()) => collector.reason(&store, due, watch.as_ref()).await,
            Err(error) => {
                tracing::error!(?error, "garbage collection failed");
                sleep_until(due + Duration::from_secs(1)).await;
            }
        }
    }
}

async fn written(watch: Option<&Watch>) {
    match watch {
        Some(watch) => watch.written().await,
        None => std::future::pending().await,
    }
}

/// The time until something ends, at most [`LONGEST`].
fn until(end: Option<i64>) -> Duration {
    let Some(end) = end.and_then(|end| u64::try_from(end).ok()) else { return LONGEST };
    // What ends at a moment is kept in that moment.
    let end = SystemTime::UNIX_EPOCH + Duration::from_nanos(end) + Duration::from_millis(1);
    end.duration_since(SystemTime::now()).unwrap_or_default().min(LONGEST)
}

/// Tells what containerd tells of a collection, images and snapshots that went, and ends the streams
/// that a lease kept.
fn publish(daemon: &Daemon, collected: &Collected) {
    for removed in &collected.removed {
        match &removed.object {
            Object::Lease(lease) => daemon.streams().end_leased(&removed.namespace, lease),
            Object::Resource(Resource::Image(name)) => {
                let event = ImageDelete { name: name.to_string() };
                daemon.publish(&removed.namespace, "/images/delete", &event);
            }
            Object::Resource(Resource::Snapshot { snapshotter, key }) => {
                let event =
                    SnapshotRemove { key: key.to_string(), snapshotter: snapshotter.to_string() };
                daemon.publish(&removed.namespace, "/snapshot/remove", &event);
            }
            _ => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Since;

    #[test]
    fn only_what_was_deleted_since_is_a_reason_when_a_collection_has_just_begun() {
        let mut since = Since { deletions: 3, mutations: 4, counted: 100, next_end: Some(1) };
        let before = since.begin();
        assert_eq!((before.deletions, before.mutations), (3, 4));
        assert_eq!((since.deletions, since.mutations, since.next_end), (0, 0, None));
        since.count(102);
        assert_eq!((since.deletions, since.counted), (2, 102));
        since.count(101);
        assert_eq!((since.deletions, since.counted), (2, 102));
    }
}
