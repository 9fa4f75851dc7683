//! Why a tar is refused.

use dist_core::{Error, ErrorKind};

use crate::name::escape;

/// Why a tar is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("the archive is cut off")]
    Truncated,
    #[error("the header's checksum is wrong")]
    Checksum,
    #[error("the {0} is no number")]
    Number(&'static str),
    #[error("the {0} is out of range")]
    Range(&'static str),
    #[error("the {0} holds a zero byte")]
    Nul(&'static str),
    #[error("the {0} is empty")]
    Empty(&'static str),
    #[error("record {0} of the extended header is malformed")]
    Record(usize),
    #[error("a global extended header sets {0}")]
    Global(&'static str),
    #[error("two headers give the {0} of one entry")]
    Twice(&'static str),
    #[error("no entry follows the extended header")]
    Dangling,
    #[error("a single zero block stands between entries")]
    LoneZeroBlock,
    #[error("the entry type {0} is not supported")]
    Type(String),
    #[error("an entry of its type has no body, this one has {0} bytes")]
    Body(u64),
    #[error("the sparse map is malformed")]
    SparseMap,
    #[error("the sparse map has {mapped} bytes, the body has {stored}")]
    SparseSize { mapped: u64, stored: u64 },
}

impl Fault {
    fn kind(&self) -> ErrorKind {
        if matches!(self, Self::Type(_)) { ErrorKind::Unsupported } else { ErrorKind::Corrupt }
    }
}

/// The error of the archive at a header.
pub(super) fn fault(offset: u64, what: Fault) -> Error {
    Error::new(what.kind(), format!("read tar at byte {offset}")).with_source(what)
}

/// The error of an entry, by its path where that is known.
pub(super) fn named(offset: u64, path: &[u8], what: Fault) -> Error {
    if path.is_empty() {
        return fault(offset, what);
    }
    Error::new(what.kind(), format!("unpack entry {} at byte {offset}", escape(path)))
        .with_source(what)
}
