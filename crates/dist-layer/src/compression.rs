//! Compressed layers as their bytes.
//!
//! What a layer is compressed with is told by its first bytes and must be what its media type
//! says: gzip `1f 8b`, zstd `28 b5 2f fd` (or a skippable frame `5? 2a 4d 18`), else a plain tar.
//! Every byte of the input belongs to a gzip member or zstd frame; anything after the last one is
//! an error.

mod ahead;
mod gzip;
mod inflate;
mod input;
mod output;
mod recipe;
mod ring;
mod stretches;
mod zstd;

use std::io::{self, Read};
use std::sync::Arc;

use dist_core::{
    Compression, DiffId, Digest, Error, ErrorKind, Hasher, MediaType, Result, Stage, enter,
};

use self::gzip::Gzip;
use self::input::Input;
pub use self::output::Compressor;
pub use self::recipe::Recipe;
pub(crate) use self::ring::inflating;
use self::stretches::{Cutter, Start};
use self::zstd::Zstd;
use crate::limits::exceeded;
use crate::{Cores, Limits};

/// Bytes inflated at a time: small enough to stay in the second-level cache until they are hashed
/// and written.
const CHUNK: usize = 256 << 10;

/// Reads the uncompressed bytes of a layer.
///
/// The reader's errors carry a [`dist_core::Error`]; it ends only where `input` does.
///
/// # Errors
/// `Unsupported` where `media_type` is no layer or the compression is not handled; `Corrupt` where
/// the bytes are not what the media type says; the kind that `input` failed with.
pub fn decompress(media_type: &MediaType, input: impl Read, limits: Limits) -> Result<impl Read> {
    Stream::new(media_type, input, limits)
}

/// Tells a layer's compression by its first bytes; six are enough.
///
/// # Errors
/// `Unsupported` for a compression that is known and not handled.
pub fn detect(start: &[u8]) -> Result<Compression> {
    let unsupported = |name: &str| {
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("read layer: {name} compression is not supported (gzip and zstd are)"),
        ))
    };
    match start {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz"),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => unsupported("bzip2"),
        [0x04, 0x22, 0x4d, 0x18, ..] => unsupported("lz4"),
        [0x5d, 0, 0, ..] => unsupported("lzma"),
        _ => Ok(Compression::None),
    }
}

/// Uncompressed bytes of a layer; another thread may be hashing them.
pub(crate) type Chunk = Arc<Box<[u8]>>;

/// Makes a layer's uncompressed bytes, a chunk at a time.
pub(crate) trait Chunks {
    /// Puts the next bytes at the start of `chunk`, or exchanges it for one of the same size that
    /// has them. Returns how many they are: fewer than the size at the end only.
    fn next(&mut self, chunk: &mut Chunk) -> Result<usize>;

    /// The digest of all of them, once the last one is made.
    fn digest(&mut self) -> Result<Digest>;

    /// Whether the last chunk had been made, by another thread, before it was asked for.
    fn is_behind(&self) -> bool {
        false
    }
}

/// Inflates and hashes on the thread that asks.
pub(crate) struct Inflater<R> {
    input: Input<R>,
    codec: Codec,
    produced: u64,
    limits: Limits,
    hasher: Hasher,
}

enum Codec {
    Plain,
    Gzip(Box<Gzip>),
    Zstd(Zstd),
}

impl<R: Read> Inflater<R> {
    pub(crate) fn new(media_type: &MediaType, input: R, limits: Limits) -> Result<Self> {
        let Some(declared) = media_type.layer_compression() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "read layer: its media type {} is not one of a layer",
                    media_type.as_str().escape_debug()
                ),
            ));
        };
        let mut input = Input::new(input);
        let start = input.peek(6)?;
        if start.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "read layer: it has no bytes"));
        }
        let found = detect(start)?;
        if found != declared {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("read layer: its media type says {declared}, its first bytes say {found}"),
            ));
        }
        Self::of_kind(found, input, limits)
    }

    /// Reads an archive that has no media type: its first bytes say all.
    pub(crate) fn of_archive(input: R, limits: Limits) -> Result<Self> {
        let mut input = Input::new(input);
        let start = input.peek(6)?;
        if start.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "read archive: it has no bytes"));
        }
        let found = detect(start)?;
        Self::of_kind(found, input, limits)
    }

    fn of_kind(found: Compression, input: Input<R>, limits: Limits) -> Result<Self> {
        let codec = match found {
            Compression::None => Codec::Plain,
            Compression::Gzip => Codec::Gzip(Box::default()),
            Compression::Zstd => Codec::Zstd(Zstd::new(limits.zstd_window)?),
        };
        Ok(Self { input, codec, produced: 0, limits, hasher: Hasher::sha256() })
    }

    fn check(&self) -> Result<()> {
        let Limits { layer_bytes, ratio_floor, ratio, .. } = self.limits;
        if self.produced > layer_bytes {
            let message = format!("read layer: it expands to more than {layer_bytes} bytes");
            return Err(exceeded("layer-size", layer_bytes, message));
        }
        let allowed = ratio_floor.saturating_add(self.input.taken().saturating_mul(ratio));
        if self.produced > allowed {
            let message = format!(
                "read layer: {} compressed bytes expand to more than {allowed}",
                self.input.taken()
            );
            return Err(exceeded("layer-ratio", ratio, message));
        }
        Ok(())
    }
}

impl<R: Read> Inflater<R> {
    /// Gives the hasher to whoever hashes instead.
    fn give_hasher(&mut self) -> Hasher {
        std::mem::replace(&mut self.hasher, Hasher::sha256())
    }

    /// Lets others inflate ahead what is read from here on, where that can be done and there are
    /// cores for it: `start` starts them.
    fn share<S: Start>(&mut self, cores: &Cores, start: S) -> Option<Cutter<S>> {
        let Codec::Gzip(gzip) = &mut self.codec else { return None };
        if !cores.may_help() {
            return None;
        }
        let (cutter, guesses) = stretches::pair(self.input.taken(), start);
        gzip.use_guesses(guesses);
        Some(cutter)
    }

    /// Goes on with another reader of the same bytes; gives the one that it had.
    fn exchange_reader<S>(self, reader: S) -> (Inflater<S>, R) {
        let Self { input, codec, produced, limits, hasher } = self;
        let (input, old) = input.exchange_reader(reader);
        (Inflater { input, codec, produced, limits, hasher }, old)
    }

    /// Makes the next bytes and leaves them unhashed.
    fn make(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let _inflate = enter(Stage::Inflate);
        let made = match &mut self.codec {
            Codec::Plain => self.input.copy(buffer)?,
            Codec::Gzip(gzip) => gzip.decode(&mut self.input, buffer)?,
            Codec::Zstd(zstd) => zstd.decode(&mut self.input, buffer)?,
        };
        self.produced = self.produced.saturating_add(made as u64);
        self.check()?;
        Ok(made)
    }
}

impl<R: Read> Chunks for Inflater<R> {
    fn next(&mut self, chunk: &mut Chunk) -> Result<usize> {
        let bytes: &mut Box<[u8]> = Arc::make_mut(chunk);
        let made = self.make(bytes)?;
        let _hash = enter(Stage::Hash);
        self.hasher.update(&chunk[..made]);
        Ok(made)
    }

    fn digest(&mut self) -> Result<Digest> {
        Ok(self.hasher.clone().finish())
    }
}

/// A layer's uncompressed bytes, counted as they are used.
pub(crate) struct Stream<C> {
    chunks: C,
    chunk: Chunk,
    start: usize,
    end: usize,
    produced: u64,
    finished: bool,
}

impl<R: Read> Stream<Inflater<R>> {
    pub(crate) fn new(media_type: &MediaType, input: R, limits: Limits) -> Result<Self> {
        Inflater::new(media_type, input, limits).map(Self::over)
    }
}

impl<C: Chunks> Stream<C> {
    pub(crate) fn over(chunks: C) -> Self {
        Self { chunks, chunk: chunk(), start: 0, end: 0, produced: 0, finished: false }
    }

    /// Whether chunks are made faster than they are used.
    pub(crate) fn is_behind(&self) -> bool {
        self.chunks.is_behind()
    }

    /// Bytes that are made and not consumed; makes more where there are none. Empty at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        if self.start == self.end && !self.finished {
            let made = self.chunks.next(&mut self.chunk)?;
            self.finished = made < self.chunk.len();
            (self.start, self.end) = (0, made);
            self.produced = self.produced.saturating_add(made as u64);
        }
        Ok(&self.chunk[self.start..self.end])
    }

    /// Marks `bytes` of what [`Stream::fill`] returned as used.
    pub(crate) fn consume(&mut self, bytes: usize) {
        self.start = self.end.min(self.start + bytes);
    }

    /// Reads to the end; returns the digest and number of all uncompressed bytes.
    pub(crate) fn finish(mut self) -> Result<(DiffId, u64)> {
        loop {
            let left = self.fill()?.len();
            if left == 0 {
                return Ok((DiffId(self.chunks.digest()?), self.produced));
            }
            self.consume(left);
        }
    }
}

impl<C: Chunks> Read for Stream<C> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill().map_err(Error::into_io)?;
        let count = bytes.len().min(out.len());
        out[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

fn chunk() -> Chunk {
    Arc::new(vec![0; CHUNK].into_boxed_slice())
}

#[cfg(test)]
mod tests;
