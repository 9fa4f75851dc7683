//! Manifests, indexes and image configs, read strictly from raw bytes.
//!
//! The bytes are what was hashed; they are kept by whoever read them and never written anew from
//! these types. OCI image-spec: manifest.md, image-index.md, config.md.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};

use crate::{Context, Descriptor, DiffId, Error, ErrorKind, MediaType, Platform, Result};

/// The most bytes a manifest, an index or a config may have (distribution-spec, "Pushing
/// Manifests").
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;

/// A map whose keys occur once each; a second value for a key is an error.
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: serde::Deserialize<'de>> serde::Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<V>(PhantomData<V>);
        impl<'de, V: serde::Deserialize<'de>> Visitor<'de> for Keys<V> {
            type Value = BTreeMap<String, V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut values = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    if values.contains_key(&key) {
                        return Err(serde::de::Error::custom(format!("duplicate key {key:?}")));
                    }
                    values.insert(key, value);
                }
                Ok(values)
            }
        }
        deserializer.deserialize_map(Keys(PhantomData)).map(Self)
    }
}

/// An image manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The image config.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What kind of artifact it is, where it is no image.
    pub artifact_type: Option<String>,
}

/// An index: manifests for several platforms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The entries, in the order of preference of whoever made it.
    pub manifests: Vec<Descriptor>,
}

/// What the target of a name can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// An index or manifest list.
    Index(Index),
    /// A manifest.
    Manifest(Box<Manifest>),
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: Option<u64>,
    #[serde(default, deserialize_with = "present")]
    media_type: Option<MediaType>,
    #[serde(default, deserialize_with = "present")]
    artifact_type: Option<String>,
    #[serde(default, deserialize_with = "present")]
    config: Option<Descriptor>,
    #[serde(default, deserialize_with = "present")]
    layers: Option<Vec<Descriptor>>,
    #[serde(default, deserialize_with = "present")]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
    #[serde(default)]
    annotations: Option<UniqueMap<String>>,
    #[serde(default)]
    #[allow(dead_code, reason = "a subject must be a descriptor where there is one")]
    subject: Option<Descriptor>,
}

/// Reads a value that may be absent but not null.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl Document {
    /// Reads the raw bytes of what `media_type` says is an index or a manifest.
    ///
    /// One document must not be readable as both (CVE-2021-41190), keys must not repeat, and a
    /// `mediaType` inside must be the one outside.
    ///
    /// # Errors
    /// `Corrupt` naming the place as a path into the JSON; `Unsupported` for Docker schema 1.
    pub fn parse(media_type: &MediaType, bytes: &[u8]) -> Result<Self> {
        if *media_type == MediaType::DockerSchema1 {
            return Err(schema1());
        }
        let wire: Wire = read(media_type.noun(), bytes)?;
        if wire.schema_version == Some(1) || (wire.fs_layers.is_some() && wire.config.is_none()) {
            return Err(schema1());
        }
        let corrupt = |problem: &str| {
            Err(Error::new(ErrorKind::Corrupt, format!("read {}: {problem}", media_type.noun())))
        };
        if wire.fs_layers.is_some() {
            return corrupt("ambiguous: it has both fsLayers and config");
        }
        if wire.schema_version != Some(2) {
            return corrupt("schemaVersion is not 2");
        }
        if let Some(inner) = &wire.media_type
            && inner != media_type
        {
            return corrupt(&format!(
                "its mediaType is {inner:?}, but it was named as {media_type:?}"
            ));
        }
        if wire.annotations.is_some_and(|map| map.0.len() > 16_384) {
            return corrupt("it has more than 16384 annotations");
        }
        let manifest_parts = wire.config.is_some() || wire.layers.is_some();
        if wire.manifests.is_some() && manifest_parts {
            return corrupt("ambiguous: it has manifests and also config or layers");
        }
        if media_type.is_index() {
            match wire.manifests {
                Some(manifests) => Ok(Self::Index(Index { manifests })),
                None => corrupt("it has no manifests"),
            }
        } else {
            let Some(config) = wire.config else { return corrupt("it has no config") };
            let Some(layers) = wire.layers else { return corrupt("it has no layers") };
            Ok(Self::Manifest(Box::new(Manifest {
                config,
                layers,
                artifact_type: wire.artifact_type,
            })))
        }
    }

    /// The descriptors it names, in their order: config first, then layers; or the manifests.
    #[must_use]
    pub fn children(self) -> Vec<Descriptor> {
        match self {
            Self::Index(index) => index.manifests,
            Self::Manifest(manifest) => {
                let mut children = vec![manifest.config];
                children.extend(manifest.layers);
                children
            }
        }
    }
}

fn schema1() -> Error {
    Error::new(
        ErrorKind::Unsupported,
        "Docker image manifest version 2, schema 1 is not supported; the image must be pushed again by a current tool",
    )
}

/// The part of an image config that distribution needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageConfig {
    /// The platform that the image runs on.
    pub platform: Platform,
    /// The digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<DiffId>,
}

#[derive(serde::Deserialize)]
struct ConfigWire {
    architecture: Option<String>,
    os: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    rootfs: Option<RootfsWire>,
}

#[derive(serde::Deserialize)]
struct RootfsWire {
    r#type: String,
    diff_ids: Option<Vec<DiffId>>,
}

impl ImageConfig {
    /// Reads the raw bytes of an image config.
    ///
    /// # Errors
    /// `Corrupt` naming the place as a path into the JSON.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let wire: ConfigWire = read("config", bytes)?;
        let corrupt = |problem: &'static str| {
            Err(Error::new(ErrorKind::Corrupt, format!("read config: {problem}")))
        };
        let Some(rootfs) = wire.rootfs else { return corrupt("it has no rootfs") };
        if rootfs.r#type != "layers" {
            return corrupt("its rootfs.type is not \"layers\"");
        }
        Ok(Self {
            platform: Platform::new(
                wire.os.as_deref().unwrap_or("linux"),
                wire.architecture.as_deref().unwrap_or_default(),
                wire.variant.as_deref(),
            ),
            diff_ids: rootfs.diff_ids.unwrap_or_default(),
        })
    }
}

fn read<T: DeserializeOwned>(noun: &str, bytes: &[u8]) -> Result<T> {
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::new(
            ErrorKind::ResourceExhausted,
            format!("read {noun} of {} bytes", bytes.len()),
        )
        .with_source(crate::Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES }));
    }
    // The parser does not look into strings that it skips.
    std::str::from_utf8(bytes)
        .context(ErrorKind::Corrupt, || format!("read {noun}: it is not UTF-8"))?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json)
        .context(ErrorKind::Corrupt, || format!("read {noun}: not valid"))?;
    json.end().context(ErrorKind::Corrupt, || {
        format!("read {noun}: there is something after the JSON")
    })?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str) -> String {
        format!(
            r#"{{"mediaType":"{media_type}","digest":"{}","size":3}}"#,
            crate::Digest::sha256(b"abc")
        )
    }

    fn manifest(extra: &str) -> String {
        let config = descriptor(MediaType::Config.as_str());
        let layer = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layer}]{extra}}}"#)
    }

    fn parse(text: &str) -> Result<Document> {
        Document::parse(&MediaType::Manifest, text.as_bytes())
    }

    #[test]
    fn good() {
        let Document::Manifest(read) = parse(&manifest("")).unwrap() else { panic!("no manifest") };
        assert_eq!(read.layers.len(), 1);
        assert!(parse(&manifest(r#","unknown":{"a":[1,2]}"#)).is_ok());
    }

    #[test]
    fn bad() {
        for (text, kind, part) in [
            (manifest(r#","manifests":[]"#), ErrorKind::Corrupt, "ambiguous"),
            (manifest(r#","fsLayers":[]"#), ErrorKind::Corrupt, "ambiguous"),
            (manifest(r#","config":null"#), ErrorKind::Corrupt, "duplicate field"),
            (
                manifest(r#","mediaType":"application/vnd.oci.image.index.v1+json""#),
                ErrorKind::Corrupt,
                "mediaType",
            ),
            (manifest(r#","annotations":{"a":"1","a":"2"}"#), ErrorKind::Corrupt, "duplicate key"),
            (manifest("").replace(":2,", ":1,"), ErrorKind::Unsupported, "schema 1"),
            (manifest("").replace(":2,", ":3,"), ErrorKind::Corrupt, "schemaVersion"),
            (manifest("").replace("\"size\":3", "\"size\":-1"), ErrorKind::Corrupt, "config.size"),
            (
                manifest("").replace("\"size\":3", "\"size\":\"3\""),
                ErrorKind::Corrupt,
                "config.size",
            ),
            (
                manifest("").replace("\"size\":3", "\"size\":3,\"data\":\"YWJk\""),
                ErrorKind::Corrupt,
                "not the content",
            ),
            (format!("{} x", manifest("")), ErrorKind::Corrupt, "after the JSON"),
            ("[".repeat(100_000), ErrorKind::Corrupt, "read manifest"),
            (String::new(), ErrorKind::Corrupt, "read manifest"),
        ] {
            let error = parse(&text).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
            assert!(format!("{error:?}").contains(part), "{error:?} lacks {part}");
        }
    }

    #[test]
    fn skipped_strings_are_utf8_too() {
        let mut bytes = manifest(r#","a":"?""#).into_bytes();
        let at = bytes.iter().position(|byte| *byte == b'?').unwrap();
        bytes[at] = 0xff;
        let error = Document::parse(&MediaType::Manifest, &bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn inline_data_is_checked() {
        let good = manifest("").replace("\"size\":3", "\"size\":3,\"data\":\"YWJj\"");
        assert!(parse(&good).is_ok());
    }
}
