//! Tar archives, read strictly and as a stream.
//!
//! A sequence of 512-byte blocks: a header, then its body padded to a block (POSIX.1-2001 pax
//! interchange format; ustar, GNU and v7 headers). `x`, `g`, `L` and `K` entries say more about
//! the entry that follows. Two zero blocks, or the stream's end, end the archive; what follows is
//! read and hashed, not interpreted.
//!
//! Nothing is skipped because it is not understood, nothing is allocated by a claim, and where
//! two readers could disagree (an odd checksum, a size on an entry without a body, two extended
//! headers for one entry, a lone zero block) the archive is refused. Every error has the offset
//! of its header in the uncompressed stream.

mod fault;
mod header;
mod pax;
mod sparse;

use dist_core::{DiffId, Result};

pub(crate) use self::fault::Fault;
use self::fault::{fault, named};
use self::header::Header;
use self::pax::Pax;
pub(crate) use self::sparse::Region;
use crate::Limits;
use crate::compression::{Chunks, Stream};
use crate::limits::exceeded;
use crate::name::escape;

pub(crate) const BLOCK: usize = 512;

/// Bytes that the extended headers of one entry may have, each.
const HEADER_LIMIT: u64 = 1 << 20;

/// What an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    File,
    Link,
    Symlink,
    Char,
    Block,
    Dir,
    Fifo,
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanos: u32,
}

/// One entry, its extended headers applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where its own header is in the uncompressed stream.
    pub(crate) offset: u64,
    pub(crate) kind: Kind,
    /// As written; no zero bytes, not empty.
    pub(crate) path: Vec<u8>,
    /// As written; no zero bytes.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    /// The file's length, holes included.
    pub(crate) size: u64,
    /// For a sparse file, where its bytes belong: ascending, apart, within `size`.
    pub(crate) regions: Option<Vec<Region>>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a tar from a layer's uncompressed bytes.
pub(crate) struct Tar<C> {
    stream: Stream<C>,
    /// Bytes consumed of the stream.
    offset: u64,
    /// Bytes of the current body that are not read.
    body: u64,
    padding: u64,
    entries: u64,
    global: Pax,
    local: Pax,
    /// The long names that `L` and `K` entries gave.
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    limits: Limits,
}

impl<C: Chunks> Tar<C> {
    pub(crate) fn new(stream: Stream<C>, limits: Limits) -> Self {
        Self {
            stream,
            offset: 0,
            body: 0,
            padding: 0,
            entries: 0,
            global: Pax::default(),
            local: Pax::default(),
            long_path: None,
            long_link: None,
            limits,
        }
    }

    /// Reads the next entry into `entry`; `false` at the archive's end.
    ///
    /// What is left of the body before it is skipped.
    pub(crate) fn next(&mut self, entry: &mut Entry) -> Result<bool> {
        self.skip_body()?;
        loop {
            let at = self.offset;
            let mut block = [0; BLOCK];
            let more = self.block(&mut block)?;
            if !more || block == [0; BLOCK] {
                if self.local.given || self.long_path.is_some() || self.long_link.is_some() {
                    return Err(fault(at, Fault::Dangling));
                }
                if more && self.block(&mut block)? && block != [0; BLOCK] {
                    return Err(fault(at, Fault::LoneZeroBlock));
                }
                return Ok(false);
            }
            let header = Header::new(&block).map_err(|error| fault(at, error))?;
            match header.type_flag() {
                b'x' => {
                    if self.local.given {
                        return Err(fault(at, Fault::Twice("extended attributes")));
                    }
                    let records = self.extension(&header, at)?;
                    self.local.given = true;
                    self.local.read(&records).map_err(|error| fault(at, error))?;
                }
                b'g' => {
                    let records = self.extension(&header, at)?;
                    self.global.read(&records).map_err(|error| fault(at, error))?;
                    self.global.check_global().map_err(|error| fault(at, error))?;
                }
                b'L' => {
                    let name = self.long_name(&header, at, "long name")?;
                    if self.long_path.replace(name).is_some() {
                        return Err(fault(at, Fault::Twice("long name")));
                    }
                }
                b'K' => {
                    let name = self.long_name(&header, at, "long link name")?;
                    if self.long_link.replace(name).is_some() {
                        return Err(fault(at, Fault::Twice("long link name")));
                    }
                }
                _ => {
                    self.entry(&header, at, entry)?;
                    return Ok(true);
                }
            }
        }
    }

    /// Where the next byte of the current entry's body is in the uncompressed stream.
    pub(crate) fn position(&self) -> u64 {
        self.offset
    }

    /// Whether the uncompressed bytes come faster than they are used.
    pub(crate) fn is_behind(&self) -> bool {
        self.stream.is_behind()
    }

    /// The next bytes of the current entry's body; empty at its end.
    pub(crate) fn chunk(&mut self) -> Result<&[u8]> {
        let (left, at) = (self.body, self.offset);
        if left == 0 {
            return Ok(&[]);
        }
        let bytes = self.stream.fill()?;
        if bytes.is_empty() {
            return Err(fault(at, Fault::Truncated));
        }
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        Ok(&bytes[..count])
    }

    /// Marks `count` bytes of the body as read.
    pub(crate) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.offset += count as u64;
        self.body = self.body.saturating_sub(count as u64);
    }

    /// Reads the stream to its end; returns the digest and number of its bytes.
    pub(crate) fn finish(self) -> Result<(DiffId, u64)> {
        self.stream.finish()
    }

    fn skip_body(&mut self) -> Result<()> {
        self.body = self.body.saturating_add(std::mem::take(&mut self.padding));
        loop {
            let count = self.chunk()?.len();
            if count == 0 {
                return Ok(());
            }
            self.consume(count);
        }
    }

    /// Reads one block; `false` where the stream ends before it.
    fn block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool> {
        let mut filled = 0;
        while filled < BLOCK {
            let bytes = self.stream.fill()?;
            if bytes.is_empty() {
                if filled == 0 {
                    return Ok(false);
                }
                return Err(fault(self.offset, Fault::Truncated));
            }
            let count = bytes.len().min(BLOCK - filled);
            block[filled..filled + count].copy_from_slice(&bytes[..count]);
            self.stream.consume(count);
            self.offset += count as u64;
            filled += count;
        }
        Ok(true)
    }

    /// Reads the body of an extended header.
    fn extension(&mut self, header: &Header<'_>, at: u64) -> Result<Vec<u8>> {
        let size = header.size().map_err(|error| fault(at, error))?;
        if size > HEADER_LIMIT {
            let message = format!("read tar at byte {at}: its extended header has {size} bytes");
            return Err(exceeded("tar-header", HEADER_LIMIT, message));
        }
        let mut bytes = Vec::new();
        self.begin_body(size);
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                self.skip_body()?;
                return Ok(bytes);
            }
            bytes.extend_from_slice(chunk);
            let count = chunk.len();
            self.consume(count);
        }
    }

    fn long_name(&mut self, header: &Header<'_>, at: u64, what: &'static str) -> Result<Vec<u8>> {
        let mut name = self.extension(header, at)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        check_name(&name, what).map_err(|error| fault(at, error))?;
        if name.is_empty() { Err(fault(at, Fault::Empty(what))) } else { Ok(name) }
    }

    fn begin_body(&mut self, size: u64) {
        self.body = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    /// Puts together header, long names and extended headers.
    fn entry(&mut self, header: &Header<'_>, at: u64, entry: &mut Entry) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let limit = self.limits.entries;
            let message = format!("read tar at byte {at}: it has more than {limit} entries");
            return Err(exceeded("entries", limit, message));
        }
        let local = std::mem::take(&mut self.local);
        let long = (self.long_path.take(), self.long_link.take());
        *entry = Entry { offset: at, ..Entry::default() };
        let (stored, layout) = combine(header, &self.global, local, long, entry)
            .map_err(|error| named(at, &entry.path, error))?;
        self.check_size(stored, entry)?;
        self.begin_body(stored);
        match layout {
            Layout::Plain => return Ok(()),
            Layout::Mapped => {}
            Layout::GnuHeader => self.gnu_map(header, entry)?,
            Layout::InBody => self.body_map(entry)?,
        }
        let regions = entry.regions.as_deref().unwrap_or_default();
        let mapped =
            sparse::check(regions, entry.size).map_err(|error| named(at, &entry.path, error))?;
        if mapped != self.body {
            let stored = self.body;
            return Err(named(at, &entry.path, Fault::SparseSize { mapped, stored }));
        }
        Ok(())
    }

    /// Refuses a length that no limit allows, before any of it is written.
    fn check_size(&self, stored: u64, entry: &Entry) -> Result<()> {
        let Limits { file_bytes, layer_bytes, .. } = self.limits;
        let message = |bytes: u64| {
            format!(
                "unpack entry {} at byte {}: it has {bytes} bytes",
                escape(&entry.path),
                entry.offset
            )
        };
        if entry.size > file_bytes {
            return Err(exceeded("file-size", file_bytes, message(entry.size)));
        }
        if self.offset.saturating_add(stored) > layer_bytes {
            return Err(exceeded("layer-size", layer_bytes, message(stored)));
        }
        Ok(())
    }

    /// Reads the sparse map of an old GNU header and of the blocks that continue it.
    fn gnu_map(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<()> {
        let mut regions = Vec::new();
        let mut more = header
            .sparse_map(&mut regions)
            .map_err(|error| named(entry.offset, &entry.path, error))?;
        while more {
            self.check_regions(regions.len(), entry)?;
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(named(self.offset, &entry.path, Fault::Truncated));
            }
            more = header::extension_map(&block, &mut regions)
                .map_err(|error| named(entry.offset, &entry.path, error))?;
        }
        entry.regions = Some(regions);
        Ok(())
    }

    /// Reads the sparse map that begins the body (GNU PAX format 1.0): decimal lines, padded to a
    /// block.
    fn body_map(&mut self, entry: &mut Entry) -> Result<()> {
        let malformed = |entry: &Entry| named(entry.offset, &entry.path, Fault::SparseMap);
        let mut parser = sparse::MapParser::default();
        while !parser.is_complete() {
            if self.body < BLOCK as u64 {
                return Err(malformed(entry));
            }
            let mut block = [0; BLOCK];
            if !self.block(&mut block)? {
                return Err(named(self.offset, &entry.path, Fault::Truncated));
            }
            self.body -= BLOCK as u64;
            parser.feed(&block).map_err(|_| malformed(entry))?;
            self.check_regions(parser.announced(), entry)?;
        }
        entry.regions = Some(parser.into_regions());
        Ok(())
    }

    fn check_regions(&self, count: usize, entry: &Entry) -> Result<()> {
        if count <= sparse::REGION_LIMIT {
            return Ok(());
        }
        let message = format!(
            "unpack entry {} at byte {}: its sparse map has too many regions",
            escape(&entry.path),
            entry.offset
        );
        Err(exceeded("sparse-regions", sparse::REGION_LIMIT as u64, message))
    }
}

/// Where the map of a sparse file is.
enum Layout {
    Plain,
    Mapped,
    GnuHeader,
    InBody,
}

/// Fills `entry`; returns the bytes its body has in the archive, and where its map is.
fn combine(
    header: &Header<'_>,
    global: &Pax,
    local: Pax,
    long: (Option<Vec<u8>>, Option<Vec<u8>>),
    entry: &mut Entry,
) -> Result<(u64, Layout), Fault> {
    if long.0.is_some() && local.path.is_some() {
        return Err(Fault::Twice("name"));
    }
    if long.1.is_some() && local.link.is_some() {
        return Err(Fault::Twice("link name"));
    }
    let sparse = local.sparse;
    entry.path = sparse.name.clone().or(local.path).or(long.0).unwrap_or_else(|| header.path());
    entry.link = local.link.or(long.1).unwrap_or_else(|| header.link());
    if entry.path.is_empty() {
        return Err(Fault::Empty("name"));
    }
    entry.kind = header.kind(&entry.path)?;
    entry.mode = header.mode()?;
    entry.uid = match local.uid.or(global.uid) {
        Some(uid) => uid,
        None => header.uid()?,
    };
    entry.gid = match local.gid.or(global.gid) {
        Some(gid) => gid,
        None => header.gid()?,
    };
    entry.mtime = match local.mtime.or(global.mtime) {
        Some(mtime) => mtime,
        None => Time { seconds: header.mtime()?, nanos: 0 },
    };
    entry.xattrs = local.xattrs;
    if matches!(entry.kind, Kind::Char | Kind::Block) {
        entry.device = header.device()?;
    }
    let stored = match local.size {
        Some(size) => size,
        None => header.size()?,
    };
    if stored > i64::MAX as u64 - BLOCK as u64 {
        return Err(Fault::Range("size"));
    }
    entry.size = stored;
    let gnu = header.type_flag() == b'S';
    if entry.kind != Kind::File {
        if stored != 0 {
            return Err(Fault::Body(stored));
        }
        if sparse.given {
            return Err(Fault::SparseMap);
        }
        return Ok((0, Layout::Plain));
    }
    if gnu {
        if sparse.given {
            return Err(Fault::Twice("sparse map"));
        }
        entry.size = header.real_size()?;
        return Ok((stored, Layout::GnuHeader));
    }
    if !sparse.given {
        return Ok((stored, Layout::Plain));
    }
    let (size, regions) = sparse.resolve()?;
    entry.size = size;
    entry.regions = regions;
    let layout = if entry.regions.is_some() { Layout::Mapped } else { Layout::InBody };
    Ok((stored, layout))
}

fn check_name(name: &[u8], what: &'static str) -> Result<(), Fault> {
    if name.contains(&0) { Err(Fault::Nul(what)) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
