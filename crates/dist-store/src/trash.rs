//! `ROOT/trash`: what was deleted and still takes space.
//!
//! Whatever is deleted is renamed to a name of its own in there first, so that nobody meets half of
//! it, and its row is gone before. What lies there belongs to nobody: whoever finds it removes it,
//! and two may do so at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use dist_core::{Digest, Result};

use crate::blobs::known;
use crate::{Store, fsio};

/// Free bytes below which nothing is left in the trash: somebody may delete to have room.
const ROOM: u64 = 1 << 30;

/// When the space of what is deleted comes free.
///
/// A file system that discards blocks as they come free takes seconds for a large file.
#[derive(Clone, Debug, Default)]
pub enum Removal {
    /// Before the call that deletes it returns.
    #[default]
    Now,
    /// When this one empties the trash. Where little space is free: now.
    Later(Arc<dyn Emptier>),
}

/// Empties the trash behind the back of whoever deletes.
pub trait Emptier: fmt::Debug + Send + Sync {
    /// Hears that something was moved to the trash; `false` where it does not empty it any more.
    fn thrown_away(&self) -> bool;
}

impl Store {
    /// The same store; what is deleted through it leaves the disk when `removal` says.
    #[must_use]
    pub fn removing(&self, removal: Removal) -> Self {
        let mut store = self.clone();
        store.removal = removal;
        store
    }

    /// Leaves what was just moved to the trash to whoever empties it, and tells him; `false` where
    /// it is to be removed now.
    #[must_use]
    pub fn leave_in_trash(&self) -> bool {
        match &self.removal {
            Removal::Now => false,
            Removal::Later(emptier) => {
                fsio::free_bytes(self.root()).is_ok_and(|n| n >= ROOM) && emptier.thrown_away()
            }
        }
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
        if thrown_away.is_empty() || self.leave_in_trash() {
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
