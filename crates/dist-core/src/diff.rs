//! Layers to trees and back.

use std::io;

use crate::{Cancel, Descriptor, DiffId, Mount, Result, Usage};

/// Unpacks layers.
pub trait Applier: Send + Sync {
    /// Unpacks one layer into the writable directory of `mounts` while its bytes arrive.
    ///
    /// `input` yields the layer's compressed bytes as they are downloaded; it is read to its end,
    /// also where the tar ends earlier, so that the caller can verify all of it; maybe from another
    /// thread than the caller's, though never after this has returned. Nothing outside
    /// the directory is created, changed, read, followed or deleted, whatever the layer says. The
    /// caller publishes the result only after it has verified the blob's digest and the diff ID.
    ///
    /// # Errors
    /// `Corrupt` for malformed content, with its byte offset; `UnsafeLayer` for an entry that
    /// reaches outside; `Unsupported` for a compression or entry type that is not handled;
    /// `ResourceExhausted` with a [`crate::Limit`]; `Storage` where the disk fails; `Cancelled`;
    /// the kind that `input` failed with.
    fn apply(
        &self,
        layer: &Descriptor,
        input: &mut (dyn io::Read + Send),
        mounts: &[Mount],
        cancel: &Cancel,
    ) -> Result<Applied>;
}

/// Makes layers.
pub trait Differ: Send + Sync {
    /// Writes the changes from `lower` to `upper` as an uncompressed layer.
    ///
    /// The mounts are read and not performed; none at all is an empty tree. The same trees give the
    /// same bytes. Nothing outside the directories of the mounts is read or followed.
    ///
    /// # Errors
    /// `Unsupported` for mounts whose directories can't be read without performing them, and for
    /// a name that would be a whiteout in a layer; `Aborted` where the trees change meanwhile;
    /// `Storage`, `Cancelled`, and the kind that `out` failed with.
    fn diff(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        out: &mut dyn io::Write,
        cancel: &Cancel,
    ) -> Result<Diffed>;
}

/// What [`Differ::diff`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diffed {
    /// The digest of the uncompressed layer.
    pub diff_id: DiffId,
    /// Uncompressed bytes written.
    pub size: u64,
    /// What could not be written and is no error.
    pub warnings: Vec<Warning>,
}

/// What [`Applier::apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed layer, computed from the bytes that were unpacked.
    pub diff_id: DiffId,
    /// Uncompressed bytes read.
    pub size: u64,
    /// Directories that the layer uses without an entry for them, slash-separated and relative,
    /// parents first. They have mode 0755 and owner 0:0 until they inherit from a lower layer.
    pub implicit_dirs: Vec<Vec<u8>>,
    /// What the layer takes on the disk, where that was seen on the way: the same as a walk over
    /// its tree would find.
    pub usage: Option<Usage>,
    /// What could not be done and is no error.
    pub warnings: Vec<Warning>,
}

/// Something a layer asks for that could not be done, or was not done for a stated reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What: `owner not set`, `device not created`.
    pub what: &'static str,
    /// How many entries it concerns.
    pub count: u64,
    /// The first entry's name, escaped for printing.
    pub first: String,
}
