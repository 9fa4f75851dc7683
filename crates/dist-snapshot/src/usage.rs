//! What a tree takes on the disk.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use dist_core::Usage;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::tree::{self, DIRECTORY, Descent};

const BLOCK_BYTES: u64 = 512;

/// Measures the tree at `root`: allocated bytes and inodes, the root's own included.
///
/// A file with many names counts once. What vanishes during the walk is left out, because an
/// active snapshot may be in use.
///
/// # Errors
/// What the walk fails with, `NotFound` for a missing root.
pub(crate) fn measure(root: &Path) -> io::Result<Usage> {
    let root = tree::open_dir(root)?;
    let stat = rustix::fs::fstat(&root)?;
    let mut count = Count { usage: Usage::default(), linked: HashSet::new() };
    count.add(&stat);
    let mut pending = vec![count.files(root.as_fd())?];
    let mut descent = Descent::new(root);
    while let Some(level) = pending.last_mut() {
        if let Some(name) = level.pop() {
            match rustix::fs::openat(descent.dir(), &name, DIRECTORY, Mode::empty()) {
                Ok(child) => {
                    pending.push(count.files(child.as_fd())?);
                    descent.descend(child)?;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => (),
                Err(error) => return Err(error.into()),
            }
        } else {
            pending.pop();
            descent.ascend()?;
        }
    }
    Ok(count.usage)
}

struct Count {
    usage: Usage,
    /// Files with more than one name that were counted.
    linked: HashSet<(u64, u64)>,
}

impl Count {
    /// Counts the entries of `dir`; returns its directories.
    fn files(&mut self, dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
        let mut directories = Vec::new();
        for (name, _) in tree::entries(dir)? {
            match rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    self.add(&stat);
                    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                        directories.push(name);
                    }
                }
                Err(Errno::NOENT) => (),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(directories)
    }

    fn add(&mut self, stat: &rustix::fs::Stat) {
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let again =
            !directory && stat.st_nlink > 1 && !self.linked.insert((stat.st_dev, stat.st_ino));
        if !again {
            self.usage.inodes += 1;
            self.usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn counts_links_once_and_holes_not() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/file"), vec![1; 100_000]).unwrap();
        std::fs::hard_link(root.join("a/file"), root.join("link")).unwrap();
        std::fs::File::create(root.join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", root.join("symlink")).unwrap();
        let expected: u64 = [".", "a", "a/file", "hole"]
            .iter()
            .map(|name| std::fs::metadata(root.join(name)).unwrap().blocks() * 512)
            .sum();
        let usage = measure(root).unwrap();
        assert_eq!(usage, Usage { bytes: expected, inodes: 5 });
        assert!(usage.bytes < 1 << 20);
    }
}
