//! Indexes and manifests: image-index.md, manifest.md, descriptor.md, annotations.md.

use dist_core::{Descriptor, Digest, DigestError, MediaType};
use dist_layer::Severity;
use serde_json::{Map, Value};

use super::Flaw;
use super::json::below;

pub(super) const MANIFEST: &str = "manifest.md#image-manifest-property-descriptions";
const INDEX: &str = "image-index.md#image-index-property-descriptions";
const DESCRIPTOR: &str = "descriptor.md#properties";
const DIGESTS: &str = "descriptor.md#digests";
const ANNOTATIONS: &str = "annotations.md#rules";
const KEYS: &str = "annotations.md#pre-defined-annotation-keys";

/// The type of the empty config, with which an artifact says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A descriptor that can be followed.
pub(super) struct Named {
    pub(super) desc: Descriptor,
    /// Where it is in its document.
    pub(super) place: String,
    /// The document; none for what was asked for.
    pub(super) parent: Option<Digest>,
}

/// Notes what is wrong with one document.
pub(super) struct Notes<'a> {
    pub(super) desc: &'a Descriptor,
    pub(super) flaws: &'a mut Vec<Flaw>,
}

impl Notes<'_> {
    fn add(&mut self, severity: Severity, place: &str, what: String, spec: &'static str) {
        let (digest, noun, place) =
            (self.desc.digest, self.desc.media_type.noun(), place.to_owned());
        self.flaws.push(Flaw { severity, digest, noun, place, what, spec, cause: None });
    }

    pub(super) fn error(&mut self, place: &str, what: impl Into<String>, spec: &'static str) {
        self.add(Severity::Error, place, what.into(), spec);
    }

    pub(super) fn warn(&mut self, place: &str, what: impl Into<String>, spec: &'static str) {
        self.add(Severity::Warning, place, what.into(), spec);
    }

    /// A member that is a string; told where it is something else.
    pub(super) fn text<'v>(
        &mut self,
        object: &'v Map<String, Value>,
        key: &str,
        place: &str,
        spec: &'static str,
    ) -> Option<&'v str> {
        match object.get(key)? {
            Value::String(text) => Some(text),
            other => {
                self.error(
                    &below(place, key),
                    format!("it is {}, not a string", kind(other)),
                    spec,
                );
                None
            }
        }
    }
}

/// What a value is.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// Whether a text has the form of a media type (RFC 6838, section 4.2).
fn is_media_type(text: &str) -> bool {
    let name = |part: &str| {
        let first = part.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let is_rest = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        first && part.len() <= 127 && part.bytes().all(is_rest)
    };
    let text = text.split(';').next().unwrap_or_default().trim_end();
    text.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype))
}

/// Looks at an index or a manifest; returns what it names, as far as that can be followed.
pub(super) fn check(value: &Value, desc: &Descriptor, flaws: &mut Vec<Flaw>) -> Vec<Named> {
    let mut notes = Notes { desc, flaws };
    let is_index = desc.media_type.is_index();
    let spec = if is_index { INDEX } else { MANIFEST };
    let Value::Object(object) = value else {
        notes.error("", format!("it is {}, not an object", kind(value)), spec);
        return Vec::new();
    };
    match object.get("schemaVersion") {
        Some(version) if version.as_u64() == Some(2) => {}
        Some(version) => notes.error("schemaVersion", format!("it is {version}, not 2"), spec),
        None => notes.error("schemaVersion", "it is missing", spec),
    }
    own_type(object, &mut notes, spec);
    annotations(object, "", &mut notes);
    artifact_type(object, "", &mut notes);
    if object.contains_key("fsLayers") {
        notes.error("fsLayers", "the document is of two kinds at once", spec);
    }
    let others: &[&str] = if is_index { &["config", "layers"] } else { &["manifests"] };
    for key in others {
        if object.contains_key(*key) {
            notes.error(key, "the document is of two kinds at once", spec);
        }
    }
    subject(object, &mut notes);
    if is_index {
        return listed(object, "manifests", &mut notes, spec);
    }
    let mut children = Vec::new();
    match object.get("config") {
        Some(config) => children.extend(descriptor(config, "config", &mut notes)),
        None => notes.error("config", "it is missing", spec),
    }
    let config = object.get("config").and_then(|config| config["mediaType"].as_str());
    if config == Some(EMPTY) && !object.contains_key("artifactType") {
        let what = "it is missing, and must be there beside the empty config";
        notes.error("artifactType", what, spec);
    }
    children.extend(listed(object, "layers", &mut notes, spec));
    if object.get("layers").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        notes.warn("layers", "it is empty: some registries and clients refuse that", spec);
    }
    children
}

/// The `mediaType` of a document, which must be the one that it was named as.
fn own_type(object: &Map<String, Value>, notes: &mut Notes<'_>, spec: &'static str) {
    if !object.contains_key("mediaType") {
        notes.warn("mediaType", "it is missing, and should be there", spec);
    } else if let Some(text) = notes.text(object, "mediaType", "", spec)
        && text != notes.desc.media_type.as_str()
    {
        let named = notes.desc.media_type.as_str();
        notes.error("mediaType", format!("it is {text:?}, but it was named as {named:?}"), spec);
    }
}

fn artifact_type(object: &Map<String, Value>, place: &str, notes: &mut Notes<'_>) {
    if let Some(text) = notes.text(object, "artifactType", place, MANIFEST)
        && !is_media_type(text)
    {
        notes.error(&below(place, "artifactType"), format!("{text:?} is no media type"), MANIFEST);
    }
}

fn subject(object: &Map<String, Value>, notes: &mut Notes<'_>) {
    let Some(subject) = object.get("subject") else { return };
    if let Some(named) = descriptor(subject, "subject", notes) {
        let media_type = named.desc.media_type;
        if !media_type.is_manifest() && !media_type.is_index() {
            let what = format!("{:?} is no manifest's type", media_type.as_str());
            notes.warn("subject.mediaType", what, MANIFEST);
        }
    }
}

fn listed(
    object: &Map<String, Value>,
    key: &str,
    notes: &mut Notes<'_>,
    spec: &'static str,
) -> Vec<Named> {
    match object.get(key) {
        Some(Value::Array(values)) => values
            .iter()
            .enumerate()
            .filter_map(|(at, value)| descriptor(value, &format!("{key}[{at}]"), notes))
            .collect(),
        Some(other) => {
            notes.error(key, format!("it is {}, not an array", kind(other)), spec);
            Vec::new()
        }
        None => {
            notes.error(key, "it is missing", spec);
            Vec::new()
        }
    }
}

/// Looks at a descriptor; returns it where it can be followed.
fn descriptor(value: &Value, place: &str, notes: &mut Notes<'_>) -> Option<Named> {
    let Value::Object(object) = value else {
        notes.error(place, format!("it is {}, not a descriptor", kind(value)), DESCRIPTOR);
        return None;
    };
    annotations(object, place, notes);
    artifact_type(object, place, notes);
    platform(object, place, notes);
    match object.get("urls") {
        None => {}
        Some(Value::Array(urls)) if urls.iter().all(Value::is_string) => {}
        Some(_) => notes.error(&below(place, "urls"), "it is no array of strings", DESCRIPTOR),
    }
    for key in ["mediaType", "digest", "size"] {
        if !object.contains_key(key) {
            notes.error(&below(place, key), "it is missing", DESCRIPTOR);
        }
    }
    let media_type = notes.text(object, "mediaType", place, DESCRIPTOR);
    if let Some(text) = media_type.filter(|text| !is_media_type(text)) {
        let what = format!("{text:?} is no media type");
        notes.error(&below(place, "mediaType"), what, DESCRIPTOR);
    }
    let digest = notes.text(object, "digest", place, DIGESTS);
    let digest = digest.and_then(|text| self::digest(text, &below(place, "digest"), notes));
    let size = object.get("size").and_then(|size| match size.as_u64() {
        Some(size) if i64::try_from(size).is_ok() => Some(size),
        _ => {
            let what = format!("{size} is no size");
            notes.error(&below(place, "size"), what, DESCRIPTOR);
            None
        }
    });
    let media_type = MediaType::parse(media_type?);
    if media_type.is_foreign() {
        let what = "layers that may not be distributed should no longer be used";
        notes.warn(&below(place, "mediaType"), what, "layer.md#non-distributable-layers");
    }
    let mut desc = Descriptor::new(media_type, digest?, size?);
    if object.contains_key("data") {
        // That the bytes are the content is looked at by the reader of descriptors.
        if let Err(error) = serde_json::from_value::<Descriptor>(value.clone()) {
            let what = "it is not the content that the descriptor names".to_owned();
            notes.error(&below(place, "data"), what, "descriptor.md#embedded-content");
            if let Some(flaw) = notes.flaws.last_mut() {
                let message = "read the descriptor";
                let cause = dist_core::Error::new(dist_core::ErrorKind::Corrupt, message);
                flaw.cause = Some(cause.with_source(error));
            }
        }
    }
    let platform = object.get("platform").cloned();
    desc.platform = platform.and_then(|platform| serde_json::from_value(platform).ok());
    Some(Named { desc, place: place.to_owned(), parent: Some(notes.desc.digest) })
}

/// Reads a digest; one of an algorithm that is not registered is allowed, but not followed.
pub(super) fn digest(text: &str, place: &str, notes: &mut Notes<'_>) -> Option<Digest> {
    match text.parse::<Digest>() {
        Ok(digest) => Some(digest),
        Err(DigestError::Algorithm) => {
            let what = format!("the algorithm of {text:?} is not supported: it was not looked at");
            notes.warn(place, what, DIGESTS);
            None
        }
        Err(error) => {
            notes.error(place, format!("{text:?} is no digest"), DIGESTS);
            if let Some(flaw) = notes.flaws.last_mut() {
                let cause = dist_core::Error::new(dist_core::ErrorKind::Corrupt, "read the digest");
                flaw.cause = Some(cause.with_source(error));
            }
            None
        }
    }
}

fn platform(object: &Map<String, Value>, place: &str, notes: &mut Notes<'_>) {
    let place = below(place, "platform");
    let platform = match object.get("platform") {
        None => return,
        Some(Value::Object(platform)) => platform,
        Some(other) => {
            notes.error(&place, format!("it is {}, not an object", kind(other)), INDEX);
            return;
        }
    };
    for key in ["architecture", "os"] {
        if !platform.contains_key(key) {
            notes.error(&below(&place, key), "it is missing", INDEX);
        }
    }
    for key in ["architecture", "os", "os.version", "variant"] {
        let Some(text) = notes.text(platform, key, &place, INDEX) else { continue };
        usual_name(key, text, &below(&place, key), notes, INDEX);
    }
    match platform.get("os.features") {
        None => {}
        Some(Value::Array(features)) if features.iter().all(Value::is_string) => {}
        Some(_) => notes.error(&below(&place, "os.features"), "it is no array of strings", INDEX),
    }
}

/// Tells of a processor that is not called as Go calls it.
pub(super) fn usual_name(
    key: &str,
    text: &str,
    place: &str,
    notes: &mut Notes<'_>,
    spec: &'static str,
) {
    let usual = match (key, text) {
        (_, "") if key != "variant" && key != "os.version" => {
            notes.error(place, "it is empty", spec);
            return;
        }
        ("architecture", "x86_64" | "x86-64") => "amd64",
        ("architecture", "aarch64") => "arm64",
        ("architecture", "i386" | "i486" | "i586" | "i686") => "386",
        ("architecture", "armhf" | "armel") => "arm",
        ("os", "macos") => "darwin",
        ("os" | "architecture", text) if text.bytes().any(|byte| byte.is_ascii_uppercase()) => {
            notes.warn(place, format!("{text:?} should be in lower case"), spec);
            return;
        }
        _ => return,
    };
    notes.warn(place, format!("{text:?} should be {usual:?}"), spec);
}

/// The keys below `org.opencontainers.image.` that have a meaning.
const IMAGE_KEYS: &[&str] = &[
    "authors",
    "base.digest",
    "base.name",
    "created",
    "description",
    "documentation",
    "licenses",
    "ref.name",
    "revision",
    "source",
    "title",
    "url",
    "vendor",
    "version",
];

fn annotations(object: &Map<String, Value>, place: &str, notes: &mut Notes<'_>) {
    let place = below(place, "annotations");
    let annotations = match object.get("annotations") {
        None => return,
        Some(Value::Object(annotations)) => annotations,
        Some(other) => {
            let what = format!("it is {}, not an object", kind(other));
            notes.error(&place, what, ANNOTATIONS);
            return;
        }
    };
    for (key, value) in annotations {
        let at = below(&place, key);
        let Value::String(text) = value else {
            notes.error(&at, format!("it is {}, not a string", kind(value)), ANNOTATIONS);
            continue;
        };
        if key.is_empty() {
            notes.error(&at, "its key is empty", ANNOTATIONS);
        } else if !key.contains('.') {
            let what = "its key should be named by a reversed domain";
            notes.warn(&at, what, ANNOTATIONS);
        }
        let Some(name) = key.strip_prefix("org.opencontainers.image.") else { continue };
        if !IMAGE_KEYS.contains(&name) {
            notes.warn(&at, "its key is reserved and not defined", KEYS);
        } else if name == "created" && !is_time(text) {
            notes.warn(&at, format!("{text:?} is no time as RFC 3339 has it"), KEYS);
        } else if name == "base.digest" && text.parse::<Digest>().is_err() {
            notes.warn(&at, format!("{text:?} is no digest"), KEYS);
        }
    }
}

/// Whether a text is a time as RFC 3339, section 5.6, has it.
pub(super) fn is_time(text: &str) -> bool {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    let shape = shape.to_ascii_uppercase();
    let Some(rest) = shape.strip_prefix("0000-00-00T00:00:00") else { return false };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches('0');
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    matches!(zone, "Z" | "+00:00" | "-00:00") && text.parse::<jiff::Timestamp>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for good in [
            "2024-01-02T03:04:05Z",
            "2024-01-02T03:04:05.123456789Z",
            "2024-01-02t03:04:05+02:00",
            "0001-01-01T00:00:00Z",
        ] {
            assert!(is_time(good), "{good}");
        }
        for bad in [
            "2024-01-02 03:04:05Z",
            "2024-01-02T03:04:05",
            "2024-01-02T03:04Z",
            "2024-13-02T03:04:05Z",
            "2024-01-02T03:04:05.Z",
            "2024-01-02T03:04:05+0200",
            "yesterday",
            "",
        ] {
            assert!(!is_time(bad), "{bad}");
        }
    }

    #[test]
    fn media_types() {
        assert!(is_media_type("application/vnd.oci.image.layer.v1.tar+gzip"));
        assert!(is_media_type("text/plain; charset=utf-8"));
        for bad in ["", "text", "text/", "/x", "te xt/x", "a/b/c"] {
            assert!(!is_media_type(bad), "{bad}");
        }
    }
}
