//! Many repositories at once, into others: each tag by itself, so that one that fails stops no other.
//!
//! The source is asked what a tag stands for; where an earlier run has copied that very digest,
//! nothing more is asked of anybody.

mod filter;
mod state;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dist_core::{
    Context as _, Digest, Error, ErrorKind, Event, Progress, Resolver as _, Result, ResultExt as _,
};
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::filter::{TagFilter, TagRules};
use self::state::{Line, State};
use crate::Remotes;
use crate::blocking::blocking;
use crate::copy::{CopyOptions, Route, Turns, copy_along};

/// How many tags are asked for at once, and how many lists of tags.
const LOOKS: usize = 16;

/// One repository, and where its tags go.
#[derive(Clone, Debug)]
pub struct SyncItem {
    /// A repository in a registry.
    pub source: String,
    /// A repository in a registry, or `oci:PATH`.
    pub destination: String,
    /// Which tags.
    pub tags: TagFilter,
    /// What of each, and with what.
    pub copy: CopyOptions,
}

/// Choices for [`sync`].
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// How many tags are copied at once.
    pub at_once: usize,
    /// The file that tells what earlier runs have copied; without one the destination is asked.
    pub state: Option<PathBuf>,
    /// Whether the destination is asked for what was copied before, too.
    pub check: bool,
    /// Whether nothing is copied, only found out.
    pub dry_run: bool,
}

/// One tag after its turn.
#[derive(Debug)]
pub struct Synced {
    /// The full name at the source; a repository where its tags could not be listed.
    pub source: String,
    /// The full name at the destination.
    pub destination: String,
    /// What became of it.
    pub outcome: SyncOutcome,
    /// How long that took.
    pub took: Duration,
}

/// What became of a tag.
#[derive(Debug)]
pub enum SyncOutcome {
    /// It was copied.
    Copied {
        /// What it stands for at the destination.
        digest: Digest,
        /// Bytes that were sent.
        bytes: u64,
        /// How many documents came along that refer to it.
        referrers: usize,
    },
    /// The destination had all of it.
    Unchanged {
        /// What it stands for at the source.
        digest: Digest,
    },
    /// It would be copied.
    Wanted {
        /// What it stands for at the source.
        digest: Digest,
    },
    /// It was not copied.
    Failed(Error),
}

/// Copies the tags that are wanted of each repository, as [`crate::copy`] does.
///
/// # Errors
/// `Busy` and `Storage` of the state file. What fails of one repository or tag is in its answer.
pub async fn sync(
    (from, to): (Arc<Remotes>, Arc<Remotes>),
    items: &[SyncItem],
    options: &SyncOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Synced>> {
    let state = match options.state.clone() {
        Some(path) => Some(blocking(move || State::open(&path)).await?),
        None => None,
    };
    let (wanted, mut synced) = wanted(&from, &to, items, &*progress).await;
    let shared = Arc::new(Shared {
        from,
        to,
        state,
        turns: Turns::default(),
        looks: Semaphore::new(LOOKS),
        copies: Semaphore::new(options.at_once.max(1)),
        check: options.check,
        dry_run: options.dry_run,
        progress,
    });
    let mut tasks = JoinSet::new();
    for (place, tag) in wanted.into_iter().enumerate() {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let began = Instant::now();
            let done = shared.one(&tag).await;
            let what = || format!("copy {} to {}", tag.source, tag.destination);
            let outcome = done.during(what).unwrap_or_else(SyncOutcome::Failed);
            let Tag { source, destination, .. } = tag;
            (place, Synced { source, destination, outcome, took: began.elapsed() })
        });
    }
    let mut placed = Vec::new();
    while let Some(done) = tasks.join_next().await {
        placed.push(done.context(ErrorKind::Internal, || "copy a tag".into())?);
    }
    placed.sort_by_key(|(place, _)| *place);
    synced.extend(placed.into_iter().map(|(_, done)| done));
    Ok(synced)
}

/// A tag that is wanted.
struct Tag {
    source: String,
    destination: String,
    copy: CopyOptions,
}

/// Finds out which tags are wanted, and for which repositories that can't be found out.
async fn wanted(
    from: &Remotes,
    to: &Remotes,
    items: &[SyncItem],
    progress: &dyn Progress,
) -> (Vec<Tag>, Vec<Synced>) {
    let lists: Vec<_> = items.iter().map(|item| tags(from, item)).collect();
    let lists: Vec<_> = futures_util::stream::iter(lists).buffered(LOOKS).collect().await;
    let (mut wanted, mut failed) = (Vec::new(), Vec::new());
    let mut taken: HashMap<String, (String, String)> = HashMap::new();
    for (item, list) in items.iter().zip(lists) {
        let fail = |error| Synced {
            source: item.source.clone(),
            destination: item.destination.clone(),
            outcome: SyncOutcome::Failed(error),
            took: Duration::ZERO,
        };
        let list = match list {
            Ok(list) => list,
            Err(error) => {
                failed.push(fail(error));
                continue;
            }
        };
        if list.is_empty() {
            let message = format!("no tag of {} is wanted", item.source);
            progress.event(Event::Warned { message: &message });
        }
        for tag in list {
            let name = |remotes: &Remotes, name| {
                remotes.beside(name, &tag).and_then(|name| remotes.canonical(&name))
            };
            match (name(from, &item.source), name(to, &item.destination)) {
                (Err(error), _) | (_, Err(error)) => failed.push(fail(error)),
                (Ok(source), Ok(destination)) => match taken.get(&destination) {
                    Some(other) if *other == (source.clone(), how(&item.copy)) => {}
                    Some((other, _)) => {
                        let more = if *other == source { ", in another form" } else { "" };
                        let message = format!(
                            "copy {source} to {destination}: {other} goes there as well{more}"
                        );
                        failed.push(fail(Error::new(ErrorKind::InvalidArgument, message)));
                    }
                    None => {
                        taken.insert(destination.clone(), (source.clone(), how(&item.copy)));
                        wanted.push(Tag { source, destination, copy: item.copy.clone() });
                    }
                },
            }
        }
    }
    (wanted, failed)
}

/// What of a tag is wanted.
fn how(copy: &CopyOptions) -> String {
    format!("{:?} {}", copy.platforms, copy.referrers)
}

async fn tags(from: &Remotes, item: &SyncItem) -> Result<Vec<String>> {
    if let Some(tags) = item.tags.exact() {
        return Ok(tags);
    }
    let mut all = Vec::new();
    let mut take = |page| {
        // What is attached to an image goes with it.
        let page: Vec<String> = page;
        all.extend(page.into_iter().filter(|tag| !dist_registry::is_attachment_tag(tag)));
        Ok(())
    };
    from.registries().tags(&item.source, &mut take).await?;
    Ok(item.tags.choose(all))
}

/// What all tags share.
struct Shared {
    from: Arc<Remotes>,
    to: Arc<Remotes>,
    state: Option<State>,
    turns: Turns,
    looks: Semaphore,
    copies: Semaphore,
    check: bool,
    dry_run: bool,
    progress: Arc<dyn Progress>,
}

impl Shared {
    async fn one(&self, tag: &Tag) -> Result<SyncOutcome> {
        let looking = self.looks.acquire().await;
        let resolved = self.from.resolve(&tag.source).await?;
        drop(looking);
        let digest = resolved.target.digest;
        let line = Line {
            destination: tag.destination.clone(),
            source: tag.source.clone(),
            how: how(&tag.copy),
            digest,
        };
        let known = self.state.as_ref().is_some_and(|state| state.has(&line));
        if known && !self.check {
            return Ok(SyncOutcome::Unchanged { digest });
        }
        if self.dry_run {
            let there = self.to.look_up(&tag.destination).await?;
            let same = there.is_some_and(|there| there.target.digest == digest);
            return Ok(if same {
                SyncOutcome::Unchanged { digest }
            } else {
                SyncOutcome::Wanted { digest }
            });
        }
        let _turn = self.copies.acquire().await;
        let progress = Arc::clone(&self.progress);
        let counted = Arc::new(Counted { bytes: AtomicU64::new(0), progress });
        let route = Route {
            from: &self.from,
            resolved,
            to: &self.to,
            destination: &tag.destination,
            turns: Some(&self.turns),
        };
        let progress: Arc<dyn Progress> = Arc::clone(&counted) as _;
        let copied = Box::pin(copy_along(route, &tag.copy, progress)).await?;
        if let Some(state) = &self.state {
            state.add(&line)?;
        }
        let bytes = counted.bytes.load(Ordering::Relaxed);
        if !copied.changed {
            return Ok(SyncOutcome::Unchanged { digest });
        }
        let digest = copied.target.digest;
        Ok(SyncOutcome::Copied { digest, bytes, referrers: copied.referrers })
    }
}

/// Counts what is sent for one tag: nothing where the destination has it.
struct Counted {
    bytes: AtomicU64,
    progress: Arc<dyn Progress>,
}

impl Progress for Counted {
    fn event(&self, event: Event<'_>) {
        if let Event::Advanced { bytes, .. } = &event {
            self.bytes.fetch_add(*bytes, Ordering::Relaxed);
        }
        self.progress.event(event);
    }
}
