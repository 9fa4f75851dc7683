//! Ordinary files.

use std::os::fd::OwnedFd;
use std::rc::Rc;

use dist_core::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};

use super::Unpacker;
use crate::apply::attributes::{set_file_owner, set_owner, set_xattrs};
use crate::apply::fill::{self, Filling, retry};
use crate::apply::{count, set_mode, set_times};
use crate::beneath::{Dir, Tree, failed};
use crate::compression::Chunks;
use crate::tar::{Entry, Tar};

impl Unpacker<'_> {
    pub(super) fn file<C: Chunks>(
        &mut self,
        entry: &Entry,
        tar: &mut Tar<C>,
        dir: &Rc<Dir>,
        name: &[u8],
    ) -> Result<()> {
        if entry.size == 0 && entry.xattrs.is_empty() && !self.host.masks(entry.mode) {
            return self.empty_file(entry, dir, name);
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Without it an ordinary user could not set the extended attributes of a read-only file.
        let writable = if entry.xattrs.is_empty() { 0 } else { 0o200 };
        let mode = Mode::from_raw_mode(entry.mode & 0o777 | writable);
        let fd =
            self.replacing(dir, name, "file", || rustix::fs::openat(&dir.fd, name, flags, mode))?;
        let owned = self.owns(entry);
        let plain = !owned && !self.host.masks(entry.mode) && entry.xattrs.is_empty();
        if plain && entry.regions.is_none() && tar.is_behind() {
            let body = tar.chunk()?;
            if body.len() as u64 == entry.size && body.len() <= fill::LARGEST {
                if self.filling.is_none() {
                    self.filling = Filling::start(self.tree.shown());
                }
                if let Some(filling) = &mut self.filling {
                    if filling.has_failed() {
                        return Err(Error::new(ErrorKind::Aborted, "fill files"));
                    }
                    let count = body.len();
                    filling.add(fd, [&dir.path, name], body, entry);
                    tar.consume(count);
                    return Ok(());
                }
            }
        }
        self.body(entry, tar, &fd, &|tree| tree.show(&dir.path, name))?;
        let shown = || self.tree.show(&dir.path, name);
        if owned {
            set_file_owner(&fd, entry, &mut self.warnings, shown)?;
        }
        set_xattrs(&fd, entry, &mut self.warnings, shown)?;
        if self.host.masks(entry.mode) || !entry.xattrs.is_empty() {
            set_mode(&fd, entry.mode, shown)?;
        }
        set_times(&fd, entry.mtime, shown)?;
        if let Some(usage) = &mut self.usage {
            let stat = rustix::fs::fstat(&fd)
                .map_err(|errno| failed(errno, format!("examine {}", shown())))?;
            count(usage, &stat);
        }
        Ok(())
    }

    /// Makes a file that need not be opened.
    fn empty_file(&mut self, entry: &Entry, dir: &Rc<Dir>, name: &[u8]) -> Result<()> {
        let mode = Mode::from_raw_mode(entry.mode & 0o777);
        self.replacing(dir, name, "file", || {
            rustix::fs::mknodat(&dir.fd, name, FileType::RegularFile, mode, 0)
        })?;
        if self.owns(entry) {
            set_owner(self.tree, dir, name, entry, &mut self.warnings)?;
        }
        self.set_times_at(dir, name, entry.mtime)?;
        self.count_at(dir, name)
    }

    fn body<C: Chunks>(
        &self,
        entry: &Entry,
        tar: &mut Tar<C>,
        fd: &OwnedFd,
        shown: &dyn Fn(&Tree) -> String,
    ) -> Result<()> {
        let wrote = |errno| failed(errno, format!("write file {}", shown(self.tree)));
        let Some(regions) = &entry.regions else {
            loop {
                let chunk = tar.chunk()?;
                if chunk.is_empty() {
                    return Ok(());
                }
                self.cancel.check()?;
                let count = retry(|| rustix::io::write(fd, chunk)).map_err(wrote)?;
                tar.consume(count);
            }
        };
        rustix::fs::ftruncate(fd, entry.size).map_err(wrote)?;
        for region in regions {
            let (mut at, end) = (region.start, region.start + region.length);
            while at < end {
                let chunk = tar.chunk()?;
                let count = usize::try_from(end - at).unwrap_or(usize::MAX).min(chunk.len());
                if count == 0 {
                    return Ok(()); // the reader has checked that the regions are the body
                }
                self.cancel.check()?;
                let count = retry(|| rustix::io::pwrite(fd, &chunk[..count], at)).map_err(wrote)?;
                tar.consume(count);
                at += count as u64;
            }
        }
        Ok(())
    }
}
