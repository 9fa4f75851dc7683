//! One ingest's directory, locked.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dist_core::{Cancel, Context as _, Digest, ErrorKind, IngestKey, Namespace, Result};
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::fsio::{self, at};
use crate::{Store, locks};

const SMALL: u64 = 8 << 10;

/// The files of an ingest that can hold its bytes.
pub(super) const DATA: [&str; 2] = ["data", "shared"];

/// Holds the id of the boot in which the ingest was last begun or resumed under a lease of a client's.
pub(super) const LEASED: &str = "leased";

/// How long [`IngestDir::lock_now`] tries: others hold the lock for a moment to list ingests, or to
/// remove one that has no key yet.
const NOW: Duration = Duration::from_millis(20);

/// The directory of an ingest, whose writer this is. Dropped, it can be locked by the next.
#[derive(Debug)]
pub(super) struct IngestDir {
    path: PathBuf,
    lock: File,
}

impl Drop for IngestDir {
    fn drop(&mut self) {
        locks::unlock(&self.lock);
    }
}

impl IngestDir {
    /// Makes the directory where it is missing, and waits for its lock.
    ///
    /// The one who held it may have removed the directory meanwhile: then it is made again.
    pub(super) fn lock(
        store: &Store,
        namespace: &Namespace,
        key: &IngestKey,
        cancel: &Cancel,
    ) -> Result<Self> {
        let path = store.ingest_path(namespace, key);
        loop {
            let Some(lock) = make(store, key, &path)? else { continue };
            locks::wait(&lock, &path, cancel)?;
            let dir = Self { path: path.clone(), lock };
            if locks::leads_to(&path, &dir.lock)? {
                return Ok(dir);
            }
        }
    }

    /// As [`IngestDir::lock`], without waiting for a writer; `None` where there is one.
    pub(super) fn lock_now(
        store: &Store,
        namespace: &Namespace,
        key: &IngestKey,
    ) -> Result<Option<Self>> {
        let path = store.ingest_path(namespace, key);
        let deadline = Instant::now() + NOW;
        loop {
            let Some(lock) = make(store, key, &path)? else { continue };
            if !locks::try_exclusive(&lock).context(ErrorKind::Storage, || at("lock", &path))? {
                if Instant::now() >= deadline {
                    return Ok(None);
                }
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let dir = Self { path: path.clone(), lock };
            if locks::leads_to(&path, &dir.lock)? {
                return Ok(Some(dir));
            }
        }
    }

    /// Locks the directory at `path` if it is there and has no writer.
    pub(super) fn try_lock(path: &Path) -> Result<Attempt> {
        let what = || at("lock", path);
        let Some(lock) = open_dir(path).context(ErrorKind::Storage, what)? else {
            return Ok(Attempt::Gone);
        };
        if !locks::try_exclusive(&lock).context(ErrorKind::Storage, what)? {
            return Ok(Attempt::Busy);
        }
        let dir = Self { path: path.into(), lock };
        Ok(if locks::leads_to(&dir.path, &dir.lock)? {
            Attempt::Locked(dir)
        } else {
            Attempt::Gone
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads one of the small files.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        read(&self.path, name)
    }

    /// Writes one of the small files. A torn one is found by comparing it, so nothing is synced.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.file(name);
        std::fs::write(&path, text).context(ErrorKind::Storage, || at("write", &path))
    }

    /// Opens `data`, which nobody else has under another name.
    ///
    /// A blob that is already linked is not ours to write to any more: a new file takes its place.
    pub(super) fn open_data(&self) -> Result<File> {
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let path = self.file("data");
        let open = || -> io::Result<File> {
            match std::fs::symlink_metadata(&path) {
                Ok(meta) if !meta.is_file() || meta.nlink() > 1 => remove_any(&path)?,
                Ok(meta) if meta.permissions().mode() & 0o200 == 0 => {
                    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => (),
            }
            std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
        };
        open().context(ErrorKind::Storage, || at("open", &path))
    }

    /// Says whether the end of a lease is the end of this ingest.
    pub(super) fn set_leased(&self, store: &Store, leased: bool) -> Result<()> {
        if leased {
            // After a power cut nobody knows what the lease held.
            self.write(LEASED, store.boot_id())
        } else {
            fsio::remove_all(&self.file(LEASED))
        }
    }

    /// Empties the directory, but for what was said with [`IngestDir::set_leased`].
    pub(super) fn clear(&self) -> Result<()> {
        self.clear_but("")
    }

    /// Empties the directory of all but one name.
    pub(super) fn clear_but(&self, kept: &str) -> Result<()> {
        let entries = std::fs::read_dir(&self.path)
            .and_then(Iterator::collect::<io::Result<Vec<_>>>)
            .context(ErrorKind::Storage, || at("list", &self.path))?;
        entries
            .iter()
            .filter(|entry| entry.file_name() != kept && entry.file_name() != LEASED)
            .try_for_each(|entry| fsio::remove_all(&entry.path()))
    }

    /// Removes the directory and gives up the lock.
    pub(super) fn remove(self) -> Result<()> {
        fsio::remove_all(&self.path)
    }
}

/// How [`IngestDir::try_lock`] ended.
pub(super) enum Attempt {
    Locked(IngestDir),
    Busy,
    Gone,
}

/// Removes what an earlier writer left of content that is there, if nobody is at it.
pub(super) fn remove_left(store: &Store, namespace: &Namespace, key: &IngestKey) {
    let remove = || match IngestDir::try_lock(&find(store, namespace, key)?)? {
        Attempt::Locked(dir) => dir.remove(),
        Attempt::Busy | Attempt::Gone => Ok(()),
    };
    if let Err(error) = remove() {
        tracing::debug!(%error, %key, "remove an ingest whose content is there");
    }
}

/// Opens an ingest's directory, makes it first where it is missing; `None` where another one was
/// quicker to remove it.
fn make(store: &Store, key: &IngestKey, path: &Path) -> Result<Option<File>> {
    adopt(store, key, path)?;
    fsio::make_dir(path)?;
    match open_dir(path) {
        Err(error) if is_no_dir(&error) => {
            fsio::set_aside(path, &store.root().join("quarantine"))?;
            Ok(None)
        }
        other => other.context(ErrorKind::Storage, || at("open", path)),
    }
}

/// Moves what version 1 left under a key, for all namespaces, to where the first one that asks for
/// the key has it.
fn adopt(store: &Store, key: &IngestKey, path: &Path) -> Result<()> {
    let old = store.unowned_ingest_path(key);
    if !is_unowned(&old, key)? {
        return Ok(());
    }
    let Attempt::Locked(dir) = IngestDir::try_lock(&old)? else { return Ok(()) };
    match rustix::fs::renameat_with(CWD, dir.path(), CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("adopt ingest", &old)),
    }
}

/// Whether version 1 left an ingest of this key at `path`.
fn is_unowned(path: &Path, key: &IngestKey) -> Result<bool> {
    let is_dir = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    Ok(is_dir
        && read(path, "ref")?.is_some_and(|text| text == key.as_str())
        && read(path, "namespace")?.is_none())
}

/// Where an ingest is to be found, if it is there.
pub(super) fn find(store: &Store, namespace: &Namespace, key: &IngestKey) -> Result<PathBuf> {
    let path = store.ingest_path(namespace, key);
    let old = store.unowned_ingest_path(key);
    let gone = std::fs::symlink_metadata(&path).is_err();
    Ok(if gone && is_unowned(&old, key)? { old } else { path })
}

impl Store {
    fn ingest_path(&self, namespace: &Namespace, key: &IngestKey) -> PathBuf {
        self.ingest_dir(&[namespace.as_str().as_bytes(), &[0], key.as_str().as_bytes()].concat())
    }

    /// Where version 1 of a store had an ingest.
    fn unowned_ingest_path(&self, key: &IngestKey) -> PathBuf {
        self.ingest_dir(key.as_str().as_bytes())
    }

    fn ingest_dir(&self, name: &[u8]) -> PathBuf {
        self.root().join("content/ingest").join(Digest::sha256(name).hex())
    }
}

/// Reads one of the small files of an ingest; `None` where it is missing or unreadable as text.
pub(super) fn read(dir: &Path, name: &str) -> Result<Option<String>> {
    let bytes = fsio::read_small(&dir.join(name), SMALL)?;
    Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
}

/// Opens a directory; `None` where there is none.
pub(super) fn open_dir(path: &Path) -> io::Result<Option<File>> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::DIRECTORY | OFlags::NOFOLLOW).bits().cast_signed())
        .open(path);
    match opened {
        Ok(dir) => Ok(Some(dir)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_no_dir(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    errno == Some(Errno::NOTDIR.raw_os_error()) || errno == Some(Errno::LOOP.raw_os_error())
}

fn remove_any(path: &Path) -> io::Result<()> {
    if std::fs::symlink_metadata(path)?.is_dir() {
        std::fs::remove_dir_all(path)
    } else {
        std::fs::remove_file(path)
    }
}
