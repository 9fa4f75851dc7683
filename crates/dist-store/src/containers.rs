//! Containers: the rows of `containers`, `container_labels`, `container_extensions` and `tasks`.
//!
//! A container keeps its snapshot from being collected, whether that exists yet or not. Nothing here
//! is synced: after a power cut nothing runs, and the snapshot of a container is dropped.

use std::collections::BTreeMap;
use std::sync::Arc;

use dist_core::{
    Any, Container, ContainerId, Context as _, Error, ErrorKind, Exit, LabelChange, Namespace,
    Result, Task,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::db::{Db, SqlContext as _};
use crate::{Store, fsio, labels, scope};

const COLUMNS: &str = "SELECT id, name, image, runtime, options_type, options, spec_type, spec,
    snapshotter, snapshot_key, created_at, updated_at,
    boot_id, address, version, exit_status, exited_at
    FROM containers LEFT JOIN tasks ON container_id = id";

/// The containers of one namespace.
#[derive(Clone, Debug)]
pub struct ContainerStore {
    db: Arc<Db>,
    namespace: Namespace,
}

impl Store {
    /// The containers of a namespace.
    #[must_use]
    pub fn containers(&self, namespace: &Namespace) -> ContainerStore {
        ContainerStore { db: Arc::clone(self.db()), namespace: namespace.clone() }
    }
}

impl ContainerStore {
    /// Makes a container. Its times and its task are not taken; they are told by the answer.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn create(&self, container: &Container) -> Result<Container> {
        self.db.demand_space()?;
        self.db.write_lazily(|transaction| {
            scope::add_namespace(transaction, &self.namespace)?;
            let Container { id, image, runtime, snapshotter, snapshot_key, .. } = container;
            let (options_type, options) = columns(container.runtime_options.as_ref());
            let (spec_type, spec) = columns(container.spec.as_ref());
            let count = transaction
                .execute(
                    "INSERT INTO containers (namespace, name, image, runtime, options_type, options,
                     spec_type, spec, snapshotter, snapshot_key, created_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11)
                     ON CONFLICT (namespace, name) DO NOTHING",
                    params![
                        self.namespace.as_str(),
                        id.as_str(),
                        image,
                        runtime,
                        options_type,
                        options,
                        spec_type,
                        spec,
                        snapshotter,
                        snapshot_key,
                        fsio::now(),
                    ],
                )
                .sql(|| format!("make container {id}"))?;
            if count == 0 {
                let message = format!("container {:?}", id.as_str());
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            let row = transaction.last_insert_rowid();
            labels::CONTAINER.add(transaction, row, &container.labels)?;
            add_extensions(transaction, row, container)?;
            self.load(transaction, id)
        })
    }

    /// Reads one container.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn get(&self, id: &ContainerId) -> Result<Container> {
        self.db.read(|connection| self.load(connection, id))
    }

    /// Reads all containers, ordered by id.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<Container>> {
        self.db.read(|connection| {
            let rows = || {
                connection
                    .prepare_cached(&format!("{COLUMNS} WHERE namespace = ?1 ORDER BY name"))?
                    .query_map([self.namespace.as_str()], Record::read)?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let rows = rows().sql(|| "list containers".into())?;
            rows.into_iter().map(|row| row.container(connection)).collect()
        })
    }

    /// Changes a container: `change` is given what it is, inside the transaction, and its labels, its
    /// image, its spec, its snapshot key and its extensions are written as it leaves them. Nothing is
    /// written where it fails. Tells what the container is now.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long; those of `change`; `Storage`.
    pub fn update(
        &self,
        id: &ContainerId,
        change: impl FnOnce(&mut Container) -> Result<()>,
    ) -> Result<Container> {
        self.db.demand_space()?;
        self.db.write_lazily(|transaction| {
            let row = self.row(transaction, id)?;
            let mut container = self.load(transaction, id)?;
            change(&mut container)?;
            let (spec_type, spec) = columns(container.spec.as_ref());
            transaction
                .execute(
                    "UPDATE containers SET image = ?2, spec_type = ?3, spec = ?4,
                     snapshot_key = ?5, updated_at = ?6 WHERE id = ?1",
                    params![
                        row,
                        container.image,
                        spec_type,
                        spec,
                        container.snapshot_key,
                        fsio::now()
                    ],
                )
                .and_then(|_| {
                    let sql = "DELETE FROM container_extensions WHERE container_id = ?1";
                    transaction.execute(sql, [row])
                })
                .sql(|| format!("change container {id}"))?;
            add_extensions(transaction, row, &container)?;
            let labels = LabelChange::Replace(std::mem::take(&mut container.labels));
            labels::CONTAINER.change(transaction, row, &labels)?;
            self.load(transaction, id)
        })
    }

    /// Says what is known of a container's processes, in place of what was known.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn set_task(&self, id: &ContainerId, task: &Task) -> Result<()> {
        self.db.write_lazily(|transaction| {
            let row = self.row(transaction, id)?;
            let Task { boot_id, address, version, exit } = task;
            transaction
                .execute(
                    "INSERT INTO tasks
                     (container_id, boot_id, address, version, exit_status, exited_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                     ON CONFLICT (container_id) DO UPDATE SET boot_id = excluded.boot_id,
                     address = excluded.address, version = excluded.version,
                     exit_status = excluded.exit_status, exited_at = excluded.exited_at",
                    params![
                        row,
                        boot_id,
                        address,
                        version,
                        exit.map(|exit| exit.status),
                        exit.map(|exit| exit.at)
                    ],
                )
                .sql(|| format!("write the task of container {id}"))?;
            Ok(())
        })
    }

    /// Forgets a container's processes, of which nothing is left.
    ///
    /// # Errors
    /// `NotFound` where it has none; `Storage`.
    pub fn forget_task(&self, id: &ContainerId) -> Result<()> {
        self.db.write_lazily(|transaction| {
            let row = self.row(transaction, id)?;
            let count = transaction
                .execute("DELETE FROM tasks WHERE container_id = ?1", [row])
                .sql(|| format!("forget the task of container {id}"))?;
            if count == 0 {
                let message = format!("task of container {:?}", id.as_str());
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            Ok(())
        })
    }

    /// Deletes a container; from now on its snapshot can be collected.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn delete(&self, id: &ContainerId) -> Result<()> {
        self.db.write_lazily(|transaction| {
            let row = self.row(transaction, id)?;
            transaction
                .execute("DELETE FROM containers WHERE id = ?1", [row])
                .sql(|| format!("delete container {id}"))?;
            Ok(())
        })
    }

    fn load(&self, connection: &Connection, id: &ContainerId) -> Result<Container> {
        let row = connection
            .prepare_cached(&format!("{COLUMNS} WHERE namespace = ?1 AND name = ?2"))
            .and_then(|mut statement| {
                let key = (self.namespace.as_str(), id.as_str());
                statement.query_row(key, Record::read).optional()
            })
            .sql(|| format!("read container {id}"))?;
        row.ok_or_else(|| missing(id))?.container(connection)
    }

    fn row(&self, transaction: &Transaction<'_>, id: &ContainerId) -> Result<i64> {
        transaction
            .query_row(
                "SELECT id FROM containers WHERE namespace = ?1 AND name = ?2",
                (self.namespace.as_str(), id.as_str()),
                |row| row.get(0),
            )
            .optional()
            .sql(|| format!("find container {id}"))?
            .ok_or_else(|| missing(id))
    }
}

fn add_extensions(transaction: &Transaction<'_>, row: i64, container: &Container) -> Result<()> {
    for (name, any) in &container.extensions {
        transaction
            .execute(
                "INSERT INTO container_extensions (container_id, name, type, value)
                 VALUES (?1, ?2, ?3, ?4)",
                params![row, name, any.type_url, any.value],
            )
            .sql(|| format!("write the extensions of container {}", container.id))?;
    }
    Ok(())
}

fn missing(id: &ContainerId) -> Error {
    Error::new(ErrorKind::NotFound, format!("container {:?}", id.as_str()))
}

fn columns(any: Option<&Any>) -> (Option<&str>, Option<&[u8]>) {
    (any.map(|any| any.type_url.as_str()), any.map(|any| any.value.as_slice()))
}

/// A row, but for what other tables have of it.
struct Record {
    id: i64,
    name: String,
    container: [String; 4],
    options: Option<Any>,
    spec: Option<Any>,
    times: (i64, i64),
    task: Option<Task>,
}

impl Record {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let any = |at: usize| -> rusqlite::Result<Option<Any>> {
            let (type_url, value): (Option<String>, Option<Vec<u8>>) =
                (row.get(at)?, row.get(at + 1)?);
            Ok(type_url.zip(value).map(|(type_url, value)| Any { type_url, value }))
        };
        let exit = match (row.get(15)?, row.get(16)?) {
            (Some(status), Some(at)) => Some(Exit { status, at }),
            _ => None,
        };
        let task = match row.get(12)? {
            Some(boot_id) => {
                Some(Task { boot_id, address: row.get(13)?, version: row.get(14)?, exit })
            }
            None => None,
        };
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            container: [row.get(2)?, row.get(3)?, row.get(8)?, row.get(9)?],
            options: any(4)?,
            spec: any(6)?,
            times: (row.get(10)?, row.get(11)?),
            task,
        })
    }

    fn container(self, connection: &Connection) -> Result<Container> {
        let extensions = || {
            connection
                .prepare_cached(
                    "SELECT name, type, value FROM container_extensions WHERE container_id = ?1",
                )?
                .query_map([self.id], |row| {
                    Ok((row.get(0)?, Any { type_url: row.get(1)?, value: row.get(2)? }))
                })?
                .collect::<rusqlite::Result<BTreeMap<_, _>>>()
        };
        let what = || format!("read container {:?}", self.name);
        let id = self.name.parse().context(ErrorKind::Storage, what)?;
        let extensions = extensions().sql(what)?;
        let [image, runtime, snapshotter, snapshot_key] = self.container;
        Ok(Container {
            id,
            labels: labels::CONTAINER.load(connection, self.id)?,
            image,
            runtime,
            runtime_options: self.options,
            spec: self.spec,
            snapshotter,
            snapshot_key,
            extensions,
            created_at: self.times.0,
            updated_at: self.times.1,
            task: self.task,
        })
    }
}
