//! Where things go in an image, and the writing of it.
//!
//! ```text
//! 0       `dist.tar` and the tar's size, nothing where there is none; the superblock at 1024
//! 4096    the layer's tar, byte for byte; files of the image are blocks of it
//!         bodies of sparse files that cannot stay where the tar has them
//!         inodes, each with its extended attributes and what does not fill a block
//!         blocks of directories and of long symlinks
//! ```

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use dist_core::{Context as _, Error, ErrorKind, Result};

use super::format::{
    BLOCK, DIRENT_SIZE, INODE_SIZE, Inode, Layout, SLOT, Superblock, chunk_form, encode_xattrs,
    type_byte, xattr_size,
};
use super::tree::{Body, Node, NodeId, ROOT, Tree};

/// The size of the pages that a file is mapped in.
const PAGE: u64 = 4096;

/// Where a node's inode and blocks are.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// From the first inode, in bytes.
    inode: u64,
    /// From the first block behind the inodes, in blocks.
    block: u64,
    /// All that it has to say, in bytes.
    size: u64,
    inline: bool,
}

/// Writes what makes a file with a tar in it an image: everything from `tail` on, and then the
/// superblock.
pub(super) fn write(tree: &Tree, file: &File, tail: u64, uuid: [u8; 16]) -> Result<()> {
    // What was an image before is none while it is changed.
    let clear = || file.write_all_at(&[0; Superblock::SIZE], Superblock::OFFSET);
    clear().context(ErrorKind::Storage, || "write image".into())?;
    let plan = Plan::new(tree, tail)?;
    let end = plan.write(file).context(ErrorKind::Storage, || "write image".into())?;
    let superblock = Superblock {
        meta_block: block_number(plan.meta)?,
        root: u16::try_from(plan.nid(ROOT)).unwrap_or(u16::MAX),
        inodes: plan.order.len() as u64,
        blocks: block_number(end)?,
        uuid,
    };
    file.write_all_at(&superblock.encode(), Superblock::OFFSET)
        .context(ErrorKind::Storage, || "write image".into())
}

/// The number of the block at an offset, which is one's beginning.
pub(super) fn block_number(offset: u64) -> Result<u32> {
    u32::try_from(offset / BLOCK).ok().filter(|number| *number < u32::MAX).ok_or_else(|| {
        Error::new(ErrorKind::ResourceExhausted, "write image: it is larger than 2 TiB")
    })
}

struct Plan<'a> {
    tree: &'a Tree,
    order: Vec<NodeId>,
    places: Vec<Place>,
    /// Where the inodes begin.
    meta: u64,
    /// Where the blocks behind them begin.
    blocks: u64,
}

impl<'a> Plan<'a> {
    fn new(tree: &'a Tree, tail: u64) -> Result<Self> {
        let meta = tail.next_multiple_of(BLOCK);
        let order = tree.order();
        let mut places = vec![Place::default(); tree.len()];
        // Nothing is at number 0, which readers of directories take for a removed entry.
        let (mut at, mut block) = (SLOT, 0);
        for id in &order {
            let node = tree.node(*id);
            let head = INODE_SIZE + xattr_size(node) as u64;
            let size = extent(node);
            let rest = size % BLOCK;
            at = at.next_multiple_of(SLOT);
            let mut inline = rest > 0 && !matches!(node.body, Body::Chunks { .. });
            if inline {
                // What follows an inode may not go on in the next block.
                let fits = |at: u64| (at + head) % BLOCK + rest <= BLOCK;
                let found = (0..BLOCK / SLOT).map(|slots| at + slots * SLOT).find(|at| fits(*at));
                inline = found.is_some();
                at = found.unwrap_or(at);
            }
            places[*id as usize] = Place { inode: at, block, size, inline };
            at += head;
            if matches!(node.body, Body::Chunks { .. }) {
                at += size;
            } else if inline {
                at += rest;
                block += size / BLOCK;
            } else {
                block += size.div_ceil(BLOCK);
            }
        }
        let blocks = meta + at.next_multiple_of(BLOCK);
        block_number(blocks + block * BLOCK)?;
        Ok(Self { tree, order, places, meta, blocks })
    }

    fn place(&self, id: NodeId) -> &Place {
        &self.places[id as usize]
    }

    fn nid(&self, id: NodeId) -> u64 {
        self.place(id).inode / SLOT
    }

    /// Writes inodes and blocks; returns where they end.
    fn write(&self, file: &File) -> std::io::Result<u64> {
        let mut out = BufWriter::with_capacity(256 << 10, file);
        out.seek(SeekFrom::Start(self.meta))?;
        let (mut at, mut bytes) = (0, Vec::new());
        for (number, id) in (1_u32..).zip(&self.order) {
            let place = self.place(*id);
            bytes.clear();
            bytes.resize(usize::try_from(place.inode - at).unwrap_or(0), 0);
            self.inode(*id, number, &mut bytes);
            out.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        let mut at = self.meta + at;
        for id in &self.order {
            let place = self.place(*id);
            let count = if place.inline { place.size / BLOCK } else { place.size.div_ceil(BLOCK) };
            if count == 0 || matches!(self.tree.node(*id).body, Body::Chunks { .. }) {
                continue;
            }
            let start = self.blocks + place.block * BLOCK;
            bytes.clear();
            bytes.resize(usize::try_from(start - at).unwrap_or(0), 0);
            let before = bytes.len();
            self.contents(*id, &mut bytes);
            bytes.resize(before + usize::try_from(count * BLOCK).unwrap_or(0), 0);
            out.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        out.flush()?;
        drop(out);
        // Whole pages, so that none of them is read beyond the end.
        let end = at.next_multiple_of(PAGE);
        file.set_len(end)?;
        Ok(end)
    }

    fn inode(&self, id: NodeId, number: u32, out: &mut Vec<u8>) {
        let (node, place) = (self.tree.node(id), self.place(id));
        let (layout, size, at) = match &node.body {
            Body::File { size, block } => (Layout::Plain, *size, *block),
            Body::Chunks { size, .. } => (Layout::Chunks, *size, chunk_form(&node.body)),
            Body::Device(device) => (Layout::Plain, 0, *device),
            Body::Dir { .. } | Body::Symlink(_) => {
                let layout = if place.inline { Layout::Inline } else { Layout::Plain };
                // The plan has checked that all of them have numbers.
                let block = u32::try_from(self.blocks / BLOCK + place.block).unwrap_or(0);
                (layout, place.size, block)
            }
        };
        let inode = Inode {
            layout,
            mode: node.mode,
            size,
            place: at,
            number,
            uid: node.uid,
            gid: node.gid,
            seconds: node.mtime.seconds,
            nanos: node.mtime.nanos,
            links: self.links(id),
            xattrs: xattr_size(node),
        };
        out.extend_from_slice(&inode.encode());
        encode_xattrs(node, out);
        if let Body::Chunks { map, .. } = &node.body {
            map.iter().for_each(|block| out.extend_from_slice(&block.to_le_bytes()));
        } else if place.inline {
            let mut contents = Vec::new();
            self.contents(id, &mut contents);
            let whole = usize::try_from(place.size / BLOCK * BLOCK).unwrap_or(0);
            out.extend_from_slice(&contents[whole..]);
        }
    }

    /// A directory has its own entry, its name above and one `..` of each directory below.
    fn links(&self, id: NodeId) -> u32 {
        let node = self.tree.node(id);
        let Body::Dir { entries, .. } = &node.body else { return node.links };
        let below = entries.values().filter(|child| self.tree.node(**child).is_dir()).count();
        u32::try_from(below).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// What a directory or symlink says.
    fn contents(&self, id: NodeId, out: &mut Vec<u8>) {
        match &self.tree.node(id).body {
            Body::Symlink(target) => out.extend_from_slice(target),
            Body::Dir { entries, parent, .. } => {
                let start = out.len();
                let names = names(entries.keys().map(AsRef::as_ref));
                for block in blocks(names) {
                    out.resize((out.len() - start).next_multiple_of(BLOCK as usize) + start, 0);
                    let mut offset = block.len() * DIRENT_SIZE;
                    for name in &block {
                        let child = match *name {
                            b"." => id,
                            b".." => *parent,
                            name => entries.get(name).copied().unwrap_or(id),
                        };
                        out.extend_from_slice(&self.nid(child).to_le_bytes());
                        out.extend_from_slice(&u16::try_from(offset).unwrap_or(0).to_le_bytes());
                        out.extend_from_slice(&[type_byte(self.tree.node(child)), 0]);
                        offset += name.len();
                    }
                    block.iter().for_each(|name| out.extend_from_slice(name));
                }
            }
            _ => {}
        }
    }
}

/// Bytes that a node has to say beside its inode, but for a file's body.
fn extent(node: &Node) -> u64 {
    match &node.body {
        Body::Symlink(target) => target.len() as u64,
        Body::Chunks { map, .. } => map.len() as u64 * 4,
        Body::File { .. } | Body::Device(_) => 0,
        Body::Dir { entries, .. } => {
            let mut size = 0;
            for block in blocks(names(entries.keys().map(AsRef::as_ref))) {
                let used: usize = block.iter().map(|name| DIRENT_SIZE + name.len()).sum();
                size = u64::next_multiple_of(size, BLOCK) + used as u64;
            }
            size
        }
    }
}

/// A directory's names in order, with those of itself and what is above.
fn names<'a>(sorted: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    let mut own = [b".".as_slice(), b".."].into_iter().peekable();
    let mut sorted = sorted.peekable();
    std::iter::from_fn(move || match (own.peek(), sorted.peek()) {
        (Some(dots), Some(name)) if name < dots => sorted.next(),
        (Some(_), _) => own.next(),
        (None, _) => sorted.next(),
    })
}

/// As many names at a time as a block of a directory holds.
fn blocks<'a>(names: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = Vec<&'a [u8]>> {
    let mut names = names.peekable();
    std::iter::from_fn(move || {
        let (mut block, mut used) = (Vec::new(), 0);
        while let Some(name) =
            names.next_if(|name| used + DIRENT_SIZE + name.len() <= BLOCK as usize)
        {
            used += DIRENT_SIZE + name.len();
            block.push(name);
        }
        (!block.is_empty()).then_some(block)
    })
}
