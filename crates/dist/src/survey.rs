//! What images consist of, as far as it is there: out of what the store knows of its documents, and
//! for those that it knows nothing of, out of the documents.

use std::sync::Arc;

use dist_core::{
    Descriptor, Digest, MAX_DEPTH, MAX_DOCUMENT_BYTES, MediaType, Outline, Platform, Provider,
    Result,
};
use dist_store::{Known, Outlined};

use crate::{Contents, read_document};

/// What is there of all images of a namespace, of one moment.
pub struct Survey<'a> {
    content: &'a dyn Contents,
    known: Known,
    /// What had to be read.
    learnt: Vec<(Outlined, Arc<Outline>)>,
}

/// A manifest that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its digest.
    pub manifest: Digest,
    /// Its config.
    pub config: Digest,
    /// Its layers, lowest first.
    pub layers: Vec<Digest>,
    /// The platform that its config is for, or as whatever names it says where that is not there;
    /// `None` where nothing says it.
    pub platform: Option<Platform>,
}

/// The outlines of those of `descs` that are documents, as a survey looks for them.
pub(crate) fn outlines(
    content: &dyn Provider,
    descs: &[Descriptor],
) -> Result<Vec<(Outlined, Arc<Outline>)>> {
    let mut outlines = Vec::new();
    for desc in descs {
        let media_type = &desc.media_type;
        if media_type.is_index() || media_type.is_manifest() || media_type.is_config() {
            let outline = Outline::read(media_type, &read_document(content, desc)?)?;
            let key = if media_type.is_config() { MediaType::Config } else { media_type.clone() };
            outlines.push(((desc.digest, key), Arc::new(outline)));
        }
    }
    Ok(outlines)
}

impl<'a> Survey<'a> {
    /// Reads what is known.
    ///
    /// # Errors
    /// `Storage`.
    pub fn new(content: &'a dyn Contents) -> Result<Self> {
        Ok(Self { content, known: content.known()?, learnt: Vec::new() })
    }

    /// The size of a blob; `None` where it is not there. Files are not looked at.
    #[must_use]
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.known.blobs.get(digest).copied()
    }

    /// The manifests at or below `target` that are there and can be read, in their order.
    pub fn manifests(&mut self, target: &Descriptor) -> Vec<Held> {
        let mut found = Vec::new();
        let mut level = vec![target.clone()];
        for _ in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for desc in level {
                match self.document(&desc).as_deref() {
                    Some(Outline::Index(entries)) => next.extend(entries.iter().cloned()),
                    Some(Outline::Manifest { config, config_size, layers }) => found.push(Held {
                        manifest: desc.digest,
                        config: *config,
                        layers: layers.clone(),
                        platform: self.platform(config, *config_size, desc.platform),
                    }),
                    Some(Outline::Config(_)) | None => (),
                }
            }
            level = next;
        }
        found
    }

    /// Takes what had to be read from documents, if it can be kept for the next survey.
    #[must_use]
    pub fn take_learnt(&mut self) -> Vec<(Outlined, Arc<Outline>)> {
        let learnt = std::mem::take(&mut self.learnt);
        if self.known.keeps { learnt } else { Vec::new() }
    }

    fn document(&mut self, desc: &Descriptor) -> Option<Arc<Outline>> {
        let media_type = &desc.media_type;
        // Indexes are read whatever size they are said to have.
        let wanted =
            media_type.is_index() || (media_type.is_manifest() && desc.size <= MAX_DOCUMENT_BYTES);
        if wanted { self.outline(desc.digest, media_type.clone()) } else { None }
    }

    fn platform(&mut self, config: &Digest, size: u64, said: Option<Platform>) -> Option<Platform> {
        let read = (size <= MAX_DOCUMENT_BYTES)
            .then(|| self.outline(*config, MediaType::Config))
            .flatten();
        match read.as_deref() {
            Some(Outline::Config(platform)) => platform.clone(),
            _ => said,
        }
    }

    /// The outline of a document that is there and can be read.
    fn outline(&mut self, digest: Digest, media_type: MediaType) -> Option<Arc<Outline>> {
        let size = self.size(&digest)?;
        let key = (digest, media_type);
        if let Some(known) = self.known.outlines.get(&key) {
            return Some(known.clone());
        }
        let desc = Descriptor::new(key.1.clone(), digest, size.min(MAX_DOCUMENT_BYTES));
        let bytes = read_document(self.content, &desc).ok()?;
        let outline = Arc::new(Outline::read(&key.1, &bytes).ok()?);
        self.known.outlines.insert(key.clone(), outline.clone());
        self.learnt.push((key, outline.clone()));
        Some(outline)
    }
}
