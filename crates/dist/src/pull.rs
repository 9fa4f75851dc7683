//! A name into a registered image with its snapshots.

use std::sync::Arc;

use dist_core::{
    ChainId, Context as _, Descriptor, Digest, ErrorKind, Event, Image, ImageName, Labels,
    MediaType, Platform, Progress, Provider, Resolver as _, Result, Stage, Warning, dispatch,
    enter,
};
use dist_registry::Served;
use dist_store::SettleMode;

use crate::blocking::{Alive, Stop, blocking};
use crate::created::Created;
use crate::fetch::{Bare, FetchHandler, Layers, Platforms, default_jobs, resolve};
use crate::ingest::Intake;
use crate::layers::{Plan, find_manifest, layers_below, manifests_below, plan};
use crate::references::{Belongings, is_of_content};
use crate::session::Session;
use crate::unpack::Unpacker;
use crate::{
    Approval, Contents, Engine, Operations, addresses, discard, present, stored_fetcher, survey,
};

/// Choices for [`pull`].
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The platform whose image is taken from an index.
    pub platform: Platform,
    /// How many layers at once.
    pub jobs: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { platform: Platform::host(), jobs: default_jobs() }
    }
}

/// What [`pull_as`] brings and makes of it.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Whose layers are brought.
    pub platforms: Platforms,
    /// Whether the manifests and configs for other platforms are brought as well.
    pub metadata: bool,
    /// What is unpacked, as far as its layers are brought.
    pub unpacks: Vec<Unpacking>,
    /// The names that the image gets; its own where there are none.
    pub names: Vec<ImageName>,
    /// The labels that the image gets.
    pub labels: Labels,
}

/// What is unpacked with which snapshotter.
#[derive(Clone, Debug)]
pub struct Unpacking {
    /// The platform.
    pub platform: Platform,
    /// The snapshotter's name.
    pub snapshotter: String,
}

/// What a pull left behind.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The registered image.
    pub image: Image,
    /// The same image under its other names.
    pub others: Vec<Image>,
    /// The snapshot that holds its root, of the first that was unpacked; `None` for an image without
    /// layers.
    pub chain_id: Option<ChainId>,
    /// What could not be done and is no error.
    pub warnings: Vec<Warning>,
    /// The mirrors that it came from, as far as it did not come from its registry.
    pub mirrors: Vec<Served>,
}

/// Resolves `name`, brings its content into the store, unpacks it and registers the image.
///
/// When this returns, blobs and rows are durable (as far as the engine's durability asks), and the
/// snapshots as well with [`dist_store::Durability::Full`]. Dropping the future stops at once; what was fetched
/// stays and a later pull goes on from there.
///
/// # Errors
/// Those of the remote, the store and the layers. The image is registered only when all went well.
pub async fn pull(
    engine: &Engine,
    name: &str,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<Pulled> {
    let PullOptions { platform, jobs } = options.clone();
    let snapshotter = engine.snapshotter_name().to_owned();
    let wanted = Wanted {
        platforms: Platforms::One(platform.clone()),
        unpacks: vec![Unpacking { platform, snapshotter }],
        ..Wanted::default()
    };
    let found = Found::resolve(engine, name, &*progress).await?;
    if let Some(pulled) = present::find(engine, &found, &wanted, &progress).await? {
        return Ok(pulled);
    }
    bring(engine, found, &wanted, jobs, progress).await
}

/// As [`pull`], of any platforms, unpacked or not, under any names.
///
/// # Errors
/// As [`pull`].
pub async fn pull_as(
    engine: &Engine,
    name: &str,
    wanted: &Wanted,
    jobs: usize,
    progress: Arc<dyn Progress>,
) -> Result<Pulled> {
    let found = Found::resolve(engine, name, &*progress).await?;
    bring(engine, found, wanted, jobs, progress).await
}

/// What a name stands for.
#[derive(Clone)]
pub(crate) struct Found {
    /// The name, whole.
    pub(crate) name: String,
    /// The name of the image.
    pub(crate) image: ImageName,
    pub(crate) target: Descriptor,
    /// What the policy says of it.
    pub(crate) approval: Approval,
}

impl Found {
    async fn resolve(engine: &Engine, name: &str, progress: &dyn Progress) -> Result<Self> {
        let name = engine.remotes().canonical(name)?;
        let shown = addresses::without_query(&name);
        let image: ImageName = shown
            .parse()
            .context(ErrorKind::InvalidArgument, || format!("parse image name {shown:?}"))?;
        let _resolve = enter(Stage::Resolve);
        let (target, approval) = match pinned(engine, &image)? {
            Some(known) => {
                progress.event(Event::Resolved { name: &name, target: &known.target });
                let named = Image { name: image.clone(), ..known };
                let content = stored_fetcher(Arc::new(engine.content()));
                let approval = engine.remotes().approve_stored(&named, &*content).await?;
                (named.target, approval)
            }
            None => {
                let (resolved, approval) = resolve(engine.remotes(), &name, progress).await?;
                (resolved.target, approval)
            }
        };
        Ok(Self { name, image, target, approval })
    }
}

/// Brings what was found.
async fn bring(
    engine: &Engine,
    found: Found,
    wanted: &Wanted,
    jobs: usize,
    progress: Arc<dyn Progress>,
) -> Result<Pulled> {
    let alive = Alive::new();
    let Found { name, image: image_name, target, approval } = found;
    let platforms = if wanted.metadata { Platforms::All } else { wanted.platforms.clone() };
    let needs = Needs::new(target, platforms, wanted.unpacks.clone());
    let (outer, (needs, session)) = (engine, needs.begin(engine).await?);
    let engine = session.engine().settling_later();
    let created = Arc::new(Created::withheld(progress));
    let progress: Arc<dyn Progress> = created.clone();
    let intake = Intake {
        content: Arc::new(engine.content()),
        downloads: Some(
            alive.downloads(engine.remotes().servers(), engine.remotes().fetcher(&name)?),
        ),
        progress,
        cancel: alive.cancel(),
    };
    let (target, platforms) = (needs.target.clone(), needs.platforms.clone());
    let bare = Bare::beside(wanted.platforms.clone());
    let layers = Layers::Leave;
    let handler = FetchHandler { intake: intake.clone(), platforms, layers, bare };
    {
        let _documents = enter(Stage::Documents);
        dispatch(&handler, target.clone(), jobs).await?;
    }
    let (mut needs, session) = needs.hold(session).await?;
    needs.unpacks = unpacks(&intake.content, &target, wanted).await?;
    let (mut chain_id, mut warnings) = (None, Vec::new());
    for unpacking in &needs.unpacks {
        let engine = engine.with_snapshotter(&unpacking.snapshotter);
        let work = (intake.clone(), alive.stop(), jobs);
        let (plan, warned) = unpack(&engine, work, &target, &unpacking.platform).await?;
        plan.tell_other(&name, &unpacking.platform, &*intake.progress);
        chain_id = chain_id.or(plan.chain_id());
        warnings.extend(warned);
    }
    fetch_layers(&intake, &needs, wanted, jobs).await?;
    let names = if wanted.names.is_empty() { vec![image_name] } else { wanted.names.clone() };
    let mut labels = wanted.labels.clone();
    labels.extend(approval.labels());
    let outer = outer.clone();
    let _commit = enter(Stage::Commit);
    let mut images = blocking(move || {
        let content = session.engine().content();
        let belongings = needs.find_whole(&content)?;
        let outlines = survey::outlines(&content, &belongings.descriptors(&target))?;
        let mut registration = belongings.registration(Some(&name));
        registration.outlines = outlines;
        let image = |name| (name, target.clone(), labels.clone());
        registration.images = names.into_iter().map(image).collect();
        let store = session.engine().store().clone();
        let documents = discard::documents(&registration);
        let images = session.finish(registration)?;
        created.tell();
        store.settle(SettleMode::Answer)?;
        // Only then the documents are read once more.
        for unpacking in needs.unpacks.iter().filter(|_| outer.discards()) {
            let engine = outer.with_snapshotter(&unpacking.snapshotter);
            let plan = needs.plan(&content, unpacking)?;
            discard::discard(&engine, &plan, &documents, Some(&name))?;
        }
        Ok(images)
    })
    .await?;
    let image = images.remove(0);
    let mirrors = engine.remotes().registries().mirrors();
    Ok(Pulled { image, others: images, chain_id, warnings, mirrors })
}

/// What a lease has to keep while an image is pulled.
pub(crate) struct Needs {
    pub(crate) target: Descriptor,
    platforms: Platforms,
    pub(crate) unpacks: Vec<Unpacking>,
    /// All that belongs to the image, once it is known.
    known: Option<Belongings>,
}

impl Needs {
    pub(crate) fn new(target: Descriptor, platforms: Platforms, unpacks: Vec<Unpacking>) -> Self {
        Self { target, platforms, unpacks, known: None }
    }

    /// Begins the work. What is there already is kept from the beginning on.
    async fn begin(mut self, engine: &Engine) -> Result<(Self, Session)> {
        let engine = engine.clone();
        blocking(move || {
            let needs = self.find(&engine.content())?.resources();
            Ok((self, Session::begin(&engine, needs)?))
        })
        .await
    }

    /// Keeps what documents name that have come since.
    async fn hold(mut self, mut session: Session) -> Result<(Self, Session)> {
        blocking(move || {
            session.hold(self.find(&session.engine().content())?.resources())?;
            Ok((self, session))
        })
        .await
    }

    /// What belongs to the image, as far as documents that are there say so.
    fn find(&mut self, content: &dyn Provider) -> Result<Belongings> {
        if let Some(known) = &self.known {
            return Ok(known.clone());
        }
        let mut found = Belongings::find(content, &self.target, &self.platforms)?;
        for unpacking in &self.unpacks {
            match self.plan(content, unpacking) {
                Ok(plan) => found.add_unpacked(&plan, &unpacking.snapshotter),
                // It can't be made yet, or at all: that is told when it is needed.
                Err(error) if is_of_content(&error) => found.partial = true,
                Err(error) => return Err(error),
            }
        }
        if !found.partial {
            self.known = Some(found.clone());
        }
        Ok(found)
    }

    /// What belongs to the image, now that all of it was brought. Documents that went meanwhile are
    /// an error: without the labels that they ask for, the rest would be collected.
    pub(crate) fn find_whole(&self, content: &dyn Provider) -> Result<Belongings> {
        let mut found = Belongings::find_whole(content, &self.target, &self.platforms)?;
        for unpacking in &self.unpacks {
            found.add_unpacked(&self.plan(content, unpacking)?, &unpacking.snapshotter);
        }
        Ok(found)
    }

    pub(crate) fn plan(&self, content: &dyn Provider, unpacking: &Unpacking) -> Result<Plan> {
        plan(content, &find_manifest(content, &self.target, &unpacking.platform)?)
    }
}

/// What is unpacked: an image that is for none of the platforms whose layers are brought is not.
async fn unpacks(
    content: &Arc<dyn Contents>,
    target: &Descriptor,
    wanted: &Wanted,
) -> Result<Vec<Unpacking>> {
    let (content, target, wanted) = (Arc::clone(content), target.clone(), wanted.clone());
    blocking(move || {
        if matches!(wanted.platforms, Platforms::All) {
            return Ok(wanted.unpacks);
        }
        let brought = manifests_below(&*content, &target, &wanted.platforms)?;
        let mut unpacks = Vec::new();
        for unpacking in wanted.unpacks {
            match find_manifest(&*content, &target, &unpacking.platform) {
                Ok(found) if brought.iter().any(|manifest| manifest.digest == found.digest) => {
                    unpacks.push(unpacking);
                }
                Err(error) if !is_of_content(&error) => return Err(error),
                _ => {
                    tracing::debug!(platform = %unpacking.platform, "nothing is brought to unpack")
                }
            }
        }
        Ok(unpacks)
    })
    .await
}

/// Brings the layers that are wanted and that unpacking has not brought.
async fn fetch_layers(intake: &Intake, needs: &Needs, wanted: &Wanted, jobs: usize) -> Result<()> {
    let unpacked = needs.unpacks.iter().map(|unpacking| unpacking.platform.clone()).collect();
    let unpacked = Platforms::Several(unpacked);
    let (content, target, platforms) =
        (intake.content.clone(), needs.target.clone(), wanted.platforms.clone());
    let layers = blocking(move || {
        let brought = match &unpacked {
            Platforms::Several(none) if none.is_empty() => Vec::new(),
            unpacked => layers_below(&*content, &target, unpacked)?,
        };
        let mut layers = layers_below(&*content, &target, &platforms)?;
        layers.retain(|layer| !brought.iter().any(|other| other.digest == layer.digest));
        Ok(layers)
    })
    .await?;
    intake.fetch_all(&layers.iter().collect::<Vec<_>>(), jobs).await
}

/// What a pinned name stands for where an image with that digest was pulled before, under whatever
/// name: a digest never changes, so nobody has to be asked.
fn pinned(engine: &Engine, name: &ImageName) -> Result<Option<Image>> {
    let Ok(reference) = dist_core::Reference::parse(name.as_str()) else { return Ok(None) };
    let Some(digest) = reference.digest() else { return Ok(None) };
    let images = engine.images().list()?.into_iter().filter(|it| it.target.digest == *digest);
    Ok(images.max_by_key(|image| image.name == *name))
}

/// Unpacks the image below `target`, whose documents are there.
pub(crate) async fn unpack(
    engine: &Engine,
    (intake, stop, jobs): (Intake, Stop, usize),
    target: &Descriptor,
    platform: &Platform,
) -> Result<(Plan, Vec<Warning>)> {
    let (content, target, platform) = (engine.content(), target.clone(), platform.clone());
    let plan = blocking(move || {
        let manifest = find_manifest(&content, &target, &platform)?;
        plan(&content, &manifest)
    })
    .await?;
    let warnings = Unpacker::new(engine, intake, stop, jobs)?.run(&plan).await?;
    Ok((plan, warnings))
}

/// Unpacks an image whose content is there, named by the digest of its manifest or index.
///
/// # Errors
/// `NotFound` naming a blob that is missing; those of the layers.
pub async fn unpack_manifest(
    on: &dyn Operations,
    digest: &Digest,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<(Option<ChainId>, Vec<Warning>)> {
    let (on, digest, platform) = (on.shared(), *digest, options.platform.clone());
    let (on, needs, plan, operation, snapshotter) = blocking(move || {
        let content = on.contents(Labels::new());
        let target = describe(&*content, &digest)?;
        let snapshotter = on.snapshotter_name()?;
        let unpacking = Unpacking { platform: platform.clone(), snapshotter: snapshotter.clone() };
        let platforms = Platforms::One(platform);
        let mut needs = Needs::new(target, platforms, vec![unpacking.clone()]);
        let operation = on.begin(needs.find(&*content)?.resources())?;
        let plan = needs.plan(&*operation.contents(), &unpacking)?;
        Ok((on, needs, plan, operation, snapshotter))
    })
    .await?;
    let warnings = operation.unpack(&plan, &snapshotter, options.jobs, progress).await?;
    let (content, chain_id) = (operation.contents(), plan.chain_id());
    blocking(move || {
        let registration = needs.find_whole(&*content)?.registration(None);
        let documents = discard::documents(&registration);
        operation.finish(registration)?;
        on.discard(&plan, &snapshotter, &documents)
    })
    .await?;
    Ok((chain_id, warnings))
}

/// Finds out what kind of document a digest in the store names.
///
/// # Errors
/// `NotFound`; `Corrupt` for something that is neither a manifest nor an index.
pub fn describe(content: &dyn Provider, digest: &Digest) -> Result<Descriptor> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        media_type: Option<MediaType>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let blob = content.open(digest)?;
    let mut desc = Descriptor::new(MediaType::Manifest, *digest, blob.size);
    let bytes = crate::layers::read_document(content, &desc)?;
    let head: Head = serde_json::from_slice(&bytes)
        .context(ErrorKind::Corrupt, || format!("read {digest}: it is no manifest"))?;
    desc.media_type = match head {
        Head { media_type: Some(media_type), .. } => media_type,
        Head { manifests: Some(_), .. } => MediaType::Index,
        Head { .. } => MediaType::Manifest,
    };
    Ok(desc)
}
