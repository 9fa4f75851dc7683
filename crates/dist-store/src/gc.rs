//! Garbage: what no root leads to.
//!
//! Roots are containers, leases and images that have not ended, blobs and snapshots with the label
//! [`dist_core::GC_ROOT`], and ingests that are being written or were within a day. A lease has not
//! ended while whoever made it works under it. From there
//! labels, image targets, snapshot parents and what leases hold lead on, always within one
//! namespace. Raw namespaces are left alone.

mod files;
mod graph;
mod label;
mod load;
mod plan;

use std::fmt;
use std::path::PathBuf;

use dist_core::{ContainerId, Error, ErrorKind, LeaseId, Namespace, Resource, Result};
use rusqlite::Connection;

use self::load::World;
use self::plan::Plan;
use crate::db::{Session, SqlContext as _};
use crate::{SnapshotId, Store, fsio};

/// How often what is dead is found out beside the writers, before they have to wait for once.
const ATTEMPTS: u32 = 3;

/// Choices for [`Store::collect`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcOptions {
    /// Nothing is removed; the answer says what would be.
    pub dry_run: bool,
}

/// What a collection removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// What nothing kept, in the order in which it went.
    pub removed: Vec<Removed>,
    /// Files that belonged to nothing: what processes left that were killed, and what had been in
    /// quarantine.
    pub leaked: Vec<Leak>,
    /// The next moment at which something ends, in nanoseconds since the epoch: nobody has to
    /// change anything for the next collection to find more.
    pub next_end: Option<i64>,
}

/// Something that nothing kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Where it was.
    pub namespace: Namespace,
    /// What it was.
    pub object: Object,
    /// The space that its files take, as far as the records know it: 0 for a blob that another
    /// namespace still has and for a snapshot that was not committed.
    pub bytes: u64,
    /// Which directory a snapshot had.
    pub snapshot_id: Option<SnapshotId>,
    /// Why nothing kept it.
    pub why: Why,
}

/// Why nothing keeps something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It ended.
    Ended {
        /// When, in nanoseconds since the epoch.
        at: i64,
    },
    /// Nothing refers to it.
    Unreferenced,
    /// What refers to it is not kept either: one such thing.
    OnlyBy(Object),
}

/// A file or directory that belonged to nothing, or was long enough in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leak {
    /// Where it was.
    pub path: PathBuf,
    /// The space it took; 0 where that is not known.
    pub bytes: u64,
    /// When its time in quarantine ended, in nanoseconds since the epoch.
    pub ended: Option<i64>,
}

/// Whether something is kept, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Explanation {
    /// The way from a root to it.
    Kept(Vec<Step>),
    /// The next collection takes it.
    Dead(Why),
}

/// One step of the way from a root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is kept.
    pub object: Object,
    /// Why: the first as a root, the others by the one before.
    pub reason: Reason,
}

/// Something that can be collected.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// A lease, which nothing can refer to.
    Lease(LeaseId),
    /// A container, which is never collected.
    Container(ContainerId),
    /// Anything else.
    Resource(Resource),
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(id) => write!(f, "lease {id}"),
            Self::Container(id) => write!(f, "container {id}"),
            Self::Resource(resource) => resource.fmt(f),
        }
    }
}

/// Why something is kept: as a root, or by what is before it in a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It is a registered image.
    Registered {
        /// When that ends, in nanoseconds since the epoch.
        expires: Option<i64>,
    },
    /// It is a lease or an ingest that has not ended.
    Unexpired {
        /// When it ends, in nanoseconds since the epoch.
        expires: Option<i64>,
    },
    /// It is an ingest that is being written right now, or a lease that somebody works under.
    InUse,
    /// This label of its own says so.
    Labelled(Box<str>),
    /// It is a container.
    Container,
    /// The container runs on it.
    Rootfs,
    /// The lease holds it.
    Held,
    /// The image names it.
    Target,
    /// The snapshot stands on it.
    Parent,
    /// The ingest will be it.
    Expected,
    /// This label of what is before it refers to it.
    Refers(Box<str>),
    /// This label of its own refers to what is before it.
    ReferredBy(Box<str>),
}

impl Store {
    /// Removes what nothing keeps, in all namespaces but raw ones, and files that belong to nothing.
    /// The directories of snapshots, and what lies in the trash, are left to whoever makes them.
    ///
    /// What is dead is found out beside readers and writers; rows then go in short transactions,
    /// and only while nobody has changed anything since. Rows go before files, so a crash leaves
    /// files at most, and the next collection takes them. What went is added to `collected` as it
    /// goes, also where something fails later.
    ///
    /// # Errors
    /// `Storage`.
    pub fn collect(&self, options: GcOptions, collected: &mut Collected) -> Result<()> {
        if options.dry_run {
            let ingests = self.all_ingests()?;
            let plan = self.db().read(|connection| Plan::make(self, connection, ingests))?;
            collected.next_end = plan.next_end();
            collected.removed.extend(plan.all());
            collected.leaked.extend(files::leaks(self, &plan)?);
            return Ok(());
        }
        self.check_writable()?;
        let mut session = self.db().session()?;
        self.collect_rows(&mut session, collected)?;
        session.end();
        files::remove_leaks(self, collected)?;
        files::remove_locks(self)
    }

    fn collect_rows(&self, session: &mut Session<'_>, collected: &mut Collected) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let ingests = self.all_ingests()?;
            let plan = session.read(|rows| Plan::make(self, rows, ingests))?;
            collected.next_end = plan.next_end();
            let mut undisturbed = true;
            for chunk in plan.chunks() {
                let deleted =
                    session.write_if_same(|transaction| plan.delete(transaction, chunk))?;
                undisturbed = deleted.is_some();
                if !undisturbed {
                    break;
                }
                collected.removed.extend(chunk.iter().map(|node| plan.removed(*node)));
            }
            if undisturbed {
                return plan.remove_ingests(self, collected);
            }
        }
        // There is always somebody who writes: they wait this once.
        let ingests = self.all_ingests()?;
        let plan = session.write(|transaction| {
            let plan = Plan::make(self, transaction, ingests.clone())?;
            plan.chunks().try_for_each(|chunk| plan.delete(transaction, chunk))?;
            Ok(plan)
        })?;
        collected.next_end = plan.next_end();
        collected.removed.extend(plan.chunks().flatten().map(|node| plan.removed(*node)));
        plan.remove_ingests(self, collected)
    }

    /// Says what keeps something, or why nothing does.
    ///
    /// # Errors
    /// `NotFound` where it is not there; `Storage`.
    pub fn explain(&self, namespace: &Namespace, resource: &Resource) -> Result<Explanation> {
        let ingests = self.all_ingests()?;
        let plan = self.db().read(|connection| Plan::make(self, connection, ingests))?;
        plan.explain(namespace, resource)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{resource} is not there")))
    }

    /// How many objects were ever deleted, by whatever process, but for those that a collection
    /// removed. Cheaper than a collection.
    ///
    /// # Errors
    /// `Storage`.
    pub fn deletions(&self) -> Result<i64> {
        self.db().read(deletions)
    }

    /// When the next lease or image ends, in nanoseconds since the epoch. Cheaper than a collection.
    ///
    /// # Errors
    /// `Storage`.
    pub fn next_end(&self) -> Result<Option<i64>> {
        self.db().read(|connection| World::next_end(connection, fsio::now()))
    }
}

fn deletions(connection: &Connection) -> Result<i64> {
    connection
        .query_row("SELECT count FROM deletions", [], |row| row.get(0))
        .sql(|| "count deletions".into())
}

#[cfg(test)]
mod tests;
