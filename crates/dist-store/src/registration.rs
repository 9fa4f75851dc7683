//! The end of a piece of work: what it brought gets its labels and its names, and its lease goes, in
//! one transaction. Before it, the lease keeps everything; after it, the names and labels do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dist_core::{
    Descriptor, Digest, GC_ROOT, Image, ImageName, LabelChange, Labels, LeaseId, Outline, Result,
    check_labels,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction};

use crate::blobs::{Found, look};
use crate::db::SqlContext as _;
use crate::documents::{self, Outlined};
use crate::{Durability, ImageStore, Scope, Store, fsio, labels, leases};

/// What a piece of work leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Registration {
    /// Labels that blobs get beside those they have; a blob that is gone is passed over.
    pub labels: BTreeMap<Digest, Labels>,
    /// A label whose value is a list with commas, and what is added to the list of each blob among
    /// `labels`.
    pub source: Option<(String, String)>,
    /// The names that are given away, in place of what had them, and the labels of the images.
    pub images: Vec<(ImageName, Descriptor, Labels)>,
    /// What listings need of documents among the blobs.
    pub outlines: Vec<(Outlined, Arc<Outline>)>,
    /// The lease that kept all of it until now.
    pub lease: Option<LeaseId>,
}

impl Store {
    /// Makes a registration; durable when it returns, if it changed anything but the lease. So are
    /// the blobs among its labels, as far as the store's durability asks.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`, also where blobs could not be
    /// synced: they are gone then.
    pub fn register(
        &self,
        scope: impl Into<Scope>,
        registration: &Registration,
    ) -> Result<Vec<Image>> {
        let scope = scope.into();
        let outlines = documents::rows_of(&registration.outlines)?;
        let wanted = |digest: &Digest| registration.labels.contains_key(digest);
        loop {
            let synced = self.sync_blobs(wanted)?;
            if registration.images.is_empty() && synced.is_empty() {
                let changes =
                    self.db().read(|connection| registration.changes(connection, &scope))?;
                if changes.is_empty() {
                    self.end_lease(&scope, registration)?;
                    return Ok(Vec::new());
                }
            }
            let images = self.db().write(|transaction| {
                synced.flip(transaction)?;
                if self.lacks_sync(transaction, wanted)? {
                    return Ok(None); // another process brought some of them at the same time
                }
                documents::keep(transaction, &outlines)?;
                registration.make(transaction, &scope, &self.images(&scope)).map(Some)
            })?;
            if let Some(images) = images {
                return Ok(images);
            }
        }
    }

    fn end_lease(&self, scope: &Scope, registration: &Registration) -> Result<()> {
        if registration.lease.is_none() {
            return Ok(());
        }
        self.db().write_lazily(|transaction| registration.end_lease(transaction, scope))
    }
}

impl Store {
    /// The images of a registration that has nothing to change: they stand for what it says, and
    /// the blobs among its labels are there, labelled, and durable as far as the store's durability
    /// asks. `None` where something is missing.
    ///
    /// The rows are read in one transaction. So what labels of these blobs lead to can't have been
    /// collected before this returns, nor can it be later, while the images stay.
    ///
    /// # Errors
    /// `Storage`.
    pub fn registered(
        &self,
        scope: impl Into<Scope>,
        registration: &Registration,
    ) -> Result<Option<Vec<Image>>> {
        let scope = scope.into();
        let store = self.images(&scope);
        let durable = self.durability() != Durability::None;
        let found = self.db().read(|connection| {
            let mut images = Vec::new();
            for (name, target, labels) in &registration.images {
                match store.find(connection, name)? {
                    Some((_, image)) if image.labels == *labels && is_same(&image, target) => {
                        images.push(image);
                    }
                    _ => return Ok(None),
                }
            }
            let mut sizes = Vec::new();
            for (digest, labels) in &registration.labels {
                let Some(row) = find(connection, &scope, digest)? else { return Ok(None) };
                let known = labels::CONTENT.load(connection, row.id)?;
                if row.unsettled && durable || !registration.lacking(labels, &known).is_empty() {
                    return Ok(None);
                }
                sizes.push((digest, row.size));
            }
            Ok(Some((images, sizes)))
        })?;
        let Some((images, sizes)) = found else { return Ok(None) };
        for (digest, size) in sizes {
            match look(&self.blob_path(digest))? {
                Found::File { size: there, .. } if i64::try_from(there) == Ok(size) => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(images))
    }
}

/// The row of a blob.
struct Row {
    id: i64,
    size: i64,
    unsettled: bool,
}

fn find(connection: &Connection, scope: &Scope, digest: &Digest) -> Result<Option<Row>> {
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Row { id: row.get(0)?, size: row.get(1)?, unsettled: row.get(2)? })
    };
    connection
        .prepare_cached(
            "SELECT id, size, boot_id IS NOT NULL FROM content
             WHERE namespace = ?1 AND digest = ?2",
        )
        .and_then(|mut statement| {
            statement.query_row((scope.namespace.as_str(), digest.to_string()), read).optional()
        })
        .sql(|| format!("find blob {digest}"))
}

/// Whether an image stands for `target`, as far as that is kept.
fn is_same(image: &Image, target: &Descriptor) -> bool {
    let known = &image.target;
    let annotations = target.annotations.iter().filter(|(_, value)| !value.is_empty());
    known.digest == target.digest
        && known.media_type == target.media_type
        && known.size == target.size
        && known.annotations.iter().eq(annotations)
}

impl Registration {
    /// Labels, names and the end of the lease.
    fn make(
        &self,
        transaction: &Transaction<'_>,
        scope: &Scope,
        images: &ImageStore,
    ) -> Result<Vec<Image>> {
        for (id, labels) in self.changes(transaction, scope)? {
            transaction
                .prepare_cached("UPDATE content SET updated_at = ?2 WHERE id = ?1")
                .and_then(|mut statement| statement.execute((id, fsio::now())))
                .sql(|| "label blobs".into())?;
            labels::CONTENT.change(transaction, id, &LabelChange::Merge(labels))?;
        }
        let put = |(name, target, labels): &(ImageName, Descriptor, Labels)| {
            images.put_in(transaction, name, target, labels)
        };
        let images = self.images.iter().map(put).collect::<Result<Vec<_>>>()?;
        self.end_lease(transaction, scope)?;
        Ok(images)
    }

    /// The labels that blobs lack, by the blobs' rows.
    fn changes(&self, connection: &Connection, scope: &Scope) -> Result<Vec<(i64, Labels)>> {
        let mut changes = Vec::new();
        for (digest, labels) in &self.labels {
            let Some(Row { id, .. }) = find(connection, scope, digest)? else { continue };
            let labels = self.lacking(labels, &labels::CONTENT.load(connection, id)?);
            if !labels.is_empty() {
                changes.push((id, labels));
            }
        }
        Ok(changes)
    }

    /// What of `labels` and of the source a blob lacks that has the labels `known`.
    #[must_use]
    pub fn lacking(&self, labels: &Labels, known: &Labels) -> Labels {
        let mut labels = labels.clone();
        labels.extend(self.source.as_ref().and_then(|(key, value)| listed(known, key, value)));
        labels.retain(|key, value| match known.get(key) {
            Some(known) => known != value && key != GC_ROOT,
            None => true,
        });
        labels
    }

    fn end_lease(&self, transaction: &Transaction<'_>, scope: &Scope) -> Result<()> {
        match &self.lease {
            Some(lease) => leases::delete(transaction, &scope.namespace, lease),
            None => Ok(()),
        }
    }
}

/// A list with `value` in it; `None` where the list has become too long for a label.
pub(crate) fn listed(known: &Labels, key: &str, value: &str) -> Option<(String, String)> {
    let mut list: BTreeSet<&str> = known.get(key).map_or("", |list| list).split(',').collect();
    list.remove("");
    list.insert(value);
    let list = Vec::from_iter(list).join(",");
    let label = Labels::from([(key.to_owned(), list)]);
    check_labels(&label).ok()?;
    label.into_iter().next()
}
