//! Sparse files in an image: maps of chunks.
//!
//! Where regions begin and end at whole chunks their bytes stay where the tar has them. Elsewhere
//! they are copied behind the tar, with holes of the image's own around them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use dist_core::{Cancel, Context as _, ErrorKind, Result};

use super::build::Sparse;
use super::format::{BLOCK, HOLE};
use super::tree::{Children, Tree};
use super::write::block_number;
use crate::tar::Region;

/// Bytes that are copied at once.
const PIECE: u64 = 256 << 10;

/// Chunks that a file may have for nothing, and for each region.
const CHUNKS: u64 = 1024;
const CHUNKS_A_REGION: u64 = 8;

/// Gives sparse files their maps; what is copied goes to `tail` and on. Returns where that ends.
pub(super) fn place(
    (tree, children): (&mut Tree, &Children),
    files: Vec<Sparse>,
    file: &File,
    (base, mut tail): (u64, u64),
    cancel: &Cancel,
) -> Result<u64> {
    for sparse in files {
        if children.links(sparse.node) == 0 {
            continue; // something took its place
        }
        let regions: Vec<Region> =
            sparse.regions.iter().copied().filter(|region| region.length > 0).collect();
        let stored = base + sparse.stored;
        let budget = CHUNKS + CHUNKS_A_REGION * regions.len() as u64;
        let (bits, map) = match in_place(&regions, sparse.size, stored, budget)? {
            Some(found) => found,
            None => {
                let bits = smallest(sparse.size, budget);
                let copier = Copier { file, cancel, bits };
                let map = copier.copy(&regions, sparse.size, stored, &mut tail)?;
                (bits, map)
            }
        };
        tree.set_chunks(sparse.node, bits, map.into())?;
    }
    Ok(tail)
}

/// The smallest chunks that keep a file within a number of them.
fn smallest(size: u64, budget: u64) -> u8 {
    (0..31).find(|bits| size.div_ceil(BLOCK << bits) <= budget).unwrap_or(31)
}

/// A map whose chunks are where the tar has them; `None` where there is none of so few chunks.
fn in_place(
    regions: &[Region],
    size: u64,
    stored: u64,
    budget: u64,
) -> Result<Option<(u8, Vec<u32>)>> {
    let ends = |region: &Region| region.start + region.length;
    let aligned = regions.iter().fold(size.next_power_of_two().max(BLOCK), |least, region| {
        let end = if ends(region) == size { 0 } else { ends(region) };
        [region.start, end]
            .iter()
            .filter(|at| **at > 0)
            .fold(least, |least, at| least.min(at & at.wrapping_neg()))
    });
    if aligned < BLOCK {
        return Ok(None);
    }
    let bits = u8::try_from((aligned / BLOCK).trailing_zeros().min(31)).unwrap_or(0);
    let chunk = BLOCK << bits;
    if size.div_ceil(chunk) > budget {
        return Ok(None);
    }
    let mut map = vec![HOLE; usize::try_from(size.div_ceil(chunk)).unwrap_or(0)];
    let mut at = stored;
    for region in regions {
        for index in region.start / chunk..ends(region).div_ceil(chunk) {
            if let Some(entry) = map.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) {
                *entry = block_number(at + (index * chunk - region.start))?;
            }
        }
        at += region.length;
    }
    Ok(Some((bits, map)))
}

struct Copier<'a> {
    file: &'a File,
    cancel: &'a Cancel,
    bits: u8,
}

impl Copier<'_> {
    fn copy(&self, regions: &[Region], size: u64, stored: u64, tail: &mut u64) -> Result<Vec<u32>> {
        let chunk = BLOCK << self.bits;
        let mut map = vec![HOLE; usize::try_from(size.div_ceil(chunk)).unwrap_or(0)];
        let mut from = stored;
        for region in regions {
            let (mut at, end) = (region.start, region.start + region.length);
            while at < end {
                let (index, inside) = (at / chunk, at % chunk);
                let count = (chunk - inside).min(end - at);
                let Some(entry) = map.get_mut(usize::try_from(index).unwrap_or(usize::MAX)) else {
                    break; // the reader has checked that regions are within the size
                };
                if *entry == HOLE {
                    *entry = block_number(*tail)?;
                    let whole = chunk.min(size - index * chunk).next_multiple_of(BLOCK);
                    *tail += whole;
                    block_number(*tail)?;
                }
                let to = u64::from(*entry) * BLOCK + inside;
                self.bytes(from, to, count).context(ErrorKind::Storage, || "write image".into())?;
                self.cancel.check()?;
                (from, at) = (from + count, at + count);
            }
        }
        Ok(map)
    }

    fn bytes(&self, mut from: u64, mut to: u64, count: u64) -> std::io::Result<()> {
        let end = from + count;
        let mut buffer = vec![0; usize::try_from(count.min(PIECE)).unwrap_or(0)];
        while from < end {
            let piece = usize::try_from((end - from).min(PIECE)).unwrap_or(0);
            self.file.read_exact_at(&mut buffer[..piece], from)?;
            self.file.write_all_at(&buffer[..piece], to)?;
            (from, to) = (from + piece as u64, to + piece as u64);
        }
        Ok(())
    }
}
