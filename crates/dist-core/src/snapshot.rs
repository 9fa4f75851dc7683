//! Snapshots: stacks of layers as directory trees.
//!
//! The meaning of each call follows containerd's snapshots service, v1.

use std::fmt;
use std::ops::ControlFlow;

use crate::name::{name, printable};
use crate::{ChainId, Labels, Mount, Result};

name! {
    /// Names a snapshot: a chain ID for a committed layer, anything for an active one; 1 to 4096
    /// bytes without control characters.
    SnapshotKey, printable
}

impl From<ChainId> for SnapshotKey {
    fn from(chain_id: ChainId) -> Self {
        Self(chain_id.to_string().into())
    }
}

/// What can be done with a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SnapshotKind {
    /// Read-only and temporary.
    View,
    /// Writable and temporary.
    Active,
    /// Read-only; may be a parent.
    Committed,
}

impl fmt::Display for SnapshotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::View => "view",
            Self::Active => "active",
            Self::Committed => "committed",
        })
    }
}

/// What is known of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Its key.
    pub key: SnapshotKey,
    /// Its parent's key, always a committed one.
    pub parent: Option<SnapshotKey>,
    /// What can be done with it.
    pub kind: SnapshotKind,
    /// Its labels.
    pub labels: Labels,
    /// When it was made, in nanoseconds since the epoch.
    pub created_at: i64,
    /// When it last changed, in nanoseconds since the epoch.
    pub updated_at: i64,
}

/// What a snapshot takes on the disk, its parents excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of allocated blocks.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// How a snapshotter wants a layer's entries laid down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LayerForm {
    /// The layer alone in a directory; whiteouts are overlayfs' own marks. Layers can be unpacked
    /// in any order and get their parent at commit.
    Stacked {
        /// Whether the marks are `user.overlay.*` instead of `trusted.overlay.*` (inside a user
        /// namespace).
        user_xattr: bool,
    },
    /// The layer alone in an image beside the directory it would be unpacked to; the rest as for
    /// `Stacked`.
    Image {
        /// As for `Stacked`.
        user_xattr: bool,
    },
    /// The layer on top of a copy of its parent; whiteouts delete.
    Merged,
}

impl LayerForm {
    /// Whether layers can be unpacked in any order and get their parent at commit.
    #[must_use]
    pub fn is_independent(self) -> bool {
        self != Self::Merged
    }
}

/// Makes, commits and removes snapshots.
///
/// `prepare` makes an active snapshot, the caller writes into its mounts, `commit` freezes it under
/// a name; or `remove` throws it away. A committed snapshot can be the parent of others.
///
/// More than three methods because these are the field's: every containerd client knows them.
///
/// The tempting wrong use is to write into a committed snapshot's directory: nothing then says
/// which image owns the change.
pub trait Snapshotter: Send + Sync {
    /// The snapshotter's name: `overlayfs`, `native`.
    fn name(&self) -> &str;

    /// How layers are unpacked for it.
    fn layer_form(&self) -> LayerForm;

    /// Describes a snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn stat(&self, key: &SnapshotKey) -> Result<SnapshotInfo>;

    /// Measures a snapshot.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn usage(&self, key: &SnapshotKey) -> Result<Usage>;

    /// Returns the mounts of an active snapshot or a view.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` for a committed one and for one whose maker died before
    /// it was whole; `Storage`.
    fn mounts(&self, key: &SnapshotKey) -> Result<Vec<Mount>>;

    /// Makes a writable snapshot on top of `parent`.
    ///
    /// # Errors
    /// `AlreadyExists`, also for what the label `containerd.io/snapshot.ref` says it is to become;
    /// `NotFound` for a missing parent; `InvalidArgument` for a parent that is not committed and for
    /// labels that are too long; `Storage`.
    fn prepare(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>>;

    /// Makes a read-only snapshot of `parent`.
    ///
    /// # Errors
    /// As [`Snapshotter::prepare`].
    fn view(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
    ) -> Result<Vec<Mount>>;

    /// Freezes the active snapshot `key` as `name` and removes the key.
    ///
    /// A `parent` given here becomes the parent of a snapshot that was prepared without one;
    /// only where [`Snapshotter::layer_form`] is stacked. A `usage` is what the caller counted while
    /// it made the files; without it they are measured.
    ///
    /// # Errors
    /// `AlreadyExists` for the name; `NotFound` for the key or the parent; `FailedPrecondition`
    /// for a view, a committed key, or a parent that is not committed or where the key has another;
    /// `InvalidArgument` for labels that are too long; `Busy` while something is mounted on its
    /// directory; `Storage`.
    fn commit(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
        usage: Option<Usage>,
    ) -> Result<()>;

    /// Removes a snapshot without children.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where it has children; `Busy` while something is mounted on
    /// its directory; `Storage`.
    fn remove(&self, key: &SnapshotKey) -> Result<()>;

    /// Visits every snapshot, parents before children.
    ///
    /// # Errors
    /// What `visit` returns; `Storage`.
    fn walk(&self, visit: &mut dyn FnMut(SnapshotInfo) -> Result<ControlFlow<()>>) -> Result<()>;
}
