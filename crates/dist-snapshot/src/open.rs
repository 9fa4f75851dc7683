//! Snapshotters by their names.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use dist_core::{Error, ErrorKind, Namespace, Result, SnapshotKey, Snapshotter};
use dist_store::{Scope, SnapshotId, Store};

use crate::dirs::{self, Dirs, Making};
use crate::native::Native;
use crate::overlay::Overlay;
use crate::snapshots::Snapshots;
use crate::{native, overlay};

/// The names of all snapshotters there are.
pub const NAMES: [&str; 2] = [overlay::NAME, native::NAME];

/// Opens the snapshotter `name` of a store and a namespace. What is made goes into the scope's
/// lease.
///
/// # Errors
/// `InvalidArgument` for an unknown name, and where `overlayfs` can't write the store's path in
/// mount options.
pub fn open(store: &Store, scope: impl Into<Scope>, name: &str) -> Result<Arc<dyn Snapshotter>> {
    let name = known(name)?;
    let (records, dirs) = (store.snapshots(scope, name), Dirs::new(store, name));
    Ok(match name {
        overlay::NAME => Arc::new(Snapshots::new(records, dirs, Overlay::new(store.root())?)),
        _ => Arc::new(Snapshots::new(records, dirs, Native)),
    })
}

/// The best snapshotter that works for this process: `overlayfs` where it may mount one, else
/// `native`.
#[must_use]
pub fn default_name() -> &'static str {
    if overlay::is_mountable() { overlay::NAME } else { native::NAME }
}

/// Every snapshotter there is, and whether this process can mount what it makes.
#[must_use]
pub fn all() -> [(&'static str, bool); 2] {
    NAMES.map(|name| (name, name != overlay::NAME || overlay::is_mountable()))
}

/// The directories of the snapshot `key` and of those below it, nearest first.
///
/// For `overlayfs` each holds one layer; for `native` the first holds all of them.
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

/// Removes the directories of snapshots that have no row, of every snapshotter and namespace, and
/// all that is in the trash. Returns how many they were.
///
/// Safe at any time, whatever else uses the store.
///
/// # Errors
/// The first failure, after all others have been tried.
pub fn purge(store: &Store) -> Result<u64> {
    store.check_writable()?;
    let mut count = 0;
    let mut failure = None;
    for name in NAMES {
        let dirs = Dirs::new(store, name);
        let (_alone, garbage) = garbage(store, &dirs, name)?;
        for id in garbage {
            match dirs.discard(id) {
                Ok(()) => count += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
    }
    match dirs::purge_trash(store) {
        Ok(trash) => count += trash,
        Err(error) => failure = failure.or(Some(error)),
    }
    failure.map_or(Ok(count), Err)
}

/// The directories that have no row and get none while the lock, if any, is held.
///
/// A row is there before its directory. An id that was given away is never used again; one above
/// those (a power cut took its row back) is some next snapshot's, so such a directory is garbage
/// only while nobody makes a snapshot.
fn garbage(
    store: &Store,
    dirs: &Dirs,
    name: &str,
) -> Result<(Option<Making>, BTreeSet<SnapshotId>)> {
    // In this order: what is dead by the first two can't be among the rows.
    let mut there: BTreeSet<_> = dirs.list()?.into_iter().collect();
    let last = store.last_snapshot_id()?;
    let mut alone = None;
    if there.last().copied() > last {
        alone = dirs.making_alone()?;
        if alone.is_none() {
            there.retain(|id| Some(*id) <= last);
        }
    }
    for id in store.snapshot_ids(name)? {
        there.remove(&id);
    }
    Ok((alone, there))
}

/// Looks for a snapshotter.
///
/// # Errors
/// `InvalidArgument` for a name that is none.
pub fn known(name: &str) -> Result<&'static str> {
    NAMES.into_iter().find(|known| *known == name).ok_or_else(|| {
        let message = format!("open snapshotter {name:?}: there are {}", NAMES.join(" and "));
        Error::new(ErrorKind::InvalidArgument, message)
    })
}
