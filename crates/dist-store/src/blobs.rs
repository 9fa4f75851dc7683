//! Committed blobs: `ROOT/content/blobs/<alg>/<hex>` and their rows.
//!
//! The file is shared by all namespaces; a row says that a namespace has it and how long it is. A
//! row is only made after the file has its name, so a row without its file, or with a file of
//! another length, means that the disk lost something: such a blob counts as missing and the next
//! ingest of its digest makes it again.

use std::fs::File;
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use dist_core::{
    Blob, Cancel, ContentMismatch, Context as _, DamagedStore, Digest, Error, ErrorKind, Info,
    LabelChange, Labels, Namespace, Provider, Resource, Result,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use rustix::fs::OFlags;

use crate::db::SqlContext as _;
use crate::fsio::{self, at};
use crate::rows::{Picked, of_namespace};
use crate::{Durability, Scope, Sharing, Store, labels};

/// The blobs and ingests of one namespace; what is made goes into the scope's lease.
#[derive(Clone, Debug)]
pub struct ContentStore {
    pub(crate) store: Store,
    pub(crate) scope: Scope,
    /// Labels that blobs get which are written, or found when they should be written.
    pub(crate) labels: Labels,
    /// What an [`dist_core::Ingester`] takes of other namespaces.
    pub(crate) sharing: Sharing,
    /// Whether what is ingested is left to a registration to be made durable.
    pub(crate) settles_later: bool,
}

/// What lies at a blob's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    File {
        device: u64,
        inode: u64,
        size: u64,
    },
    /// A directory, a symbolic link or the like.
    Other,
}

/// What the rows of all namespaces say of a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) size: u64,
    /// Whether one of them is not yet durable.
    pub(crate) unsettled: bool,
}

impl ContentStore {
    /// The same content; blobs that are written, or found when they should be written, get `labels`
    /// in the same transaction, where they have none of these names.
    #[must_use]
    pub fn labelled(self, labels: Labels) -> Self {
        Self { labels, ..self }
    }

    /// The same content; what is ingested takes of other namespaces no more than `sharing` allows.
    #[must_use]
    pub fn sharing(self, sharing: Sharing) -> Self {
        Self { sharing, ..self }
    }

    /// The same content; what is ingested is durable only when a registration has named it
    /// ([`Store::register`]), all of it at once. Until then a power cut takes it back.
    #[must_use]
    pub fn settling_later(self) -> Self {
        Self { settles_later: true, ..self }
    }

    /// Whether what is ingested is durable before that is told.
    pub(crate) fn settles_now(&self) -> bool {
        !self.settles_later && self.store.durability() != Durability::None
    }

    /// Writes rows as durably as what they stand for.
    pub(crate) fn record<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        let db = self.store.db();
        if self.settles_later { db.write_lazily(f) } else { db.write(f) }
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.scope.namespace
    }

    /// Describes a blob.
    ///
    /// # Errors
    /// `NotFound` where this namespace has no such blob, or its file is gone or has another
    /// length; `Storage`.
    pub fn info(&self, digest: &Digest) -> Result<Info> {
        let info = self.row(digest)?;
        match look(&self.store.blob_path(digest))? {
            Found::File { size, .. } if size == info.size => Ok(info),
            found => Err(lost(digest, info.size, found)),
        }
    }

    /// Lists the blobs of this namespace by digest, without looking at their files.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<Info>> {
        let db = self.store.db();
        let (labels, mut infos) = if db.read(|connection| self.picked(connection))?.is_many() {
            let every = |connection: &Connection| labels::CONTENT.load_every(connection);
            let (labels, (ids, infos)) =
                db.read_both(every, |connection| self.infos(connection))?;
            (labels::pick(labels, &ids), infos)
        } else {
            db.read(|connection| {
                let (ids, infos) = self.infos(connection)?;
                Ok((labels::CONTENT.load_all(connection, &ids)?, infos))
            })?
        };
        for (info, labels) in infos.iter_mut().zip(labels) {
            info.labels = labels;
        }
        // The short keys leave next to nothing to do for the second.
        infos.sort_by_cached_key(|info| (info.digest.as_bytes().len(), info.digest.prefix()));
        infos.sort_by_key(|info| info.digest);
        Ok(infos)
    }

    /// How the rows of this namespace are read.
    pub(crate) fn picked(&self, connection: &Connection) -> Result<Picked> {
        of_namespace(connection, "content", &self.scope.namespace)
    }

    /// The blobs in the order of their rows, and those rows, without labels.
    fn infos(&self, connection: &Connection) -> Result<(Vec<i64>, Vec<Info>)> {
        let what = || "list blobs".to_owned();
        let Picked { filter, room } = self.picked(connection)?;
        let (mut ids, mut infos) = (Vec::with_capacity(room), Vec::with_capacity(room));
        let mut statement = connection
            .prepare_cached(&format!(
                "SELECT id, digest, size, created_at, updated_at FROM content
                 WHERE {filter} ORDER BY id"
            ))
            .sql(what)?;
        let mut rows = statement.query([self.scope.namespace.as_str()]).sql(what)?;
        while let Some(row) = rows.next().sql(what)? {
            let text = row.get_ref(1).and_then(|text| Ok(text.as_str()?)).sql(what)?;
            let problem = || format!("read row of blob {text:?}");
            let size: i64 = row.get(2).sql(what)?;
            ids.push(row.get(0).sql(what)?);
            infos.push(Info {
                digest: text.parse().context(ErrorKind::Storage, problem)?,
                size: u64::try_from(size).context(ErrorKind::Storage, problem)?,
                created_at: row.get(3).sql(what)?,
                updated_at: row.get(4).sql(what)?,
                labels: Labels::new(),
            });
        }
        Ok((ids, infos))
    }

    /// The path of a blob's file, for reading.
    ///
    /// # Errors
    /// As [`ContentStore::info`].
    pub fn path(&self, digest: &Digest) -> Result<PathBuf> {
        self.info(digest)?;
        Ok(self.store.blob_path(digest))
    }

    /// Changes the labels of a blob.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn update_labels(&self, digest: &Digest, change: &LabelChange) -> Result<Info> {
        self.store.db().write(|transaction| {
            let id: i64 = transaction
                .query_row(
                    "UPDATE content SET updated_at = ?3 WHERE namespace = ?1 AND digest = ?2
                     RETURNING id",
                    params![self.scope.namespace.as_str(), digest.to_string(), fsio::now()],
                    |row| row.get(0),
                )
                .optional()
                .sql(|| format!("label blob {digest}"))?
                .ok_or_else(|| missing(digest))?;
            let labels = labels::CONTENT.change(transaction, id, change)?;
            let info = self.load(transaction, digest)?.ok_or_else(|| missing(digest))?;
            Ok(Info { labels, ..info })
        })
    }

    /// Takes a blob from this namespace, durably; its file goes when no namespace has it any more.
    ///
    /// # Errors
    /// `NotFound` where this namespace has no such blob; `Storage`.
    pub fn delete(&self, digest: &Digest) -> Result<()> {
        self.store.db().write_freeing(|transaction| {
            let count = transaction
                .execute(
                    "DELETE FROM content WHERE namespace = ?1 AND digest = ?2",
                    (self.scope.namespace.as_str(), digest.to_string()),
                )
                .sql(|| format!("delete blob {digest}"))?;
            if count == 0 {
                return Err(missing(digest));
            }
            self.scope.release(transaction, &Resource::Content(*digest))
        })?;
        // Not before: a row without its file is damage, a file without a row is a leak at most.
        if let Err(error) = self.store.remove_unowned(digest) {
            tracing::warn!(?error, %digest, "the file of a deleted blob is left to a collection");
        }
        Ok(())
    }

    /// Reads a blob to its end and compares it with its digest.
    ///
    /// A damaged file is moved to `ROOT/quarantine`, and no namespace has it any more: fetching it
    /// again repairs the store.
    ///
    /// # Errors
    /// `Corrupt` with a [`ContentMismatch`]; `NotFound`; `Cancelled`; `Storage`.
    pub fn verify(&self, digest: &Digest, cancel: &Cancel) -> Result<()> {
        let mut blob = self.open(digest)?;
        let path = self.store.blob_path(digest);
        let mut hasher = digest.hasher();
        fsio::hash(&mut blob.file, u64::MAX, &mut hasher, cancel)
            .context(ErrorKind::Storage, || at("read", &path))?;
        let got = hasher.finish();
        if got == *digest {
            return Ok(());
        }
        if !self.store.is_read_only() {
            let meta = blob.file.metadata().context(ErrorKind::Storage, || at("stat", &path))?;
            self.quarantine(digest, Found::of(&meta))?;
        }
        Err(Error::new(ErrorKind::Corrupt, format!("verify blob {digest}"))
            .with_source(ContentMismatch::Digest { expected: *digest, got }))
    }

    /// Moves what is at the blob's path to `ROOT/quarantine`, if it is still what was `found`, and
    /// drops the rows of all namespaces.
    pub(crate) fn quarantine(&self, digest: &Digest, found: Found) -> Result<()> {
        let path = self.store.blob_path(digest);
        self.store.db().write(|transaction| {
            if look(&path)? != found {
                return Ok(());
            }
            let moved = fsio::set_aside(&path, &self.store.root().join("quarantine"))?;
            let rows = transaction
                .execute("DELETE FROM content WHERE digest = ?1", [digest.to_string()])
                .sql(|| format!("drop rows of blob {digest}"))?;
            tracing::debug!(%digest, ?moved, rows, "blob is lost or damaged");
            Ok(())
        })
    }

    /// The row of this namespace.
    pub(crate) fn load(&self, connection: &Connection, digest: &Digest) -> Result<Option<Info>> {
        connection
            .prepare_cached(
                "SELECT id, digest, size, created_at, updated_at FROM content
                 WHERE namespace = ?1 AND digest = ?2",
            )
            .and_then(|mut statement| {
                statement
                    .query_row((self.scope.namespace.as_str(), digest.to_string()), Record::read)
                    .optional()
            })
            .sql(|| format!("read row of blob {digest}"))?
            .map(|row| {
                let labels = labels::CONTENT.load(connection, row.id)?;
                row.info(labels)
            })
            .transpose()
    }

    /// Makes the row of this namespace, or corrects it, and puts the blob into the lease.
    pub(crate) fn insert(
        &self,
        transaction: &Transaction<'_>,
        digest: &Digest,
        size: u64,
        unsettled: bool,
    ) -> Result<Info> {
        let what = || format!("record blob {digest}");
        let bytes = i64::try_from(size).context(ErrorKind::InvalidArgument, what)?;
        let boot_id = unsettled.then(|| self.store.boot_id());
        let digest_text = digest.to_string();
        let now = fsio::now();
        self.scope.made(transaction, &Resource::Content(*digest))?;
        transaction
            .execute(
                "INSERT INTO content (namespace, digest, size, created_at, updated_at, boot_id)
                 VALUES (?1, ?2, ?3, ?4, ?4, ?5) ON CONFLICT (namespace, digest) DO NOTHING",
                params![self.scope.namespace.as_str(), digest_text, bytes, now, boot_id],
            )
            .and_then(|_| {
                // One file, so all rows say the same of it. Who is syncing an earlier one now must
                // not take this one for it.
                transaction.execute(
                    "UPDATE content SET size = ?2, boot_id = ?3,
                         updated_at = CASE WHEN ?3 IS NULL THEN updated_at ELSE ?4 END
                     WHERE digest = ?1",
                    params![digest_text, bytes, boot_id, now],
                )
            })
            .sql(what)?;
        let info = self.load(transaction, digest)?.ok_or_else(|| missing(digest))?;
        self.add_labels(transaction, info)
    }

    /// Gives a blob the labels of [`ContentStore::labelled`].
    pub(crate) fn add_labels(&self, transaction: &Transaction<'_>, info: Info) -> Result<Info> {
        let lacks = |(key, _): &(&String, &String)| !info.labels.contains_key(*key);
        let lacking: Labels =
            self.labels.iter().filter(lacks).map(|(k, v)| (k.clone(), v.clone())).collect();
        if lacking.is_empty() { Ok(info) } else { self.label(transaction, &info.digest, &lacking) }
    }

    /// Sets labels of a blob that has a row.
    pub(crate) fn label(
        &self,
        transaction: &Transaction<'_>,
        digest: &Digest,
        labels: &Labels,
    ) -> Result<Info> {
        let id = transaction
            .query_row(
                "SELECT id FROM content WHERE namespace = ?1 AND digest = ?2",
                (self.scope.namespace.as_str(), digest.to_string()),
                |row| row.get(0),
            )
            .sql(|| format!("label blob {digest}"))?;
        labels::CONTENT.add(transaction, id, labels)?;
        self.load(transaction, digest)?.ok_or_else(|| missing(digest))
    }

    fn row(&self, digest: &Digest) -> Result<Info> {
        self.store
            .db()
            .read(|connection| self.load(connection, digest))?
            .ok_or_else(|| missing(digest))
    }
}

impl Provider for ContentStore {
    fn open(&self, digest: &Digest) -> Result<Blob> {
        let info = self.row(digest)?;
        let path = self.store.blob_path(digest);
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(lost(digest, info.size, Found::Nothing));
            }
            // A symbolic link.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(lost(digest, info.size, Found::Other));
            }
            Err(error) => return Err(error).context(ErrorKind::Storage, || at("open", &path)),
        };
        let meta = file.metadata().context(ErrorKind::Storage, || at("stat", &path))?;
        match Found::of(&meta) {
            Found::File { size, .. } if size == info.size => Ok(Blob::new(file, size)),
            found => Err(lost(digest, info.size, found)),
        }
    }
}

impl Store {
    /// The blobs and ingests of a namespace. Blobs that are written, or found when they should be
    /// written, go into the scope's lease.
    #[must_use]
    pub fn content(&self, scope: impl Into<Scope>) -> ContentStore {
        ContentStore {
            store: self.clone(),
            scope: scope.into(),
            labels: Labels::new(),
            sharing: Sharing::default(),
            settles_later: false,
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root().join("content/blobs").join(digest.algorithm()).join(digest.hex())
    }
}

impl Found {
    pub(crate) fn of(meta: &std::fs::Metadata) -> Self {
        if meta.is_file() {
            Self::File { device: meta.dev(), inode: meta.ino(), size: meta.len() }
        } else {
            Self::Other
        }
    }
}

/// Looks what is at a path, following no symbolic link.
pub(crate) fn look(path: &Path) -> Result<Found> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Found::of(&meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error).context(ErrorKind::Storage, || at("stat", path)),
    }
}

/// Opens for reading, following no symbolic link and waiting for no fifo.
pub(crate) fn open_file(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
}

/// What the rows of all namespaces say of a digest; `None` where there are none.
pub(crate) fn known(connection: &Connection, digest: &Digest) -> Result<Option<Known>> {
    let row: Option<(i64, bool)> = connection
        .prepare_cached(
            "SELECT max(size), max(boot_id IS NOT NULL) FROM content WHERE digest = ?1
             GROUP BY digest",
        )
        .and_then(|mut statement| {
            statement
                .query_row([digest.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()
        })
        .sql(|| format!("read rows of blob {digest}"))?;
    row.map(|(size, unsettled)| {
        let size = u64::try_from(size)
            .context(ErrorKind::Storage, || format!("read rows of blob {digest}"))?;
        Ok(Known { size, unsettled })
    })
    .transpose()
}

/// Whether the only namespaces that have a blob are raw ones.
///
/// What another daemon keeps here is for those that it gives it to.
pub(crate) fn is_foreign(connection: &Connection, digest: &Digest) -> Result<bool> {
    let mut names = connection
        .prepare_cached("SELECT namespace FROM content WHERE digest = ?1")
        .sql(|| format!("read namespaces of blob {digest}"))?;
    let names: Vec<String> = names
        .query_map([digest.to_string()], |row| row.get(0))
        .and_then(Iterator::collect)
        .sql(|| format!("read namespaces of blob {digest}"))?;
    Ok(!names.is_empty() && names.iter().all(|name| Namespace::parse_raw(name).is_some()))
}

/// Whether a namespace has a blob that lets all others take it.
pub(crate) fn is_shareable(connection: &Connection, digest: &Digest) -> Result<bool> {
    connection
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM content c JOIN namespaces n ON n.name = c.namespace
                 JOIN namespace_labels l ON l.namespace_id = n.id
             WHERE c.digest = ?1 AND l.name = 'containerd.io/namespace.shareable'
                 AND l.value = 'true')",
        )
        .and_then(|mut statement| statement.query_row([digest.to_string()], |row| row.get(0)))
        .sql(|| format!("read namespaces of blob {digest}"))
}

pub(crate) fn missing(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format!("blob {digest} is not there"))
}

fn lost(digest: &Digest, expected: u64, found: Found) -> Error {
    let error = |how: &str, mismatch| {
        let message = format!("blob {digest} is recorded, but its file {how}");
        Error::new(ErrorKind::NotFound, message).with_source(DamagedStore { mismatch })
    };
    match found {
        Found::Nothing => error("is gone", None),
        Found::Other => error("was replaced by something else", None),
        Found::File { size, .. } => {
            error("has another size", Some(ContentMismatch::Size { expected, got: size }))
        }
    }
}

/// A row as it is, its texts not yet parsed.
struct Record {
    id: i64,
    digest: String,
    size: i64,
    created_at: i64,
    updated_at: i64,
}

impl Record {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            digest: row.get(1)?,
            size: row.get(2)?,
            created_at: row.get(3)?,
            updated_at: row.get(4)?,
        })
    }

    fn info(self, labels: Labels) -> Result<Info> {
        let what = || format!("read row of blob {:?}", self.digest);
        Ok(Info {
            digest: self.digest.parse().context(ErrorKind::Storage, what)?,
            size: u64::try_from(self.size).context(ErrorKind::Storage, what)?,
            created_at: self.created_at,
            updated_at: self.updated_at,
            labels,
        })
    }
}
