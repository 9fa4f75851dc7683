//! Listing and removing ingests, beside their writers.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use dist_core::{
    Context as _, Error, ErrorKind, IngestKey, IngestStatus, Namespace, Resource, Result,
};

use super::dir::{self, Attempt, IngestDir};
use super::parts;
use crate::blobs::ContentStore;
use crate::fsio::{self, at};
use crate::{Store, leases, locks};

/// How long [`ContentStore::abort`] tries: others look at the lock for a moment to list ingests.
const ABORT_WAIT: Duration = Duration::from_millis(200);

/// How long an ingest that was begun without a lease is kept after it was last written to, in nanoseconds.
pub const INGEST_LIFETIME: i64 = 24 * 60 * 60 * 1_000_000_000;

/// An ingest of any namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IngestEntry {
    /// Whose it is; `None` for what an older version left to whoever asks for its key first.
    pub namespace: Option<Namespace>,
    /// How far it is.
    pub status: IngestStatus,
    /// Whether it was opened under a lease of a client's: the end of the lease is its end.
    pub leased: bool,
    path: PathBuf,
}

impl IngestEntry {
    /// Until when it is kept although no lease holds it and nobody writes to it, in nanoseconds
    /// since the epoch; `None` where it is not.
    #[must_use]
    pub fn expires_at(&self) -> Option<i64> {
        (!self.leased).then(|| self.status.updated_at.saturating_add(INGEST_LIFETIME))
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Store {
    /// Lists the ingests of all namespaces, in no order.
    ///
    /// # Errors
    /// `Storage`.
    pub fn all_ingests(&self) -> Result<Vec<IngestEntry>> {
        let root = self.root().join("content/ingest");
        let what = || at("list", &root);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&root).context(ErrorKind::Storage, what)? {
            let path = entry.context(ErrorKind::Storage, what)?.path();
            match read(&path, self.boot_id())? {
                Some(entry) => found.push(entry),
                None if !self.is_read_only() => remove_nameless(&path)?,
                None => (),
            }
        }
        Ok(found)
    }

    /// Removes an ingest that nobody has written to since it was listed, nobody writes to now, and
    /// no lease holds; says whether it did.
    ///
    /// # Errors
    /// `Storage`.
    pub fn remove_ingest(&self, entry: &IngestEntry) -> Result<bool> {
        let Attempt::Locked(dir) = IngestDir::try_lock(&entry.path)? else { return Ok(false) };
        let same = facts(dir.path(), self.boot_id())?.is_some_and(|now| {
            (&now.namespace, now.leased) == (&entry.namespace, entry.leased)
                && now.status.key == entry.status.key
                && now.status.updated_at == entry.status.updated_at
        });
        if !same {
            return Ok(false);
        }
        let trash = self.db().write_freeing(|transaction| {
            let held = match &entry.namespace {
                Some(namespace) => {
                    let ingest = Resource::Ingest(entry.status.key.clone());
                    leases::is_held(transaction, namespace, &ingest)?
                }
                None => false,
            };
            if held { Ok(None) } else { fsio::set_aside(dir.path(), &self.trash()) }
        })?;
        trash.map_or(Ok(false), |trash| fsio::remove_all(&trash).map(|()| true))
    }

    /// The files that live writers have, each by device and inode: one of them may just be getting
    /// its name as a blob.
    pub(crate) fn files_being_written(&self) -> Result<HashSet<(u64, u64)>> {
        let mut files = HashSet::new();
        for entry in self.all_ingests()?.iter().filter(|entry| entry.status.active == Some(true)) {
            for name in dir::DATA {
                if let Ok(meta) = std::fs::symlink_metadata(entry.path.join(name)) {
                    files.insert((meta.dev(), meta.ino()));
                }
            }
        }
        Ok(files)
    }
}

impl ContentStore {
    /// Lists the ingests of this namespace, ordered by key.
    ///
    /// # Errors
    /// `Storage`.
    pub fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let mut found: Vec<_> = self
            .store
            .all_ingests()?
            .into_iter()
            .filter(|entry| {
                entry.namespace.as_ref().is_none_or(|owner| *owner == self.scope.namespace)
            })
            .map(|entry| entry.status)
            .collect();
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Describes one ingest.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn ingest_status(&self, key: &IngestKey) -> Result<IngestStatus> {
        let path = dir::find(&self.store, &self.scope.namespace, key)?;
        read(&path, self.store.boot_id())?.map(|entry| entry.status).ok_or_else(|| missing(key))
    }

    /// Removes an ingest that has no writer, and all it holds.
    ///
    /// # Errors
    /// `NotFound`; `Busy` where a live writer has it; `Storage`.
    pub fn abort(&self, key: &IngestKey) -> Result<()> {
        self.store.check_writable()?;
        let path = dir::find(&self.store, &self.scope.namespace, key)?;
        let deadline = Instant::now() + ABORT_WAIT;
        loop {
            match IngestDir::try_lock(&path)? {
                Attempt::Locked(dir) => {
                    let thrown_away = self.store.throw_away(dir.path())?;
                    drop(dir);
                    self.release_ingest(key)?;
                    return self.store.free(thrown_away.as_slice());
                }
                Attempt::Gone => return Err(missing(key)),
                Attempt::Busy if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Attempt::Busy => {
                    let message = format!("abort ingest {key}: a writer is at it");
                    return Err(Error::new(ErrorKind::Busy, message));
                }
            }
        }
    }
}

/// Reads what an ingest's directory says; `None` where it is gone or has no key yet.
fn read(path: &Path, boot_id: &str) -> Result<Option<IngestEntry>> {
    let Some(mut entry) = facts(path, boot_id)? else { return Ok(None) };
    let what = || at("read ingest", path);
    let Some(lock) = dir::open_dir(path).context(ErrorKind::Storage, what)? else {
        return Ok(None);
    };
    let is_free = locks::try_shared(&lock).context(ErrorKind::Storage, what)?;
    if is_free {
        locks::unlock(&lock);
    }
    entry.status.active = Some(!is_free);
    Ok(Some(entry))
}

/// As [`read`], without asking whether somebody writes.
fn facts(path: &Path, boot_id: &str) -> Result<Option<IngestEntry>> {
    let Some(key) = dir::read(path, "ref")?.and_then(|text| text.parse().ok()) else {
        return Ok(None);
    };
    let namespace = dir::read(path, "namespace")?.and_then(|text| parse_namespace(&text));
    let mut data = None;
    for name in dir::DATA {
        match std::fs::symlink_metadata(path.join(name)) {
            Ok(meta) => data = Some(meta),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => (),
            Err(error) => return Err(error).context(ErrorKind::Storage, || at("read", path)),
        }
    }
    let started_at = parse(dir::read(path, "startedat")?).unwrap_or(0);
    let updated_at = match parse(dir::read(path, "updatedat")?) {
        Some(updated_at) => Some(updated_at),
        None => data.as_ref().and_then(|meta| nanoseconds(meta.modified().ok()?)),
    };
    // Behind the first hole bytes may be there, but nobody can go on from there.
    let whole = parts::read(path, None)?.map(|there| there.end_at(0));
    let status = IngestStatus {
        key,
        offset: data.map_or(0, |meta| whole.map_or(meta.len(), |end| end.min(meta.len()))),
        total: parse(dir::read(path, "total")?),
        expected: parse(dir::read(path, "expected")?),
        started_at,
        updated_at: updated_at.unwrap_or(started_at).max(started_at),
        active: None,
    };
    let leased = dir::read(path, dir::LEASED)?.is_some_and(|text| text == boot_id);
    Ok(Some(IngestEntry { namespace, status, leased, path: path.into() }))
}

fn parse_namespace(text: &str) -> Option<Namespace> {
    text.parse().ok().or_else(|| Namespace::parse_raw(text))
}

/// Removes a directory whose writer was killed before it wrote the key.
fn remove_nameless(path: &Path) -> Result<()> {
    if let Attempt::Locked(dir) = IngestDir::try_lock(path)?
        && dir.read("ref")?.is_none_or(|text| text.parse::<IngestKey>().is_err())
    {
        dir.remove()?;
    }
    Ok(())
}

pub(super) fn parse<T: std::str::FromStr>(text: Option<String>) -> Option<T> {
    text?.trim_end().parse().ok()
}

fn nanoseconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

fn missing(key: &IngestKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("ingest {key} is not there"))
}
