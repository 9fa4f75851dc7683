//! What a layout's `oci-layout` and `index.json` say, wherever the layout is.

use std::collections::BTreeSet;

use dist_core::{
    Context as _, Descriptor, Digest, Document, Error, ErrorKind, MediaType, Result, ResultExt as _,
};

use crate::escape;
use crate::referrers::is_attachment_tag;
use crate::resolver::check_supported;

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What of a layout is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Only,
    Tag(String),
    Digest(Digest),
}

/// What an index has of it.
pub(crate) enum Found {
    /// An entry.
    Named(Box<Descriptor>),
    /// Nothing; a blob may be there.
    Unnamed(Digest),
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

/// Checks the bytes of the `oci-layout` at `shown`.
///
/// # Errors
/// `Corrupt`.
pub(crate) fn check_marker(bytes: &[u8], shown: &str) -> Result<()> {
    let marker: Marker = serde_json::from_slice(bytes)
        .context(ErrorKind::Corrupt, || format!("read {shown}: not valid"))?;
    if marker.image_layout_version == "1.0.0" {
        return Ok(());
    }
    let version = escape::text(&marker.image_layout_version);
    let message = format!("read {shown}: its version is {version:?}, and only 1.0.0 is known");
    Err(Error::new(ErrorKind::Corrupt, message))
}

/// Finds what is meant in the bytes of an `index.json`; `shown` says what is done with them.
///
/// # Errors
/// `NotFound` for another name; `InvalidArgument` for no name where there are several; `Corrupt`;
/// `Unsupported`.
pub(crate) fn find(bytes: &[u8], object: &Object, shown: impl FnOnce() -> String) -> Result<Found> {
    let Document::Index(index) = Document::parse(&MediaType::Index, bytes).during(shown)? else {
        return Err(Error::new(ErrorKind::Internal, "an index was read as something else"));
    };
    let found: Vec<&Descriptor> = index
        .manifests
        .iter()
        .filter(|desc| match object {
            Object::Only => !tag(desc).is_some_and(is_attachment_tag),
            Object::Tag(wanted) => tag(desc).is_some_and(|tag| tag == wanted),
            Object::Digest(wanted) => desc.digest == *wanted,
        })
        .collect();
    let digests: BTreeSet<String> = found.iter().map(|desc| desc.digest.to_string()).collect();
    let Some(first) = found.first() else {
        if let Object::Digest(digest) = object {
            return Ok(Found::Unnamed(*digest));
        }
        let message = format!("there is no such name; there are: {}", names(&index.manifests));
        return Err(Error::new(ErrorKind::NotFound, message));
    };
    if digests.len() > 1 {
        return Err(match object {
            Object::Only => {
                let names = names(&index.manifests);
                let message = format!("there are several manifests, say which: {names}");
                Error::new(ErrorKind::InvalidArgument, message)
            }
            _ => {
                let digests = digests.into_iter().collect::<Vec<_>>().join(" and ");
                let message = format!("the name is ambiguous, it stands for {digests}");
                Error::new(ErrorKind::Corrupt, message)
            }
        });
    }
    check_supported(&first.media_type)?;
    if !first.media_type.is_manifest() && !first.media_type.is_index() {
        let media_type = escape::text(first.media_type.as_str());
        let message = format!("{} is named as {media_type:?}, which is no manifest", first.digest);
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    Ok(Found::Named(Box::new((*first).clone())))
}

fn tag(desc: &Descriptor) -> Option<&str> {
    desc.annotations.get(REF_NAME).map(String::as_str)
}

/// The names there are, ten at most.
fn names(manifests: &[Descriptor]) -> String {
    const SHOWN: usize = 10;
    let name =
        |desc: &Descriptor| tag(desc).map_or_else(|| format!("@{}", desc.digest), escape::text);
    let mut names: Vec<String> = manifests.iter().take(SHOWN).map(name).collect();
    if manifests.len() > SHOWN {
        names.push(format!("and {} more", manifests.len() - SHOWN));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}
