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
use super::tree::{Body, Children, NodeId, ROOT, Tree};

/// The size of the pages that a file is mapped in.
const PAGE: u64 = 4096;

/// Writes what makes a file with a tar in it an image: everything from `tail` on, and then the
/// superblock.
pub(super) fn write(
    (tree, children): (&Tree, &Children),
    file: &File,
    tail: u64,
    uuid: [u8; 16],
) -> Result<()> {
    // What was an image before is none while it is changed.
    let clear = || file.write_all_at(&[0; Superblock::SIZE], Superblock::OFFSET);
    clear().context(ErrorKind::Storage, || "write image".into())?;
    let plan = Plan::new(tree, children, tail)?;
    let end = plan.write(file).context(ErrorKind::Storage, || "write image".into())?;
    let superblock = Superblock {
        meta_block: block_number(plan.meta)?,
        root: u16::try_from(plan.number(ROOT)).unwrap_or(u16::MAX),
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

/// Where a node's inode and blocks are.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// From the first inode, in bytes.
    inode: u64,
    /// From the first block behind the inodes, in blocks.
    block: u64,
    /// How many of these.
    blocks: u64,
    /// All that it has to say, in bytes.
    size: u64,
    inline: bool,
}

/// Puts one node behind the other.
struct Places {
    /// Where inodes, and blocks, are free.
    at: u64,
    block: u64,
}

impl Places {
    fn new() -> Self {
        // Nothing is at number 0, which readers of directories take for a removed entry.
        Self { at: SLOT, block: 0 }
    }

    /// Puts a node whose inode and attributes have `head` bytes, with `size` more to say: behind the
    /// inode, if it is a `map`.
    fn next(&mut self, head: u64, size: u64, map: bool) -> Place {
        let rest = size % BLOCK;
        self.at = self.at.next_multiple_of(SLOT);
        let mut inline = rest > 0 && !map;
        if inline {
            // What follows an inode may not go on in the next block.
            let fits = |at: u64| (at + head) % BLOCK + rest <= BLOCK;
            let found = (0..BLOCK / SLOT).map(|slots| self.at + slots * SLOT).find(|at| fits(*at));
            inline = found.is_some();
            self.at = found.unwrap_or(self.at);
        }
        let blocks = match (map, inline) {
            (true, _) => 0,
            (_, true) => size / BLOCK,
            (_, false) => size.div_ceil(BLOCK),
        };
        let place = Place { inode: self.at, block: self.block, blocks, size, inline };
        self.at += head
            + if map {
                size
            } else if inline {
                rest
            } else {
                0
            };
        self.block += blocks;
        place
    }
}

struct Plan<'a> {
    tree: &'a Tree,
    children: &'a Children,
    order: Vec<NodeId>,
    /// The number of each node's inode, 0 where it has none.
    numbers: Vec<u32>,
    /// Where the inodes begin.
    meta: u64,
    /// Where the blocks behind them begin.
    blocks: u64,
}

impl<'a> Plan<'a> {
    fn new(tree: &'a Tree, children: &'a Children, tail: u64) -> Result<Self> {
        let meta = tail.next_multiple_of(BLOCK);
        let order = children.order(tree);
        let numbers = vec![0; tree.len()];
        let mut plan = Self { tree, children, order, numbers, meta, blocks: 0 };
        let mut places = Places::new();
        for at in 0..plan.order.len() {
            let id = plan.order[at];
            let inode = plan.place(id, &mut places).inode;
            plan.numbers[id as usize] = u32::try_from(inode / SLOT).map_err(|_| {
                Error::new(ErrorKind::ResourceExhausted, "write image: it has too many inodes")
            })?;
        }
        plan.blocks = meta + places.at.next_multiple_of(BLOCK);
        block_number(plan.blocks + places.block * BLOCK)?;
        Ok(plan)
    }

    /// The place of a node, behind those that come before it.
    fn place(&self, id: NodeId, places: &mut Places) -> Place {
        let head = INODE_SIZE + xattr_size(self.tree.attributes(id)) as u64;
        places.next(head, self.extent(id), matches!(self.tree.body(id), Body::Chunks { .. }))
    }

    /// All places again.
    fn places(&self) -> impl Iterator<Item = (NodeId, Place)> {
        let mut places = Places::new();
        self.order.iter().map(move |id| (*id, self.place(*id, &mut places)))
    }

    fn number(&self, id: NodeId) -> u32 {
        self.numbers[self.tree.inode(id) as usize]
    }

    /// Writes inodes and blocks; returns where they end.
    fn write(&self, file: &File) -> std::io::Result<u64> {
        let mut out = BufWriter::with_capacity(64 << 10, file);
        out.seek(SeekFrom::Start(self.meta))?;
        let (mut at, mut bytes) = (0, Vec::new());
        for (number, (id, place)) in (1_u32..).zip(self.places()) {
            bytes.clear();
            bytes.resize(usize::try_from(place.inode - at).unwrap_or(0), 0);
            self.inode(id, &place, number, &mut bytes);
            out.write_all(&bytes)?;
            at += bytes.len() as u64;
        }
        let mut at = self.meta + at;
        for (id, place) in self.places().filter(|(_, place)| place.blocks > 0) {
            let start = self.blocks + place.block * BLOCK;
            bytes.clear();
            bytes.resize(usize::try_from(start - at).unwrap_or(0), 0);
            out.write_all(&bytes)?;
            for mut piece in self.contents(id).take(usize::try_from(place.blocks).unwrap_or(0)) {
                piece.resize(BLOCK as usize, 0);
                out.write_all(&piece)?;
            }
            at = start + place.blocks * BLOCK;
        }
        out.flush()?;
        drop(out);
        // Whole pages, so that none of them is read beyond the end.
        let end = at.next_multiple_of(PAGE);
        file.set_len(end)?;
        Ok(end)
    }

    fn inode(&self, id: NodeId, place: &Place, number: u32, out: &mut Vec<u8>) {
        let (attributes, body) = (self.tree.attributes(id), self.tree.body(id));
        let (layout, size, at) = match &body {
            Body::File { size, block } => (Layout::Plain, *size, *block),
            Body::Chunks { size, .. } => (Layout::Chunks, *size, chunk_form(&body)),
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
            mode: attributes.mode,
            size,
            place: at,
            number,
            uid: attributes.uid,
            gid: attributes.gid,
            seconds: attributes.mtime.seconds,
            nanos: attributes.mtime.nanos,
            links: self.links(id),
            xattrs: xattr_size(attributes),
        };
        out.extend_from_slice(&inode.encode());
        encode_xattrs(attributes, out);
        if let Body::Chunks { map, .. } = &body {
            map.iter().for_each(|block| out.extend_from_slice(&block.to_le_bytes()));
        } else if place.inline {
            out.extend_from_slice(&self.contents(id).last().unwrap_or_default());
        }
    }

    /// A directory has its own entry, its name above and one `..` of each directory below.
    fn links(&self, id: NodeId) -> u32 {
        if !self.tree.is_dir(id) {
            return self.children.links(id);
        }
        let below = self.children.names(id).iter().filter(|child| self.tree.is_dir(**child));
        u32::try_from(below.count()).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// What a directory or symlink says, a block at a time; the last is as long as it needs to be.
    fn contents(&self, id: NodeId) -> Box<dyn Iterator<Item = Vec<u8>> + '_> {
        match self.tree.body(id) {
            Body::Symlink(target) => {
                let pieces: Vec<_> = target.chunks(BLOCK as usize).map(<[u8]>::to_vec).collect();
                Box::new(pieces.into_iter())
            }
            Body::Dir { .. } => Box::new(blocks(self.names(id)).map(|block| self.listing(&block))),
            _ => Box::new(std::iter::empty()),
        }
    }

    /// A block of a directory.
    fn listing(&self, block: &[(&[u8], NodeId)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(BLOCK as usize);
        let mut offset = block.len() * DIRENT_SIZE;
        for (name, child) in block {
            let kind = type_byte(self.tree.attributes(*child).mode);
            out.extend_from_slice(&u64::from(self.number(*child)).to_le_bytes());
            out.extend_from_slice(&u16::try_from(offset).unwrap_or(0).to_le_bytes());
            out.extend_from_slice(&[kind, 0]);
            offset += name.len();
        }
        block.iter().for_each(|(name, _)| out.extend_from_slice(name));
        out
    }

    /// Bytes that a node has to say beside its inode, but for a file's body.
    fn extent(&self, id: NodeId) -> u64 {
        match self.tree.body(id) {
            Body::Symlink(target) => target.len() as u64,
            Body::Chunks { map, .. } => map.len() as u64 * 4,
            Body::File { .. } | Body::Device(_) => 0,
            Body::Dir { .. } => {
                let mut size = 0;
                for block in blocks(self.names(id)) {
                    let used: usize = block.iter().map(|(name, _)| DIRENT_SIZE + name.len()).sum();
                    size = u64::next_multiple_of(size, BLOCK) + used as u64;
                }
                size
            }
        }
    }

    /// A directory's names in order, with those of itself and what is above.
    fn names(&self, id: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
        let own: [(&[u8], NodeId); 2] = [(b".", id), (b"..", self.tree.parent(id))];
        let mut own = own.into_iter().peekable();
        let sorted = self.children.names(id).iter();
        let mut sorted = sorted.map(|child| (self.tree.name(*child), *child)).peekable();
        std::iter::from_fn(move || match (own.peek(), sorted.peek()) {
            (Some((dots, _)), Some((name, _))) if name < dots => sorted.next(),
            (Some(_), _) => own.next(),
            (None, _) => sorted.next(),
        })
    }
}

/// As many names at a time as a block of a directory holds.
fn blocks<'a>(
    names: impl Iterator<Item = (&'a [u8], NodeId)>,
) -> impl Iterator<Item = Vec<(&'a [u8], NodeId)>> {
    let mut names = names.peekable();
    std::iter::from_fn(move || {
        let (mut block, mut used) = (Vec::new(), 0);
        while let Some(entry) =
            names.next_if(|(name, _)| used + DIRENT_SIZE + name.len() <= BLOCK as usize)
        {
            used += DIRENT_SIZE + entry.0.len();
            block.push(entry);
        }
        (!block.is_empty()).then_some(block)
    })
}
