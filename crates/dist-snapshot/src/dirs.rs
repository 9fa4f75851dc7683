//! The directories of one snapshotter.
//!
//! ```text
//! ROOT/snapshots/<snapshotter>/<id>/fs     the tree; there once the snapshot is whole
//!                                 /new     the tree while it is being made
//!                                 /work    overlayfs' own
//!                             /<id>.…      what else the snapshotter's layout has
//! ROOT/snapshots/lock                      held shared while a snapshot is being made
//! ROOT/trash/snapshot-<snapshotter>-<id>-…
//! ```
//!
//! Everything above `fs` has mode 0700, so that other users never reach the programs of an image.
//! A row is there before its directory and goes before it; a directory without a row is garbage,
//! a row without `fs` is a snapshot whose maker died. All lie side by side under short names, so
//! that the options of a mount of many layers stay short.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dist_core::{Context, Error, ErrorKind, Result};
use dist_store::{SnapshotId, Store};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use crate::layout::Layout;
use crate::mount::errno_kind;
use crate::open::layout;
use crate::{mounted, tree};

/// The directories of one snapshotter in one store.
#[derive(Debug)]
pub(crate) struct Dirs {
    store: Store,
    root: PathBuf,
    base: PathBuf,
    snapshotter: &'static str,
    layout: &'static dyn Layout,
}

/// Held while a snapshot is being made.
pub(crate) struct Making(#[expect(dead_code, reason = "closing it unlocks")] File);

impl Dirs {
    pub(crate) fn new(store: &Store, snapshotter: &'static str) -> Self {
        let root = store.root().to_owned();
        let base = root.join("snapshots").join(snapshotter);
        Self { store: store.clone(), base, root, snapshotter, layout: layout(snapshotter) }
    }

    /// How all of it lies there.
    pub(crate) fn layout(&self) -> &'static dyn Layout {
        self.layout
    }

    /// Sees to it that programs that can't find the snapshots committed from now on keep out.
    pub(crate) fn demand_feature(&self) -> Result<()> {
        self.layout.feature().map_or(Ok(()), |feature| self.store.demand(feature))
    }

    /// The directory of a snapshot.
    pub(crate) fn dir(&self, id: SnapshotId) -> PathBuf {
        self.base.join(id.to_string())
    }

    /// The snapshot's tree.
    pub(crate) fn fs(&self, id: SnapshotId) -> PathBuf {
        self.dir(id).join("fs")
    }

    /// Whether the snapshot was made to its end.
    pub(crate) fn is_whole(&self, id: SnapshotId) -> Result<bool> {
        is_there(&self.fs(id))
    }

    /// Whether a snapshot that was committed has what it then had, as far as a short look tells.
    pub(crate) fn is_usable(&self, id: SnapshotId) -> Result<bool> {
        let fs = self.fs(id);
        let usable = self.layout.is_usable(&fs);
        usable.context(ErrorKind::Storage, || at("look at", &self.layout.committed(&fs)))
    }

    /// Whether there is anything where a snapshot that was committed has its files.
    pub(crate) fn is_there(&self, id: SnapshotId) -> Result<bool> {
        is_there(&self.layout.committed(&self.fs(id)))
    }

    /// All places that a snapshot may have files at.
    fn places(&self, id: SnapshotId) -> impl Iterator<Item = PathBuf> {
        let beside = self.layout.beside().iter();
        std::iter::once(self.dir(id))
            .chain(beside.map(move |suffix| self.base.join(format!("{id}{suffix}"))))
    }

    /// The places that a snapshot has files at.
    pub(crate) fn found(&self, id: SnapshotId) -> Vec<PathBuf> {
        self.places(id).filter(|path| path.symlink_metadata().is_ok()).collect()
    }

    /// Makes the directory of a snapshot; `fill` puts its content into the empty tree it is given.
    ///
    /// The caller holds [`Dirs::making`] and has made the row.
    pub(crate) fn make(
        &self,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.make_base()?;
        let dir = self.dir(id);
        if make_dir(&dir, Mode::RWXU)? == Made::Before || self.found(id).len() > 1 {
            // A row that a power cut took back leaves its id to the next one.
            self.discard(id)?;
            make_dir(&dir, Mode::RWXU)?;
        }
        let new = dir.join("new");
        make_tree(&new)?;
        fill(&new)?;
        rustix::fs::rename(&new, dir.join("fs")).context(ErrorKind::Storage, || at("rename", &new))
    }

    /// Makes what a committed snapshot is anew: `fill` puts it into, or beside, the empty tree that
    /// it is given.
    pub(crate) fn replace(
        &self,
        id: SnapshotId,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        self.demand_feature()?;
        self.make_base()?;
        let dir = self.dir(id);
        let made = make_dir(&dir, Mode::RWXU)?;
        let new = dir.join("new");
        let fill = || {
            remove_tree(&new)?;
            make_tree(&new)?;
            fill(&new)?;
            self.layout.replace(&new, &self.fs(id))
        };
        let filled = fill();
        if filled.is_err() && made == Made::Now {
            remove_tree(&dir)?;
        }
        filled
    }

    /// Fails with `Busy` where something is mounted on one of the snapshot's places, but for itself.
    pub(crate) fn check_idle(&self, id: SnapshotId) -> Result<()> {
        let dir = self.dir(id);
        for path in [dir.join("fs"), dir.join("work")].into_iter().chain(self.places(id)) {
            let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
            match rustix::fs::statx(CWD, &path, flags, StatxFlags::empty()) {
                Ok(stat)
                    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
                        && !self.layout.is_itself(&path)? =>
                {
                    let message = format!("{}: something is mounted on it", at("change", &path));
                    return Err(Error::new(ErrorKind::Busy, message));
                }
                Ok(_) | Err(Errno::NOENT | Errno::NOSYS) => (),
                Err(error) => {
                    return Err(error).context(errno_kind(error), || at("stat", &path));
                }
            }
        }
        Ok(())
    }

    /// Fails with `Busy` where something is mounted on the snapshot's places or made of them.
    pub(crate) fn check_unused(&self, id: SnapshotId) -> Result<()> {
        self.check_idle(id)?;
        for place in self.places(id) {
            if let Some(target) = mounted::user_of(&place) {
                let message =
                    format!("{}: the mount on {} uses it", at("change", &place), target.display());
                return Err(Error::new(ErrorKind::Busy, message));
            }
        }
        Ok(())
    }

    /// Unmounts snapshots that nothing writable or visible stands on any more.
    pub(crate) fn release(
        &self,
        ids: &[SnapshotId],
        used: impl FnOnce() -> Result<BTreeSet<SnapshotId>>,
    ) {
        let attached: Vec<_> =
            ids.iter().filter(|id| self.layout.is_attached(&self.fs(**id))).collect();
        if attached.is_empty() {
            return;
        }
        let release = || {
            // Whoever makes a snapshot now may have mounted them and have no row yet.
            let Some(_alone) = self.making_alone()? else { return Ok(()) };
            let used = used()?;
            attached
                .iter()
                .filter(|id| !used.contains(id))
                .try_for_each(|id| self.layout.detach(&self.fs(**id)))
        };
        if let Err(error) = release() {
            tracing::debug!(?error, "a snapshot stays mounted");
        }
    }

    /// Removes the files of a snapshot that has no row (any more). None there is fine.
    pub(crate) fn discard(&self, id: SnapshotId) -> Result<()> {
        self.throw_away(id)?.iter().try_for_each(|trash| remove_tree(trash))
    }

    /// As [`Dirs::discard`], but leaves them in the trash where the store says so.
    pub(crate) fn discard_soon(&self, id: SnapshotId) -> Result<()> {
        let trash = self.throw_away(id)?;
        if trash.is_empty() || self.store.leave_in_trash() {
            return Ok(());
        }
        trash.iter().try_for_each(|trash| remove_tree(trash))
    }

    /// Moves the files of a snapshot into the trash; says where they are there. What there is not
    /// even room for the name of is removed at once.
    fn throw_away(&self, id: SnapshotId) -> Result<Vec<PathBuf>> {
        self.layout.detach(&self.fs(id))?;
        let trash = self.root.join("trash");
        make_dir(&trash, Mode::RWXU)?;
        let mut thrown = Vec::new();
        for place in self.places(id) {
            let name = format!("snapshot-{}-{id}-{}", self.snapshotter, unique());
            let trash = trash.join(name);
            match rustix::fs::rename(&place, &trash) {
                Ok(()) => thrown.push(trash),
                Err(Errno::NOENT) => (),
                Err(Errno::NOSPC | Errno::DQUOT) => remove_tree(&place)?,
                Err(error) => {
                    return Err(error).context(errno_kind(error), || at("remove", &place));
                }
            }
        }
        Ok(thrown)
    }

    /// The snapshots that have files.
    pub(crate) fn list(&self) -> Result<BTreeSet<SnapshotId>> {
        Ok(names(&self.base)?.iter().filter_map(|name| self.owner(name)).collect())
    }

    /// The snapshots that have a directory and, where they are committed, don't need it.
    pub(crate) fn left_directories(&self) -> Result<Vec<SnapshotId>> {
        let names = names(&self.base)?;
        let ids = names.iter().filter_map(|name| SnapshotId::parse(name));
        Ok(ids.filter(|id| self.layout.has_left_directory(&self.fs(*id))).collect())
    }

    /// The snapshot that a name in the snapshotter's directory is of.
    pub(crate) fn owner(&self, name: &str) -> Option<SnapshotId> {
        let mut suffixes = std::iter::once(&"").chain(self.layout.beside());
        suffixes.find_map(|suffix| SnapshotId::parse(name.strip_suffix(suffix)?))
    }

    /// Says to others that a snapshot is being made.
    pub(crate) fn making(&self) -> Result<Making> {
        let (file, path) = self.lock_file()?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockShared))
            .context(ErrorKind::Storage, || at("lock", &path))?;
        Ok(Making(file))
    }

    /// As [`Dirs::making`], but only where no other is being made in the whole store.
    pub(crate) fn making_alone(&self) -> Result<Option<Making>> {
        let (file, path) = self.lock_file()?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Making(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).context(ErrorKind::Storage, || at("lock", &path)),
        }
    }

    fn lock_file(&self) -> Result<(File, PathBuf)> {
        make_dir(&self.root.join("snapshots"), Mode::RWXU)?;
        let path = self.root.join("snapshots/lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)
            .context(ErrorKind::Storage, || at("open", &path))?;
        Ok((file.into(), path))
    }

    fn make_base(&self) -> Result<()> {
        make_dir(&self.root.join("snapshots"), Mode::RWXU)?;
        make_dir(&self.base, Mode::RWXU)?;
        Ok(())
    }
}

/// All that is in the trash.
///
/// Whoever moves something there deletes it next, or leaves that to a task of its process; else it
/// was left by a process that died. Two can delete it at once.
pub(crate) fn trash(store: &Store) -> Result<Vec<PathBuf>> {
    let trash = store.root().join("trash");
    Ok(names(&trash)?.iter().map(|name| trash.join(name)).collect())
}

/// Removes a file or a tree of any depth, whatever its permissions, without following links.
///
/// That it is gone already is no error.
///
/// # Errors
/// `Busy` where something is mounted in it; `PermissionDenied`; `Storage`.
pub fn remove_tree(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        let message = format!("{}: it has no name", at("remove", path));
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let remove = || {
        let parent = rustix::fs::open(
            parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        tree::remove(parent.as_fd(), &CString::new(name.as_bytes())?)
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            let kind = io_kind(&error);
            Err(error).context(kind, || at("remove", path))
        }
        _ => Ok(()),
    }
}

/// The kind of an error about one of our directories.
pub(crate) fn io_kind(error: &io::Error) -> ErrorKind {
    error.raw_os_error().map(Errno::from_raw_os_error).map_or(ErrorKind::Storage, errno_kind)
}

/// The names in a directory, none where it is missing.
fn names(dir: &Path) -> Result<Vec<String>> {
    let list = || tree::entries(tree::open_dir(dir)?.as_fd());
    match list() {
        Ok(entries) => {
            Ok(entries.into_iter().filter_map(|(name, _)| name.into_string().ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("list", dir)),
    }
}

/// Whether a directory is new.
#[derive(PartialEq, Eq)]
enum Made {
    Now,
    Before,
}

/// Makes the empty tree of a snapshot.
fn make_tree(path: &Path) -> Result<()> {
    let mode = Mode::from_raw_mode(0o755);
    make_dir(path, mode)?;
    rustix::fs::chmod(path, mode).context(ErrorKind::Storage, || at("chmod", path))
}

fn is_there(path: &Path) -> Result<bool> {
    match rustix::fs::lstat(path) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("stat", path)),
    }
}

fn make_dir(path: &Path, mode: Mode) -> Result<Made> {
    match rustix::fs::mkdir(path, mode) {
        Ok(()) => Ok(Made::Now),
        Err(Errno::EXIST) => Ok(Made::Before),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("create directory", path)),
    }
}

/// Words that no other thread or process on this machine makes.
fn unique() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{}-{next}", now.as_nanos(), std::process::id())
}

/// `verb path`, the message of most errors here.
pub(crate) fn at(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}
