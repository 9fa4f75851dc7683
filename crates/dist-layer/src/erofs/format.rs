//! The bytes of an EROFS image, as Linux 6.6 and later read them (`fs/erofs/erofs_fs.h`): blocks of
//! 512 bytes, extended inodes, extended attributes beside their inode, no compression.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::tree::{Attributes, Body};

/// Bytes of a block. A tar's bodies begin at multiples of it, so they can stay where they are.
pub(super) const BLOCK: u64 = 512;

/// Where the superblock is.
const SUPER_OFFSET: u64 = 1024;
const SUPER_SIZE: usize = 128;
const MAGIC: u32 = 0xe0f5_e1e2;
/// Files of chunks, each at a place of its own or nowhere.
const FEATURE_CHUNKED: u32 = 4;

pub(super) const INODE_SIZE: u64 = 64;
/// Inodes begin at multiples of this; their number is how many times.
pub(super) const SLOT: u64 = 32;
pub(super) const DIRENT_SIZE: usize = 12;
pub(super) const XATTR_HEADER: usize = 12;

/// No block: a hole in a file of chunks.
pub(super) const HOLE: u32 = u32::MAX;

/// How a file's bytes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// In blocks one after another.
    Plain,
    /// As plain, but for what does not fill a block: that follows the inode.
    Inline,
    /// By a map that follows the inode.
    Chunks,
}

impl Layout {
    fn code(self) -> u16 {
        match self {
            Self::Plain => 0,
            Self::Inline => 2,
            Self::Chunks => 4,
        }
    }

    fn of_code(code: u16) -> Option<Self> {
        match code {
            0 => Some(Self::Plain),
            2 => Some(Self::Inline),
            4 => Some(Self::Chunks),
            _ => None,
        }
    }
}

/// What begins an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    /// Where inodes are counted from, in blocks.
    pub(super) meta_block: u32,
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    pub(super) uuid: [u8; 16],
}

impl Superblock {
    pub(super) const OFFSET: u64 = SUPER_OFFSET;
    pub(super) const SIZE: usize = SUPER_SIZE;

    pub(super) fn encode(&self) -> [u8; SUPER_SIZE] {
        let mut bytes = [0; SUPER_SIZE];
        put(&mut bytes, 0, &MAGIC.to_le_bytes());
        put(&mut bytes, 12, &[u8::try_from(BLOCK.trailing_zeros()).unwrap_or(0)]);
        put(&mut bytes, 14, &self.root.to_le_bytes());
        put(&mut bytes, 16, &self.inodes.to_le_bytes());
        put(&mut bytes, 36, &self.blocks.to_le_bytes());
        put(&mut bytes, 40, &self.meta_block.to_le_bytes());
        put(&mut bytes, 48, &self.uuid);
        put(&mut bytes, 80, &FEATURE_CHUNKED.to_le_bytes());
        bytes
    }

    /// Reads one that [`Superblock::encode`] wrote; `None` for any other.
    pub(super) fn decode(bytes: &[u8; SUPER_SIZE]) -> Option<Self> {
        let read = Self {
            meta_block: u32_at(bytes, 40),
            root: u16_at(bytes, 14),
            inodes: u64_at(bytes, 16),
            blocks: u32_at(bytes, 36),
            uuid: bytes[48..64].try_into().ok()?,
        };
        (read.encode() == *bytes).then_some(read)
    }
}

/// How long an image says it is; `None` for what is none.
pub(super) fn said_length(file: &File) -> io::Result<Option<u64>> {
    let mut bytes = [0; SUPER_SIZE];
    match file.read_exact_at(&mut bytes, SUPER_OFFSET) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let of_ours = u32_at(&bytes, 0) == MAGIC && BLOCK == 1 << (bytes[12] & 63);
    Ok(of_ours.then(|| u64::from(u32_at(&bytes, 36)) * BLOCK))
}

/// An inode's first bytes; what its node does not say is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) layout: Layout,
    pub(super) mode: u32,
    pub(super) size: u64,
    /// The first block, the device or the form of the chunks.
    pub(super) place: u32,
    pub(super) number: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) seconds: i64,
    pub(super) nanos: u32,
    pub(super) links: u32,
    /// Bytes of extended attributes.
    pub(super) xattrs: usize,
}

impl Inode {
    pub(super) fn encode(&self) -> [u8; INODE_SIZE as usize] {
        let mut bytes = [0; INODE_SIZE as usize];
        let count = match self.xattrs {
            0 => 0,
            size => (size - XATTR_HEADER) / 4 + 1,
        };
        put(&mut bytes, 0, &(self.layout.code() << 1 | 1).to_le_bytes());
        put(&mut bytes, 2, &u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
        put(&mut bytes, 4, &(self.mode as u16).to_le_bytes());
        put(&mut bytes, 8, &self.size.to_le_bytes());
        put(&mut bytes, 16, &self.place.to_le_bytes());
        put(&mut bytes, 20, &self.number.to_le_bytes());
        put(&mut bytes, 24, &self.uid.to_le_bytes());
        put(&mut bytes, 28, &self.gid.to_le_bytes());
        put(&mut bytes, 32, &self.seconds.to_le_bytes());
        put(&mut bytes, 40, &self.nanos.to_le_bytes());
        put(&mut bytes, 44, &self.links.to_le_bytes());
        bytes
    }

    /// Reads one; `None` for the other kinds of inode that EROFS has.
    pub(super) fn decode(bytes: &[u8; INODE_SIZE as usize]) -> Option<Self> {
        let format = u16_at(bytes, 0);
        let count = usize::from(u16_at(bytes, 2));
        Some(Self {
            layout: Layout::of_code(format >> 1).filter(|_| format & 1 == 1)?,
            mode: u32::from(u16_at(bytes, 4)),
            size: u64_at(bytes, 8),
            place: u32_at(bytes, 16),
            number: u32_at(bytes, 20),
            uid: u32_at(bytes, 24),
            gid: u32_at(bytes, 28),
            seconds: u64_at(bytes, 32).cast_signed(),
            nanos: u32_at(bytes, 40),
            links: u32_at(bytes, 44),
            xattrs: if count == 0 { 0 } else { XATTR_HEADER + (count - 1) * 4 },
        })
    }
}

/// The byte that a directory says a node's type with.
pub(super) fn type_byte(mode: u32) -> u8 {
    match mode & 0o170_000 {
        0o100_000 => 1,
        0o040_000 => 2,
        0o020_000 => 3,
        0o060_000 => 4,
        0o010_000 => 5,
        0o120_000 => 7,
        _ => 0,
    }
}

/// A device's number as an inode has it, where it can.
pub(super) fn device(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

const PREFIXES: [(&[u8], u8); 3] = [(b"user.", 1), (b"trusted.", 4), (b"security.", 6)];
const ACLS: [(&[u8], u8); 2] = [(b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3)];

/// Splits the name of an extended attribute; `None` where EROFS can't have it.
pub(super) fn split_xattr(key: &[u8]) -> Option<(u8, &[u8])> {
    if let Some((_, index)) = ACLS.iter().find(|(name, _)| *name == key) {
        return Some((*index, b""));
    }
    let (rest, index) =
        PREFIXES.iter().find_map(|(prefix, index)| Some((key.strip_prefix(*prefix)?, *index)))?;
    (!rest.is_empty() && rest.len() < 256).then_some((index, rest))
}

/// The whole name of an extended attribute.
pub(super) fn join_xattr(index: u8, rest: &[u8]) -> Option<Vec<u8>> {
    let of = |list: &[(&[u8], u8)]| {
        list.iter().find(|(_, known)| *known == index).map(|(name, _)| name.to_vec())
    };
    match of(&ACLS) {
        Some(name) => rest.is_empty().then_some(name),
        None => Some([of(&PREFIXES)?, rest.to_vec()].concat()),
    }
}

/// Bytes that extended attributes take beside their inode.
pub(super) fn xattr_size(attributes: &Attributes) -> usize {
    let entries: usize = attributes.xattrs.iter().map(|(key, value)| entry_size(key, value)).sum();
    if entries == 0 { 0 } else { XATTR_HEADER + entries }
}

fn entry_size(key: &[u8], value: &[u8]) -> usize {
    let name = split_xattr(key).map_or(0, |(_, rest)| rest.len());
    (4 + name + value.len()).next_multiple_of(4)
}

pub(super) fn encode_xattrs(attributes: &Attributes, out: &mut Vec<u8>) {
    if attributes.xattrs.is_empty() {
        return;
    }
    out.extend_from_slice(&[0; XATTR_HEADER]);
    for (key, value) in &attributes.xattrs {
        let Some((index, name)) = split_xattr(key) else { continue };
        let start = out.len();
        out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
        out.push(index);
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.resize(start + entry_size(key, value), 0);
    }
}

/// Bits that a file's chunks have beyond a block's, as its inode says it.
pub(super) fn chunk_form(body: &Body<'_>) -> u32 {
    if let Body::Chunks { bits, .. } = body { u32::from(*bits) } else { 0 }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}
