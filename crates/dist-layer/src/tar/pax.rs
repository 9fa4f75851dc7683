//! PAX extended headers: records `LENGTH KEY=VALUE\n`, the length in decimal and counting itself.
//!
//! POSIX.1-2001, "pax Extended Header". Of two records with one key the later one counts, an empty
//! value takes an earlier one back. Keys that say nothing about the file made here (`atime`,
//! `comment`, user and group names) are ignored.

use super::sparse::Sparse;
use super::{Fault, Time, check_name, header};

/// Extended attributes that one entry may have.
const XATTR_LIMIT: usize = 4096;

/// What extended headers say about an entry.
#[derive(Debug, Default)]
pub(crate) struct Pax {
    /// Whether there was a header at all.
    pub(crate) given: bool,
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Sparse,
}

impl Pax {
    /// Reads all records of one extended header.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        let mut count = 0;
        while !bytes.is_empty() {
            count += 1;
            let (key, value, rest) = record(bytes).ok_or(Fault::Record(count))?;
            self.set(key, value).map_err(|error| match error {
                Fault::Number("record") => Fault::Record(count),
                other => other,
            })?;
            bytes = rest;
        }
        Ok(())
    }

    /// Refuses what cannot hold for every entry that follows.
    pub(crate) fn check_global(&self) -> Result<(), Fault> {
        for (given, what) in [
            (self.path.is_some(), "path"),
            (self.link.is_some(), "linkpath"),
            (self.size.is_some(), "size"),
            (!self.xattrs.is_empty(), "extended attributes"),
            (self.sparse.given, "a sparse map"),
        ] {
            if given {
                return Err(Fault::Global(what));
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        let id = |what| {
            optional(value, |value| {
                let value = decimal(value).and_then(|value| i64::try_from(value).ok());
                header::owner(value.ok_or(Fault::Number(what))?, what)
            })
        };
        match key {
            b"path" => self.path = optional(value, |value| name(value, "path"))?,
            b"linkpath" => self.link = optional(value, |value| name(value, "linkpath"))?,
            b"size" => {
                self.size = optional(value, |value| decimal(value).ok_or(Fault::Number("size")))?;
            }
            b"uid" => self.uid = id("uid")?,
            b"gid" => self.gid = id("gid")?,
            b"mtime" => {
                self.mtime = optional(value, |value| time(value).ok_or(Fault::Number("mtime")))?;
            }
            _ => {
                if let Some(key) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(key.to_vec(), value.to_vec())?;
                } else if let Some(key) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let key = url_decode(key).ok_or(Fault::Number("record"))?;
                    self.set_xattr(key, base64(value).ok_or(Fault::Number("record"))?)?;
                } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(key, value)?;
                } else if key == b"SCHILY.realsize" {
                    return Err(Fault::SparseMap);
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), Fault> {
        check_name(&key, "name of an extended attribute")?;
        if key.is_empty() {
            return Err(Fault::Empty("name of an extended attribute"));
        }
        let full = self.xattrs.len() == XATTR_LIMIT;
        match self.xattrs.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None if full => return Err(Fault::Range("number of extended attributes")),
            None => self.xattrs.push((key, value)),
        }
        Ok(())
    }
}

/// Splits the first record off.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    if equals == 0 {
        return None;
    }
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn optional<T>(
    value: &[u8],
    read: impl FnOnce(&[u8]) -> Result<T, Fault>,
) -> Result<Option<T>, Fault> {
    if value.is_empty() { Ok(None) } else { read(value).map(Some) }
}

pub(crate) fn name(value: &[u8], what: &'static str) -> Result<Vec<u8>, Fault> {
    check_name(value, what)?;
    Ok(value.to_vec())
}

/// Decimal digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |value, byte| match byte {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(byte - b'0')),
        _ => None,
    })
}

/// Seconds, perhaps negative, with a fraction of any length; what is below a nanosecond is cut off
/// towards the past.
fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b"0"[..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if fraction.is_empty() || !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + u32::from(fraction.get(at).map_or(0, |digit| digit - b'0'));
    }
    let below = fraction.iter().skip(9).any(|&digit| digit != b'0');
    if !negative {
        return Some(Time { seconds, nanos });
    }
    nanos += u32::from(below);
    if nanos == 0 {
        return Some(Time { seconds: -seconds, nanos });
    }
    Some(Time { seconds: (-seconds).checked_sub(1)?, nanos: 1_000_000_000 - nanos })
}

fn url_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        let value = digit(bytes.next()?)? << 4 | digit(bytes.next()?)?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

/// Base 64 with or without the `=` at its end.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let end = text.iter().rposition(|&byte| byte != b'=').map_or(0, |last| last + 1);
    if text.len() - end > 2 {
        return None;
    }
    let text = &text[..end];
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for group in text.chunks(4) {
        let mut bits = 0u32;
        for &byte in group {
            let value = match byte {
                b'A'..=b'Z' => byte - b'A',
                b'a'..=b'z' => byte - b'a' + 26,
                b'0'..=b'9' => byte - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        let missing = 4 - group.len();
        if missing == 3 {
            return None;
        }
        bits <<= 6 * missing;
        decoded.extend_from_slice(&bits.to_be_bytes()[1..4 - missing]);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_records() {
        for bytes in [
            &b"100 path=x\n"[..],
            b"0 path=x\n",
            b"-5 path=x\n",
            b"99999999999999999999 path=x\n",
            b"10 path=xx",
            b"10 pathxx\n",
            b"abc path=x\n",
            b" 9 path=x\n",
            b"9 =xxxx\n\n",
            b"11 path=x\n",
            b"1 \n",
            b"2 ",
        ] {
            assert!(Pax::default().read(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn records() {
        let mut pax = Pax::default();
        pax.read(b"5 a=\n9 path=x\n9 path=y\n11 size=12\n8 uid=7\n8 gid=8\n7 gid=\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"y"[..]));
        assert_eq!((pax.size, pax.uid, pax.gid), (Some(12), Some(7), None));
        assert!(pax.check_global().is_err());
        pax = Pax::default();
        pax.read(b"11 path=x\n\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"x\n"[..]));
    }

    #[test]
    fn times() {
        for (text, value) in [
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1.5", Some((1, 500_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("-1", Some((-1, 0))),
            ("-0.0000000001", Some((-1, 999_999_999))),
            ("1.0000000019", Some((1, 1))),
            ("nan", None),
            ("inf", None),
            ("1e400", None),
            ("99999999999999999999.5", None),
            ("-", None),
            ("1.2.3", None),
            ("1.", None),
            ("+1", None),
            (" 1", None),
        ] {
            let got = time(text.as_bytes()).map(|time| (time.seconds, time.nanos));
            assert_eq!(got, value, "{text}");
        }
    }

    #[test]
    fn encodings() {
        for (text, value) in [
            ("", Some(&b""[..])),
            ("YQ", Some(b"a")),
            ("YQ==", Some(b"a")),
            ("YWI=", Some(b"ab")),
            ("YWJj", Some(b"abc")),
            ("YWJjZA", Some(b"abcd")),
            ("!!!!", None),
            ("Y", None),
            ("Y===", None),
        ] {
            assert_eq!(base64(text.as_bytes()).as_deref(), value, "{text}");
        }
        assert_eq!(url_decode(b"user.a%20b%3d").as_deref(), Some(&b"user.a b="[..]));
        assert!(url_decode(b"%2").is_none() && url_decode(b"%xx").is_none());
    }
}
