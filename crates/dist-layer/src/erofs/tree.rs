//! A layer's entries in memory, without their bodies.
//!
//! Each name is a node of 32 bytes; names, and the attributes that many nodes share, are kept beside
//! them, so that a layer of 80,000 files takes about 5 MiB. Directories have no lists: one table finds
//! a name in any of them, and [`Children`] lists them in the end.

mod children;
mod pages;
mod turn;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};

use dist_core::{Cancel, Error, ErrorKind, Result};
use hashbrown::HashTable;

pub(super) use self::children::Children;
use self::pages::{Pages, Texts};
use self::turn::Turn;
use crate::acl::{ACCESS, Acl};
use crate::limits::exceeded;
use crate::name::{escape, split};
use crate::tar::Time;

/// Bytes that a tree may take, about: several million entries.
const LIMIT: usize = 512 << 20;

/// Bytes that any number of trees may have at once; only one may have more.
const SMALL: usize = 16 << 20;

/// Symlinks on one path, as the kernel has it.
const LINKS: usize = 40;

const TYPE: u32 = 0o170_000;
pub(super) const DIR: u32 = 0o040_000;
pub(super) const FILE: u32 = 0o100_000;
pub(super) const SYMLINK: u32 = 0o120_000;
pub(super) const CHAR: u32 = 0o020_000;
pub(super) const BLOCK: u32 = 0o060_000;
pub(super) const FIFO: u32 = 0o010_000;

/// The number of a name; that of its first name is the number of a node.
pub(super) type NodeId = u32;

pub(super) const ROOT: NodeId = 0;

/// Names and values, in the order in which they were set.
pub(super) type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

/// What nodes have beside their bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Attributes {
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    pub(super) xattrs: Xattrs,
}

/// What a node is.
#[derive(Debug)]
pub(super) enum Body<'a> {
    Dir {
        /// Whether it is only there because something lies below it.
        implicit: bool,
    },
    File {
        size: u64,
        /// The first of its blocks.
        block: u32,
    },
    /// Pieces of `512 << bits` bytes, each at a block of its own or a hole.
    Chunks {
        size: u64,
        bits: u8,
        map: Cow<'a, [u32]>,
    },
    Symlink(Cow<'a, [u8]>),
    /// A device, as its inode says it; 0 for a FIFO.
    Device(u32),
}

impl Attributes {
    pub(super) fn dir(mode: u32) -> Self {
        Self { mode: DIR | mode, ..Self::default() }
    }

    /// Those of what hides a name below, as overlayfs has it; its body is device 0.
    pub(super) fn mark(mtime: Time) -> Self {
        Self { mode: CHAR, mtime, ..Self::default() }
    }

    /// Gives the ACL what the mode says.
    pub(super) fn settle_acl(&mut self) {
        for (_, value) in self.xattrs.iter_mut().filter(|(key, _)| **key == *ACCESS) {
            if let Some(mut acl) = Acl::read(value) {
                acl.set_mode(self.mode);
                *value = acl.encode().into();
            }
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.mode & TYPE == DIR
    }

    /// Sets an extended attribute, in the place of one of its name.
    pub(super) fn set_xattr(&mut self, key: &[u8], value: &[u8]) {
        match self.xattrs.iter_mut().find(|(have, _)| **have == *key) {
            Some((_, old)) => *old = value.into(),
            None => self.xattrs.push((key.into(), value.into())),
        }
    }
}

/// What stands where a directory is needed.
pub(super) enum Step {
    Dir(NodeId),
    /// Nothing, or no directory.
    Missing {
        dir: NodeId,
        name: Vec<u8>,
        node: Option<NodeId>,
    },
}

/// A name, and the node that has it.
#[derive(Clone, Copy, Debug)]
struct Node {
    /// Of a file.
    size: u64,
    /// By kind: a block, a device, or the number of a target, a map or another node.
    place: u32,
    name: u32,
    parent: NodeId,
    attributes: u32,
    kind: Kind,
    /// Whether the name was taken away.
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dir,
    ImplicitDir,
    File,
    Chunks,
    Symlink,
    Device,
    /// One more name of another node.
    Link,
}

#[derive(Debug)]
struct Map {
    bits: u8,
    chunks: Box<[u32]>,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Pages<Node>,
    texts: Texts,
    attributes: Pages<Attributes>,
    maps: Vec<Map>,
    /// Nodes by directory and name, those that are gone left out.
    by_name: HashTable<NodeId>,
    /// Numbers of attributes.
    known: HashTable<u32>,
    state: RandomState,
    /// Bytes taken, about.
    used: usize,
    /// What it has once it is large.
    turn: Option<Turn>,
    cancel: Cancel,
    /// The directory that a path led to last.
    last: Option<(Vec<u8>, NodeId)>,
}

impl Tree {
    /// Makes one; where it grows large it waits until no other is, or `cancel` is raised.
    pub(super) fn new(root: Attributes, implicit: bool, cancel: &Cancel) -> Result<Self> {
        let mut tree = Self {
            nodes: Pages::new(),
            texts: Texts::default(),
            attributes: Pages::new(),
            maps: Vec::new(),
            by_name: HashTable::new(),
            known: HashTable::new(),
            state: RandomState::new(),
            used: 0,
            turn: None,
            cancel: cancel.clone(),
            last: None,
        };
        tree.push(ROOT, b"", Body::Dir { implicit }, root)?;
        Ok(tree)
    }

    pub(super) fn attributes(&self, id: NodeId) -> &Attributes {
        self.attributes.at(self.nodes.at(self.inode(id)).attributes)
    }

    pub(super) fn body(&self, id: NodeId) -> Body<'_> {
        let Node { size, place, kind, .. } = *self.nodes.at(self.inode(id));
        match kind {
            Kind::Dir | Kind::ImplicitDir => Body::Dir { implicit: kind == Kind::ImplicitDir },
            Kind::File => Body::File { size, block: place },
            Kind::Chunks => {
                let Map { bits, chunks } = &self.maps[place as usize];
                Body::Chunks { size, bits: *bits, map: Cow::Borrowed(chunks) }
            }
            Kind::Symlink => Body::Symlink(Cow::Borrowed(self.texts.at(place))),
            Kind::Device | Kind::Link => Body::Device(place),
        }
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        self.texts.at(self.nodes.at(id).name)
    }

    /// The directory above; of the root, itself.
    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        self.nodes.at(id).parent
    }

    /// The node that has a name.
    pub(super) fn inode(&self, id: NodeId) -> NodeId {
        let node = self.nodes.at(id);
        if node.kind == Kind::Link { node.place } else { id }
    }

    pub(super) fn is_dir(&self, id: NodeId) -> bool {
        matches!(self.nodes.at(id).kind, Kind::Dir | Kind::ImplicitDir)
    }

    /// Whether it hides what is below, as overlayfs has it.
    pub(super) fn is_mark(&self, id: NodeId) -> bool {
        self.attributes(id).mode & TYPE == CHAR && matches!(self.body(id), Body::Device(0))
    }

    /// The nodes there ever were.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        let is_it = |id: &NodeId| self.parent(*id) == dir && self.name(*id) == name;
        self.by_name.find(self.state.hash_one((dir, name)), is_it).copied()
    }

    /// Puts a new node at a name that is free.
    pub(super) fn add(
        &mut self,
        dir: NodeId,
        name: &[u8],
        attributes: Attributes,
        body: Body<'_>,
    ) -> Result<NodeId> {
        let id = self.push(dir, name, body, attributes)?;
        self.index(id);
        Ok(id)
    }

    /// Gives a node one more name, which is free.
    pub(super) fn link(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> Result<()> {
        let node = Node { kind: Kind::Link, place: self.inode(id), ..*self.nodes.at(id) };
        let id = self.push_node(dir, name, node)?;
        self.index(id);
        Ok(())
    }

    /// Gives a node other attributes.
    pub(super) fn change(
        &mut self,
        id: NodeId,
        change: impl FnOnce(&mut Attributes),
    ) -> Result<()> {
        let id = self.inode(id);
        let mut attributes = self.attributes(id).clone();
        change(&mut attributes);
        self.nodes.at_mut(id).attributes = self.share(attributes)?;
        Ok(())
    }

    /// Says that a directory has an entry of its own.
    pub(super) fn set_explicit(&mut self, dir: NodeId) {
        self.nodes.at_mut(dir).kind = Kind::Dir;
    }

    /// Says of a file what its pieces are.
    pub(super) fn set_chunks(&mut self, id: NodeId, bits: u8, chunks: Box<[u32]>) -> Result<()> {
        let place = self.keep_map(bits, chunks)?;
        let node = self.nodes.at_mut(id);
        (node.kind, node.place) = (Kind::Chunks, place);
        Ok(())
    }

    /// Removes a name, and all below it.
    pub(super) fn remove(&mut self, dir: NodeId, name: &[u8]) {
        let hash = self.state.hash_one((dir, name));
        let (nodes, texts) = (&self.nodes, &self.texts);
        let is_it = |id: &NodeId| {
            let node = nodes.at(*id);
            node.parent == dir && texts.at(node.name) == name
        };
        let Ok(entry) = self.by_name.find_entry(hash, is_it) else { return };
        let (id, _) = entry.remove();
        self.nodes.at_mut(id).gone = true;
        if matches!(self.body(id), Body::Dir { .. } | Body::Symlink(_)) {
            self.last = None;
        }
    }

    /// Forgets how names are found: nothing more is to be looked for or added.
    pub(super) fn end(&mut self) {
        self.by_name = HashTable::new();
        self.known = HashTable::new();
    }

    /// Walks to a directory, through symlinks where there are any: `/` and `..` at the top mean the
    /// root.
    pub(super) fn walk(&mut self, path: &[u8]) -> Result<Step> {
        if let Some((known, dir)) = &self.last
            && known == path
        {
            return Ok(Step::Dir(*dir));
        }
        let mut rest: VecDeque<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        let (mut dir, mut links) = (ROOT, 0);
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                dir = self.parent(dir);
                continue;
            }
            let Some(id) = self.child(dir, &name) else {
                return Ok(Step::Missing { dir, name, node: None });
            };
            match self.body(id) {
                Body::Dir { .. } => dir = id,
                Body::Symlink(target) => {
                    links += 1;
                    if links > LINKS {
                        let message = format!("resolve path {}: too many symlinks", escape(path));
                        return Err(Error::new(ErrorKind::UnsafeLayer, message));
                    }
                    if target.starts_with(b"/") {
                        dir = ROOT;
                    }
                    for component in components(&target).rev() {
                        rest.push_front(component.to_vec());
                    }
                }
                _ => return Ok(Step::Missing { dir, name, node: Some(id) }),
            }
        }
        self.last = Some((path.to_vec(), dir));
        Ok(Step::Dir(dir))
    }

    /// The node at a path, no symlink followed in its last component; and the directory it is in.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<(NodeId, NodeId)>> {
        let (parent, name) = split(path);
        match self.walk(parent)? {
            Step::Dir(dir) => Ok(self.child(dir, name).map(|id| (dir, id))),
            Step::Missing { .. } => Ok(None),
        }
    }

    fn push(
        &mut self,
        dir: NodeId,
        name: &[u8],
        body: Body<'_>,
        attributes: Attributes,
    ) -> Result<NodeId> {
        let (kind, size, place) = match body {
            Body::Dir { implicit: false } => (Kind::Dir, 0, 0),
            Body::Dir { implicit: true } => (Kind::ImplicitDir, 0, 0),
            Body::File { size, block } => (Kind::File, size, block),
            Body::Chunks { size, bits, map } => {
                (Kind::Chunks, size, self.keep_map(bits, map.into())?)
            }
            Body::Symlink(target) => (Kind::Symlink, 0, self.keep_text(&target)?),
            Body::Device(device) => (Kind::Device, 0, device),
        };
        let attributes = self.share(attributes)?;
        let node = Node { size, place, name: 0, parent: dir, attributes, kind, gone: false };
        self.push_node(dir, name, node)
    }

    fn push_node(&mut self, parent: NodeId, name: &[u8], node: Node) -> Result<NodeId> {
        self.take(size_of::<Node>() + 3 * size_of::<NodeId>())?;
        let id = number(self.nodes.len())?;
        let name = self.keep_text(name)?;
        self.nodes.push(Node { name, parent, gone: false, ..node });
        Ok(id)
    }

    fn index(&mut self, id: NodeId) {
        let Self { nodes, texts, by_name, state, .. } = self;
        let hash = |id: &NodeId| {
            let node = nodes.at(*id);
            state.hash_one((node.parent, texts.at(node.name)))
        };
        by_name.insert_unique(hash(&id), id, hash);
    }

    /// The number of attributes like these.
    fn share(&mut self, attributes: Attributes) -> Result<u32> {
        let hash = self.state.hash_one(&attributes);
        let is_it = |number: &u32| *self.attributes.at(*number) == attributes;
        if let Some(known) = self.known.find(hash, is_it) {
            return Ok(*known);
        }
        let pairs = attributes.xattrs.iter().map(|(key, value)| 64 + key.len() + value.len());
        self.take(size_of::<Attributes>() + pairs.sum::<usize>())?;
        let number = number(self.attributes.len())?;
        self.attributes.push(attributes);
        let Self { attributes, known, state, .. } = self;
        known.insert_unique(hash, number, |number| state.hash_one(attributes.at(*number)));
        Ok(number)
    }

    fn keep_text(&mut self, text: &[u8]) -> Result<u32> {
        self.take(text.len() + 2)?;
        self.texts.keep(text).ok_or_else(|| {
            let message = format!("add entry: a name or target has {} bytes", text.len());
            Error::new(ErrorKind::Corrupt, message)
        })
    }

    fn keep_map(&mut self, bits: u8, chunks: Box<[u32]>) -> Result<u32> {
        self.take(size_of::<Map>() + chunks.len() * 4)?;
        self.maps.push(Map { bits, chunks });
        number(self.maps.len() - 1)
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        self.used += bytes;
        if self.used > LIMIT {
            let message = "unpack layer: it has too many entries for one image".to_owned();
            return Err(exceeded("erofs-tree", LIMIT as u64, message));
        }
        if self.used > SMALL && self.turn.is_none() {
            self.turn = Some(Turn::wait(&self.cancel)?);
        }
        Ok(())
    }
}

fn number(count: usize) -> Result<u32> {
    u32::try_from(count)
        .map_err(|_| Error::new(ErrorKind::ResourceExhausted, "add entry: too many"))
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds names until a tree is large.
    fn grow(tree: &mut Tree) -> Result<()> {
        for number in 0..SMALL / 32 {
            let body = Body::Dir { implicit: false };
            tree.add(ROOT, number.to_string().as_bytes(), Attributes::dir(0), body)?;
            if tree.used > SMALL {
                break;
            }
        }
        Ok(())
    }

    #[test]
    fn one_tree_is_large_at_a_time() {
        let tree = |cancel: &Cancel| Tree::new(Attributes::dir(0), false, cancel).unwrap();
        let raised = Cancel::default();
        raised.cancel();
        let (mut first, mut second) = (tree(&Cancel::default()), tree(&raised));
        grow(&mut first).unwrap();
        // It would have to wait.
        assert_eq!(grow(&mut second).unwrap_err().kind(), ErrorKind::Cancelled);
        drop(first);
        grow(&mut tree(&raised)).unwrap();
    }
}
