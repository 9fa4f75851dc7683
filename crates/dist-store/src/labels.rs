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
pub(crate) const CONTAINER: Table = Table { name: "container_labels", owner: "container_id" };
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
        self.scan(connection, first, last).map(|all| pick(all, ids))
    }

    /// The labels of all owners that have any.
    pub(crate) fn load_every(self, connection: &Connection) -> Result<Vec<(i64, Labels)>> {
        self.scan(connection, i64::MIN, i64::MAX)
    }

    /// The owners from `first` to `last` that have labels, ascending.
    fn scan(self, connection: &Connection, first: i64, last: i64) -> Result<Vec<(i64, Labels)>> {
        let scan = || {
            let mut all = Vec::new();
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {owner}, name, value FROM {name} WHERE {owner} BETWEEN ?1 AND ?2
                 ORDER BY {owner}, name",
                name = self.name,
                owner = self.owner
            ))?;
            let mut rows = statement.query((first, last))?;
            let (mut labels, mut last) = (Vec::new(), None);
            while let Some(row) = rows.next()? {
                let owner: i64 = row.get(0)?;
                if let Some(last) = last.replace(owner).filter(|last| *last != owner) {
                    all.push((last, labels.drain(..).collect()));
                }
                labels.push((row.get::<_, String>(1)?, row.get::<_, String>(2)?));
            }
            all.extend(last.map(|last| (last, labels.into_iter().collect())));
            Ok(all)
        };
        scan().sql(|| format!("read {}", self.name))
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

/// The labels of the owners `ids` among those of all; both ascend.
pub(crate) fn pick(all: Vec<(i64, Labels)>, ids: &[i64]) -> Vec<Labels> {
    let mut all = all.into_iter().peekable();
    let pick = |id: &i64| {
        while all.next_if(|(owner, _)| owner < id).is_some() {}
        all.next_if(|(owner, _)| owner == id).map(|(_, labels)| labels).unwrap_or_default()
    };
    ids.iter().map(pick).collect()
}

#[cfg(test)]
mod tests {
    use dist_core::{Digest, Namespace};

    use super::*;
    use crate::{Store, StoreOptions};

    /// As many as are read by two threads.
    #[test]
    fn each_of_many_blobs_is_listed_with_its_own_labels() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("s"), StoreOptions::default()).unwrap();
        let [ours, theirs] = ["ours", "theirs"].map(|name| {
            let namespace: Namespace = name.parse().unwrap();
            store.content(namespace)
        });
        let digest = |n: u32| Digest::sha256(&n.to_le_bytes());
        let label = |n: u32| Labels::from([("n".to_owned(), n.to_string())]);
        store
            .db()
            .write(|transaction| {
                for n in 0..6000 {
                    let content = if n % 5 == 0 { &theirs } else { &ours };
                    content.insert(transaction, &digest(n), 1, false)?;
                    if n % 3 == 0 {
                        content.label(transaction, &digest(n), &label(n))?;
                    }
                }
                Ok(())
            })
            .unwrap();
        let mut expected: Vec<_> = (0..6000_u32)
            .filter(|n| n % 5 != 0)
            .map(|n| (digest(n), if n % 3 == 0 { label(n) } else { Labels::new() }))
            .collect();
        expected.sort_by_key(|(digest, _)| *digest);
        let listed = ours.list().unwrap().into_iter().map(|info| (info.digest, info.labels));
        assert!(listed.eq(expected));
        assert_eq!(ours.known().unwrap().blobs.len(), 4800);
    }
}
