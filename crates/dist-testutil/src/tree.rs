//! Two directory trees, compared entry by entry.
//!
//! An entry is all that a tar can carry: type, mode, owner, times of
//! modification, contents, link target, device number, extended attributes,
//! and which names are the same file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use dist_core::{Digest, Hasher};

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `file`, `dir`, `symlink`, `char`, `block`, `fifo` or `socket`.
    pub kind: &'static str,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Nanoseconds since the epoch.
    pub mtime: i128,
    /// Size and digest of a file's contents.
    pub contents: Option<(u64, Digest)>,
    /// A symlink's target.
    pub target: Option<PathBuf>,
    /// A device's number.
    pub device: u64,
    /// Extended attributes.
    pub attributes: BTreeMap<OsString, Vec<u8>>,
    /// The first name of the same file.
    pub same_as: Option<PathBuf>,
}

/// A whole tree by relative path; the root is the empty path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<PathBuf, Node>);

impl Tree {
    /// Reads the tree at `root`, without crossing into other filesystems.
    ///
    /// # Panics
    /// When something cannot be read.
    pub fn read(root: &Path) -> Self {
        let mut nodes = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(path) = todo.pop() {
            let full = root.join(&path);
            let node = node(&full);
            if node.kind == "dir" {
                for entry in fs_err::read_dir(&full).expect("read a directory") {
                    todo.push(path.join(entry.expect("read a directory").file_name()));
                }
            }
            nodes.insert(path, node);
        }
        let mut first = BTreeMap::new();
        for (path, node) in &mut nodes {
            let meta = fs_err::symlink_metadata(root.join(path)).expect("stat an entry");
            if node.kind != "dir" && meta.nlink() > 1 {
                let name = first.entry((meta.dev(), meta.ino())).or_insert_with(|| path.clone());
                node.same_as = Some(name.clone());
            }
        }
        Self(nodes)
    }

    /// Drops the entries for which `drop` says so, with all below them.
    #[must_use]
    pub fn without(mut self, drop: impl Fn(&Path) -> bool) -> Self {
        self.0.retain(|path, _| !path.ancestors().any(&drop));
        self
    }

    /// What differs, a line each, at most fifty.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for (path, node) in &self.0 {
            match other.0.get(path) {
                None => lines.push(format!("{}: only on the left", path.display())),
                Some(there) if there != node => lines.push(explain(path, node, there)),
                Some(_) => {}
            }
        }
        for path in other.0.keys().filter(|path| !self.0.contains_key(*path)) {
            lines.push(format!("{}: only on the right", path.display()));
        }
        lines.truncate(50);
        lines
    }

    /// Fails the test when the trees differ.
    ///
    /// # Panics
    /// When they do.
    #[track_caller]
    pub fn assert_same(&self, other: &Self, what: &str) {
        let lines = self.differences(other);
        assert!(lines.is_empty(), "{what}: {} differences\n{}", lines.len(), lines.join("\n"));
    }
}

fn explain(path: &Path, left: &Node, right: &Node) -> String {
    let mut parts = Vec::new();
    let mut field = |name: &str, left: String, right: String| {
        if left != right {
            parts.push(format!("{name} {left} and {right}"));
        }
    };
    field("kind", left.kind.into(), right.kind.into());
    field("mode", format!("{:o}", left.mode), format!("{:o}", right.mode));
    field("owner", format!("{:?}", left.owner), format!("{:?}", right.owner));
    field("mtime", left.mtime.to_string(), right.mtime.to_string());
    field("contents", format!("{:?}", left.contents), format!("{:?}", right.contents));
    field("target", format!("{:?}", left.target), format!("{:?}", right.target));
    field("device", left.device.to_string(), right.device.to_string());
    field("attributes", format!("{:?}", left.attributes), format!("{:?}", right.attributes));
    field("same as", format!("{:?}", left.same_as), format!("{:?}", right.same_as));
    format!("{}: {}", path.display(), parts.join("; "))
}

fn node(path: &Path) -> Node {
    let meta = fs_err::symlink_metadata(path).expect("stat an entry");
    let kind = meta.file_type();
    let name = if kind.is_dir() {
        "dir"
    } else if kind.is_file() {
        "file"
    } else if kind.is_symlink() {
        "symlink"
    } else if kind.is_char_device() {
        "char"
    } else if kind.is_block_device() {
        "block"
    } else if kind.is_fifo() {
        "fifo"
    } else {
        "socket"
    };
    Node {
        kind: name,
        mode: meta.mode() & 0o7777,
        owner: (meta.uid(), meta.gid()),
        mtime: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
        contents: kind.is_file().then(|| (meta.len(), hash(path))),
        target: kind.is_symlink().then(|| fs_err::read_link(path).expect("read a link")),
        device: if matches!(name, "char" | "block") { meta.rdev() } else { 0 },
        attributes: attributes(path),
        same_as: None,
    }
}

fn hash(path: &Path) -> Digest {
    let mut hasher = Hasher::sha256();
    let mut file = fs_err::File::open(path).expect("open a file");
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).expect("read a file");
        if count == 0 {
            return hasher.finish();
        }
        hasher.update(&buffer[..count]);
    }
}

fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut names = vec![0_u8; 64 << 10];
    let size = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
    let mut found = BTreeMap::new();
    for name in names[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::ffi::OsStr::from_bytes(name);
        // The kernel's own bookkeeping of an overlay is no part of the tree.
        if name.as_bytes().starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0_u8; 64 << 10];
        let size = rustix::fs::lgetxattr(path, name, &mut value).expect("read an attribute");
        value.truncate(size);
        found.insert(name.to_owned(), value);
    }
    found
}
