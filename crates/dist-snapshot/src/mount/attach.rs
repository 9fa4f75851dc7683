//! One mount, by the newer calls or by `mount(2)`.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dist_core::Mount;
use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::options::{MAX_OPTION_BYTES, Options};
use crate::tree::proc_path;

/// The longest value that `fsconfig` takes.
const MAX_VALUE_BYTES: usize = 255;

/// Why a mount failed, with what the file system had to say.
#[derive(Debug, thiserror::Error)]
#[error("{step}{}{said}", if said.is_empty() { "" } else { ": " })]
pub(crate) struct AttachError {
    step: &'static str,
    said: String,
    source: Errno,
}

impl AttachError {
    pub(crate) fn errno(&self) -> Errno {
        self.source
    }
}

/// Names the call that failed.
trait During<T> {
    fn during(self, step: &'static str) -> Result<T, AttachError>;
}

impl<T> During<T> for rustix::io::Result<T> {
    fn during(self, step: &'static str) -> Result<T, AttachError> {
        self.map_err(|source| AttachError { step, said: String::new(), source })
    }
}

pub(super) fn attach(mount: &Mount, place: &Path) -> Result<(), AttachError> {
    let options = Options::parse(&mount.options);
    if mount.fstype == "bind" || options.bind.is_some() {
        return bind(&mount.source, place, &options);
    }
    match by_steps(mount, place, &options) {
        // What the newer calls can't do, the older one may: kernels before 6.7 take a long list
        // of layers only there, and some sandboxes forbid the newer calls.
        Err(error) if matches!(error.errno(), Errno::NOSYS | Errno::INVAL | Errno::PERM) => {
            at_once(mount, place, &options).map_err(|mut older| {
                older.said = error.said;
                older
            })
        }
        other => other,
    }
}

fn bind(source: &Path, place: &Path, options: &Options<'_>) -> Result<(), AttachError> {
    if options.bind.unwrap_or(true) {
        rustix::mount::mount_bind_recursive(source, place).during("bind")?;
    } else {
        rustix::mount::mount_bind(source, place).during("bind")?;
    }
    let wanted = options.old_flags();
    if wanted.is_empty() {
        return Ok(());
    }
    let change = || {
        let flags = MountFlags::BIND | inherited(place)? | wanted;
        rustix::mount::mount_remount(place, flags, c"")
    };
    change().during("make the bind read-only").inspect_err(|_| {
        if let Err(error) = super::detach(place, UnmountFlags::DETACH) {
            tracing::debug!(target = %place.display(), %error, "a mount was not undone");
        }
    })
}

/// What a mount has from its source. In a user namespace it may not be taken away.
fn inherited(place: &Path) -> rustix::io::Result<MountFlags> {
    let has = rustix::fs::statvfs(place)?.f_flag;
    let pairs = [
        (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = pairs.into_iter().filter(|(flag, _)| has.contains(*flag));
    Ok(kept.fold(MountFlags::empty(), |all, (_, flag)| all | flag))
}

fn by_steps(mount: &Mount, place: &Path, options: &Options<'_>) -> Result<(), AttachError> {
    let mounted = make(mount, options)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(mounted.as_fd(), c"", CWD, place, flags).during("move the mount")
}

/// Makes a mount that is nowhere, and ends when it is closed.
pub(super) fn detached(mount: &Mount) -> Result<OwnedFd, AttachError> {
    make(mount, &Options::parse(&mount.options))
}

fn make(mount: &Mount, options: &Options<'_>) -> Result<OwnedFd, AttachError> {
    let fs = fsopen(mount.fstype.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).during("fsopen")?;
    let configure = || {
        let mut open = Vec::new();
        fsconfig_set_string(fs.as_fd(), c"source", &*mount.source).during("set source")?;
        if options.is_read_only() {
            fsconfig_set_flag(fs.as_fd(), c"ro").during("set ro")?;
        }
        for &(name, value) in &options.data {
            match value {
                None => fsconfig_set_flag(fs.as_fd(), name).during("set an option")?,
                Some(layers) if mount.fstype == "overlay" && name == "lowerdir" => {
                    for layer in layers.split(':') {
                        set_directory(fs.as_fd(), "lowerdir+", layer, &mut open)?;
                    }
                }
                Some(dir) if mount.fstype == "overlay" && name.ends_with("dir") => {
                    set_directory(fs.as_fd(), name, dir, &mut open)?;
                }
                Some(value) => {
                    fsconfig_set_string(fs.as_fd(), name, value).during("set an option")?;
                }
            }
        }
        fsconfig_create(fs.as_fd()).during("create the file system")
    };
    configure().map_err(|mut error| {
        error.said = complaints(fs.as_fd());
        error
    })?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, options.new_flags()).during("fsmount")
}

/// Hands one directory over by its path, or by a descriptor where the path can't be written.
fn set_directory(
    fs: BorrowedFd<'_>,
    name: &str,
    dir: &str,
    open: &mut Vec<OwnedFd>,
) -> Result<(), AttachError> {
    if dir.len() <= MAX_VALUE_BYTES && !dir.contains('\\') {
        return fsconfig_set_string(fs, name, dir).during("set a directory");
    }
    let dir = open_path(OsStr::new(dir)).during("open a directory")?;
    fsconfig_set_string(fs, name, proc_path(dir.as_fd())).during("set a directory")?;
    open.push(dir);
    Ok(())
}

/// What the file system left in its log, without the classes of the messages.
fn complaints(fs: BorrowedFd<'_>) -> String {
    let mut messages = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length) = rustix::io::read(fs, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        let text = text.trim_end();
        messages.push(text.split_once(' ').map_or(text, |(_, rest)| rest).to_owned());
    }
    messages.join("; ")
}

fn at_once(mount: &Mount, place: &Path, options: &Options<'_>) -> Result<(), AttachError> {
    let mut open = Vec::new();
    let mut data = options.joined();
    if data.len() > MAX_OPTION_BYTES {
        data = by_descriptors(options, &mut open).during("open a directory")?;
    }
    let data = CString::new(data).map_err(|_| Errno::INVAL).during("join the options")?;
    let flags = options.old_flags();
    rustix::mount::mount(&*mount.source, place, mount.fstype.as_str(), flags, &*data)
        .during("mount")
}

/// As [`Options::joined`], with descriptors in the place of directories.
fn by_descriptors(options: &Options<'_>, open: &mut Vec<OwnedFd>) -> rustix::io::Result<String> {
    let mut words = Vec::new();
    for &(name, value) in &options.data {
        words.push(match value {
            None => name.to_owned(),
            Some(dirs) if name.ends_with("dir") => {
                let mut short = Vec::new();
                for dir in dirs.split(':') {
                    let dir = open_path(OsStr::new(dir))?;
                    short.push(proc_path(dir.as_fd()));
                    open.push(dir);
                }
                format!("{name}={}", short.join(":"))
            }
            Some(value) => format!("{name}={value}"),
        });
    }
    Ok(words.join(","))
}

fn open_path(dir: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir.as_bytes(), flags, Mode::empty())
}

impl From<AttachError> for io::Error {
    fn from(error: AttachError) -> Self {
        Self::new(Self::from(error.source).kind(), error)
    }
}
