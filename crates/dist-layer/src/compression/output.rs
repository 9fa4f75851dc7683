//! Layers as compressed bytes, the same for the same input.
//!
//! Neither format is given a name or a time, and no threads divide the input.

use std::io::{self, Write};

use dist_core::{Compression, Context, ErrorKind, Result};

/// Compresses what is written to it.
///
/// The bytes that come out depend on those that go in and on this program's version, on nothing
/// else, nor on how many are written at a time. [`Compressor::finish`] has to be called; what was not finished can't be read back whole.
pub struct Compressor<W: Write>(Format<W>);

enum Format<W: Write> {
    Plain(W),
    Gzip(Even<flate2::write::GzEncoder<W>>),
    Zstd(Even<zstd::stream::write::Encoder<'static, W>>),
}

/// Bytes that an encoder gets at a time: some make other bytes of other portions.
pub(super) const EVEN: usize = 256 << 10;

/// Hands on in portions of [`EVEN`] bytes.
struct Even<E> {
    encoder: E,
    waiting: Vec<u8>,
}

impl<E: Write> Even<E> {
    fn new(encoder: E) -> Self {
        Self { encoder, waiting: Vec::with_capacity(EVEN) }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.len() == EVEN {
            self.encoder.write_all(&self.waiting)?;
            self.waiting.clear();
        }
        let count = bytes.len().min(EVEN - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    /// The encoder, which has got all.
    fn finish(mut self) -> io::Result<E> {
        self.encoder.write_all(&self.waiting)?;
        Ok(self.encoder)
    }
}

impl<W: Write> Compressor<W> {
    /// Makes one that writes to `out`.
    ///
    /// # Errors
    /// `Internal` where the compressor can't be made.
    pub fn new(compression: Compression, out: W) -> Result<Self> {
        Ok(Self(match compression {
            Compression::None => Format::Plain(out),
            Compression::Gzip => {
                let level = flate2::Compression::default();
                Format::Gzip(Even::new(flate2::write::GzEncoder::new(out, level)))
            }
            Compression::Zstd => {
                let encoder =
                    zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL);
                let what = || "make zstd encoder".into();
                Format::Zstd(Even::new(encoder.context(ErrorKind::Internal, what)?))
            }
        }))
    }

    /// Writes the end of the compressed bytes and gives the writer back.
    ///
    /// # Errors
    /// The kind that the writer failed with, else `Storage`.
    pub fn finish(self) -> Result<W> {
        let out = match self.0 {
            Format::Plain(out) => Ok(out),
            Format::Gzip(even) => even.finish().and_then(|encoder| encoder.finish()),
            Format::Zstd(even) => even.finish().and_then(|encoder| encoder.finish()),
        };
        out.context(ErrorKind::Storage, || "write the end of the layer".into())
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Format::Plain(out) => out.write(bytes),
            Format::Gzip(even) => even.write(bytes),
            Format::Zstd(even) => even.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Format::Plain(out) => out.flush(),
            // An early flush would make other bytes; the end flushes.
            Format::Gzip(_) | Format::Zstd(_) => Ok(()),
        }
    }
}
