//! What mounts would show, read from their directories without mounting them.
//!
//! A bind mount is one directory. An overlay is several, nearest first: of the files of one name
//! the nearest counts, directories of one name are one unless the nearer is opaque, and a device
//! 0/0 hides what is below (Linux, filesystems/overlayfs.rst). Reading the layers themselves needs
//! no privilege, leaves nothing behind, and tells where two views share a file.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use dist_core::{Error, ErrorKind, Mount, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::node::{Node, Spot, Xattrs, dir_xattrs, failed, identity, kind, transferable};
use crate::beneath::{each, open_dir_at};
use crate::name::{escape, join};
use crate::whiteout::is_overlay_mark;

/// Bytes of a path that are resolved in one call.
const PIECE: usize = 4000;

/// A tree made of layers.
pub(super) struct View {
    layers: Vec<Layer>,
    /// How overlayfs' marks are called here: `trusted.overlay.` or `user.overlay.`.
    marks: &'static str,
    /// Whether marks are part of the tree.
    raw: bool,
}

struct Layer {
    root: OwnedFd,
    shown: PathBuf,
}

/// A directory of a view: it may be in several layers.
pub(super) struct Place {
    pub(super) path: Vec<u8>,
    levels: Vec<Level>,
}

struct Level {
    layer: usize,
    /// Closed while the walk is far below.
    dir: Option<OwnedFd>,
    identity: (u64, u64),
}

/// A name in a [`Place`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    level: usize,
}

impl View {
    /// A view of what `mounts` would show; none at all show an empty tree.
    ///
    /// # Errors
    /// `Unsupported` where they have to be performed to see it; `NotFound`, `Storage`.
    pub(super) fn open(mounts: &[Mount]) -> Result<Self> {
        let refuse = |what: &str| {
            let message = format!("read mounts: {what} has to be mounted to be read");
            Err(Error::new(ErrorKind::Unsupported, message))
        };
        let mut marks = "trusted.overlay.";
        let paths: Vec<PathBuf> = match mounts {
            [] => Vec::new(),
            [mount] if mount.target.is_some() => return refuse("a part of a tree"),
            [mount] if mount.fstype == "bind" => vec![mount.source.clone()],
            [mount] if mount.fstype == "overlay" => {
                let lower = mount.option("lowerdir").unwrap_or_default();
                let relative = |path: &str| !path.starts_with('/');
                if lower.contains('\\') || lower.split(':').any(relative) {
                    return refuse("an overlay of data layers, or with relative or quoted paths,");
                }
                if mount.options.iter().any(|option| option == "userxattr") {
                    marks = "user.overlay.";
                }
                let upper = mount.option("upperdir").into_iter();
                upper.chain(lower.split(':')).map(PathBuf::from).collect()
            }
            [mount] => return refuse(&escape(mount.fstype.as_bytes())),
            _ => return refuse("a stack of mounts"),
        };
        let layers = paths.into_iter().map(Layer::open).collect::<Result<Vec<_>>>()?;
        Ok(Self { layers, marks, raw: false })
    }

    /// A view of one directory as it is, overlayfs' marks included.
    pub(super) fn raw(dir: &Path) -> Result<Self> {
        let layers = vec![Layer::open(dir.to_owned())?];
        Ok(Self { layers, marks: "trusted.overlay.", raw: true })
    }

    /// Whether it has no layers, so that not even its root has attributes.
    pub(super) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    pub(super) fn root(&self) -> Result<Place> {
        self.descend(Vec::new(), 0..self.layers.len(), |layer| {
            Ok(Some(open_dir_at(&self.layers[layer].root, b".")?))
        })
    }

    /// The directory at `path`, which was seen before.
    fn open_again(&self, layer: usize, mut path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let root = &self.layers[layer].root;
        let mut dir = open_dir_at(root, b".")?;
        while !path.is_empty() {
            let length = if path.len() <= PIECE {
                path.len()
            } else {
                let slash = path[..=PIECE].iter().rposition(|&byte| byte == b'/');
                slash.ok_or(Errno::NAMETOOLONG)?
            };
            dir = open_dir_at(&dir, &path[..length])?;
            path = path.get(length + 1..).unwrap_or_default();
        }
        Ok(dir)
    }

    /// Opens a directory's levels, nearest first, down to one that hides what is below.
    fn descend(
        &self,
        path: Vec<u8>,
        layers: impl Iterator<Item = usize>,
        open: impl Fn(usize) -> rustix::io::Result<Option<OwnedFd>>,
    ) -> Result<Place> {
        let mut levels = Vec::new();
        for layer in layers {
            let shown = || self.show(layer, &path, &[]);
            let describe = |errno| failed(errno, format!("open directory {}", shown()));
            let dir = match open(layer) {
                Ok(Some(dir)) => dir,
                Ok(None) | Err(Errno::NOENT) => continue,
                // Something else has the name here and hides what is below.
                Err(Errno::NOTDIR | Errno::LOOP) if !levels.is_empty() => break,
                Err(errno) => return Err(describe(errno)),
            };
            let identity = identity(&rustix::fs::fstat(&dir).map_err(describe)?);
            let opaque = self.hides_below(&dir, shown)?;
            levels.push(Level { layer, dir: Some(dir), identity });
            if opaque && !path.is_empty() {
                break;
            }
        }
        Ok(Place { path, levels })
    }

    /// Whether a directory is opaque. Only a view of several layers has marks.
    fn hides_below(&self, dir: &OwnedFd, shown: impl Fn() -> String) -> Result<bool> {
        if self.layers.len() < 2 {
            return Ok(false);
        }
        let xattrs = dir_xattrs(dir, &shown)?;
        let mark = |name: &str| xattrs.get([self.marks, name].concat().as_bytes());
        let opaque = mark("opaque").map(Vec::as_slice);
        if mark("redirect").is_some() || opaque == Some(b"x") {
            return Err(must_mount(&shown()));
        }
        Ok(opaque == Some(b"y"))
    }

    /// What is in a directory by name, sorted; without what is hidden.
    pub(super) fn list(&self, place: &Place) -> Result<BTreeMap<Vec<u8>, Entry>> {
        let mut names: BTreeMap<Vec<u8>, Option<Entry>> = BTreeMap::new();
        for (at, level) in place.levels.iter().enumerate() {
            let dir = self.dir(place, at)?;
            let shown = |name: &[u8]| self.show(level.layer, &place.path, name);
            each(
                dir,
                |errno| failed(errno, format!("list directory {}", shown(&[]))),
                |name, kind| {
                    if names.contains_key(name) {
                        return Ok(());
                    }
                    let hidden = !self.raw
                        && matches!(kind, FileType::CharacterDevice | FileType::Unknown)
                        && is_overlay_mark(&Spot { dir, name, shown: &|| shown(name) }.stat()?);
                    names.insert(name.to_vec(), (!hidden).then_some(Entry { level: at }));
                    Ok(())
                },
            )?;
        }
        Ok(names.into_iter().filter_map(|(name, entry)| Some((name, entry?))).collect())
    }

    /// The directory that `entry` is.
    pub(super) fn child(&self, place: &Place, name: &[u8], entry: Entry) -> Result<Place> {
        let at = |layer| place.levels.iter().position(|level| level.layer == layer);
        let layers = place.levels[entry.level..].iter().map(|level| level.layer);
        self.descend(join(&place.path, name), layers, |layer| {
            let dir = at(layer).and_then(|level| place.levels[level].dir.as_ref());
            dir.map(|dir| open_dir_at(dir, name)).transpose()
        })
    }

    /// Runs `look` on what `entry` is.
    pub(super) fn at<T>(
        &self,
        place: &Place,
        name: &[u8],
        entry: Entry,
        look: impl FnOnce(&Spot<'_>) -> Result<T>,
    ) -> Result<T> {
        let layer = place.levels[entry.level].layer;
        let shown = || self.show(layer, &place.path, name);
        look(&Spot { dir: self.dir(place, entry.level)?, name, shown: &shown })
    }

    /// All that a tar says of an entry.
    pub(super) fn node(
        &self,
        place: &Place,
        name: &[u8],
        entry: Entry,
        stat: Stat,
    ) -> Result<Node> {
        self.at(place, name, entry, |spot| {
            let xattrs = spot.all_xattrs()?;
            let partial = [self.marks, "metacopy"].concat();
            if self.layers.len() > 1 && xattrs.contains_key(partial.as_bytes()) {
                return Err(must_mount(&(spot.shown)()));
            }
            Ok(Node { stat, xattrs: self.kept(xattrs) })
        })
    }

    /// The root's attributes.
    pub(super) fn root_node(&self, root: &Place) -> Result<Option<Node>> {
        if root.levels.is_empty() {
            return Ok(None);
        }
        let (dir, shown) = (self.dir(root, 0)?, || self.show(0, &[], &[]));
        let stat = rustix::fs::fstat(dir)
            .map_err(|errno| failed(errno, format!("examine {}", shown())))?;
        Ok(Some(Node { stat, xattrs: self.kept(dir_xattrs(dir, shown)?) }))
    }

    /// The attributes that are part of the tree.
    fn kept(&self, all: Xattrs) -> Xattrs {
        let opaque = |key: &[u8]| key.ends_with(b".overlay.opaque");
        let marks: Xattrs = match self.raw {
            true => all.iter().filter(|(key, _)| opaque(key)).map(clone_pair).collect(),
            false => Xattrs::new(),
        };
        let mut kept = transferable(all);
        kept.extend(marks);
        kept
    }

    fn dir<'p>(&self, place: &'p Place, level: usize) -> Result<&'p OwnedFd> {
        let closed = || {
            let message = format!("read {}: it is closed", escape(&place.path));
            Error::new(ErrorKind::Internal, message)
        };
        place.levels[level].dir.as_ref().ok_or_else(closed)
    }

    /// Opens what [`Place::close`] closed.
    pub(super) fn reopen(&self, place: &mut Place) -> Result<()> {
        for level in &mut place.levels {
            if level.dir.is_some() {
                continue;
            }
            let shown = || self.show(level.layer, &place.path, &[]);
            let open = || {
                let dir = self.open_again(level.layer, &place.path)?;
                Ok((identity(&rustix::fs::fstat(&dir)?), dir))
            };
            let (found, dir) =
                open().map_err(|errno| failed(errno, format!("open directory {}", shown())))?;
            if found != level.identity {
                let message = format!("read directory {}: it was moved meanwhile", shown());
                return Err(Error::new(ErrorKind::Aborted, message));
            }
            level.dir = Some(dir);
        }
        Ok(())
    }

    fn show(&self, layer: usize, dir: &[u8], name: &[u8]) -> String {
        let parts = [self.layers[layer].shown.as_os_str().as_bytes(), dir, name];
        let parts: Vec<&[u8]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        escape(&parts.join(&b'/'))
    }
}

impl Layer {
    fn open(path: PathBuf) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(root) => Ok(Self { root, shown: path }),
            Err(errno) => Err(unreadable(errno, &path)),
        }
    }
}

impl Place {
    /// How many open files it holds.
    pub(super) fn open_files(&self) -> usize {
        self.levels.iter().filter(|level| level.dir.is_some()).count()
    }

    /// Closes its files until the walk comes back.
    pub(super) fn close(&mut self) {
        for level in &mut self.levels {
            level.dir = None;
        }
    }

    /// Whether two places are the same directories, so that there is nothing to compare.
    pub(super) fn is(&self, other: &Self) -> bool {
        let of = |place: &Self| place.levels.iter().map(|level| level.identity).collect::<Vec<_>>();
        of(self) == of(other)
    }
}

fn unreadable(errno: Errno, path: &Path) -> Error {
    let kind = match errno {
        Errno::NOENT => ErrorKind::NotFound,
        Errno::ACCESS | Errno::PERM => ErrorKind::PermissionDenied,
        Errno::NOTDIR => ErrorKind::InvalidArgument,
        _ => ErrorKind::Storage,
    };
    let message = format!("open directory {}", escape(path.as_os_str().as_bytes()));
    Error::new(kind, message).with_source(std::io::Error::from(errno))
}

fn must_mount(what: &str) -> Error {
    let message = format!("read {what}: overlayfs has to be mounted to follow its marks");
    Error::new(ErrorKind::Unsupported, message)
}

fn clone_pair((key, value): (&Vec<u8>, &Vec<u8>)) -> (Vec<u8>, Vec<u8>) {
    (key.clone(), value.clone())
}

/// Whether a file can be in a layer at all.
pub(super) fn is_representable(stat: &Stat) -> bool {
    !matches!(kind(stat), FileType::Socket | FileType::Unknown)
}

/// Describes what is at a name, which may be gone.
pub(super) fn look(spot: &Spot<'_>) -> Result<Option<Stat>> {
    match rustix::fs::statat(spot.dir, spot.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(errno, format!("examine {}", (spot.shown)()))),
    }
}
