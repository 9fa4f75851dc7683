//! Directories of an image that its layer has no entry for take their attributes from below.

use std::fs::File;

use dist_core::Result;

use super::read::Reader;
use super::tree::{Attributes, Body, Children, ROOT, Tree};
use super::write;
use crate::tar::Time;
use crate::whiteout::{is_host_xattr, is_private_xattr};

const OPAQUE: [&[u8]; 2] = [b"trusted.overlay.opaque", b"user.overlay.opaque"];

/// Does for an image what [`crate::inherit_dirs`] does for a directory: `parents` are the images of
/// the layers below, nearest first.
///
/// The image is changed in place, and can't be mounted until that has ended.
///
/// # Errors
/// `Corrupt` where a file is no image of ours; `Storage`.
pub fn inherit_erofs_dirs(image: &File, parents: &[File], dirs: &[Vec<u8>]) -> Result<()> {
    if parents.is_empty() {
        return Ok(());
    }
    let target = Reader::new(image)?;
    let opaque = opaque_key(&target.root()?.attributes);
    if dirs.is_empty() && opaque.is_none() {
        return Ok(());
    }
    let parents = parents.iter().map(Reader::new).collect::<Result<Vec<_>>>()?;
    let mut given = Vec::new();
    for path in dirs {
        let Looked::There { number, attributes, hidden: false } = find(&target, path)? else {
            continue;
        };
        if let Some(from) = below(&parents, path)? {
            let made = inherited(&from, &attributes);
            if made != attributes {
                given.push((number, attributes, made));
            }
        }
    }
    let fits = given.iter().all(|(_, old, new)| old.xattrs == new.xattrs);
    if let (None, true) = (opaque, fits) {
        return target.set_attributes(given.iter().map(|(number, _, new)| (*number, new)));
    }
    let given = given.into_iter().map(|(number, _, new)| (number, new)).collect();
    let mut tree = target.tree(given)?;
    if let Some(key) = opaque {
        hide(&mut tree, &parents, key)?;
    }
    write::write((&tree, &Children::of(&tree)), image, target.meta(), target.uuid())
}

enum Looked {
    There {
        number: u64,
        attributes: Attributes,
        /// Whether a directory above it is opaque.
        hidden: bool,
    },
    /// Neither here nor in any layer below as far as this one shows.
    Hidden,
    Absent,
}

/// Walks to a directory without following any symlink.
fn find(image: &Reader<'_>, path: &[u8]) -> Result<Looked> {
    let (mut number, mut hidden) = (image.root_number(), false);
    let mut node = image.root()?;
    for name in components(path) {
        hidden |= opaque_key(&node.attributes).is_some();
        let Some(found) = image.child(&node, name)? else {
            return Ok(if hidden { Looked::Hidden } else { Looked::Absent });
        };
        (number, node) = (found, image.node(found)?);
        if !node.attributes.is_dir() {
            return Ok(Looked::Hidden);
        }
    }
    Ok(Looked::There { number, attributes: node.attributes, hidden })
}

/// What the nearest layer that has a directory says of it, unless one before hides it.
fn below(parents: &[Reader<'_>], path: &[u8]) -> Result<Option<Attributes>> {
    for parent in parents {
        match find(parent, path)? {
            Looked::There { attributes, .. } => return Ok(Some(attributes)),
            Looked::Hidden => break,
            Looked::Absent => {}
        }
    }
    Ok(None)
}

/// Does in the root what a mark on it would do elsewhere: hides each name that a layer below has.
fn hide(tree: &mut Tree, parents: &[Reader<'_>], key: &[u8]) -> Result<()> {
    for parent in parents {
        for (name, _) in parent.entries(&parent.root()?)? {
            match tree.child(ROOT, &name) {
                Some(id) if tree.is_dir(id) => {
                    tree.change(id, |attributes| attributes.set_xattr(key, b"y"))?;
                }
                Some(_) => {}
                None => {
                    tree.add(ROOT, &name, Attributes::mark(Time::default()), Body::Device(0))?;
                }
            }
        }
    }
    Ok(())
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
