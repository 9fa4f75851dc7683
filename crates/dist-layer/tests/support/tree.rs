//! A directory tree as a value, to be compared entry by entry.

#![allow(dead_code, reason = "each test uses its part of it")]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dist_core::{
    Applied, Applier, Cancel, Compression, Descriptor, Digest, LayerForm, MediaType, Mount, Result,
    Usage,
};
use dist_layer::{ApplyOptions, LayerApplier};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    /// The first path of the same inode.
    pub(crate) first: PathBuf,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) type Tree = BTreeMap<PathBuf, Node>;

/// Reads a tree; the root is the empty path.
pub(crate) fn read(root: &Path) -> Tree {
    let mut inodes = HashMap::new();
    let mut paths = list(root);
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), node(root, &path, &mut inodes))).collect()
}

fn list(root: &Path) -> Vec<PathBuf> {
    let (mut paths, mut at) = (vec![PathBuf::new()], 0);
    while at < paths.len() {
        let path = root.join(&paths[at]);
        if path.symlink_metadata().unwrap().is_dir() {
            for entry in path.read_dir().unwrap() {
                let path = paths[at].join(entry.unwrap().file_name());
                paths.push(path);
            }
        }
        at += 1;
    }
    paths
}

fn node(root: &Path, path: &Path, inodes: &mut HashMap<u64, PathBuf>) -> Node {
    let full = root.join(path);
    let meta = full.symlink_metadata().unwrap();
    let kind = meta.file_type();
    let kind = if kind.is_dir() {
        "dir".to_owned()
    } else if kind.is_symlink() {
        format!("symlink {:?}", full.read_link().unwrap())
    } else if kind.is_file() {
        format!("file {} {}", meta.len(), Digest::sha256(&std::fs::read(&full).unwrap()))
    } else if kind.is_fifo() {
        "fifo".to_owned()
    } else {
        let what = if kind.is_block_device() { "block" } else { "char" };
        format!("{what} {:x}", meta.rdev())
    };
    Node {
        kind,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        first: inodes.entry(meta.ino()).or_insert_with(|| path.to_owned()).clone(),
        xattrs: xattrs(&full),
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let Ok(length) = rustix::fs::llistxattr(path, list.as_mut_slice()) else {
        return BTreeMap::new();
    };
    let keys = list[..length].split(|&byte| byte == 0).filter(|key| !key.is_empty());
    keys.map(|key| {
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(path, key, value.as_mut_slice()).unwrap();
        (key.to_vec(), value[..length].to_vec())
    })
    .collect()
}

/// Fails where two trees differ, naming the first few paths that do.
pub(crate) fn assert_same(left: &Tree, right: &Tree) {
    let mut differences = Vec::new();
    for path in left.keys().chain(right.keys()) {
        if left.get(path) != right.get(path) && differences.len() < 8 {
            differences.push(format!("{path:?}: {:?} != {:?}", left.get(path), right.get(path)));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

pub(crate) fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test sets owners and devices: run it as root"
    );
}

pub(crate) const STACKED: LayerForm = LayerForm::Stacked { user_xattr: false };

pub(crate) fn descriptor(compression: Compression) -> Descriptor {
    Descriptor::new(MediaType::Layer(compression), Digest::sha256(b"layer"), 0)
}

pub(crate) fn bind(dir: &Path) -> Mount {
    Mount {
        fstype: "bind".into(),
        source: dir.to_owned(),
        target: None,
        options: vec!["rw".into()],
    }
}

/// Unpacks a plain tar.
pub(crate) fn apply(form: LayerForm, bytes: &[u8], dir: &Path) -> Result<Applied> {
    std::fs::create_dir_all(dir).unwrap();
    let applied = LayerApplier::new(ApplyOptions::new(form)).apply(
        &descriptor(Compression::None),
        &mut &*bytes,
        &[bind(dir)],
        &Cancel::default(),
    );
    if let Ok(Applied { usage: Some(usage), .. }) = &applied {
        // Deeper than any path can say, it can't be walked like this.
        let walked = walk(dir).unwrap_or(*usage);
        assert_eq!(*usage, walked, "what was counted on the way and what a walk finds");
    }
    applied
}

/// What a tree takes on the disk; a file with many names counts once.
fn walk(dir: &Path) -> Option<Usage> {
    let (mut usage, mut seen) = (Usage::default(), HashSet::new());
    let mut pending = vec![dir.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = std::fs::symlink_metadata(&path).ok()?;
        if meta.is_dir() {
            pending.extend(std::fs::read_dir(&path).ok()?.map(|entry| entry.unwrap().path()));
        }
        if seen.insert(meta.ino()) {
            usage.inodes += 1;
            usage.bytes += meta.blocks() * 512;
        }
    }
    Some(usage)
}

/// The error's messages from the outermost to the first cause.
pub(crate) fn chain(error: &dist_core::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text = format!("{text}: {error}");
        next = error.source();
    }
    text
}
