//! Whiteouts: what a layer deletes of the layers below it.
//!
//! In a layer, `.wh.NAME` hides NAME and `.wh..wh..opq` hides all that its directory holds below
//! (OCI image-spec, layer.md, "Whiteouts"). On disk, overlayfs takes a character device 0/0 and
//! the xattr `overlay.opaque`. Both hide the layers below only: an entry of the same layer stays,
//! whatever the order.

use std::os::fd::AsFd;

use dist_core::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, Stat, makedev};
use rustix::io::Errno;

use crate::name::escape;

const PREFIX: &[u8] = b".wh.";
const META_PREFIX: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The node that marks an opaque directory where extended attributes are not to be used. No entry
/// of a layer can have this name.
pub(crate) const OPAQUE_NODE: &[u8] = OPAQUE;

/// Begins the names of directories that layers are put in before they are merged. No entry of a
/// layer can have such a name.
pub(crate) const STAGING_PREFIX: &str = ".wh..wh.dist-";

/// How whiteouts are laid down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// For overlayfs: devices 0/0, and the xattr in the `trusted` or the `user` namespace.
    Overlay { user_xattr: bool },
    /// For [`crate::merge`]: devices 0/0 only, opaque directories have one named
    /// [`OPAQUE_NODE`] inside.
    Nodes,
    /// Nothing is below the layer, so there is nothing to hide.
    Ignored,
}

/// What an entry's name says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    /// An ordinary entry.
    Plain,
    /// Hides the name.
    Whiteout(&'a [u8]),
    /// Hides what the directory holds below.
    Opaque,
    /// Bookkeeping of aufs, which is no part of the tree.
    Aufs,
}

/// Tells whiteouts from ordinary entries.
///
/// # Errors
/// `UnsafeLayer` for a whiteout of `.` or `..`; `Corrupt` for one without a name, or with entries
/// below it.
pub(crate) fn classify<'a>(dir: &[u8], name: &'a [u8]) -> Result<Name<'a>> {
    for component in dir.split(|&byte| byte == b'/') {
        if component.starts_with(META_PREFIX) {
            return Ok(Name::Aufs);
        }
        if component.starts_with(PREFIX) {
            let message = format!("resolve path {}: it lies below a whiteout", escape(dir));
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
    }
    if name == OPAQUE {
        return Ok(Name::Opaque);
    }
    if name.starts_with(META_PREFIX) {
        return Ok(Name::Aufs);
    }
    match name.strip_prefix(PREFIX) {
        None => Ok(Name::Plain),
        Some(b"") => Err(Error::new(ErrorKind::Corrupt, "read whiteout: it has no name")),
        Some(hidden @ (b"." | b"..")) => Err(Error::new(
            ErrorKind::UnsafeLayer,
            format!("read whiteout: it would delete {}", escape(hidden)),
        )),
        Some(hidden) => Ok(Name::Whiteout(hidden)),
    }
}

/// Whether a node is a whiteout of overlayfs.
pub(crate) fn is_overlay_mark(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Whether a node is the mark of a whiteout, see [`make_mark`].
pub(crate) fn is_mark(stat: &Stat) -> bool {
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    is_device && (stat.st_rdev == 0 || stat.st_rdev == makedev(0, 1))
}

/// Makes the mark of a whiteout: the device 0/0. On a mounted overlay nobody may make that one, so
/// there it is 0/1, which is no device either.
pub(crate) fn make_mark(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    let make =
        |device| rustix::fs::mknodat(&dir, name, FileType::CharacterDevice, Mode::empty(), device);
    match make(makedev(0, 0)) {
        Err(Errno::PERM) => make(makedev(0, 1)),
        result => result,
    }
}

/// Whether an extended attribute belongs to a storage driver, and so never to a layer.
pub(crate) fn is_private_xattr(key: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 4] =
        [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers."];
    PREFIXES.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether an extended attribute is a host's label or measurement, which its own policy sets.
pub(crate) fn is_host_xattr(key: &[u8]) -> bool {
    key.starts_with(b"security.") && key != b"security.capability"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (dir, name, meaning) in [
            ("", "a", Name::Plain),
            ("a", ".wh.b", Name::Whiteout(b"b")),
            ("", ".wh..wh..opq", Name::Opaque),
            ("", ".wh..wh.plnk", Name::Aufs),
            (".wh..wh.plnk", "1.2", Name::Aufs),
            ("", ".wha", Name::Plain),
            ("", ".wh....", Name::Whiteout(b"...")),
        ] {
            assert_eq!(classify(dir.as_bytes(), name.as_bytes()).unwrap(), meaning, "{dir}/{name}");
        }
        for (dir, name) in [("", ".wh."), ("", ".wh.."), ("", ".wh..."), (".wh.a", "b")] {
            assert!(classify(dir.as_bytes(), name.as_bytes()).is_err(), "{dir}/{name}");
        }
    }
}
