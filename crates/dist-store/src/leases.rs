//! Leases: the rows of `leases`, `lease_labels` and `lease_resources`.

use std::borrow::Cow;
use std::sync::Arc;

use dist_core::{
    Cancel, Context as _, Error, ErrorKind, LabelChange, Labels, Lease, LeaseId, Namespace,
    Resource, Result,
};
use rusqlite::{Connection, Transaction, params};

use crate::db::{Db, SqlContext as _};
use crate::{LockGuard, Store, fsio, labels, scope};

/// The leases of one namespace.
#[derive(Clone, Debug)]
pub struct LeaseStore {
    db: Arc<Db>,
    namespace: Namespace,
}

impl Store {
    /// The leases of a namespace.
    #[must_use]
    pub fn leases(&self, namespace: &Namespace) -> LeaseStore {
        LeaseStore { db: Arc::clone(self.db()), namespace: namespace.clone() }
    }

    /// Keeps a lease beyond the end that its label says, until the guard is dropped or this process
    /// has died: however long the work takes, and whatever is done to the clock.
    ///
    /// Waits where somebody does so already. For a lease of one's own that is a moment at most: a
    /// collection that looks whether anybody does.
    ///
    /// # Errors
    /// `Cancelled`; `Storage`.
    pub fn use_lease(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
        cancel: &Cancel,
    ) -> Result<LockGuard> {
        self.lock(&use_of(namespace, id), cancel)
    }

    /// The lock of [`Store::use_lease`] where nobody has it: as long as it is kept nobody gets it.
    pub(crate) fn idle_lease(
        &self,
        namespace: &Namespace,
        id: &LeaseId,
    ) -> Result<Option<LockGuard>> {
        self.try_lock(&use_of(namespace, id))
    }

    /// Whether a lease is being used, see [`Store::use_lease`].
    pub(crate) fn is_lease_used(&self, namespace: &Namespace, id: &LeaseId) -> Result<bool> {
        self.is_locked(&use_of(namespace, id))
    }
}

/// The lock of whoever uses a lease.
fn use_of(namespace: &Namespace, id: &LeaseId) -> String {
    format!("lease {}/{}", namespace.as_str(), id.as_str())
}

impl LeaseStore {
    /// Makes a lease; without an `id` it gets one of its own.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn create(&self, id: Option<LeaseId>, labels: &Labels) -> Result<Lease> {
        self.db.demand_space()?;
        let id = match id {
            Some(id) => id,
            None => random_id()?,
        };
        self.db.write(|transaction| self.insert(transaction, id, labels).map(|(lease, _)| lease))
    }

    /// Makes the lease of a short piece of work that holds `resources`, whether they exist or not.
    ///
    /// The lease is not synced: after a power cut nobody is left to need it.
    ///
    /// # Errors
    /// As [`LeaseStore::create`].
    pub fn create_lazily(&self, labels: &Labels, resources: &[Resource]) -> Result<LeaseId> {
        self.db.demand_space()?;
        let id = random_id()?;
        self.db.write_lazily(|transaction| {
            let (lease, row) = self.insert(transaction, id, labels)?;
            resources.iter().try_for_each(|resource| scope::hold(transaction, row, resource))?;
            Ok(lease.id)
        })
    }

    fn insert(
        &self,
        transaction: &Transaction<'_>,
        id: LeaseId,
        labels: &Labels,
    ) -> Result<(Lease, i64)> {
        let created_at = fsio::now();
        scope::add_namespace(transaction, &self.namespace)?;
        let count = transaction
            .execute(
                "INSERT INTO leases (namespace, name, created_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (namespace, name) DO NOTHING",
                params![self.namespace.as_str(), id.as_str(), created_at],
            )
            .sql(|| format!("make lease {id}"))?;
        if count == 0 {
            let message = format!("lease {:?}", id.as_str());
            return Err(Error::new(ErrorKind::AlreadyExists, message));
        }
        let row = transaction.last_insert_rowid();
        labels::LEASE.add(transaction, row, labels)?;
        let labels = labels::LEASE.load(transaction, row)?;
        Ok((Lease { id, labels, created_at }, row))
    }

    /// Reads one lease.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn get(&self, id: &LeaseId) -> Result<Lease> {
        self.db.read(|connection| {
            let row = self.row(connection, id)?;
            let created_at = connection
                .query_row("SELECT created_at FROM leases WHERE id = ?1", [row], |row| row.get(0))
                .sql(|| format!("read lease {id}"))?;
            Ok(Lease { id: id.clone(), labels: labels::LEASE.load(connection, row)?, created_at })
        })
    }

    /// Reads all leases, ordered by id.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<Lease>> {
        self.db.read(|connection| {
            let rows = || {
                connection
                    .prepare_cached(
                        "SELECT id, name, created_at FROM leases WHERE namespace = ?1
                         ORDER BY id",
                    )?
                    .query_map([self.namespace.as_str()], |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                    })?
                    .collect::<rusqlite::Result<Vec<(i64, String, i64)>>>()
            };
            let rows = rows().sql(|| "list leases".into())?;
            let ids: Vec<i64> = rows.iter().map(|(id, ..)| *id).collect();
            let labels = labels::LEASE.load_all(connection, &ids)?;
            let lease = |((_, name, created_at), labels): ((i64, String, i64), Labels)| {
                let what = || format!("read lease {name:?}");
                let id = name.parse().context(ErrorKind::Storage, what)?;
                Ok(Lease { id, labels, created_at })
            };
            let mut leases = rows.into_iter().zip(labels).map(lease).collect::<Result<Vec<_>>>()?;
            leases.sort_unstable_by(|a, b| a.id.cmp(&b.id));
            Ok(leases)
        })
    }

    /// Deletes a lease; what only it kept can be collected from now on.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn delete(&self, id: &LeaseId) -> Result<()> {
        self.db.write_freeing(|transaction| {
            let row = self.row(transaction, id)?;
            transaction
                .execute("DELETE FROM leases WHERE id = ?1", [row])
                .sql(|| format!("delete lease {id}"))?;
            Ok(())
        })
    }

    /// As [`LeaseStore::delete`], not synced, for a lease of [`LeaseStore::create_lazily`]. None
    /// there is fine.
    ///
    /// # Errors
    /// `Storage`.
    pub fn delete_lazily(&self, id: &LeaseId) -> Result<()> {
        self.db.write_lazily(|transaction| delete(transaction, &self.namespace, id))
    }

    /// Changes labels of a lease, not synced. None there is fine.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    pub fn update_lazily(&self, id: &LeaseId, change: &LabelChange) -> Result<()> {
        self.db.write_lazily(|transaction| {
            match scope::find_lease(transaction, &self.namespace, id)? {
                Some(row) => labels::LEASE.change(transaction, row, change).map(drop),
                None => Ok(()),
            }
        })
    }

    /// Puts something into a lease. It need not exist.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Storage`.
    pub fn add(&self, id: &LeaseId, resource: &Resource) -> Result<()> {
        self.db.write(|transaction| scope::hold(transaction, self.row(transaction, id)?, resource))
    }

    /// As [`LeaseStore::add`] for several, not synced.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Storage`.
    pub fn add_lazily(&self, id: &LeaseId, resources: &[Resource]) -> Result<()> {
        self.db.write_lazily(|transaction| {
            let row = self.row(transaction, id)?;
            resources.iter().try_for_each(|resource| scope::hold(transaction, row, resource))
        })
    }

    /// Takes something out of a lease. It need not be in it.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Storage`.
    pub fn remove(&self, id: &LeaseId, resource: &Resource) -> Result<()> {
        self.db.write_freeing(|transaction| {
            scope::release(transaction, self.row(transaction, id)?, resource)
        })
    }

    /// What a lease holds: blobs, images, ingests and snapshots, each by name.
    ///
    /// # Errors
    /// `NotFound` for the lease; `Storage`.
    pub fn resources(&self, id: &LeaseId) -> Result<Vec<Resource>> {
        self.db.read(|connection| {
            let row = self.row(connection, id)?;
            let rows = || {
                connection
                    .prepare_cached(
                        "SELECT kind, snapshotter, name FROM lease_resources WHERE lease_id = ?1
                         ORDER BY kind, snapshotter, name",
                    )?
                    .query_map([row], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                    .collect::<rusqlite::Result<Vec<(String, String, String)>>>()
            };
            let rows = rows().sql(|| format!("list what lease {id} holds"))?;
            rows.into_iter().map(|(kind, of, name)| resource(&kind, of, &name)).collect()
        })
    }

    fn row(&self, connection: &Connection, id: &LeaseId) -> Result<i64> {
        scope::lease_row(connection, &self.namespace, id)
    }
}

/// Deletes a lease, if it is there.
pub(crate) fn delete(
    transaction: &Transaction<'_>,
    namespace: &Namespace,
    id: &LeaseId,
) -> Result<()> {
    transaction
        .execute(
            "DELETE FROM leases WHERE namespace = ?1 AND name = ?2",
            (namespace.as_str(), id.as_str()),
        )
        .sql(|| format!("delete lease {id}"))?;
    Ok(())
}

/// Whether any lease of a namespace holds something.
pub(crate) fn is_held(
    connection: &Connection,
    namespace: &Namespace,
    resource: &Resource,
) -> Result<bool> {
    let (kind, snapshotter, name) = columns(resource);
    connection
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM lease_resources r JOIN leases l ON l.id = r.lease_id
             WHERE l.namespace = ?1 AND r.kind = ?2 AND r.snapshotter = ?3 AND r.name = ?4)",
            params![namespace.as_str(), kind, snapshotter, name],
            |row| row.get(0),
        )
        .sql(|| format!("look for a lease that holds {resource}"))
}

/// The leases of a namespace that hold something, and their rows.
pub(crate) fn holders(
    connection: &Connection,
    namespace: &Namespace,
    resource: &Resource,
) -> Result<Vec<(LeaseId, i64)>> {
    let what = || format!("look for a lease that holds {resource}");
    let (kind, snapshotter, name) = columns(resource);
    let rows = || {
        connection
            .prepare_cached(
                "SELECT l.name, l.id FROM lease_resources r JOIN leases l ON l.id = r.lease_id
                 WHERE l.namespace = ?1 AND r.kind = ?2 AND r.snapshotter = ?3 AND r.name = ?4",
            )?
            .query_map(params![namespace.as_str(), kind, snapshotter, name], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })?
            .collect::<rusqlite::Result<Vec<(String, i64)>>>()
    };
    let rows = rows().sql(what)?.into_iter();
    rows.map(|(name, id)| Ok((name.parse().context(ErrorKind::Storage, what)?, id))).collect()
}

/// A resource as `lease_resources` has it: its kind, its snapshotter and its name.
pub(crate) fn columns(resource: &Resource) -> (&'static str, &str, Cow<'_, str>) {
    match resource {
        Resource::Content(digest) => ("content", "", digest.to_string().into()),
        Resource::Ingest(key) => ("ingest", "", key.as_str().into()),
        Resource::Image(name) => ("image", "", name.as_str().into()),
        Resource::Snapshot { snapshotter, key } => ("snapshot", snapshotter, key.as_str().into()),
    }
}

/// The reverse of [`columns`].
pub(crate) fn resource(kind: &str, snapshotter: String, name: &str) -> Result<Resource> {
    let what = || format!("read {kind} {name:?} of a lease");
    Ok(match kind {
        "content" => Resource::Content(name.parse().context(ErrorKind::Storage, what)?),
        "ingest" => Resource::Ingest(name.parse().context(ErrorKind::Storage, what)?),
        "image" => Resource::Image(name.parse().context(ErrorKind::Storage, what)?),
        "snapshot" => Resource::Snapshot {
            snapshotter: snapshotter.into(),
            key: name.parse().context(ErrorKind::Storage, what)?,
        },
        _ => return Err(Error::new(ErrorKind::Storage, what())),
    })
}

/// An id as clients of the field make them: the time in nanoseconds and four random letters.
fn random_id() -> Result<LeaseId> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let what = || "make a lease id".to_owned();
    let mut random = [0; 4];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context(ErrorKind::Internal, what)?;
    let letters = random.map(|byte| char::from(LETTERS[usize::from(byte % 64)]));
    let id = format!("{}-{}", fsio::now(), String::from_iter(letters));
    id.parse().context(ErrorKind::Internal, what)
}
