//! Layers that are kept unpacked only: the images of `erofs` hold the tar, so the blob may go.
//!
//! It goes after the snapshot is known to be on the disk, and only where it can be made or fetched
//! again ([`crate::restore`]). The store says what stands for it, so content presence stays honest.

use std::collections::BTreeSet;
use std::fs::File;

use dist_core::{
    Compression, Context as _, Descriptor, Digest, ErrorKind, LayerForm, Provider as _, Result,
    SnapshotInfo, Snapshotter,
};
use dist_layer::{Recipe, erofs_tar, image_path};
use dist_store::{NamedBy, Registration, SettleMode, UnpackedLayer, discarded_label};

use crate::Engine;
use crate::layers::{Layer, Plan};
use crate::references::source;

/// Whether a snapshot makes fetching the blob of its layer needless: because that was discarded, or
/// because it would be.
pub(crate) fn stands_for(
    snapshotter: &dyn Snapshotter,
    info: &SnapshotInfo,
    digest: &Digest,
    discards: bool,
) -> bool {
    matches!(snapshotter.layer_form(), LayerForm::Image { .. })
        && (discards || info.labels.contains_key(&discarded_label(digest)))
}

/// The documents of a registration, which may name blobs that are discarded.
pub(crate) fn documents(registration: &Registration) -> BTreeSet<Digest> {
    registration.labels.keys().copied().collect()
}

/// Discards the blobs of `plan`, unpacked with the engine's snapshotter, where the engine does that.
/// `name` is what the image was fetched by.
///
/// Waits until the snapshots are on the disk, unless nothing is to go.
pub(crate) fn discard(
    engine: &Engine,
    plan: &Plan,
    documents: &BTreeSet<Digest>,
    name: Option<&str>,
) -> Result<()> {
    if !engine.discards() || !matches!(engine.snapshotter()?.layer_form(), LayerForm::Image { .. })
    {
        return Ok(());
    }
    let mut layers = Vec::new();
    for layer in &plan.layers {
        layers.extend(unpacked(engine, layer)?);
    }
    if layers.is_empty() {
        return Ok(());
    }
    let (store, snapshotter) = (engine.store(), engine.snapshotter_name());
    store.settle(SettleMode::Base)?;
    let (named_by, source) = (NamedBy::Only(documents), name.and_then(source));
    let gone = store.discard(engine.scope(), snapshotter, &layers, named_by, source.as_ref())?;
    tracing::debug!(?gone, "discarded the blobs of unpacked layers");
    Ok(())
}

/// A layer, and how its blob can be made again, as far as its beginning shows; `None` where nothing
/// is left to be done for it.
fn unpacked(engine: &Engine, layer: &Layer) -> Result<Option<UnpackedLayer>> {
    let Layer { desc: Descriptor { digest, media_type, .. }, chain_id, .. } = layer;
    let (namespace, snapshotter) = (engine.namespace(), engine.snapshotter_name());
    let key = (*chain_id).into();
    let mut blob = match engine.content().open(digest) {
        Ok(blob) => blob,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let snapshot = engine.store().snapshots(namespace, snapshotter).get(&key)?;
            let known = snapshot.info.labels.contains_key(&discarded_label(digest));
            let layer = UnpackedLayer { key, digest: *digest, recipe: None, certain: false };
            return Ok((!known).then_some(layer));
        }
        Err(error) => return Err(error),
    };
    let dirs = dist_snapshot::layer_dirs(engine.store(), namespace, snapshotter, &key)?;
    let compression = media_type.layer_compression().unwrap_or(Compression::None);
    let mut find = || {
        let Some(dir) = dirs.first() else { return Ok(None) };
        let mut tar = erofs_tar(File::open(image_path(dir))?)?;
        Recipe::find(compression, &mut blob.file, &mut tar)
    };
    let what = || format!("read the image of snapshot {key}");
    let recipe = find().map_err(|error: std::io::Error| error).context(ErrorKind::Storage, what)?;
    let certain = recipe == Some(Recipe::PLAIN);
    let recipe = recipe.map(|recipe| recipe.to_string());
    Ok(Some(UnpackedLayer { key, digest: *digest, recipe, certain }))
}
