//! What of one state of the store is dead, and how its rows go.

use std::collections::HashMap;

use dist_core::{Namespace, Resource, Result};
use rusqlite::{Connection, Transaction};

use super::graph::{Marks, NodeId, Via};
use super::load::World;
use super::{Collected, Explanation, Leak, Object, Removed, Step, Why};
use crate::db::SqlContext as _;
use crate::ingest::IngestEntry;
use crate::{SnapshotId, Store, fsio};

/// Rows that go in one transaction: a few milliseconds.
const CHUNK: usize = 512;

/// One state of the store, judged.
pub(super) struct Plan {
    world: World,
    marks: Marks,
    now: i64,
    /// The rows that go, in an order in which nothing refers to a row that is gone.
    rows: Vec<NodeId>,
    /// The ingests that go.
    ingests: Vec<NodeId>,
    referrers: HashMap<NodeId, NodeId>,
    /// The space that comes free with a blob.
    freed: HashMap<NodeId, u64>,
}

impl Plan {
    /// Reads a state and judges it by the clock. `ingests` were listed before.
    pub(super) fn make(
        store: &Store,
        connection: &Connection,
        ingests: Vec<IngestEntry>,
    ) -> Result<Self> {
        let now = fsio::now();
        let mut world = World::load(connection, ingests)?;
        world.used_leases(store, now)?;
        let marks = world.graph.mark(now);
        let referrers = world.graph.dead_referrers(&marks);
        let dead = (0..world.graph.nodes.len()).filter(|node| !marks.is_kept(*node));
        let (ingests, mut rows): (Vec<_>, Vec<_>) =
            dead.partition(|node| world.ingests.contains_key(node));
        let depths: HashMap<NodeId, usize> =
            rows.iter().map(|node| (*node, world.graph.depth(*node, Via::Parent))).collect();
        rows.sort_by_key(|node| {
            let depth = depths.get(node).copied().unwrap_or(0);
            (order(&world.graph.nodes[*node].object), std::cmp::Reverse(depth), *node)
        });
        let freed = freed(&world, &rows);
        Ok(Self { world, marks, now, rows, ingests, referrers, freed })
    }

    /// The rows that go, as many at once as one transaction may delete.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[NodeId]> {
        self.rows.chunks(CHUNK)
    }

    /// Deletes rows; nothing has changed since they were read. They do not count as deletions:
    /// nothing more is garbage after them.
    pub(super) fn delete(&self, transaction: &Transaction<'_>, rows: &[NodeId]) -> Result<()> {
        let deletions = super::deletions(transaction)?;
        for node in rows {
            let node = &self.world.graph.nodes[*node];
            let sql = match &node.object {
                Object::Lease(_) => "DELETE FROM leases WHERE id = ?1",
                Object::Resource(Resource::Image(_)) => "DELETE FROM images WHERE id = ?1",
                Object::Resource(Resource::Content(_)) => "DELETE FROM content WHERE id = ?1",
                Object::Resource(Resource::Snapshot { .. }) => {
                    "DELETE FROM snapshots WHERE id = ?1"
                }
                Object::Container(_) | Object::Resource(Resource::Ingest(_)) => continue,
            };
            transaction
                .prepare_cached(sql)
                .and_then(|mut statement| statement.execute([node.row]))
                .sql(|| format!("collect {}", node.object))?;
        }
        transaction
            .execute("UPDATE deletions SET count = ?1", [deletions])
            .sql(|| "count deletions".into())?;
        Ok(())
    }

    /// Removes the ingests that ended, unless somebody writes to them or leased them meanwhile.
    pub(super) fn remove_ingests(&self, store: &Store, collected: &mut Collected) -> Result<()> {
        for node in &self.ingests {
            let Some(entry) = self.world.ingests.get(node) else { continue };
            if store.remove_ingest(entry)? {
                collected.removed.push(self.removed(*node));
            }
        }
        for entry in self.orphans() {
            if store.remove_ingest(entry)? {
                collected.leaked.push(leak(entry));
            }
        }
        Ok(())
    }

    /// The ingests of nobody that have ended.
    pub(super) fn leaks(&self) -> impl Iterator<Item = Leak> {
        self.orphans().map(leak)
    }

    fn orphans(&self) -> impl Iterator<Item = &IngestEntry> {
        let ended = |entry: &&IngestEntry| {
            entry.status.active != Some(true) && entry.expires_at().is_none_or(|at| at < self.now)
        };
        self.world.orphans.iter().filter(ended)
    }

    /// All that goes.
    pub(super) fn all(&self) -> impl Iterator<Item = Removed> {
        self.rows.iter().chain(&self.ingests).map(|node| self.removed(*node))
    }

    /// What is told of one that goes.
    pub(super) fn removed(&self, id: NodeId) -> Removed {
        let node = &self.world.graph.nodes[id];
        let bytes = match &node.object {
            Object::Resource(Resource::Content(_)) => self.freed.get(&id).copied().unwrap_or(0),
            _ => node.bytes,
        };
        let snapshot_id = match &node.object {
            Object::Resource(Resource::Snapshot { .. }) => Some(SnapshotId::from_row(node.row)),
            _ => None,
        };
        Removed {
            snapshot_id,
            namespace: self.world.namespaces[node.namespace].clone(),
            object: node.object.clone(),
            bytes,
            why: self.why(id),
        }
    }

    fn why(&self, id: NodeId) -> Why {
        let node = &self.world.graph.nodes[id];
        match (node.expires.filter(|at| *at < self.now), self.referrers.get(&id)) {
            (Some(at), _) => Why::Ended { at },
            (None, Some(by)) => Why::OnlyBy(self.world.graph.nodes[*by].object.clone()),
            (None, None) => Why::Unreferenced,
        }
    }

    /// What keeps a resource, or why nothing does; `None` where it is not there.
    pub(super) fn explain(
        &self,
        namespace: &Namespace,
        resource: &Resource,
    ) -> Option<Explanation> {
        let place = self.world.namespaces.iter().position(|known| known == namespace)?;
        let node = self.world.graph.find(place, resource)?;
        let Some(path) = self.world.graph.path(&self.marks, node) else {
            return Some(Explanation::Dead(self.why(node)));
        };
        let step = |(node, reason): (NodeId, _)| Step {
            object: self.world.graph.nodes[node].object.clone(),
            reason,
        };
        Some(Explanation::Kept(path.into_iter().map(step).collect()))
    }

    /// The next moment at which something ends.
    pub(super) fn next_end(&self) -> Option<i64> {
        let orphans = self.world.orphans.iter().filter_map(IngestEntry::expires_at);
        let orphans = orphans.filter(|at| *at >= self.now);
        self.world.graph.next_change(self.now).into_iter().chain(orphans).min()
    }
}

/// Leases and names first, then snapshots, then blobs: an end that is broken off leaves what the
/// next collection understands as well.
fn order(object: &Object) -> u8 {
    match object {
        Object::Lease(_) | Object::Container(_) => 0,
        Object::Resource(Resource::Image(_)) => 1,
        Object::Resource(Resource::Snapshot { .. }) => 2,
        Object::Resource(Resource::Content(_) | Resource::Ingest(_)) => 3,
    }
}

/// The space of the blobs that no namespace has any more when `rows` are gone, each counted once.
fn freed(world: &World, rows: &[NodeId]) -> HashMap<NodeId, u64> {
    let mut left = world.shares.clone();
    let mut freed = HashMap::new();
    for id in rows {
        let node = &world.graph.nodes[*id];
        if let Object::Resource(Resource::Content(digest)) = &node.object
            && let Some(count) = left.get_mut(digest)
        {
            *count -= 1;
            if *count == 0 {
                freed.insert(*id, node.bytes);
            }
        }
    }
    freed
}

fn leak(entry: &IngestEntry) -> Leak {
    Leak { path: entry.path().into(), bytes: entry.status.offset, ended: None }
}
