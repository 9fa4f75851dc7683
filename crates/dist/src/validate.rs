//! Whether images are what the specification demands, all of it and not only what is used.
//!
//! Documents are walked from what a name stands for, then every blob that they name is read once,
//! hashed, and where it is a layer inflated and looked through. Nothing is kept and nothing is
//! unpacked. What is wrong becomes a [`Flaw`] and the walk goes on; only what keeps from looking (a
//! registry that does not answer, a disk that can't be read) is an error.

mod blobs;
mod config;
mod document;
mod json;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use dist_core::{
    Descriptor, DiffId, Digest, Error, ErrorKind, Fetcher, MAX_DEPTH, MediaType, Platform,
    Progress, Provider, Result,
};
use dist_layer::{Limits, Severity};
use serde_json::Value;

use self::blobs::Blobs;
use self::document::Named;
use crate::fetch::{Platforms, default_jobs};
use crate::plain::fetch_document;

/// Something that was found in an image.
#[derive(Debug)]
pub struct Flaw {
    /// How bad it is.
    pub severity: Severity,
    /// The document or layer that it is in.
    pub digest: Digest,
    /// What that is: `index`, `manifest`, `config`, `layer` or `blob`.
    pub noun: &'static str,
    /// Where in it: a path into the JSON, or the path of an entry; empty for the whole.
    pub place: String,
    /// What it is.
    pub what: String,
    /// Which part of the specification speaks of it, as `manifest.md#image-manifest`.
    pub spec: &'static str,
    /// The error that using it would give, where there is one.
    pub cause: Option<Error>,
}

/// What [`validate`] looked at, and what it found.
#[derive(Debug, Default)]
pub struct Validated {
    /// In the order of the documents, then of the blobs.
    pub flaws: Vec<Flaw>,
    /// How many indexes, manifests and configs were read.
    pub documents: u64,
    /// How many other blobs were read.
    pub blobs: u64,
    /// How many bytes all of these have.
    pub bytes: u64,
}

impl Validated {
    /// How many flaws are so bad.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.flaws.iter().filter(|flaw| flaw.severity == severity).count()
    }
}

/// Choices for [`validate`].
#[derive(Clone, Debug)]
pub struct ValidateOptions {
    /// Which entries of indexes are looked at: all.
    pub platforms: Platforms,
    /// What a layer may cost.
    pub limits: Limits,
    /// How many blobs are read at a time.
    pub jobs: usize,
    /// Whether what an index names may be missing, as in a store that has one platform.
    pub partial: bool,
    /// Blobs that are known to be elsewhere.
    pub left_out: HashSet<Digest>,
}

impl Default for ValidateOptions {
    fn default() -> Self {
        let (platforms, limits) = (Platforms::All, Limits::default());
        let left_out = HashSet::new();
        Self { platforms, limits, jobs: default_jobs(), partial: false, left_out }
    }
}

/// Looks at everything from `targets` down, which may be indexes, manifests, configs and layers.
///
/// # Errors
/// `NotFound` for a platform that an index has nothing for; what `fetcher` fails with, where it is not
/// about the content.
pub async fn validate(
    fetcher: Arc<dyn Fetcher>,
    targets: Vec<Descriptor>,
    options: &ValidateOptions,
    progress: Arc<dyn Progress>,
) -> Result<Validated> {
    let mut walk = Walk {
        fetcher: Arc::clone(&fetcher),
        options,
        done: Validated::default(),
        seen: HashSet::new(),
        blobs: Vec::new(),
        queued: HashSet::new(),
        promises: Vec::new(),
    };
    let roots = targets.into_iter().map(|desc| Named { desc, place: String::new(), parent: None });
    let mut level: Vec<Named> = roots.collect();
    for _ in 0..=MAX_DEPTH {
        let mut next = Vec::new();
        for named in level {
            next.extend(walk.visit(named).await?);
        }
        level = next;
    }
    if let Some(left) = level.first() {
        let spec = "image-index.md";
        walk.flaw(Severity::Error, &left.desc, "", "indexes are nested too deep", spec);
    }
    let blobs = Blobs { fetcher, limits: options.limits, progress };
    let read = blobs.read(std::mem::take(&mut walk.blobs), options.jobs).await?;
    let mut diff_ids = HashMap::new();
    for blob in read {
        walk.done.flaws.extend(blob.flaws);
        walk.done.blobs += u64::from(blob.there);
        walk.done.bytes += if blob.there { blob.desc.size } else { 0 };
        diff_ids.extend(blob.diff_id.map(|diff_id| (blob.desc.digest, diff_id)));
    }
    walk.compare(&diff_ids);
    Ok(walk.done)
}

/// Tells what a digest in a store names: a manifest, an index, a config, a layer, or something else.
///
/// # Errors
/// `NotFound`; `Storage`.
pub fn describe_blob(content: &dyn Provider, digest: &Digest) -> Result<Descriptor> {
    match crate::describe(content, digest) {
        Ok(mut desc) => {
            let bytes = crate::read_document(content, &desc)?;
            let read: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            if read.get("rootfs").is_some() && read.get("layers").is_none() {
                desc.media_type = MediaType::Config;
            }
            Ok(desc)
        }
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::ResourceExhausted) => {
            let mut blob = content.open(digest)?;
            let mut start = Vec::new();
            let head = &mut std::io::Read::take(&mut blob.file, 6);
            std::io::Read::read_to_end(head, &mut start).map_err(|source| {
                Error::new(ErrorKind::Storage, format!("read {digest}")).with_source(source)
            })?;
            let compression = dist_layer::detect(&start)?;
            Ok(Descriptor::new(MediaType::Layer(compression), *digest, blob.size))
        }
        Err(error) => Err(error),
    }
}

/// A diff ID that a config gives to a layer.
struct Promise {
    config: Digest,
    at: usize,
    layer: Digest,
    diff_id: DiffId,
}

struct Walk<'a> {
    fetcher: Arc<dyn Fetcher>,
    options: &'a ValidateOptions,
    done: Validated,
    seen: HashSet<(Digest, MediaType)>,
    /// What is to be read, each once.
    blobs: Vec<Descriptor>,
    queued: HashSet<Digest>,
    promises: Vec<Promise>,
}

impl Walk<'_> {
    fn flaw(
        &mut self,
        severity: Severity,
        desc: &Descriptor,
        place: impl Into<String>,
        what: impl Into<String>,
        spec: &'static str,
    ) {
        let (digest, noun) = (desc.digest, desc.media_type.noun());
        let (place, what) = (place.into(), what.into());
        self.done.flaws.push(Flaw { severity, digest, noun, place, what, spec, cause: None });
    }

    /// Looks at what one descriptor names; returns what is to be looked at next.
    async fn visit(&mut self, named: Named) -> Result<Vec<Named>> {
        let media_type = &named.desc.media_type;
        if media_type.is_index() || media_type.is_manifest() {
            return self.document(&named).await;
        }
        if media_type.is_config() && named.parent.is_none() {
            self.config(&named.desc, None, None).await?;
            return Ok(Vec::new());
        }
        if *media_type == MediaType::DockerSchema1 {
            let what = "Docker's schema 1 is not supported";
            self.flaw(Severity::Error, &named.desc, "", what, "manifest.md");
            return Ok(Vec::new());
        }
        self.queue(named.desc);
        Ok(Vec::new())
    }

    fn queue(&mut self, desc: Descriptor) {
        if self.queued.insert(desc.digest) && !self.is_left_out(&desc) {
            self.blobs.push(desc);
        }
    }

    /// Notes what a bundle does not have and need not have.
    fn is_left_out(&mut self, desc: &Descriptor) -> bool {
        let is_left_out = self.options.left_out.contains(&desc.digest);
        if is_left_out {
            let what = "it was left out of the bundle, and not looked at";
            self.flaw(Severity::Note, desc, "", what, "descriptor.md#digests");
        }
        is_left_out
    }

    /// Reads and parses a document, once; nothing where that can't be done, which is a flaw.
    async fn read(
        &mut self,
        desc: &Descriptor,
        optional: bool,
    ) -> Result<Option<(Vec<u8>, Value)>> {
        if !self.seen.insert((desc.digest, desc.media_type.clone())) || self.is_left_out(desc) {
            return Ok(None);
        }
        let bytes = match fetch_document(&*self.fetcher, desc).await {
            Ok(bytes) => bytes,
            Err(error) => {
                if error.kind() == ErrorKind::NotFound && optional {
                    let what = "it is not there, and was not looked at";
                    self.flaw(Severity::Note, desc, "", what, "image-index.md");
                    return Ok(None);
                }
                let mut flaw = blobs::unreadable(desc, error)?;
                flaw.severity = Severity::Error;
                self.done.flaws.push(flaw);
                return Ok(None);
            }
        };
        self.done.documents += 1;
        self.done.bytes += bytes.len() as u64;
        let read = json::read(&bytes);
        for (place, what) in read.problems {
            self.flaw(Severity::Error, desc, place, what, "RFC 8259");
        }
        Ok(read.value.map(|value| (bytes, value)))
    }

    async fn document(&mut self, named: &Named) -> Result<Vec<Named>> {
        let desc = &named.desc;
        let optional = named.parent.is_some() && self.options.partial;
        let Some((bytes, value)) = self.read(desc, optional).await? else { return Ok(Vec::new()) };
        let before = self.done.count(Severity::Error);
        let children = document::check(&value, desc, &mut self.done.flaws);
        // Whatever else keeps it from being used.
        if let Err(error) = dist_core::Document::parse(&desc.media_type, &bytes)
            && self.done.count(Severity::Error) == before
        {
            let what = "it is refused when it is used";
            self.flaw(Severity::Error, desc, "", what, "manifest.md");
            if let Some(flaw) = self.done.flaws.last_mut() {
                flaw.cause = Some(error);
            }
        }
        if desc.media_type.is_index() {
            let wanted = children.iter().map(|child| child.desc.clone()).collect();
            let wanted = match &self.options.platforms {
                Platforms::All => return Ok(children),
                platforms => platforms.choose(wanted)?,
            };
            let is_wanted =
                |child: &Named| wanted.iter().any(|desc| desc.digest == child.desc.digest);
            return Ok(children.into_iter().filter(is_wanted).collect());
        }
        let (configs, layers): (Vec<_>, Vec<_>) =
            children.into_iter().partition(|child| child.place == "config");
        let layers: Vec<Descriptor> = layers.into_iter().map(|child| child.desc).collect();
        for config in configs {
            if config.desc.media_type.is_config() {
                for (at, layer) in layers.iter().enumerate() {
                    if layer.media_type.layer_compression().is_none() && !is_statement(layer) {
                        let what = format!(
                            "{:?} is no layer's type: it can't be unpacked",
                            layer.media_type.as_str()
                        );
                        let place = format!("layers[{at}].mediaType");
                        self.flaw(Severity::Warning, desc, place, what, document::MANIFEST);
                    }
                }
                self.config(&config.desc, desc.platform.as_ref(), Some(&layers)).await?;
            } else {
                self.queue(config.desc);
            }
        }
        layers.into_iter().for_each(|layer| self.queue(layer));
        Ok(Vec::new())
    }

    /// Looks at a config; `platform` is what the index says of the manifest.
    async fn config(
        &mut self,
        desc: &Descriptor,
        platform: Option<&Platform>,
        layers: Option<&[Descriptor]>,
    ) -> Result<()> {
        let Some((_, value)) = self.read(desc, false).await? else { return Ok(()) };
        let is_of_statements =
            layers.is_some_and(|layers| !layers.is_empty() && layers.iter().all(is_statement));
        let about = config::About { platform, layers, is_of_statements };
        let diff_ids = config::check(&value, desc, &about, &mut self.done.flaws);
        let pairs = layers.unwrap_or_default().iter().zip(diff_ids).enumerate();
        self.promises.extend(pairs.filter_map(|(at, (layer, diff_id))| {
            let (config, layer) = (desc.digest, layer.digest);
            diff_id.map(|diff_id| Promise { config, at, layer, diff_id })
        }));
        Ok(())
    }

    /// Compares diff IDs with those of the layers that could be read.
    fn compare(&mut self, diff_ids: &HashMap<Digest, DiffId>) {
        for Promise { config, at, layer, diff_id } in std::mem::take(&mut self.promises) {
            let Some(got) = diff_ids.get(&layer).filter(|got| **got != diff_id) else { continue };
            let what = format!("it is {}, but the layer {layer} has {}", diff_id.0, got.0);
            let desc = Descriptor::new(MediaType::Config, config, 0);
            let place = format!("rootfs.diff_ids[{at}]");
            self.flaw(Severity::Error, &desc, place, what, "config.md#layer-diffid");
        }
    }
}

/// Whether a layer is a statement about an image, as BuildKit and cosign lay them beside it.
fn is_statement(layer: &Descriptor) -> bool {
    matches!(layer.media_type.as_str(), "application/vnd.in-toto+json" | dist_policy::SIMPLE_TYPE)
}
