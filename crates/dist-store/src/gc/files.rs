//! Files that belong to nothing: blobs without a row, ingests of nobody, locks of the dead.
//!
//! A commit links its blob first and makes the row later. It finds out, in the transaction that
//! makes the row, when its blob is gone, and links it again; so a file without a row can go at any
//! time. One that a live ingest is about to make a row for is left all the same: who holds the lock
//! of that ingest is alive.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dist_core::{Context as _, Digest, ErrorKind, Resource, Result};
use rusqlite::Connection;

use super::plan::Plan;
use super::{Collected, Leak, Object};
use crate::blobs;
use crate::db::SqlContext as _;
use crate::fsio::{self, at};
use crate::{Store, locks};

/// Files that are moved away in one transaction: a few milliseconds.
const CHUNK: usize = 128;

/// A blob without a row.
struct Orphan {
    digest: Digest,
    path: PathBuf,
    bytes: u64,
}

/// What belongs to nothing now.
pub(super) fn leaks(store: &Store, plan: &Plan) -> Result<Vec<Leak>> {
    let blobs = orphans(store)?.into_iter().map(|orphan| orphan.leak());
    Ok(blobs.chain(plan.leaks()).collect())
}

/// Removes blobs without a row. Those whose row was collected just now are no leak.
pub(super) fn remove_leaks(store: &Store, collected: &mut Collected) -> Result<()> {
    let orphans = orphans(store)?;
    let ours: HashSet<Digest> = collected
        .removed
        .iter()
        .filter_map(|removed| match removed.object {
            Object::Resource(Resource::Content(digest)) => Some(digest),
            _ => None,
        })
        .collect();
    for chunk in orphans.chunks(CHUNK) {
        let mut moved = Vec::new();
        store.db().write_freeing(|transaction| {
            for orphan in chunk {
                if blobs::known(transaction, &orphan.digest)?.is_none()
                    && let Some(trash) = fsio::set_aside(&orphan.path, &store.trash())?
                {
                    moved.push((orphan, trash));
                }
            }
            Ok(())
        })?;
        for (orphan, trash) in moved {
            fsio::remove_all(&trash)?;
            if !ours.contains(&orphan.digest) {
                collected.leaked.push(orphan.leak());
            }
        }
    }
    Ok(())
}

/// Removes the locks that nobody holds: those of processes that were killed.
pub(super) fn remove_locks(store: &Store) -> Result<()> {
    for path in names(&store.root().join("locks"))? {
        let Ok(file) = blobs::open_file(&path) else { continue }; // its holder was quicker
        let what = || at("lock", &path);
        if locks::try_exclusive(&file).context(ErrorKind::Storage, what)?
            && locks::leads_to(&path, &file)?
        {
            fsio::remove_all(&path)?;
        }
        locks::unlock(&file);
    }
    Ok(())
}

impl Orphan {
    fn leak(&self) -> Leak {
        Leak { path: self.path.clone(), bytes: self.bytes, ended: None }
    }
}

/// The blobs that have no row and that no live ingest is about to make one for.
fn orphans(store: &Store) -> Result<Vec<Orphan>> {
    let mut found = BTreeMap::new();
    for algorithm in ["sha256", "sha512"] {
        for path in names(&store.root().join("content/blobs").join(algorithm))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            // What is no blob was put there by somebody else.
            if let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() {
                found.insert(digest, path);
            }
        }
    }
    // In this order: the row of a blob that was found comes at last while its ingest is locked.
    let mut written = None;
    let known = store.db().read(digests)?;
    let mut orphans = Vec::new();
    for (digest, path) in found {
        if known.contains(&digest) {
            continue;
        }
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue }; // gone already
        if !meta.is_file() {
            continue;
        }
        if meta.nlink() > 1 {
            let written = match &mut written {
                Some(written) => written,
                none => none.insert(store.files_being_written()?),
            };
            if written.contains(&(meta.dev(), meta.ino())) {
                continue;
            }
        }
        // Bytes that have another name do not come free with this one.
        let bytes = if meta.nlink() > 1 { 0 } else { meta.len() };
        orphans.push(Orphan { digest, path, bytes });
    }
    Ok(orphans)
}

/// The blobs that have a row in any namespace.
fn digests(connection: &Connection) -> Result<HashSet<Digest>> {
    let read = || {
        connection
            .prepare("SELECT DISTINCT digest FROM content")?
            .query_map([], |row| row.get(0))?
            .collect::<rusqlite::Result<Vec<String>>>()
    };
    let texts = read().sql(|| "list blobs".into())?;
    texts
        .iter()
        .map(|text| text.parse().context(ErrorKind::Storage, || format!("read digest {text:?}")))
        .collect()
}

/// The paths in a directory.
fn names(dir: &Path) -> Result<Vec<PathBuf>> {
    let list = || -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    };
    list().context(ErrorKind::Storage, || at("list", dir))
}
