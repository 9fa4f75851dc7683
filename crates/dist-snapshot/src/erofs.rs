//! Snapshots as images: each layer is one EROFS file, mounted on the directory that it stands for,
//! and overlayfs stacks them.
//!
//! ```text
//! <id>/fs            what is written, while the snapshot is active; then empty, the image is
//!                    mounted here
//! <id>/layer.erofs   the image
//! <id>/work          overlayfs' own
//! ```
//!
//! An image is mounted when a snapshot on top of it is asked for its mounts, in the mount namespace
//! of who asks, and unmounted when the last such snapshot goes. Blocks smaller than a page need Linux
//! 6.4; before 6.12 images are on loop devices.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dist_core::{Cancel, Context, Error, ErrorKind, LayerForm, Mount, Result, SnapshotKind, Usage};
use dist_layer::{erofs_tar, image_path, write_erofs_dir};
use dist_store::Store;
use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::mount::{FsOpenFlags, fsopen};

use crate::dirs::{at, remove_tree};
use crate::driver::Driver;
use crate::mount::{self, Via, mount_image};
use crate::overlay::{self, Overlay};
use crate::tree;

/// The snapshotter's name.
pub(crate) const NAME: &str = "erofs";

/// What the kernel says of such a file system.
const MAGIC: rustix::fs::FsWord = 0xe0f5_e1e2;

/// What gives loop devices.
const LOOP: &str = "/dev/loop-control";

/// Stacks images.
#[derive(Debug)]
pub(crate) struct Erofs(Overlay);

impl Erofs {
    /// As [`Overlay::new`].
    pub(crate) fn new(root: &Path) -> Result<Self> {
        Overlay::new(root).map(Self)
    }
}

impl Driver for Erofs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn layer_form(&self) -> LayerForm {
        LayerForm::Image { user_xattr: self.0.user_xattr() }
    }

    fn fill(&self, new: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<()> {
        attach_all(parents)?;
        self.0.fill(new, parents, kind)
    }

    fn mounts(&self, dir: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<Vec<Mount>> {
        attach_all(parents)?;
        self.0.mounts(dir, parents, kind)
    }

    fn freeze(&self, fs: &Path) -> Result<bool> {
        if has_layer(fs)? {
            if is_empty(fs)? {
                return Ok(false);
            }
            let message = format!("{}: a layer was unpacked to it before", at("commit", fs));
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        write_erofs_dir(fs, &Cancel::default()).map(|()| true)
    }

    fn frozen(&self, fs: &Path, committed: bool) -> Result<()> {
        // What is left where this is not reached is hidden below the mount, or written over.
        if committed { empty(fs) } else { remove_tree(&image_path(fs)) }
    }

    fn measure(&self, fs: &Path, kind: SnapshotKind) -> std::io::Result<Usage> {
        if kind != SnapshotKind::Committed {
            return self.0.measure(fs, kind);
        }
        measure(fs)
    }
}

/// What a committed snapshot takes on the disk: its image.
pub(crate) fn measure(fs: &Path) -> std::io::Result<Usage> {
    let meta = std::fs::symlink_metadata(image_path(fs))?;
    Ok(Usage { bytes: meta.blocks() * 512, inodes: 1 })
}

/// Whether this process can mount images, and overlays of them.
pub(crate) fn is_mountable() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    overlay::is_mountable()
        && *KNOWN.get_or_init(|| {
            (overlay::kernel_is_at_least((6, 12))
                || overlay::kernel_is_at_least((6, 4)) && Path::new(LOOP).exists())
                && fsopen(NAME, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
        })
}

fn attach_all(trees: &[PathBuf]) -> Result<()> {
    trees.iter().try_for_each(|fs| attach(fs))
}

/// Mounts the image that stands for a directory on that, where it is not.
fn attach(fs: &Path) -> Result<()> {
    attach_via(fs, Via::Any)
}

pub(crate) fn attach_via(fs: &Path, via: Via) -> Result<()> {
    if is_mounted(fs)? {
        return Ok(());
    }
    match mount_image(NAME, &image_path(fs), fs, via) {
        // Somebody else did meanwhile.
        Err(error) if error.kind() == ErrorKind::Busy && is_mounted(fs)? => Ok(()),
        result => result,
    }
}

/// Unmounts the image from the directory that it stands for, where it is mounted. A process of
/// another mount namespace keeps its own.
pub(crate) fn detach(fs: &Path) -> Result<()> {
    while is_mounted(fs)? && is_image(fs)? {
        mount::unmount(fs)?;
    }
    Ok(())
}

/// Whether what is seen at a directory is an image.
fn is_image(fs: &Path) -> Result<bool> {
    let stat = rustix::fs::statfs(fs).context(ErrorKind::Storage, || at("stat", fs))?;
    Ok(stat.f_type == MAGIC)
}

fn is_mounted(fs: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, fs, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error).context(mount::errno_kind(error), || at("stat", fs)),
    }
}

/// How a layer is unpacked to the directory of an active snapshot, if nothing was written to that.
pub(crate) fn form(store: &Store, fs: &Path) -> Result<Option<LayerForm>> {
    if has_layer(fs)? {
        let message = format!("{}: a layer was unpacked to it before", at("unpack to", fs));
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    if !fs.is_dir() || is_mounted(fs)? || !is_empty(fs)? {
        return Ok(None);
    }
    Ok(Some(Erofs::new(store.root())?.layer_form()))
}

/// Whether the image that stands for a directory is of a layer that was unpacked to it.
fn has_layer(fs: &Path) -> Result<bool> {
    let image = image_path(fs);
    let tar = std::fs::File::open(&image).and_then(erofs_tar);
    match tar {
        Ok(_) => Ok(true),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
            ) =>
        {
            Ok(false)
        }
        Err(error) => Err(error).context(ErrorKind::Storage, || at("read", &image)),
    }
}

fn entries(fs: &Path) -> Result<Vec<PathBuf>> {
    let list = || tree::entries(std::os::fd::AsFd::as_fd(&tree::open_dir(fs)?));
    let found = list().context(ErrorKind::Storage, || at("list", fs))?;
    Ok(found.iter().map(|(name, _)| fs.join(OsStr::from_bytes(name.as_bytes()))).collect())
}

fn is_empty(fs: &Path) -> Result<bool> {
    entries(fs).map(|entries| entries.is_empty())
}

fn empty(fs: &Path) -> Result<()> {
    entries(fs)?.iter().try_for_each(|path| remove_tree(path))
}
