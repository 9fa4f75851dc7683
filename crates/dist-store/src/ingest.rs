//! Ingests: content on its way in, `ROOT/content/ingest/<sha256 of namespace NUL key>/`.
//!
//! ```text
//! ref        the key
//! namespace  whose it is; missing in what version 1 left, which the first to ask for the key gets
//! data       the bytes so far
//! shared     in the place of `data`: a link to a blob that another namespace has
//! total      how many bytes there will be, where known
//! expected   the digest they must have, where known
//! startedat  when its first writer began, nanoseconds since the epoch
//! updatedat  when it was last written to
//! state      saved hash states
//! parts      what of `data` came before its turn; `data` may have holes where this is there
//! ```
//!
//! Whoever holds the exclusive `flock` of the directory is its writer, and the only one that
//! changes or removes anything in it. Times are of the real-time clock and kept in files, because
//! those of a file system come from a coarser clock that lags behind.

mod commit;
mod dir;
mod parts;
mod recall;
mod session;
mod state;
mod status;
mod writer;

use std::path::Path;

use dist_core::{
    Cancel, Committed, ContentMismatch, Context as _, Digest, Error, ErrorKind, Expected, Info,
    Ingest, IngestKey, Ingester, Resource, Result, ResultExt as _,
};
use rusqlite::Connection;

use self::dir::IngestDir;
use self::writer::FileWriter;
use crate::blobs::{self, ContentStore, Found, look};
use crate::fsio::{self, at};

pub use self::session::{IngestWriter, Sharing};
pub use self::status::{INGEST_LIFETIME, IngestEntry};

impl Ingester for ContentStore {
    fn ingest(&self, key: &IngestKey, expected: Expected, cancel: &Cancel) -> Result<Ingest> {
        if let Some(digest) = expected.digest
            && let Some(info) = self.find(&digest, expected.size)?
        {
            if !self.store.is_read_only() {
                dir::remove_left(&self.store, &self.scope.namespace, key);
            }
            return Ok(Ingest::Exists(Committed::Existed(info)));
        }
        self.store.check_writable()?;
        self.store.db().demand_space().during(|| format!("write ingest {key}"))?;
        let dir = IngestDir::lock(&self.store, &self.scope.namespace, key, cancel)?;
        // Whoever tries again, perhaps tomorrow and under another lease, finds what has come.
        dir.set_leased(&self.store, false)?;
        if let Some(digest) = expected.digest
            && let Some(claimed) = self.claim(&digest, expected.size, cancel)?
        {
            dir.remove()?;
            return Ok(Ingest::Exists(claimed));
        }
        let recalled = recall::recall(&dir, &self.scope.namespace, key, expected)?;
        let writer = FileWriter::open(self.clone(), dir, key, recalled, cancel)?;
        Ok(Ingest::Writer(Box::new(writer)))
    }
}

impl ContentStore {
    /// The blob, if this namespace has it as durable as this store promises. Changes nothing, but
    /// puts the blob into the lease where that does not hold it, and gives it labels that it lacks.
    fn find(&self, digest: &Digest, size: Option<u64>) -> Result<Option<Info>> {
        let resource = Resource::Content(*digest);
        let found = self.store.db().read(|connection| {
            let held = self.scope.holds(connection, &resource)?;
            let known = blobs::known(connection, digest)?;
            let settled = known.is_some_and(|known| !known.unsettled);
            if settled || !self.settles_now() {
                Ok(self.load(connection, digest)?.map(|info| (info, held)))
            } else {
                Ok(None)
            }
        })?;
        let Some((mut info, held)) = found else { return Ok(None) };
        if !held || self.labels.keys().any(|key| !info.labels.contains_key(key)) {
            let kept = self.record(|transaction| {
                self.scope.hold(transaction, &resource)?;
                match self.load(transaction, digest)? {
                    Some(row) if row == info => self.add_labels(transaction, row).map(Some),
                    _ => Ok(None), // it changed or went since
                }
            })?;
            let Some(kept) = kept else { return Ok(None) };
            info = kept;
        }
        match look(&self.store.blob_path(digest))? {
            Found::File { size: there, .. } if there == info.size => {
                check_size(digest, size, info.size)?;
                Ok(Some(info))
            }
            _ => Ok(None),
        }
    }

    /// Takes a blob that is on the disk into this namespace; `None` where it must be written.
    ///
    /// A file with a row of any namespace and that row's size is believed. One without a row (a
    /// commit was killed half-way, or the row was dropped after another boot) is hashed first.
    /// What turns out bad goes to quarantine. An isolated namespace must write what it does not have.
    fn claim(
        &self,
        digest: &Digest,
        size: Option<u64>,
        cancel: &Cancel,
    ) -> Result<Option<Committed>> {
        let path = self.store.blob_path(digest);
        loop {
            let (known, allowed) = self.store.db().read(|connection| {
                let allowed = self.load(connection, digest)?.is_some()
                    || self.may_take(connection, digest, self.sharing)?;
                Ok((blobs::known(connection, digest)?, allowed))
            })?;
            if !allowed {
                return Ok(None);
            }
            let found = look(&path)?;
            let Found::File { size: there, .. } = found else {
                if known.is_some() || found == Found::Other {
                    self.quarantine(digest, found)?;
                }
                return Ok(None);
            };
            let unsettled = match known {
                Some(known) if known.size == there => {
                    check_size(digest, size, there)?;
                    known.unsettled
                }
                None if size.is_none_or(|size| size == there)
                    && self.is_content(digest, &path, cancel)? =>
                {
                    true
                }
                _ => {
                    self.quarantine(digest, found)?;
                    return Ok(None);
                }
            };
            let durable = self.settles_now();
            if unsettled && durable {
                self.settle_file(digest, &path, found)?;
            }
            let claimed = self.record(|transaction| {
                let same_rows = blobs::known(transaction, digest)? == known;
                if !same_rows || look(&path)? != found {
                    return Ok(None); // another process was quicker; look again
                }
                let had = self.load(transaction, digest)?.is_some();
                let info = self.insert(transaction, digest, there, unsettled && !durable)?;
                Ok(Some(if had { Committed::Existed(info) } else { Committed::New(info) }))
            })?;
            if claimed.is_some() {
                return Ok(claimed);
            }
            cancel.check()?;
        }
    }

    /// Whether a digest alone is enough to get what other namespaces have.
    ///
    /// Between clients and another daemon it never is: each of them has its own say about who may
    /// have what.
    fn may_take(&self, connection: &Connection, digest: &Digest, sharing: Sharing) -> Result<bool> {
        if self.scope.namespace.is_raw() {
            return Ok(false);
        }
        Ok(match sharing {
            Sharing::Shared => !blobs::is_foreign(connection, digest)?,
            Sharing::Isolated => blobs::is_shareable(connection, digest)?,
        })
    }

    fn is_content(&self, digest: &Digest, path: &Path, cancel: &Cancel) -> Result<bool> {
        let mut hasher = digest.hasher();
        let read = || fsio::hash(&mut blobs::open_file(path)?, u64::MAX, &mut hasher, cancel);
        match { read }() {
            Ok(_) => Ok(hasher.finish() == *digest),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true), // looked at again
            Err(error) => Err(error).context(ErrorKind::Storage, || at("read", path)),
        }
    }

    /// Syncs a blob that was not synced before.
    fn settle_file(&self, digest: &Digest, path: &Path, found: Found) -> Result<()> {
        match blobs::open_file(path).and_then(|file| file.sync_all()) {
            Ok(()) => fsio::sync_dir(path.parent().unwrap_or(path)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()), // looked at again
            Err(error) => {
                self.quarantine(digest, found)?;
                Err(error).context(ErrorKind::Storage, || at("sync", path))
            }
        }
    }
}

/// The content of a digest has one size; a descriptor with another one is wrong.
fn check_size(digest: &Digest, expected: Option<u64>, got: u64) -> Result<()> {
    match expected {
        Some(expected) if expected != got => {
            let message = format!("blob {digest} is there with another size than is expected");
            Err(Error::new(ErrorKind::FailedPrecondition, message)
                .with_source(ContentMismatch::Size { expected, got }))
        }
        _ => Ok(()),
    }
}
