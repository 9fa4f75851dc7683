//! What was read of documents, kept for listings.
//!
//! ```text
//! documents  digest, media type as it was named by, and the outline as JSON:
//!            {"index":[[media type,digest,size,platform or null],...]}
//!            {"manifest":[config,size of the config,[layer,...]]}
//!            {"config":platform or null}
//! ```
//!
//! A row is a fact about bytes that have this digest, whoever has them; it is made by whoever reads
//! a document that has none and may write, and goes with the last row of the blob. Whether the blob
//! is there it does not say.

use std::collections::HashMap;
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Digest, ErrorKind, MediaType, Outline, Platform, Result,
};
use rusqlite::{Connection, Transaction};

use crate::ContentStore;
use crate::db::SqlContext as _;
use crate::rows::Picked;

/// A document, by its digest and the media type that it is named by.
pub type Outlined = (Digest, MediaType);

/// What the metadata says of the blobs of a namespace, all of one moment.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The size of each blob.
    pub blobs: HashMap<Digest, u64>,
    /// The outlines of documents that are kept; all configs have the type [`MediaType::Config`].
    pub outlines: HashMap<Outlined, Arc<Outline>>,
    /// Whether further outlines can be kept, by who may write.
    pub keeps: bool,
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wire {
    Index(Vec<(MediaType, Digest, u64, Option<Platform>)>),
    Manifest(Digest, u64, Vec<Digest>),
    Config(Option<Platform>),
}

impl ContentStore {
    /// Reads which blobs there are, without looking at their files, and what is known of those that
    /// are documents.
    ///
    /// # Errors
    /// `Storage`.
    pub fn known(&self) -> Result<Known> {
        let db = self.store.db();
        let (outlines, blobs) = if db.read(|connection| self.picked(connection))?.is_many() {
            let every = |connection: &Connection| outlines(connection, |_| true);
            let (mut outlines, blobs) = db.read_both(every, |connection| self.sizes(connection))?;
            outlines.retain(|(digest, _), _| blobs.contains_key(digest));
            (outlines, blobs)
        } else {
            db.read(|connection| {
                let blobs = self.sizes(connection)?;
                Ok((outlines(connection, |digest| blobs.contains_key(digest))?, blobs))
            })?
        };
        Ok(Known { blobs, outlines, keeps: db.is_current() })
    }

    /// Keeps outlines of documents; those whose blob has gone meanwhile are passed over. A power cut
    /// may take them back.
    ///
    /// # Errors
    /// `Storage`, also where the store can't be written.
    pub fn keep_outlines(&self, outlines: &[(Outlined, Arc<Outline>)]) -> Result<()> {
        let rows = rows_of(outlines)?;
        self.store.db().write_lazily(|transaction| keep(transaction, &rows))
    }

    fn sizes(&self, connection: &Connection) -> Result<HashMap<Digest, u64>> {
        let what = || "list blobs".to_owned();
        let Picked { filter, room } = self.picked(connection)?;
        let mut sizes = HashMap::with_capacity(room);
        let mut statement = connection
            .prepare_cached(&format!("SELECT digest, size FROM content WHERE {filter}"))
            .sql(what)?;
        let mut rows = statement.query([self.scope.namespace.as_str()]).sql(what)?;
        while let Some(row) = rows.next().sql(what)? {
            let digest: Digest = {
                let text = row.get_ref(0).and_then(|text| Ok(text.as_str()?)).sql(what)?;
                text.parse().context(ErrorKind::Storage, || format!("read digest {text:?}"))?
            };
            let size: i64 = row.get(1).sql(what)?;
            sizes.insert(digest, u64::try_from(size).context(ErrorKind::Storage, what)?);
        }
        Ok(sizes)
    }
}

/// A row of `documents`.
pub(crate) type DocumentRow = (String, String, String);

/// The rows for outlines.
pub(crate) fn rows_of(outlines: &[(Outlined, Arc<Outline>)]) -> Result<Vec<DocumentRow>> {
    let row = |((digest, media_type), outline): &(Outlined, Arc<Outline>)| {
        let text = serde_json::to_string(&Wire::from(&**outline))
            .context(ErrorKind::Internal, || format!("keep the outline of {digest}"))?;
        Ok((digest.to_string(), media_type.as_str().to_owned(), text))
    };
    outlines.iter().map(row).collect()
}

/// Writes rows of documents that are there.
pub(crate) fn keep(transaction: &Transaction<'_>, rows: &[DocumentRow]) -> Result<()> {
    let write = || {
        let mut statement = transaction.prepare_cached(
            "INSERT OR REPLACE INTO documents (digest, media_type, outline)
             SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM content WHERE digest = ?1)",
        )?;
        rows.iter().try_for_each(|(digest, media_type, text)| {
            statement.execute((digest, media_type, text)).map(drop)
        })
    };
    write().sql(|| "keep outlines of documents".into())
}

/// The outlines of the documents that are `wanted`.
fn outlines(
    connection: &Connection,
    wanted: impl Fn(&Digest) -> bool,
) -> Result<HashMap<Outlined, Arc<Outline>>> {
    let read = || {
        let mut found = HashMap::new();
        let mut statement =
            connection.prepare_cached("SELECT digest, media_type, outline FROM documents")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            // What can't be read is as good as missing: it is read from the document, and replaced.
            let Ok(digest) = row.get_ref(0)?.as_str()?.parse::<Digest>() else { continue };
            if !wanted(&digest) {
                continue;
            }
            let media_type = MediaType::parse(row.get_ref(1)?.as_str()?);
            let Ok(wire) = serde_json::from_str::<Wire>(row.get_ref(2)?.as_str()?) else {
                continue;
            };
            found.insert((digest, media_type), Arc::new(wire.into()));
        }
        Ok(found)
    };
    read().sql(|| "read outlines of documents".into())
}

impl From<&Outline> for Wire {
    fn from(outline: &Outline) -> Self {
        match outline {
            Outline::Index(entries) => {
                let entries = entries.iter().cloned();
                Self::Index(
                    entries.map(|it| (it.media_type, it.digest, it.size, it.platform)).collect(),
                )
            }
            Outline::Manifest { config, config_size, layers } => {
                Self::Manifest(*config, *config_size, layers.clone())
            }
            Outline::Config(platform) => Self::Config(platform.clone()),
        }
    }
}

impl From<Wire> for Outline {
    fn from(wire: Wire) -> Self {
        match wire {
            Wire::Index(entries) => {
                let entry = |(media_type, digest, size, platform)| Descriptor {
                    platform,
                    ..Descriptor::new(media_type, digest, size)
                };
                Self::Index(entries.into_iter().map(entry).collect())
            }
            Wire::Manifest(config, config_size, layers) => {
                Self::Manifest { config, config_size, layers }
            }
            Wire::Config(platform) => Self::Config(platform),
        }
    }
}
