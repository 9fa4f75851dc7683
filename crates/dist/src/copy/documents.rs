//! Manifests and indexes on their way: read once, and sent as the bytes that they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, Descriptor, Digest, Document, Error, ErrorKind, Fetcher, ImageConfig, Progress,
    Referrer, Resolved, Result, ResultExt as _,
};
use serde_json::Value;

use crate::fetch::Platforms;
use crate::layers::tell_other;
use crate::plain::{fetch_document, fetch_manifest};

/// The most bytes of documents that are kept; what is more is fetched again when it is sent.
const KEPT: u64 = 8 << 20;

/// The manifest that an attestation in an index is about, as BuildKit notes it.
const ABOUT: &str = "vnd.docker.reference.digest";

/// What a source has, with documents that were read, or made, at hand.
pub(super) struct Documents {
    source: std::sync::Arc<dyn Fetcher>,
    kept: Mutex<(u64, BTreeMap<Digest, Bytes>)>,
}

impl Documents {
    pub(super) fn new(source: std::sync::Arc<dyn Fetcher>) -> Self {
        Self { source, kept: Mutex::default() }
    }

    /// Reads a document and verifies it.
    pub(super) async fn read(&self, desc: &Descriptor) -> Result<Bytes> {
        if let Some(bytes) = self.kept(&desc.digest) {
            return Ok(bytes);
        }
        let bytes = Bytes::from(fetch_document(&*self.source, desc).await?);
        if self.size() + desc.size <= KEPT {
            self.keep(desc.digest, bytes.clone());
        }
        Ok(bytes)
    }

    /// What a document names.
    pub(super) async fn children(&self, desc: &Descriptor) -> Result<Vec<Descriptor>> {
        let bytes = self.read(desc).await?;
        let document = Document::parse(&desc.media_type, &bytes)
            .during(|| format!("parse {} {}", desc.media_type.noun(), desc.digest))?;
        Ok(document.children())
    }

    /// Keeps a document that the source does not have.
    pub(super) fn keep(&self, digest: Digest, bytes: Bytes) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.0 += bytes.len() as u64;
        kept.1.insert(digest, bytes);
    }

    /// What of `target` is wanted, as one document. Where it is made here, it is kept.
    pub(super) async fn choose(
        &self,
        target: &Descriptor,
        platforms: &Platforms,
    ) -> Result<Descriptor> {
        match platforms {
            Platforms::Several(_) if target.media_type.is_index() => {
                self.smaller(target, platforms).await
            }
            Platforms::All | Platforms::Several(_) => Ok(target.clone()),
            Platforms::One(platform) => fetch_manifest(self, target, platform).await,
        }
    }

    /// Warns of each platform that is wanted and that a manifest in no index is not for.
    pub(super) async fn tell_other(
        &self,
        resolved: &Resolved,
        platforms: &Platforms,
        progress: &dyn Progress,
    ) -> Result<()> {
        let wanted = match platforms {
            Platforms::All => return Ok(()),
            Platforms::One(platform) => std::slice::from_ref(platform),
            Platforms::Several(platforms) => platforms,
        };
        if !resolved.target.media_type.is_manifest() {
            return Ok(());
        }
        let children = self.children(&resolved.target).await?;
        let Some(config) = children.iter().find(|child| child.media_type.is_config()) else {
            return Ok(());
        };
        // What is no image runs nowhere.
        let Ok(config) = ImageConfig::parse(&self.read(config).await?) else { return Ok(()) };
        for wanted in wanted {
            tell_other(&resolved.name, (&config.platform, wanted), progress);
        }
        Ok(())
    }

    /// Makes an index of those entries that are for some platforms, and of what is about these.
    async fn smaller(&self, index: &Descriptor, platforms: &Platforms) -> Result<Descriptor> {
        let what = || format!("choose from index {}", index.digest);
        let entries = self.children(index).await?;
        let chosen = platforms.choose(entries.clone())?;
        if let Some(nested) = chosen.iter().find(|entry| entry.media_type.is_index()) {
            let message = format!(
                "{}: {} in it is an index, too; name that by its digest",
                what(),
                nested.digest
            );
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        let chosen: HashSet<String> = chosen.iter().map(|entry| entry.digest.to_string()).collect();
        let wanted = |entry: &Descriptor| {
            let about = entry.annotations.get(ABOUT);
            chosen.contains(&entry.digest.to_string())
                || about.is_some_and(|digest| chosen.contains(digest))
        };
        if entries.iter().all(wanted) {
            return Ok(index.clone());
        }
        let corrupt =
            |error: serde_json::Error| Error::new(ErrorKind::Corrupt, what()).with_source(error);
        let bytes = self.read(index).await?;
        let mut document: Value = serde_json::from_slice(&bytes).map_err(corrupt)?;
        let listed = document.get_mut("manifests").and_then(Value::as_array_mut);
        if let Some(listed) = listed {
            let mut entries = entries.iter();
            listed.retain(|_| entries.next().is_some_and(wanted));
        }
        let bytes = Bytes::from(serde_json::to_vec(&document).map_err(corrupt)?);
        let digest = Digest::sha256(&bytes);
        let size = bytes.len() as u64;
        self.keep(digest, bytes);
        Ok(Descriptor::new(index.media_type.clone(), digest, size))
    }

    fn size(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn kept(&self, digest: &Digest) -> Option<Bytes> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).1.get(digest).cloned()
    }
}

#[async_trait]
impl Fetcher for Documents {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let Some(bytes) = self.kept(&desc.digest) else {
            return self.source.fetch(desc, offset).await;
        };
        let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Box::pin(futures_util::stream::iter([Ok(bytes.slice(at..))])))
    }

    fn doubt(&self, desc: &Descriptor) -> bool {
        self.source.doubt(desc)
    }

    async fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Referrer>>> {
        self.source.referrers(subject).await
    }
}
