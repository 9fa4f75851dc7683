//! Everything below a name into the store, nothing unpacked.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dist_core::{
    ContentMismatch, Descriptor, Digest, Event, Fetcher, Handler, Labels, Platform, Progress,
    Resolved, Resolver as _, Result, Visit, children, dispatch,
};

use dist_store::Registration;

use crate::blocking::{Alive, blocking};
use crate::ingest::Intake;
use crate::layers::{best, check_document_size, plan, read_document};
use crate::references::Belongings;
use crate::session::root_label;
use crate::{Approval, Operations, Remotes};

/// Which entries of an index are wanted.
#[derive(Clone, Debug)]
pub enum Platforms {
    /// The best entry for one platform.
    One(Platform),
    /// The best entry for each of several platforms.
    Several(Vec<Platform>),
    /// Every entry.
    All,
}

impl Platforms {
    /// The entries of an index that are wanted, each once.
    ///
    /// # Errors
    /// `NotFound` for a platform that there is nothing for.
    pub(crate) fn choose(&self, entries: Vec<Descriptor>) -> Result<Vec<Descriptor>> {
        let platforms = match self {
            Self::All => return Ok(entries),
            Self::One(platform) => std::slice::from_ref(platform),
            Self::Several(platforms) => platforms,
        };
        let mut chosen: Vec<Descriptor> = Vec::new();
        for platform in platforms {
            let entry = best(entries.clone(), platform)?;
            if !chosen.iter().any(|other| other.digest == entry.digest) {
                chosen.push(entry);
            }
        }
        Ok(chosen)
    }
}

impl From<Vec<Platform>> for Platforms {
    /// Those that were asked for; where nobody asked, all.
    fn from(mut wanted: Vec<Platform>) -> Self {
        match wanted.len() {
            0 => Self::All,
            1 => Self::One(wanted.remove(0)),
            _ => Self::Several(wanted),
        }
    }
}

impl Default for Platforms {
    fn default() -> Self {
        Self::One(Platform::host())
    }
}

/// Choices for [`fetch`].
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// Which entries of an index.
    pub platforms: Platforms,
    /// How many blobs at once.
    pub jobs: usize,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self { platforms: Platforms::default(), jobs: default_jobs() }
    }
}

/// As many jobs as cores, but at least 3 so that a slow network is kept busy, and at most 4 so that
/// memory stays below 64 MiB whatever the layers are compressed with.
#[must_use]
pub fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(3, std::num::NonZero::get).clamp(3, 4)
}

/// Brings every blob that `name` stands for to where `on` keeps them. They stay until they are
/// deleted.
///
/// # Errors
/// Those of the remote and of the store; `Corrupt` for content that is not what it should be.
pub async fn fetch(
    on: &dyn Operations,
    name: &str,
    options: &FetchOptions,
    progress: Arc<dyn Progress>,
) -> Result<Resolved> {
    let (resolved, _) = resolve(on.remotes(), name, &*progress).await?;
    let wanted = Wanted {
        fetcher: on.remotes().fetcher(name)?,
        target: resolved.target.clone(),
        options: options.clone(),
    };
    let (target, name) = (resolved.target.clone(), resolved.name.clone());
    let register = move |found: Belongings| {
        let mut registration = found.registration(Some(&name));
        registration.labels.entry(target.digest).or_default().extend(root_label());
        registration
    };
    bring(on, wanted, Arc::clone(&progress), register).await?;
    if let (Platforms::One(platform), true) =
        (&options.platforms, resolved.target.media_type.is_manifest())
    {
        let (content, target) = (on.contents(Labels::new()), resolved.target.clone());
        // What is no image is for no platform.
        if let Ok(plan) = blocking(move || plan(&*content, &target)).await {
            plan.tell_other(&resolved.name, platform, &*progress);
        }
    }
    Ok(resolved)
}

/// What [`bring`] brings.
pub(crate) struct Wanted {
    pub(crate) fetcher: Arc<dyn Fetcher>,
    pub(crate) target: Descriptor,
    pub(crate) options: FetchOptions,
}

/// Brings every blob of an image to where `on` keeps them; what `register` makes of them keeps them
/// there.
///
/// # Errors
/// As [`fetch`].
pub(crate) async fn bring(
    on: &dyn Operations,
    wanted: Wanted,
    progress: Arc<dyn Progress>,
    register: impl FnOnce(Belongings) -> Registration + Send + 'static,
) -> Result<()> {
    let alive = Alive::new();
    let Wanted { fetcher, target, options: FetchOptions { platforms, jobs } } = wanted;
    let (root, chosen) = (target.clone(), platforms.clone());
    let outer = on.shared();
    let operation = blocking(move || {
        let content = outer.contents(Labels::new());
        outer.begin(Belongings::find(&*content, &root, &chosen)?.resources())
    })
    .await?;
    let intake = Intake {
        content: operation.contents(),
        downloads: Some(alive.downloads(on.remotes().servers(), fetcher)),
        progress,
        cancel: alive.cancel(),
    };
    let bare = Bare::beside(Platforms::All);
    let handler = FetchHandler { intake, platforms, layers: Layers::Fetch, bare };
    dispatch(&handler, target.clone(), jobs).await?;
    let FetchHandler { intake, platforms, .. } = handler;
    blocking(move || {
        let found = Belongings::find_whole(&*intake.content, &target, &platforms)?;
        operation.finish(register(found)).map(drop)
    })
    .await
}

/// Brings one blob to where `on` keeps them; nothing to do where it is there. It stays until it is
/// deleted.
///
/// # Errors
/// Those of the remote and of the store; `Corrupt` for content that is not what `desc` says.
pub async fn fetch_blob(
    on: &dyn Operations,
    fetcher: Arc<dyn Fetcher>,
    desc: &Descriptor,
    progress: Arc<dyn Progress>,
) -> Result<()> {
    let alive = Alive::new();
    let downloads = Some(alive.downloads(on.remotes().servers(), fetcher));
    let content = on.contents(root_label());
    let intake = Intake { content, downloads, progress, cancel: alive.cancel() };
    intake.fetch(desc).await
}

/// Resolves a name of what may be used, and tells.
pub(crate) async fn resolve(
    remotes: &Remotes,
    name: &str,
    progress: &dyn Progress,
) -> Result<(Resolved, Approval)> {
    remotes.check_possible(name).await?;
    let resolved = remotes.resolve(name).await?;
    progress.event(Event::Resolved { name: &resolved.name, target: &resolved.target });
    let approval = remotes.approve(&resolved.name, &resolved.target).await?;
    Ok((resolved, approval))
}

/// What happens to layers while the documents are fetched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layers {
    /// They are fetched like anything else.
    Fetch,
    /// They are left to whoever unpacks them.
    Leave,
}

/// Track, fetch, children, platform filter: in this order, for each descriptor.
pub(crate) struct FetchHandler {
    pub(crate) intake: Intake,
    pub(crate) platforms: Platforms,
    pub(crate) layers: Layers,
    /// Of which documents nothing but documents is wanted.
    pub(crate) bare: Bare,
}

/// The documents for platforms of which no layers are wanted.
pub(crate) struct Bare {
    wanted: Platforms,
    digests: Mutex<HashSet<Digest>>,
}

impl Bare {
    /// Finds those that are for none of the platforms that are `wanted`.
    pub(crate) fn beside(wanted: Platforms) -> Self {
        Self { wanted, digests: Mutex::default() }
    }

    /// Takes out of what `desc` names the layers that are not wanted.
    fn retain(&self, desc: &Descriptor, below: &mut Vec<Descriptor>) -> Result<()> {
        let mut digests = self.digests.lock().unwrap_or_else(PoisonError::into_inner);
        let bare = digests.contains(&desc.digest);
        if bare {
            below.retain(|child| child.media_type.layer_compression().is_none());
        }
        if desc.media_type.is_index() {
            let wanted = if bare { Vec::new() } else { self.wanted.choose(below.clone())? };
            let wanted: HashSet<Digest> = wanted.into_iter().map(|child| child.digest).collect();
            let others = below.iter().map(|child| child.digest);
            digests.extend(others.filter(|digest| !wanted.contains(digest)));
        }
        Ok(())
    }
}

impl FetchHandler {
    /// What a document that is there names; a config is but read.
    async fn below(&self, desc: &Descriptor) -> Result<Vec<Descriptor>> {
        let (content, desc) = (Arc::clone(&self.intake.content), desc.clone());
        blocking(move || {
            if desc.media_type.is_config() {
                read_document(&*content, &desc)?;
            }
            children(&*content, &desc)
        })
        .await
    }

    async fn put_aside(&self, desc: &Descriptor) -> Result<()> {
        let (content, digest) = (Arc::clone(&self.intake.content), desc.digest);
        blocking(move || content.put_aside(&digest)).await
    }
}

#[async_trait]
impl Handler for FetchHandler {
    async fn handle(&self, desc: &Descriptor) -> Result<Visit> {
        let media_type = &desc.media_type;
        let is_layer = media_type.layer_compression().is_some();
        self.intake.progress.event(Event::Waiting { desc });
        if is_layer && self.layers == Layers::Leave {
            return Ok(Visit::Skip);
        }
        if media_type.is_index() || media_type.is_manifest() || media_type.is_config() {
            check_document_size(desc)?;
        }
        self.intake.fetch(desc).await?;
        let below = match self.below(desc).await {
            Err(error) if error.find::<ContentMismatch>().is_some() => {
                tracing::info!(digest = %desc.digest, ?error, "a damaged document is fetched again");
                self.put_aside(desc).await?;
                self.intake.fetch(desc).await?;
                self.below(desc).await?
            }
            below => below?,
        };
        let mut below = if media_type.is_index() { self.platforms.choose(below)? } else { below };
        self.bare.retain(desc, &mut below)?;
        self.intake.progress.event(Event::Listed { desc, children: &below });
        Ok(Visit::Children(below))
    }
}
