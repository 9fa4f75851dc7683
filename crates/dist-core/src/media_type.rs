//! Media types of OCI images and of Docker schema 2, parsed once at the edge.
//!
//! OCI image-spec, media-types.md; Docker "Image Manifest V 2, Schema 2".

use std::fmt;

/// How a layer's tar is compressed, as its media type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Compression {
    /// Plain tar.
    None,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more Zstandard frames (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "plain tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// What a descriptor says its content is.
///
/// Two spellings of one type (Docker's and OCI's) stay apart, so that a value
/// prints as it was read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum MediaType {
    /// An OCI index.
    Index,
    /// An OCI manifest.
    Manifest,
    /// An OCI image config.
    Config,
    /// An OCI layer.
    Layer(Compression),
    /// An OCI layer whose distribution is restricted.
    NondistributableLayer(Compression),
    /// A Docker manifest list.
    DockerManifestList,
    /// A Docker schema 2 manifest.
    DockerManifest,
    /// A Docker image config.
    DockerConfig,
    /// A Docker layer.
    DockerLayer(Compression),
    /// A Docker layer that lives on a server named by its URLs.
    DockerForeignLayer(Compression),
    /// A Docker schema 1 manifest, signed or not: recognised, and refused.
    DockerSchema1,
    /// Anything else, as written.
    Other(Box<str>),
}

const NAMES: &[(&str, MediaType)] = &[
    ("application/vnd.oci.image.index.v1+json", MediaType::Index),
    ("application/vnd.oci.image.manifest.v1+json", MediaType::Manifest),
    ("application/vnd.oci.image.config.v1+json", MediaType::Config),
    ("application/vnd.oci.image.layer.v1.tar", MediaType::Layer(Compression::None)),
    ("application/vnd.oci.image.layer.v1.tar+gzip", MediaType::Layer(Compression::Gzip)),
    ("application/vnd.oci.image.layer.v1.tar+zstd", MediaType::Layer(Compression::Zstd)),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        MediaType::NondistributableLayer(Compression::None),
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        MediaType::NondistributableLayer(Compression::Gzip),
    ),
    (
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        MediaType::NondistributableLayer(Compression::Zstd),
    ),
    ("application/vnd.docker.distribution.manifest.list.v2+json", MediaType::DockerManifestList),
    ("application/vnd.docker.distribution.manifest.v2+json", MediaType::DockerManifest),
    ("application/vnd.docker.container.image.v1+json", MediaType::DockerConfig),
    ("application/vnd.docker.image.rootfs.diff.tar", MediaType::DockerLayer(Compression::None)),
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        MediaType::DockerLayer(Compression::Gzip),
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        MediaType::DockerLayer(Compression::Zstd),
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        MediaType::DockerForeignLayer(Compression::None),
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        MediaType::DockerForeignLayer(Compression::Gzip),
    ),
    (
        "application/vnd.docker.image.rootfs.foreign.diff.tar.zstd",
        MediaType::DockerForeignLayer(Compression::Zstd),
    ),
    ("application/vnd.docker.distribution.manifest.v1+prettyjws", MediaType::DockerSchema1),
    ("application/vnd.docker.distribution.manifest.v1+json", MediaType::DockerSchema1),
];

impl MediaType {
    /// Reads a media type; parameters after `;` are dropped.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.split(';').next().unwrap_or_default().trim();
        NAMES
            .iter()
            .find(|(name, _)| *name == text)
            .map_or_else(|| Self::Other(text.into()), |(_, media_type)| media_type.clone())
    }

    /// The media type as it is written on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(text) => text,
            known => NAMES
                .iter()
                .find(|(_, media_type)| media_type == known)
                .map_or("application/octet-stream", |(name, _)| name),
        }
    }

    /// Whether it is an index or a manifest list.
    #[must_use]
    pub fn is_index(&self) -> bool {
        matches!(self, Self::Index | Self::DockerManifestList)
    }

    /// Whether it is an image manifest.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        matches!(self, Self::Manifest | Self::DockerManifest)
    }

    /// Whether it is an image config.
    #[must_use]
    pub fn is_config(&self) -> bool {
        matches!(self, Self::Config | Self::DockerConfig)
    }

    /// The layer's compression, where it is a layer.
    #[must_use]
    pub fn layer_compression(&self) -> Option<Compression> {
        match self {
            Self::Layer(compression)
            | Self::NondistributableLayer(compression)
            | Self::DockerLayer(compression)
            | Self::DockerForeignLayer(compression) => Some(*compression),
            _ => None,
        }
    }

    /// Whether the registry may lawfully lack it (foreign and nondistributable layers).
    #[must_use]
    pub fn is_foreign(&self) -> bool {
        matches!(self, Self::NondistributableLayer(_) | Self::DockerForeignLayer(_))
    }

    /// The word for it in messages and progress: `index`, `manifest`, `config`, `layer` or
    /// `blob` for all others.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        if self.is_index() {
            "index"
        } else if self.is_manifest() {
            "manifest"
        } else if self.is_config() {
            "config"
        } else if self.layer_compression().is_some() {
            "layer"
        } else {
            "blob"
        }
    }

    /// Every manifest and index type, in the order a client prefers them; what a resolver accepts.
    #[must_use]
    pub fn accepted() -> [Self; 4] {
        [Self::Index, Self::Manifest, Self::DockerManifestList, Self::DockerManifest]
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl serde::Serialize for MediaType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> serde::Deserialize<'de> for MediaType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&std::borrow::Cow::<'de, str>::deserialize(deserializer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_round_trips() {
        for (name, media_type) in NAMES {
            assert_eq!(&MediaType::parse(name), media_type);
            if *media_type != MediaType::DockerSchema1 {
                assert_eq!(media_type.as_str(), *name);
            }
        }
        assert_eq!(MediaType::parse("a/b; charset=utf-8").as_str(), "a/b");
    }
}
