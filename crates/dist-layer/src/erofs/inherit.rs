//! Directories of an image that its layer has no entry for take their attributes from below.

use std::fs::File;

use dist_core::Result;

use super::read::{Found, Reader};
use super::tree::{Body, CHAR, Node, NodeId, ROOT, Step, Tree};
use super::write;
use crate::whiteout::{is_host_xattr, is_private_xattr};

const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// Does for an image what [`crate::inherit_dirs`] does for a directory: `parents` are the images of
/// the layers below, nearest first.
///
/// The image is written again in place where anything changes; until that has ended it can't be
/// mounted.
///
/// # Errors
/// `Corrupt` where a file is no image of ours; `Storage`.
pub fn inherit_erofs_dirs(image: &File, parents: &[File], dirs: &[Vec<u8>]) -> Result<()> {
    if parents.is_empty() {
        return Ok(());
    }
    let target = Reader::new(image)?;
    let root = target.root()?;
    let opaque = opaque_key(&root.node);
    if dirs.is_empty() && opaque.is_none() {
        return Ok(());
    }
    let parents = parents.iter().map(Reader::new).collect::<Result<Vec<_>>>()?;
    let mut tree = target.tree()?;
    let mut changed = false;
    if let Some(key) = opaque {
        changed = hide(&mut tree, &parents, key)?;
    }
    for path in dirs {
        let Some(id) = visible(&mut tree, path)? else { continue };
        for parent in &parents {
            match find(parent, path)? {
                Looked::There(from) => {
                    changed |= copy(&from, tree.node_mut(id));
                    break;
                }
                Looked::Hidden => break,
                Looked::Absent => {}
            }
        }
    }
    if changed { write::write(&tree, image, target.meta(), target.uuid()) } else { Ok(()) }
}

enum Looked {
    There(Node),
    /// Neither here nor in any layer below as far as this one shows.
    Hidden,
    Absent,
}

/// Walks to a directory without following any symlink.
fn find(image: &Reader<'_>, path: &[u8]) -> Result<Looked> {
    let Found { mut node, mut entries } = image.root()?;
    let mut hidden = false;
    for name in components(path) {
        hidden |= opaque_key(&node).is_some();
        let Some((_, number)) = entries.iter().find(|(have, _)| have == name) else {
            return Ok(if hidden { Looked::Hidden } else { Looked::Absent });
        };
        Found { node, entries } = image.node(*number)?;
        if !node.is_dir() {
            return Ok(Looked::Hidden);
        }
    }
    Ok(Looked::There(node))
}

/// The directory at a path, unless one above it is opaque.
fn visible(tree: &mut Tree, path: &[u8]) -> Result<Option<NodeId>> {
    let Step::Dir(id) = tree.walk(path)? else { return Ok(None) };
    let mut at = id;
    while at != ROOT {
        let Body::Dir { parent, .. } = tree.node(at).body else { return Ok(None) };
        at = parent;
        if opaque_key(tree.node(at)).is_some() {
            return Ok(None);
        }
    }
    Ok(Some(id))
}

/// Does in the root what a mark on it would do elsewhere: hides each name that a layer below has.
fn hide(tree: &mut Tree, parents: &[Reader<'_>], key: &[u8]) -> Result<bool> {
    let mut changed = false;
    for parent in parents {
        for (name, _) in parent.root()?.entries {
            match tree.child(ROOT, &name) {
                Some(id) if tree.node(id).is_dir() => {
                    let node = tree.node_mut(id);
                    changed |= opaque_key(node).is_none();
                    node.set_xattr(key, b"y");
                }
                Some(_) => {}
                None => {
                    let mut node = Node::dir(0, false);
                    (node.mode, node.body) = (CHAR, Body::Device(0));
                    tree.add(ROOT, &name, node)?;
                    changed = true;
                }
            }
        }
    }
    Ok(changed)
}

fn opaque_key(node: &Node) -> Option<&'static [u8]> {
    let has =
        |key: &&[u8]| node.xattrs.iter().any(|(have, value)| **have == **key && **value == *b"y");
    OPAQUE.into_iter().find(has)
}

/// Gives a directory what another one has; says whether that is different.
fn copy(from: &Node, to: &mut Node) -> bool {
    let own = |key: &[u8]| !is_private_xattr(key) && !is_host_xattr(key);
    let kept = to.xattrs.iter().filter(|(key, _)| !own(key));
    let given = from.xattrs.iter().filter(|(key, _)| own(key));
    let xattrs: Vec<_> = kept.chain(given).cloned().collect();
    let same = (to.mode, to.uid, to.gid, to.mtime) == (from.mode, from.uid, from.gid, from.mtime)
        && to.xattrs == xattrs;
    (to.mode, to.uid, to.gid, to.mtime) = (from.mode, from.uid, from.gid, from.mtime);
    to.xattrs = xattrs;
    !same
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}
