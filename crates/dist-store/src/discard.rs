//! Blobs that snapshots stand for.
//!
//! A snapshot that its layer's tar can be read back from may stand for the blob: the row goes, and
//! the snapshot gets a label, `dist.discarded/DIGEST`, that says so and how the blob is made again,
//! beside the labels that said where the blob is. Both in one transaction, and only where no
//! unclean stop can take the snapshot and where nobody else counts on the blob.

use std::collections::BTreeSet;

use dist_core::{
    Context as _, DISCARDED, DISTRIBUTION_SOURCE, Digest, ErrorKind, GC_REF_CONTENT, GC_ROOT,
    Labels, LeaseId, Namespace, Resource, Result, SnapshotKey,
};
use rusqlite::{Connection, OptionalExtension as _, params};

use crate::db::SqlContext as _;
use crate::registration::listed;
use crate::{LockGuard, Scope, Store, labels, leases};

/// The label of a lease that the operation of a process has; it holds nothing back when that died.
pub const OPERATION: &str = "dist.operation";

/// What a label says of a blob that is fetched, not made again.
pub const FETCHED: &str = "fetch";

/// A layer in the store that a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnpackedLayer {
    /// The committed snapshot.
    pub key: SnapshotKey,
    /// The layer's blob.
    pub digest: Digest,
    /// How the blob is made again of its tar; `None` where it has to be fetched.
    pub recipe: Option<String>,
    /// Whether what the recipe makes is certain to be the blob.
    pub certain: bool,
}

/// A blob that was discarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded {
    /// The snapshotter of the snapshot that stands for it.
    pub snapshotter: String,
    /// The snapshot.
    pub key: SnapshotKey,
    /// How the blob is made again of its tar; `None` where it has to be fetched.
    pub recipe: Option<String>,
    /// Labels that say where it came from.
    pub sources: Labels,
}

/// Which labels may name a blob that is to go.
#[derive(Clone, Copy, Debug)]
pub enum NamedBy<'a> {
    /// Those of these documents.
    Only(&'a BTreeSet<Digest>),
    /// Any.
    Anything,
}

/// The label of a snapshot that stands for a blob.
#[must_use]
pub fn discarded_label(digest: &Digest) -> String {
    format!("{DISCARDED}{digest}")
}

impl Store {
    /// Lets snapshots of `snapshotter` stand for the blobs of their layers; returns the blobs that
    /// the namespace no longer has. `source` is where layers are that are not here any more.
    ///
    /// A blob stays that is more durable than the snapshot, that a lease holds or somebody brought
    /// by hand, that a document names beside those of `named_by`, or that could neither be made nor
    /// fetched again. Durable when this returns.
    ///
    /// # Errors
    /// `Storage`.
    pub fn discard(
        &self,
        scope: impl Into<Scope>,
        snapshotter: &str,
        layers: &[UnpackedLayer],
        named_by: NamedBy<'_>,
        source: Option<&(String, String)>,
    ) -> Result<Vec<Digest>> {
        let scope = scope.into();
        // Kept until it is done: who begins to work under one of these leases looks later.
        let mut idle: Vec<(LeaseId, LockGuard)> = Vec::new();
        let gone = self.db().write_freeing(|transaction| {
            let mut gone = Vec::new();
            for layer in layers {
                let mut work = Work {
                    store: self,
                    connection: transaction,
                    scope: &scope,
                    layer,
                    idle: &mut idle,
                };
                let Some(snapshot) = work.snapshot(snapshotter)? else { continue };
                let known = labels::SNAPSHOT.load(transaction, snapshot.id)?;
                let blob = work.blob()?;
                let label = discarded_label(&layer.digest);
                let mut sources = Labels::new();
                match &blob {
                    Some(blob) if !work.may_go(blob, &snapshot, named_by)? => continue,
                    Some(blob) => sources.extend(blob.sources()),
                    None if known.contains_key(&label) => continue,
                    None => sources.extend(source.cloned()),
                }
                let mut more =
                    Labels::from([(label, layer.recipe.clone().unwrap_or_else(|| FETCHED.into()))]);
                for (key, list) in &sources {
                    let values = list.split(',').filter(|value| !value.is_empty());
                    let mut all = known.clone();
                    for value in values {
                        all.extend(listed(&all, key, value));
                    }
                    more.extend(all.remove_entry(key));
                }
                labels::SNAPSHOT.add(transaction, snapshot.id, &more)?;
                if let Some(blob) = blob {
                    transaction
                        .execute("DELETE FROM content WHERE id = ?1", [blob.id])
                        .sql(|| format!("discard blob {}", layer.digest))?;
                    gone.push(layer.digest);
                }
            }
            Ok(gone)
        })?;
        for digest in &gone {
            // Not before: a row without its file is damage, a file without a row is a leak at most.
            if let Err(error) = self.remove_unowned(digest) {
                tracing::warn!(?error, %digest, "the file of a discarded blob is left to a collection");
            }
        }
        Ok(gone)
    }

    /// Finds the snapshots of a namespace that stand for a blob.
    ///
    /// # Errors
    /// `Storage`.
    pub fn discarded(&self, namespace: &Namespace, digest: &Digest) -> Result<Vec<Discarded>> {
        self.db().read(|connection| {
            let what = || format!("look for what stands for blob {digest}");
            let rows = || {
                connection
                    .prepare_cached(
                        "SELECT s.id, s.snapshotter, s.key, l.value FROM snapshot_labels l
                         JOIN snapshots s ON s.id = l.snapshot_id
                         WHERE s.namespace = ?1 AND l.name = ?2 AND s.kind = 'committed'
                         ORDER BY s.id",
                    )?
                    .query_map((namespace.as_str(), discarded_label(digest)), |row| {
                        Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
                    })?
                    .collect::<rusqlite::Result<Vec<(i64, String, String, String)>>>()
            };
            let found = rows().sql(what)?.into_iter().map(|(id, snapshotter, key, recipe)| {
                let mut sources = labels::SNAPSHOT.load(connection, id)?;
                sources.retain(|key, _| key.starts_with(DISTRIBUTION_SOURCE));
                let recipe = Some(recipe).filter(|recipe| recipe != FETCHED);
                let key = key.parse().context(ErrorKind::Storage, what)?;
                Ok(Discarded { snapshotter, key, recipe, sources })
            });
            found.collect()
        })
    }
}

/// A snapshot that may stand for a blob.
struct Snapshot {
    id: i64,
    /// Whether it and all below it outlive an unclean stop.
    durable: bool,
}

/// A blob that may go.
struct Blob {
    id: i64,
    durable: bool,
    labels: Labels,
}

impl Blob {
    fn sources(&self) -> impl Iterator<Item = (String, String)> {
        let is_source = |(key, _): &(&String, &String)| key.starts_with(DISTRIBUTION_SOURCE);
        self.labels.iter().filter(is_source).map(|(key, value)| (key.clone(), value.clone()))
    }
}

struct Work<'a> {
    store: &'a Store,
    connection: &'a Connection,
    scope: &'a Scope,
    layer: &'a UnpackedLayer,
    /// The locks of leases that nobody uses.
    idle: &'a mut Vec<(LeaseId, LockGuard)>,
}

impl Work<'_> {
    fn snapshot(&self, snapshotter: &str) -> Result<Option<Snapshot>> {
        self.connection
            .prepare_cached(
                "WITH RECURSIVE chain (id, parent_id, boot_id) AS (
                     SELECT id, parent_id, boot_id FROM snapshots
                     WHERE namespace = ?1 AND snapshotter = ?2 AND key = ?3 AND kind = 'committed'
                     UNION ALL
                     SELECT s.id, s.parent_id, s.boot_id
                     FROM snapshots s JOIN chain ON s.id = chain.parent_id
                 )
                 SELECT (SELECT id FROM chain LIMIT 1), max(boot_id IS NOT NULL) FROM chain",
            )
            .and_then(|mut statement| {
                let key = self.layer.key.as_str();
                statement.query_row((self.scope.namespace.as_str(), snapshotter, key), |row| {
                    let id: Option<i64> = row.get(0)?;
                    let unsettled: Option<bool> = row.get(1)?;
                    Ok(id.map(|id| Snapshot { id, durable: unsettled == Some(false) }))
                })
            })
            .sql(|| format!("find snapshot {}", self.layer.key))
    }

    fn blob(&self) -> Result<Option<Blob>> {
        let row: Option<(i64, bool)> = self
            .connection
            .query_row(
                "SELECT id, boot_id IS NULL FROM content WHERE namespace = ?1 AND digest = ?2",
                (self.scope.namespace.as_str(), self.layer.digest.to_string()),
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()
            .sql(|| format!("find blob {}", self.layer.digest))?;
        row.map(|(id, durable)| {
            let labels = labels::CONTENT.load(self.connection, id)?;
            Ok(Blob { id, durable, labels })
        })
        .transpose()
    }

    fn may_go(&mut self, blob: &Blob, snapshot: &Snapshot, named_by: NamedBy<'_>) -> Result<bool> {
        let lasts = snapshot.durable || !blob.durable;
        let comes_back = self.layer.certain || blob.sources().next().is_some();
        Ok(lasts
            && comes_back
            && !blob.labels.contains_key(GC_ROOT)
            && !self.is_named(named_by)?
            && !self.is_held()?)
    }

    /// Whether a document names the blob that is not meant.
    fn is_named(&self, named_by: NamedBy<'_>) -> Result<bool> {
        let NamedBy::Only(meant) = named_by else { return Ok(false) };
        let digest = self.layer.digest;
        let what = || format!("look for what names blob {digest}");
        let mut statement = self
            .connection
            .prepare_cached(
                "SELECT c.digest FROM content_labels l JOIN content c ON c.id = l.content_id
                 WHERE c.namespace = ?1 AND l.value = ?2 AND l.name GLOB ?3",
            )
            .sql(what)?;
        let names = format!("{GC_REF_CONTENT}*");
        let mut rows = statement
            .query(params![self.scope.namespace.as_str(), digest.to_string(), names])
            .sql(what)?;
        while let Some(row) = rows.next().sql(what)? {
            let by: String = row.get(0).sql(what)?;
            if !by.parse().is_ok_and(|by: Digest| meant.contains(&by)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a lease holds the blob, but for one of an operation whose process is dead.
    fn is_held(&mut self) -> Result<bool> {
        let resource = Resource::Content(self.layer.digest);
        for (lease, id) in leases::holders(self.connection, &self.scope.namespace, &resource)? {
            let labels = labels::LEASE.load(self.connection, id)?;
            if !labels.contains_key(OPERATION) {
                return Ok(true);
            }
            if self.idle.iter().any(|(idle, _)| *idle == lease) {
                continue;
            }
            match self.store.idle_lease(&self.scope.namespace, &lease)? {
                Some(lock) => self.idle.push((lease, lock)),
                None => return Ok(true),
            }
        }
        Ok(false)
    }
}
