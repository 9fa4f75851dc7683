//! Snapshots as layers of overlayfs: each holds only what differs from its parent.
//!
//! The mounts have the shapes that clients of containerd know: a bind mount where there is one
//! directory, else `index=off`, `userxattr` (where they are known), `workdir`, `upperdir` (both for
//! active snapshots only) and `lowerdir`, nearest layer first.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dist_core::{Context, Error, ErrorKind, LayerForm, Mount, Result, SnapshotKind};
use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid};
use rustix::mount::{FsOpenFlags, fsopen};

use crate::attributes::{self, Node};
use crate::dirs::at;
use crate::driver::{Driver, bind};
use crate::tree;

/// The snapshotter's name.
pub(crate) const NAME: &str = "overlayfs";

/// Stacks parents.
#[derive(Debug)]
pub(crate) struct Overlay {
    support: Support,
}

/// What the kernel's overlayfs can do for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Support {
    /// Whether an overlay can be mounted.
    mountable: bool,
    /// Whether the kernel knows `index=off`, which allows a layer in many mounts.
    index: bool,
    /// Whether marks are `user.overlay.*`, because this is a user namespace.
    user_xattr: bool,
}

impl Overlay {
    /// Fails for a root whose path can't be written in mount options.
    pub(crate) fn new(root: &Path) -> Result<Self> {
        let text = root.to_str();
        if text.is_none_or(|text| text.contains([':', ',', '\\', '"', '\n'])) {
            let message = format!(
                "use overlayfs below {}: mount options can't hold this path, use native",
                root.display()
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { support: support() })
    }

    /// Whether marks are `user.overlay.*`.
    pub(crate) fn user_xattr(&self) -> bool {
        self.support.user_xattr
    }
}

impl Driver for Overlay {
    fn name(&self) -> &'static str {
        NAME
    }

    fn layer_form(&self) -> LayerForm {
        LayerForm::Stacked { user_xattr: self.support.user_xattr }
    }

    fn fill(&self, new: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<()> {
        let (Some(parent), SnapshotKind::Active) = (parents.first(), kind) else { return Ok(()) };
        let work = new.with_file_name("work");
        rustix::fs::mkdir(&work, Mode::from_raw_mode(0o711))
            .context(ErrorKind::Storage, || at("create directory", &work))?;
        // The root of the mount shows the attributes of the upper directory.
        inherit(parent, new).context(ErrorKind::Storage, || at("inherit the attributes of", parent))
    }

    fn mounts(&self, dir: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<Vec<Mount>> {
        let mut options = Vec::new();
        if self.support.index {
            options.push("index=off".into());
        }
        if self.support.user_xattr {
            options.push("userxattr".into());
        }
        match (kind, parents) {
            (_, []) => return Ok(vec![bind(dir.join("fs"), kind)]),
            (SnapshotKind::Active, _) => {
                options.push(format!("workdir={}", dir.join("work").display()));
                options.push(format!("upperdir={}", dir.join("fs").display()));
            }
            (_, [parent]) => return Ok(vec![bind(parent.clone(), kind)]),
            _ => (),
        }
        let lower: Vec<_> = parents.iter().map(|parent| parent.display().to_string()).collect();
        options.push(format!("lowerdir={}", lower.join(":")));
        let source = "overlay".into();
        Ok(vec![Mount { fstype: "overlay".into(), source, target: None, options }])
    }
}

/// Gives `new` the owner, mode, attributes and modification time of `parent`, but not overlayfs'
/// marks.
fn inherit(parent: &Path, new: &Path) -> io::Result<()> {
    let (parent, new) = (tree::open_dir(parent)?, tree::open_dir(new)?);
    let stat = rustix::fs::fstat(&parent)?;
    let (owner, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::fchown(&new, Some(owner), Some(group))?;
    rustix::fs::fchmod(&new, Mode::from_raw_mode(stat.st_mode))?;
    attributes::copy(&Node::Open(parent.as_fd()), &Node::Open(new.as_fd()), |name| {
        !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay.")
    })?;
    let modified =
        Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
    let times = Timestamps { last_access: modified, last_modification: modified };
    Ok(rustix::fs::futimens(&new, &times)?)
}

/// Whether an overlay can be mounted by this process.
pub(crate) fn is_mountable() -> bool {
    support().mountable
}

/// Whether the kernel is of this version or a later one.
pub(crate) fn kernel_is_at_least(version: (u32, u32)) -> bool {
    kernel_version(&read("/proc/sys/kernel/osrelease")) >= version
}

/// Asks the kernel, once a process.
fn support() -> Support {
    static SUPPORT: OnceLock<Support> = OnceLock::new();
    *SUPPORT.get_or_init(|| {
        // Loads the module where it is one, and needs the right to mount.
        let known = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).is_ok();
        let user_namespace = in_user_namespace();
        let modern = kernel_is_at_least((5, 11));
        Support {
            mountable: known && (!user_namespace || modern),
            index: Path::new("/sys/module/overlay/parameters/index").exists(),
            user_xattr: user_namespace && modern,
        }
    })
}

/// Whether this process is in a user namespace other than the first.
pub(crate) fn in_user_namespace() -> bool {
    !is_initial_map(&read("/proc/self/uid_map"))
}

/// A file of the kernel's; empty where it does not show it, which the callers read as "no".
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether a `uid_map` is that of the first namespace; a kernel without namespaces has none.
fn is_initial_map(map: &str) -> bool {
    let words: Vec<_> = map.split_whitespace().collect();
    words.is_empty() || words == ["0", "0", "4294967295"]
}

fn kernel_version(release: &str) -> (u32, u32) {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(user_xattr: bool) -> Overlay {
        Overlay { support: Support { mountable: true, index: true, user_xattr } }
    }

    #[test]
    fn mounts_have_the_known_shapes() {
        let dir = Path::new("/r/snapshots/overlayfs/9");
        let (one, two) = (PathBuf::from("/r/1/fs"), PathBuf::from("/r/2/fs"));
        let shape = |kind, parents: &[PathBuf]| {
            let [mount] = &overlay(false).mounts(dir, parents, kind).unwrap()[..] else { panic!() };
            format!("{} {} {}", mount.fstype, mount.source.display(), mount.options.join(","))
        };
        use SnapshotKind::{Active, View};
        assert_eq!(shape(Active, &[]), "bind /r/snapshots/overlayfs/9/fs rw,rbind");
        assert_eq!(shape(View, &[]), "bind /r/snapshots/overlayfs/9/fs ro,rbind");
        assert_eq!(shape(View, std::slice::from_ref(&one)), "bind /r/1/fs ro,rbind");
        assert_eq!(
            shape(View, &[two.clone(), one.clone()]),
            "overlay overlay index=off,lowerdir=/r/2/fs:/r/1/fs"
        );
        assert_eq!(
            shape(Active, std::slice::from_ref(&one)),
            "overlay overlay index=off,workdir=/r/snapshots/overlayfs/9/work,\
             upperdir=/r/snapshots/overlayfs/9/fs,lowerdir=/r/1/fs"
        );
        let [mount] = &overlay(true).mounts(dir, &[one], Active).unwrap()[..] else { panic!() };
        assert_eq!(mount.options[..2], ["index=off", "userxattr"]);
    }

    #[test]
    fn roots_that_options_cannot_hold() {
        assert!(Overlay::new(Path::new("/var/lib/dist root")).is_ok());
        for bad in ["/a:b", "/a,b", "/a\\b", "/a\"b"] {
            let error = Overlay::new(Path::new(bad)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }

    #[test]
    fn namespaces_and_kernels() {
        assert!(is_initial_map("         0          0 4294967295\n"));
        assert!(!is_initial_map("         0       1000          1\n"));
        assert!(kernel_version("6.18.44-fc\n") >= (5, 11));
        assert_eq!(kernel_version("5.10.0-13-amd64"), (5, 10));
        assert_eq!(kernel_version(""), (0, 0));
    }
}
