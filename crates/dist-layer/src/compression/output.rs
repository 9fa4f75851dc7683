//! Layers as compressed bytes, the same for the same input.
//!
//! Neither format is given a name or a time, and no threads divide the input.

use std::io::{self, Write};

use dist_core::{Compression, Context, ErrorKind, Result};

/// Compresses what is written to it.
///
/// The bytes that come out depend on those that go in and on this program's version, on nothing
/// else. [`Compressor::finish`] has to be called; what was not finished can't be read back whole.
pub struct Compressor<W: Write>(Format<W>);

enum Format<W: Write> {
    Plain(W),
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
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
                Format::Gzip(flate2::write::GzEncoder::new(out, flate2::Compression::default()))
            }
            Compression::Zstd => {
                let encoder =
                    zstd::stream::write::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL);
                Format::Zstd(encoder.context(ErrorKind::Internal, || "make zstd encoder".into())?)
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
            Format::Gzip(encoder) => encoder.finish(),
            Format::Zstd(encoder) => encoder.finish(),
        };
        out.context(ErrorKind::Storage, || "write the end of the layer".into())
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Format::Plain(out) => out.write(bytes),
            Format::Gzip(encoder) => encoder.write(bytes),
            Format::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.0 {
            Format::Plain(out) => out.flush(),
            Format::Gzip(encoder) => encoder.flush(),
            Format::Zstd(encoder) => encoder.flush(),
        }
    }
}
