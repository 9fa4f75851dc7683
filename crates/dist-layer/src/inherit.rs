//! Directories that a stacked layer has no entry for take their attributes from below.

use std::path::{Path, PathBuf};

use dist_core::Result;
use rustix::fs::{FileType, Gid, Mode, Uid, XattrFlags};
use rustix::io::Errno;

use crate::apply::{copy_xattrs, time_of, timestamps};
use crate::beneath::{Dir, Tree, each, failed, open_child};
use crate::erofs::beside;
use crate::name::join;

/// Gives directories of a stacked layer the mode, owner, times and extended attributes they have
/// in the nearest layer below that has them.
///
/// Also hides what the root of the layer hides where that is opaque: overlayfs does not look at a
/// root's mark. So this is called for every layer that has others below it, whether or not it has
/// implicit directories.
///
/// `target` is the layer's directory, `parents` those of the layers below it, nearest first, and
/// `dirs` what [`dist_core::Applied::implicit_dirs`] named. A directory that a layer in between
/// hides, by a whiteout, an opaque directory or anything else in its place, keeps what it has.
/// What this process may not set (an owner, as ordinary user) is left. Where the layer is an image
/// ([`dist_core::LayerForm::Image`]), so are those below it, and the directories are its own.
///
/// # Errors
/// `Storage`.
pub fn inherit_dirs(target: &Path, parents: &[PathBuf], dirs: &[Vec<u8>]) -> Result<()> {
    if parents.is_empty() {
        return Ok(());
    }
    if beside::inherit(target, parents, dirs)? {
        return Ok(());
    }
    let mut target = Tree::open(target)?;
    let opaque = opaque_key(&target, target.root())?;
    if dirs.is_empty() && opaque.is_none() {
        return Ok(());
    }
    if let Some(key) = opaque {
        hide(&target, parents, key)?;
    }
    // Most directories are found in a layer near by, and there may be hundreds below.
    let mut open: Vec<Tree> = Vec::new();
    for path in dirs {
        let Found::There(to) = find(&mut target, path)? else { continue };
        if hides_below(&target, path)? {
            continue;
        }
        for (below, parent) in parents.iter().enumerate() {
            if below == open.len() {
                open.push(Tree::open(parent)?);
            }
            match find(&mut open[below], path)? {
                Found::There(from) => {
                    copy(&target, &from, &to)?;
                    break;
                }
                Found::Hidden => break,
                Found::Absent => {}
            }
        }
    }
    Ok(())
}

enum Found {
    There(Dir),
    /// Neither here nor in any layer below as far as this one shows.
    Hidden,
    Absent,
}

/// Walks to a directory without following any symlink.
fn find(tree: &mut Tree, path: &[u8]) -> Result<Found> {
    let mut dir = clone_root(tree)?;
    for name in components(path) {
        match open_child(&dir, name) {
            Ok(fd) => dir = Dir { fd, path: join(&dir.path, name) },
            Err(Errno::NOENT) => {
                let hidden = is_opaque(tree, &dir)? || hides_below(tree, &dir.path)?;
                return Ok(if hidden { Found::Hidden } else { Found::Absent });
            }
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(errno) => {
                let shown = tree.show(&dir.path, name);
                return Err(failed(errno, format!("open directory {shown}")));
            }
        }
    }
    Ok(Found::There(dir))
}

/// Whether a directory above `path` is opaque.
fn hides_below(tree: &Tree, path: &[u8]) -> Result<bool> {
    let mut dir = clone_root(tree)?;
    for name in components(path) {
        if is_opaque(tree, &dir)? {
            return Ok(true);
        }
        let fd = open_child(&dir, name).map_err(|errno| {
            failed(errno, format!("open directory {}", tree.show(&dir.path, name)))
        })?;
        dir = Dir { fd, path: join(&dir.path, name) };
    }
    Ok(false)
}

/// Does in the root what a mark on it would do elsewhere: hides each name that a layer below has.
fn hide(target: &Tree, parents: &[PathBuf], key: &str) -> Result<()> {
    let root = target.root();
    for parent in parents {
        let parent = Tree::open(parent)?;
        let listed = |errno| failed(errno, format!("list directory {}", parent.show(&[], &[])));
        each(&parent.root().fd, listed, |name, _| {
            let wrap = |errno| failed(errno, format!("hide {}", target.show(&[], name)));
            let Some(stat) = target.try_stat(root, name)? else {
                let kind = FileType::CharacterDevice;
                return rustix::fs::mknodat(&root.fd, name, kind, Mode::empty(), 0).map_err(wrap);
            };
            if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                return Ok(());
            }
            let dir = open_child(root, name).map_err(wrap)?;
            rustix::fs::fsetxattr(&dir, key, b"y", XattrFlags::empty()).map_err(wrap)
        })?;
    }
    Ok(())
}

fn is_opaque(tree: &Tree, dir: &Dir) -> Result<bool> {
    opaque_key(tree, dir).map(|key| key.is_some())
}

/// The extended attribute that marks a directory as opaque, where it has one.
fn opaque_key(tree: &Tree, dir: &Dir) -> Result<Option<&'static str>> {
    for key in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        let mut value = [0; 8];
        match rustix::fs::fgetxattr(&dir.fd, key, &mut value) {
            Ok(length) if &value[..length] == b"y" => return Ok(Some(key)),
            Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE | Errno::PERM) => {}
            Err(errno) => {
                let shown = tree.show(&dir.path, &[]);
                return Err(failed(errno, format!("read extended attribute {key} of {shown}")));
            }
        }
    }
    Ok(None)
}

fn copy(target: &Tree, from: &Dir, to: &Dir) -> Result<()> {
    let wrap = |errno| failed(errno, format!("set attributes of {}", target.show(&to.path, &[])));
    let stat = rustix::fs::fstat(&from.fd).map_err(wrap)?;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    match rustix::fs::fchown(&to.fd, Some(uid), Some(gid)) {
        Err(Errno::PERM | Errno::INVAL) => {}
        result => result.map_err(wrap)?,
    }
    copy_xattrs(&from.fd, &to.fd).map_err(wrap)?;
    rustix::fs::fchmod(&to.fd, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(wrap)?;
    rustix::fs::futimens(&to.fd, &timestamps(time_of(&stat))).map_err(wrap)
}

fn clone_root(tree: &Tree) -> Result<Dir> {
    let fd = tree.root().fd.try_clone().map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
        failed(errno, format!("open directory {}", tree.show(&[], &[])))
    })?;
    Ok(Dir { fd, path: Vec::new() })
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}
