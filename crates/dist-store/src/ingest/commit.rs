//! How an ingest becomes a blob.
//!
//! Sync the data, link it under its digest, sync the directory, make the row; only then answer,
//! and remove the ingest. The ingest keeps its own link until the row is there, so that a blob that
//! is deleted between the link and the row is linked again inside the row's transaction.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dist_core::{Committed, Context as _, Digest, Error, ErrorKind, Info, Result};
use rusqlite::Transaction;

use super::dir::IngestDir;
use super::writer::FileWriter;
use crate::Durability;
use crate::blobs::{self, ContentStore, Found, look};
use crate::db::SqlContext as _;
use crate::fsio::{self, at};

impl FileWriter {
    /// Makes what was written the blob `digest`, which it is.
    pub(super) fn publish(mut self, digest: Digest) -> Result<Committed> {
        let Some(dir) = &self.dir else {
            return Err(Error::new(ErrorKind::Internal, "commit an ingest that was removed"));
        };
        let publication = Publication {
            content: &self.content,
            digest,
            size: self.offset,
            data: dir.file("data"),
            durable: self.content.store.durability() != Durability::None,
        };
        let published = match publication.settle_data(&self.data) {
            Ok(ours) => publication.run(dir, ours),
            Err(error) => Err(Failure::Unsynced(error)),
        };
        match published {
            Ok(committed) => {
                if let Err(error) = self.remove() {
                    tracing::debug!(%error, key = %self.key, "remove a committed ingest");
                }
                Ok(committed)
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
enum Failure {
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

struct Publication<'a> {
    content: &'a ContentStore,
    digest: Digest,
    size: u64,
    data: PathBuf,
    durable: bool,
}

impl Publication<'_> {
    fn settle_data(&self, data: &std::fs::File) -> Result<Found> {
        let settle = || {
            data.set_permissions(std::fs::Permissions::from_mode(0o444))?;
            if self.durable {
                data.sync_all()?;
            }
            data.metadata()
        };
        let meta = settle().context(ErrorKind::Storage, || at("sync", &self.data))?;
        Ok(Found::of(&meta))
    }

    fn run(&self, dir: &IngestDir, ours: Found) -> Result<Committed, Failure> {
        let path = self.content.store.blob_path(&self.digest);
        let linked = self.link(&path)?;
        if linked && self.durable {
            self.sync_dir(&path, ours)?;
        }
        let (info, existed, relinked) = self.content.store.db().write(|transaction| {
            let known = blobs::known(transaction, &self.digest)?;
            let found = look(&path)?;
            let theirs = known.filter(|known| {
                let same_size =
                    matches!(found, Found::File { size, .. } if size == self.size && size == known.size);
                same_size && !(self.durable && known.unsettled)
            });
            let replace = found != ours && theirs.is_none();
            if replace {
                self.replace(dir, &path, found)?;
            }
            let unsettled = match theirs {
                Some(known) if found != ours => known.unsettled,
                _ => !self.durable || replace,
            };
            let info = self.content.insert(transaction, &self.digest, self.size, unsettled)?;
            Ok((info, known.is_some(), replace))
        })?;
        if relinked && self.durable {
            self.sync_dir(&path, ours)?;
            self.content.store.db().write(|transaction| self.settle_rows(transaction))?;
        }
        Ok(if existed { Committed::Existed(info) } else { Committed::New(info) })
    }

    /// Gives the data its name; `false` where something has that name.
    fn link(&self, path: &Path) -> Result<bool> {
        let mut result = std::fs::hard_link(&self.data, path);
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::NotFound)
            && let Some(parent) = path.parent()
            && fsio::make_dir(parent)?
        {
            fsio::sync_dir(parent.parent().unwrap_or(parent))?;
            result = std::fs::hard_link(&self.data, path);
        }
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).context(ErrorKind::Storage, || at("link", path)),
        }
    }

    /// Puts the data in the place of what was `found`: a file that no row vouches for, or nothing.
    fn replace(&self, dir: &IngestDir, path: &Path, found: Found) -> Result<()> {
        if found == Found::Other {
            fsio::set_aside(path, &self.content.store.root().join("quarantine"))?;
        }
        let link = dir.file("link");
        fsio::remove_all(&link)?;
        std::fs::hard_link(&self.data, &link)
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
