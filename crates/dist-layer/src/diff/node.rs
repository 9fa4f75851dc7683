//! One name in a tree: its attributes, and whether two are the same.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use dist_core::{Cancel, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::apply::time_of;
use crate::tar::Time;
use crate::whiteout::{is_host_xattr, is_private_xattr};

/// Bytes of a file that are read at a time.
const CHUNK: usize = 256 << 10;

/// Extended attributes.
pub(super) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A name in an open directory.
pub(super) struct Spot<'a> {
    pub(super) dir: &'a OwnedFd,
    pub(super) name: &'a [u8],
    /// For messages.
    pub(super) shown: &'a dyn Fn() -> String,
}

/// All that a tar says of an entry but its contents.
pub(super) struct Node {
    pub(super) stat: Stat,
    /// Those that belong in a layer.
    pub(super) xattrs: Xattrs,
}

impl Node {
    pub(super) fn kind(&self) -> FileType {
        kind(&self.stat)
    }

    pub(super) fn mtime(&self) -> Time {
        time_of(&self.stat)
    }

    /// Whether mode, owner and extended attributes are the same.
    pub(super) fn has_attributes_of(&self, other: &Self) -> bool {
        let of = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        of(&self.stat) == of(&other.stat) && self.xattrs == other.xattrs
    }
}

pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Which file a name means.
pub(super) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

impl Spot<'_> {
    pub(super) fn stat(&self) -> Result<Stat> {
        rustix::fs::statat(self.dir, self.name, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| failed(errno, format!("examine {}", (self.shown)())))
    }

    /// The extended attributes, storage drivers' own included.
    pub(super) fn all_xattrs(&self) -> Result<Xattrs> {
        xattrs_at(&format!("/proc/self/fd/{}", self.dir.as_raw_fd()), self.name)
            .map_err(|errno| failed(errno, format!("read attributes of {}", (self.shown)())))
    }

    pub(super) fn target(&self) -> Result<Vec<u8>> {
        rustix::fs::readlinkat(self.dir, self.name, Vec::new())
            .map(std::ffi::CString::into_bytes)
            .map_err(|errno| failed(errno, format!("read symlink {}", (self.shown)())))
    }

    /// Opens the file that `stat` describes.
    pub(super) fn open(&self, stat: &Stat) -> Result<OwnedFd> {
        // A fifo that took the file's name must not be waited for.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = || {
            let file = rustix::fs::openat(self.dir, self.name, flags, Mode::empty())?;
            Ok((rustix::fs::fstat(&file)?, file))
        };
        let (found, file) =
            open().map_err(|errno| failed(errno, format!("open {}", (self.shown)())))?;
        if identity(&found) != identity(stat) || found.st_size != stat.st_size {
            return Err(self.changed());
        }
        Ok(file)
    }

    /// Hands all `size` bytes of a file to `take`, a part at a time.
    pub(super) fn read(
        &self,
        stat: &Stat,
        cancel: &Cancel,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let (file, mut left) = (self.open(stat)?, size(stat));
        let mut buffer = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        while left > 0 {
            cancel.check()?;
            let part = self.fill(&file, &mut buffer, left, size(stat) - left)?;
            take(&buffer[..part])?;
            left -= part as u64;
        }
        Ok(())
    }

    /// Whether two files of one size have the same contents.
    pub(super) fn has_contents_of(
        &self,
        stat: &Stat,
        other: &Self,
        other_stat: &Stat,
        cancel: &Cancel,
    ) -> Result<bool> {
        let file = other.open(other_stat)?;
        let (mut there, mut at, mut same) = (vec![0; CHUNK], 0, true);
        let length = size(stat);
        // The first part that differs decides.
        let mut compare = |bytes: &[u8]| {
            let mut done = 0;
            while done < bytes.len() {
                let want = (bytes.len() - done) as u64;
                let got = other.fill(&file, &mut there, want, at)?;
                same &= there[..got] == bytes[done..done + got];
                done += got;
                at += got as u64;
            }
            if same { Ok(()) } else { Err(Error::cancelled()) }
        };
        if length == 0 {
            return Ok(true);
        }
        match self.read(stat, cancel, &mut compare) {
            Err(_) if !same => Ok(false),
            result => result.map(|()| true),
        }
    }

    fn fill(&self, file: &OwnedFd, buffer: &mut [u8], left: u64, at: u64) -> Result<usize> {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        loop {
            match rustix::io::pread(file, &mut buffer[..want], at) {
                Ok(0) => return Err(self.changed()),
                Err(Errno::INTR) => {}
                result => {
                    return result
                        .map_err(|errno| failed(errno, format!("read {}", (self.shown)())));
                }
            }
        }
    }

    fn changed(&self) -> Error {
        let message = format!("read {}: it changed meanwhile", (self.shown)());
        Error::new(ErrorKind::Aborted, message)
    }
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The extended attributes of an open directory, storage drivers' own included.
pub(super) fn dir_xattrs(dir: &OwnedFd, shown: impl Fn() -> String) -> Result<Xattrs> {
    xattrs_at(&format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()), b".")
        .map_err(|errno| failed(errno, format!("read attributes of {}", shown())))
}

/// Keeps the attributes that belong in a layer.
pub(super) fn transferable(all: Xattrs) -> Xattrs {
    all.into_iter().filter(|(key, _)| !is_private_xattr(key) && !is_host_xattr(key)).collect()
}

fn xattrs_at(dir: &str, name: &[u8]) -> rustix::io::Result<Xattrs> {
    let path = [dir.as_bytes(), b"/", name].concat();
    let list = match grown(|buffer| rustix::fs::llistxattr(path.as_slice(), buffer)) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        result => result?,
    };
    let mut found = Xattrs::new();
    for key in list.split(|&byte| byte == 0).filter(|key| !key.is_empty()) {
        match grown(|buffer| rustix::fs::lgetxattr(path.as_slice(), key, buffer)) {
            Ok(value) => {
                found.insert(key.to_vec(), value);
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(found)
}

/// Reads into a small buffer, and into the largest where that was too small.
fn grown(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0; 512];
    let length = match call(&mut buffer) {
        Err(Errno::RANGE) => {
            buffer.resize(64 << 10, 0);
            call(&mut buffer)?
        }
        result => result?,
    };
    buffer.truncate(length);
    Ok(buffer)
}

/// The error of a failed call on a tree that is read.
pub(super) fn failed(errno: Errno, message: String) -> Error {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => ErrorKind::Aborted,
        _ => ErrorKind::Storage,
    };
    Error::new(kind, message).with_source(std::io::Error::from(errno))
}
