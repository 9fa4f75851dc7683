//! Directories that belong to no snapshot any more.
//!
//! A row is there before its directory and goes before it, so whatever has no row is garbage: what
//! a collection left to be removed, and what a process left that was killed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dist_core::{Error, ErrorKind, Result};
use dist_store::{SnapshotId, Store};

use crate::dirs::{self, Dirs, Making};
use crate::{NAMES, usage};

/// Something that belongs to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Where it is, or was.
    pub path: PathBuf,
    /// The snapshot that it belonged to; `None` for something in the trash.
    pub id: Option<SnapshotId>,
    /// What it takes on the disk; 0 where it can't be measured.
    pub bytes: u64,
}

/// Removes the directories of snapshots that have no row, of every snapshotter and namespace, those
/// that committed snapshots have left, and all that is in the trash. Returns how many they were.
///
/// Safe at any time, whatever else uses the store. A directory that something is mounted on is left
/// for another time.
///
/// # Errors
/// The first failure, after all others have been tried.
pub fn purge(store: &Store) -> Result<u64> {
    let mut count = 0;
    purge_each(store, &mut |_| count += 1)?;
    Ok(count)
}

/// As [`purge`]; measures what it removes.
///
/// # Errors
/// As [`purge`].
pub fn purge_measured(store: &Store) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    purge_each(store, &mut |found| leftovers.push(found()))?;
    Ok(leftovers)
}

/// Removes all that is in the trash, blobs as well. Safe at any time, as [`purge`] is.
///
/// # Errors
/// The first failure, after all others have been tried.
pub fn empty_trash(store: &Store) -> Result<()> {
    store.check_writable()?;
    empty(store, &mut |_| ())
}

/// What [`purge`] would remove.
///
/// # Errors
/// `Storage`.
pub fn leftovers(store: &Store) -> Result<Vec<Leftover>> {
    let mut leftovers = Vec::new();
    for name in NAMES {
        let dirs = Dirs::new(store, name);
        each_left_directory(store, &dirs, name, &mut |id| {
            leftovers.push(measured_directory(&dirs, id));
        })?;
        let (_alone, garbage) = garbage(store, &dirs, name)?;
        leftovers.extend(garbage.into_iter().map(|id| measured_snapshot(&dirs, id)));
    }
    leftovers.extend(dirs::trash(store)?.iter().map(|path| measured(path)));
    Ok(leftovers)
}

/// What the files of a snapshot take on the disk; 0 where it can't be measured.
#[must_use]
pub fn directory_bytes(store: &Store, snapshotter: &str, id: SnapshotId) -> u64 {
    let name = NAMES.into_iter().find(|name| *name == snapshotter);
    name.map_or(0, |name| measured_snapshot(&Dirs::new(store, name), id).bytes)
}

/// Tells of each thing before it removes it.
fn purge_each(store: &Store, tell: &mut dyn FnMut(&dyn Fn() -> Leftover)) -> Result<()> {
    store.check_writable()?;
    let mut failure: Option<Error> = None;
    for name in NAMES {
        let dirs = Dirs::new(store, name);
        let mut note = |id, discarded: Result<()>| match discarded {
            Err(error) if error.kind() == ErrorKind::Busy => {
                tracing::debug!(%id, ?error, "a directory without a snapshot is in use");
            }
            Err(error) if failure.is_none() => failure = Some(error),
            _ => (),
        };
        each_left_directory(store, &dirs, name, &mut |id| {
            let discard = || {
                dirs.check_idle(id)?;
                tell(&|| measured_directory(&dirs, id));
                dirs::remove_tree(&dirs.dir(id))
            };
            note(id, { discard }());
        })?;
        let (_alone, garbage) = garbage(store, &dirs, name)?;
        for id in garbage {
            let discard = || {
                dirs.check_idle(id)?;
                tell(&|| measured_snapshot(&dirs, id));
                dirs.discard(id)
            };
            note(id, { discard }());
        }
        let there: Vec<_> = dirs.list()?.into_iter().collect();
        dirs.release(&there, || store.snapshots_below_open(name));
    }
    let emptied = empty(store, &mut |path| tell(&|| measured(path)));
    failure.map_or(emptied, Err)
}

fn empty(store: &Store, tell: &mut dyn FnMut(&Path)) -> Result<()> {
    let mut failure = None;
    for path in dirs::trash(store)? {
        tell(&path);
        if let Err(error) = dirs::remove_tree(&path) {
            failure = failure.or(Some(error));
        }
    }
    failure.map_or(Ok(()), Err)
}

fn measured(path: &Path) -> Leftover {
    Leftover { path: path.into(), id: None, bytes: disk_bytes(path) }
}

fn measured_snapshot(dirs: &Dirs, id: SnapshotId) -> Leftover {
    let found = dirs.found(id);
    let bytes = found.iter().map(|path| disk_bytes(path)).sum();
    let path = found.into_iter().next().unwrap_or_else(|| dirs.dir(id));
    Leftover { path, id: Some(id), bytes }
}

fn measured_directory(dirs: &Dirs, id: SnapshotId) -> Leftover {
    let path = dirs.dir(id);
    Leftover { bytes: disk_bytes(&path), path, id: Some(id) }
}

/// What a file or directory takes on the disk; 0 where it can't be measured.
#[must_use]
pub fn disk_bytes(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => usage::measure(path).map_or(0, |usage| usage.bytes),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    }
}

/// Visits the directories that committed snapshots have left, whose makers were killed before they
/// removed them; none while anybody makes a snapshot, for it may be made anew in just that one.
fn each_left_directory(
    store: &Store,
    dirs: &Dirs,
    name: &str,
    visit: &mut dyn FnMut(SnapshotId),
) -> Result<()> {
    if store.is_read_only() || dirs.left_directories()?.is_empty() {
        return Ok(());
    }
    let Some(_alone) = dirs.making_alone()? else { return Ok(()) };
    let rows = store.snapshot_rows()?;
    let committed: BTreeSet<SnapshotId> = rows
        .into_iter()
        .filter(|row| row.committed && row.snapshotter == name)
        .map(|row| row.id)
        .collect();
    let left = dirs.left_directories()?;
    left.into_iter().filter(|id| committed.contains(id)).for_each(visit);
    Ok(())
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
    let mut there = dirs.list()?;
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
