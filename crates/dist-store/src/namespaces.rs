//! Namespaces: the rows of `namespaces` and `namespace_labels`.

use std::sync::Arc;

use dist_core::{Error, ErrorKind, LabelChange, Labels, Namespace, Result};
use rusqlite::{Connection, OptionalExtension as _};

use crate::db::{Db, SqlContext as _};
use crate::{Store, labels, scope};

/// The namespaces of a store.
#[derive(Clone, Debug)]
pub struct NamespaceStore {
    db: Arc<Db>,
}

impl Store {
    /// The namespaces.
    #[must_use]
    pub fn namespaces(&self) -> NamespaceStore {
        NamespaceStore { db: Arc::clone(self.db()) }
    }
}

impl NamespaceStore {
    /// Lists the namespaces, by name. Those whose names no client can write are left out.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<(Namespace, Labels)>> {
        self.db.read(|connection| {
            let rows = || {
                connection
                    .prepare_cached("SELECT id, name FROM namespaces ORDER BY name")?
                    .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                    .collect::<rusqlite::Result<Vec<(i64, String)>>>()
            };
            let rows = rows().sql(|| "list namespaces".into())?;
            rows.into_iter()
                .filter_map(|(id, name)| Some((id, name.parse().ok()?)))
                .map(|(id, name)| Ok((name, labels::NAMESPACE.load(connection, id)?)))
                .collect()
        })
    }

    /// The labels of a namespace; `None` where there is no such.
    ///
    /// # Errors
    /// `Storage`.
    pub fn labels(&self, name: &Namespace) -> Result<Option<Labels>> {
        self.db.read(|connection| match row(connection, name)? {
            Some(id) => labels::NAMESPACE.load(connection, id).map(Some),
            None => Ok(None),
        })
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn create(&self, name: &Namespace, labels: &Labels) -> Result<()> {
        self.db.demand_space()?;
        self.db.write(|transaction| {
            if row(transaction, name)?.is_some() {
                let message = format!("namespace {:?}", name.as_str());
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            scope::add_namespace(transaction, name)?;
            labels::NAMESPACE.add(transaction, transaction.last_insert_rowid(), labels)
        })
    }

    /// Changes the labels of a namespace, and makes it where it is missing. Returns them all.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    pub fn update(&self, name: &Namespace, change: &LabelChange) -> Result<Labels> {
        self.db.write(|transaction| {
            scope::add_namespace(transaction, name)?;
            let id = row(transaction, name)?.ok_or_else(|| missing(name))?;
            labels::NAMESPACE.change(transaction, id, change)
        })
    }

    /// Deletes a namespace without images, blobs, containers and snapshots. Its leases go with it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` saying what there still is in it; `Storage`.
    pub fn delete(&self, name: &Namespace) -> Result<()> {
        self.db.write_freeing(|transaction| {
            let id = row(transaction, name)?.ok_or_else(|| missing(name))?;
            let left = left(transaction, name).sql(|| format!("delete namespace {name}"))?;
            if !left.is_empty() {
                let message = format!(
                    "namespace {:?} must be empty, but it still has {}",
                    name.as_str(),
                    left.join(", ")
                );
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            transaction
                .execute("DELETE FROM namespaces WHERE id = ?1", [id])
                .and_then(|_| {
                    transaction.execute("DELETE FROM leases WHERE namespace = ?1", [name.as_str()])
                })
                .sql(|| format!("delete namespace {name}"))?;
            Ok(())
        })
    }
}

/// What keeps a namespace from being deleted.
fn left(connection: &Connection, name: &Namespace) -> rusqlite::Result<Vec<String>> {
    let mut left = Vec::new();
    for (table, what) in [("images", "images"), ("content", "blobs"), ("containers", "containers")]
    {
        let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE namespace = ?1)");
        if connection.query_row(&sql, [name.as_str()], |row| row.get(0))? {
            left.push(what.to_owned());
        }
    }
    let mut snapshotters = connection.prepare(
        "SELECT DISTINCT snapshotter FROM snapshots WHERE namespace = ?1 ORDER BY snapshotter",
    )?;
    for snapshotter in snapshotters.query_map([name.as_str()], |row| row.get::<_, String>(0))? {
        left.push(format!("snapshots on {:?} snapshotter", snapshotter?));
    }
    Ok(left)
}

fn row(connection: &Connection, name: &Namespace) -> Result<Option<i64>> {
    connection
        .query_row("SELECT id FROM namespaces WHERE name = ?1", [name.as_str()], |row| row.get(0))
        .optional()
        .sql(|| format!("find namespace {name}"))
}

fn missing(name: &Namespace) -> Error {
    Error::new(ErrorKind::NotFound, format!("namespace {:?}", name.as_str()))
}
