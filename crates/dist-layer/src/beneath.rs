//! One directory that nothing leaves.
//!
//! Every path of a layer is resolved from the root's descriptor with
//! `openat2(RESOLVE_BENEATH|NO_SYMLINKS|NO_MAGICLINKS)`. Where that meets a symlink or a missing
//! directory the path is walked one component a call; symlinks are read and walked the same way,
//! `/` and `..` at the top meaning the root, as after chroot(2). So the descriptor that comes out
//! lies beneath the root whatever the layer or another process does to names, and its canonical
//! path is known. Paths longer than the kernel takes are resolved in pieces.
//!
//! A few descriptors are kept by path. Removing a directory or a symlink forgets all of them:
//! that is rare, and nothing else can make a kept path mean another directory.

mod remove;

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use dist_core::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

pub(crate) use self::remove::{each, empty_dir, remove, remove_tree};
use crate::name::{escape, join, split};

/// Directories whose descriptors are kept.
const KEPT: usize = 48;

/// Bytes of a path that are resolved in one call; the kernel takes 4095.
const PIECE: usize = 4000;

/// Symlinks on one path, as the kernel has it.
const LINKS: usize = 40;

/// An open directory beneath the root.
#[derive(Debug)]
pub(crate) struct Dir {
    pub(crate) fd: OwnedFd,
    /// Its canonical path; empty for the root.
    pub(crate) path: Vec<u8>,
}

/// What stands where a directory is needed.
pub(crate) enum Missing {
    /// Nothing.
    Nothing,
    /// A node that is neither directory nor symlink.
    Node(Stat),
}

/// Makes a directory that is missing, given its parent and name; or says `false`.
pub(crate) type Make<'a> = dyn FnMut(&mut Tree, &Rc<Dir>, &[u8], Missing) -> Result<bool> + 'a;

#[derive(Debug)]
struct Kept {
    path: Vec<u8>,
    dir: Rc<Dir>,
    used: u64,
}

/// A root directory and the descriptors kept below it.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Rc<Dir>,
    shown: PathBuf,
    kept: Vec<Kept>,
    clock: u64,
}

impl Tree {
    /// Makes the directory at `path` the root.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
            failed(errno, format!("open directory {}", escape(path.as_os_str().as_bytes())))
        })?;
        Ok(Self::new(fd, path.to_owned()))
    }

    /// Makes an open directory the root; `shown` is its path in messages.
    pub(crate) fn new(fd: OwnedFd, shown: PathBuf) -> Self {
        let root = Rc::new(Dir { fd, path: Vec::new() });
        Self { root, shown, kept: Vec::new(), clock: 0 }
    }

    pub(crate) fn root(&self) -> &Rc<Dir> {
        &self.root
    }

    /// A path beneath the root as messages show it: with the root's own.
    pub(crate) fn show(&self, dir: &[u8], name: &[u8]) -> String {
        let parts = [self.shown.as_os_str().as_bytes(), dir, name];
        let parts: Vec<&[u8]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        escape(&parts.join(&b'/'))
    }

    /// What messages name the root.
    pub(crate) fn shown(&self) -> &Path {
        &self.shown
    }

    /// Forgets all kept descriptors.
    pub(crate) fn forget(&mut self) {
        self.kept.clear();
    }

    /// Opens the directory at `path`, through symlinks where there are any.
    ///
    /// `make` is called where a directory is missing; where it makes none the answer is `None`.
    pub(crate) fn dir(&mut self, path: &[u8], make: &mut Make<'_>) -> Result<Option<Rc<Dir>>> {
        if path.is_empty() {
            return Ok(Some(self.root.clone()));
        }
        if let Some(dir) = self.find(path) {
            return Ok(Some(dir));
        }
        let (mut dir, mut known) = (self.root.clone(), path);
        while !known.is_empty() {
            known = split(known).0;
            if let Some(found) = self.find(known) {
                dir = found;
                break;
            }
        }
        if let Some(dir) = self.jump(&dir, &path[known.len()..]) {
            self.keep(path, &dir);
            return Ok(Some(dir));
        }
        let mut rest: VecDeque<Vec<u8>> = path[known.len()..]
            .split(|&byte| byte == b'/')
            .filter(|component| !component.is_empty())
            .map(<[u8]>::to_vec)
            .collect();
        let (mut walked, mut links) = (known.to_vec(), 0);
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                dir = self.canonical(split(&dir.path).0)?;
                continue;
            }
            match open_child(&dir, &name) {
                Ok(fd) => {
                    dir = Rc::new(Dir { fd, path: join(&dir.path, &name) });
                    if links == 0 {
                        walked = join(&walked, &name);
                        self.keep(&walked, &dir);
                    }
                    continue;
                }
                Err(Errno::NOENT) => {
                    if !make(self, &dir, &name, Missing::Nothing)? {
                        return Ok(None);
                    }
                }
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let Some(target) = self.read_link(&dir, &name)? else {
                        let stat = self.stat(&dir, &name)?;
                        if !make(self, &dir, &name, Missing::Node(stat))? {
                            return Ok(None);
                        }
                        rest.push_front(name);
                        continue;
                    };
                    links += 1;
                    if links > LINKS {
                        let message = format!("resolve path {}: too many symlinks", escape(path));
                        return Err(Error::new(ErrorKind::UnsafeLayer, message));
                    }
                    if target.starts_with(b"/") {
                        dir = self.root.clone();
                    }
                    for component in target.split(|&byte| byte == b'/').rev() {
                        if !matches!(component, b"" | b".") {
                            rest.push_front(component.to_vec());
                        }
                    }
                    continue;
                }
                Err(errno) => {
                    return Err(failed(
                        errno,
                        format!("open directory {}", self.show(&dir.path, &name)),
                    ));
                }
            }
            rest.push_front(name); // it is there now
        }
        if links > 0 {
            self.keep(path, &dir);
        }
        Ok(Some(dir))
    }

    /// Opens the directory at `path`; `None` where there is none.
    pub(crate) fn existing(&mut self, path: &[u8]) -> Result<Option<Rc<Dir>>> {
        self.dir(path, &mut |_, _, _, _| Ok(false))
    }

    /// Describes what is at `name`, a symlink itself and not its target.
    pub(crate) fn stat(&self, dir: &Dir, name: &[u8]) -> Result<Stat> {
        rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed(errno, format!("examine {}", self.show(&dir.path, name))))
    }

    /// As [`Tree::stat`]; `None` where nothing is there.
    pub(crate) fn try_stat(&self, dir: &Dir, name: &[u8]) -> Result<Option<Stat>> {
        match rustix::fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failed(errno, format!("examine {}", self.show(&dir.path, name)))),
        }
    }

    /// Removes what is at `name`; says whether it was a directory or a symlink.
    pub(crate) fn clear(&mut self, dir: &Dir, name: &[u8]) -> Result<bool> {
        let Some(stat) = self.try_stat(dir, name)? else { return Ok(false) };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            self.forget();
            remove_tree(&dir.fd, name)
        } else {
            if kind == FileType::Symlink {
                self.forget();
            }
            remove(&dir.fd, name)
        }
        .map_err(|errno| failed(errno, format!("remove {}", self.show(&dir.path, name))))?;
        Ok(matches!(kind, FileType::Directory | FileType::Symlink))
    }

    /// Opens a directory several components below another where all of them are directories: most
    /// often they are, and then one call is enough.
    fn jump(&self, from: &Rc<Dir>, path: &[u8]) -> Option<Rc<Dir>> {
        let mut rest = path.strip_prefix(b"/").unwrap_or(path);
        let full = join(&from.path, rest);
        let mut dir = from.clone();
        while !rest.is_empty() {
            let length = if rest.len() <= PIECE {
                rest.len()
            } else {
                rest[..=PIECE].iter().rposition(|&byte| byte == b'/')?
            };
            let fd = open_dir_at(&dir.fd, &rest[..length]).ok()?;
            dir = Rc::new(Dir { fd, path: Vec::new() });
            rest = rest.get(length + 1..).unwrap_or_default();
        }
        let mut dir = Rc::into_inner(dir)?;
        dir.path = full;
        Some(Rc::new(dir))
    }

    /// Opens the directory at a canonical path again.
    fn canonical(&self, path: &[u8]) -> Result<Rc<Dir>> {
        let mut dir = self.root.clone();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let fd = open_child(&dir, name).map_err(|errno| {
                failed(errno, format!("open directory {}", self.show(&dir.path, name)))
            })?;
            dir = Rc::new(Dir { fd, path: join(&dir.path, name) });
        }
        Ok(dir)
    }

    fn read_link(&self, dir: &Dir, name: &[u8]) -> Result<Option<Vec<u8>>> {
        match rustix::fs::readlinkat(&dir.fd, name, Vec::new()) {
            Ok(target) => Ok(Some(target.into_bytes())),
            Err(Errno::INVAL) => Ok(None),
            Err(errno) => {
                Err(failed(errno, format!("read symlink {}", self.show(&dir.path, name))))
            }
        }
    }

    fn find(&mut self, path: &[u8]) -> Option<Rc<Dir>> {
        self.clock += 1;
        // The directory used last is used again far more often than any other.
        let kept = self.kept.iter_mut().rev().find(|kept| kept.path == path)?;
        kept.used = self.clock;
        Some(kept.dir.clone())
    }

    fn keep(&mut self, path: &[u8], dir: &Rc<Dir>) {
        if self.kept.len() == KEPT {
            let oldest = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.used);
            if let Some((at, _)) = oldest {
                self.kept.remove(at);
            }
        }
        self.clock += 1;
        self.kept.push(Kept { path: path.to_vec(), dir: dir.clone(), used: self.clock });
    }
}

/// Opens a directory by one component, which is no symlink.
pub(crate) fn open_child(dir: &Dir, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    open_dir_at(dir.fd.as_fd(), name)
}

pub(crate) fn open_dir_at(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(&dir, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {} // a rename somewhere raced with it
            // Kernels before 5.6, and sandboxes that forbid it. One component, not followed, is as
            // safe.
            Err(Errno::NOSYS | Errno::PERM) if !name.contains(&b'/') => {
                return rustix::fs::openat(&dir, name, flags, Mode::empty());
            }
            result => return result,
        }
    }
}

/// The error of a failed system call: what is wrong with the layer's names is `Corrupt` or
/// `UnsafeLayer`, everything else the storage's fault.
pub(crate) fn failed(errno: Errno, message: String) -> Error {
    let kind = match errno {
        Errno::NAMETOOLONG | Errno::TOOBIG | Errno::RANGE | Errno::ILSEQ => ErrorKind::Corrupt,
        Errno::LOOP => ErrorKind::UnsafeLayer,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, message).with_source(std::io::Error::from(errno))
}
