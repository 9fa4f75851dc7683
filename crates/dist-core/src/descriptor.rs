//! Descriptors: what names, sizes and types some content.
//!
//! OCI image-spec, descriptor.md.

use std::collections::BTreeMap;

use serde::de::Error as _;

use crate::manifest::UniqueMap;
use crate::{ContentMismatch, Digest, Error, ErrorKind, MediaType, Platform, Result};

/// Names some content by digest, with its size and type.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: MediaType,
    /// The content's digest.
    pub digest: Digest,
    /// The exact length in bytes of the content.
    pub size: u64,
    /// The platform, on an index's entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free key-value pairs.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Makes a descriptor without platform and annotations.
    #[must_use]
    pub fn new(media_type: MediaType, digest: Digest, size: u64) -> Self {
        Self { media_type, digest, size, platform: None, annotations: BTreeMap::new() }
    }

    /// Fails unless content with this length and digest is what it names.
    ///
    /// # Errors
    /// `Corrupt` with a [`ContentMismatch`].
    pub fn verify(&self, size: u64, digest: Digest) -> Result<()> {
        let mismatch = if size != self.size {
            ContentMismatch::Size { expected: self.size, got: size }
        } else if digest != self.digest {
            ContentMismatch::Digest { expected: self.digest, got: digest }
        } else {
            return Ok(());
        };
        let message = format!("verify {} {}", self.media_type.noun(), self.digest);
        Err(Error::new(ErrorKind::Corrupt, message).with_source(mismatch))
    }

    /// The key of the ingest that writes this content: its noun and digest.
    ///
    /// Equal for every process that fetches the same content into one namespace, so that they wait
    /// for one another.
    #[must_use]
    pub fn ingest_key(&self) -> crate::IngestKey {
        let noun = match self.media_type.noun() {
            "blob" => "unknown", // as containerd's clients have it
            noun => noun,
        };
        crate::IngestKey::for_content(noun, &self.digest)
    }
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: MediaType,
    digest: Digest,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: Option<UniqueMap<String>>,
    #[serde(default)]
    urls: Option<Vec<String>>,
    #[serde(default)]
    data: Option<String>,
}

impl<'de> serde::Deserialize<'de> for Descriptor {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        if wire.media_type.as_str().is_empty() {
            return Err(D::Error::custom("mediaType is empty"));
        }
        if i64::try_from(wire.size).is_err() {
            return Err(D::Error::custom(format!("size {} is larger than 2^63-1", wire.size)));
        }
        if wire.urls.is_some_and(|urls| urls.len() > 1024) {
            return Err(D::Error::custom("a descriptor may have at most 1024 urls"));
        }
        if let Some(data) = wire.data {
            verify_inline(&data, &wire.digest, wire.size).map_err(D::Error::custom)?;
        }
        Ok(Self {
            media_type: wire.media_type,
            digest: wire.digest,
            size: wire.size,
            platform: wire.platform,
            annotations: wire.annotations.map(|map| map.0).unwrap_or_default(),
        })
    }
}

/// Embedded content must be the content (descriptor.md, `data`); it is then left to the blob.
fn verify_inline(data: &str, digest: &Digest, size: u64) -> Result<(), String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD
        .decode(data)
        .map_err(|error| format!("data is not base64: {error}"))?;
    let mut hasher = digest.hasher();
    hasher.update(&bytes);
    let got = hasher.finish();
    if bytes.len() as u64 != size || got != *digest {
        return Err(format!(
            "data is not the content: expected {size} bytes with digest {digest}, got {} with {got}",
            bytes.len()
        ));
    }
    Ok(())
}
