//! The few file operations whose order and error handling matter everywhere in this crate.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dist_core::{Cancel, Context as _, Error, ErrorKind, Hasher, Result, Stage, enter};

/// `verb path`, the message of most errors here.
pub(crate) fn at(verb: &str, path: &Path) -> String {
    format!("{verb} {}", path.display())
}

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|time| i64::try_from(time.as_nanos()).ok())
        .unwrap_or(0)
}

/// A name that no other thread or process on this machine makes.
pub(crate) fn unique(stem: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{stem}-{}-{}-{next}", now(), std::process::id())
}

/// Makes a directory with mode 0700; one that is there is fine. Says whether it is new.
pub(crate) fn make_dir(path: &Path) -> Result<bool> {
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("create directory", path)),
    }
}

/// Syncs a directory: names made, changed or removed in it are on the disk when this returns.
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    let _sync = enter(Stage::Sync);
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .context(ErrorKind::Storage, || at("sync directory", path))
}

/// Reads a small file; `None` where there is none. Longer than `limit` is an error.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Option<Vec<u8>>> {
    match dist_core::read_small(path, limit) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(ErrorKind::Storage, || at("read", path)),
    }
}

/// Moves a file or directory under a new unique name into the directory `into`; `None` where it is
/// not there.
pub(crate) fn set_aside(path: &Path, into: &Path) -> Result<Option<PathBuf>> {
    let stem = path.file_name().unwrap_or_default().to_string_lossy();
    let target = into.join(unique(&stem));
    match std::fs::rename(path, &target) {
        Ok(()) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("move away", path)),
    }
}

/// Removes a file or a whole directory; one that is gone is fine.
pub(crate) fn remove_all(path: &Path) -> Result<()> {
    let remove = || match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match remove() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).context(ErrorKind::Storage, || at("remove", path))
        }
        _ => Ok(()),
    }
}

/// Hashes at most `limit` bytes from where `file` stands; returns how many there were.
pub(crate) fn hash(
    file: &mut File,
    limit: u64,
    hasher: &mut Hasher,
    cancel: &Cancel,
) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut done = 0;
    while done < limit {
        cancel.check().map_err(Error::into_io)?;
        let want = usize::try_from(limit - done).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..want]) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                done += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Bytes that this process may still write on the file system of `path`; the largest number where
/// the file system doesn't count.
pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let stat =
        rustix::fs::statvfs(path).context(ErrorKind::Storage, || at("read free space of", path))?;
    let blocks = if rustix::process::geteuid().is_root() { stat.f_bfree } else { stat.f_bavail };
    Ok(if stat.f_blocks == 0 { u64::MAX } else { blocks.saturating_mul(stat.f_frsize) })
}
