//! `ROOT/reserve`: disk space for the day when there is none left.
//!
//! SQLite can't even open a database in WAL mode on a full disk, and to delete a row is to write a
//! log. So every store keeps [`SIZE`] bytes allocated in a file that means nothing. Where an open
//! or a change that frees space finds the disk full, the file is removed and the same is tried
//! again. What needs new space demands the file first, and makes it again where there is room:
//! so nobody but those who free space can use it up.
//!
//! On a file system that can't allocate space for a file, a store has no reserve and needs none to
//! work.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use dist_core::{Context as _, Error, ErrorKind, Result};
use rusqlite::ErrorCode;
use rustix::fs::{FallocateFlags, OFlags};
use rustix::io::Errno;

use crate::fsio::{self, at};

/// The size of the reserve.
pub(crate) const SIZE: u64 = 2 << 20;

/// Free bytes below which a failure of SQLite's that may have any cause is for want of space.
const LITTLE: u64 = 256 << 10;

const NAME: &str = "reserve";

/// Makes the reserve where it is missing and there is room for it.
///
/// # Errors
/// `Storage`, with the cause `ENOSPC` where there is no room.
pub(crate) fn demand(root: &Path) -> Result<()> {
    let path = root.join(NAME);
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    // Whoever makes it at the same time makes it of the same file.
    let new = root.join("reserve.new");
    let make = || {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
            .open(&new)?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => (),
            Err(error) => return Err(error.into()),
        }
        match std::fs::rename(&new, &path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && path.exists() => Ok(()),
            other => other,
        }
    };
    make().or_else(|error: io::Error| {
        fsio::remove_all(&new)?;
        let message = format!("keep {SIZE} bytes in reserve at {}", path.display());
        Err(error).context(ErrorKind::Storage, || message)
    })
}

/// Tries `change`; where the disk is full, gives the reserve away and tries it once more.
pub(crate) fn with<T>(root: &Path, mut change: impl FnMut() -> Result<T>) -> Result<T> {
    match change() {
        Err(error) if is_full(&error, root) => {
            tracing::debug!(?error, "the disk is full, giving the reserve away");
            let path = root.join(NAME);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(error).context(ErrorKind::Storage, || at("remove", &path))
                }
                _ => change(),
            }
        }
        other => other,
    }
}

/// Says of a failure for want of space that it is one: SQLite calls most of them I/O errors.
pub(crate) fn explain(error: Error, root: &Path) -> Error {
    if error.find::<rusqlite::Error>().is_some() && is_full(&error, root) {
        Error::new(error.kind(), error.to_string()).with_source(no_space())
    } else {
        error
    }
}

/// The cause of an error for want of space.
pub(crate) fn no_space() -> io::Error {
    Errno::NOSPC.into()
}

fn is_full(error: &Error, root: &Path) -> bool {
    if let Some(error) = error.find::<io::Error>() {
        return matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    }
    match error.find::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code) {
        Some(ErrorCode::DiskFull) => true,
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            fsio::free_bytes(root).is_ok_and(|free| free < LITTLE)
        }
        _ => false,
    }
}
