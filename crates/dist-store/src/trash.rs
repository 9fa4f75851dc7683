//! `ROOT/trash`: what was deleted and still takes space.
//!
//! Whatever is deleted is renamed to a name of its own in there first, so that nobody meets half of
//! it, and its row is gone before. What lies there belongs to nobody: whoever finds it removes it,
//! and two may do so at once.

use std::io;
use std::path::{Path, PathBuf};

use dist_core::{Digest, Result};

use crate::blobs::known;
use crate::{Store, fsio};

/// Free bytes below which nothing is left in the trash: somebody may delete to have room.
const ROOM: u64 = 1 << 30;

/// When the space of what is deleted comes free.
///
/// A file system that discards blocks as they come free takes seconds for a large file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Removal {
    /// Before the call that deletes it returns.
    #[default]
    Now,
    /// When whoever asked for this empties the trash. Where little space is free: now.
    Later,
}

impl Store {
    /// The same store; what is deleted through it leaves the disk when `removal` says.
    #[must_use]
    pub fn removing(&self, removal: Removal) -> Self {
        let mut store = self.clone();
        store.removal = removal;
        store
    }

    /// Whether what is deleted now is to be left in the trash.
    #[must_use]
    pub fn leaves_trash(&self) -> bool {
        self.removal == Removal::Later && fsio::free_bytes(self.root()).is_ok_and(|n| n >= ROOM)
    }

    pub(crate) fn trash(&self) -> PathBuf {
        self.root().join("trash")
    }

    /// Moves something that has no row into the trash; `None` where it is gone, or was removed at
    /// once because there is not even room for a name.
    pub(crate) fn throw_away(&self, path: &Path) -> Result<Option<PathBuf>> {
        let full = |error: &io::Error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        };
        match fsio::set_aside(path, &self.trash()) {
            Err(error) if error.find::<io::Error>().is_some_and(full) => {
                fsio::remove_all(path).map(|()| None)
            }
            other => other,
        }
    }

    /// Frees the space of what was thrown away, or leaves that to whoever empties the trash.
    pub(crate) fn free(&self, thrown_away: &[PathBuf]) -> Result<()> {
        if self.leaves_trash() {
            return Ok(());
        }
        thrown_away.iter().try_for_each(|path| fsio::remove_all(path))
    }

    /// Removes the file of a blob, if no namespace has the blob.
    ///
    /// A commit of the same blob that runs now finds it gone in its own transaction, and links it
    /// again.
    pub(crate) fn remove_unowned(&self, digest: &Digest) -> Result<()> {
        let path = self.blob_path(digest);
        let mut moved = Vec::new();
        self.db().write_freeing(|transaction| {
            if known(transaction, digest)?.is_none() {
                moved.extend(self.throw_away(&path)?);
            }
            Ok(())
        })?;
        self.free(&moved)
    }
}
