//! A layer's entries in memory, without their bodies.

use std::collections::{BTreeMap, VecDeque};

use dist_core::{Error, ErrorKind, Result};

use crate::limits::exceeded;
use crate::name::{escape, split};
use crate::tar::Time;

/// Bytes that a tree may take, about: three million entries.
const LIMIT: usize = 512 << 20;

/// Symlinks on one path, as the kernel has it.
const LINKS: usize = 40;

const TYPE: u32 = 0o170_000;
pub(super) const DIR: u32 = 0o040_000;
pub(super) const FILE: u32 = 0o100_000;
pub(super) const SYMLINK: u32 = 0o120_000;
pub(super) const CHAR: u32 = 0o020_000;
pub(super) const BLOCK: u32 = 0o060_000;
pub(super) const FIFO: u32 = 0o010_000;

/// An index of a tree's nodes.
pub(super) type NodeId = u32;

pub(super) const ROOT: NodeId = 0;

/// Names and values, in the order in which they were set.
pub(super) type Xattrs = Vec<(Box<[u8]>, Box<[u8]>)>;

#[derive(Debug)]
pub(super) struct Node {
    /// Type and permissions.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    /// Names that it has.
    pub(super) links: u32,
    pub(super) xattrs: Xattrs,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Dir {
        entries: BTreeMap<Box<[u8]>, NodeId>,
        parent: NodeId,
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
        map: Box<[u32]>,
    },
    Symlink(Box<[u8]>),
    /// A device, as its inode says it; 0 for a FIFO.
    Device(u32),
}

impl Node {
    pub(super) fn dir(mode: u32, implicit: bool) -> Self {
        let body = Body::Dir { entries: BTreeMap::new(), parent: ROOT, implicit };
        Self {
            mode: DIR | mode,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            links: 0,
            xattrs: Vec::new(),
            body,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.mode & TYPE == DIR
    }

    /// Whether it hides what is below, as overlayfs has it.
    pub(super) fn is_mark(&self) -> bool {
        self.mode & TYPE == CHAR && matches!(self.body, Body::Device(0))
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

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Bytes taken, about.
    used: usize,
    /// The directory that a path led to last.
    last: Option<(Vec<u8>, NodeId)>,
}

impl Tree {
    pub(super) fn new(root: Node) -> Self {
        Self { nodes: vec![root], used: 0, last: None }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// The nodes there ever were.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn child(&self, dir: NodeId, name: &[u8]) -> Option<NodeId> {
        match &self.node(dir).body {
            Body::Dir { entries, .. } => entries.get(name).copied(),
            _ => None,
        }
    }

    /// Puts a new node at a name that is free.
    pub(super) fn add(&mut self, dir: NodeId, name: &[u8], mut node: Node) -> Result<NodeId> {
        let pairs = node.xattrs.iter().map(|(key, value)| 48 + key.len() + value.len());
        let own = match &node.body {
            Body::Symlink(target) => target.len(),
            Body::Chunks { map, .. } => map.len() * 4,
            _ => 0,
        };
        self.take(size_of::<Node>() + own + pairs.sum::<usize>())?;
        if let Body::Dir { parent, .. } = &mut node.body {
            *parent = dir;
        }
        let id = NodeId::try_from(self.nodes.len())
            .map_err(|_| Error::new(ErrorKind::ResourceExhausted, "add entry: too many"))?;
        self.nodes.push(node);
        self.link(dir, name, id)?;
        Ok(id)
    }

    /// Gives a node one more name, which is free.
    pub(super) fn link(&mut self, dir: NodeId, name: &[u8], id: NodeId) -> Result<()> {
        self.take(name.len() + 64)?;
        if let Body::Dir { entries, .. } = &mut self.node_mut(dir).body {
            entries.insert(name.into(), id);
            self.node_mut(id).links += 1;
        }
        Ok(())
    }

    /// Removes a name, and all below it.
    pub(super) fn remove(&mut self, dir: NodeId, name: &[u8]) {
        let Body::Dir { entries, .. } = &mut self.node_mut(dir).body else { return };
        let mut gone: Vec<NodeId> = entries.remove(name).into_iter().collect();
        while let Some(id) = gone.pop() {
            let node = self.node_mut(id);
            node.links = node.links.saturating_sub(1);
            match &mut node.body {
                Body::Dir { entries, .. } => gone.extend(std::mem::take(entries).into_values()),
                Body::Symlink(_) => {}
                _ => continue,
            }
            self.last = None;
        }
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
                if let Body::Dir { parent, .. } = self.node(dir).body {
                    dir = parent;
                }
                continue;
            }
            let Some(id) = self.child(dir, &name) else {
                return Ok(Step::Missing { dir, name, node: None });
            };
            match &self.node(id).body {
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
                    for component in components(target).rev() {
                        rest.push_front(component.to_vec());
                    }
                }
                _ => return Ok(Step::Missing { dir, name, node: Some(id) }),
            }
        }
        self.last = Some((path.to_vec(), dir));
        Ok(Step::Dir(dir))
    }

    /// The node at a path, no symlink followed in its last component.
    pub(super) fn find(&mut self, path: &[u8]) -> Result<Option<(NodeId, NodeId)>> {
        let (parent, name) = split(path);
        match self.walk(parent)? {
            Step::Dir(dir) => Ok(self.child(dir, name).map(|id| (dir, id))),
            Step::Missing { .. } => Ok(None),
        }
    }

    /// All that have a name, directories before what they hold, with the path of each directory.
    pub(super) fn order(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let (mut order, mut next) = (Vec::new(), vec![ROOT]);
        while let Some(id) = next.pop() {
            if std::mem::replace(&mut seen[id as usize], true) {
                continue; // another of its names
            }
            order.push(id);
            if let Body::Dir { entries, .. } = &self.node(id).body {
                next.extend(entries.values().rev());
            }
        }
        order
    }

    /// The paths of directories that have no entry of their own, parents first.
    pub(super) fn implicit_dirs(&self) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut next = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = next.pop() {
            let Body::Dir { entries, implicit, .. } = &self.node(id).body else { continue };
            for (name, child) in entries.iter().rev() {
                if self.node(*child).is_dir() {
                    next.push((crate::name::join(&path, name), *child));
                }
            }
            if *implicit {
                found.push(path);
            }
        }
        found
    }

    fn take(&mut self, bytes: usize) -> Result<()> {
        self.used += bytes;
        if self.used > LIMIT {
            let message = "unpack layer: it has too many entries for one image".to_owned();
            return Err(exceeded("erofs-tree", LIMIT as u64, message));
        }
        Ok(())
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
