//! Label rows, the same for all that has labels.

use dist_core::{LabelChange, Labels, Result, check_labels};
use rusqlite::{Connection, Transaction, params};

use crate::db::SqlContext as _;
use crate::rows::is_dense;

/// A table of labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    name: &'static str,
    /// The column with the owner's id.
    owner: &'static str,
}

pub(crate) const CONTENT: Table = Table { name: "content_labels", owner: "content_id" };
pub(crate) const IMAGE: Table = Table { name: "image_labels", owner: "image_id" };
pub(crate) const SNAPSHOT: Table = Table { name: "snapshot_labels", owner: "snapshot_id" };
pub(crate) const LEASE: Table = Table { name: "lease_labels", owner: "lease_id" };
pub(crate) const NAMESPACE: Table = Table { name: "namespace_labels", owner: "namespace_id" };

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

    /// The labels of many owners, in the order of `ids`, which ascends.
    ///
    /// Owners that lie close together are read by one scan over the table, which holds its rows in
    /// this order; those that lie far apart one by one.
    pub(crate) fn load_all(self, connection: &Connection, ids: &[i64]) -> Result<Vec<Labels>> {
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
            return Ok(Vec::new());
        };
        if !is_dense(ids.len(), last.saturating_sub(first)) {
            return ids.iter().map(|id| self.load(connection, *id)).collect();
        }
        let load = || {
            let mut all = Vec::with_capacity(ids.len());
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {owner}, name, value FROM {name} WHERE {owner} BETWEEN ?1 AND ?2
                 ORDER BY {owner}, name",
                name = self.name,
                owner = self.owner
            ))?;
            let mut rows = statement.query((first, last))?;
            let mut labels: Vec<(String, String)> = Vec::new();
            while let Some(row) = rows.next()? {
                let owner: i64 = row.get(0)?;
                while ids.get(all.len()).is_some_and(|id| *id < owner) {
                    all.push(labels.drain(..).collect());
                }
                if ids.get(all.len()) == Some(&owner) {
                    labels.push((row.get(1)?, row.get(2)?));
                }
            }
            while all.len() < ids.len() {
                all.push(labels.drain(..).collect());
            }
            Ok(all)
        };
        load().sql(|| format!("read {}", self.name))
    }

    /// Writes the labels of an owner that has none yet; those without a value are left out.
    pub(crate) fn add(self, transaction: &Transaction<'_>, id: i64, labels: &Labels) -> Result<()> {
        check_labels(labels)?;
        self.set(transaction, id, labels).sql(|| format!("write {}", self.name))
    }

    /// Changes the labels of an owner. Returns them all.
    pub(crate) fn change(
        self,
        transaction: &Transaction<'_>,
        id: i64,
        change: &LabelChange,
    ) -> Result<Labels> {
        check_labels(change.labels())?;
        let mut labels = self.load(transaction, id)?;
        change.apply(&mut labels);
        let write = || {
            if let LabelChange::Replace(_) = change {
                let sql = format!("DELETE FROM {} WHERE {} = ?1", self.name, self.owner);
                transaction.prepare_cached(&sql)?.execute([id])?;
            }
            self.set(transaction, id, change.labels())
        };
        write().sql(|| format!("write {}", self.name))?;
        Ok(labels)
    }

    fn set(self, transaction: &Transaction<'_>, id: i64, labels: &Labels) -> rusqlite::Result<()> {
        for (name, value) in labels {
            if value.is_empty() {
                let sql =
                    format!("DELETE FROM {} WHERE {} = ?1 AND name = ?2", self.name, self.owner);
                transaction.prepare_cached(&sql)?.execute((id, name))?;
            } else {
                let sql = format!("INSERT OR REPLACE INTO {} VALUES (?1, ?2, ?3)", self.name);
                transaction.prepare_cached(&sql)?.execute(params![id, name, value])?;
            }
        }
        Ok(())
    }
}
