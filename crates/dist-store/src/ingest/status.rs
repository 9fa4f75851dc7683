//! Listing and removing ingests, beside their writers.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use dist_core::{Context as _, Error, ErrorKind, IngestKey, IngestStatus, Result};

use super::dir::{self, Attempt, IngestDir};
use crate::blobs::ContentStore;
use crate::fsio::at;
use crate::locks;

/// How long [`ContentStore::abort`] tries: others look at the lock for a moment to list ingests.
const ABORT_WAIT: Duration = Duration::from_millis(200);

impl ContentStore {
    /// Lists the ingests of all namespaces, ordered by key.
    ///
    /// # Errors
    /// `Storage`.
    pub fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let root = self.store.root().join("content/ingest");
        let what = || at("list", &root);
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&root).context(ErrorKind::Storage, what)? {
            let path = entry.context(ErrorKind::Storage, what)?.path();
            match status(&path)? {
                Some(status) => found.push(status),
                None if !self.store.is_read_only() => remove_nameless(&path)?,
                None => (),
            }
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Describes one ingest.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn ingest_status(&self, key: &IngestKey) -> Result<IngestStatus> {
        status(&self.store.ingest_path(key))?.ok_or_else(|| missing(key))
    }

    /// Removes an ingest that has no writer, and all it holds.
    ///
    /// # Errors
    /// `NotFound`; `Busy` where a live writer has it; `Storage`.
    pub fn abort(&self, key: &IngestKey) -> Result<()> {
        self.store.check_writable()?;
        let path = self.store.ingest_path(key);
        let deadline = Instant::now() + ABORT_WAIT;
        loop {
            match IngestDir::try_lock(&path)? {
                Attempt::Locked(dir) => return dir.remove(),
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
fn status(path: &Path) -> Result<Option<IngestStatus>> {
    let what = || at("read ingest", path);
    let Some(key) = dir::read(path, "ref")?.and_then(|text| text.parse().ok()) else {
        return Ok(None);
    };
    let data = match std::fs::symlink_metadata(path.join("data")) {
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(ErrorKind::Storage, what),
    };
    let Some(lock) = dir::open_dir(path).context(ErrorKind::Storage, what)? else {
        return Ok(None);
    };
    let active = !locks::try_shared(&lock).context(ErrorKind::Storage, what)?;
    if !active {
        locks::unlock(&lock);
    }
    let started_at = parse(dir::read(path, "startedat")?).unwrap_or(0);
    let updated_at = data.as_ref().and_then(|meta| nanoseconds(meta.modified().ok()?));
    Ok(Some(IngestStatus {
        key,
        offset: data.map_or(0, |meta| meta.len()),
        total: parse(dir::read(path, "total")?),
        expected: parse(dir::read(path, "expected")?),
        started_at,
        updated_at: updated_at.unwrap_or(started_at).max(started_at),
        active,
    }))
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
    text?.parse().ok()
}

fn nanoseconds(time: SystemTime) -> Option<i64> {
    i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos()).ok()
}

fn missing(key: &IngestKey) -> Error {
    Error::new(ErrorKind::NotFound, format!("ingest {key} is not there"))
}
