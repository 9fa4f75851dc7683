//! Owner, mode, times and extended attributes, by descriptor.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dist_core::Result;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::beneath::{Dir, Tree, failed};
use crate::name::escape;
use crate::tar::{Entry, Time};
use crate::warnings::Warnings;
use crate::whiteout::{is_host_xattr, is_private_xattr};
use crate::xattrs::{CAPABILITY, NOT_SET, TOO_LARGE};

/// What new files are given by this process, so that only differences cost a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    uid: u32,
    gid: u32,
    umask: u32,
    /// Whether new entries take group and setgid from the root instead.
    setgid: bool,
    /// Whether permissions of directories do not bind this process.
    pub(crate) privileged: bool,
}

impl Host {
    pub(crate) fn probe() -> Self {
        let uid = rustix::process::geteuid();
        // The only way to read it without setting it, which would concern other threads.
        let umask = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
            let text = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
            u32::from_str_radix(text.trim(), 8).ok()
        });
        Self {
            uid: uid.as_raw(),
            gid: rustix::process::getegid().as_raw(),
            umask: umask.unwrap_or(0o777),
            setgid: false,
            privileged: uid.is_root(),
        }
    }

    /// The same beneath a root of this mode.
    pub(crate) fn beneath(self, root_mode: u32) -> Self {
        Self { setgid: root_mode & 0o2000 != 0, ..self }
    }

    /// Whether a new file may have another owner than this.
    pub(crate) fn differs(&self, uid: u32, gid: u32) -> bool {
        self.setgid || (self.uid, self.gid) != (uid, gid)
    }

    /// Whether a file made with the permissions of `mode` lacks some of it.
    pub(crate) fn masks(&self, mode: u32) -> bool {
        mode & (0o7000 | self.umask) != 0
    }

    /// The mode to make a directory with: special bits come last, because setgid is inherited; and
    /// its owner must be able to write in it until then.
    pub(crate) fn making_mode(&self, mode: u32) -> Mode {
        let own = if self.privileged { 0 } else { 0o700 };
        Mode::from_raw_mode(mode & 0o777 | own)
    }

    /// Whether a directory made with [`Host::making_mode`] needs another mode in the end.
    pub(crate) fn unsettled(&self, mode: u32) -> bool {
        self.setgid || self.masks(mode) || (!self.privileged && mode & 0o700 != 0o700)
    }
}

pub(crate) fn timestamps(mtime: Time) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: i64::from(mtime.nanos) };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn set_times(fd: impl AsFd, mtime: Time, shown: impl Fn() -> String) -> Result<()> {
    rustix::fs::futimens(fd, &timestamps(mtime))
        .map_err(|errno| failed(errno, format!("set times of {}", shown())))
}

pub(crate) fn set_mode(fd: impl AsFd, mode: u32, shown: impl Fn() -> String) -> Result<()> {
    rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))
        .map_err(|errno| failed(errno, format!("set mode of {}", shown())))
}

/// Sets the owner of what is at `name`, never of a symlink's target. Where this process may not,
/// that is a warning.
pub(crate) fn set_owner(
    tree: &Tree,
    dir: &Dir,
    name: &[u8],
    entry: &Entry,
    warnings: &mut Warnings,
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let flags = if name.is_empty() { AtFlags::EMPTY_PATH } else { AtFlags::SYMLINK_NOFOLLOW };
    let result = rustix::fs::chownat(&dir.fd, name, Some(uid), Some(gid), flags);
    owner_result(result, &entry.path, warnings, || tree.show(&dir.path, name))
}

/// As [`set_owner`], for an open file.
pub(crate) fn set_file_owner(
    fd: impl AsFd,
    entry: &Entry,
    warnings: &mut Warnings,
    shown: impl Fn() -> String,
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    let result = rustix::fs::fchown(fd, Some(uid), Some(gid));
    owner_result(result, &entry.path, warnings, shown)
}

fn owner_result(
    result: rustix::io::Result<()>,
    path: &[u8],
    warnings: &mut Warnings,
    shown: impl Fn() -> String,
) -> Result<()> {
    match result {
        // An ordinary user; or an owner that the user namespace does not map.
        Err(Errno::PERM | Errno::INVAL) => {
            warnings.add("owner not set", path);
            Ok(())
        }
        result => result.map_err(|errno| failed(errno, format!("set owner of {}", shown()))),
    }
}

/// Sets the extended attributes of an open file or directory. What its file system does not take is a
/// warning.
pub(crate) fn set_xattrs(
    fd: impl AsFd,
    entry: &Entry,
    warnings: &mut Warnings,
    shown: impl Fn() -> String,
) -> Result<()> {
    each_xattr(&fd, entry, warnings, shown, |key, value| {
        rustix::fs::fsetxattr(&fd, key, value, XattrFlags::empty())
    })
}

/// Sets the extended attributes and, where it is given, the mode of a node that is not to be
/// opened for reading or writing.
pub(crate) fn set_node_attributes(
    tree: &Tree,
    dir: &Dir,
    name: &[u8],
    (entry, mode): (&Entry, Option<u32>),
    warnings: &mut Warnings,
) -> Result<()> {
    if entry.xattrs.is_empty() && mode.is_none() {
        return Ok(());
    }
    let shown = || tree.show(&dir.path, name);
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir.fd, name, flags, Mode::empty())
        .map_err(|errno| failed(errno, format!("open {}", shown())))?;
    // A descriptor that only names a file takes no fchmod and no fsetxattr; this path is the
    // descriptor's file, whatever the names beneath the root mean by now.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    if let Some(mode) = mode {
        rustix::fs::chmod(path.as_str(), Mode::from_raw_mode(mode))
            .map_err(|errno| failed(errno, format!("set mode of {}", shown())))?;
    }
    each_xattr(&fd, entry, warnings, shown, |key, value| {
        rustix::fs::setxattr(path.as_str(), key, value, XattrFlags::empty())
    })
}

fn each_xattr(
    fd: impl AsFd,
    entry: &Entry,
    warnings: &mut Warnings,
    shown: impl Fn() -> String,
    set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    for (key, value) in &entry.xattrs {
        let errno = match set(key, value) {
            Ok(()) => continue,
            Err(errno) => errno,
        };
        let what = match errno {
            Errno::PERM | Errno::OPNOTSUPP => Some(NOT_SET),
            // A program without its capabilities does not work, and nobody would know why.
            _ if key == CAPABILITY => None,
            Errno::INVAL | Errno::ACCESS => Some(NOT_SET),
            Errno::TOOBIG | Errno::RANGE => Some(TOO_LARGE),
            Errno::NOSPC if has_room(&fd) => Some(TOO_LARGE),
            _ => None,
        };
        match what {
            Some(what) => warnings.add(what, &entry.path),
            None => {
                let message = format!("set extended attribute {} of {}", escape(key), shown());
                return Err(failed(errno, message));
            }
        }
    }
    Ok(())
}

/// Whether the file system has room, so that there is none for one file's attributes alone.
fn has_room(fd: impl AsFd) -> bool {
    const ROOM: u64 = 1 << 20;
    rustix::fs::fstatvfs(fd).is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM)
}

/// Makes the extended attributes of `to` those of `from`, but for storage drivers' own.
pub(crate) fn copy_xattrs(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let wanted = list_xattrs(from)?;
    for key in list_xattrs(to)? {
        if !wanted.contains(&key) {
            tolerate(rustix::fs::fremovexattr(to, key.as_slice()))?;
        }
    }
    let mut value = vec![0; 65536];
    for key in wanted {
        let length = rustix::fs::fgetxattr(from, key.as_slice(), value.as_mut_slice())?;
        tolerate(rustix::fs::fsetxattr(to, key.as_slice(), &value[..length], XattrFlags::empty()))?;
    }
    Ok(())
}

fn list_xattrs(fd: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; 65536];
    let length = match rustix::fs::flistxattr(fd, list.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    Ok(list[..length]
        .split(|&byte| byte == 0)
        .filter(|key| !key.is_empty() && !is_private_xattr(key) && !is_host_xattr(key))
        .map(<[u8]>::to_vec)
        .collect())
}

fn tolerate(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NODATA) => Ok(()),
        result => result,
    }
}
