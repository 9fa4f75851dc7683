//! Removal by descriptor, without recursion and with three descriptors whatever the depth.
//!
//! A directory that is not empty is moved up to the top of the tree that is being removed, so
//! that no path below it is ever walked.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use super::open_dir_at;

/// Removes what is no directory; nothing there is fine.
pub(crate) fn remove(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Removes a directory and all it holds.
pub(crate) fn remove_tree(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(Errno::NOENT) => return Ok(()),
        result => return result,
    }
    let top = open_for_removal(&dir, name)?;
    empty_dir(&top, &[])?;
    rustix::fs::unlinkat(&dir, name, AtFlags::REMOVEDIR)
}

/// Removes all that a directory holds, but for the entry `except`.
pub(crate) fn empty_dir(top: &OwnedFd, except: &[u8]) -> Result<(), Errno> {
    let mut moved = 0u64;
    loop {
        let mut again = false;
        each(
            top,
            |errno| errno,
            |name, kind| {
                if name == except {
                    return Ok(());
                }
                if kind != FileType::Directory {
                    return remove(top, name);
                }
                match rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    result => return result,
                }
                again = true;
                let inner = open_for_removal(top, name)?;
                each(
                    &inner,
                    |errno| errno,
                    |child, kind| {
                        if kind != FileType::Directory {
                            return remove(&inner, child);
                        }
                        match rustix::fs::unlinkat(&inner, child, AtFlags::REMOVEDIR) {
                            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                                move_up(&inner, child, top, &mut moved)
                            }
                            result => result,
                        }
                    },
                )?;
                rustix::fs::unlinkat(top, name, AtFlags::REMOVEDIR)
            },
        )?;
        if !again {
            return Ok(());
        }
    }
}

fn move_up(from: &OwnedFd, name: &[u8], top: &OwnedFd, moved: &mut u64) -> Result<(), Errno> {
    loop {
        let to = format!(".wh..wh.removed-{moved}");
        *moved += 1;
        match rustix::fs::renameat(from, name, top, to.as_str()) {
            // A directory of an earlier, interrupted removal, or a file of that name.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            Err(Errno::ACCESS) => {
                // Moving a directory writes its `..`.
                rustix::fs::chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
                return rustix::fs::renameat(from, name, top, to.as_str());
            }
            result => return result,
        }
    }
}

/// Opens a directory; an owner who may not read or write it gets that right first.
fn open_for_removal(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = match open_dir_at(&dir, name) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(&dir, name, Mode::RWXU, AtFlags::empty())?;
            open_dir_at(&dir, name)?
        }
        result => result?,
    };
    if !rustix::process::geteuid().is_root() {
        rustix::fs::fchmod(&fd, Mode::RWXU)?;
    }
    Ok(fd)
}

/// Visits the entries of a directory. Entries that appear meanwhile may be visited or not.
pub(crate) fn each<E>(
    dir: impl AsFd,
    wrap: impl Fn(Errno) -> E,
    mut visit: impl FnMut(&[u8], FileType) -> Result<(), E>,
) -> Result<(), E> {
    for entry in Dir::read_from(&dir).map_err(&wrap)? {
        let entry = entry.map_err(&wrap)?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        let kind = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(&dir, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(&wrap)?;
                FileType::from_raw_mode(stat.st_mode)
            }
            kind => kind,
        };
        visit(name, kind)?;
    }
    Ok(())
}
