//! The end of a piece of work: what it brought gets its labels and its names, and its lease goes, in
//! one transaction. Before it, the lease keeps everything; after it, the names and labels do.

use std::collections::{BTreeMap, BTreeSet};

use dist_core::{
    Descriptor, Digest, GC_ROOT, Image, ImageName, LabelChange, Labels, LeaseId, Result,
    check_labels,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction};

use crate::db::SqlContext as _;
use crate::{Scope, Store, fsio, labels, leases};

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
    /// The lease that kept all of it until now.
    pub lease: Option<LeaseId>,
}

impl Store {
    /// Makes a registration; durable when it returns, if it changed anything but the lease.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    pub fn register(
        &self,
        scope: impl Into<Scope>,
        registration: &Registration,
    ) -> Result<Vec<Image>> {
        let scope = scope.into();
        let (db, images) = (self.db(), self.images(&scope));
        if registration.images.is_empty() {
            let changes = db.read(|connection| registration.changes(connection, &scope))?;
            if changes.is_empty() {
                if registration.lease.is_some() {
                    db.write_lazily(|transaction| registration.end_lease(transaction, &scope))?;
                }
                return Ok(Vec::new());
            }
        }
        db.write(|transaction| {
            for (id, labels) in registration.changes(transaction, &scope)? {
                transaction
                    .prepare_cached("UPDATE content SET updated_at = ?2 WHERE id = ?1")
                    .and_then(|mut statement| statement.execute((id, fsio::now())))
                    .sql(|| "label blobs".into())?;
                labels::CONTENT.change(transaction, id, &LabelChange::Merge(labels))?;
            }
            let put = |(name, target, labels): &(ImageName, Descriptor, Labels)| {
                images.put_in(transaction, name, target, labels)
            };
            let images = registration.images.iter().map(put).collect::<Result<Vec<_>>>()?;
            registration.end_lease(transaction, &scope)?;
            Ok(images)
        })
    }
}

impl Registration {
    /// The labels that blobs lack, by the blobs' rows.
    fn changes(&self, connection: &Connection, scope: &Scope) -> Result<Vec<(i64, Labels)>> {
        let mut changes = Vec::new();
        for (digest, labels) in &self.labels {
            let id = connection
                .prepare_cached("SELECT id FROM content WHERE namespace = ?1 AND digest = ?2")
                .and_then(|mut statement| {
                    statement
                        .query_row((scope.namespace.as_str(), digest.to_string()), |row| row.get(0))
                        .optional()
                })
                .sql(|| format!("label blob {digest}"))?;
            let Some(id) = id else { continue };
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
