//! Entries of a tar as nodes of an image.

use dist_core::{Cancel, Error, ErrorKind, Result};

use super::format::device;
use super::tree::{
    Attributes, BLOCK, Body, CHAR, DIR, FIFO, FILE, NodeId, ROOT, SYMLINK, Step, Tree,
};
use super::write::block_number;
use crate::apply::{Entries, IMPLICIT_MODE, lay_down};
use crate::compression::Chunks;
use crate::name::{escape, normalize, split};
use crate::tar::{Entry, Kind, Region, Tar};
use crate::warnings::Warnings;

/// Bytes of a name, and of a symlink's target, that Linux takes.
const NAME_MAX: usize = 255;
const TARGET_MAX: usize = 4095;

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
    pub(super) fn new(user_xattr: bool, base: u64, cancel: &'a Cancel) -> Result<Self> {
        Ok(Self {
            tree: Tree::new(Attributes::dir(IMPLICIT_MODE), true, cancel)?,
            sparse: Vec::new(),
            warnings: Warnings::default(),
            opaque: if user_xattr { b"user.overlay.opaque" } else { b"trusted.overlay.opaque" },
            base,
            cancel,
        })
    }

    pub(super) fn run<C: Chunks>(mut self, mut tar: Tar<C>) -> Result<Built<C>> {
        let cancel = self.cancel;
        lay_down(&mut tar, &mut self, cancel)?;
        let Self { tree, sparse, warnings, .. } = self;
        Ok(Built { tree, sparse, warnings, tar })
    }

    fn attributes(&mut self, entry: &Entry, kind: u32) -> Result<Attributes> {
        let mut attributes = Attributes {
            mode: kind | entry.mode & 0o7777,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            xattrs: Vec::new(),
        };
        for (key, value) in &entry.xattrs {
            attributes.set_xattr(key, value);
        }
        Ok(attributes)
    }

    fn put(
        &mut self,
        dir: NodeId,
        name: &[u8],
        attributes: Attributes,
        body: Body<'_>,
    ) -> Result<NodeId> {
        self.tree.remove(dir, name);
        self.tree.add(dir, name, attributes, body)
    }

    fn file(&mut self, entry: &mut Entry, dir: NodeId, name: &[u8], body: u64) -> Result<()> {
        let block = if entry.size == 0 { 0 } else { block_number(self.base + body)? };
        let attributes = self.attributes(entry, FILE)?;
        let node = self.put(dir, name, attributes, Body::File { size: entry.size, block })?;
        if let Some(regions) = entry.regions.take() {
            self.sparse.push(Sparse { node, size: entry.size, stored: body, regions });
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let there = self.tree.child(dir, name);
        if let Some(id) = there.filter(|id| self.tree.is_dir(*id)) {
            return self.describe_dir(id, entry);
        }
        let mut attributes = self.attributes(entry, DIR)?;
        if there.is_some_and(|id| self.tree.is_mark(id)) {
            attributes.set_xattr(self.opaque, b"y");
        }
        self.put(dir, name, attributes, Body::Dir { implicit: false }).map(drop)
    }

    /// Gives a directory that is there what its entry says.
    fn describe_dir(&mut self, id: NodeId, entry: &Entry) -> Result<()> {
        let mut said = self.attributes(entry, DIR)?;
        self.tree.set_explicit(id);
        self.tree.change(id, |attributes| {
            let more = std::mem::replace(&mut said.xattrs, std::mem::take(&mut attributes.xattrs));
            more.iter().for_each(|(key, value)| said.set_xattr(key, value));
            *attributes = said;
            attributes.settle_acl();
        })
    }

    fn symlink(&mut self, entry: &Entry, dir: NodeId, name: &[u8]) -> Result<()> {
        let corrupt = |what| Err(Error::new(ErrorKind::Corrupt, format!("make symlink: {what}")));
        match entry.link.len() {
            0 => return corrupt("its target is empty"),
            1..=TARGET_MAX => {}
            _ => return corrupt("its target is too long"),
        }
        let mut attributes = self.attributes(entry, SYMLINK)?;
        attributes.mode = SYMLINK | 0o777;
        let target = Body::Symlink(entry.link.as_slice().into());
        self.put(dir, name, attributes, target).map(drop)
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
        let attributes = self.attributes(entry, kind)?;
        self.put(dir, name, attributes, Body::Device(number)).map(drop)
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
            .filter(|(_, id)| !self.tree.is_mark(*id))
            .ok_or_else(|| corrupt("it is not in the layer"))?;
        if self.tree.is_dir(id) {
            return Err(corrupt("it is a directory"));
        }
        if from == dir && split(&target).1 == name {
            return Err(corrupt("it is the link itself"));
        }
        self.tree.remove(dir, name);
        self.tree.link(dir, name, id)
    }

    fn make_opaque(&mut self, dir: NodeId) -> Result<()> {
        let opaque = self.opaque;
        self.tree.change(dir, |attributes| attributes.set_xattr(opaque, b"y"))
    }
}

impl Entries for Builder<'_> {
    type Dir = NodeId;

    fn warnings(&mut self) -> &mut Warnings {
        &mut self.warnings
    }

    fn parent(&mut self, path: &[u8]) -> Result<NodeId> {
        loop {
            let (dir, name, node) = match self.tree.walk(path)? {
                Step::Dir(dir) => return Ok(dir),
                Step::Missing { dir, name, node } => (dir, name, node),
            };
            let hidden = match node {
                None => false,
                Some(id) if self.tree.is_mark(id) => {
                    self.tree.remove(dir, &name);
                    true
                }
                Some(_) => {
                    let message =
                        format!("resolve path {}: {} is no directory", escape(path), escape(&name));
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
            };
            check_name(&name)?;
            let implicit = Body::Dir { implicit: true };
            let made = self.tree.add(dir, &name, Attributes::dir(IMPLICIT_MODE), implicit)?;
            if hidden {
                self.make_opaque(made)?;
            }
        }
    }

    fn root(&mut self, entry: &mut Entry) -> Result<()> {
        self.describe_dir(ROOT, entry)
    }

    fn whiteout(&mut self, entry: &Entry, dir: &NodeId, hidden: &[u8]) -> Result<()> {
        check_name(hidden)?;
        match self.tree.child(*dir, hidden) {
            // The layer's own entry stays. A file hides what is below as it is, a directory must
            // be told to.
            Some(id) if self.tree.is_dir(id) => self.make_opaque(id),
            Some(_) => Ok(()),
            None => {
                let mark = Attributes::mark(entry.mtime);
                self.tree.add(*dir, hidden, mark, Body::Device(0)).map(drop)
            }
        }
    }

    fn opaque(&mut self, dir: &NodeId) -> Result<()> {
        self.make_opaque(*dir)
    }

    fn node<C: Chunks>(
        &mut self,
        entry: &mut Entry,
        tar: &mut Tar<C>,
        dir: &NodeId,
        name: &[u8],
    ) -> Result<()> {
        check_name(name)?;
        match entry.kind {
            Kind::File => self.file(entry, *dir, name, tar.position()),
            Kind::Dir => self.directory(entry, *dir, name),
            Kind::Symlink => self.symlink(entry, *dir, name),
            Kind::Link => self.hard_link(entry, *dir, name),
            Kind::Fifo | Kind::Char | Kind::Block => self.device(entry, *dir, name),
        }
    }
}

fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        let message = format!("make {}: its name has {} bytes", escape(name), name.len());
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(())
}
