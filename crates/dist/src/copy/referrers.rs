//! What refers to an image: signatures, attestations, lists of packages.
//!
//! Registries list manifests by what their `subject` is. Where they don't, an index under the tag
//! `<algorithm>-<hex>` is the list (distribution-spec, "Referrers Tag Schema"). cosign keeps
//! manifests without a subject under such tags with an ending.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use dist_core::{
    Descriptor, Digest, Error, MAX_DEPTH, MediaType, Referrer, Resolved, Resolver as _, Result,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::Copying;
use super::plan::Plan;

/// The endings of cosign's tags.
const COSIGN: [&str; 3] = [".sig", ".att", ".sbom"];

/// How much is asked for at once.
const AT_ONCE: usize = 8;

/// What there is beside an image.
#[derive(Default)]
pub(super) struct Attached {
    /// What refers to each subject.
    lists: Vec<List>,
    /// Tags and what they stand for.
    tagged: Vec<(String, Descriptor)>,
}

struct List {
    subject: Digest,
    entries: Vec<Referrer>,
    /// The index that is the list, where a tag names it.
    index: Option<Descriptor>,
}

/// The cause of an error for a source, or a destination, that does not say what refers to an image.
#[derive(Debug)]
pub struct ReferrersUnknown(Error);

impl fmt::Display for ReferrersUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ReferrersUnknown {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

impl Attached {
    /// The documents to copy, with what is below them.
    pub(super) fn trees(&self) -> impl Iterator<Item = &Descriptor> {
        let listed = self.lists.iter().flat_map(|list| &list.entries);
        listed.map(|entry| &entry.desc).chain(self.tagged.iter().map(|(_, desc)| desc))
    }
}

impl Copying<'_> {
    /// Finds what refers to the documents of `plan`, and what refers to that.
    pub(super) async fn attached(&self, plan: &Plan) -> Result<Attached> {
        self.find_attached(plan).await.map_err(|error| {
            let message = format!("find what refers to {}", self.source);
            Error::new(error.kind(), message).with_source(ReferrersUnknown(error))
        })
    }

    async fn find_attached(&self, plan: &Plan) -> Result<Attached> {
        let mut found = Attached::default();
        let mut seen: HashSet<Digest> = HashSet::new();
        let mut subjects: Vec<Digest> = plan.documents.iter().map(|desc| desc.digest).collect();
        let tags = subjects.iter().flat_map(|subject| {
            COSIGN.iter().map(move |ending| format!("{}{ending}", tag_of(subject)))
        });
        let lookups: Vec<_> = tags.map(|tag| self.tagged(tag)).collect();
        let mut lookups = futures_util::stream::iter(lookups).buffered(AT_ONCE);
        while let Some(tagged) = lookups.try_next().await? {
            found.tagged.extend(tagged);
        }
        for _ in 0..MAX_DEPTH {
            subjects.retain(|subject| seen.insert(*subject));
            let lists: Vec<_> = subjects.iter().map(|subject| self.list(*subject)).collect();
            let lists = futures_util::stream::iter(lists).buffered(AT_ONCE);
            let lists: Vec<List> = lists.try_collect().await?;
            let lists = lists.into_iter().filter(|list| !list.entries.is_empty());
            let first = found.lists.len();
            found.lists.extend(lists);
            let entries = found.lists[first..].iter().flat_map(|list| &list.entries);
            subjects = entries.map(|entry| entry.desc.digest).collect();
            if subjects.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    async fn tagged(&self, tag: String) -> Result<Option<(String, Descriptor)>> {
        let found = self.from.look_up(&self.from.beside(&self.source, &tag)?).await?;
        Ok(found.map(|Resolved { target, .. }| (tag, target)))
    }

    async fn list(&self, subject: Digest) -> Result<List> {
        use dist_core::Fetcher as _;
        if let Some(entries) = self.documents.referrers(&subject).await? {
            return Ok(List { subject, entries, index: None });
        }
        let mut list = List { subject, entries: Vec::new(), index: None };
        if let Some((_, target)) = self.tagged(tag_of(&subject)).await?
            && target.media_type.is_index()
        {
            list.entries = dist_registry::read_referrers(&self.documents.read(&target).await?)?;
            list.index = Some(target);
        }
        Ok(list)
    }

    /// Pushes the tags, and the lists where the destination has none of its own.
    pub(super) async fn push_attached(&self, attached: &Attached) -> Result<()> {
        for (tag, target) in &attached.tagged {
            self.push_as(tag, target).await?;
        }
        let _held = match attached.lists.is_empty() {
            true => None,
            false => self.to.hold(&self.destination).await?,
        };
        let lists: Vec<_> = attached.lists.iter().map(|list| self.push_list(list)).collect();
        futures_util::stream::iter(lists).buffered(AT_ONCE).try_collect().await
    }

    async fn push_list(&self, list: &List) -> Result<()> {
        let there = self.to.fetcher_of_pushed(&self.destination)?;
        if there.referrers(&list.subject).await?.is_some() {
            return Ok(()); // it lists them by itself
        }
        let tag = tag_of(&list.subject);
        let name = self.to.beside(&self.destination, &tag)?;
        let mut known = Vec::new();
        if let Some(Resolved { target, .. }) = self.to.look_up_pushed(&name).await?
            && target.media_type.is_index()
        {
            let bytes = crate::plain::fetch_document(&*there, &target).await?;
            known = dist_registry::read_referrers(&bytes)?;
        }
        let digests = |entries: &[Referrer]| -> HashSet<Digest> {
            entries.iter().map(|entry| entry.desc.digest).collect()
        };
        let (old, new) = (digests(&known), digests(&list.entries));
        if new.is_subset(&old) {
            return Ok(());
        }
        let index = match &list.index {
            Some(index) if old.is_subset(&new) => index.clone(),
            _ => {
                let more = list.entries.iter().filter(|entry| !old.contains(&entry.desc.digest));
                let entries: Vec<Value> = known.iter().chain(more).map(entry).collect();
                let index = json!({
                    "schemaVersion": 2,
                    "mediaType": MediaType::Index.as_str(),
                    "manifests": entries,
                });
                let bytes = Bytes::from(index.to_string());
                let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
                self.documents.keep(digest, bytes);
                Descriptor::new(MediaType::Index, digest, size)
            }
        };
        self.push_as(&tag, &index).await
    }

    async fn push_as(&self, tag: &str, target: &Descriptor) -> Result<()> {
        let name = self.to.beside(&self.destination, tag)?;
        let pusher = self.to.pusher(&name, &target.digest)?;
        let content = std::sync::Arc::clone(&self.documents) as _;
        let progress = std::sync::Arc::clone(&self.progress) as _;
        pusher.push(target, content, &[], progress).await.map(|pushed| self.note(pushed))
    }
}

/// The tag under which a subject's referrers are listed where the registry does not.
pub(crate) fn tag_of(subject: &Digest) -> String {
    format!("{}-{}", subject.algorithm(), subject.hex())
}

/// What a list says of a referrer.
pub(crate) fn entry(referrer: &Referrer) -> Value {
    let mut entry = json!(referrer.desc);
    if let (Some(entry), Some(kind)) = (entry.as_object_mut(), &referrer.artifact_type) {
        entry.insert("artifactType".to_owned(), json!(kind));
    }
    entry
}
