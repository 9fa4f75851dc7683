//! An image from one remote into another, with no store in between.
//!
//! A blob goes through memory, a few chunks at a time: what the source brings is hashed and sent on.
//! Documents go as the bytes that they are. The tag comes last of all, after what belongs to the
//! image and what refers to it.

mod documents;
mod into_store;
mod plan;
mod referrers;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dist_core::{
    ContentMismatch, Descriptor, Digest, ErrorKind, Event, Fetcher, Progress, Pushed, Pusher,
    Reference, Resolved, Resolver as _, Result,
};
use futures_util::{StreamExt as _, TryStreamExt as _};

use self::documents::Documents;
pub use self::into_store::{check_pinned, copy_into_store};
use self::plan::{Plan, Walk};
use self::referrers::Attached;
pub use self::referrers::ReferrersUnknown;
pub(crate) use self::referrers::{entry, tag_of};
pub(crate) use self::turns::Turns;
use crate::Remotes;
use crate::fetch::Platforms;
use crate::streams::{self, Counted};

/// Choices for [`copy`].
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// What of an index is copied: all of it; the manifest for one platform, instead of the index; a
    /// smaller index, of the images for several platforms.
    pub platforms: Platforms,
    /// Whether what refers to the image comes along: referrers, and what cosign keeps under tags.
    pub referrers: bool,
    /// How many blobs at once, at most: there are fewer where more bring no more.
    pub jobs: usize,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { platforms: Platforms::All, referrers: true, jobs: streams::USUAL }
    }
}

/// What was copied.
#[derive(Clone, Debug)]
pub struct Copied {
    /// The full name at the destination.
    pub name: String,
    /// What it stands for.
    pub target: Descriptor,
    /// How many documents beside the image came along that refer to it.
    pub referrers: usize,
    /// Whether the destination is other than before. A store's name is always set anew.
    pub changed: bool,
}

/// Copies what `source` stands for at `from`, with all that belongs to it, to `destination` at `to`.
///
/// What the destination has is not sent. Within one registry blobs are taken over by mounts.
///
/// # Errors
/// Those of both remotes; `NotFound` for a platform that the index has nothing for; `Corrupt` for
/// content that is not what its digest says: the destination then has no such blob, and no tag.
pub async fn copy(
    (from, source): (&Remotes, &str),
    (to, destination): (&Remotes, &str),
    options: &CopyOptions,
    progress: Arc<dyn Progress>,
) -> Result<Copied> {
    from.check_possible(source).await?;
    let route = Route { from, resolved: from.resolve(source).await?, to, destination, turns: None };
    let copied = copy_along(route, options, progress).await?;
    to.finish().await?;
    Ok(copied)
}

/// From where to where.
pub(crate) struct Route<'a> {
    pub(crate) from: &'a Remotes,
    /// What is copied.
    pub(crate) resolved: Resolved,
    pub(crate) to: &'a Remotes,
    pub(crate) destination: &'a str,
    /// Whose turn it is, where several copies go on at once.
    pub(crate) turns: Option<&'a Turns>,
}

/// As [`copy`], of what was resolved already. What is written to archives is not ended.
pub(crate) async fn copy_along(
    route: Route<'_>,
    options: &CopyOptions,
    progress: Arc<dyn Progress>,
) -> Result<Copied> {
    let Route { from, resolved, to, destination, turns } = route;
    let name = to.canonical(destination)?;
    from.approve(&resolved.name, &resolved.target).await?;
    let documents = Arc::new(Documents::new(from.fetcher(&resolved.name)?));
    let root = documents.choose(&resolved.target, &options.platforms).await?;
    progress.event(Event::Resolved { name: &name, target: &root });
    documents.tell_other(&resolved, &options.platforms, &*progress).await?;
    tell_of_part(&resolved, &root, &*progress);
    let copying = Copying {
        pusher: to.pusher(&name, &root.digest)?,
        root: root.digest,
        from,
        to,
        source: resolved.name,
        destination: name,
        documents,
        progress: Counted::new(progress),
        jobs: options.jobs,
        turns,
        changed: AtomicBool::new(false),
    };
    let has_place = from.has_tags(&copying.source) && to.has_tags(&copying.destination);
    let referrers = copying.run(&root, options.referrers && has_place).await?;
    let changed = copying.changed.load(Ordering::Relaxed);
    Ok(Copied { name: copying.destination, target: root, referrers, changed })
}

/// Warns where `root` is but a part of what was resolved.
fn tell_of_part(resolved: &Resolved, root: &Descriptor, progress: &dyn Progress) {
    if root.digest != resolved.target.digest {
        let message = format!(
            "{} stands for {}; the part of it that was copied is {}",
            resolved.name, resolved.target.digest, root.digest
        );
        progress.event(Event::Warned { message: &message });
    }
}

struct Copying<'a> {
    from: &'a Remotes,
    to: &'a Remotes,
    /// Full names.
    source: String,
    destination: String,
    documents: Arc<Documents>,
    root: Digest,
    pusher: Arc<dyn Pusher>,
    progress: Arc<Counted>,
    jobs: usize,
    turns: Option<&'a Turns>,
    /// Whether anything was sent, or a tag set.
    changed: AtomicBool,
}

impl Copying<'_> {
    /// Returns how many documents came along that refer to the image.
    async fn run(&self, root: &Descriptor, with_referrers: bool) -> Result<usize> {
        let walk = Walk { documents: &self.documents, pusher: &*self.pusher, jobs: self.jobs };
        let mut plan = Plan::default();
        walk.add(&mut plan, root).await?;
        let mut attached = Attached::default();
        if with_referrers {
            attached = self.attached(&plan).await?;
            for desc in attached.trees() {
                walk.add(&mut plan, desc).await?;
            }
        }
        for (desc, children) in &plan.parents {
            self.progress.event(Event::Listed { desc, children });
        }
        for desc in plan.blobs.iter().chain(&plan.documents) {
            self.progress.event(Event::Waiting { desc });
        }
        self.push_blobs(&mut plan).await?;
        self.push_documents(&plan, root).await?;
        self.push_attached(&attached).await?;
        if plan.is_there(root) {
            self.progress.event(Event::Existed { desc: root });
        } else {
            self.push(root).await?;
        }
        Ok(attached.trees().count())
    }

    async fn push_blobs(&self, plan: &mut Plan) -> Result<()> {
        // The largest first, so that they do not end alone.
        plan.blobs.sort_by_key(|desc| std::cmp::Reverse(desc.size));
        let pushes: Vec<_> = plan.blobs.iter().map(|desc| self.push(desc)).collect();
        streams::all(pushes, self.jobs, &self.progress).await
    }

    /// Pushes all documents but the root: manifests, and after them indexes, which may name them.
    async fn push_documents(&self, plan: &Plan, root: &Descriptor) -> Result<()> {
        let wanted = |desc: &&Descriptor| {
            if plan.is_there(desc) && desc.digest != root.digest {
                self.progress.event(Event::Existed { desc });
                return false;
            }
            desc.digest != root.digest
        };
        let documents = plan.documents.iter().filter(wanted);
        let (manifests, indexes): (Vec<_>, Vec<_>) =
            documents.partition(|desc| desc.media_type.is_manifest());
        let pushes: Vec<_> = manifests.into_iter().map(|desc| self.push(desc)).collect();
        let mut pushes = futures_util::stream::iter(pushes).buffer_unordered(self.jobs);
        while pushes.try_next().await?.is_some() {}
        for desc in indexes {
            self.push(desc).await?;
        }
        Ok(())
    }

    async fn push(&self, desc: &Descriptor) -> Result<()> {
        let content: Arc<dyn Fetcher> = Arc::clone(&self.documents) as _;
        let progress: Arc<dyn Progress> = Arc::clone(&self.progress) as _;
        let mut sources = self.mount_from();
        // A tag has to be given, whoever sent what it stands for.
        let there = self.to.reference(&self.destination);
        let there = there.filter(|there| desc.digest != self.root || there.tag().is_none());
        let turn = match (&there, self.turns) {
            (Some(there), Some(turns)) => {
                let turn = turns.wait(there.hostname(), &desc.digest).await;
                if turn.was_sent(there.repository()) {
                    self.progress.event(Event::Existed { desc });
                    return Ok(());
                }
                sources.splice(..0, turn.repositories());
                Some(turn)
            }
            _ => None,
        };
        let push = || {
            let (content, progress) = (Arc::clone(&content), Arc::clone(&progress));
            self.pusher.push(desc, content, &sources, progress)
        };
        let mut pushed = push().await;
        while pushed.as_ref().is_err_and(|error| error.find::<ContentMismatch>().is_some())
            && content.doubt(desc)
        {
            pushed = push().await;
        }
        match pushed {
            // It may be at neither: it comes from addresses in its descriptor.
            Err(error) if error.kind() == ErrorKind::NotFound && desc.media_type.is_foreign() => {
                let message = format!("the foreign layer {} was not copied", desc.digest);
                self.progress.event(Event::Warned { message: &message });
                Ok(())
            }
            Err(error) => Err(error),
            Ok(pushed) => {
                self.note(pushed);
                if let (Some(turn), Some(there)) = (turn, there) {
                    turn.sent(there.repository());
                }
                Ok(())
            }
        }
    }

    fn note(&self, pushed: Pushed) {
        self.changed.fetch_or(pushed != Pushed::Existed, Ordering::Relaxed);
    }

    /// The repository that the destination's registry may take blobs from.
    fn mount_from(&self) -> Vec<String> {
        let repository = || {
            let (source, destination) =
                (self.from.reference(&self.source)?, self.to.reference(&self.destination)?);
            let same = source.hostname() == destination.hostname();
            same.then(|| source.repository().to_owned())
        };
        repository().into_iter().collect()
    }
}

impl Remotes {
    /// A name in a registry; `None` for one of another kind.
    fn reference(&self, name: &str) -> Option<Reference> {
        match self.scheme(name) {
            Some(_) => None,
            None => Reference::parse_familiar(name).ok(),
        }
    }
}
