//! A snapshot's row as it is read, and the queries for it.

use dist_core::{
    Context as _, Error, ErrorKind, Labels, Result, SnapshotInfo, SnapshotKind, Usage,
};
use rusqlite::Row;

/// A row as it is stored; the parent's key instead of its id.
pub(super) struct RawRow {
    pub(super) id: i64,
    key: String,
    parent: Option<String>,
    kind: String,
    pub(super) usage: Usage,
    created_at: i64,
    updated_at: i64,
}

pub(super) const FIND: &str = "
    SELECT s.id, s.key, p.key, s.kind, s.bytes, s.inodes, s.created_at, s.updated_at
    FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent_id
    WHERE s.namespace = ?1 AND s.snapshotter = ?2 AND s.key = ?3";

pub(super) const LIST: &str = "
    WITH RECURSIVE tree (id, depth) AS (
        SELECT id, 0 FROM snapshots
        WHERE namespace = ?1 AND snapshotter = ?2 AND parent_id IS NULL
        UNION ALL
        SELECT c.id, tree.depth + 1 FROM snapshots c JOIN tree ON c.parent_id = tree.id
    )
    SELECT s.id, s.key, p.key, s.kind, s.bytes, s.inodes, s.created_at, s.updated_at
    FROM tree JOIN snapshots s ON s.id = tree.id LEFT JOIN snapshots p ON p.id = s.parent_id
    ORDER BY tree.depth, s.id";

/// All that an active snapshot or a view stands on.
pub(super) const BELOW_OPEN: &str = "
    WITH RECURSIVE below (id) AS (
        SELECT parent_id FROM snapshots
        WHERE snapshotter = ?1 AND kind <> 'committed'
        UNION SELECT s.parent_id FROM snapshots s JOIN below ON s.id = below.id
    )
    SELECT id FROM below WHERE id IS NOT NULL";

/// A snapshot and all that stand on it.
pub(super) const TREE: &str = "
    WITH RECURSIVE tree (id) AS (
        SELECT id FROM snapshots WHERE id = ?1
        UNION SELECT s.id FROM snapshots s JOIN tree ON s.parent_id = tree.id
    )
    SELECT s.id, s.key, s.kind FROM tree JOIN snapshots s ON s.id = tree.id ORDER BY s.id";

pub(super) const PARENTS: &str = "
    WITH RECURSIVE below (id, depth) AS (
        SELECT parent_id, 1 FROM snapshots WHERE id = ?1
        UNION ALL
        SELECT s.parent_id, below.depth + 1 FROM snapshots s JOIN below ON s.id = below.id
    )
    SELECT id FROM below WHERE id IS NOT NULL ORDER BY depth";

impl RawRow {
    pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let count = |index| row.get(index).map(|n: i64| u64::try_from(n).unwrap_or(0));
        Ok(Self {
            id: row.get(0)?,
            key: row.get(1)?,
            parent: row.get(2)?,
            kind: row.get(3)?,
            usage: Usage { bytes: count(4)?, inodes: count(5)? },
            created_at: row.get(6)?,
            updated_at: row.get(7)?,
        })
    }

    pub(super) fn info(self, labels: Labels) -> Result<SnapshotInfo> {
        let key = |text: &str| {
            text.parse().context(ErrorKind::Storage, || format!("read snapshot {text:?}"))
        };
        let kind = match self.kind.as_str() {
            "view" => SnapshotKind::View,
            "active" => SnapshotKind::Active,
            "committed" => SnapshotKind::Committed,
            other => {
                let message = format!("read snapshot {}: its kind is {other:?}", self.key);
                return Err(Error::new(ErrorKind::Storage, message));
            }
        };
        Ok(SnapshotInfo {
            key: key(&self.key)?,
            parent: self.parent.as_deref().map(key).transpose()?,
            kind,
            labels,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
