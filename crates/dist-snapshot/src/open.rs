//! Snapshotters by their names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{Error, ErrorKind, LayerForm, Namespace, Result, SnapshotKey, Snapshotter};
use dist_store::{Scope, SnapshotId, Store};

use crate::dirs::Dirs;
use crate::erofs::{Erofs, Images};
use crate::layout::{Layout, Trees};
use crate::native::Native;
use crate::overlay::Overlay;
use crate::snapshots::Snapshots;
use crate::{erofs, native, overlay};

/// The names of all snapshotters there are.
pub const NAMES: [&str; 3] = [overlay::NAME, erofs::NAME, native::NAME];

/// Opens the snapshotter `name` of a store and a namespace. What is made goes into the scope's
/// lease.
///
/// # Errors
/// `InvalidArgument` for an unknown name, and where `overlayfs` or `erofs` can't write the store's path in
/// mount options.
pub fn open(store: &Store, scope: impl Into<Scope>, name: &str) -> Result<Arc<dyn Snapshotter>> {
    let name = known(name)?;
    let (records, dirs) = (store.snapshots(scope, name), Dirs::new(store, name));
    Ok(match name {
        overlay::NAME => Arc::new(Snapshots::new(records, dirs, Overlay::new(store.root())?)),
        erofs::NAME => Arc::new(Snapshots::new(records, dirs, Erofs::new(store.root())?)),
        _ => Arc::new(Snapshots::new(records, dirs, Native)),
    })
}

/// How the snapshots of the snapshotter `name` lie on the disk.
pub(crate) fn layout(name: &'static str) -> &'static dyn Layout {
    if name == erofs::NAME { &Images } else { &Trees }
}

/// The best snapshotter that works for this process: `overlayfs` where it may mount one, else
/// `native`.
#[must_use]
pub fn default_name() -> &'static str {
    if overlay::is_mountable() { overlay::NAME } else { native::NAME }
}

/// Every snapshotter there is, and whether this process can mount what it makes.
#[must_use]
pub fn all() -> [(&'static str, bool); 3] {
    NAMES.map(|name| {
        let mountable = match name {
            overlay::NAME => overlay::is_mountable(),
            erofs::NAME => erofs::is_mountable(),
            _ => true,
        };
        (name, mountable)
    })
}

/// Whether this process could ever mount what the snapshotter `name` makes: images of `erofs` only root
/// may, and in no user namespace.
#[must_use]
pub fn is_allowed(name: &str) -> bool {
    name != erofs::NAME || erofs::is_allowed()
}

/// Whether snapshots of the snapshotter `name` may get their parent when they are committed, so that
/// layers can be unpacked in any order.
#[must_use]
pub fn can_rebase(name: &str) -> bool {
    name == overlay::NAME || name == erofs::NAME
}

/// How a layer is unpacked to a directory that is the writable one of an active snapshot of `store`
/// and becomes an image; `None` for any other directory, and where something was written to it.
///
/// # Errors
/// `FailedPrecondition` where a layer was unpacked to it before; `Storage`.
pub fn image_form(store: &Store, dir: &Path) -> Result<Option<LayerForm>> {
    let id = dir.parent().and_then(|dir| dir.file_name()?.to_str());
    let Some(id) = id.and_then(SnapshotId::parse) else { return Ok(None) };
    if Dirs::new(store, erofs::NAME).fs(id) != dir {
        return Ok(None);
    }
    erofs::form(store, dir)
}

/// The directories that images stand for, of where these are mounted.
#[must_use]
pub fn image_dirs(mounted: &[PathBuf]) -> Vec<PathBuf> {
    mounted.iter().map(|target| erofs::stands_for(target)).collect()
}

/// The directories of the snapshot `key` and of those below it, nearest first.
///
/// For `overlayfs` each holds one layer; for `native` the first holds all of them; for `erofs` an image
/// stands for each ([`dist_layer::image_path`]), which itself is gone when it is committed.
///
/// # Errors
/// `InvalidArgument` for an unknown snapshotter, `NotFound`, `Storage`.
pub fn layer_dirs(
    store: &Store,
    namespace: &Namespace,
    name: &str,
    key: &SnapshotKey,
) -> Result<Vec<PathBuf>> {
    let name = known(name)?;
    let record = store.snapshots(namespace, name).get(key)?;
    let dirs = Dirs::new(store, name);
    Ok([record.id].iter().chain(&record.parents).map(|id| dirs.fs(*id)).collect())
}

/// Looks for a snapshotter.
///
/// # Errors
/// `InvalidArgument` for a name that is none.
pub fn known(name: &str) -> Result<&'static str> {
    NAMES.into_iter().find(|known| *known == name).ok_or_else(|| {
        let message = format!("open snapshotter {name:?}: there are {}", NAMES.join(", "));
        Error::new(ErrorKind::InvalidArgument, message)
    })
}
