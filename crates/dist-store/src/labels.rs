//! Label rows, the same for all that has labels.

use std::collections::BTreeMap;

use dist_core::{LabelChange, Labels, Namespace, Result, check_labels};
use rusqlite::{Connection, Transaction, params};

use crate::db::SqlContext as _;

/// A table of labels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    name: &'static str,
    /// The column with the owner's id.
    owner: &'static str,
    /// The table of the owners.
    owners: &'static str,
}

pub(crate) const CONTENT: Table =
    Table { name: "content_labels", owner: "content_id", owners: "content" };
pub(crate) const IMAGE: Table = Table { name: "image_labels", owner: "image_id", owners: "images" };
pub(crate) const SNAPSHOT: Table =
    Table { name: "snapshot_labels", owner: "snapshot_id", owners: "snapshots" };
pub(crate) const LEASE: Table = Table { name: "lease_labels", owner: "lease_id", owners: "leases" };
pub(crate) const NAMESPACE: Table =
    Table { name: "namespace_labels", owner: "namespace_id", owners: "namespaces" };

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

    /// The labels of all owners in a namespace that have any, by the owner's id.
    pub(crate) fn load_all(
        self,
        connection: &Connection,
        namespace: &Namespace,
    ) -> Result<BTreeMap<i64, Labels>> {
        let load = || {
            let mut all: BTreeMap<i64, Labels> = BTreeMap::new();
            let mut statement = connection.prepare_cached(&format!(
                "SELECT l.{owner}, l.name, l.value FROM {name} l JOIN {owners} o ON o.id = l.{owner}
                 WHERE o.namespace = ?1",
                name = self.name,
                owner = self.owner,
                owners = self.owners
            ))?;
            let mut rows = statement.query([namespace.as_str()])?;
            while let Some(row) = rows.next()? {
                all.entry(row.get(0)?).or_default().insert(row.get(1)?, row.get(2)?);
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
