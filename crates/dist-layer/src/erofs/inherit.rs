//! Directories of an image that its layer has no entry for take their attributes from below.

use std::fs::File;

use dist_core::Result;

use super::read::{Found, Reader};
use super::tree::{Attributes, Body, Children, NodeId, ROOT, Step, Tree};
use super::write;
use crate::tar::Time;
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
    let opaque = opaque_key(&root.attributes);
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
                    let to = tree.attributes(id);
                    let made = inherited(&from, to);
                    changed |= made != *to;
                    tree.change(id, |attributes| *attributes = made)?;
                    break;
                }
                Looked::Hidden => break,
                Looked::Absent => {}
            }
        }
    }
    if !changed {
        return Ok(());
    }
    write::write((&tree, &Children::of(&tree)), image, target.meta(), target.uuid())
}

enum Looked {
    There(Attributes),
    /// Neither here nor in any layer below as far as this one shows.
    Hidden,
    Absent,
}

/// Walks to a directory without following any symlink.
fn find(image: &Reader<'_>, path: &[u8]) -> Result<Looked> {
    let Found { mut attributes, mut entries, .. } = image.root()?;
    let mut hidden = false;
    for name in components(path) {
        hidden |= opaque_key(&attributes).is_some();
        let Some((_, number)) = entries.iter().find(|(have, _)| have == name) else {
            return Ok(if hidden { Looked::Hidden } else { Looked::Absent });
        };
        Found { attributes, entries, .. } = image.node(*number)?;
        if !attributes.is_dir() {
            return Ok(Looked::Hidden);
        }
    }
    Ok(Looked::There(attributes))
}

/// The directory at a path, unless one above it is opaque.
fn visible(tree: &mut Tree, path: &[u8]) -> Result<Option<NodeId>> {
    let Step::Dir(id) = tree.walk(path)? else { return Ok(None) };
    let mut at = id;
    while at != ROOT {
        at = tree.parent(at);
        if opaque_key(tree.attributes(at)).is_some() {
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
                Some(id) if tree.is_dir(id) => {
                    changed |= opaque_key(tree.attributes(id)).is_none();
                    tree.change(id, |attributes| attributes.set_xattr(key, b"y"))?;
                }
                Some(_) => {}
                None => {
                    tree.add(ROOT, &name, Attributes::mark(Time::default()), Body::Device(0))?;
                    changed = true;
                }
            }
        }
    }
    Ok(changed)
}

fn opaque_key(attributes: &Attributes) -> Option<&'static [u8]> {
    let has = |key: &&[u8]| {
        attributes.xattrs.iter().any(|(have, value)| **have == **key && **value == *b"y")
    };
    OPAQUE.into_iter().find(has)
}

/// What a directory has when it is given what another one has.
fn inherited(from: &Attributes, to: &Attributes) -> Attributes {
    let own = |key: &[u8]| !is_private_xattr(key) && !is_host_xattr(key);
    let kept = to.xattrs.iter().filter(|(key, _)| !own(key));
    let given = from.xattrs.iter().filter(|(key, _)| own(key));
    Attributes { xattrs: kept.chain(given).cloned().collect(), ..*from }
}

fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
}
