//! Snapshot records: the rows of `snapshots` and `snapshot_labels`.
//!
//! A row names a snapshot by `(namespace, snapshotter, key)` and its directory by `id`. Keys are
//! unique whatever the kind; parents are always committed and in the same namespace and
//! snapshotter; a row with children can't be deleted. A committed row carries the boot that wrote
//! its files until [`Store::settle`] has synced them. The directories themselves are the business
//! of whoever keeps the records.

mod row;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use dist_core::{
    DamagedStore, Error, ErrorKind, LabelChange, Labels, Namespace, Resource, Result,
    ResultExt as _, SNAPSHOT_REF, SnapshotInfo, SnapshotKey, SnapshotKind, Usage,
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use self::row::{BELOW_OPEN, FIND, LIST, PARENTS, RawRow, TREE};
use crate::db::{Db, SqlContext};
use crate::{Scope, Store, fsio, labels};

/// Names a snapshot's directory; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnapshotId(pub(crate) i64);

impl SnapshotId {
    /// The directory of the row `id`.
    pub(crate) fn from_row(id: i64) -> Self {
        Self(id)
    }

    /// Reads the name of a directory.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id: i64 = text.parse().ok()?;
        (id > 0 && id.to_string() == text).then_some(Self(id))
    }
}

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotRecord {
    /// Its directory.
    pub id: SnapshotId,
    /// What a client sees of it.
    pub info: SnapshotInfo,
    /// What it takes on the disk; known once it is committed.
    pub usage: Usage,
    /// The directories below it, nearest first.
    pub parents: Vec<SnapshotId>,
}

/// The snapshot records of one namespace and one snapshotter; what is made goes into the scope's
/// lease.
#[derive(Clone, Debug)]
pub struct SnapshotStore {
    db: Arc<Db>,
    boot_id: Box<str>,
    scope: Scope,
    snapshotter: Box<str>,
}

impl Store {
    /// The snapshot records of one namespace and one snapshotter. Snapshots that are made, or found
    /// when they should be made, go into the scope's lease.
    #[must_use]
    pub fn snapshots(&self, scope: impl Into<Scope>, snapshotter: &str) -> SnapshotStore {
        SnapshotStore {
            db: Arc::clone(self.db()),
            boot_id: self.boot_id().into(),
            scope: scope.into(),
            snapshotter: snapshotter.into(),
        }
    }

    /// The directories of a snapshotter that have a row, of all namespaces.
    ///
    /// A directory that was seen before this call and is not in the answer belongs to nobody.
    ///
    /// # Errors
    /// `Storage`.
    pub fn snapshot_ids(&self, snapshotter: &str) -> Result<BTreeSet<SnapshotId>> {
        self.db().read(|connection| {
            let ids = || {
                connection
                    .prepare("SELECT id FROM snapshots WHERE snapshotter = ?1")?
                    .query_map([snapshotter], |row| row.get(0).map(SnapshotId))?
                    .collect::<rusqlite::Result<_>>()
            };
            ids().sql(|| format!("list the snapshots of {snapshotter}"))
        })
    }

    /// The directories of all snapshots of a snapshotter, in all namespaces, that an active one or a
    /// view stands on: those that can be part of a mount.
    ///
    /// # Errors
    /// `Storage`.
    pub fn snapshots_below_open(&self, snapshotter: &str) -> Result<BTreeSet<SnapshotId>> {
        below_open(self.db(), snapshotter)
    }

    /// The highest id that any snapshot ever had; `None` where there was none.
    ///
    /// # Errors
    /// `Storage`.
    pub fn last_snapshot_id(&self) -> Result<Option<SnapshotId>> {
        self.db().read(|connection| {
            connection
                .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'snapshots'", [], |row| {
                    row.get(0).map(SnapshotId)
                })
                .optional()
                .sql(|| "find the last snapshot".into())
        })
    }
}

fn below_open(db: &Db, snapshotter: &str) -> Result<BTreeSet<SnapshotId>> {
    db.read(|connection| {
        let ids = || {
            connection
                .prepare(BELOW_OPEN)?
                .query_map([snapshotter], |row| row.get(0).map(SnapshotId))?
                .collect::<rusqlite::Result<_>>()
        };
        ids().sql(|| "list the snapshots that others stand on".into())
    })
}

impl SnapshotStore {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.scope.namespace
    }

    /// Finds a record.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn get(&self, key: &SnapshotKey) -> Result<SnapshotRecord> {
        self.db.read(|connection| self.find(connection, key)?.ok_or_else(|| not_found(key)))
    }

    /// Lists all snapshots, parents before their children.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<SnapshotInfo>> {
        self.db.read(|connection| {
            let rows = || -> rusqlite::Result<Vec<RawRow>> {
                connection
                    .prepare(LIST)?
                    .query_map(
                        params![self.scope.namespace.as_str(), self.snapshotter],
                        RawRow::read,
                    )?
                    .collect()
            };
            let rows = rows().sql(|| "list snapshots".into())?;
            let mut ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            ids.sort_unstable();
            let labels = labels::SNAPSHOT.load_all(connection, &ids)?;
            let mut labels: HashMap<i64, Labels> = ids.into_iter().zip(labels).collect();
            rows.into_iter()
                .map(|row| {
                    let labels = labels.remove(&row.id).unwrap_or_default();
                    row.info(labels)
                })
                .collect()
        })
    }

    /// As [`Store::snapshots_below_open`].
    ///
    /// # Errors
    /// `Storage`.
    pub fn below_open(&self) -> Result<BTreeSet<SnapshotId>> {
        below_open(&self.db, &self.snapshotter)
    }

    /// Adds an active snapshot or a view.
    ///
    /// One with the label `containerd.io/snapshot.ref` is not added where the snapshot that the
    /// label names is there already: there is nothing left to do for it. A power cut may take it
    /// back, as it may what it is to become, and that of a container; any other is durable.
    ///
    /// # Errors
    /// `AlreadyExists` for the key and for what it is to become; `NotFound` for a missing parent;
    /// `InvalidArgument` for a parent that is not committed, and for the kind committed; `Storage`.
    pub fn insert(
        &self,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        kind: SnapshotKind,
        labels: &Labels,
    ) -> Result<SnapshotRecord> {
        if kind == SnapshotKind::Committed {
            let message = format!("make snapshot {key}: committed ones come from active ones");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.db.demand_space().during(|| format!("make snapshot {key}"))?;
        let now = fsio::now();
        let target = labels.get(SNAPSHOT_REF).and_then(|target| target.parse().ok());
        let add = |transaction: &Transaction<'_>| {
            for taken in target.iter().chain([key]) {
                if self.id(transaction, taken)?.is_some() {
                    self.scope.hold(transaction, &self.resource(taken))?;
                    return Ok(Err(exists(taken)));
                }
            }
            self.scope.made(transaction, &self.resource(key))?;
            let parent_id = match parent {
                None => None,
                Some(parent) => {
                    Some(self.parent(transaction, key, parent, ErrorKind::InvalidArgument)?)
                }
            };
            let insert = || {
                transaction.execute(
                    "INSERT INTO snapshots (namespace, snapshotter, key, parent_id, kind, bytes,
                         inodes, created_at, updated_at)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?6)",
                    params![
                        self.scope.namespace.as_str(),
                        self.snapshotter,
                        key.as_str(),
                        parent_id,
                        kind.to_string(),
                        now
                    ],
                )
            };
            insert().sql(|| format!("make snapshot {key}"))?;
            labels::SNAPSHOT.add(transaction, transaction.last_insert_rowid(), labels)?;
            self.find(transaction, key)?.ok_or_else(|| not_found(key)).map(Ok)
        };
        if target.is_some() || self.is_container(key)? {
            self.db.write_lazily(add)?
        } else {
            self.db.write(add)?
        }
    }

    /// Whether it is a container's, which a power cut ends, and whose own row is not synced either.
    fn is_container(&self, key: &SnapshotKey) -> Result<bool> {
        self.db.read(|connection| {
            connection
                .query_row(
                    "SELECT EXISTS (SELECT 1 FROM containers
                     WHERE namespace = ?1 AND snapshotter = ?2 AND snapshot_key = ?3)",
                    params![self.scope.namespace.as_str(), self.snapshotter, key.as_str()],
                    |row| row.get(0),
                )
                .sql(|| format!("find the container of snapshot {key}"))
        })
    }

    /// Turns the active snapshot `key` into the committed one `name`; not yet durable.
    ///
    /// The lease then holds the name instead of the key. Labels are replaced, not kept. A `parent`
    /// becomes the parent of a snapshot without one.
    ///
    /// # Errors
    /// `AlreadyExists` for the name; `NotFound` for the key or the parent; `FailedPrecondition`
    /// where the key is not active, has another parent, or `parent` is not committed; `Storage`.
    pub fn commit(
        &self,
        name: &SnapshotKey,
        key: &SnapshotKey,
        parent: Option<&SnapshotKey>,
        labels: &Labels,
        usage: Usage,
    ) -> Result<()> {
        let now = fsio::now();
        let stored = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        // The row of a snapshot that is not durable need not be so either.
        self.db.write_lazily(|transaction| {
            self.scope.made(transaction, &self.resource(name))?;
            if self.id(transaction, name)?.is_some() {
                return Ok(Err(exists(name)));
            }
            let active = self.find(transaction, key)?.ok_or_else(|| not_found(key))?;
            let parent_id = self.check_commit(transaction, &active, parent)?;
            let update = || {
                transaction.execute(
                    "UPDATE snapshots SET key = ?2, kind = 'committed', bytes = ?3, inodes = ?4,
                         created_at = ?5, updated_at = ?5, boot_id = ?6,
                         parent_id = COALESCE(parent_id, ?7)
                     WHERE id = ?1",
                    params![
                        active.id.0,
                        name.as_str(),
                        stored(usage.bytes),
                        stored(usage.inodes),
                        now,
                        self.boot_id,
                        parent_id
                    ],
                )
            };
            update().sql(|| format!("commit snapshot {key} as {name}"))?;
            let labels = LabelChange::Replace(labels.clone());
            labels::SNAPSHOT.change(transaction, active.id.0, &labels)?;
            self.scope.release(transaction, &self.resource(key))?;
            Ok(Ok(()))
        })?
    }

    /// Puts a snapshot that is there into the lease; returns whether it is.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Storage`.
    pub fn hold(&self, key: &SnapshotKey) -> Result<bool> {
        let resource = self.resource(key);
        let find = |connection: &Connection| Ok(self.id(connection, key)?.is_some());
        if self.db.read(|connection| self.scope.holds(connection, &resource))? {
            return self.db.read(find);
        }
        self.db.write(|transaction| {
            let found = find(transaction)?;
            if found {
                self.scope.hold(transaction, &resource)?;
            }
            Ok(found)
        })
    }

    /// Whether `active` may be committed; the id of the parent it gets.
    fn check_commit(
        &self,
        connection: &Connection,
        active: &SnapshotRecord,
        parent: Option<&SnapshotKey>,
    ) -> Result<Option<i64>> {
        let key = &active.info.key;
        let refuse = |why: String| {
            Err(Error::new(ErrorKind::FailedPrecondition, format!("commit snapshot {key}: {why}")))
        };
        if active.info.kind != SnapshotKind::Active {
            return refuse(format!("it is a {} one, not active", active.info.kind));
        }
        match (parent, &active.info.parent) {
            (None, _) => Ok(None),
            (Some(parent), Some(known)) if parent != known => {
                refuse(format!("its parent is {known}, it can't become {parent}"))
            }
            (Some(parent), _) => {
                self.parent(connection, key, parent, ErrorKind::FailedPrecondition).map(Some)
            }
        }
    }

    /// Deletes a record, durably but for that of a container; returns it.
    ///
    /// # Errors
    /// `NotFound`; `FailedPrecondition` where it has children; `Storage`.
    pub fn remove(&self, key: &SnapshotKey) -> Result<SnapshotRecord> {
        let remove = |transaction: &Transaction<'_>| {
            let record = self.find(transaction, key)?.ok_or_else(|| not_found(key))?;
            let child: Option<String> = transaction
                .query_row(
                    "SELECT key FROM snapshots WHERE parent_id = ?1 LIMIT 1",
                    [record.id.0],
                    |row| row.get(0),
                )
                .optional()
                .sql(|| format!("remove snapshot {key}"))?;
            if let Some(child) = child {
                let message = format!("remove snapshot {key}: it is the parent of {child}");
                return Err(Error::new(ErrorKind::FailedPrecondition, message));
            }
            transaction
                .execute("DELETE FROM snapshots WHERE id = ?1", [record.id.0])
                .sql(|| format!("remove snapshot {key}"))?;
            self.scope.release(transaction, &self.resource(key))?;
            Ok(record)
        };
        if self.is_container(key)? {
            self.db.write_freeing_lazily(remove)
        } else {
            self.db.write_freeing(remove)
        }
    }

    /// Deletes the record of a snapshot that could not be made. None there is fine.
    ///
    /// # Errors
    /// `Storage`.
    pub fn forget(&self, id: SnapshotId) -> Result<()> {
        self.db.write_freeing(|transaction| {
            let sql = "DELETE FROM snapshots WHERE id = ?1 AND kind <> 'committed'";
            transaction.execute(sql, [id.0]).sql(|| format!("forget snapshot {id}"))?;
            Ok(())
        })
    }

    /// Deletes the record of a committed snapshot whose files are lost, and those of the committed
    /// ones on top of it; returns their ids. A store that can't be written is left as it is.
    ///
    /// # Errors
    /// `FailedPrecondition` where an active snapshot or a view stands on it; `Storage`.
    pub fn forget_lost(&self, id: SnapshotId) -> Result<Vec<SnapshotId>> {
        if self.db.is_read_only() {
            return Ok(Vec::new());
        }
        let what = || format!("forget lost snapshot {id}");
        self.db.write_freeing(|transaction| {
            let tree = || {
                transaction
                    .prepare(TREE)?
                    .query_map([id.0], |row| {
                        Ok((SnapshotId(row.get(0)?), row.get(1)?, row.get(2)?))
                    })?
                    .collect::<rusqlite::Result<Vec<(SnapshotId, String, String)>>>()
            };
            let tree = tree().sql(what)?;
            if let Some((_, key, kind)) = tree.iter().find(|(.., kind)| kind != "committed") {
                let message = format!("the {kind} snapshot {key} stands on it, remove that first");
                return Err(Error::new(ErrorKind::FailedPrecondition, message)
                    .with_source(DamagedStore { mismatch: None }));
            }
            crate::durability::drop_tree(transaction, id.0).sql(what)?;
            Ok(tree.into_iter().map(|(id, ..)| id).collect())
        })
    }

    /// Changes the labels of a snapshot.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn update_labels(&self, key: &SnapshotKey, change: &LabelChange) -> Result<SnapshotInfo> {
        let now = fsio::now();
        self.db.write(|transaction| {
            let id = self.id(transaction, key)?.ok_or_else(|| not_found(key))?;
            transaction
                .execute("UPDATE snapshots SET updated_at = ?2 WHERE id = ?1", [id, now])
                .sql(|| format!("label snapshot {key}"))?;
            let labels = labels::SNAPSHOT.change(transaction, id, change)?;
            let record = self.find(transaction, key)?.ok_or_else(|| not_found(key))?;
            Ok(SnapshotInfo { labels, ..record.info })
        })
    }

    /// What a lease calls a snapshot.
    fn resource(&self, key: &SnapshotKey) -> Resource {
        Resource::Snapshot { snapshotter: self.snapshotter.clone(), key: key.clone() }
    }

    fn id(&self, connection: &Connection, key: &SnapshotKey) -> Result<Option<i64>> {
        connection
            .prepare_cached(
                "SELECT id FROM snapshots WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3",
            )
            .and_then(|mut statement| {
                let name = (self.scope.namespace.as_str(), &self.snapshotter, key.as_str());
                statement.query_row(name, |row| row.get(0)).optional()
            })
            .sql(|| format!("find snapshot {key}"))
    }

    /// The id of `parent`, which must be committed, else the error has the kind `uncommitted`.
    fn parent(
        &self,
        connection: &Connection,
        key: &SnapshotKey,
        parent: &SnapshotKey,
        uncommitted: ErrorKind,
    ) -> Result<i64> {
        let found = connection
            .prepare_cached(
                "SELECT id, kind = 'committed' FROM snapshots
                 WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3",
            )
            .and_then(|mut statement| {
                let name = (self.scope.namespace.as_str(), &self.snapshotter, parent.as_str());
                statement
                    .query_row(name, |row| Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?)))
                    .optional()
            })
            .sql(|| format!("find snapshot {parent}"))?;
        match found {
            Some((id, true)) => Ok(id),
            Some((_, false)) => {
                let message = format!("put snapshot {key} on {parent}: that is not committed");
                Err(Error::new(uncommitted, message))
            }
            None => {
                let message = format!("find {parent}, the parent of snapshot {key}: there is none");
                Err(Error::new(ErrorKind::NotFound, message))
            }
        }
    }

    fn find(&self, connection: &Connection, key: &SnapshotKey) -> Result<Option<SnapshotRecord>> {
        let read = || {
            let row = connection
                .prepare_cached(FIND)?
                .query_row(
                    params![self.scope.namespace.as_str(), self.snapshotter, key.as_str()],
                    RawRow::read,
                )
                .optional()?;
            let Some(row) = row else { return Ok(None) };
            let parents = connection
                .prepare_cached(PARENTS)?
                .query_map([row.id], |row| row.get(0).map(SnapshotId))?
                .collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(Some((row, parents)))
        };
        let found = read().sql(|| format!("find snapshot {key}"))?;
        let Some((row, parents)) = found else { return Ok(None) };
        let labels = labels::SNAPSHOT.load(connection, row.id)?;
        let (id, usage) = (SnapshotId(row.id), row.usage);
        Ok(Some(SnapshotRecord { id, info: row.info(labels)?, usage, parents }))
    }
}

fn not_found(key: &SnapshotKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("find snapshot {key}: there is none"))
}

fn exists(key: &SnapshotKey) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("make snapshot {key}: the key is taken"))
}
