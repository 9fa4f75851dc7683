//! Which extended attributes of an entry its node can have, the same whatever it is unpacked to.
//!
//! One that Linux would refuse is left out with a warning: nobody could have set it. The
//! capabilities of a program are never left out like that, they are what it is shipped for.

use dist_core::{Error, ErrorKind, Result};

use crate::acl::{ACCESS, Acl, DEFAULT};
use crate::name::escape;
use crate::tar::{Entry, Kind};
use crate::warnings::Warnings;
use crate::whiteout::{is_host_xattr, is_private_xattr};

pub(crate) const CAPABILITY: &[u8] = b"security.capability";

/// What is warned of where one can't be set, and where there is no room for it.
pub(crate) const NOT_SET: &str = "extended attribute not set";
pub(crate) const TOO_LARGE: &str = "extended attribute too large, not set";

/// Bytes of a name; Linux' own limit.
const NAME_MAX: usize = 255;

/// Bytes of a value, and of all that one node has.
const VALUE_MAX: usize = u16::MAX as usize;
const TOTAL_MAX: usize = 64 << 10;

const PREFIXES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];

/// What becomes of an attribute.
enum Fate {
    Kept,
    Changed(Vec<u8>),
    /// It says nothing that the mode does not.
    Needless,
    Dropped(&'static str),
}

/// Leaves an entry the attributes that its node can have, those first that must not be lost.
///
/// # Errors
/// `Corrupt` for capabilities that are none.
pub(crate) fn sift(entry: &mut Entry, warnings: &mut Warnings) -> Result<()> {
    if entry.xattrs.is_empty() || entry.kind == Kind::Link {
        return Ok(());
    }
    let mut xattrs = std::mem::take(&mut entry.xattrs);
    xattrs.sort_by_key(|(key, _)| key != CAPABILITY);
    let mut total = 0;
    for (key, value) in xattrs {
        let size = key.len() + value.len();
        let fate = match fate(entry, &key, &value)? {
            Fate::Kept | Fate::Changed(_)
                if value.len() > VALUE_MAX || total + size > TOTAL_MAX =>
            {
                Fate::Dropped(TOO_LARGE)
            }
            fate => fate,
        };
        let value = match fate {
            Fate::Kept => value,
            Fate::Changed(value) => value,
            Fate::Needless => continue,
            Fate::Dropped(what) => {
                warnings.add(what, &entry.path);
                continue;
            }
        };
        total += size;
        entry.xattrs.push((key, value));
    }
    Ok(())
}

fn fate(entry: &Entry, key: &[u8], value: &[u8]) -> Result<Fate> {
    if is_private_xattr(key) {
        return Ok(Fate::Dropped("extended attribute of a storage driver dropped"));
    }
    if is_host_xattr(key) {
        return Ok(Fate::Dropped("security label dropped"));
    }
    if key == CAPABILITY {
        return is_capability(value).then_some(Fate::Kept).ok_or_else(|| {
            let message = format!("set extended attribute {}: it is malformed", escape(key));
            Error::new(ErrorKind::Corrupt, message)
        });
    }
    if key == ACCESS || key == DEFAULT {
        return Ok(acl(entry, key, value));
    }
    let prefix = PREFIXES.iter().find(|prefix| key.starts_with(prefix) && key.len() > prefix.len());
    // Those of users are of what users can write to.
    let of_kind = prefix != Some(&PREFIXES[0]) || matches!(entry.kind, Kind::File | Kind::Dir);
    let fits = prefix.is_some() && of_kind && key.len() <= NAME_MAX && !key.contains(&0);
    Ok(if fits { Fate::Kept } else { Fate::Dropped(NOT_SET) })
}

fn acl(entry: &Entry, key: &[u8], value: &[u8]) -> Fate {
    let has_one = match entry.kind {
        Kind::Symlink => false,
        Kind::Dir => true,
        _ => key == ACCESS,
    };
    let Some(mut acl) = Acl::read(value).filter(|acl| has_one || acl.is_empty()) else {
        return Fate::Dropped(NOT_SET);
    };
    if key == ACCESS {
        if !acl.says_more() {
            return Fate::Needless;
        }
        acl.set_mode(entry.mode);
    }
    if acl.is_empty() { Fate::Needless } else { Fate::Changed(acl.encode()) }
}

/// Whether Linux takes a value for capabilities: revision 2 with its 20 bytes or 3 with its 24.
fn is_capability(value: &[u8]) -> bool {
    matches!((value.get(3), value.len()), (Some(2), 20) | (Some(3), 24))
}
