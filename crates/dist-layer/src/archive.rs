//! Archives that are no layers: an image as one file, read as a stream.
//!
//! The same strict tar reader as for layers; nothing is made on a file system.

use std::io::{self, Read};

use dist_core::{Error, Result};

use crate::Limits;
use crate::compression::{Inflater, Stream};
use crate::name::{join, normalize, split};
use crate::tar::{Entry, Kind, Tar};

/// Reads the entries of an archive, plain or compressed by gzip or zstd, in their order.
///
/// Reading from it reads the body of the current entry.
pub struct ArchiveReader<R> {
    tar: Tar<Inflater<R>>,
    entry: Entry,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveEntry {
    /// The path, relative to the archive's root: `a/b/c`.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: ArchiveEntryKind,
}

/// What an entry of an archive is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArchiveEntryKind {
    /// A file of so many bytes.
    File(u64),
    /// Another name for the file at this path, by a hard or symbolic link within the archive.
    Link(Vec<u8>),
    /// A directory, or something that an image has no use for.
    Other,
}

impl<R: Read> ArchiveReader<R> {
    /// Begins to read an archive.
    ///
    /// # Errors
    /// `Unsupported` for a compression that is not handled; `Corrupt` where there is nothing; the
    /// kind that `input` failed with.
    pub fn new(input: R, limits: Limits) -> Result<Self> {
        let stream = Stream::over(Inflater::of_archive(input, limits)?);
        Ok(Self { tar: Tar::new(stream, limits), entry: Entry::default() })
    }

    /// Goes to the next entry; `None` at the end. What was not read of the one before is skipped.
    ///
    /// # Errors
    /// `Corrupt`, `Unsupported`; `UnsafeLayer` for a path that leaves the archive;
    /// `ResourceExhausted` where a limit is exceeded; the kind that the input failed with.
    pub fn next_entry(&mut self) -> Result<Option<ArchiveEntry>> {
        if !self.tar.next(&mut self.entry)? {
            return Ok(None);
        }
        let Entry { kind, path, link, size, regions, .. } = &self.entry;
        let path = normalize(path)?;
        let kind = match kind {
            Kind::File if regions.is_none() => ArchiveEntryKind::File(*size),
            Kind::Link => ArchiveEntryKind::Link(normalize(link)?),
            Kind::Symlink => match link_in_archive(split(&path).0, link) {
                Some(target) => ArchiveEntryKind::Link(target),
                None => ArchiveEntryKind::Other,
            },
            _ => ArchiveEntryKind::Other,
        };
        Ok(Some(ArchiveEntry { path, kind }))
    }

    /// Reads to the end of the input, so that whoever writes it is not cut off.
    ///
    /// # Errors
    /// As [`ArchiveReader::next_entry`].
    pub fn finish(self) -> Result<()> {
        self.tar.finish().map(drop)
    }
}

impl<R: Read> Read for ArchiveReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let chunk = self.tar.chunk().map_err(Error::into_io)?;
        let count = chunk.len().min(buffer.len());
        buffer[..count].copy_from_slice(&chunk[..count]);
        self.tar.consume(count);
        Ok(count)
    }
}

/// Where a symbolic link in the directory `dir` of an archive leads; `None` for one that leaves it.
#[must_use]
pub fn link_in_archive(dir: &[u8], link: &[u8]) -> Option<Vec<u8>> {
    let mut at = if link.starts_with(b"/") { Vec::new() } else { dir.to_vec() };
    for component in link.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if at.is_empty() => return None,
            b".." => at = split(&at).0.to_vec(),
            name => at = join(&at, name),
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_within_the_archive() {
        for (dir, link, target) in [
            ("a", "../b/layer.tar", Some("b/layer.tar")),
            ("", "b", Some("b")),
            ("a/b", "/c", Some("c")),
            ("a", "./x/../y", Some("a/y")),
            ("a", "../../b", None),
        ] {
            let found = link_in_archive(dir.as_bytes(), link.as_bytes());
            assert_eq!(found.as_deref(), target.map(str::as_bytes), "{dir} {link}");
        }
    }
}
