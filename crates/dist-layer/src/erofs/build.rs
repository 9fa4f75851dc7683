//! Entries of a tar as nodes of an image. What an entry means is the same as where it is unpacked
//! ([`crate::apply`]).

use dist_core::{Cancel, Error, ErrorKind, Result, ResultExt};

use super::format::{device, split_xattr};
use super::tree::{BLOCK, Body, CHAR, DIR, FIFO, FILE, Node, NodeId, ROOT, SYMLINK, Step, Tree};
use super::write::block_number;
use crate::apply::IMPLICIT_MODE;
use crate::compression::Chunks;
use crate::name::{escape, normalize, split};
use crate::tar::{Entry, Kind, Region, Tar};
use crate::warnings::Warnings;
use crate::whiteout::{Name, classify, is_host_xattr, is_private_xattr};

/// Bytes of a name, and of a symlink's target, that Linux takes.
const NAME_MAX: usize = 255;
const TARGET_MAX: usize = 4095;

/// Bytes of the extended attributes of one node.
const XATTRS_MAX: usize = 64 << 10;

/// A sparse file whose bytes are to be put where blocks can say it.
#[derive(Debug)]
pub(super) struct Sparse {
    pub(super) node: NodeId,
    pub(super) size: u64,
    /// Where its bytes are in the tar.
    pub(super) stored: u64,
    pub(super) regions: Vec<Region>,
}

/// What a tar's entries come to.
pub(super) struct Built<C> {
    pub(super) tree: Tree,
    pub(super) sparse: Vec<Sparse>,
    pub(super) warnings: Warnings,
    /// Whose stream is not yet read to its end.
    pub(super) tar: Tar<C>,
}

pub(super) struct Builder<'a> {
    tree: Tree,
    sparse: Vec<Sparse>,
    warnings: Warnings,
    opaque: &'static [u8],
    /// Where the tar begins in the image.
    base: u64,
    cancel: &'a Cancel,
}

impl<'a> Builder<'a> {
    pub(super) fn new(user_xattr: bool, base: u64, cancel: &'a Cancel) -> Self {
        Self {
            tree: Tree::new(Node { links: 1, ..Node::dir(IMPLICIT_MODE, true) }),
            sparse: Vec::new(),
            warnings: Warnings::default(),
            opaque: if user_xattr { b"user.overlay.opaque" } else { b"trusted.overlay.opaque" },
            base,
            cancel,
        }
    }

    pub(super) fn run<C: Chunks>(mut self, mut tar: Tar<C>) -> Result<Built<C>> {
        let mut entry = Entry::default();
        while tar.next(&mut entry)? {
            self.cancel.check()?;
            self.entry(&mut entry, tar.position()).during(|| {
                format!("unpack entry {} at byte {}", escape(&entry.path), entry.offset)
            })?;
        }
        let Self { tree, sparse, warnings, .. } = self;
        Ok(Built { tree, sparse, warnings, tar })
    }

    /// Takes an entry whose body begins at `body` in the tar.
    fn entry(&mut self, entry: &mut Entry, body: u64) -> Result<()> {
        let path = normalize(&entry.path)?;
        if path.is_empty() {
            if entry.kind != Kind::Dir {
                let message = "replace the layer's root: it must stay a directory";
                return Err(Error::new(ErrorKind::UnsafeLayer, message));
            }
            return self.describe_dir(ROOT, entry);
        }
        let (parent, name) = split(&path);
        if name.len() > NAME_MAX {
            let message = format!("make {}: its name has {} bytes", escape(name), name.len());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        match classify(parent, name)? {
            Name::Plain => {}
            Name::Aufs => {
                self.warnings.add("bookkeeping of aufs skipped", &entry.path);
                return Ok(());
            }
            whiteout => {
                if !matches!(entry.kind, Kind::File | Kind::Link) {
                    return Err(Error::new(ErrorKind::Corrupt, "read whiteout: it is no file"));
                }
                let dir = self.parent(parent)?;
                return match whiteout {
                    Name::Whiteout(hidden) => self.whiteout(entry, dir, hidden),
                    _ => {
                        self.make_opaque(dir);
                        Ok(())
                    }
                };
            }
        }
        let dir = self.parent(parent)?;
        match entry.kind {
            Kind::File => self.file(entry, dir, name, body),
            Kind::Dir => self.directory(entry, dir, name),
            Kind::Symlink => self.symlink(entry, dir, name),
            Kind::Link => self.hard_link(entry, dir, name),
            Kind::Fifo | Kind::Char | Kind::Block => self.device(entry, dir, name),
        }
    }

    /// Finds the directory that an entry belongs in; makes what is missing of it.
    fn parent(&mut self, path: &[u8]) -> Result<NodeId> {
        loop {
            let (dir, name, node) = match self.tree.walk(path)? {
                Step::Dir(dir) => return Ok(dir),
                Step::Missing { dir, name, node } => (dir, name, node),
            };
            let hidden = match node {
                None => false,
                Some(id) if self.tree.node(id).is_mark() => {
                    self.tree.remove(dir, &name);
                    true
                }
                Some(_) => {
                    let message =
                        format!("resolve path {}: {} is no directory", escape(path), escape(&name));
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
            };
            if name.len() > NAME_MAX {
                let message = format!("make {}: its name has {} bytes", escape(&name), name.len());
                return Err(Error::new(ErrorKind::Corrupt, message));
            }
            let made = self.tree.add(dir, &name, Node::dir(IMPLICIT_MODE, true))?;
            if hidden {
                self.make_opaque(made);
            }
        }
    }

    fn node(&mut self, entry: &Entry, kind: u32, body: Body) -> Result<Node> {
        let mut node = Node {
            mode: kind | entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            links: 0,
            xattrs: Vec::new(),
            body,
        };
        self.set_xattrs(&mut node, entry)?;
        Ok(node)
    }

    fn set_xattrs(&mut self, node: &mut Node, entry: &Entry) -> Result<()> {
        for (key, value) in &entry.xattrs {
            if is_private_xattr(key) {
                self.warnings.add("extended attribute of a storage driver dropped", &entry.path);
            } else if is_host_xattr(key) {
                self.warnings.add("security label dropped", &entry.path);
            } else if split_xattr(key).is_none() {
                self.warnings.add("extended attribute not set", &entry.path);
            } else {
                node.set_xattr(key, value);
            }
        }
        let size: usize = node.xattrs.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > XATTRS_MAX {
            let message = format!("set extended attributes: they have {size} bytes");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }

    fn put(&mut self, dir: NodeId, name: &[u8], node: Node) -> Result<NodeId> {
        self.tree.remove(dir, name);
        self.tree.add(dir, name, node)
    }

    fn file(&mut self, entry: &mut Entry, dir: NodeId, name: &[u8], body: u64) -> Result<()> {
        let block = if entry.size == 0 { 0 } else { block_number(self.base + body)? };
        let node = self.node(entry, FILE, Body::File { size: entry.size, block })?;
        let node = self.put(dir, name, node)?;
        if let Some(regions) = entry.regions.take() {
            self.sparse.push(Sparse { node, size: entry.size, stored: body, regions });
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let there = self.tree.child(dir, name);
        if let Some(id) = there.filter(|id| self.tree.node(*id).is_dir()) {
            return self.describe_dir(id, entry);
        }
        let hidden = there.is_some_and(|id| self.tree.node(id).is_mark());
        let mut node = self.node(entry, DIR, Node::dir(0, false).body)?;
        if hidden {
            node.set_xattr(self.opaque, b"y");
        }
        self.put(dir, name, node).map(drop)
    }

    /// Gives a directory that is there what its entry says.
    fn describe_dir(&mut self, id: NodeId, entry: &Entry) -> Result<()> {
        let said = self.node(entry, DIR, Body::Device(0))?;
        let node = self.tree.node_mut(id);
        (node.mode, node.uid, node.gid, node.mtime) = (said.mode, said.uid, said.gid, said.mtime);
        said.xattrs.iter().for_each(|(key, value)| node.set_xattr(key, value));
        if let Body::Dir { implicit, .. } = &mut node.body {
            *implicit = false;
        }
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let corrupt = |what| Err(Error::new(ErrorKind::Corrupt, format!("make symlink: {what}")));
        match entry.link.len() {
            0 => return corrupt("its target is empty"),
            1..=TARGET_MAX => {}
            _ => return corrupt("its target is too long"),
        }
        let mut node = self.node(entry, SYMLINK, Body::Symlink(entry.link.as_slice().into()))?;
        node.mode = SYMLINK | 0o777;
        self.put(dir, name, node).map(drop)
    }

    fn device(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let (kind, number) = match entry.kind {
            Kind::Char if entry.device == (0, 0) => {
                // It would hide what is below.
                self.warnings.add("device 0:0 not created", &entry.path);
                return Ok(());
            }
            Kind::Char => (CHAR, device(entry.device.0, entry.device.1)),
            Kind::Block => (BLOCK, device(entry.device.0, entry.device.1)),
            _ => (FIFO, Some(0)),
        };
        let number = number.ok_or_else(|| {
            let (major, minor) = entry.device;
            Error::new(ErrorKind::Corrupt, format!("make device {major}:{minor}: no such number"))
        })?;
        let node = self.node(entry, kind, Body::Device(number))?;
        self.put(dir, name, node).map(drop)
    }

    fn hard_link(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let corrupt = |what: &str| {
            let message = format!("make hard link to {}: {what}", escape(&entry.link));
            Error::new(ErrorKind::Corrupt, message)
        };
        let target = normalize(&entry.link)?;
        if target.is_empty() {
            return Err(corrupt("it is not in the layer"));
        }
        let found = self.tree.find(&target)?;
        let (from, id) = found
            .filter(|(_, id)| !self.tree.node(*id).is_mark())
            .ok_or_else(|| corrupt("it is not in the layer"))?;
        if self.tree.node(id).is_dir() {
            return Err(corrupt("it is a directory"));
        }
        if from == dir && split(&target).1 == name {
            return Err(corrupt("it is the link itself"));
        }
        self.tree.remove(dir, name);
        self.tree.link(dir, name, id)
    }

    fn whiteout(&mut self, entry: &Entry, dir: NodeId, hidden: &[u8]) -> Result<()> {
        match self.tree.child(dir, hidden) {
            // The layer's own entry stays. A file hides what is below as it is, a directory must
            // be told to.
            Some(id) if self.tree.node(id).is_dir() => self.make_opaque(id),
            Some(_) => {}
            None => {
                let mut node = Node::dir(0, false);
                (node.mode, node.mtime, node.body) = (CHAR, entry.mtime, Body::Device(0));
                self.tree.add(dir, hidden, node)?;
            }
        }
        Ok(())
    }

    fn make_opaque(&mut self, dir: NodeId) {
        self.tree.node_mut(dir).set_xattr(self.opaque, b"y");
    }
}
