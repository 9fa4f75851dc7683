//! Images: names for manifests and indexes. Rows only; a name keeps what it leads to from being
//! collected, not from being deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Digest, Error, ErrorKind, GC_EXPIRE, Image, ImageName, LabelChange,
    Labels, MediaType, Resource, Result,
};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use crate::db::{Db, SqlContext as _};
use crate::rows::{Picked, of_namespace};
use crate::scope::add_namespace;
use crate::{Scope, fsio, labels};

const COLUMNS: &str =
    "id, name, media_type, digest, size, annotations, created_at, updated_at FROM images";

/// The images of one namespace. Those that expire go into the scope's lease.
#[derive(Clone, Debug)]
pub struct ImageStore {
    db: Arc<Db>,
    scope: Scope,
    now: Option<i64>,
}

/// What of an image is changed; what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageChange {
    /// What the name stands for, with its annotations.
    pub target: Option<Descriptor>,
    /// The annotations of what the name stands for.
    pub annotations: Option<LabelChange>,
    /// The labels.
    pub labels: Option<LabelChange>,
}

impl ImageStore {
    pub(crate) fn new(db: Arc<Db>, scope: Scope) -> Self {
        Self { db, scope, now: None }
    }

    /// The same images; what is written gets `time`, in nanoseconds since the epoch, instead of the
    /// time of now.
    #[must_use]
    pub fn dated(self, time: i64) -> Self {
        Self { now: Some(time), ..self }
    }

    /// Reads one image.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn get(&self, name: &ImageName) -> Result<Image> {
        self.db.read(|connection| self.load(connection, name))
    }

    /// Reads all images, ordered by name.
    ///
    /// # Errors
    /// `Storage`.
    pub fn list(&self) -> Result<Vec<Image>> {
        self.db.read(|connection| {
            let Picked { filter, .. } = of_namespace(connection, "images", &self.scope.namespace)?;
            let rows = || {
                connection
                    .prepare_cached(&format!("SELECT {COLUMNS} WHERE {filter} ORDER BY id"))?
                    .query_map([self.scope.namespace.as_str()], Record::read)?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let rows = rows().sql(|| "list images".into())?;
            let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
            let labels = labels::IMAGE.load_all(connection, &ids)?;
            let images = rows.into_iter().zip(labels).map(|(row, labels)| row.image(labels));
            let mut images = images.collect::<Result<Vec<_>>>()?;
            images.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            Ok(images)
        })
    }

    /// Registers `target` under `name`, in place of what had that name before, with these labels
    /// and no others.
    ///
    /// Of the descriptor, the platform is not kept: a name stands for all platforms it leads to.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    pub fn put(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image> {
        self.db.write(|transaction| self.put_in(transaction, name, target, labels))
    }

    /// [`ImageStore::put`] in a transaction that does more.
    pub(crate) fn put_in(
        &self,
        transaction: &Transaction<'_>,
        name: &ImageName,
        target: &Descriptor,
        labels: &Labels,
    ) -> Result<Image> {
        let id = self.write(transaction, name, target)?;
        let change = LabelChange::Replace(labels.clone());
        labels::IMAGE.change(transaction, id, &change)?;
        self.keep(transaction, name, labels)?;
        self.load(transaction, name)
    }

    /// Registers `target` under a name that is free.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn create(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image> {
        self.db.demand_space()?;
        self.db.write(|transaction| {
            if self.find(transaction, name)?.is_some() {
                let message = format!("image {name} is there");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            self.put_in(transaction, name, target, labels)
        })
    }

    /// Changes an image.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long; `Storage`.
    pub fn update(&self, name: &ImageName, change: &ImageChange) -> Result<Image> {
        self.db.write(|transaction| {
            let (id, mut image) = self.find(transaction, name)?.ok_or_else(|| missing(name))?;
            if let Some(target) = &change.target {
                image.target = target.clone();
            }
            if let Some(annotations) = &change.annotations {
                annotations.apply(&mut image.target.annotations);
            }
            self.write(transaction, name, &image.target)?;
            let labels = match &change.labels {
                Some(change) => labels::IMAGE.change(transaction, id, change)?,
                None => image.labels,
            };
            self.keep(transaction, name, &labels)?;
            let updated = self.load(transaction, name)?;
            Ok(Image { target: image.target, labels, ..updated })
        })
    }

    /// Removes a name, and nothing of what it names; only where it stands for `expected`, if that
    /// is given.
    ///
    /// # Errors
    /// `NotFound`, also where the name stands for something else; `Storage`.
    pub fn delete(&self, name: &ImageName, expected: Option<&Digest>) -> Result<()> {
        self.db.write_freeing(|transaction| {
            let (id, image) = self.find(transaction, name)?.ok_or_else(|| missing(name))?;
            let target = image.target.digest;
            if let Some(expected) = expected.filter(|expected| **expected != target) {
                let message = format!("image {name} stands for {target}, not for {expected}");
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            transaction
                .execute("DELETE FROM images WHERE id = ?1", [id])
                .sql(|| format!("delete image {name}"))?;
            self.scope.release(transaction, &Resource::Image(name.clone()))
        })
    }

    /// Makes the row of an image, or gives it another target.
    fn write(
        &self,
        transaction: &Transaction<'_>,
        name: &ImageName,
        target: &Descriptor,
    ) -> Result<i64> {
        let what = || format!("register image {name}");
        let annotations: BTreeMap<_, _> =
            target.annotations.iter().filter(|(_, value)| !value.is_empty()).collect();
        let annotations = serde_json::to_string(&annotations).context(ErrorKind::Internal, what)?;
        let size = i64::try_from(target.size).context(ErrorKind::InvalidArgument, what)?;
        add_namespace(transaction, &self.scope.namespace)?;
        transaction
            .query_row(
                "INSERT INTO images (namespace, name, media_type, digest, size, annotations,
                     created_at, updated_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)
                 ON CONFLICT (namespace, name) DO UPDATE SET
                     media_type = excluded.media_type, digest = excluded.digest,
                     size = excluded.size, annotations = excluded.annotations,
                     updated_at = excluded.updated_at
                 RETURNING id",
                params![
                    self.scope.namespace.as_str(),
                    name.as_str(),
                    target.media_type.as_str(),
                    target.digest.to_string(),
                    size,
                    annotations,
                    self.now.unwrap_or_else(fsio::now),
                ],
                |row| row.get(0),
            )
            .sql(what)
    }

    /// Puts an image that expires into the lease: the others keep themselves.
    fn keep(&self, transaction: &Transaction<'_>, name: &ImageName, labels: &Labels) -> Result<()> {
        if labels.get(GC_EXPIRE).is_some_and(|time| !time.is_empty()) {
            self.scope.hold(transaction, &Resource::Image(name.clone()))?;
        }
        Ok(())
    }

    fn load(&self, connection: &Connection, name: &ImageName) -> Result<Image> {
        Ok(self.find(connection, name)?.ok_or_else(|| missing(name))?.1)
    }

    /// An image and its row.
    pub(crate) fn find(
        &self,
        connection: &Connection,
        name: &ImageName,
    ) -> Result<Option<(i64, Image)>> {
        let record = connection
            .prepare_cached(&format!("SELECT {COLUMNS} WHERE namespace = ?1 AND name = ?2"))
            .and_then(|mut statement| {
                statement
                    .query_row((self.scope.namespace.as_str(), name.as_str()), Record::read)
                    .optional()
            })
            .sql(|| format!("read image {name}"))?;
        let Some(record) = record else { return Ok(None) };
        let labels = labels::IMAGE.load(connection, record.id)?;
        Ok(Some((record.id, record.image(labels)?)))
    }
}

fn missing(name: &ImageName) -> Error {
    Error::new(ErrorKind::NotFound, format!("image {name} is not there"))
}

/// A row as it is, its texts not yet parsed.
struct Record {
    id: i64,
    name: String,
    media_type: String,
    digest: String,
    size: i64,
    annotations: String,
    created_at: i64,
    updated_at: i64,
}

impl Record {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            media_type: row.get(2)?,
            digest: row.get(3)?,
            size: row.get(4)?,
            annotations: row.get(5)?,
            created_at: row.get(6)?,
            updated_at: row.get(7)?,
        })
    }

    fn image(self, labels: Labels) -> Result<Image> {
        let what = || format!("read image {}", self.name);
        let mut target = Descriptor::new(
            MediaType::parse(&self.media_type),
            self.digest.parse().context(ErrorKind::Storage, what)?,
            u64::try_from(self.size).context(ErrorKind::Storage, what)?,
        );
        target.annotations =
            serde_json::from_str(&self.annotations).context(ErrorKind::Storage, what)?;
        Ok(Image {
            name: self.name.parse().context(ErrorKind::Storage, what)?,
            target,
            labels,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
