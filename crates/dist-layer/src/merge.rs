//! A layer that is unpacked alone, moved over the tree below it.
//!
//! The outcome is what overlayfs shows of the two: directories are merged, everything else of the
//! layer takes the place of what is there, marks delete. A directory the tree does not have moves
//! as a whole.

use dist_core::Result;
use rustix::fs::{FileType, Gid, Mode, Uid};

use crate::apply::{copy_xattrs, time_of};
use crate::beneath::{Dir, Tree, each, empty_dir, failed, remove};
use crate::ledger::{Final, Finals};
use crate::name::join;
use crate::whiteout::{OPAQUE_NODE, is_mark};

/// Moves all that `staged` holds over `target`; its directory there is `staging`.
///
/// `finals` is left saying how each directory of `target` must end. `marked` says whether the
/// layer has any marks.
pub(crate) fn merge(
    target: &mut Tree,
    staged: &mut Tree,
    staging: &[u8],
    finals: &mut Finals,
    marked: bool,
) -> Result<()> {
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let (Some(from), Some(to)) = (staged.existing(&path)?, target.existing(&path)?) else {
            continue;
        };
        adopt(target, &from, &to, finals)?;
        if marked && staged.try_stat(&from, OPAQUE_NODE)?.is_some() {
            target.forget();
            let except = if path.is_empty() { staging } else { &[] };
            empty_dir(&to.fd, except).map_err(|errno| {
                failed(errno, format!("empty directory {}", target.show(&path, &[])))
            })?;
        }
        let shown = target.show(&path, &[]);
        let listed = |errno| failed(errno, format!("list directory {shown}"));
        each(&from.fd, listed, |name, kind| {
            if name == OPAQUE_NODE {
                return Ok(());
            }
            let below = target.try_stat(&to, name)?;
            let below = below.map(|stat| FileType::from_raw_mode(stat.st_mode));
            if kind == FileType::CharacterDevice && marked && is_mark(&staged.stat(&from, name)?) {
                return target.clear(&to, name).map(drop);
            }
            if kind == FileType::Directory && below == Some(FileType::Directory) {
                todo.push(join(&path, name));
                return Ok(());
            }
            if below.is_some() {
                target.clear(&to, name)?;
            }
            rustix::fs::renameat(&from.fd, name, &to.fd, name)
                .map_err(|errno| failed(errno, format!("move {}", target.show(&path, name))))?;
            if kind == FileType::Directory && marked {
                remove_marks(target, join(&path, name))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Gives a directory the attributes of the layer's entry for it, or notes its own to be kept.
fn adopt(target: &Tree, from: &Dir, to: &Dir, finals: &mut Finals) -> Result<()> {
    let path = &to.path;
    let wrap = |errno| failed(errno, format!("set attributes of {}", target.show(path, &[])));
    let stat = rustix::fs::fstat(&to.fd).map_err(wrap)?;
    let privileged = rustix::process::geteuid().is_root();
    if !privileged && stat.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&to.fd, Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o700))
            .map_err(wrap)?;
    }
    let Some(Final::Explicit { mode, mtime, .. }) = finals.get(path) else {
        let end = Final::Kept { mode: stat.st_mode & 0o7777, mtime: time_of(&stat) };
        finals.replace(path, end);
        return Ok(());
    };
    let own = rustix::fs::fstat(&from.fd).map_err(wrap)?;
    if (own.st_uid, own.st_gid) != (stat.st_uid, stat.st_gid) {
        let (uid, gid) = (Uid::from_raw(own.st_uid), Gid::from_raw(own.st_gid));
        rustix::fs::fchown(&to.fd, Some(uid), Some(gid)).map_err(wrap)?;
    }
    copy_xattrs(&from.fd, &to.fd).map_err(wrap)?;
    finals.replace(path, Final::Explicit { mode, mtime, reused: true });
    Ok(())
}

/// Removes the marks in a directory that hides nothing any more.
fn remove_marks(target: &mut Tree, path: Vec<u8>) -> Result<()> {
    let mut todo = vec![path];
    while let Some(path) = todo.pop() {
        let Some(dir) = target.existing(&path)? else { continue };
        let shown = target.show(&path, &[]);
        let listed = |errno| failed(errno, format!("list directory {shown}"));
        each(&dir.fd, listed, |name, kind| {
            if kind == FileType::Directory {
                todo.push(join(&path, name));
            } else if kind == FileType::CharacterDevice && is_mark(&target.stat(&dir, name)?) {
                remove(&dir.fd, name).map_err(|errno| {
                    failed(errno, format!("remove {}", target.show(&path, name)))
                })?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
