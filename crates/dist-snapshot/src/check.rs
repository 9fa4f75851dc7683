//! Whether the rows of snapshots and their directories agree, and how one is made anew.

use std::path::{Path, PathBuf};

use dist_core::{Cancel, Context, Error, ErrorKind, Result, Usage};
use dist_store::{Checked, Problem, SnapshotId, SnapshotRow, Store, Subject};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::dirs::{Dirs, at};
use crate::{NAMES, erofs, leftovers, mounted, tree, usage};

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
                    dirs.fs(row.id).display().to_string(),
                );
            } else if !store.is_read_only() && dirs.making_alone()?.is_some() {
                checked.add(Problem::SnapshotUnfinished, subject(), "");
            }
            continue;
        }
        if row.committed {
            let path = dirs.fs(row.id);
            match measure(&row.snapshotter, &path) {
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

/// The directory with the files of a snapshot.
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

/// Makes the files of a snapshot anew: `fill` puts them into the empty directory it is given. The
/// row, the key and what stands on it stay.
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

/// What a committed snapshot takes on the disk.
fn measure(snapshotter: &str, tree: &Path) -> std::io::Result<Usage> {
    if snapshotter == erofs::NAME { erofs::measure(tree) } else { usage::measure(tree) }
}

/// Notes what is in the directories of snapshots and no part of one.
fn strays(store: &Store, checked: &mut Checked) -> Result<()> {
    let top = store.root().join("snapshots");
    note(&top, checked, |name| name == "lock" || NAMES.contains(&name))?;
    for name in NAMES {
        note(&top.join(name), checked, |name| SnapshotId::parse(name).is_some())?;
        let dirs = Dirs::new(store, name);
        for id in dirs.list()? {
            let known = ["fs", "new", "old", "work", "links", "layer.erofs", "layer.new"];
            note(&dirs.dir(id), checked, |name| known.contains(&name))?;
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

impl Dirs {
    /// Fails with `Busy` where something is mounted on the snapshot's directories or made of them.
    fn check_unused(&self, id: SnapshotId) -> Result<()> {
        self.check_idle(id)?;
        let dir = self.dir(id);
        let Some(target) = mounted::user_of(&dir) else { return Ok(()) };
        let message = format!("{}: the mount on {} uses it", at("change", &dir), target.display());
        Err(Error::new(ErrorKind::Busy, message))
    }

    /// Makes the tree of a snapshot that has a row and maybe a tree.
    fn replace(&self, id: SnapshotId, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let (dir, fs) = (self.dir(id), self.fs(id));
        if !dir.exists() {
            return self.make(id, fill);
        }
        let (new, old) = (dir.join("new"), dir.join("old"));
        crate::remove_tree(&new)?;
        let mode = Mode::from_raw_mode(0o755);
        rustix::fs::mkdir(&new, mode)
            .and_then(|()| rustix::fs::chmod(&new, mode))
            .context(ErrorKind::Storage, || at("create directory", &new))?;
        fill(&new)?;
        match rustix::fs::rename(&fs, &old) {
            Ok(()) | Err(Errno::NOENT) => (),
            Err(error) => return Err(error).context(ErrorKind::Storage, || at("rename", &fs)),
        }
        rustix::fs::rename(&new, &fs).context(ErrorKind::Storage, || at("rename", &new))?;
        crate::remove_tree(&old)
    }
}
