//! What there is, what refers to what, and what is reached from the roots.
//!
//! A node for each container, lease, image, blob, snapshot and ingest, of all namespaces; edges lead from what
//! keeps to what is kept and never into another namespace. An edge to something that is not there
//! is left out.

use std::collections::{HashMap, VecDeque};

use dist_core::Resource;

use super::label::{Condition, Meaning};
use super::{Object, Reason};

/// A node, by its place.
pub(super) type NodeId = usize;

/// How one node keeps another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// An image its target.
    Target,
    /// A snapshot its parent.
    Parent,
    /// An ingest the content that it will be.
    Expected,
    /// A lease what is in it.
    Held,
    /// A container its snapshot.
    Rootfs,
    /// A label of the first.
    Refers(usize),
    /// A label of the second.
    ReferredBy(usize),
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: NodeId,
    via: Via,
}

/// Something that can be kept or collected.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) namespace: usize,
    pub(super) object: Object,
    /// Its row; 0 for an ingest, which has none.
    pub(super) row: i64,
    pub(super) bytes: u64,
    /// When a lease, an image or an ingest ends.
    pub(super) expires: Option<i64>,
    /// Somebody works with it, or a label says that it is kept (then which).
    root: Option<Root>,
    flat: bool,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Labelled(usize),
    Active,
}

/// All nodes and edges.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    places: HashMap<(usize, Resource), NodeId>,
    /// Names of labels, each once.
    labels: Vec<Box<str>>,
    label_places: HashMap<Box<str>, usize>,
    conditional: Vec<Conditional>,
    used_at: HashMap<NodeId, i64>,
}

#[derive(Debug)]
struct Conditional {
    from: NodeId,
    to: NodeId,
    label: usize,
    conditions: Vec<Condition>,
}

impl Graph {
    /// Adds a node.
    pub(super) fn add(&mut self, namespace: usize, object: Object, row: i64, bytes: u64) -> NodeId {
        let id = self.nodes.len();
        if let Object::Resource(resource) = &object {
            self.places.insert((namespace, resource.clone()), id);
        }
        self.nodes.push(Node {
            namespace,
            object,
            row,
            bytes,
            expires: None,
            root: None,
            flat: false,
            edges: Vec::new(),
        });
        id
    }

    /// The node of a resource, if it is there.
    pub(super) fn find(&self, namespace: usize, resource: &Resource) -> Option<NodeId> {
        // Keys are owned, and a borrowed pair is none: a clone is what a look costs.
        self.places.get(&(namespace, resource.clone())).copied()
    }

    /// Says until when an ingest is kept for its own sake, if it is, and whether its writer is at it.
    pub(super) fn ends(&mut self, node: NodeId, at: Option<i64>, active: bool) {
        self.nodes[node].expires = at;
        if active {
            self.uses(node);
        }
    }

    /// Says that somebody writes to an ingest, or works under a lease.
    pub(super) fn uses(&mut self, node: NodeId) {
        self.nodes[node].root = Some(Root::Active);
    }

    /// Adds an edge between two nodes.
    pub(super) fn link(&mut self, from: NodeId, to: NodeId, via: Via) {
        self.nodes[from].edges.push(Edge { to, via });
    }

    /// Adds an edge to a resource of the same namespace, if it is there.
    pub(super) fn refer(&mut self, from: NodeId, to: &Resource, via: Via) {
        if let Some(to) = self.find(self.nodes[from].namespace, to) {
            self.link(from, to, via);
        }
    }

    /// Adds what a label says. All nodes are there by then.
    pub(super) fn label(&mut self, node: NodeId, name: &str, value: &str) {
        let Some(meaning) = Meaning::of(name, value) else { return };
        let label = self.intern(name);
        let namespace = self.nodes[node].namespace;
        match meaning {
            Meaning::Root => {
                let rooted = matches!(
                    self.nodes[node].object,
                    Object::Resource(Resource::Content(_) | Resource::Snapshot { .. })
                );
                if rooted {
                    self.nodes[node].root = Some(Root::Labelled(label));
                }
            }
            Meaning::Refers(to) => self.refer(node, &to, Via::Refers(label)),
            Meaning::ReferredBy(from) => {
                if let Some(from) = self.find(namespace, &from) {
                    self.link(from, node, Via::ReferredBy(label));
                }
            }
            Meaning::Conditional(to, conditions) => {
                if let Some(to) = self.find(namespace, &to) {
                    self.conditional.push(Conditional { from: node, to, label, conditions });
                }
            }
            Meaning::UsedAt(at) => {
                self.used_at.insert(node, at);
            }
            Meaning::Expires(at) => {
                let ends = matches!(
                    self.nodes[node].object,
                    Object::Lease(_) | Object::Resource(Resource::Image(_))
                );
                if ends {
                    self.nodes[node].expires = Some(at);
                }
            }
            Meaning::Flat => self.nodes[node].flat = true,
        }
    }

    fn intern(&mut self, name: &str) -> usize {
        if let Some(place) = self.label_places.get(name) {
            return *place;
        }
        self.labels.push(name.into());
        self.label_places.insert(name.into(), self.labels.len() - 1);
        self.labels.len() - 1
    }

    /// How many nodes lie below `node` on the way along one kind of edge.
    pub(super) fn depth(&self, node: NodeId, via: Via) -> usize {
        let below = |node: &NodeId| {
            self.nodes[*node].edges.iter().find(|edge| edge.via == via).map(|edge| edge.to)
        };
        // Rows of ours form no circles, but whoever edits rows by hand is not waited for forever.
        std::iter::successors(below(&node), below).take(self.nodes.len()).count()
    }

    /// Finds out what is kept at `now`.
    pub(super) fn mark(&mut self, now: i64) -> Marks {
        for conditional in std::mem::take(&mut self.conditional) {
            let Conditional { from, to, label, ref conditions } = conditional;
            let used_at = self.used_at.get(&to).copied();
            if used_at.is_some_and(|at| conditions.iter().any(|c| c.holds(at, now))) {
                self.link(from, to, Via::Refers(label));
            }
            self.conditional.push(conditional);
        }
        let mut marks = Marks::new(self.nodes.len());
        let mut queue = VecDeque::new();
        for kind in [is_container, is_image, is_content_or_snapshot, is_lease, is_ingest] {
            for (id, node) in self.nodes.iter().enumerate().filter(|(_, node)| kind(&node.object)) {
                if let Some(reason) = self.root_reason(node, now)
                    && marks.reach(id, Mark::Full, Origin::Root(reason))
                {
                    queue.push_back(id);
                }
            }
            self.follow(&mut marks, &mut queue);
        }
        marks
    }

    /// Marks all that the nodes in the queue keep, the nearest first.
    fn follow(&self, marks: &mut Marks, queue: &mut VecDeque<NodeId>) {
        while let Some(id) = queue.pop_front() {
            let node = &self.nodes[id];
            for edge in &node.edges {
                let Some(mark) = self.passes(node, marks.marks[id], *edge) else { continue };
                if marks.reach(edge.to, mark, Origin::Edge(id, edge.via)) {
                    queue.push_back(edge.to);
                }
            }
        }
    }

    /// How `node`, marked with `mark`, marks the other end of an edge, if it does.
    fn passes(&self, node: &Node, mark: Mark, edge: Edge) -> Option<Mark> {
        match (mark, edge.via) {
            (Mark::Dead, _) => None,
            // A flat lease keeps an ingest as any other does.
            (Mark::Full, Via::Held) if node.flat && !is_ingest(&self.nodes[edge.to].object) => {
                Some(Mark::Flat)
            }
            (Mark::Full, _) => Some(Mark::Full),
            (Mark::Flat, Via::Target | Via::Parent) => Some(Mark::Flat),
            (Mark::Flat, _) => None,
        }
    }

    fn root_reason(&self, node: &Node, now: i64) -> Option<RootReason> {
        let unexpired = node.expires.is_none_or(|at| at >= now);
        match (&node.object, node.root) {
            (_, Some(Root::Labelled(label))) => Some(RootReason::Labelled(label)),
            (_, Some(Root::Active)) => Some(RootReason::Active),
            (Object::Container(_), _) => Some(RootReason::Container),
            (Object::Lease(_), _) if unexpired => Some(RootReason::Unexpired),
            (Object::Resource(Resource::Image(_)), _) if unexpired => Some(RootReason::Registered),
            (Object::Resource(Resource::Ingest(_)), _) if unexpired && node.expires.is_some() => {
                Some(RootReason::Unexpired)
            }
            _ => None,
        }
    }

    /// The next moment after `now` at which something may stop to be kept, or begin to be.
    pub(super) fn next_change(&self, now: i64) -> Option<i64> {
        let ends = self.nodes.iter().filter_map(|node| node.expires);
        let turns = self.conditional.iter().flat_map(|conditional| {
            let used_at = self.used_at.get(&conditional.to).copied();
            used_at
                .into_iter()
                .flat_map(|at| conditional.conditions.iter().map(move |c| c.turns_at(at)))
        });
        ends.chain(turns).filter(|at| *at >= now).min()
    }

    /// The way from a root to `node`; `None` where nothing keeps it.
    pub(super) fn path(&self, marks: &Marks, node: NodeId) -> Option<Vec<(NodeId, Reason)>> {
        let mut path = Vec::new();
        let mut at = node;
        loop {
            match marks.origins[at]? {
                Origin::Root(reason) => {
                    path.push((at, self.public_root(reason, &self.nodes[at])));
                    path.reverse();
                    return Some(path);
                }
                Origin::Edge(from, via) => {
                    path.push((at, self.public(via)));
                    at = from;
                }
            }
        }
    }

    /// For each node that is not kept: one that refers to it and is not kept either.
    pub(super) fn dead_referrers(&self, marks: &Marks) -> HashMap<NodeId, NodeId> {
        let mut referrers = HashMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            for edge in node.edges.iter().filter(|edge| !marks.is_kept(edge.to)) {
                // What holds or names says more than what only stands above.
                let says_more = matches!(edge.via, Via::Held | Via::Target);
                if says_more || !referrers.contains_key(&edge.to) {
                    referrers.insert(edge.to, id);
                }
            }
        }
        referrers
    }

    fn public_root(&self, reason: RootReason, node: &Node) -> Reason {
        match reason {
            RootReason::Registered => Reason::Registered { expires: node.expires },
            RootReason::Labelled(label) => Reason::Labelled(self.labels[label].clone()),
            RootReason::Active => Reason::InUse,
            RootReason::Container => Reason::Container,
            RootReason::Unexpired => Reason::Unexpired { expires: node.expires },
        }
    }

    fn public(&self, via: Via) -> Reason {
        match via {
            Via::Target => Reason::Target,
            Via::Parent => Reason::Parent,
            Via::Expected => Reason::Expected,
            Via::Held => Reason::Held,
            Via::Rootfs => Reason::Rootfs,
            Via::Refers(label) => Reason::Refers(self.labels[label].clone()),
            Via::ReferredBy(label) => Reason::ReferredBy(self.labels[label].clone()),
        }
    }
}

/// What was reached, and how.
#[derive(Debug)]
pub(super) struct Marks {
    marks: Vec<Mark>,
    origins: Vec<Option<Origin>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Dead,
    /// Kept, but what its labels refer to is not.
    Flat,
    Full,
}

#[derive(Clone, Copy, Debug)]
enum Origin {
    Root(RootReason),
    Edge(NodeId, Via),
}

#[derive(Clone, Copy, Debug)]
enum RootReason {
    Registered,
    Labelled(usize),
    Active,
    Container,
    Unexpired,
}

impl Marks {
    fn new(count: usize) -> Self {
        Self { marks: vec![Mark::Dead; count], origins: vec![None; count] }
    }

    /// Marks a node; `false` where it was marked as much before.
    fn reach(&mut self, node: NodeId, mark: Mark, origin: Origin) -> bool {
        let better = mark > self.marks[node];
        if better {
            // Whoever reaches a node fully is not reached through it, so paths have no circles.
            self.marks[node] = mark;
            self.origins[node] = Some(origin);
        }
        better
    }

    pub(super) fn is_kept(&self, node: NodeId) -> bool {
        self.marks[node] != Mark::Dead
    }
}

fn is_container(object: &Object) -> bool {
    matches!(object, Object::Container(_))
}

fn is_image(object: &Object) -> bool {
    matches!(object, Object::Resource(Resource::Image(_)))
}

fn is_content_or_snapshot(object: &Object) -> bool {
    matches!(object, Object::Resource(Resource::Content(_) | Resource::Snapshot { .. }))
}

fn is_lease(object: &Object) -> bool {
    matches!(object, Object::Lease(_))
}

fn is_ingest(object: &Object) -> bool {
    matches!(object, Object::Resource(Resource::Ingest(_)))
}
