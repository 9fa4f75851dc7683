//! POSIX ACLs as extended attributes: version 2 in four bytes, then tag, permissions and id of each
//! entry (`include/uapi/linux/posix_acl_xattr.h`), all little-endian.

pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;

const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;

/// The id of an entry that is of nobody in particular, and what is no id otherwise.
const NO_ID: u32 = u32::MAX;

/// An ACL that Linux takes; without entries where it takes one away.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    id: u32,
}

impl Acl {
    /// Reads one; `None` for what Linux refuses.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        if value.is_empty() {
            return Some(Self(Vec::new()));
        }
        let (version, rest) = value.split_first_chunk()?;
        let (entries, []) = rest.as_chunks::<8>() else { return None };
        let entry = |bytes: &[u8; 8]| {
            let [a, b, c, d, id @ ..] = *bytes;
            let (tag, permissions) = (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]));
            Entry { tag, permissions, id: u32::from_le_bytes(id) }
        };
        let acl = Self(entries.iter().map(entry).collect());
        (u32::from_le_bytes(*version) == VERSION && acl.is_valid()).then_some(acl)
    }

    /// Whether it has all that it must, in order.
    fn is_valid(&self) -> bool {
        // What may come next, and whether somebody is named.
        let (mut next, mut named) = (USER_OBJ, false);
        for Entry { tag, permissions, id } in &self.0 {
            next = match (*tag, next) {
                (USER_OBJ, USER_OBJ) => USER,
                (USER, USER) | (GROUP, GROUP) if *id != NO_ID => {
                    named = true;
                    *tag
                }
                (GROUP_OBJ, USER) => GROUP,
                (MASK, GROUP) => OTHER,
                (OTHER, OTHER) => 0,
                (OTHER, GROUP) if !named => 0,
                _ => return false,
            };
            if *permissions > 7 {
                return false;
            }
        }
        self.0.is_empty() || next == 0
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether it says more than a mode can.
    pub(crate) fn says_more(&self) -> bool {
        self.0.iter().any(|entry| matches!(entry.tag, USER | GROUP | MASK))
    }

    /// Gives it a mode's permissions, as `chmod` does.
    pub(crate) fn set_mode(&mut self, mode: u32) {
        let masked = self.0.iter().any(|entry| entry.tag == MASK);
        for entry in &mut self.0 {
            let shift = match entry.tag {
                USER_OBJ => 6,
                MASK => 3,
                GROUP_OBJ if !masked => 3,
                OTHER => 0,
                _ => continue,
            };
            entry.permissions = u16::try_from(mode >> shift & 7).unwrap_or(0);
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for Entry { tag, permissions, id } in &self.0 {
            let id = if matches!(*tag, USER | GROUP) { *id } else { NO_ID };
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, permissions, id)| Entry { tag, permissions, id };
        Acl(entries.iter().map(entry).collect()).encode()
    }

    #[test]
    fn what_linux_refuses_is_none() {
        let (owner, group, other) = ((USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 5, 0));
        for entries in [
            &[owner][..],
            &[owner, other],
            &[owner, (USER, 7, 1), group, other],
            &[owner, group, (GROUP, 7, 1), other],
            &[owner, group, (MASK, 8, 0), other],
            &[owner, group, (64, 7, 0), other],
            &[owner, group, other, other],
            &[owner, (USER, 7, NO_ID), group, (MASK, 7, 0), other],
            &[group, owner, other],
        ] {
            assert_eq!(Acl::read(&value(entries)), None, "{entries:?}");
        }
        for bytes in [&b"junk"[..], b"\x02", b"\x02\0\0\0\x01", b"\x01\0\0\0"] {
            assert_eq!(Acl::read(bytes), None, "{bytes:?}");
        }
        assert!(Acl::read(b"").unwrap().is_empty());
        assert!(Acl::read(b"\x02\0\0\0").unwrap().is_empty());
    }

    #[test]
    fn a_mode_goes_in_where_chmod_puts_it() {
        let read = |entries: &[(u16, u16, u32)]| Acl::read(&value(entries)).unwrap();
        let mut short = read(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 5, 0), (OTHER, 5, 0)]);
        assert!(!short.says_more());
        short.set_mode(0o4640);
        assert_eq!(short, read(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0)]));
        let mut long = read(&[
            (USER_OBJ, 7, 0),
            (USER, 7, 9),
            (GROUP_OBJ, 5, 0),
            (GROUP, 1, 9),
            (MASK, 7, 0),
            (OTHER, 5, 0),
        ]);
        assert!(long.says_more());
        long.set_mode(0o644);
        let permissions: Vec<_> = long.0.iter().map(|entry| entry.permissions).collect();
        assert_eq!(permissions, [6, 7, 5, 1, 4, 4]);
    }
}
