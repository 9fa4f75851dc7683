//! What a layer holds, as a list: nothing is unpacked, contents become digests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use dist_core::{Digest, Error, ErrorKind, Hasher, MediaType, Result, ResultExt as _};

use crate::Limits;
use crate::compression::{Chunks, Inflater, Stream};
use crate::limits::exceeded;
use crate::name::{escape, normalize, split};
use crate::tar::{Entry, Kind, Tar};
use crate::warnings::Warnings;
use crate::whiteout::{Name, classify};
use crate::xattrs::sift;

/// The most paths that a listing may have.
const PATHS: usize = 4_000_000;

/// What there is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

/// A file, a directory, or whatever else has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// A file's length, holes included.
    pub size: u64,
    /// The SHA-256 of a file's contents.
    pub content: Option<Digest>,
    /// A symlink's target.
    pub target: Vec<u8>,
    /// A device's major and minor number.
    pub device: (u32, u32),
    /// Extended attributes that are unpacked.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What a layer does to what is below it.
#[derive(Clone, Debug, Default)]
pub struct LayerListing {
    /// What it puts there. Another name of a file is a file here.
    pub nodes: BTreeMap<Vec<u8>, Arc<Node>>,
    /// What it removes.
    pub whiteouts: BTreeSet<Vec<u8>>,
    /// Directories whose contents it removes.
    pub opaques: BTreeSet<Vec<u8>>,
}

/// Reads a layer to its end for what it holds. Of a path that is there twice the last one counts.
///
/// Paths are taken as the layer has them, relative to the root, which is empty: a symlink is not looked
/// through.
///
/// # Errors
/// `Corrupt`, `Unsupported`, `UnsafeLayer`, `ResourceExhausted` as when it is unpacked; the kinds that
/// `input` failed with.
pub fn list_layer(
    (media_type, input): (&MediaType, impl Read),
    limits: Limits,
) -> Result<LayerListing> {
    let stream = Stream::over(Inflater::new(media_type, input, limits)?);
    let mut tar = Tar::new(stream, limits);
    let mut listing = LayerListing::default();
    let mut entry = Entry::default();
    while tar.next(&mut entry)? {
        listing
            .take(&mut entry, &mut tar, limits)
            .during(|| format!("read entry {} at byte {}", escape(&entry.path), entry.offset))?;
    }
    tar.finish()?;
    Ok(listing)
}

impl LayerListing {
    fn take<C: Chunks>(
        &mut self,
        entry: &mut Entry,
        tar: &mut Tar<C>,
        limits: Limits,
    ) -> Result<()> {
        if self.nodes.len() + self.whiteouts.len() + self.opaques.len() >= PATHS {
            let message = format!("list layer: it has more than {PATHS} paths");
            return Err(exceeded("paths", PATHS as u64, message));
        }
        let path = normalize(&entry.path)?;
        sift(entry, &mut Warnings::default())?;
        if path.is_empty() {
            self.nodes.insert(path, Arc::new(node(entry, NodeKind::Dir)));
            return Ok(());
        }
        let (dir, name) = split(&path);
        match classify(dir, name)? {
            Name::Whiteout(hidden) => {
                self.whiteouts.insert(crate::name::join(dir, hidden));
            }
            Name::Opaque => {
                self.opaques.insert(dir.to_vec());
            }
            Name::Aufs => {}
            Name::Plain => {
                let node = match entry.kind {
                    Kind::Link => {
                        let target = normalize(&entry.link)?;
                        self.nodes.get(&target).cloned().ok_or_else(|| {
                            let message = format!(
                                "follow hard link to {}: it is not in the layer",
                                escape(&entry.link)
                            );
                            Error::new(ErrorKind::Corrupt, message)
                        })?
                    }
                    Kind::File => {
                        let content = content(entry, tar, limits)?;
                        let node = node(entry, NodeKind::File);
                        Arc::new(Node { size: entry.size, content: Some(content), ..node })
                    }
                    Kind::Dir => Arc::new(node(entry, NodeKind::Dir)),
                    Kind::Symlink => Arc::new(node(entry, NodeKind::Symlink)),
                    Kind::Char => Arc::new(node(entry, NodeKind::Char)),
                    Kind::Block => Arc::new(node(entry, NodeKind::Block)),
                    Kind::Fifo => Arc::new(node(entry, NodeKind::Fifo)),
                };
                self.nodes.insert(path, node);
            }
        }
        Ok(())
    }
}

fn node(entry: &mut Entry, kind: NodeKind) -> Node {
    let xattrs = std::mem::take(&mut entry.xattrs).into_iter();
    let is_device = matches!(kind, NodeKind::Char | NodeKind::Block);
    let target =
        if kind == NodeKind::Symlink { std::mem::take(&mut entry.link) } else { Vec::new() };
    Node {
        kind,
        // Nobody looks at those of a symlink.
        mode: if kind == NodeKind::Symlink { 0o777 } else { entry.mode },
        uid: entry.uid,
        gid: entry.gid,
        size: 0,
        content: None,
        target,
        device: if is_device { entry.device } else { (0, 0) },
        xattrs: xattrs.collect(),
    }
}

/// Hashes the body of a file, holes as zeros.
fn content<C: Chunks>(entry: &Entry, tar: &mut Tar<C>, limits: Limits) -> Result<Digest> {
    let mut hasher = Hasher::sha256();
    let Some(regions) = &entry.regions else {
        loop {
            let chunk = tar.chunk()?;
            if chunk.is_empty() {
                return Ok(hasher.finish());
            }
            hasher.update(chunk);
            let count = chunk.len();
            tar.consume(count);
        }
    };
    if entry.size > limits.layer_bytes {
        let message = format!("hash a file of {} bytes with holes", entry.size);
        return Err(exceeded("layer-size", limits.layer_bytes, message));
    }
    let mut at = 0;
    for region in regions {
        zeros(&mut hasher, region.start - at);
        let mut left = region.length;
        while left > 0 {
            let chunk = tar.chunk()?;
            let count = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "read a file with holes: it is cut off",
                ));
            }
            hasher.update(&chunk[..count]);
            tar.consume(count);
            left -= count as u64;
        }
        at = region.start + region.length;
    }
    zeros(&mut hasher, entry.size - at);
    Ok(hasher.finish())
}

fn zeros(hasher: &mut Hasher, mut count: u64) {
    const ZEROS: [u8; 8192] = [0; 8192];
    while count > 0 {
        let now = count.min(ZEROS.len() as u64);
        hasher.update(&ZEROS[..usize::try_from(now).unwrap_or(ZEROS.len())]);
        count -= now;
    }
}
