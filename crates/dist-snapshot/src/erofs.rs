//! Snapshots as images: each layer is one EROFS file, mounted on the directory that it stands for,
//! and overlayfs stacks them.
//!
//! ```text
//! <id>/fs            what is written, while the snapshot is active
//! <id>/work          overlayfs' own
//! <id>/layer.erofs   the image of a layer that is unpacked
//! <id>.erofs         the image, when the snapshot is committed: all that there is then
//! <id>.fs            where that is mounted
//! ```
//!
//! Of what older programs committed, the image is still `<id>/layer.erofs`, and may be mounted on
//! `<id>/fs`. An image is mounted when a snapshot on top of it is asked for its mounts, in the mount
//! namespace of who asks, and unmounted when the last such snapshot goes. Blocks smaller than a page need Linux
//! 6.4; before 6.12 images are on loop devices.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dist_core::{
    Cancel, Context, DamagedStore, Error, ErrorKind, LayerForm, Mount, Result, SnapshotKind, Usage,
};
use dist_layer::{
    erofs_tar, final_image_path, image_path, new_image_path, open_erofs, write_erofs_dir,
};
use dist_store::{Feature, Store};
use rustix::fs::{AtFlags, CWD, Mode, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};

use crate::dirs::{at, remove_tree};
use crate::driver::Driver;
use crate::layout::Layout;
use crate::mount::{self, Via, mount_image};
use crate::overlay::{self, Overlay};
use crate::tree;

/// The snapshotter's name.
pub(crate) const NAME: &str = "erofs";

/// What the kernel says of such a file system.
const MAGIC: rustix::fs::FsWord = 0xe0f5_e1e2;

/// What follows the id in the name of the directory that an image is mounted on.
const MOUNTED: &str = ".fs";

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
        self.0.fill(new, &attach_all(parents)?, kind)
    }

    fn mounts(&self, dir: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<Vec<Mount>> {
        self.0.mounts(dir, &attach_all(parents)?, kind)
    }

    fn freeze(&self, fs: &Path) -> Result<()> {
        if !has_layer(fs)? {
            write_erofs_dir(fs, &Cancel::default())?;
        } else if !is_empty(fs)? {
            let message = format!("{}: a layer was unpacked to it before", at("commit", fs));
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        settle(fs)
    }

    fn frozen(&self, fs: &Path, committed: bool) -> Result<()> {
        if committed {
            return remove_tree(fs.parent().unwrap_or(fs));
        }
        if has_layer(fs)? { Ok(()) } else { remove_tree(&image_path(fs)) }
    }
}

/// A committed snapshot is an image.
#[derive(Debug)]
pub(crate) struct Images;

impl Layout for Images {
    fn feature(&self) -> Option<Feature> {
        Some(Feature::ImageFiles)
    }

    fn beside(&self) -> &'static [&'static str] {
        &[".erofs", MOUNTED]
    }

    fn inside(&self) -> &'static [&'static str] {
        &["fs", "new", "work", "layer.erofs", "layer.new"]
    }

    fn committed(&self, fs: &Path) -> PathBuf {
        image_path(fs)
    }

    fn is_usable(&self, fs: &Path) -> io::Result<bool> {
        match open_erofs(&image_path(fs)) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) =>
            {
                Ok(false)
            }
            opened => opened.map(|_| true),
        }
    }

    fn has_left_directory(&self, fs: &Path) -> bool {
        let meta = final_image_path(fs).map(|path| path.symlink_metadata());
        matches!(meta, Some(Ok(meta)) if meta.is_file())
    }

    fn measure(&self, fs: &Path) -> io::Result<Usage> {
        let meta = open_erofs(&image_path(fs))?.metadata()?;
        Ok(Usage { bytes: meta.blocks() * 512, inodes: 1 })
    }

    fn replace(&self, new: &Path, fs: &Path) -> Result<()> {
        self.detach(fs)?;
        if let Some(path) = final_image_path(fs).filter(|path| path.is_dir()) {
            remove_tree(&path)?;
        }
        settle(new)?;
        remove_tree(fs.parent().unwrap_or(fs))
    }

    fn is_itself(&self, place: &Path) -> Result<bool> {
        let stat = rustix::fs::statfs(place).context(ErrorKind::Storage, || at("stat", place))?;
        Ok(stat.f_type == MAGIC)
    }

    fn is_attached(&self, fs: &Path) -> bool {
        mount_point(fs).exists() || is_mounted(fs).unwrap_or(false)
    }

    fn detach(&self, fs: &Path) -> Result<()> {
        let target = mount_point(fs);
        for place in [&target, fs] {
            while is_mounted(place)? && self.is_itself(place)? {
                mount::unmount(place)?;
            }
        }
        match rustix::fs::rmdir(&target) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error).context(mount::errno_kind(error), || at("remove", &target)),
        }
    }
}

/// Gives the image that was written for a snapshot the name that it keeps.
fn settle(fs: &Path) -> Result<()> {
    let new = new_image_path(fs);
    let path = final_image_path(fs).unwrap_or_else(|| new.clone());
    match rustix::fs::rename(&new, &path) {
        // It has it.
        Err(Errno::NOENT) if path.exists() => Ok(()),
        result => result.context(ErrorKind::Storage, || at("rename", &new)),
    }
}

/// Whether this process can mount images, and overlays of them.
pub(crate) fn is_mountable() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    overlay::is_mountable()
        && is_allowed()
        && *KNOWN.get_or_init(|| {
            (overlay::kernel_is_at_least((6, 12))
                || overlay::kernel_is_at_least((6, 4)) && Path::new(LOOP).exists())
                && fsopen(NAME, FsOpenFlags::FSOPEN_CLOEXEC).is_ok()
        })
}

/// Whether this process may mount images, if the kernel knows them: no user namespace allows it.
pub(crate) fn is_allowed() -> bool {
    rustix::process::geteuid().is_root() && !overlay::in_user_namespace()
}

fn attach_all(trees: &[PathBuf]) -> Result<Vec<PathBuf>> {
    trees.iter().map(|fs| attach(fs, Via::Any)).collect()
}

/// Mounts the image that stands for a directory, where it is not; returns where it is.
pub(crate) fn attach(fs: &Path, via: Via) -> Result<PathBuf> {
    let target = mount_point(fs);
    if is_mounted(&target)? {
        return Ok(target);
    }
    match rustix::fs::mkdir(&target, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => (),
        Err(error) => {
            return Err(error)
                .context(mount::errno_kind(error), || at("create directory", &target));
        }
    }
    match mount_image(NAME, &image_path(fs), &target, via) {
        // Somebody else did meanwhile.
        Err(error) if error.kind() == ErrorKind::Busy && is_mounted(&target)? => Ok(target),
        Err(error) if mount::is_damaged(&error) => {
            tracing::debug!(?error, "an image can't be mounted");
            let message = at("mount image", &image_path(fs));
            let damage = DamagedStore { mismatch: None };
            Err(Error::new(ErrorKind::Storage, message).with_source(damage))
        }
        result => result.map(|()| target),
    }
}

/// Where the image that stands for a directory is mounted.
fn mount_point(fs: &Path) -> PathBuf {
    let dir = fs.parent().unwrap_or(fs);
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(MOUNTED);
    dir.with_file_name(name)
}

/// The directory that the image stands for which is mounted here; where none is, the same.
pub(crate) fn stands_for(target: &Path) -> PathBuf {
    let name = target.file_name().and_then(OsStr::to_str);
    match name.and_then(|name| name.strip_suffix(MOUNTED)) {
        Some(id) => target.with_file_name(id).join("fs"),
        None => target.to_owned(),
    }
}

fn is_mounted(fs: &Path) -> Result<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(CWD, fs, flags, StatxFlags::empty()) {
        Ok(stat) => Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        Err(Errno::NOENT) => Ok(false),
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
