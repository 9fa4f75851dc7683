//! Writes a tar: POSIX ustar headers (IEEE 1003.1-2008, "pax Interchange Format"), with an extended
//! header before an entry that does not fit one.
//!
//! Nothing but the entries themselves goes in: no time of access or change, no names of users. So
//! the same entries in the same order are the same bytes.

use std::io::Write;

use dist_core::{Context, DiffId, Error, ErrorKind, Hasher, Result};

use super::node::Node;
use crate::name::{escape, split};
use crate::tar::Time;

/// Bytes of a header, and of what all else is filled up to.
pub(super) const BLOCK: usize = 512;
/// Bytes of a name in a header.
pub(super) const NAME: usize = 100;
/// The largest value of seven octal digits.
const SMALL: u64 = 0o7_777_777;
/// The largest value of eleven octal digits.
const LARGE: u64 = 0o77_777_777_777;

/// A tar in the making.
pub(super) struct Archive<'a> {
    out: &'a mut dyn Write,
    hasher: Hasher,
    size: u64,
    clamp: Option<i64>,
}

/// What an entry is, beside its attributes.
pub(super) enum What<'a> {
    /// A file of so many bytes, which are written next.
    File(u64),
    /// Another name for an entry above.
    Link(&'a [u8]),
    Symlink(&'a [u8]),
    Directory,
    Char,
    Block,
    Fifo,
}

impl What<'_> {
    fn flag(&self) -> u8 {
        match self {
            Self::File(_) => b'0',
            Self::Link(_) => b'1',
            Self::Symlink(_) => b'2',
            Self::Char => b'3',
            Self::Block => b'4',
            Self::Directory => b'5',
            Self::Fifo => b'6',
        }
    }
}

impl<'a> Archive<'a> {
    /// Begins one; later times than `clamp` (seconds since the epoch) become that.
    pub(super) fn new(out: &'a mut dyn Write, clamp: Option<i64>) -> Self {
        Self { out, hasher: Hasher::sha256(), size: 0, clamp }
    }

    /// Writes the header of an entry; `path` of a directory ends in a slash.
    pub(super) fn entry(&mut self, path: &[u8], what: &What<'_>, node: &Node) -> Result<()> {
        let link = match what {
            What::Link(target) | What::Symlink(target) => target,
            _ => &[][..],
        };
        let size = if let What::File(size) = what { *size } else { 0 };
        let mtime = self.clamped(node.mtime());
        let mut records = Records::default();
        if path.len() > NAME {
            records.add(b"path", path);
        }
        if link.len() > NAME {
            records.add(b"linkpath", link);
        }
        for (key, value, limit) in [
            (&b"size"[..], size, LARGE),
            (b"uid", node.stat.st_uid.into(), SMALL),
            (b"gid", node.stat.st_gid.into(), SMALL),
        ] {
            if value > limit {
                records.add(key, value.to_string().as_bytes());
            }
        }
        let seconds = u64::try_from(mtime.seconds).unwrap_or(0).min(LARGE);
        if mtime.nanos != 0 || i64::try_from(seconds) != Ok(mtime.seconds) {
            records.add(b"mtime", decimal(mtime).as_bytes());
        }
        if !matches!(what, What::Link(_)) {
            for (key, value) in &node.xattrs {
                records.add(&[b"SCHILY.xattr.", &key[..]].concat(), value);
            }
        }
        if !records.0.is_empty() {
            self.extended(path, &records.0)?;
        }
        let mut header = Header::new(path, what.flag());
        header.octal(100, 8, (node.stat.st_mode & 0o7777).into());
        header.octal(108, 8, node.stat.st_uid.into());
        header.octal(116, 8, node.stat.st_gid.into());
        header.octal(124, 12, size);
        header.octal(136, 12, seconds);
        header.text(157, link);
        if matches!(what, What::Char | What::Block) {
            header.octal(329, 8, rustix::fs::major(node.stat.st_rdev).into());
            header.octal(337, 8, rustix::fs::minor(node.stat.st_rdev).into());
        }
        self.write(&header.finish())
    }

    /// Writes an empty file with neither owner nor attributes.
    pub(super) fn marker(&mut self, path: &[u8]) -> Result<()> {
        let mut records = Records::default();
        if path.len() > NAME {
            records.add(b"path", path);
            self.extended(path, &records.0)?;
        }
        let mut header = Header::new(path, b'0');
        header.octal(100, 8, 0);
        header.octal(136, 12, self.clamp.and_then(|time| u64::try_from(time).ok()).unwrap_or(0));
        self.write(&header.finish())
    }

    /// Writes a part of a file's bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes).context(ErrorKind::Storage, || "write layer".into())
    }

    /// Fills the last block of a file of `size` bytes.
    pub(super) fn pad(&mut self, size: u64) -> Result<()> {
        let used = usize::try_from(size % BLOCK as u64).unwrap_or(0);
        if used == 0 { Ok(()) } else { self.write(&[0; BLOCK][used..]) }
    }

    /// Writes the end mark.
    pub(super) fn finish(mut self) -> Result<(DiffId, u64)> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().context(ErrorKind::Storage, || "write layer".into())?;
        Ok((DiffId(self.hasher.finish()), self.size))
    }

    fn clamped(&self, time: Time) -> Time {
        match self.clamp {
            Some(clamp) if time.seconds >= clamp => Time { seconds: clamp, nanos: 0 },
            _ => time,
        }
    }

    fn extended(&mut self, path: &[u8], records: &[u8]) -> Result<()> {
        let (_, base) = split(path.strip_suffix(b"/").unwrap_or(path));
        let mut header = Header::new(&[b"PaxHeaders.0/", base].concat(), b'x');
        header.octal(100, 8, 0o644);
        let length = records.len() as u64;
        if length > LARGE {
            let message = format!("write entry {}: its attributes are too long", escape(path));
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        header.octal(124, 12, length);
        self.write(&header.finish())?;
        self.write(records)?;
        self.pad(length)
    }
}

struct Header([u8; BLOCK]);

impl Header {
    /// A header with nothing but a name, cut where it is too long, and zeros.
    fn new(name: &[u8], flag: u8) -> Self {
        let mut header = Self([0; BLOCK]);
        header.text(0, name);
        for (at, length) in [(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (329, 8), (337, 8)]
        {
            header.octal(at, length, 0);
        }
        header.0[156] = flag;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, text: &[u8]) {
        let length = text.len().min(NAME);
        self.0[at..at + length].copy_from_slice(&text[..length]);
    }

    /// Writes a number; zero where it does not fit and an extended header has it.
    fn octal(&mut self, at: usize, length: usize, value: u64) {
        let digits = length - 1;
        let text = format!("{value:0digits$o}");
        let text = if text.len() > digits { format!("{:0digits$o}", 0) } else { text };
        self.0[at..at + digits].copy_from_slice(text.as_bytes());
    }

    fn finish(mut self) -> [u8; BLOCK] {
        self.0[148..156].fill(b' ');
        let sum: u32 = self.0.iter().map(|&byte| u32::from(byte)).sum();
        self.0[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.0
    }
}

/// The records of an extended header.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3; // the space, the equals sign, the newline
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        for part in [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

/// Seconds as a decimal fraction, exact and without zeros at its end.
fn decimal(time: Time) -> String {
    let (seconds, nanos) = (i128::from(time.seconds), i128::from(time.nanos));
    let total = seconds * 1_000_000_000 + nanos;
    let sign = if total < 0 { "-" } else { "" };
    let (whole, fraction) = (total.abs() / 1_000_000_000, total.abs() % 1_000_000_000);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    format!("{sign}{whole}.{fraction:09}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_exact() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (12, 500_000_000, "12.5"),
            (1, 1, "1.000000001"),
            (-1, 0, "-1"),
            (-2, 750_000_000, "-1.25"),
            (-1, 999_999_999, "-0.000000001"),
        ] {
            assert_eq!(decimal(Time { seconds, nanos }), text);
        }
    }

    #[test]
    fn records_count_themselves() {
        for length in [1, 80, 85, 86, 90, 980, 988, 989, 1000] {
            let mut records = Records::default();
            records.add(b"key", &vec![b'x'; length]);
            let text = String::from_utf8(records.0).unwrap();
            let (count, _) = text.split_once(' ').unwrap();
            assert_eq!(count.parse::<usize>().unwrap(), text.len());
        }
    }
}
