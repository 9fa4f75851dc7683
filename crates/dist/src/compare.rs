//! Two images side by side: manifests, configs and files.
//!
//! Layers that both begin with are the same bytes, so they are not fetched. What the others do is
//! listed, each fetched once and nothing unpacked, and laid one over the other.

mod fields;
mod files;

use std::collections::HashMap;
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Digest, Document, ErrorKind, Event, Fetcher, Manifest, Progress,
    Result, ResultExt as _,
};
use dist_layer::{LayerListing, Limits, list_layer};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;

pub use self::fields::FieldChange;
use self::files::Files;
pub use self::files::{FileChange, FileStatus};
use crate::blocking::{Alive, Downloads, blocking};
use crate::fetch::default_jobs;
use crate::input::Input;
use crate::plain::fetch_document;
use crate::servers::Servers;

/// A manifest, and where it is.
#[derive(Clone)]
pub struct Side {
    /// What fetches it and all that it names.
    pub fetcher: Arc<dyn Fetcher>,
    /// The manifest, not an index.
    pub manifest: Descriptor,
}

/// Choices for [`compare`].
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Whether files are compared, for which layers are fetched.
    pub files: bool,
    /// Whether layers that both have are read as well, so that it is known what is below a path that
    /// one side alone writes.
    pub whole: bool,
    /// What a layer may cost.
    pub limits: Limits,
    /// How many layers are read at a time.
    pub jobs: usize,
}

impl Default for CompareOptions {
    fn default() -> Self {
        Self { files: true, whole: false, limits: Limits::default(), jobs: default_jobs() }
    }
}

/// How the layers of two images differ.
#[derive(Clone, Debug, Default)]
pub struct LayerChanges {
    /// Those that both begin with.
    pub shared: Vec<Descriptor>,
    /// The others that both have, each once.
    pub moved: Vec<Descriptor>,
    /// Those of the first alone.
    pub removed: Vec<Descriptor>,
    /// Those of the second alone.
    pub added: Vec<Descriptor>,
}

/// How two images differ.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// The manifests, but for their layers.
    pub manifest: Vec<FieldChange>,
    /// The layers.
    pub layers: LayerChanges,
    /// The configs, where both are an image's.
    pub config: Vec<FieldChange>,
    /// The files, by their paths; `None` where they were not compared, as those of an artifact.
    pub files: Option<Vec<FileChange>>,
}

impl Comparison {
    /// Whether nothing differs that was compared.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        let LayerChanges { moved, removed, added, .. } = &self.layers;
        let layers = moved.is_empty() && removed.is_empty() && added.is_empty();
        let files = self.files.as_ref().is_none_or(Vec::is_empty);
        self.manifest.is_empty() && layers && self.config.is_empty() && files
    }
}

/// Compares two images.
///
/// # Errors
/// Those of fetching; `Corrupt`, `Unsupported`, `UnsafeLayer` and `ResourceExhausted` for documents and
/// layers that can't be read.
pub async fn compare(
    a: &Side,
    b: &Side,
    options: &CompareOptions,
    progress: Arc<dyn Progress>,
) -> Result<Comparison> {
    let (first, second) = (read(a).await?, read(b).await?);
    let layers = layer_changes(&first.1.layers, &second.1.layers);
    let mut found = Comparison { layers, ..Comparison::default() };
    found.manifest = fields::manifests(&first.0, &second.0);
    let (config, other) = (&first.1.config, &second.1.config);
    let are_images = config.media_type.is_config() && other.media_type.is_config();
    if are_images && config.digest != other.digest {
        let (config, other) = (json(a, config).await?, json(b, other).await?);
        found.config = fields::configs(&config, &other);
    }
    let mut all = first.1.layers.iter().chain(&second.1.layers);
    let are_layers = all.all(|layer| layer.media_type.layer_compression().is_some());
    if options.files && are_images && are_layers {
        let (first, second) = (&first.1.layers, &second.1.layers);
        let layers = (first.as_slice(), second.as_slice());
        found.files = Some(compare_files((a, b), layers, &found.layers, options, progress).await?);
    }
    Ok(found)
}

/// The layers that both begin with.
#[must_use]
pub fn shared_layers(a: &[Descriptor], b: &[Descriptor]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a.digest == b.digest).count()
}

fn layer_changes(a: &[Descriptor], b: &[Descriptor]) -> LayerChanges {
    let shared = shared_layers(a, b);
    let (left, right) = (&a[shared..], &b[shared..]);
    let has =
        |layers: &[Descriptor], digest: &Digest| layers.iter().any(|layer| layer.digest == *digest);
    let mut changes = LayerChanges { shared: a[..shared].to_vec(), ..LayerChanges::default() };
    for layer in left {
        if !has(b, &layer.digest) {
            changes.removed.push(layer.clone());
        } else if !has(&changes.moved, &layer.digest) {
            changes.moved.push(layer.clone());
        }
    }
    for layer in right {
        if !has(a, &layer.digest) {
            changes.added.push(layer.clone());
        } else if !has(&changes.moved, &layer.digest) {
            changes.moved.push(layer.clone());
        }
    }
    changes
}

async fn read(side: &Side) -> Result<(Value, Manifest)> {
    let desc = &side.manifest;
    let what = || format!("parse {} {}", desc.media_type.noun(), desc.digest);
    let bytes = fetch_document(&*side.fetcher, desc).await?;
    let value = serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what)?;
    match Document::parse(&desc.media_type, &bytes).during(what)? {
        Document::Manifest(manifest) => Ok((value, *manifest)),
        Document::Index(_) => Err(dist_core::Error::new(
            ErrorKind::InvalidArgument,
            format!("compare {}: it is an index", desc.digest),
        )),
    }
}

async fn json(side: &Side, desc: &Descriptor) -> Result<Value> {
    let bytes = fetch_document(&*side.fetcher, desc).await?;
    let what = || format!("parse {} {}", desc.media_type.noun(), desc.digest);
    serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what)
}

async fn compare_files(
    (a, b): (&Side, &Side),
    (first, second): (&[Descriptor], &[Descriptor]),
    changes: &LayerChanges,
    options: &CompareOptions,
    progress: Arc<dyn Progress>,
) -> Result<Vec<FileChange>> {
    let LayerChanges { shared, .. } = changes;
    let read_from = if options.whole { 0 } else { shared.len() };
    let (left, right) = (&first[read_from..], &second[read_from..]);
    if left.iter().map(|layer| layer.digest).eq(right.iter().map(|layer| layer.digest)) {
        return Ok(Vec::new()); // the same trees
    }
    let alive = Alive::new();
    let servers = Servers::new(1);
    let downloads = [a, b].map(|side| alive.downloads(&servers, Arc::clone(&side.fetcher)));
    let mut wanted: Vec<(Descriptor, Downloads)> = Vec::new();
    for (layers, downloads) in [left, right].iter().zip(&downloads) {
        for layer in *layers {
            if !wanted.iter().any(|(other, _)| other.digest == layer.digest) {
                wanted.push((layer.clone(), downloads.clone()));
            }
        }
    }
    let reading = wanted.into_iter().map(|(desc, downloads)| {
        let (limits, progress) = (options.limits, Arc::clone(&progress));
        // Work begins when the future is made, so it is made when its turn has come.
        async move { blocking(move || list(&desc, &downloads, limits, &*progress)).await }
    });
    let listings: HashMap<Digest, LayerListing> = futures_util::stream::iter(reading)
        .buffer_unordered(options.jobs.max(1))
        .try_collect()
        .await?;
    let is_whole = read_from == 0;
    let (left, right) = (left.to_vec(), right.to_vec());
    blocking(move || {
        let tree = |layers: &[Descriptor]| {
            let mut files = Files::default();
            for listing in layers.iter().filter_map(|layer| listings.get(&layer.digest)) {
                files.apply(listing);
            }
            files
        };
        Ok(files::compare(&tree(&left), &tree(&right), is_whole))
    })
    .await
}

/// Lists a layer and verifies it.
fn list(
    desc: &Descriptor,
    downloads: &Downloads,
    limits: Limits,
    progress: &dyn Progress,
) -> Result<(Digest, LayerListing)> {
    let what = || format!("read layer {}", desc.digest);
    progress.event(Event::Started { desc, offset: 0 });
    let mut input = Input::new(downloads.start(desc, 0), desc.digest, progress);
    let listed = list_layer((&desc.media_type, &mut input), limits);
    // That a layer is not the one that was meant explains what is wrong in it.
    let is_of_layer = |kind| matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsafeLayer);
    if !input.failed && listed.as_ref().map_or_else(|error| is_of_layer(error.kind()), |_| true) {
        input.verify(desc).during(what)?;
    }
    let listing = listed.during(what)?;
    progress.event(Event::Committed { digest: desc.digest });
    Ok((desc.digest, listing))
}
