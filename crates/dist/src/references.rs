//! What belongs to an image, and the labels that say so to a collection and to other clients.
//!
//! A document has a label for each thing that it names, `containerd.io/gc.ref.content.KIND.N`: `m`
//! for manifests, `l` for layers, `config`, nothing for the rest. The config has one for the
//! snapshot that holds the whole image, a layer one with its diff ID.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use dist_core::{
    DISTRIBUTION_SOURCE, Descriptor, Digest, Error, ErrorKind, GC_REF_CONTENT, GC_REF_SNAPSHOT,
    Labels, Platform, Provider, Reference, Resource, Result, UNCOMPRESSED, children, scheme,
};
use dist_store::Registration;

use crate::Contents;
use crate::blocking::blocking;
use crate::fetch::Platforms;
use crate::layers::{Plan, find_manifest};
use crate::remotes::OCI;

/// The documents of an image that are there, and all that they name.
#[derive(Clone, Default)]
pub(crate) struct Belongings {
    /// What each blob names, nothing where it is no document.
    blobs: BTreeMap<Digest, Vec<Descriptor>>,
    /// What each layer and config gets by being unpacked.
    unpacked: BTreeMap<Digest, Labels>,
    snapshots: BTreeSet<Resource>,
    /// Whether something that would lead further was not there.
    pub(crate) partial: bool,
}

impl Belongings {
    /// Walks the documents below `target` that are there; of an index, those for `platforms`.
    ///
    /// What is missing or wrong ends the walk there: it is told when it is needed.
    ///
    /// # Errors
    /// `Storage` and the like: whether something is there could not be found out.
    pub(crate) fn find(
        content: &dyn Provider,
        target: &Descriptor,
        platforms: &Platforms,
    ) -> Result<Self> {
        Self::walk(content, target, &|below| platforms.choose(below), false)
    }

    /// As [`Belongings::find`], where everything has to be there.
    ///
    /// # Errors
    /// `NotFound` for what is missing; `Corrupt`, `Unsupported` for what is wrong; `Storage`.
    pub(crate) fn find_whole(
        content: &dyn Provider,
        target: &Descriptor,
        platforms: &Platforms,
    ) -> Result<Self> {
        Self::walk(content, target, &|below| platforms.choose(below), true)
    }

    /// Walks the documents below `target`; of an index, those that `choose` leaves. Unless all has
    /// to be there, what is missing or wrong ends the walk there.
    ///
    /// # Errors
    /// Those of reading, but for the content's own unless it has to be `whole`.
    pub(crate) fn walk(
        content: &dyn Provider,
        target: &Descriptor,
        choose: &dyn Fn(Vec<Descriptor>) -> Result<Vec<Descriptor>>,
        whole: bool,
    ) -> Result<Self> {
        let mut found = Self::default();
        let (mut level, mut seen) = (vec![target.clone()], HashSet::new());
        for _ in 0..dist_core::MAX_DEPTH {
            let mut next = Vec::new();
            for desc in level {
                // What one document names as something else may be a document by another's word.
                if found.blobs.get(&desc.digest).is_some_and(|named| !named.is_empty())
                    || !seen.insert((desc.digest, desc.media_type.clone()))
                {
                    continue;
                }
                let below = match children(content, &desc) {
                    Err(error) if !whole && is_of_content(&error) => {
                        found.partial = true;
                        Vec::new()
                    }
                    below => below?,
                };
                // Labels are for all that an index names, whatever is chosen of it.
                found.blobs.insert(desc.digest, below.clone());
                if !desc.media_type.is_index() {
                    next.extend(below);
                    continue;
                }
                match choose(below) {
                    Err(error) if !whole && is_of_content(&error) => found.partial = true,
                    chosen => next.extend(chosen?),
                }
            }
            level = next;
        }
        Ok(found)
    }

    /// Adds the snapshots that a plan is unpacked into.
    pub(crate) fn add_unpacked(&mut self, plan: &Plan, snapshotter: &str) {
        for layer in &plan.layers {
            let labels = Labels::from([(UNCOMPRESSED.to_owned(), layer.diff_id.to_string())]);
            self.unpacked.entry(layer.desc.digest).or_default().extend(labels);
            let key = layer.chain_id.into();
            self.snapshots.insert(Resource::Snapshot { snapshotter: snapshotter.into(), key });
        }
        if let Some(chain_id) = plan.chain_id() {
            let key = format!("{GC_REF_SNAPSHOT}{snapshotter}");
            let labels = Labels::from([(key, chain_id.to_string())]);
            self.unpacked.entry(plan.config).or_default().extend(labels);
        }
    }

    /// Whether the image for `platform` below `target` is there and does not belong.
    ///
    /// # Errors
    /// `Storage` and the like.
    pub(crate) async fn leave_out(
        &self,
        content: Arc<dyn Contents>,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<bool> {
        let (target, platform) = (target.clone(), platform.clone());
        match blocking(move || find_manifest(&*content, &target, &platform)).await {
            Err(error) if is_of_content(&error) => Ok(false),
            found => Ok(!self.blobs.contains_key(&found?.digest)),
        }
    }

    /// Visits each thing that belongs to `target`, and what it names, from the top.
    pub(crate) fn visit(
        &self,
        target: &Descriptor,
        visit: &mut dyn FnMut(&Descriptor, &[Descriptor]),
    ) {
        let (mut level, mut seen) = (vec![target], HashSet::new());
        while !level.is_empty() {
            let mut next = Vec::new();
            for desc in level {
                let Some(below) = self.blobs.get(&desc.digest) else { continue };
                if seen.insert(desc.digest) {
                    visit(desc, below);
                    next.extend(below);
                }
            }
            level = next;
        }
    }

    /// All of it, from the top.
    pub(crate) fn descriptors(&self, target: &Descriptor) -> Vec<Descriptor> {
        let mut all = Vec::new();
        self.visit(target, &mut |desc, _| all.push(desc.clone()));
        all
    }

    /// All of it, for a lease.
    pub(crate) fn resources(&self) -> BTreeSet<Resource> {
        let blobs = self.blobs.keys().copied().map(Resource::Content);
        blobs.chain(self.snapshots.iter().cloned()).collect()
    }

    /// The labels of all of it; `name` is what it was fetched by.
    pub(crate) fn registration(self, name: Option<&str>) -> Registration {
        let mut labels: BTreeMap<Digest, Labels> =
            self.blobs.iter().map(|(digest, named)| (*digest, reference_labels(named))).collect();
        for (digest, more) in self.unpacked {
            labels.entry(digest).or_default().extend(more);
        }
        Registration { labels, source: name.and_then(source), ..Registration::default() }
    }
}

/// Whether an error is what content is, or that it is not there: looking again finds the same.
pub(crate) fn is_of_content(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unsupported)
}

/// The label that says where content came from; `None` for what is in no registry.
pub(crate) fn source(name: &str) -> Option<(String, String)> {
    if scheme(name, &[OCI, "http", "https"]).is_some() {
        return None;
    }
    let reference = Reference::parse_familiar(name).ok()?;
    let key = format!("{DISTRIBUTION_SOURCE}{}", reference.hostname());
    Some((key, reference.repository().to_owned()))
}

pub(crate) fn reference_labels(named: &[Descriptor]) -> Labels {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut labels = Labels::new();
    for desc in named {
        let media_type = &desc.media_type;
        let kind = if media_type.is_config() {
            ".config"
        } else if media_type.is_manifest() {
            ".m."
        } else if media_type.layer_compression().is_some() || media_type.is_foreign() {
            ".l."
        } else {
            "."
        };
        let count = counts.entry(kind).or_default();
        let number =
            if kind.ends_with('.') || *count > 0 { count.to_string() } else { String::new() };
        *count += 1;
        labels.insert(format!("{GC_REF_CONTENT}{kind}{number}"), desc.digest.to_string());
    }
    labels
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use dist_core::{Cancel, Ingest, Ingester as _, MediaType, Namespace};
    use dist_store::{ContentStore, Store, StoreOptions};

    use super::*;

    #[test]
    fn documents_are_labelled_as_other_clients_expect_it() {
        let desc = |media_type: &str, content: &str| {
            let digest = Digest::sha256(content.as_bytes());
            Descriptor::new(MediaType::parse(media_type), digest, 1)
        };
        let manifest = [
            desc("application/vnd.oci.image.config.v1+json", "c"),
            desc("application/vnd.oci.image.layer.v1.tar+gzip", "0"),
            desc("application/vnd.docker.image.rootfs.diff.tar.gzip", "1"),
            desc("application/x-own", "x"),
        ];
        let index = [
            desc("application/vnd.oci.image.manifest.v1+json", "m0"),
            desc("application/vnd.oci.image.index.v1+json", "i"),
            desc("application/vnd.docker.distribution.manifest.v2+json", "m1"),
        ];
        for (named, expected) in [
            (&manifest[..], &[(".config", "c"), (".l.0", "0"), (".l.1", "1"), (".0", "x")][..]),
            (&index, &[(".m.0", "m0"), (".0", "i"), (".m.1", "m1")]),
            (&[], &[]),
        ] {
            let expected: Labels = expected
                .iter()
                .map(|(key, content)| {
                    let digest = Digest::sha256(content.as_bytes()).to_string();
                    (format!("{GC_REF_CONTENT}{key}"), digest)
                })
                .collect();
            assert_eq!(reference_labels(named), expected);
        }
    }

    fn put(content: &ContentStore, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = Digest::sha256(bytes);
        let desc = Descriptor::new(MediaType::parse(media_type), digest, bytes.len() as u64);
        let ingest =
            content.ingest(&desc.ingest_key(), (&desc).into(), &Cancel::default()).unwrap();
        if let Ingest::Writer(mut writer) = ingest {
            writer.write_all(bytes).unwrap();
            writer.commit((&desc).into()).unwrap();
        }
        desc
    }

    #[test]
    fn a_digest_may_be_named_as_something_else_before_it_is_named_as_a_manifest() {
        const INDEX: &str = "application/vnd.oci.image.index.v1+json";
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root"), StoreOptions::default()).unwrap();
        let content = store.content(Namespace::default());
        let config = put(&content, "application/vnd.oci.image.config.v1+json", b"{}");
        let manifest = serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] });
        let manifest = manifest.to_string();
        let manifest =
            put(&content, "application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
        let other = Descriptor::new(
            MediaType::parse("application/octet-stream"),
            manifest.digest,
            manifest.size,
        );
        for entries in [vec![&other, &manifest], vec![&manifest, &other], vec![&other, &other]] {
            let index = serde_json::json!({ "schemaVersion": 2, "manifests": entries });
            let index = put(&content, INDEX, index.to_string().as_bytes());
            let found = Belongings::find_whole(&content, &index, &Platforms::All).unwrap();
            let labels = found.registration(None).labels;
            let is_manifest = entries.contains(&&manifest);
            assert_eq!(labels.contains_key(&config.digest), is_manifest, "{entries:?}");
            assert_eq!(labels[&manifest.digest].is_empty(), !is_manifest, "{entries:?}");
        }
    }

    #[test]
    fn only_registries_are_sources() {
        let key = |host: &str| format!("{DISTRIBUTION_SOURCE}{host}");
        for (name, expected) in [
            ("redis:7", Some((key("docker.io"), "library/redis".to_owned()))),
            ("localhost:5000/a/b:1", Some((key("localhost:5000"), "a/b".to_owned()))),
            ("oci:/srv/layout:v1", None),
            ("oci:layout", None),
            ("https://example.com/image.tar", None),
        ] {
            assert_eq!(source(name), expected, "{name}");
        }
    }
}
