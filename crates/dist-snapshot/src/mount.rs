//! Performs mounts and prints them as commands: the only place that does.
//!
//! The kernel's newer calls (`fsopen` and those after it) take one directory at a time, so any
//! number of layers fits. Kernels and sandboxes without them get `mount(2)`, whose options must fit
//! one page; where they don't, the directories are named by descriptors.

mod attach;
mod command;
mod image;
mod options;
mod place;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use dist_core::{Context, Error, ErrorKind, Mount, Result};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;

pub use command::commands;
pub(crate) use image::{Via, mount_image};
pub use place::show;

/// Performs `mounts` in order on the directory `target`.
///
/// All of them or none: when one fails, those before it are undone. The mounts stay until
/// [`unmount`] or the end of the mount namespace.
///
/// # Errors
/// `NotFound` for a missing source or target; `PermissionDenied`; `Busy`; `InvalidArgument` for
/// options the kernel does not take; `Unsupported` for an unknown file system; `Storage`.
pub fn mount(mounts: &[Mount], target: &Path) -> Result<()> {
    let mut done: Vec<PathBuf> = Vec::new();
    for mount in mounts {
        let place = place(mount, target);
        if let Err(error) = attach::attach(mount, &place) {
            while let Some(place) = done.pop() {
                if let Err(error) = detach(&place, UnmountFlags::DETACH) {
                    tracing::debug!(target = %place.display(), %error, "a mount was not undone");
                }
            }
            let kind = kind(&error);
            return Err(error)
                .context(kind, || format!("mount {} on {}", mount.fstype, place.display()));
        }
        done.push(place);
    }
    Ok(())
}

/// Undoes the topmost mount on `target`, once nobody uses it.
///
/// # Errors
/// `Busy` while files on it are open; `NotFound` for a missing target; `FailedPrecondition` where
/// nothing is mounted on it; `PermissionDenied`.
pub fn unmount(target: &Path) -> Result<()> {
    detach(target, UnmountFlags::empty()).map_err(|error| {
        let kind = match error {
            Errno::INVAL => ErrorKind::FailedPrecondition,
            error => errno_kind(error),
        };
        Error::new(kind, format!("unmount {}", target.display())).with_source(error)
    })
}

/// A mount that is in no directory: only this process reaches it, and it ends with this value, also
/// when the process is killed.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// Performs what `mounts` say, which must be one file system's, and no bind mount: that is its
    /// source.
    ///
    /// # Errors
    /// `Unsupported` for a stack of mounts, and where the kernel or the file system is unknown;
    /// else as [`mount`].
    pub fn new(mounts: &[Mount]) -> Result<Self> {
        let mount = match mounts {
            [mount @ Mount { target: None, .. }] if mount.fstype != "bind" => mount,
            _ => {
                let message = "mount in no directory: that takes one mount of a whole file system";
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        };
        match attach::detached(mount) {
            Ok(root) => Ok(Self(root)),
            Err(error) => {
                let kind = if error.errno() == Errno::NOSYS {
                    ErrorKind::Unsupported
                } else {
                    kind(&error)
                };
                let what = || format!("mount {} from {}", mount.fstype, mount.source.display());
                Err(error).context(kind, what)
            }
        }
    }

    /// Where this process reaches its root, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        crate::tree::proc_path(self.0.as_fd()).into()
    }
}

/// A directory in which this process sees what mounts show, for as long as the value lives. Nothing
/// stays mounted, also where the process is killed.
#[derive(Debug)]
pub struct Seen {
    dir: PathBuf,
    _mounted: Option<Detached>,
}

impl Seen {
    /// Makes it: the source of a bind mount, which nothing keeps from being written, or the mount
    /// itself.
    ///
    /// # Errors
    /// As [`Detached::new`].
    pub fn of(mounts: &[Mount]) -> Result<Self> {
        if let [Mount { fstype, source, target: None, .. }] = mounts
            && fstype == "bind"
        {
            return Ok(Self { dir: source.clone(), _mounted: None });
        }
        let mounted = Detached::new(mounts)?;
        Ok(Self { dir: mounted.path(), _mounted: Some(mounted) })
    }

    /// The same for what is below a snapshot that nobody has written to, which is the cheaper look:
    /// the end of a mount that can be written waits for the disk.
    ///
    /// # Errors
    /// As [`Detached::new`].
    pub fn below(mounts: &[Mount]) -> Result<Self> {
        let [mount @ Mount { target: None, .. }] = mounts else { return Self::of(mounts) };
        if mount.fstype != "overlay" {
            return Self::of(mounts);
        }
        if let [lower] = &lower_dirs(mounts)[..] {
            return Ok(Self { dir: lower.clone(), _mounted: None });
        }
        let mut below = mount.clone();
        below
            .options
            .retain(|option| !option.starts_with("upperdir=") && !option.starts_with("workdir="));
        Self::of(&[below])
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

/// Makes the end of an overlay cheap that nobody needs after it: what was written to it is not
/// brought to the disk then, so it can be mounted once only. Other mounts, and all on kernels before
/// 5.10, stay as they are.
pub fn forget_at_end(mounts: &mut [Mount]) {
    const VOLATILE: (u32, u32) = (5, 10);
    for mount in mounts.iter_mut().filter(|mount| mount.fstype == "overlay") {
        let is_written = mount.options.iter().any(|option| option.starts_with("upperdir="));
        if is_written && crate::overlay::kernel_is_at_least(VOLATILE) {
            mount.options.push("volatile".to_owned());
        }
    }
}

/// The directories of the read-only layers in `mounts`, nearest first.
///
/// Empty for a snapshot without a parent, whose one directory is [`Mount::writable_dir`].
#[must_use]
pub fn lower_dirs(mounts: &[Mount]) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for mount in mounts {
        if let Some(list) = mount.option("lowerdir") {
            dirs.extend(list.split(':').map(PathBuf::from));
        } else if mount.fstype == "bind" && mount.is_read_only() {
            dirs.push(mount.source.clone());
        }
    }
    dirs
}

fn detach(target: &Path, flags: UnmountFlags) -> rustix::io::Result<()> {
    rustix::mount::unmount(target, flags | UnmountFlags::NOFOLLOW)
}

/// Where below `target` a mount goes.
fn place(mount: &Mount, target: &Path) -> PathBuf {
    match &mount.target {
        None => target.to_owned(),
        Some(below) => target.join(below.strip_prefix("/").unwrap_or(below)),
    }
}

fn kind(error: &attach::AttachError) -> ErrorKind {
    match error.errno() {
        Errno::INVAL | Errno::NOTDIR | Errno::NAMETOOLONG => ErrorKind::InvalidArgument,
        Errno::NODEV => ErrorKind::Unsupported,
        errno => errno_kind(errno),
    }
}

/// Whether an image was not mounted because of what is in it.
pub(crate) fn is_damaged(error: &Error) -> bool {
    error
        .find::<attach::AttachError>()
        .is_some_and(|error| matches!(error.errno(), Errno::INVAL | Errno::UCLEAN))
}

/// The kind of an error about one of our directories.
pub(crate) fn errno_kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::PERM | Errno::ACCESS => ErrorKind::PermissionDenied,
        Errno::BUSY => ErrorKind::Busy,
        _ => ErrorKind::Storage,
    }
}
