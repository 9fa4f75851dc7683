//! What listings need to know of a document: what it names, and the platform that it is for.

use crate::{Descriptor, Digest, Document, ImageConfig, MediaType, Platform, Result};

/// The part of a document that a listing of images shows. It never changes, since the document's
/// name is its hash: whoever has it need not read the document again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outline {
    /// An index: its entries, without annotations.
    Index(Vec<Descriptor>),
    /// A manifest.
    Manifest {
        /// The image config.
        config: Digest,
        /// How many bytes the config is said to have.
        config_size: u64,
        /// The layers, lowest first.
        layers: Vec<Digest>,
    },
    /// An image config: its platform, `None` for what is no image's config.
    Config(Option<Platform>),
}

impl Outline {
    /// Reads the raw bytes of what `media_type` says is an index, a manifest or a config.
    ///
    /// # Errors
    /// As [`Document::parse`]; configs are never refused.
    pub fn read(media_type: &MediaType, bytes: &[u8]) -> Result<Self> {
        if media_type.is_config() {
            return Ok(Self::Config(ImageConfig::parse(bytes).ok().map(|config| config.platform)));
        }
        Ok(match Document::parse(media_type, bytes)? {
            Document::Index(index) => {
                let plain = |desc: Descriptor| Descriptor {
                    platform: desc.platform,
                    ..Descriptor::new(desc.media_type, desc.digest, desc.size)
                };
                Self::Index(index.manifests.into_iter().map(plain).collect())
            }
            Document::Manifest(manifest) => Self::Manifest {
                config: manifest.config.digest,
                config_size: manifest.config.size,
                layers: manifest.layers.iter().map(|layer| layer.digest).collect(),
            },
        })
    }
}
