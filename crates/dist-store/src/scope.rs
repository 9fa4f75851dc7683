//! On whose behalf the metadata is changed: a namespace, and the lease that keeps what is made.

use dist_core::{Error, ErrorKind, LeaseId, Namespace, Resource, Result};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use crate::db::SqlContext as _;
use crate::leases::columns;

/// A namespace, and the lease into which everything goes that is made, or found to be there when it
/// should be made, in the same transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The namespace. The first thing that is written into it makes it.
    pub namespace: Namespace,
    /// The lease, which must exist.
    pub lease: Option<LeaseId>,
}

impl From<Namespace> for Scope {
    fn from(namespace: Namespace) -> Self {
        Self { namespace, lease: None }
    }
}

impl From<&Namespace> for Scope {
    fn from(namespace: &Namespace) -> Self {
        namespace.clone().into()
    }
}

impl From<&Self> for Scope {
    fn from(scope: &Self) -> Self {
        scope.clone()
    }
}

impl Scope {
    /// Records that the namespace exists, and puts `made` into the lease.
    ///
    /// # Errors
    /// `NotFound` for a lease that does not exist; `Storage`.
    pub(crate) fn made(&self, transaction: &Transaction<'_>, made: &Resource) -> Result<()> {
        add_namespace(transaction, &self.namespace)?;
        self.hold(transaction, made)
    }

    /// Puts something into the lease, if there is one.
    ///
    /// # Errors
    /// `NotFound` for a lease that does not exist; `Storage`.
    pub(crate) fn hold(&self, transaction: &Transaction<'_>, resource: &Resource) -> Result<()> {
        match self.lease_row(transaction)? {
            Some(lease) => hold(transaction, lease, resource),
            None => Ok(()),
        }
    }

    /// Takes something that was deleted out of the lease, if there is one that holds it.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn release(&self, transaction: &Transaction<'_>, resource: &Resource) -> Result<()> {
        let Some(lease) = &self.lease else { return Ok(()) };
        match find_lease(transaction, &self.namespace, lease)? {
            Some(lease) => release(transaction, lease, resource),
            None => Ok(()),
        }
    }

    /// Whether there is no lease, or one that holds `resource`.
    ///
    /// # Errors
    /// `NotFound` for a lease that does not exist; `Storage`.
    pub(crate) fn holds(&self, connection: &Connection, resource: &Resource) -> Result<bool> {
        let Some(lease) = self.lease_row(connection)? else { return Ok(true) };
        let (kind, snapshotter, name) = columns(resource);
        connection
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM lease_resources
                 WHERE lease_id = ?1 AND kind = ?2 AND snapshotter = ?3 AND name = ?4)",
            )
            .and_then(|mut statement| {
                statement.query_row(params![lease, kind, snapshotter, name], |row| row.get(0))
            })
            .sql(|| format!("look for {resource} in a lease"))
    }

    /// Whether the namespace was made.
    ///
    /// # Errors
    /// `Storage`.
    pub(crate) fn exists(&self, connection: &Connection) -> Result<bool> {
        connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM namespaces WHERE name = ?1)")
            .and_then(|mut statement| {
                statement.query_row([self.namespace.as_str()], |row| row.get(0))
            })
            .sql(|| format!("find namespace {}", self.namespace))
    }

    fn lease_row(&self, connection: &Connection) -> Result<Option<i64>> {
        self.lease.as_ref().map(|lease| lease_row(connection, &self.namespace, lease)).transpose()
    }
}

/// Makes a namespace where there is none. Raw ones have no row, because nobody lists them.
pub(crate) fn add_namespace(transaction: &Transaction<'_>, namespace: &Namespace) -> Result<()> {
    if namespace.is_raw() {
        return Ok(());
    }
    transaction
        .prepare_cached("INSERT INTO namespaces (name) VALUES (?1) ON CONFLICT DO NOTHING")
        .and_then(|mut statement| statement.execute([namespace.as_str()]))
        .sql(|| format!("make namespace {namespace}"))?;
    Ok(())
}

/// The row of a lease, which must exist.
pub(crate) fn lease_row(
    connection: &Connection,
    namespace: &Namespace,
    lease: &LeaseId,
) -> Result<i64> {
    find_lease(connection, namespace, lease)?.ok_or_else(|| {
        let message = format!("lease {:?} does not exist", lease.as_str());
        Error::new(ErrorKind::NotFound, message)
    })
}

/// The row of a lease, if there is such a lease.
pub(crate) fn find_lease(
    connection: &Connection,
    namespace: &Namespace,
    lease: &LeaseId,
) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM leases WHERE namespace = ?1 AND name = ?2")
        .and_then(|mut statement| {
            statement.query_row((namespace.as_str(), lease.as_str()), |row| row.get(0)).optional()
        })
        .sql(|| format!("find lease {lease}"))
}

/// Puts something into the lease with the row `lease`.
pub(crate) fn hold(transaction: &Transaction<'_>, lease: i64, resource: &Resource) -> Result<()> {
    let (kind, snapshotter, name) = columns(resource);
    transaction
        .prepare_cached(
            "INSERT INTO lease_resources (lease_id, kind, snapshotter, name)
             VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
        )
        .and_then(|mut statement| statement.execute(params![lease, kind, snapshotter, name]))
        .sql(|| format!("put {resource} into a lease"))?;
    Ok(())
}

/// Takes something out of the lease with the row `lease`.
pub(crate) fn release(
    transaction: &Transaction<'_>,
    lease: i64,
    resource: &Resource,
) -> Result<()> {
    let (kind, snapshotter, name) = columns(resource);
    transaction
        .prepare_cached(
            "DELETE FROM lease_resources
             WHERE lease_id = ?1 AND kind = ?2 AND snapshotter = ?3 AND name = ?4",
        )
        .and_then(|mut statement| statement.execute(params![lease, kind, snapshotter, name]))
        .sql(|| format!("take {resource} out of a lease"))?;
    Ok(())
}
