//! The graph out of rows, and of the ingests' directories.

use std::collections::HashMap;
use std::str::FromStr;

use dist_core::{Context as _, Digest, ErrorKind, GC_EXPIRE, Namespace, Resource, Result};
use rusqlite::Connection;

use super::Object;
use super::graph::{Graph, NodeId, Via};
use super::label::{RANGE, parse_time};
use crate::db::SqlContext as _;
use crate::ingest::IngestEntry;
use crate::{Store, leases};

/// Everything of all namespaces that are not raw.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) graph: Graph,
    pub(super) namespaces: Vec<Namespace>,
    /// How many namespaces have a blob, raw ones among them.
    pub(super) shares: HashMap<Digest, u32>,
    /// The ingests that are nodes.
    pub(super) ingests: HashMap<NodeId, IngestEntry>,
    /// The ingests that belong to no namespace.
    pub(super) orphans: Vec<IngestEntry>,
    places: HashMap<String, Option<usize>>,
}

/// What is read of a row of any table: its id, its namespace, its name, and two more columns.
type Row = (i64, String, String, String, i64);

impl World {
    /// Reads one state of the metadata. `ingests` were listed before.
    pub(super) fn load(connection: &Connection, ingests: Vec<IngestEntry>) -> Result<Self> {
        let mut world = Self::default();
        let containers = world.containers(connection)?;
        let leases = world.leases(connection)?;
        let images = world.images(connection)?;
        let content = world.content(connection)?;
        let snapshots = world.snapshots(connection)?;
        world.ingests(ingests)?;
        // Edges only now: either end may come before the other.
        for (nodes, labels) in [
            (&containers, "SELECT container_id, name, value FROM container_labels"),
            (&leases, "SELECT lease_id, name, value FROM lease_labels"),
            (&images, "SELECT image_id, name, value FROM image_labels"),
            (&content, "SELECT content_id, name, value FROM content_labels"),
            (&snapshots, "SELECT snapshot_id, name, value FROM snapshot_labels"),
        ] {
            world.labels(connection, labels, nodes)?;
        }
        world.rootfs(connection, &containers)?;
        world.held(connection, &leases)?;
        world.targets(connection, &images)?;
        world.parents(connection, &snapshots)?;
        world.expected();
        Ok(world)
    }

    /// The place of a namespace; `None` for a raw one.
    fn namespace(&mut self, name: &str) -> Result<Option<usize>> {
        if let Some(place) = self.places.get(name) {
            return Ok(*place);
        }
        let place = if Namespace::parse_raw(name).is_some() {
            None
        } else {
            let what = || format!("read namespace {name:?}");
            self.namespaces.push(name.parse().context(ErrorKind::Storage, what)?);
            Some(self.namespaces.len() - 1)
        };
        self.places.insert(name.to_owned(), place);
        Ok(place)
    }

    /// Makes a node of each row of a query; `object` reads the name.
    ///
    /// One that can't be read fails all: nobody knows what it keeps.
    fn rows(
        &mut self,
        connection: &Connection,
        query: &str,
        object: impl Fn(&Row) -> Result<Object>,
    ) -> Result<HashMap<i64, NodeId>> {
        let mut nodes = HashMap::new();
        let what = || "read what may be collected".into();
        let mut statement = connection.prepare(query).sql(what)?;
        let mut rows = statement.query([]).sql(what)?;
        while let Some(row) = rows.next().sql(what)? {
            let read = || Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?));
            let row: Row = { read }().sql(what)?;
            let object = object(&row)?;
            if let Object::Resource(Resource::Content(digest)) = &object {
                *self.shares.entry(*digest).or_insert(0) += 1;
            }
            let Some(namespace) = self.namespace(&row.1)? else { continue };
            let bytes = u64::try_from(row.4).unwrap_or(0);
            nodes.insert(row.0, self.graph.add(namespace, object, row.0, bytes));
        }
        Ok(nodes)
    }

    fn containers(&mut self, connection: &Connection) -> Result<HashMap<i64, NodeId>> {
        let query = "SELECT id, namespace, name, '', 0 FROM containers";
        self.rows(connection, query, |row| Ok(Object::Container(name(&row.2)?)))
    }

    fn leases(&mut self, connection: &Connection) -> Result<HashMap<i64, NodeId>> {
        let query = "SELECT id, namespace, name, '', 0 FROM leases";
        self.rows(connection, query, |row| Ok(Object::Lease(name(&row.2)?)))
    }

    /// Finds the leases that ended before `now` although somebody works under them.
    pub(super) fn used_leases(&mut self, store: &Store, now: i64) -> Result<()> {
        for id in 0..self.graph.nodes.len() {
            let node = &self.graph.nodes[id];
            if let Object::Lease(lease) = &node.object
                && node.expires.is_some_and(|at| at < now)
                && store.is_lease_used(&self.namespaces[node.namespace], lease)?
            {
                self.graph.uses(id);
            }
        }
        Ok(())
    }

    fn images(&mut self, connection: &Connection) -> Result<HashMap<i64, NodeId>> {
        let query = "SELECT id, namespace, name, '', 0 FROM images";
        self.rows(connection, query, |row| Ok(Object::Resource(Resource::Image(name(&row.2)?))))
    }

    fn content(&mut self, connection: &Connection) -> Result<HashMap<i64, NodeId>> {
        let query = "SELECT id, namespace, digest, '', size FROM content";
        self.rows(connection, query, |row| Ok(Object::Resource(Resource::Content(name(&row.2)?))))
    }

    fn snapshots(&mut self, connection: &Connection) -> Result<HashMap<i64, NodeId>> {
        let query = "SELECT id, namespace, key, snapshotter, bytes FROM snapshots";
        self.rows(connection, query, |row| {
            let snapshotter = row.3.as_str().into();
            Ok(Object::Resource(Resource::Snapshot { snapshotter, key: name(&row.2)? }))
        })
    }

    fn ingests(&mut self, entries: Vec<IngestEntry>) -> Result<()> {
        for entry in entries {
            let Some(namespace) = entry.namespace.as_ref().map(Namespace::as_str) else {
                self.orphans.push(entry);
                continue;
            };
            let Some(namespace) = self.namespace(namespace)? else { continue };
            let object = Object::Resource(Resource::Ingest(entry.status.key.clone()));
            let node = self.graph.add(namespace, object, 0, entry.status.offset);
            let active = entry.status.active == Some(true);
            self.graph.ends(node, entry.expires_at(), active);
            self.ingests.insert(node, entry);
        }
        Ok(())
    }

    fn labels(
        &mut self,
        connection: &Connection,
        query: &str,
        nodes: &HashMap<i64, NodeId>,
    ) -> Result<()> {
        let mut read = || -> rusqlite::Result<()> {
            let mut statement =
                connection.prepare(&format!("{query} WHERE name >= ?1 AND name < ?2"))?;
            let mut rows = statement.query(RANGE)?;
            while let Some(row) = rows.next()? {
                if let Some(node) = nodes.get(&row.get(0)?) {
                    let (name, value) = (row.get_ref(1)?.as_str()?, row.get_ref(2)?.as_str()?);
                    self.graph.label(*node, name, value);
                }
            }
            Ok(())
        };
        read().sql(|| "read labels".into())
    }

    fn rootfs(&mut self, connection: &Connection, nodes: &HashMap<i64, NodeId>) -> Result<()> {
        let read = || {
            connection
                .prepare("SELECT id, snapshotter, snapshot_key FROM containers")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<rusqlite::Result<Vec<(i64, String, String)>>>()
        };
        for (container, snapshotter, key) in read().sql(|| "read containers".into())? {
            if let Some(container) = nodes.get(&container)
                && !key.is_empty()
            {
                let resource =
                    Resource::Snapshot { snapshotter: snapshotter.into(), key: name(&key)? };
                self.graph.refer(*container, &resource, Via::Rootfs);
            }
        }
        Ok(())
    }

    fn held(&mut self, connection: &Connection, leases: &HashMap<i64, NodeId>) -> Result<()> {
        let read = || {
            connection
                .prepare("SELECT lease_id, kind, snapshotter, name FROM lease_resources")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?
                .collect::<rusqlite::Result<Vec<(i64, String, String, String)>>>()
        };
        for (lease, kind, snapshotter, name) in read().sql(|| "read what leases hold".into())? {
            let Some(lease) = leases.get(&lease) else { continue };
            let resource = leases::resource(&kind, snapshotter, &name)?;
            self.graph.refer(*lease, &resource, Via::Held);
        }
        Ok(())
    }

    fn targets(&mut self, connection: &Connection, images: &HashMap<i64, NodeId>) -> Result<()> {
        let read = || {
            connection
                .prepare("SELECT id, digest FROM images")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(i64, String)>>>()
        };
        for (image, digest) in read().sql(|| "read images".into())? {
            if let Some(image) = images.get(&image) {
                self.graph.refer(*image, &Resource::Content(name(&digest)?), Via::Target);
            }
        }
        Ok(())
    }

    fn parents(&mut self, connection: &Connection, nodes: &HashMap<i64, NodeId>) -> Result<()> {
        let read = || {
            connection
                .prepare("SELECT id, parent_id FROM snapshots WHERE parent_id IS NOT NULL")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect::<rusqlite::Result<Vec<(i64, i64)>>>()
        };
        for (child, parent) in read().sql(|| "read parents of snapshots".into())? {
            if let (Some(child), Some(parent)) = (nodes.get(&child), nodes.get(&parent)) {
                self.graph.link(*child, *parent, Via::Parent);
            }
        }
        Ok(())
    }

    fn expected(&mut self) {
        for (node, entry) in &self.ingests {
            if let Some(digest) = entry.status.expected {
                self.graph.refer(*node, &Resource::Content(digest), Via::Expected);
            }
        }
    }
}

fn name<T: FromStr>(text: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().context(ErrorKind::Storage, || format!("read name {text:?}"))
}

impl World {
    /// When the next lease or image ends after `now`.
    pub(super) fn next_end(connection: &Connection, now: i64) -> Result<Option<i64>> {
        let read = || {
            connection
                .prepare(
                    "SELECT value FROM lease_labels WHERE name = ?1
                     UNION ALL SELECT value FROM image_labels WHERE name = ?1",
                )?
                .query_map([GC_EXPIRE], |row| row.get(0))?
                .collect::<rusqlite::Result<Vec<String>>>()
        };
        let ends = read().sql(|| "read when leases end".into())?;
        Ok(ends.iter().filter_map(|text| parse_time(text)).filter(|at| *at >= now).min())
    }
}
