//! Leases: what is in one is not collected before it expires or is deleted.

use std::fmt;

use crate::name::{name, printable};
use crate::{Digest, ImageName, IngestKey, Labels, SnapshotKey};

name! {
    /// Names a lease in its namespace: 1 to 4096 bytes without control characters.
    LeaseId, printable
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Its labels; [`crate::GC_EXPIRE`] says when it ends.
    pub labels: Labels,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
}

/// Something in a namespace that can be kept or collected: a node of the graph that a collection
/// walks, and what a lease holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A blob.
    Content(Digest),
    /// Content on its way in.
    Ingest(IngestKey),
    /// A registered name.
    Image(ImageName),
    /// A snapshot of whatever kind.
    Snapshot {
        /// The snapshotter's name.
        snapshotter: Box<str>,
        /// The snapshot's key.
        key: SnapshotKey,
    },
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Content(digest) => write!(f, "blob {digest}"),
            Self::Ingest(key) => write!(f, "ingest {key}"),
            Self::Image(name) => write!(f, "image {name}"),
            Self::Snapshot { snapshotter, key } => write!(f, "snapshot {snapshotter}/{key}"),
        }
    }
}
