//! A store for one test, mounts that undo themselves, and trees as text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dist_core::{
    Error, ErrorKind, Labels, Mount, Namespace, Result, SnapshotInfo, SnapshotKey, Snapshotter,
};
use dist_store::{Store, StoreOptions};
use tempfile::TempDir;

/// Runs each function once with every snapshotter.
macro_rules! for_each_snapshotter {
    ($($test:ident),+ $(,)?) => {
        mod overlayfs {
            $(#[test] fn $test() { super::$test(&$crate::support::Bench::new("overlayfs")); })+
        }
        mod erofs {
            $(#[test] fn $test() { super::$test(&$crate::support::Bench::new("erofs")); })+
        }
        mod native {
            $(#[test] fn $test() { super::$test(&$crate::support::Bench::new("native")); })+
        }
    };
}
pub(crate) use for_each_snapshotter;

/// A store with one snapshotter, and a place for mounts.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) snapshotter: Arc<dyn Snapshotter>,
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new(name: &'static str) -> Self {
        Self::below(name, "")
    }

    /// As [`Bench::new`], with the store at `path` in the test's directory.
    pub(crate) fn below(name: &'static str, path: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts: run it as root");
        let dir = scratch();
        let root = dir.path().join(path).join("store");
        let store = Store::open(&root, StoreOptions::default()).unwrap();
        let snapshotter = dist_snapshot::open(&store, Namespace::default(), name).unwrap();
        Self { name, snapshotter, store, dir }
    }

    pub(crate) fn prepare(&self, key_: &str, parent: Option<&str>) -> Vec<Mount> {
        self.try_prepare(key_, parent).unwrap()
    }

    pub(crate) fn try_prepare(&self, key_: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.snapshotter.prepare(&key(key_), parent.map(key).as_ref(), &Labels::new())
    }

    pub(crate) fn view(&self, key_: &str, parent: Option<&str>) -> Vec<Mount> {
        self.try_view(key_, parent).unwrap()
    }

    pub(crate) fn try_view(&self, key_: &str, parent: Option<&str>) -> Result<Vec<Mount>> {
        self.snapshotter.view(&key(key_), parent.map(key).as_ref(), &Labels::new())
    }

    pub(crate) fn commit(&self, name: &str, active: &str) {
        self.try_commit(name, active, None).unwrap();
    }

    pub(crate) fn try_commit(&self, name: &str, active: &str, parent: Option<&str>) -> Result<()> {
        let parent = parent.map(key);
        self.snapshotter.commit(&key(name), &key(active), parent.as_ref(), &Labels::new(), None)
    }

    pub(crate) fn stat(&self, key_: &str) -> Result<SnapshotInfo> {
        self.snapshotter.stat(&key(key_))
    }

    pub(crate) fn remove(&self, key_: &str) -> Result<()> {
        self.snapshotter.remove(&key(key_))
    }

    /// Mounts on a new directory.
    pub(crate) fn mount(&self, mounts: &[Mount]) -> Mounted {
        let target = tempfile::tempdir_in(self.dir.path()).unwrap().keep();
        dist_snapshot::mount::mount(mounts, &target).unwrap();
        Mounted { target }
    }

    /// Makes the layer `name` on `parent`: what `change` does to its mounted tree.
    pub(crate) fn layer(&self, name: &str, parent: Option<&str>, change: impl Fn(&Path)) {
        let active = format!("{name} in the making");
        let mounted = self.mount(&self.prepare(&active, parent));
        change(&mounted.target);
        drop(mounted);
        self.commit(name, &active);
    }

    /// The tree of a committed snapshot, seen through a view.
    pub(crate) fn tree(&self, name: &str, detail: Detail) -> BTreeMap<PathBuf, String> {
        let view = format!("view of {name}");
        let mounted = self.mount(&self.view(&view, Some(name)));
        let tree = tree(&mounted.target, detail);
        drop(mounted);
        self.remove(&view).unwrap();
        tree
    }

    /// The ids of the snapshots that have anything on the disk.
    pub(crate) fn dirs(&self) -> BTreeSet<String> {
        self.names().iter().map(|name| name.split('.').next().unwrap().to_owned()).collect()
    }

    /// What is in the snapshotter's directory.
    pub(crate) fn names(&self) -> BTreeSet<String> {
        match std::fs::read_dir(self.store.root().join("snapshots").join(self.name)) {
            Ok(dir) => dir.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
            Err(_) => BTreeSet::new(),
        }
    }
}

/// A directory on the disk that holds the build, where overlayfs finds its attributes.
pub(crate) fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A mount that ends with its owner.
pub(crate) struct Mounted {
    pub(crate) target: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let result = unmount(&self.target);
        if !std::thread::panicking() {
            result.unwrap();
        } else if result.is_err() {
            // A failed test may still have files open here.
            let flags = rustix::mount::UnmountFlags::DETACH;
            let _ = rustix::mount::unmount(&self.target, flags);
        }
    }
}

/// Unmounts `target` when it is free.
///
/// A process that another test starts has the files that this one has open, and keeps them until it
/// runs its own program: so the mount may be in use for a moment after all of them were closed here.
fn unmount(target: &Path) -> Result<()> {
    let limit = Instant::now() + Duration::from_secs(10);
    loop {
        match dist_snapshot::mount::unmount(target) {
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < limit => {
                std::thread::yield_now();
            }
            result => return result,
        }
    }
}

pub(crate) fn key(text: &str) -> SnapshotKey {
    text.parse().unwrap()
}

#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(kind: ErrorKind, result: Result<T>) -> Error {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    error
}

/// What of a tree is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Kinds, modes, owners, contents, links, devices.
    Content,
    /// Modification times, attributes and which names are one file as well.
    All,
}

/// Every entry below `root` with all that is to be compared, as text.
pub(crate) fn tree(root: &Path, detail: Detail) -> BTreeMap<PathBuf, String> {
    let mut entries = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let mut text = format!("{:o} {}:{}", meta.mode(), meta.uid(), meta.gid());
        let kind = meta.file_type();
        if kind.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if kind.is_symlink() {
            write!(text, " -> {}", std::fs::read_link(&path).unwrap().display()).unwrap();
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            let sum = bytes.iter().fold(7_u64, |sum, byte| sum.wrapping_mul(31) ^ u64::from(*byte));
            write!(text, " {} {sum:x}", meta.len()).unwrap();
        } else if kind.is_char_device() || kind.is_block_device() {
            write!(text, " {:x}", meta.rdev()).unwrap();
        }
        if detail == Detail::All {
            write!(text, " {}.{:09} {}", meta.mtime(), meta.mtime_nsec(), attributes(&path))
                .unwrap();
        }
        if detail == Detail::All && !kind.is_dir() && meta.nlink() > 1 {
            write!(text, " ={}", meta.nlink()).unwrap();
            inodes.entry(meta.ino()).or_insert_with(|| name.clone());
        }
        entries.insert(name, text);
    }
    entries
}

fn attributes(path: &Path) -> String {
    let mut list = vec![0; 4096];
    let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap();
    let mut names: Vec<&[u8]> =
        list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 4096];
        let name = std::ffi::OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        write!(text, " {}={:?}", name.display(), &value[..length]).unwrap();
    }
    text
}

pub(crate) fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    chmod(path, 0o777);
}

pub(crate) fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

pub(crate) fn mkdir(path: &Path, mode: u32) {
    std::fs::create_dir_all(path).unwrap();
    chmod(path, mode);
}
