//! Indexes, manifests and configs of an image, from wherever they are.

use std::sync::Arc;

use dist::Contents;
use dist_core::{
    Descriptor, Document, Fetcher, MAX_DEPTH, Manifest, Platform, Result, ResultExt, children,
    select_platform,
};

/// Where documents are read from.
pub(crate) enum Source {
    Local(Arc<dyn Contents>),
    Remote(Arc<dyn Fetcher>),
}

impl Source {
    /// Reads the bytes of a document.
    pub(crate) async fn read(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        match self {
            Self::Local(content) => dist::read_document(&**content, desc),
            Self::Remote(fetcher) => dist::fetch_document(&**fetcher, desc).await,
        }
    }

    /// Reads and parses a manifest or an index.
    pub(crate) async fn parse(&self, desc: &Descriptor) -> Result<Document> {
        let bytes = self.read(desc).await?;
        Document::parse(&desc.media_type, &bytes)
            .during(|| format!("parse {} {}", desc.media_type.noun(), desc.digest))
    }

    /// Finds the manifest for `platform` at or below `target`.
    pub(crate) async fn manifest(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest)> {
        let mut desc = target.clone();
        for _ in 0..MAX_DEPTH {
            match self.parse(&desc).await? {
                Document::Manifest(manifest) => return Ok((desc, *manifest)),
                Document::Index(index) => {
                    let best = select_platform(index.manifests, platform)?.into_iter().next();
                    let Some(best) = best else { break };
                    desc = best;
                }
            }
        }
        Err(dist_core::Error::new(
            dist_core::ErrorKind::Corrupt,
            format!("walk {}: its indexes are empty or nested too deep", target.digest),
        ))
    }
}

/// The manifests at or below `target` that are in the store and can be read, in their order.
pub(crate) fn manifests(
    content: &dyn Contents,
    target: &Descriptor,
) -> Vec<(Descriptor, Manifest)> {
    let mut found = Vec::new();
    let mut level = vec![target.clone()];
    for _ in 0..MAX_DEPTH {
        let mut next = Vec::new();
        for desc in level {
            if desc.media_type.is_index() {
                next.extend(children(content, &desc).unwrap_or_default());
            } else if desc.media_type.is_manifest()
                && let Ok(bytes) = dist::read_document(content, &desc)
                && let Ok(Document::Manifest(manifest)) = Document::parse(&desc.media_type, &bytes)
            {
                found.push((desc, *manifest));
            }
        }
        level = next;
    }
    found
}
