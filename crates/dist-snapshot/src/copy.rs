//! An exact copy of a tree.
//!
//! Exact means: contents with their holes, which names are one file, modes with their special
//! bits, owners, extended attributes, links, devices, and the modification times of files and
//! directories to the nanosecond. Data is shared with the original where the file system can.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use dist_core::{Context as _, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::attributes::{self, Node};
use crate::tree::{self, DIRECTORY, Descent};

const BUFFER_BYTES: usize = 256 << 10;

/// Copies the directory at `source` to `target`, which must not exist, exactly: see above.
///
/// # Errors
/// `Storage`; what was copied stays.
pub fn copy_dir(source: &Path, target: &Path) -> Result<()> {
    let mut staging = target.as_os_str().to_owned();
    staging.push(".staging");
    let staging = Path::new(&staging);
    let copy = || {
        std::fs::create_dir(target)?;
        std::fs::create_dir(staging)?;
        copy_tree(source, target, staging)
    };
    let copied = copy().context(ErrorKind::Storage, || {
        format!("copy {} to {}", source.display(), target.display())
    });
    let removed = crate::remove_tree(staging);
    copied.and(removed)
}

/// Copies the tree at `source` into the empty directory `target`.
///
/// `staging` is an empty directory beside it that is empty again afterwards, except for files that
/// have names outside `source`.
///
/// # Errors
/// What the first call that failed answered.
pub(crate) fn copy_tree(source: &Path, target: &Path, staging: &Path) -> io::Result<()> {
    let mut copier = Copier {
        staging: tree::open_dir(staging)?,
        linked: HashMap::new(),
        reflink: true,
        kernel_copy: true,
        buffer: Vec::new(),
    };
    let mut from = Descent::new(tree::open_dir(source)?);
    let mut to = Descent::new(tree::open_dir(target)?);
    let mut pending = vec![copier.files(from.dir(), to.dir())?];
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            let child = rustix::fs::openat(from.dir(), &name, DIRECTORY, Mode::empty())?;
            rustix::fs::mkdirat(to.dir(), &name, Mode::RWXU)?;
            let copy = rustix::fs::openat(to.dir(), &name, DIRECTORY, Mode::empty())?;
            pending.push(copier.files(child.as_fd(), copy.as_fd())?);
            from.descend(child)?;
            to.descend(copy)?;
        } else {
            pending.pop();
            let stat = rustix::fs::fstat(from.dir())?;
            finish_open(from.dir(), to.dir(), &stat)?;
            from.ascend()?;
            to.ascend()?;
        }
    }
    Ok(())
}

struct Copier {
    /// Where the first name of a file that has more waits for the others.
    staging: OwnedFd,
    linked: HashMap<(u64, u64), Linked>,
    /// Whether sharing data has not failed yet.
    reflink: bool,
    /// Whether copying inside the kernel has not failed yet.
    kernel_copy: bool,
    buffer: Vec<u8>,
}

struct Linked {
    name: CString,
    /// How many names are still to come.
    left: u64,
}

impl Copier {
    /// Copies everything in `from` but its directories, whose names it returns.
    fn files(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
        let mut directories = Vec::new();
        for (name, _) in tree::entries(from)? {
            let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                directories.push(name);
            } else if stat.st_nlink <= 1 {
                self.file(from, to, &name, &stat)?;
            } else if !self.link_again(to, &name, &stat)? {
                self.file(from, to, &name, &stat)?;
                self.keep_for_links(to, &name, &stat)?;
            }
        }
        Ok(directories)
    }

    fn link_again(&mut self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<bool> {
        let key = (stat.st_dev, stat.st_ino);
        let Some(linked) = self.linked.get_mut(&key) else { return Ok(false) };
        rustix::fs::linkat(&self.staging, &linked.name, to, name, AtFlags::empty())?;
        linked.left = linked.left.saturating_sub(1);
        if linked.left == 0 {
            rustix::fs::unlinkat(&self.staging, &linked.name, AtFlags::empty())?;
            self.linked.remove(&key);
        }
        Ok(true)
    }

    fn keep_for_links(&mut self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let kept = CString::new(format!("{}-{}", stat.st_dev, stat.st_ino))?;
        rustix::fs::linkat(to, name, &self.staging, &kept, AtFlags::empty())?;
        let left = u64::from(stat.st_nlink as u32).saturating_sub(1);
        self.linked.insert((stat.st_dev, stat.st_ino), Linked { name: kept, left });
        Ok(())
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
    ) -> io::Result<()> {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let input = rustix::fs::openat(from, name, flags | OFlags::RDONLY, Mode::empty())?;
                let create = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                let output = rustix::fs::openat(to, name, create, Mode::RUSR | Mode::WUSR)?;
                self.data(input.as_fd(), output.as_fd(), stat)?;
                return finish_open(input.as_fd(), output.as_fd(), stat);
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            kind => rustix::fs::mknodat(to, name, kind, Mode::empty(), stat.st_rdev)?,
        }
        finish_at(from, to, name, stat)
    }

    fn data(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size == 0 {
            return Ok(());
        }
        if self.reflink {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                Err(_) => self.reflink = false, // then the copy below says what is wrong, if any
            }
        }
        rustix::fs::ftruncate(to, size)?;
        if u64::try_from(stat.st_blocks).unwrap_or(0) * 512 >= size {
            return self.range(from, to, 0, size);
        }
        let mut offset = 0;
        while offset < size {
            let begin = match rustix::fs::seek(from, SeekFrom::Data(offset)) {
                Ok(begin) => begin,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => return self.range(from, to, offset, size),
                Err(error) => return Err(error.into()),
            };
            let end = rustix::fs::seek(from, SeekFrom::Hole(begin))?.min(size);
            self.range(from, to, begin, end)?;
            offset = end.max(begin + 1);
        }
        Ok(())
    }

    /// Copies the bytes from `offset` to `end`, or to the end of a file that has shrunk.
    fn range(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        mut offset: u64,
        end: u64,
    ) -> io::Result<()> {
        while offset < end && self.kernel_copy {
            let (mut input, mut output) = (offset, offset);
            let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(1 << 30);
            match rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), length)
            {
                // Some kernels answer 0 for files that have no real size.
                Ok(0) => break,
                Ok(copied) => offset += copied as u64,
                Err(Errno::INTR) => (),
                Err(Errno::NOSYS | Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.kernel_copy = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.buffer.resize(BUFFER_BYTES, 0);
        while offset < end {
            let length = usize::try_from(end - offset).unwrap_or(usize::MAX).min(BUFFER_BYTES);
            let read = match rustix::io::pread(from, &mut self.buffer[..length], offset) {
                Ok(0) => break,
                Ok(read) => read,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut written = 0;
            while written < read {
                written +=
                    rustix::io::pwrite(to, &self.buffer[written..read], offset + written as u64)?;
            }
            offset += read as u64;
        }
        Ok(())
    }
}

/// Gives an open file or directory the attributes of its original.
///
/// The owner comes first, because changing it takes special bits and capabilities away; the times
/// come last.
fn finish_open(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    let (owner, group) = owner(stat);
    rustix::fs::fchown(to, Some(owner), Some(group))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    attributes::copy(&Node::Open(from), &Node::Open(to), |_| true)?;
    Ok(rustix::fs::futimens(to, &times(stat))?)
}

/// As [`finish_open`] for what can't be opened: links, devices, fifos, sockets.
fn finish_at(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
    let (owner, group) = owner(stat);
    rustix::fs::chownat(to, name, Some(owner), Some(group), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
    }
    attributes::copy(&Node::named(from, name), &Node::named(to, name), |_| true)?;
    Ok(rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}
