//! Progress as data, and cancellation of blocking work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{ChainId, Descriptor, Digest, Error, Result, SnapshotKey};

/// Receives what happens during an operation. Must not block; `()` ignores everything.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event<'_>);
}

impl Progress for () {
    fn event(&self, _event: Event<'_>) {}
}

/// One thing that happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A reference was resolved.
    Resolved {
        /// The full name.
        name: &'a str,
        /// What it names.
        target: &'a Descriptor,
    },
    /// A blob is wanted and its turn has not come.
    Waiting {
        /// The blob.
        desc: &'a Descriptor,
    },
    /// What a document names, and is wanted of that.
    Listed {
        /// The manifest or index.
        desc: &'a Descriptor,
        /// The descriptors in it, in their order.
        children: &'a [Descriptor],
    },
    /// Bytes of a blob begin to move.
    Started {
        /// The blob.
        desc: &'a Descriptor,
        /// Bytes that an earlier attempt left.
        offset: u64,
    },
    /// More bytes of a blob were written or sent.
    Advanced {
        /// The blob.
        digest: Digest,
        /// How many bytes were added.
        bytes: u64,
    },
    /// A transfer broke and is tried again.
    Retrying {
        /// The blob.
        digest: Digest,
        /// The attempt that comes, counted from 1.
        attempt: u32,
        /// Why.
        error: &'a Error,
    },
    /// A blob is complete, verified and stored, here or in the remote that is pushed to.
    Committed {
        /// The blob.
        digest: Digest,
    },
    /// A blob was committed that its namespace did not have.
    Created {
        /// The blob.
        digest: Digest,
        /// How many bytes it has.
        size: u64,
    },
    /// A snapshot was prepared, filled and committed.
    Snapshotted {
        /// The snapshotter's name.
        snapshotter: &'a str,
        /// What it was called while it was filled.
        key: &'a SnapshotKey,
        /// What it is called now.
        name: &'a SnapshotKey,
        /// What it stands on.
        parent: Option<&'a SnapshotKey>,
    },
    /// A blob was there already.
    Existed {
        /// The blob.
        desc: &'a Descriptor,
    },
    /// A layer was unpacked and its snapshot committed.
    Unpacked {
        /// The layer's blob.
        layer: Digest,
        /// The snapshot's name, where it is known.
        chain_id: Option<ChainId>,
    },
    /// Something a person should know that is not an error.
    Warned {
        /// What it is about, and what.
        message: &'a str,
    },
}

/// A flag that tells blocking work to stop. Checked for each tar entry and each MiB of copying.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Makes a flag that is raised when the returned guard is dropped.
    #[must_use]
    pub fn guarded() -> (Self, CancelGuard) {
        let cancel = Self::default();
        (cancel.clone(), CancelGuard(cancel))
    }

    /// Raises the flag.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the flag is up.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails once the flag is up.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }
}

/// Raises its [`Cancel`] when dropped.
#[derive(Debug)]
pub struct CancelGuard(Cancel);

impl Drop for CancelGuard {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
