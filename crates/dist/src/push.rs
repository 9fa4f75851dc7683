//! An image that is in the store into a remote.

use std::collections::HashSet;
use std::sync::Arc;

use dist_core::{
    Descriptor, Digest, Error, ErrorKind, Event, Fetcher, Labels, MAX_DEPTH, MediaType, Progress,
    Provider, Pusher, Reference, Resolver as _, Result, children,
};
use dist_registry::HeldContent;
use dist_store::Registration;

use crate::blocking::blocking;
use crate::fetch::Platforms;
use crate::layers::find_manifest;
use crate::references::source;
use crate::restore::{Restored, restore};
use crate::streams::{self, Counted};
use crate::{Engine, sources};

/// Choices for [`push`].
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// What of an index is pushed: all of it; the manifest for one platform, which then gets the
    /// name instead of the index; the images for several platforms and the index as it is, which
    /// not every registry takes unless it has the others.
    pub platforms: Platforms,
    /// How many blobs at once, at most: there are fewer where more bring no more.
    pub jobs: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { platforms: Platforms::All, jobs: streams::USUAL }
    }
}

/// Pushes `target` and everything below it to `name`; returns what got the name.
///
/// Content goes before what names it, and the root goes last: the name never stands for something
/// that is not whole. What the remote has is not sent; what it has in another repository that the
/// store knows of, because it was pulled from there or pushed to it, is taken from there. Content that is not in the store need not be, where the
/// remote has it; a layer whose blob was discarded is made or fetched again for as long as it takes.
///
/// # Errors
/// Those of the remote and the store; `NotFound` naming what neither of them has.
pub async fn push(
    engine: &Engine,
    target: &Descriptor,
    name: &str,
    options: &PushOptions,
    progress: Arc<dyn Progress>,
) -> Result<Descriptor> {
    let name = engine.remotes().canonical(name)?;
    let (provider, target, platforms) =
        (engine.content(), target.clone(), options.platforms.clone());
    let order = blocking(move || {
        let root = pushed(&provider, &target, &platforms)?;
        Order::below(&provider, root, &platforms)
    })
    .await?;
    let pushing = Pushing {
        pusher: engine.remotes().pusher(&name, &order.root.digest)?,
        host: Reference::parse(&name).ok().map(|name| name.hostname().to_owned()),
        engine: engine.clone(),
        restored: tokio::sync::Mutex::default(),
        progress: Counted::new(progress),
    };
    pushing.progress.event(Event::Resolved { name: &name, target: &order.root });
    for (desc, children) in &order.parents {
        pushing.progress.event(Event::Listed { desc, children });
    }
    for desc in order.blobs.iter().chain(&order.documents) {
        pushing.progress.event(Event::Waiting { desc });
    }
    let mut blobs: Vec<&Descriptor> = order.blobs.iter().collect();
    blobs.sort_by_key(|desc| std::cmp::Reverse(desc.size));
    let pushes: Vec<_> = blobs.into_iter().map(|desc| pushing.push(desc)).collect();
    let all = async {
        streams::all(pushes, options.jobs, &pushing.progress).await?;
        for desc in &order.documents {
            pushing.push(desc).await?;
        }
        Ok(())
    };
    let mut done: Result<()> = all.await;
    // What was brought again goes again, also where the push failed.
    for restored in pushing.restored.into_inner() {
        done = done.and(restored.end().await);
    }
    done?;
    let Order { root, blobs, documents, .. } = order;
    let pushed = blobs.iter().chain(&documents).map(|desc| (desc.digest, Labels::new())).collect();
    let engine = engine.clone();
    let noted = blocking(move || {
        let registration =
            Registration { labels: pushed, source: source(&name), ..Registration::default() };
        engine.store().register(engine.namespace(), &registration)
    });
    // The next push takes them from here. That it can't is no failure of this one.
    if let Err(error) = noted.await {
        tracing::debug!(?error, "where the image was pushed to is not noted");
    }
    Ok(root)
}

/// What of `target` gets the name in a push for `platforms`.
///
/// # Errors
/// `NotFound` for a platform that there is nothing for, and for documents that are not there.
pub fn pushed(
    provider: &dyn Provider,
    target: &Descriptor,
    platforms: &Platforms,
) -> Result<Descriptor> {
    match platforms {
        Platforms::One(platform) => find_manifest(provider, target, platform),
        Platforms::Several(_) | Platforms::All => Ok(target.clone()),
    }
}

struct Pushing {
    pusher: Arc<dyn Pusher>,
    /// The registry, where it is one.
    host: Option<String>,
    engine: Engine,
    /// What had been discarded and was brought again.
    restored: tokio::sync::Mutex<Vec<Restored>>,
    progress: Arc<Counted>,
}

impl Pushing {
    async fn push(&self, desc: &Descriptor) -> Result<()> {
        let sources = match &self.host {
            Some(host) => {
                let (engine, host, digest) = (self.engine.clone(), host.clone(), desc.digest);
                blocking(move || sources::known(&engine, &digest, &host)).await?
            }
            None => Vec::new(),
        };
        let content: Arc<dyn Fetcher> = Arc::new(HeldContent::new(Arc::new(self.engine.content())));
        let push = || {
            self.pusher.push(desc, Arc::clone(&content), &sources, Arc::clone(&self.progress) as _)
        };
        match push().await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let layers = vec![desc.clone()];
                let beside = Arc::new(Beside(Arc::clone(&self.progress) as _));
                let restored = restore(&self.engine, layers, beside).await?;
                if restored.is_empty() {
                    return Err(error);
                }
                self.restored.lock().await.push(restored);
                push().await.map(drop)
            }
            pushed => pushed.map(drop),
        }
    }
}

/// Leaves out how blobs come into the store: what is counted goes to the remote.
struct Beside(Arc<dyn Progress>);

impl Progress for Beside {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Waiting { .. }
            | Event::Started { .. }
            | Event::Advanced { .. }
            | Event::Committed { .. }
            | Event::Existed { .. } => {}
            event => self.0.event(event),
        }
    }
}

/// What is pushed, and what before what.
struct Order {
    root: Descriptor,
    /// What names nothing else, in any order.
    blobs: Vec<Descriptor>,
    /// Manifests and indexes, each after all that it names.
    documents: Vec<Descriptor>,
    /// What each document names.
    parents: Vec<(Descriptor, Vec<Descriptor>)>,
}

impl Order {
    fn below(provider: &dyn Provider, root: Descriptor, platforms: &Platforms) -> Result<Self> {
        let mut order = Self {
            root: root.clone(),
            blobs: Vec::new(),
            documents: Vec::new(),
            parents: Vec::new(),
        };
        order.visit((provider, platforms), root, &mut HashSet::new(), 0)?;
        order.parents.reverse();
        Ok(order)
    }

    /// Puts `desc` behind everything below it.
    fn visit(
        &mut self,
        (provider, platforms): (&dyn Provider, &Platforms),
        desc: Descriptor,
        seen: &mut HashSet<(Digest, MediaType)>,
        depth: usize,
    ) -> Result<()> {
        if !seen.insert((desc.digest, desc.media_type.clone())) {
            return Ok(());
        }
        if !desc.media_type.is_index() && !desc.media_type.is_manifest() {
            self.blobs.push(desc);
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("walk {}: indexes are nested too deep", self.root.digest),
            ));
        }
        let below = match children(provider, &desc) {
            // The remote may have it, with all that is below it.
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            below if desc.media_type.is_index() => match platforms {
                Platforms::Several(_) => platforms.choose(below?)?,
                Platforms::One(_) | Platforms::All => below?,
            },
            below => below?,
        };
        for child in &below {
            self.visit((provider, platforms), child.clone(), seen, depth + 1)?;
        }
        self.parents.push((desc.clone(), below));
        self.documents.push(desc);
        Ok(())
    }
}
