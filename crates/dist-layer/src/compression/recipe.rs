//! How a blob was compressed, where compressing its tar again makes the same bytes.
//!
//! That takes the same program with the same settings. Ours is known; of others only those that
//! compress as the libraries here do. How much is written at a time matters too: most write either
//! all at once or evenly, as [`super::Compressor`] does.

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use dist_core::{Compression, Error, ErrorKind, Result};
use flate2::Crc;

use super::output::EVEN;
use flate2::write::DeflateEncoder;

/// Compressed bytes that are compared.
const SAMPLE: usize = 64 << 10;

/// Bytes of a tar that are compressed for that; the more where the first ones come to nothing yet.
const TRIALS: [usize; 2] = [1 << 20, 8 << 20];

/// The longest header of a gzip member that is noted.
const HEADER: usize = 64;

/// What makes a blob of its tar. [`fmt::Display`] and [`FromStr`] are its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Gzip { level: u32, header: Vec<u8> },
    Zstd { level: i32 },
}

impl Recipe {
    /// The recipe for what is not compressed.
    pub const PLAIN: Self = Self(Kind::Plain);

    /// Finds what makes the beginning of `blob` of that of `tar`: most likely it makes all of it.
    ///
    /// # Errors
    /// Those of the readers.
    pub fn find(
        compression: Compression,
        blob: &mut dyn Read,
        tar: &mut dyn Read,
    ) -> io::Result<Option<Self>> {
        if compression == Compression::None {
            return Ok(Some(Self::PLAIN));
        }
        let mut sample = Vec::new();
        blob.take(SAMPLE as u64).read_to_end(&mut sample)?;
        let kinds: Vec<Kind> = match compression {
            Compression::Zstd => vec![Kind::Zstd { level: zstd::DEFAULT_COMPRESSION_LEVEL }],
            _ => {
                let Some(header) = gzip_header(&sample) else { return Ok(None) };
                let kind = |level| Kind::Gzip { level, header: header.to_vec() };
                [6, 9, 1].map(kind).into()
            }
        };
        let mut trial = Vec::new();
        for size in TRIALS {
            (&mut *tar).take((size - trial.len()) as u64).read_to_end(&mut trial)?;
            let whole = trial.len() < size;
            let mut undecided = false;
            for kind in &kinds {
                match kind.makes(&sample, &trial, whole) {
                    Some(true) => return Ok(Some(Self(kind.clone()))),
                    made => undecided |= made.is_none(),
                }
            }
            if whole || !undecided {
                break;
            }
        }
        Ok(None)
    }

    /// Compresses a tar.
    ///
    /// # Errors
    /// Those of reading and writing.
    pub fn compress(&self, tar: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
        self.0.compress(tar, out)
    }
}

impl Kind {
    fn compress(&self, tar: &mut dyn Read, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Plain => copy(tar, out, |_| ()),
            Self::Gzip { level, header } => {
                out.write_all(header)?;
                let mut crc = Crc::new();
                let mut encoder = DeflateEncoder::new(&mut *out, flate2::Compression::new(*level));
                copy(tar, &mut encoder, |bytes| crc.update(bytes))?;
                encoder.finish()?;
                out.write_all(&crc.sum().to_le_bytes())?;
                out.write_all(&crc.amount().to_le_bytes())
            }
            Self::Zstd { level } => {
                let mut encoder = zstd::stream::write::Encoder::new(out, *level)?;
                copy(tar, &mut encoder, |_| ())?;
                encoder.finish().map(drop)
            }
        }
    }

    /// Whether it makes the beginning of a blob, `sample`, of that of a tar, or of its `whole`;
    /// `None` where nothing is made of it yet.
    fn makes(&self, sample: &[u8], mut tar: &[u8], whole: bool) -> Option<bool> {
        let mut same = Same { expected: sample, at: 0, over: false };
        let made = if whole {
            self.compress(&mut tar, &mut same)
        } else {
            // The end would be another one.
            self.begin(&mut tar, &mut same)
        };
        // That was copied from the blob.
        let header = if let Self::Gzip { header, .. } = self { header.len() } else { 0 };
        match made {
            Ok(()) if same.at == header && !whole => None,
            Ok(()) => Some(true),
            Err(_) => Some(same.at == sample.len()),
        }
    }

    /// As [`Kind::compress`], of a tar that goes on.
    fn begin(&self, tar: &mut dyn Read, out: &mut Same<'_>) -> io::Result<()> {
        match self {
            Self::Plain => copy(tar, out, |_| ()),
            Self::Gzip { level, header } => {
                out.write_all(header)?;
                let level = flate2::Compression::new(*level);
                let mut encoder = DeflateEncoder::new(out, level);
                let made = copy(tar, &mut encoder, |_| ());
                // It writes an end when it is dropped.
                encoder.get_mut().over = true;
                made
            }
            Self::Zstd { level } => {
                copy(tar, &mut zstd::stream::write::Encoder::new(out, *level)?, |_| ())
            }
        }
    }
}

/// Copies in chunks that are whole but for the last.
fn copy(from: &mut dyn Read, to: &mut dyn Write, mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = Vec::with_capacity(EVEN);
    loop {
        chunk.clear();
        (&mut *from).take(EVEN as u64).read_to_end(&mut chunk)?;
        seen(&chunk);
        to.write_all(&chunk)?;
        if chunk.len() < EVEN {
            return Ok(());
        }
    }
}

/// The header of the gzip member that begins a blob, where it says no more than a name (RFC 1952,
/// section 2.3).
fn gzip_header(blob: &[u8]) -> Option<&[u8]> {
    const NAME: u8 = 8;
    let end = match blob.get(..10)? {
        [0x1f, 0x8b, 8, 0, ..] => 10,
        [0x1f, 0x8b, 8, NAME, ..] => 11 + blob[10..].iter().position(|&byte| byte == 0)?,
        _ => return None,
    };
    (end <= HEADER).then_some(&blob[..end])
}

/// Compares what is written, and stops where that is decided.
struct Same<'a> {
    expected: &'a [u8],
    at: usize,
    /// Whether what is still written means nothing.
    over: bool,
}

impl Write for Same<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.over {
            return Ok(bytes.len());
        }
        let rest = &self.expected[self.at..];
        let count = rest.len().min(bytes.len());
        if rest[..count] != bytes[..count] {
            self.at = 0;
            self.expected = &[];
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.at += count;
        if count < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Plain => f.write_str("tar"),
            Kind::Zstd { level } => write!(f, "zstd-{level}"),
            Kind::Gzip { level, header } => {
                write!(f, "gzip-{level}-")?;
                header.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

impl FromStr for Recipe {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let mut parts = text.split('-');
            let name = parts.next()?;
            let kind = match (name, parts.next(), parts.next(), parts.next()) {
                ("tar", None, ..) => Kind::Plain,
                ("zstd", Some(level), None, None) => Kind::Zstd { level: level.parse().ok()? },
                ("gzip", Some(level), Some(hex), None) => {
                    let digits = hex.as_bytes().chunks(2);
                    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
                    let header = digits.map(byte).collect::<Option<Vec<u8>>>()?;
                    let level = level.parse().ok().filter(|level| (1..=9).contains(level))?;
                    Kind::Gzip { level, header }
                }
                _ => return None,
            };
            Some(Self(kind))
        };
        parse().ok_or_else(|| {
            let message = format!("read how a layer is compressed: {text:?} is not known");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use dist_core::Digest;
    use flate2::GzBuilder;

    use super::*;
    use crate::Compressor;

    fn tar(blocks: u32) -> Vec<u8> {
        (0..blocks * 128).flat_map(|n| (n.wrapping_mul(n) >> 7).to_le_bytes()).collect()
    }

    fn find(compression: Compression, blob: &[u8], tar: &[u8]) -> Option<Recipe> {
        Recipe::find(compression, &mut &blob[..], &mut &tar[..]).unwrap()
    }

    #[test]
    fn what_this_program_compressed_is_made_again() {
        for blocks in [1, 100, 20_000] {
            let tar = tar(blocks);
            for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
                let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
                tar.chunks(1 + blocks as usize * 77)
                    .for_each(|it| compressor.write_all(it).unwrap());
                let blob = compressor.finish().unwrap();
                let recipe = find(compression, &blob, &tar).unwrap();
                let recipe: Recipe = recipe.to_string().parse().unwrap();
                let mut again = Vec::new();
                recipe.compress(&mut &tar[..], &mut again).unwrap();
                assert_eq!(Digest::sha256(&again), Digest::sha256(&blob), "{blocks} {recipe}");
            }
        }
    }

    #[test]
    fn what_compresses_well_is_found() {
        for different in [97, 977] {
            let mut tar = Vec::new();
            let line = |n| format!("line {} of a file like others\n", n % different);
            (0..200_000).for_each(|n| tar.extend_from_slice(line(n).as_bytes()));
            for level in [1, 6, 9] {
                let kind = Kind::Gzip { level, header: vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255] };
                let (mut first, mut blob, mut again) = (Vec::new(), Vec::new(), Vec::new());
                kind.compress(&mut &tar[..TRIALS[0]], &mut first).unwrap();
                assert!(first.len() < SAMPLE, "{}", first.len());
                kind.compress(&mut &tar[..], &mut blob).unwrap();
                // Two levels may make the same of it.
                let recipe = find(Compression::Gzip, &blob, &tar).unwrap();
                recipe.compress(&mut &tar[..], &mut again).unwrap();
                assert!(again == blob, "{different} {level} {recipe}");
            }
        }
    }

    #[test]
    fn levels_and_names_are_found() {
        let tar = tar(400);
        for level in [1, 6, 9] {
            let mut encoder = GzBuilder::new()
                .filename("layer.tar")
                .mtime(1_700_000_000)
                .write(Vec::new(), flate2::Compression::new(level));
            encoder.write_all(&tar).unwrap();
            let blob = encoder.finish().unwrap();
            let recipe = find(Compression::Gzip, &blob, &tar).unwrap();
            let mut again = Vec::new();
            recipe.compress(&mut &tar[..], &mut again).unwrap();
            assert_eq!(Digest::sha256(&again), Digest::sha256(&blob), "{recipe}");
        }
    }

    #[test]
    fn what_others_compressed_is_not_claimed() {
        let tar = tar(3000);
        let stored = {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
            encoder.write_all(&tar).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(find(Compression::Gzip, &stored, &tar), None);
        for blob in [&b""[..], &stored[..5], &[0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0, 1, 0, 1]] {
            assert_eq!(find(Compression::Gzip, blob, &tar), None);
        }
        let zstd = zstd::stream::encode_all(&tar[..], 1).unwrap();
        assert_eq!(find(Compression::Zstd, &zstd, &tar), None);
    }

    #[test]
    fn other_texts_are_no_recipes() {
        for text in ["", "tar-1", "gzip", "gzip-6", "gzip-0-1f", "gzip-6-xx", "zstd", "fetch"] {
            assert!(text.parse::<Recipe>().is_err(), "{text}");
        }
    }
}
