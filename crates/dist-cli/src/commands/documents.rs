//! Indexes, manifests and configs of an image, from wherever they are.

use std::sync::Arc;

use dist::{Contents, Engine};
use dist_core::{
    Descriptor, Document, Error, ErrorKind, Fetcher, MAX_DEPTH, Manifest, Platform, Progress,
    Result, ResultExt, children, select_platform,
};

use crate::config::Config;

/// Where documents are read from.
pub(crate) enum Source {
    Local(Arc<dyn Contents>),
    Remote(Arc<dyn Fetcher>),
}

impl Source {
    /// What fetches content from there.
    pub(crate) fn fetcher(&self) -> Arc<dyn Fetcher> {
        match self {
            Self::Local(content) => dist::stored_fetcher(content.clone()),
            Self::Remote(fetcher) => fetcher.clone(),
        }
    }

    /// Reads the bytes of a document.
    pub(crate) async fn read(&self, desc: &Descriptor) -> Result<Vec<u8>> {
        match self {
            Self::Local(content) => dist::read_document(&**content, desc),
            Self::Remote(fetcher) => dist::fetch_document(&**fetcher, desc).await,
        }
    }

    /// Reads and parses a manifest or an index.
    pub(crate) async fn parse(&self, desc: &Descriptor) -> Result<Document> {
        parsed(desc, &self.read(desc).await?)
    }

    /// Finds the manifest for `platform` at or below `target`.
    pub(crate) async fn manifest(
        &self,
        target: &Descriptor,
        platform: &Platform,
    ) -> Result<(Descriptor, Manifest)> {
        let desc = match self {
            Self::Local(content) => dist::find_manifest(&**content, target, platform)?,
            Self::Remote(fetcher) => dist::fetch_manifest(&**fetcher, target, platform).await?,
        };
        match self.parse(&desc).await? {
            Document::Manifest(manifest) => Ok((desc, *manifest)),
            Document::Index(_) => Err(Error::new(
                ErrorKind::Internal,
                format!("read manifest {}: it was read as an index", desc.digest),
            )),
        }
    }
}

/// Finds in the store the manifest for `platform` at or below `target`; nothing where that, or an index
/// on the way to it, is not there.
pub(crate) fn stored_manifest(
    content: &dyn Contents,
    target: &Descriptor,
    platform: &Platform,
) -> Result<Option<(Descriptor, Manifest)>> {
    let mut desc = target.clone();
    for _ in 0..MAX_DEPTH {
        let Some(bytes) = if_there(dist::read_document(content, &desc))? else { return Ok(None) };
        match parsed(&desc, &bytes)? {
            Document::Manifest(manifest) => return Ok(Some((desc, *manifest))),
            Document::Index(index) => {
                let best = select_platform(index.manifests, platform)?.into_iter().next();
                let Some(best) = best else { break };
                desc = best;
            }
        }
    }
    Err(endless(target))
}

/// Nothing where what was read is not there.
pub(crate) fn if_there<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

fn parsed(desc: &Descriptor, bytes: &[u8]) -> Result<Document> {
    Document::parse(&desc.media_type, bytes)
        .during(|| format!("parse {} {}", desc.media_type.noun(), desc.digest))
}

fn endless(target: &Descriptor) -> Error {
    let message = format!("walk {}: its indexes are empty or nested too deep", target.digest);
    Error::new(ErrorKind::Corrupt, message)
}

/// Does `work` while those of `layers` are in the store that were discarded once they were unpacked.
pub(crate) async fn with_layers<T>(
    engine: &Engine,
    layers: Vec<Descriptor>,
    progress: Arc<dyn Progress>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let restored = dist::restore(engine, layers, progress).await?;
    let done = work.await;
    restored.end().await?;
    done
}

/// As [`with_layers`], for what reads from `source`: only a store of this machine may have discarded
/// them.
pub(crate) async fn with_layers_of<T>(
    config: &Config,
    source: &Source,
    layers: Vec<Descriptor>,
    progress: Arc<dyn Progress>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let Source::Local(content) = source else { return work.await };
    let is_missing = |layer: &Descriptor| {
        content.info(&layer.digest).is_err_and(|error| error.kind() == ErrorKind::NotFound)
    };
    if config.is_remote() || !layers.iter().any(is_missing) {
        return work.await;
    }
    let engine = config.engine_in(dist_store::OpenMode::Existing)?;
    with_layers(&engine, layers, progress, work).await
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
