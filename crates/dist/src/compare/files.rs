//! Trees that layers make over one that was not read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dist_layer::{LayerListing, Node, NodeKind};

/// How a path differs between two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStatus {
    /// Only the second has it.
    Added,
    /// Only the first has it.
    Removed,
    /// Both have it, and it differs.
    Changed,
    /// Layers of the first alone write it; the second has what the shared layers have there, if
    /// anything.
    WrittenByFirst,
    /// Layers of the second alone write it.
    WrittenBySecond,
}

/// A path that differs.
#[derive(Clone, Debug)]
pub struct FileChange {
    /// Relative to the root, which is empty.
    pub path: Vec<u8>,
    /// How.
    pub status: FileStatus,
    /// What the first has, where that is known.
    pub a: Option<Arc<Node>>,
    /// What the second has, where that is known.
    pub b: Option<Arc<Node>>,
    /// What differs of something that changed: `type`, `mode`, `owner`, `size`, `content`, `target`,
    /// `device`, `xattrs`; of what one side writes `contents`, where it hides what a directory holds.
    pub what: Vec<&'static str>,
}

/// A tree over another that is not known.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    nodes: BTreeMap<Vec<u8>, Arc<Node>>,
    /// Removed from what is below.
    hidden: BTreeSet<Vec<u8>>,
    /// Directories of which nothing below shows.
    emptied: BTreeSet<Vec<u8>>,
}

/// What a tree says of a path.
enum State<'a> {
    There(&'a Arc<Node>),
    Gone,
    /// As it is below.
    Below,
}

/// The directories on the way to `path`, the root first.
fn ways(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let root = (!path.is_empty()).then_some(&path[..0]);
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
    root.into_iter().chain(slashes.map(|(at, _)| &path[..at]))
}

/// A directory that only what is in it speaks of.
fn implied() -> Arc<Node> {
    Arc::new(Node {
        kind: NodeKind::Dir,
        mode: 0o755,
        uid: 0,
        gid: 0,
        size: 0,
        content: None,
        target: Vec::new(),
        device: (0, 0),
        xattrs: BTreeMap::new(),
    })
}

impl Files {
    /// Lays a layer over it. What the layer removes is of what is below it alone.
    pub(super) fn apply(&mut self, layer: &LayerListing) {
        for path in &layer.whiteouts {
            self.nodes.remove(path);
            self.clear(path);
            self.hidden.insert(path.clone());
        }
        for dir in &layer.opaques {
            self.clear(dir);
            self.emptied.insert(dir.clone());
        }
        for (path, node) in &layer.nodes {
            for dir in ways(path) {
                let is_other = self.nodes.get(dir).is_some_and(|node| node.kind != NodeKind::Dir);
                if is_other && !layer.nodes.contains_key(dir) {
                    self.nodes.insert(dir.to_vec(), implied());
                    self.emptied.insert(dir.to_vec());
                }
            }
            let before = self.nodes.insert(path.clone(), Arc::clone(node));
            let was_dir = before.as_ref().is_none_or(|node| node.kind == NodeKind::Dir);
            if node.kind != NodeKind::Dir {
                self.clear(path);
            } else if !was_dir {
                self.emptied.insert(path.clone());
            }
        }
    }

    /// Removes all below a path.
    fn clear(&mut self, path: &[u8]) {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let is_below = |other: &Vec<u8>| other.starts_with(&start) && !other.is_empty();
        let below: Vec<Vec<u8>> = self
            .nodes
            .range(start.clone()..)
            .map(|(other, _)| other)
            .skip_while(|other| other.is_empty())
            .take_while(|other| is_below(other))
            .cloned()
            .collect();
        for other in below {
            self.nodes.remove(&other);
        }
    }

    /// Whether nothing shows of what is below the directory `dir`, or is in it there.
    fn covers(&self, dir: &[u8]) -> bool {
        let is_cover = |dir: &[u8]| {
            self.emptied.contains(dir)
                || self.hidden.contains(dir)
                || self.nodes.get(dir).is_some_and(|node| node.kind != NodeKind::Dir)
        };
        is_cover(dir) || ways(dir).any(is_cover)
    }

    fn state(&self, path: &[u8], is_whole: bool) -> State<'_> {
        if let Some(node) = self.nodes.get(path) {
            return State::There(node);
        }
        let is_gone = is_whole
            || self.hidden.contains(path)
            || ways(path).last().is_some_and(|dir| self.covers(dir));
        if is_gone { State::Gone } else { State::Below }
    }

    /// Whether there is anything below the directory `path`.
    fn has_below(&self, path: &[u8]) -> bool {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let mut below = self.nodes.range(start.clone()..).map(|(other, _)| other);
        below.find(|other| !other.is_empty()).is_some_and(|other| other.starts_with(&start))
    }
}

/// Compares two trees over the same one, or over nothing where they are whole.
///
/// A directory that one side alone writes, and more in it, is not told: layers have entries for the
/// directories of what they change.
pub(super) fn compare(a: &Files, b: &Files, is_whole: bool) -> Vec<FileChange> {
    let paths: BTreeSet<&Vec<u8>> = [a, b]
        .into_iter()
        .flat_map(|files| files.nodes.keys().chain(&files.hidden).chain(&files.emptied))
        .collect();
    let mut changes = Vec::new();
    for path in paths {
        changes.extend(of_path(a, b, path, is_whole));
    }
    changes
}

fn of_path(a: &Files, b: &Files, path: &[u8], is_whole: bool) -> Option<FileChange> {
    let change = |status, a: Option<&Arc<Node>>, b: Option<&Arc<Node>>, what| {
        Some(FileChange { path: path.to_vec(), status, a: a.cloned(), b: b.cloned(), what })
    };
    let is_mere_dir =
        |files: &Files, node: &Node| node.kind == NodeKind::Dir && files.has_below(path);
    // It is a directory in the other as well, without an entry of its own.
    let is_implied =
        |other: &Files, node: &Node| node.kind == NodeKind::Dir && other.has_below(path);
    match (a.state(path, is_whole), b.state(path, is_whole)) {
        (State::There(x), State::Gone) if is_implied(b, x) => {}
        (State::Gone, State::There(y)) if is_implied(a, y) => {}
        (State::There(x), State::There(y)) => {
            let what = differences(x, y);
            if !what.is_empty() {
                return change(FileStatus::Changed, Some(x), Some(y), what);
            }
        }
        (State::There(x), State::Gone) => {
            return change(FileStatus::Removed, Some(x), None, Vec::new());
        }
        (State::Gone, State::There(y)) => {
            return change(FileStatus::Added, None, Some(y), Vec::new());
        }
        (State::There(x), State::Below) if !is_mere_dir(a, x) => {
            return change(FileStatus::WrittenByFirst, Some(x), None, Vec::new());
        }
        (State::Below, State::There(y)) if !is_mere_dir(b, y) => {
            return change(FileStatus::WrittenBySecond, None, Some(y), Vec::new());
        }
        (State::Gone, State::Below) if a.hidden.contains(path) => {
            return change(FileStatus::Added, None, None, Vec::new());
        }
        (State::Below, State::Gone) if b.hidden.contains(path) => {
            return change(FileStatus::Removed, None, None, Vec::new());
        }
        _ => {}
    }
    // What a directory holds below shows in one of them alone.
    match (a.emptied.contains(path), b.emptied.contains(path)) {
        _ if is_whole => None,
        (true, false) if !b.covers(path) => {
            change(FileStatus::WrittenByFirst, None, None, vec!["contents"])
        }
        (false, true) if !a.covers(path) => {
            change(FileStatus::WrittenBySecond, None, None, vec!["contents"])
        }
        _ => None,
    }
}

fn differences(a: &Node, b: &Node) -> Vec<&'static str> {
    let table = [
        ("type", a.kind != b.kind),
        ("mode", a.mode != b.mode && a.kind == b.kind),
        ("owner", (a.uid, a.gid) != (b.uid, b.gid)),
        ("size", a.size != b.size && a.kind == b.kind),
        ("content", a.content != b.content && a.kind == b.kind),
        ("target", a.target != b.target && a.kind == b.kind),
        ("device", a.device != b.device && a.kind == b.kind),
        ("xattrs", a.xattrs != b.xattrs),
    ];
    table.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect()
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn file(mode: u32) -> Arc<Node> {
        Arc::new(Node { kind: NodeKind::File, mode, ..(*implied()).clone() })
    }

    fn layer(nodes: &[(&str, Arc<Node>)], whiteouts: &[&str], opaques: &[&str]) -> LayerListing {
        let bytes = |text: &&str| text.as_bytes().to_vec();
        LayerListing {
            nodes: nodes.iter().map(|(path, node)| (bytes(path), Arc::clone(node))).collect(),
            whiteouts: whiteouts.iter().map(bytes).collect(),
            opaques: opaques.iter().map(bytes).collect(),
        }
    }

    fn files(layers: &[LayerListing]) -> Files {
        let mut files = Files::default();
        layers.iter().for_each(|layer| files.apply(layer));
        files
    }

    fn told(a: &[LayerListing], b: &[LayerListing], is_whole: bool) -> Vec<(String, FileStatus)> {
        let changes = compare(&files(a), &files(b), is_whole).into_iter();
        let path = |path: Vec<u8>| String::from_utf8(path).unwrap();
        changes.map(|change| (path(change.path), change.status)).collect()
    }

    #[test]
    fn what_is_below_counts_where_nothing_hides_it() {
        let a = [layer(&[("d", implied()), ("d/x", file(0o644)), ("e", file(0o644))], &["g"], &[])];
        let b = [layer(&[("e", file(0o600)), ("d/.keep", file(0))], &[], &["d"])];
        let expected = [
            ("d", FileStatus::WrittenBySecond),
            ("d/.keep", FileStatus::WrittenBySecond),
            ("d/x", FileStatus::Removed),
            ("e", FileStatus::Changed),
            ("g", FileStatus::Added),
        ]
        .map(|(path, status)| (path.to_owned(), status));
        assert_eq!(told(&a, &b, false), expected);
        let turned: Vec<_> = told(&b, &a, false).into_iter().map(|(_, status)| status).collect();
        assert_eq!(turned[2], FileStatus::Added);
        assert_eq!(turned[4], FileStatus::Removed);
        assert_eq!(told(&a, &a, false), []);
    }

    #[test]
    fn whole_trees_have_nothing_below() {
        let base = layer(
            &[("a", implied()), ("a/b", file(1)), ("a.c", file(1)), ("f", file(1))],
            &[],
            &[],
        );
        let upper = layer(&[("f/below", file(1))], &["a"], &[]);
        let expected = [
            ("a", FileStatus::Removed),
            ("a/b", FileStatus::Removed),
            ("f", FileStatus::Changed),
            ("f/below", FileStatus::Added),
        ]
        .map(|(path, status)| (path.to_owned(), status));
        assert_eq!(told(from_ref(&base), &[base.clone(), upper], true), expected);
        // What speaks of a directory is its entry, or what is in it.
        let implied_dir = layer(&[("d/x", file(1))], &[], &[]);
        let with_entry = layer(&[("d", implied()), ("d/x", file(1))], &[], &[]);
        assert_eq!(told(from_ref(&implied_dir), from_ref(&with_entry), true), []);
        assert_eq!(told(&[with_entry], &[implied_dir], true), []);
        // What a layer removes and has itself stays.
        let again = layer(&[("a", implied()), ("a/new", file(1))], &["a"], &[]);
        let expected = [("a/b", FileStatus::Removed), ("a/new", FileStatus::Added)]
            .map(|(p, s)| (p.to_owned(), s));
        assert_eq!(told(from_ref(&base), &[base.clone(), again], true), expected);
    }
}
