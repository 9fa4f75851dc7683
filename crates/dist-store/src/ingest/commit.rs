//! How an ingest becomes a blob.
//!
//! Sync the data, link it under its digest, sync the directory, make the row; only then answer,
//! and remove the ingest. Without a promise that the blob is durable the syncs are left out, and the
//! row says so: [`Store::register`] or [`Store::settle`] make up for them. The ingest keeps its own link until the row is there, so that a blob that
//! is deleted between the link and the row is linked again inside the row's transaction.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dist_core::{
    Committed, Context as _, Digest, Error, ErrorKind, Info, IngestKey, Labels, Resource, Result,
    Stage, enter,
};
use rusqlite::Transaction;

use super::dir::IngestDir;
use super::writer::FileWriter;
use crate::blobs::{self, ContentStore, Found, look};
use crate::db::SqlContext as _;
use crate::fsio::{self, at};

/// A commit that went well: the blob is there and this namespace has it.
pub(super) struct Published {
    pub(super) info: Info,
    /// This namespace had a row of it before: not one that it made when it found the file between
    /// its link and its row.
    pub(super) known: bool,
    /// This namespace had it before, row and file.
    pub(super) owned: bool,
}

impl From<Published> for Committed {
    fn from(published: Published) -> Self {
        if published.known { Self::Existed(published.info) } else { Self::New(published.info) }
    }
}

impl FileWriter {
    /// Makes what was written the blob `digest`, which it is, with `labels` where this namespace
    /// did not have it.
    pub(super) fn publish(mut self, digest: Digest, labels: &Labels) -> Result<Published> {
        self.close_parts();
        self.leave_to_writeback();
        if self.failed {
            let message = format!("commit ingest {}: an earlier write failed", self.key);
            return Err(Error::new(ErrorKind::Storage, message));
        }
        let Some(dir) = &self.dir else {
            return Err(Error::new(ErrorKind::Internal, "commit an ingest that was removed"));
        };
        let publication = Publication {
            content: &self.content,
            key: &self.key,
            digest,
            size: self.offset,
            labels,
        };
        match publication.run(dir, "data", &self.data) {
            Ok(published) => {
                if let Err(error) = self.remove() {
                    tracing::debug!(%error, key = %self.key, "remove a committed ingest");
                }
                Ok(published)
            }
            Err(Failure::Unsynced(error)) => {
                self.failed = true; // the ingest goes when this is dropped
                Err(error)
            }
            Err(Failure::Other(error)) => Err(error),
        }
    }
}

/// Why a blob could not be published.
pub(super) enum Failure {
    /// A sync failed: what it was for may be marked clean in memory and missing on the disk.
    Unsynced(Error),
    /// The ingest is as good as before.
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Unsynced(error) | Self::Other(error) => error,
        }
    }
}

/// What a file in an ingest is to become.
pub(super) struct Publication<'a> {
    pub(super) content: &'a ContentStore,
    pub(super) key: &'a IngestKey,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// What the blob gets where its namespace did not have it.
    pub(super) labels: &'a Labels,
}

/// The file, by its path in the ingest.
struct Ours<'a> {
    dir: &'a IngestDir,
    path: PathBuf,
    found: Found,
}

impl Publication<'_> {
    fn durable(&self) -> bool {
        self.content.settles_now()
    }

    /// Publishes the file `name` of `dir`, which is open as `data`.
    pub(super) fn run(
        &self,
        dir: &IngestDir,
        name: &str,
        data: &File,
    ) -> Result<Published, Failure> {
        let path = dir.file(name);
        let found = self.settle_data(data, &path).map_err(Failure::Unsynced)?;
        self.record(&Ours { dir, path, found })
    }

    fn settle_data(&self, data: &File, path: &Path) -> Result<Found> {
        let settle = || {
            data.set_permissions(std::fs::Permissions::from_mode(0o444))?;
            if self.durable() {
                let _sync = enter(Stage::Sync);
                data.sync_all()?;
            }
            data.metadata()
        };
        let meta = settle().context(ErrorKind::Storage, || at("sync", path))?;
        Ok(Found::of(&meta))
    }

    fn record(&self, ours: &Ours<'_>) -> Result<Published, Failure> {
        let path = self.content.store.blob_path(&self.digest);
        let linked = self.link(ours, &path)?;
        if linked && self.durable() {
            self.sync_dir(&path, ours.found)?;
        }
        let (published, relinked) = self.content.record(|transaction| {
            let known = blobs::known(transaction, &self.digest)?;
            let row = self.content.load(transaction, &self.digest)?.is_some();
            let found = look(&path)?;
            let theirs = known.filter(|known| {
                let same_size =
                    matches!(found, Found::File { size, .. } if size == self.size && size == known.size);
                same_size && !(self.durable() && known.unsettled)
            });
            let replace = found != ours.found && theirs.is_none();
            if replace {
                self.replace(ours, &path, found)?;
            }
            let unsettled = match theirs {
                Some(known) if found != ours.found => known.unsettled,
                _ => !self.durable() || replace,
            };
            let mut info = self.content.insert(transaction, &self.digest, self.size, unsettled)?;
            // A row whose file was lost until now is as good as none, and so is the row of somebody
            // who found this file without one.
            let made = linked && found == ours.found;
            let owned = row && theirs.is_some() && !made;
            if !owned && !self.labels.is_empty() {
                info = self.content.label(transaction, &self.digest, self.labels)?;
            }
            self.content.scope.release(transaction, &Resource::Ingest(self.key.clone()))?;
            Ok((Published { info, known: row && !made, owned }, replace))
        })?;
        if relinked && self.durable() {
            self.sync_dir(&path, ours.found)?;
            self.content.store.db().write(|transaction| self.settle_rows(transaction))?;
        }
        Ok(published)
    }

    /// Gives the data its name; `false` where something has that name.
    fn link(&self, ours: &Ours<'_>, path: &Path) -> Result<bool> {
        let mut result = std::fs::hard_link(&ours.path, path);
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound)
            && let Some(parent) = path.parent()
            && fsio::make_dir(parent)?
        {
            fsio::sync_dir(parent.parent().unwrap_or(parent))?;
            result = std::fs::hard_link(&ours.path, path);
        }
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).context(ErrorKind::Storage, || at("link", path)),
        }
    }

    /// Puts the data in the place of what was `found`: a file that no row vouches for, or nothing.
    fn replace(&self, ours: &Ours<'_>, path: &Path, found: Found) -> Result<()> {
        if found == Found::Other {
            fsio::set_aside(path, &self.content.store.root().join("quarantine"))?;
        }
        let link = ours.dir.file("link");
        fsio::remove_all(&link)?;
        std::fs::hard_link(&ours.path, &link)
            .and_then(|()| std::fs::rename(&link, path))
            .context(ErrorKind::Storage, || at("link", path))
    }

    /// Makes the blob's name durable. Where that fails, the name is taken back.
    fn sync_dir(&self, path: &Path, ours: Found) -> Result<(), Failure> {
        fsio::sync_dir(path.parent().unwrap_or(path)).map_err(|error| {
            if let Err(error) = self.content.quarantine(&self.digest, ours) {
                tracing::debug!(%error, digest = %self.digest, "take back a blob");
            }
            Failure::Unsynced(error)
        })
    }

    fn settle_rows(&self, transaction: &Transaction<'_>) -> Result<Info> {
        transaction
            .execute(
                "UPDATE content SET boot_id = NULL WHERE digest = ?1 AND boot_id IS NOT NULL",
                [self.digest.to_string()],
            )
            .sql(|| format!("record blob {}", self.digest))?;
        self.content.load(transaction, &self.digest)?.ok_or_else(|| blobs::missing(&self.digest))
    }
}
