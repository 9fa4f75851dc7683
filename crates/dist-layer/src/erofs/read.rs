//! Images of ours back as trees, so that they can be changed and written again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use dist_core::{Cancel, Context as _, Error, ErrorKind, Result};

use super::format::{
    BLOCK, DIRENT_SIZE, INODE_SIZE, Inode, Layout, SLOT, Superblock, XATTR_HEADER, join_xattr,
    u16_at, u32_at, u64_at,
};
use super::tree::{Attributes, Body, DIR, FILE, NodeId, ROOT, SYMLINK, Tree, Xattrs};
use crate::tar::Time;

/// An image that is looked at.
pub(super) struct Reader<'a> {
    file: &'a File,
    length: u64,
    superblock: Superblock,
}

/// A node without its names.
pub(super) struct Found {
    pub(super) attributes: Attributes,
    pub(super) body: Body<'static>,
    pub(super) links: u32,
    /// What a directory holds.
    listing: Option<Contents>,
}

/// Where a directory or symlink has what it says.
#[derive(Clone, Copy)]
struct Contents {
    /// Of its blocks, behind [`Reader::meta`].
    at: u64,
    blocks: u64,
    /// Bytes in them.
    size: u64,
    /// Of what does not fill a block.
    rest_at: u64,
    rest: u64,
}

/// Names and the numbers of their inodes.
type Listed = Vec<(Vec<u8>, u64)>;

fn corrupt(what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("read image: {what}"))
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File) -> Result<Self> {
        let storage = |error| Error::new(ErrorKind::Storage, "read image").with_source(error);
        let length = file.metadata().map_err(storage)?.len();
        let mut bytes = [0; Superblock::SIZE];
        if length < Superblock::OFFSET + Superblock::SIZE as u64 {
            return Err(corrupt("it is cut off"));
        }
        file.read_exact_at(&mut bytes, Superblock::OFFSET).map_err(storage)?;
        let superblock = Superblock::decode(&bytes);
        let superblock = superblock.ok_or_else(|| corrupt("it has no superblock of ours"))?;
        Ok(Self { file, length, superblock })
    }

    /// Where what describes the tree begins.
    pub(super) fn meta(&self) -> u64 {
        u64::from(self.superblock.meta_block) * BLOCK
    }

    pub(super) fn uuid(&self) -> [u8; 16] {
        self.superblock.uuid
    }

    pub(super) fn root(&self) -> Result<Found> {
        self.node(self.root_number())
    }

    pub(super) fn root_number(&self) -> u64 {
        u64::from(self.superblock.root)
    }

    /// Gives nodes other attributes in place, whose extended ones are those that they have.
    pub(super) fn set_attributes<'b>(
        &self,
        nodes: impl Iterator<Item = (u64, &'b Attributes)>,
    ) -> Result<()> {
        let mut nodes = nodes.peekable();
        if nodes.peek().is_none() {
            return Ok(());
        }
        let put = |bytes: &[u8], at| {
            self.file.write_all_at(bytes, at).context(ErrorKind::Storage, || "write image".into())
        };
        // What was an image before is none while it is changed.
        put(&[0; Superblock::SIZE], Superblock::OFFSET)?;
        for (number, attributes) in nodes {
            let at = number * SLOT;
            let Attributes { mode, uid, gid, mtime, .. } = attributes;
            let inode = Inode {
                mode: *mode,
                uid: *uid,
                gid: *gid,
                seconds: mtime.seconds,
                nanos: mtime.nanos,
                ..self.inode(at)?
            };
            put(&inode.encode(), self.meta() + at)?;
        }
        put(&self.superblock.encode(), Superblock::OFFSET)
    }

    /// Reads all of it; what nodes are `given` takes the place of what they have.
    pub(super) fn tree(&self, mut given: HashMap<u64, Attributes>) -> Result<Tree> {
        let root = self.root_number();
        let Found { attributes, listing, .. } = self.node(root)?;
        if !attributes.is_dir() {
            return Err(corrupt("its root is no directory"));
        }
        let attributes = given.remove(&root).unwrap_or(attributes);
        let mut tree = Tree::new(attributes, false, &Cancel::default())?;
        // Nodes that may have more names than one, or must not.
        let mut known: HashMap<u64, NodeId> = HashMap::from([(root, ROOT)]);
        let (mut next, mut count) = (vec![(ROOT, listing)], 1);
        while let Some((dir, listing)) = next.pop() {
            for (name, number) in self.list(listing)? {
                if let Some(id) = known.get(&number) {
                    if tree.is_dir(*id) {
                        return Err(corrupt("a directory has two names"));
                    }
                    tree.link(dir, &name, *id)?;
                    continue;
                }
                let Found { attributes, body, links, listing } = self.node(number)?;
                let attributes = given.remove(&number).unwrap_or(attributes);
                let shared = attributes.is_dir() || links > 1;
                let id = tree.add(dir, &name, attributes, body)?;
                count += 1;
                if shared {
                    known.insert(number, id);
                }
                if count > self.superblock.inodes {
                    return Err(corrupt("it has more inodes than it says"));
                }
                if listing.is_some() {
                    next.push((id, listing));
                }
            }
        }
        Ok(tree)
    }

    /// Bytes behind [`Reader::meta`].
    fn bytes(&self, at: u64, length: u64) -> Result<Vec<u8>> {
        let start = self.meta().saturating_add(at);
        let size = usize::try_from(length).ok();
        let within = start.checked_add(length).is_some_and(|end| end <= self.length);
        let mut bytes = vec![0; size.filter(|_| within).ok_or_else(|| corrupt("it is cut off"))?];
        self.file
            .read_exact_at(&mut bytes, start)
            .context(ErrorKind::Storage, || "read image".into())?;
        Ok(bytes)
    }

    fn inode(&self, at: u64) -> Result<Inode> {
        let mut head = [0; INODE_SIZE as usize];
        head.copy_from_slice(&self.bytes(at, INODE_SIZE)?);
        Inode::decode(&head).ok_or_else(|| corrupt("an inode is not of ours"))
    }

    pub(super) fn node(&self, number: u64) -> Result<Found> {
        let at = number.checked_mul(SLOT).ok_or_else(|| corrupt("an inode is nowhere"))?;
        let inode = self.inode(at)?;
        let xattrs = self.xattrs(at + INODE_SIZE, &inode)?;
        let behind = at + INODE_SIZE + inode.xattrs as u64;
        let mut listing = None;
        let body = match (inode.mode & 0o170_000, inode.layout) {
            (FILE, Layout::Plain) => Body::File { size: inode.size, block: inode.place },
            (FILE, Layout::Chunks) => self.chunks(behind, &inode)?,
            (DIR, _) => {
                listing = Some(self.contents(behind, &inode)?);
                Body::Dir { implicit: false }
            }
            (SYMLINK, _) => Body::Symlink(self.all(self.contents(behind, &inode)?)?.into()),
            (_, Layout::Plain) => Body::Device(inode.place),
            _ => return Err(corrupt("an inode is not of ours")),
        };
        let mtime = Time { seconds: inode.seconds, nanos: inode.nanos };
        let Inode { mode, uid, gid, links, .. } = inode;
        Ok(Found { attributes: Attributes { mode, uid, gid, mtime, xattrs }, body, links, listing })
    }

    fn chunks(&self, at: u64, inode: &Inode) -> Result<Body<'static>> {
        let bits = u8::try_from(inode.place).ok().filter(|bits| *bits < 32);
        let bits = bits.ok_or_else(|| corrupt("a map is not of ours"))?;
        let length = inode.size.div_ceil(BLOCK << bits) * 4;
        let map = self.bytes(at, length)?;
        let map = map.chunks_exact(4).map(|entry| u32_at(entry, 0)).collect();
        Ok(Body::Chunks { size: inode.size, bits, map })
    }

    fn xattrs(&self, at: u64, inode: &Inode) -> Result<Xattrs> {
        let bytes = self.bytes(at, inode.xattrs as u64)?;
        let mut rest = bytes.get(XATTR_HEADER..).unwrap_or_default();
        let mut found = Vec::new();
        while let [name, index, low, high, more @ ..] = rest {
            let (name, value) =
                (usize::from(*name), usize::from(u16::from_le_bytes([*low, *high])));
            let pair = more.get(..name).zip(more.get(name..name + value));
            let (name, value) = pair.ok_or_else(|| corrupt("an extended attribute is cut off"))?;
            let key = join_xattr(*index, name);
            let key = key.ok_or_else(|| corrupt("an extended attribute is not of ours"))?;
            found.push((key.into(), value.into()));
            rest =
                rest.get((4 + name.len() + value.len()).next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(found)
    }

    fn contents(&self, behind: u64, inode: &Inode) -> Result<Contents> {
        let rest = match inode.layout {
            Layout::Inline => inode.size % BLOCK,
            Layout::Plain => 0,
            Layout::Chunks => return Err(corrupt("an inode is not of ours")),
        };
        let size = inode.size - rest;
        let blocks = size.div_ceil(BLOCK);
        let mut at = 0;
        if blocks > 0 {
            let found = (u64::from(inode.place) * BLOCK).checked_sub(self.meta());
            at = found.ok_or_else(|| corrupt("a directory is where the tar is"))?;
        }
        Ok(Contents { at, blocks, size, rest_at: behind, rest })
    }

    /// All that a directory or symlink says.
    fn all(&self, contents: Contents) -> Result<Vec<u8>> {
        let mut all = self.bytes(contents.at, contents.size)?;
        all.extend_from_slice(&self.bytes(contents.rest_at, contents.rest)?);
        Ok(all)
    }

    /// Names in a directory; none in anything else.
    fn list(&self, listing: Option<Contents>) -> Result<Listed> {
        let Some(contents) = listing else { return Ok(Vec::new()) };
        let mut listed = Vec::new();
        for block in self.all(contents)?.chunks(BLOCK as usize) {
            let names = names(block)?;
            listed.extend(names.into_iter().filter(|(name, _)| !matches!(&**name, b"." | b"..")));
        }
        Ok(listed)
    }

    pub(super) fn entries(&self, dir: &Found) -> Result<Listed> {
        self.list(dir.listing)
    }

    /// The number of the inode that has a name in a directory: a few of its blocks are read.
    pub(super) fn child(&self, dir: &Found, name: &[u8]) -> Result<Option<u64>> {
        let Some(contents) = dir.listing else { return Ok(None) };
        let (mut low, mut high) = (0, contents.blocks + u64::from(contents.rest > 0));
        while low < high {
            let middle = low.midpoint(high);
            let bytes = if middle < contents.blocks {
                let at = middle * BLOCK;
                self.bytes(contents.at + at, BLOCK.min(contents.size - at))?
            } else {
                self.bytes(contents.rest_at, contents.rest)?
            };
            let names = names(&bytes)?;
            match (names.first(), names.last()) {
                (Some((first, _)), _) if name < &**first => high = middle,
                (_, Some((last, _))) if name > &**last => low = middle + 1,
                _ => {
                    let found = names.into_iter().find(|(have, _)| have == name);
                    return Ok(found.map(|(_, number)| number));
                }
            }
        }
        Ok(None)
    }
}

/// What a block of a directory names.
fn names(block: &[u8]) -> Result<Listed> {
    let cut = || corrupt("a directory is malformed");
    let head = block.get(..DIRENT_SIZE).ok_or_else(cut)?;
    let count = usize::from(u16_at(head, 8)) / DIRENT_SIZE;
    let heads = block.get(..count * DIRENT_SIZE).ok_or_else(cut)?;
    let heads: Vec<&[u8]> = heads.chunks_exact(DIRENT_SIZE).collect();
    let mut listed = Vec::with_capacity(count);
    for (index, head) in heads.iter().enumerate() {
        let start = usize::from(u16_at(head, 8));
        let end = heads.get(index + 1).map_or(block.len(), |next| usize::from(u16_at(next, 8)));
        let name = block.get(start..end).ok_or_else(cut)?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        if name.is_empty() || name.contains(&b'/') {
            return Err(cut());
        }
        listed.push((name.to_vec(), u64_at(head, 0)));
    }
    Ok(listed)
}
