//! Whether the rows of snapshots and their directories agree, and how one is made anew.

use std::path::{Path, PathBuf};

use dist_core::{Cancel, Context, Error, ErrorKind, Result};
use dist_store::{Checked, Problem, SnapshotRow, Store, Subject};

use crate::dirs::{Dirs, at};
use crate::{NAMES, leftovers, tree};

/// Looks at the snapshots of all namespaces and snapshotters: that each has its directory, that
/// the committed ones have as many inodes as when they were committed, and what belongs to none.
/// Returns the rows.
///
/// Changes nothing and may run while others use the store.
///
/// # Errors
/// `Storage`, `Cancelled`.
pub fn check(store: &Store, cancel: &Cancel, checked: &mut Checked) -> Result<Vec<SnapshotRow>> {
    let rows = store.snapshot_rows()?;
    for row in &rows {
        cancel.check()?;
        let Some(dirs) = dirs(store, &row.snapshotter) else { continue };
        let subject = || Subject::Snapshot(row.clone());
        let whole = if row.committed { dirs.is_there(row.id)? } else { dirs.is_whole(row.id)? };
        if !whole {
            if !is_there(store, row)? {
                continue; // removed meanwhile
            }
            if row.committed {
                checked.add(
                    Problem::SnapshotLost,
                    subject(),
                    dirs.layout().committed(&dirs.fs(row.id)).display().to_string(),
                );
            } else if !store.is_read_only() && dirs.making_alone()?.is_some() {
                checked.add(Problem::SnapshotUnfinished, subject(), "");
            }
            continue;
        }
        if row.committed {
            match dirs.layout().measure(&dirs.fs(row.id)) {
                Ok(usage) if usage.inodes != row.inodes => {
                    let detail = format!("it has {} inodes, not {}", usage.inodes, row.inodes);
                    checked.add(Problem::SnapshotInodes, subject(), detail);
                }
                Ok(_) => (),
                Err(_) if !is_there(store, row)? => (),
                Err(error) => {
                    let detail = format!("it can't be read: {}", error.kind());
                    checked.add(Problem::SnapshotContents, subject(), detail);
                }
            }
        }
    }
    strays(store, checked)?;
    for leftover in leftovers(store)? {
        let problem = if leftover.id.is_some() { Problem::SnapshotUnowned } else { Problem::Trash };
        checked.add(problem, Subject::Path(leftover.path), "");
    }
    Ok(rows)
}

/// The directory with the files of a snapshot, or the one that its image stands for.
#[must_use]
pub fn tree_dir(store: &Store, row: &SnapshotRow) -> Option<PathBuf> {
    dirs(store, &row.snapshotter).map(|dirs| dirs.fs(row.id))
}

/// Removes a snapshot that was never made to its end.
///
/// # Errors
/// `Busy` while any snapshot is being made; `Storage`.
pub fn remove_unfinished(store: &Store, row: &SnapshotRow) -> Result<()> {
    let Some(dirs) = dirs(store, &row.snapshotter) else { return Ok(()) };
    let Some(_alone) = dirs.making_alone()? else {
        let message = format!("remove snapshot {}: another is being made", row.key);
        return Err(Error::new(ErrorKind::Busy, message));
    };
    if dirs.is_whole(row.id)? {
        return Ok(());
    }
    store.snapshots(row.namespace.clone(), &row.snapshotter).forget(row.id)?;
    dirs.discard(row.id)
}

/// Makes the files of a committed snapshot anew: `fill` puts them into the empty directory it is
/// given, or an image beside that. The row, the key and what stands on it stay.
///
/// # Errors
/// `Busy` where something is mounted on it or made of it, as the view of a snapshot that stands on
/// it; what `fill` returns; `Storage`.
pub fn rebuild(
    store: &Store,
    row: &SnapshotRow,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let Some(dirs) = dirs(store, &row.snapshotter) else {
        let message = format!("rebuild snapshot {}: its snapshotter is not known", row.key);
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    let _making = dirs.making()?;
    dirs.check_unused(row.id)?;
    dirs.replace(row.id, |new| {
        fill(new)?;
        // That took its time.
        dirs.check_unused(row.id)
    })
}

fn is_there(store: &Store, row: &SnapshotRow) -> Result<bool> {
    match store.snapshots(row.namespace.clone(), &row.snapshotter).get(&row.key) {
        Ok(found) => Ok(found.id == row.id),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn dirs(store: &Store, snapshotter: &str) -> Option<Dirs> {
    NAMES.into_iter().find(|name| *name == snapshotter).map(|name| Dirs::new(store, name))
}

/// Notes what is in the directories of snapshots and no part of one.
fn strays(store: &Store, checked: &mut Checked) -> Result<()> {
    let top = store.root().join("snapshots");
    note(&top, checked, |name| name == "lock" || NAMES.contains(&name))?;
    for name in NAMES {
        let dirs = Dirs::new(store, name);
        note(&top.join(name), checked, |name| dirs.owner(name).is_some())?;
        for id in dirs.list()? {
            note(&dirs.dir(id), checked, |name| dirs.layout().inside().contains(&name))?;
        }
    }
    Ok(())
}

fn note(dir: &Path, checked: &mut Checked, expected: impl Fn(&str) -> bool) -> Result<()> {
    let list = || tree::entries(std::os::fd::AsFd::as_fd(&tree::open_dir(dir)?));
    let entries = match list() {
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        entries => entries.context(ErrorKind::Storage, || at("list", dir))?,
    };
    for (name, _) in entries {
        if !expected(&name.to_string_lossy()) {
            let path = dir.join(&*name.to_string_lossy());
            checked.add(Problem::Stray, Subject::Path(path), "");
        }
    }
    Ok(())
}
