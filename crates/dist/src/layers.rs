//! The layers of one image: what to unpack under which chain ID.

use dist_core::{
    ChainId, ContentMismatch, Descriptor, DiffId, Digest, Document, Error, ErrorKind, Event,
    ImageConfig, MAX_DOCUMENT_BYTES, Platform, Progress, Provider, Result, ResultExt as _,
    chain_ids, children, read_verified, select_platform,
};

use crate::fetch::Platforms;

/// One layer, and where it stands in its image.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its blob.
    pub desc: Descriptor,
    /// The digest of its tar archive.
    pub diff_id: DiffId,
    /// The name of the snapshot that it and all below it are unpacked into.
    pub chain_id: ChainId,
    /// The same of the layer below; `None` for the lowest.
    pub parent: Option<ChainId>,
}

impl Layer {
    /// Fails unless `got` is the diff ID that the config promised.
    ///
    /// # Errors
    /// `Corrupt` with a [`ContentMismatch`].
    pub fn check_diff_id(&self, got: DiffId) -> Result<()> {
        if got == self.diff_id {
            return Ok(());
        }
        let mismatch = ContentMismatch::Digest { expected: self.diff_id.0, got: got.0 };
        let message = format!("verify the diff ID of layer {}", self.desc.digest);
        Err(Error::new(ErrorKind::Corrupt, message).with_source(mismatch))
    }
}

/// An image for one platform, read from documents that were verified.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The config.
    pub config: Digest,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
    /// The platform that it runs on, by its config.
    pub platform: Platform,
}

impl Plan {
    /// Pairs a manifest's layers with the diff IDs of its config, whose digest is `digest`.
    pub(crate) fn new(
        layers: Vec<Descriptor>,
        digest: Digest,
        config: &ImageConfig,
    ) -> Result<Self> {
        if layers.len() != config.diff_ids.len() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "match layers with the config: the manifest has {} layers, the config {} diff IDs",
                    layers.len(),
                    config.diff_ids.len()
                ),
            ));
        }
        if let Some(odd) =
            layers.iter().find(|layer| layer.media_type.layer_compression().is_none())
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "unpack layer {}: media type {:?} is not supported",
                    odd.digest,
                    odd.media_type.as_str()
                ),
            ));
        }
        let chain = chain_ids(&config.diff_ids);
        let layers = layers
            .into_iter()
            .enumerate()
            .map(|(index, desc)| Layer {
                desc,
                diff_id: config.diff_ids[index],
                chain_id: chain[index],
                parent: index.checked_sub(1).map(|below| chain[below]),
            })
            .collect();
        Ok(Self { config: digest, layers, platform: config.platform.clone() })
    }

    /// Warns where it does not run where it was wanted for: an index may lie, and an image that is in
    /// none was not chosen.
    pub(crate) fn tell_other(&self, name: &str, wanted: &Platform, progress: &dyn Progress) {
        tell_other(name, (&self.platform, wanted), progress);
    }

    /// The snapshot that holds the whole image; `None` where it has no layers.
    pub(crate) fn chain_id(&self) -> Option<ChainId> {
        self.layers.last().map(|layer| layer.chain_id)
    }
}

/// Warns where an image is for another platform than is wanted.
pub(crate) fn tell_other(
    name: &str,
    (there, wanted): (&Platform, &Platform),
    progress: &dyn Progress,
) {
    if there.architecture.is_empty() || wanted.rank(there).is_some() {
        return;
    }
    let message = format!("{name} is for {there}, not for {wanted}, and there is no other");
    progress.event(Event::Warned { message: &message });
}

/// Finds the manifest for `platform` below `target`, in content that is there.
///
/// # Errors
/// `NotFound` for an index that is not there, or has nothing for the platform; `Corrupt`; `Storage`.
pub fn find_manifest(
    provider: &dyn Provider,
    target: &Descriptor,
    platform: &Platform,
) -> Result<Descriptor> {
    let mut desc = target.clone();
    for _ in 0..dist_core::MAX_DEPTH {
        if !desc.media_type.is_index() {
            return Ok(desc);
        }
        desc = best(children(provider, &desc)?, platform)?;
    }
    Err(too_deep(target))
}

/// The error for indexes below `target` that nobody follows any further.
pub(crate) fn too_deep(target: &Descriptor) -> Error {
    let message = format!("walk {}: its indexes are nested too deep", target.digest);
    Error::new(ErrorKind::Corrupt, message)
}

/// The layers of all manifests for `platforms` below `target`, in documents that are there, each
/// once.
pub(crate) fn layers_below(
    provider: &dyn Provider,
    target: &Descriptor,
    platforms: &Platforms,
) -> Result<Vec<Descriptor>> {
    let mut layers: Vec<Descriptor> = Vec::new();
    for manifest in manifests_below(provider, target, platforms)? {
        let below = children(provider, &manifest)?;
        layers.extend(below.into_iter().filter(|d| d.media_type.layer_compression().is_some()));
    }
    layers.sort_by_key(|layer| layer.digest);
    layers.dedup_by_key(|layer| layer.digest);
    Ok(layers)
}

/// All manifests for `platforms` below `target`, in indexes that are there.
pub(crate) fn manifests_below(
    provider: &dyn Provider,
    target: &Descriptor,
    platforms: &Platforms,
) -> Result<Vec<Descriptor>> {
    let mut manifests: Vec<Descriptor> = Vec::new();
    let mut level = vec![target.clone()];
    let mut seen = std::collections::HashSet::new();
    for _ in 0..dist_core::MAX_DEPTH {
        let mut next = Vec::new();
        for desc in level {
            // What one index names as something else may be a manifest by another's word.
            if !seen.insert((desc.digest, desc.media_type.clone())) {
                continue;
            }
            if desc.media_type.is_index() {
                next.extend(platforms.choose(children(provider, &desc)?)?);
            } else {
                manifests.push(desc);
            }
        }
        level = next;
    }
    Ok(manifests)
}

/// The entry of an index that suits `platform` best.
pub(crate) fn best(entries: Vec<Descriptor>, platform: &Platform) -> Result<Descriptor> {
    select_platform(entries, platform)?
        .into_iter()
        .next()
        .ok_or_else(|| Error::new(ErrorKind::NotFound, "the index is empty"))
}

/// Reads the plan of a manifest whose config is there.
pub(crate) fn plan(provider: &dyn Provider, manifest: &Descriptor) -> Result<Plan> {
    let bytes = read_document(provider, manifest)?;
    let (config, layers) = image_parts(manifest, &bytes)?;
    let bytes = read_document(provider, &config)?;
    let parsed = ImageConfig::parse(&bytes).during(|| format!("parse config {}", config.digest))?;
    Plan::new(layers, config.digest, &parsed).during(|| format!("unpack image {}", manifest.digest))
}

/// The config and the layers of a manifest that is an image's.
pub(crate) fn image_parts(
    manifest: &Descriptor,
    bytes: &[u8],
) -> Result<(Descriptor, Vec<Descriptor>)> {
    let document = Document::parse(&manifest.media_type, bytes)
        .during(|| format!("parse {} {}", manifest.media_type.noun(), manifest.digest))?;
    let Document::Manifest(read) = document else {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is an index, not a manifest", manifest.digest),
        ));
    };
    if !read.config.media_type.is_config() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "unpack {}: it is an artifact, not an image (its config is {:?})",
                manifest.digest,
                read.config.media_type.as_str()
            ),
        ));
    }
    Ok((read.config, read.layers))
}

/// Reads a manifest, an index or a config that is there, and compares it with its digest.
///
/// # Errors
/// `ResourceExhausted` where it is too long; those of [`dist_core::read_verified`].
pub fn read_document(provider: &dyn Provider, desc: &Descriptor) -> Result<Vec<u8>> {
    check_document_size(desc)?;
    read_verified(provider, &desc.digest)
}

/// Refuses documents larger than any registry takes, before they are fetched.
pub(crate) fn check_document_size(desc: &Descriptor) -> Result<()> {
    if desc.size <= MAX_DOCUMENT_BYTES {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ResourceExhausted,
        format!("fetch {} {} of {} bytes", desc.media_type.noun(), desc.digest, desc.size),
    )
    .with_source(dist_core::Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES }))
}
