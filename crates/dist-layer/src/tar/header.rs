//! One 512-byte header block.
//!
//! `name[100] mode[8] uid[8] gid[8] size[12] mtime[12] checksum[8] type link[100] magic[8]
//! uname[32] gname[32] major[8] minor[8] prefix[155]`; with GNU's magic the bytes from 386 on are
//! the first four regions of a sparse map, and `real size` at 483.

use super::{BLOCK, Fault, Kind, Region};

pub(crate) struct Header<'a> {
    block: &'a [u8; BLOCK],
}

impl<'a> Header<'a> {
    /// Checks the checksum; both the signed and the unsigned sum count.
    pub(crate) fn new(block: &'a [u8; BLOCK]) -> Result<Self, Fault> {
        let expected = number(&block[148..156], "checksum")?;
        let field = 148..156;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if field.contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if expected != unsigned && expected != signed {
            return Err(Fault::Checksum);
        }
        Ok(Self { block })
    }

    pub(crate) fn type_flag(&self) -> u8 {
        self.block[156]
    }

    /// What the entry is; `path` with a slash at its end makes a file a directory, as v7 wrote it.
    pub(crate) fn kind(&self, path: &[u8]) -> Result<Kind, Fault> {
        Ok(match self.type_flag() {
            0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Dir,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::Link,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            other => return Err(Fault::Type(char::from(other).escape_default().to_string())),
        })
    }

    pub(crate) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = match &self.block[257..263] {
            b"ustar\0" if self.block.ends_with(b"tar\0") => text(&self.block[345..476]),
            b"ustar\0" => text(&self.block[345..500]),
            _ => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(crate) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    /// The permission bits with setuid, setgid and sticky; file type bits are dropped.
    pub(crate) fn mode(&self) -> Result<u32, Fault> {
        let mode = number(&self.block[100..108], "mode")?;
        u32::try_from(mode).map(|mode| mode & 0o7777).map_err(|_| Fault::Range("mode"))
    }

    pub(crate) fn uid(&self) -> Result<u32, Fault> {
        owner(number(&self.block[108..116], "uid")?, "uid")
    }

    pub(crate) fn gid(&self) -> Result<u32, Fault> {
        owner(number(&self.block[116..124], "gid")?, "gid")
    }

    pub(crate) fn size(&self) -> Result<u64, Fault> {
        u64::try_from(number(&self.block[124..136], "size")?).map_err(|_| Fault::Range("size"))
    }

    pub(crate) fn mtime(&self) -> Result<i64, Fault> {
        number(&self.block[136..148], "mtime")
    }

    /// Major and minor number, as far as Linux has them (12 and 20 bits).
    pub(crate) fn device(&self) -> Result<(u32, u32), Fault> {
        let part = |field: &[u8], limit: i64| match number(field, "device number")? {
            value if (0..limit).contains(&value) => {
                u32::try_from(value).map_err(|_| Fault::Range("device number"))
            }
            _ => Err(Fault::Range("device number")),
        };
        Ok((part(&self.block[329..337], 1 << 12)?, part(&self.block[337..345], 1 << 20)?))
    }

    /// A sparse file's length.
    pub(crate) fn real_size(&self) -> Result<u64, Fault> {
        u64::try_from(number(&self.block[483..495], "real size")?)
            .map_err(|_| Fault::Range("real size"))
    }

    /// Appends the regions of a sparse file; `true` where an extension block follows.
    pub(crate) fn sparse_map(&self, regions: &mut Vec<Region>) -> Result<bool, Fault> {
        map(&self.block[386..482], regions)?;
        Ok(self.block[482] != 0)
    }
}

/// Appends the regions of an extension block; `true` where another follows.
pub(crate) fn extension_map(block: &[u8; BLOCK], regions: &mut Vec<Region>) -> Result<bool, Fault> {
    map(&block[..504], regions)?;
    Ok(block[504] != 0)
}

fn map(bytes: &[u8], regions: &mut Vec<Region>) -> Result<(), Fault> {
    for region in bytes.chunks_exact(24) {
        if region[0] == 0 {
            break;
        }
        let part =
            |field| u64::try_from(number(field, "sparse map")?).map_err(|_| Fault::SparseMap);
        regions.push(Region { start: part(&region[..12])?, length: part(&region[12..])? });
    }
    Ok(())
}

/// Checks a user or group ID; 2^32-1 means "leave it" to chown(2) and is none.
pub(crate) fn owner(value: i64, what: &'static str) -> Result<u32, Fault> {
    match u32::try_from(value) {
        Ok(value) if value != u32::MAX => Ok(value),
        _ => Err(Fault::Range(what)),
    }
}

/// The bytes before the first zero byte.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Octal digits, with spaces before and spaces or zero bytes after them; or GNU's base 256, told by
/// the first byte's highest bit. An empty field is 0.
fn number(field: &[u8], what: &'static str) -> Result<i64, Fault> {
    match field.first() {
        Some(0x80) => wide(&field[1..], 0).ok_or(Fault::Range(what)),
        Some(0xff) => wide(&field[1..], -1).ok_or(Fault::Range(what)),
        Some(byte) if byte & 0x80 != 0 => Err(Fault::Range(what)),
        _ => octal(field).ok_or(Fault::Number(what)),
    }
}

fn wide(bytes: &[u8], sign: i128) -> Option<i64> {
    let value = bytes.iter().fold(sign, |value, &byte| value << 8 | i128::from(byte));
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|&byte| byte != b' ').unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(|byte| matches!(byte, 0 | b' ')).unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, 0 | b' ')) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, byte| match byte {
        b'0'..=b'7' => Some(value << 3 | i64::from(byte - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (field, value) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"  644 \0\0", Some(0o644)),
            (b"        ", Some(0)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"12zz\0\0\0\0", None),
            (b"12\x0034\0\0\0", None),
            (b"-1\0\0\0\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            (b"\x81\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field, "x").ok(), value, "{field:?}");
        }
    }

    #[test]
    fn owners() {
        assert_eq!(owner(i64::from(u32::MAX) - 1, "uid").ok(), Some(u32::MAX - 1));
        for value in [-1, i64::from(u32::MAX), 1 << 32] {
            assert!(owner(value, "uid").is_err());
        }
    }
}
