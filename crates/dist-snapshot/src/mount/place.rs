//! A directory shown at a place that belongs to others, in a mount namespace of one's own.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use dist_core::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use super::errno_kind;
use crate::tree::proc_path;

/// Where what was in the directory above is found, once that has been covered.
const BEFORE: &str = ".before";

/// Shows the directory `dir` at `at`. Where `at` is missing, the directory above it is covered by an
/// empty one that has it, and links to all that was there. Only this process and those that it starts
/// may be in this mount namespace.
///
/// # Errors
/// `PermissionDenied`; `NotFound` where the directory above is missing; `Storage`.
pub fn show(dir: &Path, at: &Path) -> Result<()> {
    let shown = match (rustix::mount::mount_bind(dir, at), at.parent()) {
        (Err(Errno::NOENT), Some(above)) => cover(above).and_then(|()| {
            rustix::fs::mkdir(at, Mode::from_raw_mode(0o700))?;
            rustix::mount::mount_bind(dir, at)
        }),
        (shown, _) => shown,
    };
    shown.map_err(|errno| {
        let message = format!("show {} at {}", dir.display(), at.display());
        Error::new(errno_kind(errno), message).with_source(errno)
    })
}

/// Mounts an empty directory over `dir`, with links to what was in it.
fn cover(dir: &Path) -> rustix::io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let covered = rustix::fs::openat(CWD, dir, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&covered)? {
        names.push(entry?.file_name().to_owned());
    }
    let (own, mode) = (MountFlags::NOSUID | MountFlags::NODEV, c"mode=755");
    rustix::mount::mount("tmpfs", dir, "tmpfs", own, Some(mode))?;
    let before = dir.join(BEFORE);
    rustix::fs::mkdir(&before, Mode::from_raw_mode(0o700))?;
    rustix::mount::mount_bind_recursive(&*proc_path(covered.as_fd()), &before)?;
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let name = OsStr::from_bytes(name.to_bytes());
        rustix::fs::symlink(before.join(name), dir.join(name))?;
    }
    Ok(())
}
