//! A name into a registered image with its snapshots.

use std::sync::Arc;

use dist_core::{
    ChainId, Context as _, Descriptor, Digest, ErrorKind, Event, Image, ImageName, Labels,
    MediaType, Platform, Progress, Provider, Resolver as _, Result, Warning, dispatch,
};
use dist_store::SettleMode;

use crate::Engine;
use crate::blocking::{Alive, Downloads, Stop, blocking};
use crate::fetch::{FetchHandler, Layers, Platforms, default_jobs, resolve};
use crate::ingest::Intake;
use crate::layers::{Plan, find_manifest, plan};
use crate::unpack::Unpacker;

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

/// What a pull left behind.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The registered image.
    pub image: Image,
    /// The snapshot that holds its root; `None` for an image without layers.
    pub chain_id: Option<ChainId>,
    /// What could not be done and is no error.
    pub warnings: Vec<Warning>,
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
    let alive = Alive::new();
    let name = engine.remotes().canonical(name)?;
    let image_name: ImageName = name
        .parse()
        .context(ErrorKind::InvalidArgument, || format!("parse image name {name:?}"))?;
    let target = match pinned(engine, &image_name)? {
        Some(target) => {
            progress.event(Event::Resolved { name: &name, target: &target });
            target
        }
        None => resolve(engine, &name, &*progress).await?.target,
    };
    let intake = Intake {
        content: engine.content(),
        downloads: Some(alive.downloads(engine.remotes().fetcher(&name)?)),
        progress,
        cancel: alive.cancel(),
    };
    let handler = FetchHandler {
        intake: intake.clone(),
        platforms: Platforms::One(options.platform.clone()),
        layers: Layers::Leave,
    };
    dispatch(&handler, target.clone(), options.jobs).await?;
    let (plan, warnings) = unpack(engine, intake, alive.stop(), &target, options).await?;
    let chain_id = plan.chain_id();
    let (images, store) = (engine.images(), engine.store().clone());
    let image = blocking(move || {
        let image = images.put(&image_name, &target, &Labels::new())?;
        store.settle(SettleMode::Answer)?;
        Ok(image)
    })
    .await?;
    Ok(Pulled { image, chain_id, warnings })
}

/// What a pinned name stands for where an image with that digest was pulled before, under whatever
/// name: a digest never changes, so nobody has to be asked.
fn pinned(engine: &Engine, name: &ImageName) -> Result<Option<Descriptor>> {
    let Ok(reference) = dist_core::Reference::parse(name.as_str()) else { return Ok(None) };
    let Some(digest) = reference.digest() else { return Ok(None) };
    let images = engine.images().list()?;
    Ok(images.into_iter().map(|image| image.target).find(|target| target.digest == *digest))
}

/// Unpacks the image below `target`, whose documents are there.
async fn unpack(
    engine: &Engine,
    intake: Intake,
    stop: Stop,
    target: &Descriptor,
    options: &PullOptions,
) -> Result<(Plan, Vec<Warning>)> {
    let (content, target, platform) = (engine.content(), target.clone(), options.platform.clone());
    let plan = blocking(move || {
        let manifest = find_manifest(&content, &target, &platform)?;
        plan(&content, &manifest)
    })
    .await?;
    let unpacker = Unpacker {
        store: engine.store().clone(),
        namespace: engine.namespace().clone(),
        snapshotter: engine.snapshotter()?,
        limits: *engine.limits(),
        intake,
        stop,
        jobs: options.jobs,
    };
    let warnings = unpacker.run(&plan).await?;
    Ok((plan, warnings))
}

/// Unpacks an image whose content is in the store, named by the digest of its manifest or index.
///
/// # Errors
/// `NotFound` naming a blob that is missing; those of the layers.
pub async fn unpack_manifest(
    engine: &Engine,
    digest: &Digest,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<(Option<ChainId>, Vec<Warning>)> {
    let alive = Alive::new();
    let target = describe(&engine.content(), digest)?;
    let downloads: Option<Downloads> = None;
    let intake = Intake { content: engine.content(), downloads, progress, cancel: alive.cancel() };
    let (plan, warnings) = unpack(engine, intake, alive.stop(), &target, options).await?;
    let store = engine.store().clone();
    blocking(move || store.settle(SettleMode::Answer)).await?;
    Ok((plan.chain_id(), warnings))
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
