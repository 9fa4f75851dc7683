//! Images of ours back as trees, so that they can be changed and written again.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use dist_core::{Context as _, Error, ErrorKind, Result};

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

/// A node without its names, and what a directory holds.
pub(super) struct Found {
    pub(super) attributes: Attributes,
    pub(super) body: Body<'static>,
    /// Names and the numbers of their inodes.
    pub(super) entries: Vec<(Vec<u8>, u64)>,
}

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
        self.node(u64::from(self.superblock.root))
    }

    /// Reads all of it.
    pub(super) fn tree(&self) -> Result<Tree> {
        let root = u64::from(self.superblock.root);
        let Found { attributes, entries, .. } = self.node(root)?;
        if !attributes.is_dir() {
            return Err(corrupt("its root is no directory"));
        }
        let mut tree = Tree::new(attributes, false)?;
        let mut known: HashMap<u64, NodeId> = HashMap::from([(root, ROOT)]);
        let mut next = vec![(ROOT, entries)];
        while let Some((dir, entries)) = next.pop() {
            for (name, number) in entries {
                if let Some(id) = known.get(&number) {
                    if tree.is_dir(*id) {
                        return Err(corrupt("a directory has two names"));
                    }
                    tree.link(dir, &name, *id)?;
                    continue;
                }
                let Found { attributes, body, entries } = self.node(number)?;
                let id = tree.add(dir, &name, attributes, body)?;
                known.insert(number, id);
                if known.len() as u64 > self.superblock.inodes {
                    return Err(corrupt("it has more inodes than it says"));
                }
                if !entries.is_empty() {
                    next.push((id, entries));
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

    pub(super) fn node(&self, number: u64) -> Result<Found> {
        let at = number.checked_mul(SLOT).ok_or_else(|| corrupt("an inode is nowhere"))?;
        let mut head = [0; INODE_SIZE as usize];
        head.copy_from_slice(&self.bytes(at, INODE_SIZE)?);
        let inode = Inode::decode(&head).ok_or_else(|| corrupt("an inode is not of ours"))?;
        let xattrs = self.xattrs(at + INODE_SIZE, &inode)?;
        let behind = at + INODE_SIZE + inode.xattrs as u64;
        let mut entries = Vec::new();
        let body = match (inode.mode & 0o170_000, inode.layout) {
            (FILE, Layout::Plain) => Body::File { size: inode.size, block: inode.place },
            (FILE, Layout::Chunks) => self.chunks(behind, &inode)?,
            (DIR, _) => {
                entries = self.entries(&self.contents(behind, &inode)?)?;
                Body::Dir { implicit: false }
            }
            (SYMLINK, _) => Body::Symlink(self.contents(behind, &inode)?.into()),
            (_, Layout::Plain) => Body::Device(inode.place),
            _ => return Err(corrupt("an inode is not of ours")),
        };
        let mtime = Time { seconds: inode.seconds, nanos: inode.nanos };
        let Inode { mode, uid, gid, .. } = inode;
        Ok(Found { attributes: Attributes { mode, uid, gid, mtime, xattrs }, body, entries })
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

    /// What a directory or symlink says, from its blocks and from behind its inode.
    fn contents(&self, behind: u64, inode: &Inode) -> Result<Vec<u8>> {
        let inline = match inode.layout {
            Layout::Inline => inode.size % BLOCK,
            Layout::Plain => 0,
            Layout::Chunks => return Err(corrupt("an inode is not of ours")),
        };
        let blocks = inode.size - inline;
        let mut contents = Vec::new();
        if blocks > 0 {
            let at = (u64::from(inode.place) * BLOCK).checked_sub(self.meta());
            let at = at.ok_or_else(|| corrupt("a directory is where the tar is"))?;
            contents = self.bytes(at, blocks)?;
        }
        contents.extend_from_slice(&self.bytes(behind, inline)?);
        Ok(contents)
    }

    fn entries(&self, contents: &[u8]) -> Result<Vec<(Vec<u8>, u64)>> {
        let cut = || corrupt("a directory is malformed");
        let mut entries = Vec::new();
        for block in contents.chunks(BLOCK as usize) {
            let head = block.get(..DIRENT_SIZE).ok_or_else(cut)?;
            let count = usize::from(u16_at(head, 8)) / DIRENT_SIZE;
            let heads = block.get(..count * DIRENT_SIZE).ok_or_else(cut)?;
            let heads: Vec<&[u8]> = heads.chunks_exact(DIRENT_SIZE).collect();
            for (index, head) in heads.iter().enumerate() {
                let start = usize::from(u16_at(head, 8));
                let end =
                    heads.get(index + 1).map_or(block.len(), |next| usize::from(u16_at(next, 8)));
                let name = block.get(start..end).ok_or_else(cut)?;
                let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                if name.is_empty() || name.contains(&b'/') {
                    return Err(cut());
                }
                if !matches!(name, b"." | b"..") {
                    entries.push((name.to_vec(), u64_at(head, 0)));
                }
            }
        }
        Ok(entries)
    }
}
