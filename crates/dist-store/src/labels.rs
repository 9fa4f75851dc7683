//! Label rows, the same for images, blobs and snapshots.

use dist_core::{Labels, Result};
use rusqlite::Connection;

use crate::db::SqlContext as _;

/// A table of labels and its column with the owner's id.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) owner: &'static str,
}

pub(crate) const CONTENT: Table = Table { name: "content_labels", owner: "content_id" };
pub(crate) const IMAGE: Table = Table { name: "image_labels", owner: "image_id" };
pub(crate) const SNAPSHOT: Table = Table { name: "snapshot_labels", owner: "snapshot_id" };

impl Table {
    /// The labels of one owner.
    pub(crate) fn load(self, connection: &Connection, id: i64) -> Result<Labels> {
        let load = || {
            connection
                .prepare_cached(&format!(
                    "SELECT name, value FROM {} WHERE {} = ?1",
                    self.name, self.owner
                ))?
                .query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Labels>>()
        };
        load().sql(|| format!("read {}", self.name))
    }

    /// Sets labels; an empty value removes one.
    pub(crate) fn set(self, connection: &Connection, id: i64, labels: &Labels) -> Result<()> {
        let set = || {
            for (name, value) in labels {
                if value.is_empty() {
                    connection.execute(
                        &format!(
                            "DELETE FROM {} WHERE {} = ?1 AND name = ?2",
                            self.name, self.owner
                        ),
                        (id, name),
                    )?;
                } else {
                    connection.execute(
                        &format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2, ?3)", self.name),
                        (id, name, value),
                    )?;
                }
            }
            Ok(())
        };
        set().sql(|| format!("write {}", self.name))
    }

    /// Makes `labels` the only ones.
    pub(crate) fn replace(self, connection: &Connection, id: i64, labels: &Labels) -> Result<()> {
        connection
            .execute(&format!("DELETE FROM {} WHERE {} = ?1", self.name, self.owner), [id])
            .sql(|| format!("write {}", self.name))?;
        self.set(connection, id, labels)
    }
}
