//! Entries of a tar as files beneath one directory.
//!
//! An ordinary file costs four system calls (create, write, set times, close) where its owner is
//! this process's and its mode needs no more; each 256 KiB of its body one write more.

mod defaults;
mod file;

use std::rc::Rc;

use dist_core::{Cancel, Error, ErrorKind, Result, Usage};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, makedev};
use rustix::io::Errno;

use self::defaults::Defaults;
use super::attributes::{
    Host, set_file_owner, set_node_attributes, set_owner, set_xattrs, timestamps,
};
use super::entries::{Entries, lay_down};
use super::fill::Filling;
use super::settle::IMPLICIT_MODE;
use super::{copy_xattrs, count, open_for_attributes, set_mode, set_times};
use crate::beneath::{Dir, Missing, Tree, failed};
use crate::compression::Chunks;
use crate::ledger::{Final, Ledger};
use crate::name::{escape, join, normalize, split};
use crate::tar::{Entry, Kind, Tar, Time};
use crate::warnings::Warnings;
use crate::whiteout::{Marks, OPAQUE_NODE, is_mark, make_mark};

/// What is known after all entries are made.
pub(crate) struct Unpacked<C> {
    pub(crate) ledger: Ledger,
    pub(crate) warnings: Warnings,
    /// Whether any mark of a whiteout or opaque directory was made.
    pub(crate) marked: bool,
    /// What all but the directories take, where nothing was removed again.
    pub(crate) usage: Option<Usage>,
    /// Whose stream is not yet read to its end.
    pub(crate) tar: Tar<C>,
}

pub(crate) struct Unpacker<'a> {
    tree: &'a mut Tree,
    marks: Marks,
    host: &'a Host,
    cancel: &'a Cancel,
    ledger: Ledger,
    warnings: Warnings,
    marked: bool,
    usage: Option<Usage>,
    filling: Option<Filling>,
    defaults: Defaults,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(
        tree: &'a mut Tree,
        marks: Marks,
        host: &'a Host,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            tree,
            marks,
            host,
            cancel,
            ledger: Ledger::default(),
            warnings: Warnings::default(),
            marked: false,
            usage: Some(Usage::default()),
            filling: None,
            defaults: Defaults::default(),
        }
    }

    /// Makes every entry of `tar`.
    pub(crate) fn run<C: Chunks>(mut self, mut tar: Tar<C>) -> Result<Unpacked<C>> {
        let cancel = self.cancel;
        let laid_down = lay_down(&mut tar, &mut self, cancel);
        // What went wrong there is of an earlier entry.
        self.fill()?;
        laid_down?;
        let Self { tree, ledger, mut warnings, marked, usage, defaults, .. } = self;
        defaults.set(tree, &mut warnings)?;
        Ok(Unpacked { ledger, warnings, marked, usage, tar })
    }

    /// Waits until all files that were created are whole.
    fn fill(&mut self) -> Result<()> {
        let Some(filling) = self.filling.take() else { return Ok(()) };
        let filled = filling.finish()?;
        if let Some(usage) = &mut self.usage {
            usage.inodes += filled.inodes;
            usage.bytes += filled.bytes;
        }
        Ok(())
    }

    /// Runs `make` until it does not find the name taken; what is there is removed.
    fn replacing<T>(
        &mut self,
        dir: &Rc<Dir>,
        name: &[u8],
        what: &str,
        mut make: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T> {
        for last in [false, true] {
            match make() {
                Err(Errno::EXIST) if !last => self.clear(dir, name)?,
                result => {
                    return result.map_err(|errno| {
                        failed(errno, format!("make {what} {}", self.tree.show(&dir.path, name)))
                    });
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    fn clear(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        self.usage = None;
        if self.tree.clear(dir, name)? {
            let path = join(&dir.path, name);
            self.defaults.gone(&path);
            self.ledger.gone(&path)?;
        }
        Ok(())
    }

    fn owns(&self, entry: &Entry) -> bool {
        self.host.differs(entry.uid, entry.gid)
    }

    fn directory(&mut self, entry: &mut Entry, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        let mode = self.host.making_mode(entry.mode);
        let mut reused = false;
        let mut hidden = false;
        let made = rustix::fs::mkdirat(&dir.fd, name, mode);
        if made == Err(Errno::EXIST) {
            let stat = self.tree.stat(dir, name)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                reused = true;
            } else {
                hidden = is_mark(&stat);
                self.replacing(dir, name, "directory", || {
                    rustix::fs::mkdirat(&dir.fd, name, mode)
                })?;
            }
        } else {
            made.map_err(|errno| {
                failed(errno, format!("make directory {}", self.tree.show(&dir.path, name)))
            })?;
        }
        if hidden {
            self.make_opaque(dir, name)?;
        }
        if reused || self.owns(entry) {
            set_owner(self.tree, dir, name, entry, &mut self.warnings)?;
        }
        let path = join(&dir.path, name);
        self.defaults.keep(&path, entry)?;
        if !entry.xattrs.is_empty() {
            let fd = open_for_attributes(self.tree, dir, name)?;
            let shown = || self.tree.show(&dir.path, name);
            set_xattrs(&fd, entry, &mut self.warnings, shown)?;
        }
        let end = Final::Explicit { mode: entry.mode, mtime: entry.mtime, reused };
        self.ledger.set(&path, end)
    }

    fn symlink(&mut self, entry: &Entry, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        if entry.link.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "make symlink: its target is empty"));
        }
        self.replacing(dir, name, "symlink", || {
            rustix::fs::symlinkat(entry.link.as_slice(), &dir.fd, name)
        })?;
        if self.owns(entry) {
            set_owner(self.tree, dir, name, entry, &mut self.warnings)?;
        }
        set_node_attributes(self.tree, dir, name, (entry, None), &mut self.warnings)?;
        self.set_times_at(dir, name, entry.mtime)?;
        self.count_at(dir, name)
    }

    fn special(&mut self, entry: &Entry, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        let (kind, what) = match entry.kind {
            Kind::Char => (FileType::CharacterDevice, "device"),
            Kind::Block => (FileType::BlockDevice, "device"),
            _ => (FileType::Fifo, "fifo"),
        };
        if kind == FileType::CharacterDevice && entry.device == (0, 0) {
            // It would hide what is below, on overlayfs only.
            self.warnings.add("device 0:0 not created", &entry.path);
            return Ok(());
        }
        let device = makedev(entry.device.0, entry.device.1);
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        let made = self.replacing(dir, name, what, || {
            match rustix::fs::mknodat(&dir.fd, name, kind, mode, device) {
                Err(Errno::PERM) if kind != FileType::Fifo => Ok(false),
                result => result.map(|()| true),
            }
        })?;
        if !made {
            self.clear(dir, name)?;
            self.warnings.add("device not created", &entry.path);
            return Ok(());
        }
        if self.owns(entry) {
            set_owner(self.tree, dir, name, entry, &mut self.warnings)?;
        }
        let mode = self.host.masks(entry.mode).then_some(entry.mode);
        set_node_attributes(self.tree, dir, name, (entry, mode), &mut self.warnings)?;
        self.set_times_at(dir, name, entry.mtime)?;
        self.count_at(dir, name)
    }

    /// Makes another name of a file of this layer. Its owner, mode and times are those of the
    /// file's own entry. A symlink gets another name itself; where one stands for a directory on
    /// the way, it leads inside the layer's root, as everywhere.
    fn link(&mut self, entry: &Entry, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        let corrupt = |what: &str| {
            let message = format!("make hard link to {}: {what}", escape(&entry.link));
            Error::new(ErrorKind::Corrupt, message)
        };
        let target = normalize(&entry.link)?;
        let (parent, target_name) = split(&target);
        let from = self.tree.existing(parent)?.ok_or_else(|| corrupt("it is not in the layer"))?;
        let stat = match self.tree.try_stat(&from, target_name)? {
            Some(stat) if !target_name.is_empty() && !is_mark(&stat) => stat,
            _ => return Err(corrupt("it is not in the layer")),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            return Err(corrupt("it is a directory"));
        }
        if from.path == dir.path && target_name == name {
            return Err(corrupt("it is the link itself"));
        }
        let linked = self.replacing(dir, name, "hard link", || {
            match rustix::fs::linkat(&from.fd, target_name, &dir.fd, name, AtFlags::empty()) {
                Err(Errno::MLINK) => Ok(false),
                result => result.map(|()| true),
            }
        })?;
        if linked {
            Ok(())
        } else if kind == FileType::RegularFile {
            self.copy(&from, target_name, dir, name)
        } else {
            Err(failed(Errno::MLINK, format!("make hard link {}", self.tree.show(&dir.path, name))))
        }
    }

    /// Copies a file that can have no more links.
    fn copy(&mut self, from: &Dir, source: &[u8], dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        self.fill()?;
        self.clear(dir, name)?;
        let wrap =
            |tree: &Tree, errno| failed(errno, format!("copy file {}", tree.show(&dir.path, name)));
        let result = (|| {
            let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source =
                rustix::fs::openat(&from.fd, source, flags | OFlags::RDONLY, Mode::empty())?;
            let flags = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy = rustix::fs::openat(&dir.fd, name, flags, Mode::RUSR | Mode::WUSR)?;
            while rustix::fs::copy_file_range(&source, None, &copy, None, 1 << 30)? > 0 {}
            let stat = rustix::fs::fstat(&source)?;
            Ok((source, copy, stat))
        })();
        let (source, copy, stat) = result.map_err(|errno| wrap(self.tree, errno))?;
        let entry = Entry { uid: stat.st_uid, gid: stat.st_gid, ..Entry::default() };
        let shown = || self.tree.show(&dir.path, name);
        set_file_owner(&copy, &entry, &mut self.warnings, shown)?;
        copy_xattrs(&source, &copy).map_err(|errno| wrap(self.tree, errno))?;
        set_mode(&copy, stat.st_mode & 0o7777, shown)?;
        set_times(&copy, time_of(&stat), shown)
    }

    /// Hides what lies below the directory `name` in `dir`, or `dir` itself where it is empty.
    fn make_opaque(&mut self, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        self.marked = true;
        mark_opaque(self.tree, self.marks, dir, name)
    }

    /// Counts what was made at `name`, which is no directory: those are counted in the end.
    fn count_at(&mut self, dir: &Dir, name: &[u8]) -> Result<()> {
        if let Some(usage) = &mut self.usage {
            count(usage, &self.tree.stat(dir, name)?);
        }
        Ok(())
    }

    fn set_times_at(&self, dir: &Dir, name: &[u8], mtime: Time) -> Result<()> {
        let times = timestamps(mtime);
        rustix::fs::utimensat(&dir.fd, name, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| {
            failed(errno, format!("set times of {}", self.tree.show(&dir.path, name)))
        })
    }
}

impl Entries for Unpacker<'_> {
    type Dir = Rc<Dir>;

    fn warnings(&mut self) -> &mut Warnings {
        &mut self.warnings
    }

    fn parent(&mut self, path: &[u8]) -> Result<Rc<Dir>> {
        let Self { tree, ledger, marks, marked, host, usage, .. } = self;
        let mode = host.making_mode(IMPLICIT_MODE);
        let mut make = |tree: &mut Tree, dir: &Rc<Dir>, name: &[u8], missing: Missing| {
            let hidden = match missing {
                Missing::Nothing => false,
                Missing::Node(stat) if is_mark(&stat) => {
                    *usage = None;
                    tree.clear(dir, name)?;
                    true
                }
                Missing::Node(_) => {
                    let message = format!(
                        "resolve path {}: {} is no directory",
                        escape(path),
                        escape(&join(&dir.path, name))
                    );
                    return Err(Error::new(ErrorKind::Corrupt, message));
                }
            };
            rustix::fs::mkdirat(&dir.fd, name, mode).map_err(|errno| {
                failed(errno, format!("make directory {}", tree.show(&dir.path, name)))
            })?;
            ledger.set(&join(&dir.path, name), Final::Implicit)?;
            if hidden {
                *marked = true;
                mark_opaque(tree, *marks, dir, name)?;
            }
            Ok(true)
        };
        let dir = tree.dir(path, &mut make)?;
        dir.ok_or_else(|| Error::new(ErrorKind::Internal, format!("make {}", escape(path))))
    }

    fn root(&mut self, entry: &mut Entry) -> Result<()> {
        self.defaults.keep(&[], entry)?;
        let root = self.tree.root().clone();
        let shown = || self.tree.show(&[], &[]);
        set_file_owner(&root.fd, entry, &mut self.warnings, shown)?;
        set_xattrs(&root.fd, entry, &mut self.warnings, shown)?;
        let end = Final::Explicit { mode: entry.mode, mtime: entry.mtime, reused: true };
        self.ledger.set(&[], end)
    }

    fn whiteout(&mut self, entry: &Entry, dir: &Rc<Dir>, hidden: &[u8]) -> Result<()> {
        if self.marks == Marks::Ignored {
            return Ok(());
        }
        self.marked = true;
        match make_mark(&dir.fd, hidden) {
            Ok(()) => {
                self.set_times_at(dir, hidden, entry.mtime)?;
                self.count_at(dir, hidden)
            }
            Err(Errno::EXIST) => {
                // The layer's own entry stays. A file hides what is below as it is, a directory
                // must be told to.
                let stat = self.tree.stat(dir, hidden)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    self.make_opaque(dir, hidden)?;
                }
                Ok(())
            }
            Err(errno) => {
                Err(failed(errno, format!("make whiteout {}", self.tree.show(&dir.path, hidden))))
            }
        }
    }

    fn opaque(&mut self, dir: &Rc<Dir>) -> Result<()> {
        self.make_opaque(dir, &[])
    }

    fn node<C: Chunks>(
        &mut self,
        entry: &mut Entry,
        tar: &mut Tar<C>,
        dir: &Rc<Dir>,
        name: &[u8],
    ) -> Result<()> {
        match entry.kind {
            Kind::File => self.file(entry, tar, dir, name),
            Kind::Dir => self.directory(entry, dir, name),
            Kind::Symlink => self.symlink(entry, dir, name),
            Kind::Link => self.link(entry, dir, name),
            Kind::Fifo | Kind::Char | Kind::Block => self.special(entry, dir, name),
        }
    }
}

fn mark_opaque(tree: &Tree, marks: Marks, dir: &Dir, name: &[u8]) -> Result<()> {
    if marks == Marks::Ignored {
        return Ok(());
    }
    let opened;
    let fd = if name.is_empty() {
        &dir.fd
    } else {
        opened = open_for_attributes(tree, dir, name)?;
        &opened
    };
    let made = match marks {
        Marks::Overlay { user_xattr } => {
            let key = if user_xattr { "user.overlay.opaque" } else { "trusted.overlay.opaque" };
            rustix::fs::fsetxattr(fd, key, b"y", rustix::fs::XattrFlags::empty())
        }
        _ => match make_mark(fd, OPAQUE_NODE) {
            Err(Errno::EXIST) => Ok(()),
            result => result,
        },
    };
    made.map_err(|errno| {
        failed(errno, format!("make directory {} opaque", tree.show(&dir.path, name)))
    })
}

/// The modification time of a file.
pub(crate) fn time_of(stat: &rustix::fs::Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}
