//! What is left of a tree when all entries are in it, in order.

use std::collections::HashMap;

use super::{Body, NodeId, ROOT, Tree};
use crate::name::join;

/// The names of each directory, sorted; and which nodes have names.
#[derive(Debug)]
pub(in crate::erofs) struct Children {
    /// Where the names of a directory begin, by its number.
    starts: Vec<u32>,
    names: Vec<NodeId>,
    there: Vec<bool>,
    /// Names of a node beside its first one.
    more: HashMap<NodeId, u32>,
}

impl Children {
    /// Takes time in the order of the entries, but for the sorting within directories.
    pub(in crate::erofs) fn of(tree: &Tree) -> Self {
        // What is above has a lower number.
        let mut there = vec![true; tree.nodes.len()];
        let mut starts = vec![0_u32; tree.nodes.len() + 1];
        let mut more = HashMap::new();
        for (id, node) in (ROOT..).zip(tree.nodes.iter()).skip(1) {
            there[id as usize] = !node.gone && there[node.parent as usize];
            if there[id as usize] {
                starts[node.parent as usize] += 1;
                if tree.inode(id) != id {
                    *more.entry(tree.inode(id)).or_default() += 1;
                }
            }
        }
        let mut end = 0;
        for count in &mut starts {
            end += *count;
            *count = end;
        }
        // Each directory's names go in from its end, so that its beginning is left.
        let mut names = vec![ROOT; end as usize];
        for id in (1..tree.nodes.len()).rev().filter(|id| there[*id]) {
            let id = id as NodeId;
            let start = &mut starts[tree.parent(id) as usize];
            *start -= 1;
            names[*start as usize] = id;
        }
        let sorted = |pair: &[NodeId]| tree.name(pair[0]) <= tree.name(pair[1]);
        for bounds in starts.windows(2) {
            let names = &mut names[bounds[0] as usize..bounds[1] as usize];
            if !names.windows(2).all(sorted) {
                names.sort_unstable_by(|one, other| tree.name(*one).cmp(tree.name(*other)));
            }
        }
        Self { starts, names, there, more }
    }

    /// The names in a directory, none in anything else.
    pub(in crate::erofs) fn names(&self, dir: NodeId) -> &[NodeId] {
        let at = dir as usize;
        &self.names[self.starts[at] as usize..self.starts[at + 1] as usize]
    }

    /// How many names a node has.
    pub(in crate::erofs) fn links(&self, id: NodeId) -> u32 {
        u32::from(self.there[id as usize]) + self.more.get(&id).copied().unwrap_or(0)
    }

    /// All nodes that have a name, directories before what they hold.
    pub(in crate::erofs) fn order(&self, tree: &Tree) -> Vec<NodeId> {
        let mut seen = vec![false; self.there.len()];
        let (mut order, mut next) = (Vec::with_capacity(self.names.len() + 1), vec![ROOT]);
        while let Some(name) = next.pop() {
            let id = tree.inode(name);
            if std::mem::replace(&mut seen[id as usize], true) {
                continue; // another of its names
            }
            order.push(id);
            next.extend(self.names(id).iter().rev());
        }
        order
    }

    /// The paths of directories that have no entry of their own, parents first.
    pub(in crate::erofs) fn implicit_dirs(&self, tree: &Tree) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        let mut next = vec![(Vec::new(), ROOT)];
        while let Some((path, id)) = next.pop() {
            for child in self.names(id).iter().rev() {
                if tree.is_dir(*child) {
                    next.push((join(&path, tree.name(*child)), *child));
                }
            }
            if matches!(tree.body(id), Body::Dir { implicit: true }) {
                found.push(path);
            }
        }
        found
    }
}
