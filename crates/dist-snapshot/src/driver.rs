//! What differs between snapshotters: how a tree is made and how it is mounted.

use std::path::{Path, PathBuf};

use dist_core::{LayerForm, Mount, Result, SnapshotKind};

/// Makes and mounts trees. Keeps no records; knows neither keys nor namespaces.
///
/// `parents` are the trees below, nearest first.
pub(crate) trait Driver: Send + Sync {
    /// The snapshotter's name, and that of its directory.
    fn name(&self) -> &'static str;

    /// How layers are unpacked for it.
    fn layer_form(&self) -> LayerForm;

    /// Fills `new`, the empty tree (mode 0755) of a new snapshot. Its parent directory holds
    /// nothing else and may be used.
    fn fill(&self, new: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<()>;

    /// The mounts of the snapshot whose directory is `dir`, which is an active one or a view.
    fn mounts(&self, dir: &Path, parents: &[PathBuf], kind: SnapshotKind) -> Result<Vec<Mount>>;

    /// Brings an active snapshot to the form of a committed one, beside its tree.
    fn freeze(&self, _tree: &Path) -> Result<()> {
        Ok(())
    }

    /// Ends what [`Driver::freeze`] did: the snapshot is committed, or is not.
    fn frozen(&self, _tree: &Path, _committed: bool) -> Result<()> {
        Ok(())
    }
}

/// A bind mount of `source`.
pub(crate) fn bind(source: PathBuf, kind: SnapshotKind) -> Mount {
    let access = if kind == SnapshotKind::Active { "rw" } else { "ro" };
    let options = vec![access.into(), "rbind".into()];
    Mount { fstype: "bind".into(), source, target: None, options }
}
