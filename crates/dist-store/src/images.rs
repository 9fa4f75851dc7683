//! Images: names for manifests and indexes. Rows only; a name keeps nothing from being deleted.

use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Error, ErrorKind, Image, ImageName, Labels, MediaType, Namespace,
    Result,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::db::{Db, SqlContext as _};
use crate::{fsio, labels};

const COLUMNS: &str =
    "id, name, media_type, digest, size, annotations, created_at, updated_at FROM images";

/// The images of one namespace.
#[derive(Clone, Debug)]
pub struct ImageStore {
    db: Arc<Db>,
    namespace: Namespace,
}

impl ImageStore {
    pub(crate) fn new(db: Arc<Db>, namespace: Namespace) -> Self {
        Self { db, namespace }
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
            let rows = || {
                connection
                    .prepare_cached(&format!(
                        "SELECT {COLUMNS} WHERE namespace = ?1 ORDER BY name"
                    ))?
                    .query_map([self.namespace.as_str()], Record::read)?
                    .collect::<rusqlite::Result<Vec<_>>>()
            };
            let rows = rows().sql(|| "list images".into())?;
            rows.into_iter().map(|row| row.image(connection)).collect()
        })
    }

    /// Registers `target` under `name`, in place of what had that name before, with these labels
    /// and no others.
    ///
    /// Of the descriptor, the platform is not kept: a name stands for all platforms it leads to.
    ///
    /// # Errors
    /// `Storage`.
    pub fn put(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image> {
        let what = || format!("register image {name}");
        let annotations =
            serde_json::to_string(&target.annotations).context(ErrorKind::Internal, what)?;
        let size = i64::try_from(target.size).context(ErrorKind::InvalidArgument, what)?;
        self.db.write(|transaction| {
            let id: i64 = transaction
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
                        self.namespace.as_str(),
                        name.as_str(),
                        target.media_type.as_str(),
                        target.digest.to_string(),
                        size,
                        annotations,
                        fsio::now(),
                    ],
                    |row| row.get(0),
                )
                .sql(what)?;
            labels::IMAGE.replace(transaction, id, labels)?;
            self.load(transaction, name)
        })
    }

    /// Removes a name, and nothing of what it names.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    pub fn delete(&self, name: &ImageName) -> Result<()> {
        self.db.write_freeing(|transaction| {
            let count = transaction
                .execute(
                    "DELETE FROM images WHERE namespace = ?1 AND name = ?2",
                    (self.namespace.as_str(), name.as_str()),
                )
                .sql(|| format!("delete image {name}"))?;
            if count == 0 { Err(missing(name)) } else { Ok(()) }
        })
    }

    fn load(&self, connection: &Connection, name: &ImageName) -> Result<Image> {
        connection
            .prepare_cached(&format!("SELECT {COLUMNS} WHERE namespace = ?1 AND name = ?2"))
            .and_then(|mut statement| {
                statement
                    .query_row((self.namespace.as_str(), name.as_str()), Record::read)
                    .optional()
            })
            .sql(|| format!("read image {name}"))?
            .ok_or_else(|| missing(name))?
            .image(connection)
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

    fn image(self, connection: &Connection) -> Result<Image> {
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
            labels: labels::IMAGE.load(connection, self.id)?,
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}
