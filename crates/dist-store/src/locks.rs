//! Named locks between threads and processes: `flock` on `ROOT/locks/<sha256 of name>`.
//!
//! A lock belongs to an open file, not to a process, so threads exclude each other as well. The
//! file is removed by its holder before the lock is given up; whoever waited for the removed file
//! finds that the path no longer leads to it and starts again.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Cancel, Context as _, Digest, ErrorKind, Result};
use rustix::fs::FlockOperation;

use crate::Store;
use crate::db::lock_file;
use crate::fsio::at;

const FIRST_WAIT: Duration = Duration::from_micros(500);
const LONGEST_WAIT: Duration = Duration::from_millis(20);

/// Holds a lock; gives it up when dropped.
#[derive(Debug)]
pub struct LockGuard {
    file: File,
    path: PathBuf,
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "remove lock");
        }
        unlock(&self.file);
    }
}

impl Store {
    /// Waits for the lock `name` and takes it.
    ///
    /// # Errors
    /// `Cancelled`; `Storage`.
    pub fn lock(&self, name: &str, cancel: &Cancel) -> Result<LockGuard> {
        let path = self.lock_path(name)?;
        loop {
            let file = lock_file(&path)?;
            wait(&file, &path, cancel)?;
            if leads_to(&path, &file)? {
                return Ok(LockGuard { file, path });
            }
        }
    }

    /// Takes the lock `name` if nobody holds it.
    ///
    /// # Errors
    /// `Storage`.
    pub fn try_lock(&self, name: &str) -> Result<Option<LockGuard>> {
        let path = self.lock_path(name)?;
        loop {
            let file = lock_file(&path)?;
            if !try_exclusive(&file).context(ErrorKind::Storage, || at("lock", &path))? {
                return Ok(None);
            }
            if leads_to(&path, &file)? {
                return Ok(Some(LockGuard { file, path }));
            }
        }
    }

    /// Whether somebody holds the lock `name` now. Changes nothing.
    pub(crate) fn is_locked(&self, name: &str) -> Result<bool> {
        let path = self.path_of_lock(name);
        let what = || at("lock", &path);
        match File::open(&path) {
            Ok(file) => {
                let free = try_shared(&file).context(ErrorKind::Storage, what)?;
                unlock(&file);
                Ok(!free)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context(ErrorKind::Storage, what),
        }
    }

    fn lock_path(&self, name: &str) -> Result<PathBuf> {
        self.check_writable()?;
        Ok(self.path_of_lock(name))
    }

    fn path_of_lock(&self, name: &str) -> PathBuf {
        self.root().join("locks").join(Digest::sha256(name.as_bytes()).hex())
    }
}

/// Waits for the exclusive lock on `file`, which is at `path`.
///
/// A blocking `flock` can't be given up when `cancel` is raised (std has no way to interrupt it),
/// so this asks again and again, at growing intervals of at most 20 ms.
pub(crate) fn wait(file: impl AsFd, path: &Path, cancel: &Cancel) -> Result<()> {
    let mut pause = FIRST_WAIT;
    loop {
        cancel.check()?;
        if try_exclusive(&file).context(ErrorKind::Storage, || at("lock", path))? {
            return Ok(());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_WAIT);
    }
}

/// Takes the exclusive lock if nobody holds it.
pub(crate) fn try_exclusive(file: impl AsFd) -> std::io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockExclusive)
}

/// Takes a shared lock if nobody holds the exclusive one.
pub(crate) fn try_shared(file: impl AsFd) -> std::io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockShared)
}

fn attempt(file: impl AsFd, operation: FlockOperation) -> std::io::Result<bool> {
    match rustix::io::retry_on_intr(|| rustix::fs::flock(&file, operation)) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Gives a lock up now. Closing the file would do so too, except while a child between fork and
/// exec has a copy of it.
pub(crate) fn unlock(file: impl AsFd) {
    if let Err(error) = rustix::fs::flock(file, FlockOperation::Unlock) {
        tracing::debug!(%error, "unlock");
    }
}

/// Whether `path` still leads to `file`: it was not removed or replaced while we waited.
pub(crate) fn leads_to(path: &Path, file: &File) -> Result<bool> {
    let here = file.metadata().context(ErrorKind::Storage, || at("stat", path))?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("stat", path)),
    }
}
