//! Trees to layers: what has to be unpacked onto one tree to get the other.
//!
//! Both trees are walked together, names in the order of their bytes, and each difference becomes
//! an entry: a name that is gone a whiteout (OCI image-spec, layer.md, "Whiteouts"; always one a
//! name, never an opaque directory), everything else the whole file. A directory has an entry where
//! its own attributes differ or something below it does. Two names that are the same file of one
//! layer are not compared at all, which makes the changes of an overlay cheap to find; two files of
//! the same size and attributes are compared byte by byte, because a time says nothing about them
//! when layers are made with fixed times.
//!
//! Names of one file stay one: where a name of it has to be written, all others are written as
//! links to it, so that no entry relies on what is below the layer.

mod archive;
mod first;
mod node;
mod view;

use std::collections::{BTreeMap, HashMap, btree_map};
use std::io::Write;
use std::path::Path;
use std::rc::Rc;

use dist_core::{Cancel, Diffed, Differ, Error, ErrorKind, Mount, Result};
use rustix::fs::{FileType, Stat};

use self::archive::{Archive, What};
use self::first::First;
use self::node::{Node, identity, kind, size};
use self::view::{Entry, Place, View, is_representable, look};
use crate::name::{escape, join};
use crate::warnings::Warnings;

/// Open files above which those of directories far up are closed.
const OPEN_FILES: usize = 256;

/// Choices for [`LayerDiffer`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiffOptions {
    /// Seconds since the epoch: entries with a later time of modification get this one, and
    /// whiteouts, which have none of their own, too (else the epoch).
    pub source_date_epoch: Option<i64>,
}

/// Makes layers out of the difference of two trees.
///
/// Takes bind and overlay mounts and reads their directories as the kernel would show them;
/// nothing is mounted.
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerDiffer {
    options: DiffOptions,
}

impl LayerDiffer {
    /// Makes one that writes every layer by `options`.
    #[must_use]
    pub fn new(options: DiffOptions) -> Self {
        Self { options }
    }
}

impl Differ for LayerDiffer {
    fn diff(
        &self,
        lower: &[Mount],
        upper: &[Mount],
        out: &mut dyn Write,
        cancel: &Cancel,
    ) -> Result<Diffed> {
        let span = tracing::debug_span!("diff");
        let _entered = span.enter();
        let archive = Archive::new(out, self.options.source_date_epoch);
        compare(&View::open(lower)?, &View::open(upper)?, archive, cancel)
    }
}

/// Compares two directories as they are, overlayfs' marks included, and names something that is not
/// the same in both; `None` where there is no such. The times of the directories themselves do not
/// count.
///
/// # Errors
/// `Aborted` where they change meanwhile; `Storage`, `Cancelled`.
pub fn first_difference(one: &Path, other: &Path, cancel: &Cancel) -> Result<Option<String>> {
    let mut first = First::default();
    let archive = Archive::new(&mut first, None);
    let compared = compare(&View::raw(one)?, &View::raw(other)?, archive, cancel);
    match (first.path(), compared) {
        (Some(path), _) => Ok(Some(escape(path))),
        (None, compared) => compared.map(|_| None),
    }
}

fn compare<'a>(
    lower: &'a View,
    upper: &'a View,
    archive: Archive<'a>,
    cancel: &'a Cancel,
) -> Result<Diffed> {
    let mut walk = Walk {
        lower,
        upper,
        archive,
        cancel,
        frames: Vec::new(),
        links: Links::default(),
        warnings: Warnings::default(),
    };
    walk.run()?;
    let Walk { archive, warnings, .. } = walk;
    let (diff_id, size) = archive.finish()?;
    Ok(Diffed { diff_id, size, warnings: warnings.into_vec() })
}

/// A directory of the upper tree, as an entry that may have to be written before one below it.
struct Directory {
    path: Vec<u8>,
    node: Node,
    written: std::cell::Cell<bool>,
    parent: Option<Rc<Self>>,
}

/// A directory that is being walked.
struct Frame {
    dir: Option<Rc<Directory>>,
    lower: Option<Place>,
    upper: Place,
    rest: btree_map::IntoIter<Vec<u8>, (Option<Entry>, Option<Entry>)>,
}

/// A name, and the directory it is in where that is not the root.
type Unchanged = (Vec<u8>, Option<Rc<Directory>>);

/// Files of the upper tree with several names.
#[derive(Default)]
struct Links {
    /// The name under which a file is in the layer.
    written: HashMap<(u64, u64), Vec<u8>>,
    /// Names of files that did not have to be written so far.
    unchanged: HashMap<(u64, u64), Vec<Unchanged>>,
    /// Which file of the lower tree is which of the upper, and the reverse.
    same: HashMap<(u64, u64), (u64, u64)>,
    same_reversed: HashMap<(u64, u64), (u64, u64)>,
}

impl Links {
    /// Notes that two files are the same; false where one of them is another's already, so that
    /// names are joined differently in the two trees.
    fn pair(&mut self, lower: &Stat, upper: &Stat) -> bool {
        if lower.st_nlink <= 1 && upper.st_nlink <= 1 {
            return true;
        }
        let (lower, upper) = (identity(lower), identity(upper));
        *self.same.entry(lower).or_insert(upper) == upper
            && *self.same_reversed.entry(upper).or_insert(lower) == lower
    }
}

struct Walk<'a> {
    lower: &'a View,
    upper: &'a View,
    archive: Archive<'a>,
    cancel: &'a Cancel,
    frames: Vec<Frame>,
    links: Links,
    warnings: Warnings,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let (lower, upper) = (self.lower.root()?, self.upper.root()?);
        self.root(&lower, &upper)?;
        self.enter(None, Some(lower), upper)?;
        while let Some(frame) = self.frames.last_mut() {
            self.cancel.check()?;
            if let Some((name, (below, above))) = frame.rest.next() {
                self.name(&name, below, above)?;
            } else {
                self.frames.pop();
                if let Some(frame) = self.frames.last_mut() {
                    self.upper.reopen(&mut frame.upper)?;
                    if let Some(lower) = &mut frame.lower {
                        self.lower.reopen(lower)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes the root where it is not like that of the lower tree, or of a tree that somebody just
    /// made. Its time is no reason to: whoever puts a tree together changes it.
    fn root(&mut self, lower: &Place, upper: &Place) -> Result<()> {
        let Some(node) = self.upper.root_node(upper)? else { return Ok(()) };
        let same = match self.lower.root_node(lower)? {
            Some(below) => node.has_attributes_of(&below),
            None => {
                let owner = (node.stat.st_uid, node.stat.st_gid);
                node.stat.st_mode & 0o7777 == 0o755 && owner == (0, 0) && node.xattrs.is_empty()
            }
        };
        if same { Ok(()) } else { self.archive.entry(b"./", &What::Directory, &node) }
    }

    /// Begins a directory: lists it in both trees.
    fn enter(
        &mut self,
        dir: Option<Rc<Directory>>,
        lower: Option<Place>,
        upper: Place,
    ) -> Result<()> {
        if lower.as_ref().is_some_and(|lower| lower.is(&upper) && !self.upper.is_empty()) {
            return Ok(());
        }
        let mut names: BTreeMap<_, (Option<Entry>, Option<Entry>)> = BTreeMap::new();
        if let Some(lower) = &lower {
            for (name, entry) in self.lower.list(lower)? {
                names.insert(name, (Some(entry), None));
            }
        }
        for (name, entry) in self.upper.list(&upper)? {
            names.entry(name).or_default().1 = Some(entry);
        }
        self.frames.push(Frame { dir, lower, upper, rest: names.into_iter() });
        self.close_far();
        Ok(())
    }

    /// Closes the directories farthest up while too many are open.
    fn close_far(&mut self) {
        let count = |place: &Place| place.open_files();
        let mut open: usize = self
            .frames
            .iter()
            .map(|frame| count(&frame.upper) + frame.lower.as_ref().map_or(0, count))
            .sum();
        let far = self.frames.len().saturating_sub(1);
        for frame in &mut self.frames[..far] {
            if open <= OPEN_FILES {
                break;
            }
            open -= count(&frame.upper) + frame.lower.as_ref().map_or(0, count);
            frame.upper.close();
            if let Some(lower) = &mut frame.lower {
                lower.close();
            }
        }
    }

    /// One name that is in the lower tree, the upper, or both.
    fn name(&mut self, name: &[u8], below: Option<Entry>, above: Option<Entry>) -> Result<()> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let below = match (below, &frame.lower) {
            (Some(entry), Some(place)) => {
                let stat = self.lower.at(place, name, entry, look)?;
                stat.filter(is_representable).map(|stat| (entry, stat))
            }
            _ => None,
        };
        let above = match above {
            Some(entry) => {
                self.upper.at(&frame.upper, name, entry, look)?.map(|stat| (entry, stat))
            }
            None => None,
        };
        let path = join(&frame.upper.path, name);
        let above = above.filter(|(_, stat)| {
            let kept = is_representable(stat);
            if !kept {
                self.warnings.add("socket left out", &path);
            }
            kept
        });
        match (below, above) {
            (None, None) => Ok(()),
            (Some(_), None) => self.gone(name, &path),
            (below, Some((entry, stat))) => {
                let changed = match below {
                    Some((below, lower)) => self.differs(name, (below, &lower), (entry, &stat))?,
                    None => true,
                };
                if kind(&stat) == FileType::Directory {
                    self.directory(name, below, (entry, stat), changed)
                } else {
                    self.file(name, path, (entry, stat), changed)
                }
            }
        }
    }

    fn gone(&mut self, name: &[u8], path: &[u8]) -> Result<()> {
        check_name(name, path)?;
        let dir = self.frames.last().and_then(|frame| frame.dir.clone());
        self.parents(dir.as_ref())?;
        let at = self.frames.last().map_or(&[][..], |frame| &frame.upper.path);
        let path = join(at, &[b".wh.", name].concat());
        self.archive.marker(&path)
    }

    /// Whether a name means something else in the upper tree than in the lower; of a directory,
    /// only itself.
    fn differs(
        &mut self,
        name: &[u8],
        (below, lower): (Entry, &Stat),
        (above, upper): (Entry, &Stat),
    ) -> Result<bool> {
        let Some(Frame { lower: Some(lower_place), upper: upper_place, .. }) = self.frames.last()
        else {
            return Ok(true);
        };
        let is_dir = kind(upper) == FileType::Directory;
        if identity(lower) == identity(upper) {
            return Ok(!is_dir && !self.links.pair(lower, upper));
        }
        let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
        if of(lower) != of(upper) || time(lower) != time(upper) {
            return Ok(true);
        }
        let same = match kind(upper) {
            FileType::RegularFile => lower.st_size == upper.st_size,
            FileType::CharacterDevice | FileType::BlockDevice => lower.st_rdev == upper.st_rdev,
            _ => true,
        };
        if !same {
            return Ok(true);
        }
        let lower_node = self.lower.node(lower_place, name, below, *lower)?;
        let upper_node = self.upper.node(upper_place, name, above, *upper)?;
        if lower_node.xattrs != upper_node.xattrs {
            return Ok(true);
        }
        let same = self.lower.at(lower_place, name, below, |below| {
            self.upper.at(upper_place, name, above, |above| match kind(upper) {
                FileType::RegularFile => above.has_contents_of(upper, below, lower, self.cancel),
                FileType::Symlink => Ok(above.target()? == below.target()?),
                _ => Ok(true),
            })
        })?;
        Ok(!same || (!is_dir && !self.links.pair(lower, upper)))
    }

    fn directory(
        &mut self,
        name: &[u8],
        below: Option<(Entry, Stat)>,
        (entry, stat): (Entry, Stat),
        changed: bool,
    ) -> Result<()> {
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let upper = self.upper.child(&frame.upper, name, entry)?;
        let lower = match (below, &frame.lower) {
            (Some((below, stat)), Some(place)) if kind(&stat) == FileType::Directory => {
                Some(self.lower.child(place, name, below)?)
            }
            _ => None,
        };
        let mut node = self.upper.node(&frame.upper, name, entry, stat)?;
        self.warnings.drop_unwritable(&mut node, &upper.path);
        let dir = Rc::new(Directory {
            path: upper.path.clone(),
            node,
            written: false.into(),
            parent: frame.dir.clone(),
        });
        if changed {
            self.parents(Some(&dir))?;
        }
        self.enter(Some(dir), lower, upper)
    }

    fn file(
        &mut self,
        name: &[u8],
        path: Vec<u8>,
        (entry, stat): (Entry, Stat),
        changed: bool,
    ) -> Result<()> {
        let dir = self.frames.last().and_then(|frame| frame.dir.clone());
        let linked = (stat.st_nlink > 1).then(|| identity(&stat));
        let source = linked.and_then(|id| self.links.written.get(&id).cloned());
        if let (None, false) = (&source, changed) {
            if let Some(id) = linked {
                self.links.unchanged.entry(id).or_default().push((path, dir));
            }
            return Ok(());
        }
        self.parents(dir.as_ref())?;
        if let Some(source) = source {
            let node = Node { stat, xattrs: BTreeMap::new() };
            return self.link(&path, &source, &node);
        }
        self.whole(name, &path, entry, stat)?;
        if let Some(id) = linked {
            for (other, dir) in self.links.unchanged.remove(&id).unwrap_or_default() {
                self.parents(dir.as_ref())?;
                self.link(&other, &path, &Node { stat, xattrs: BTreeMap::new() })?;
            }
            self.links.written.insert(id, path);
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], source: &[u8], node: &Node) -> Result<()> {
        check_path(path)?;
        self.archive.entry(path, &What::Link(source), node)
    }

    /// Writes an entry with all it has.
    fn whole(&mut self, name: &[u8], path: &[u8], entry: Entry, stat: Stat) -> Result<()> {
        check_path(path)?;
        let Some(frame) = self.frames.last() else { return Ok(()) };
        let mut node = self.upper.node(&frame.upper, name, entry, stat)?;
        self.warnings.drop_unwritable(&mut node, path);
        let (archive, cancel) = (&mut self.archive, self.cancel);
        self.upper.at(&frame.upper, name, entry, |spot| match node.kind() {
            FileType::RegularFile => {
                archive.entry(path, &What::File(size(&stat)), &node)?;
                spot.read(&stat, cancel, &mut |bytes| archive.write(bytes))?;
                archive.pad(size(&stat))
            }
            FileType::Symlink => archive.entry(path, &What::Symlink(&spot.target()?), &node),
            FileType::CharacterDevice => archive.entry(path, &What::Char, &node),
            FileType::BlockDevice => archive.entry(path, &What::Block, &node),
            _ => archive.entry(path, &What::Fifo, &node),
        })
    }

    /// Writes the entries of a directory and of those above it, where they are not there yet.
    fn parents(&mut self, dir: Option<&Rc<Directory>>) -> Result<()> {
        let mut missing = Vec::new();
        let mut next = dir;
        while let Some(dir) = next {
            if dir.written.get() {
                break;
            }
            missing.push(Rc::clone(dir));
            next = dir.parent.as_ref();
        }
        for dir in missing.iter().rev() {
            check_path(&dir.path)?;
            self.archive.entry(&[&dir.path[..], b"/"].concat(), &What::Directory, &dir.node)?;
            dir.written.set(true);
        }
        Ok(())
    }
}

impl Warnings {
    /// Takes away the extended attributes that no tar can hold.
    fn drop_unwritable(&mut self, node: &mut Node, path: &[u8]) {
        node.xattrs.retain(|key, _| {
            let fits = !key.contains(&b'=');
            if !fits {
                self.add("extended attribute with = in its name left out", path);
            }
            fits
        });
    }
}

/// Refuses a path whose last name would be a whiteout; those above it were looked at before.
fn check_path(path: &[u8]) -> Result<()> {
    check_name(crate::name::split(path).1, path)
}

fn check_name(name: &[u8], path: &[u8]) -> Result<()> {
    if !name.starts_with(b".wh.") {
        return Ok(());
    }
    let message = format!("write entry {}: in a layer this name is a whiteout", escape(path));
    Err(Error::new(ErrorKind::Unsupported, message))
}
