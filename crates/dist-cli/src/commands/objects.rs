//! Objects of a repository as scripts name them: a tag or a digest, with hints.
//!
//! Hints are `mediatype:TYPE` and `size:BYTES`. They are checked against what the registry says; with
//! both of them a digest is asked for as they say, and verified.

use dist::Remotes;
use dist_core::{
    ContentMismatch, Descriptor, Digest, Document, Error, ErrorKind, MediaType, Platform, Resolver,
    Result, ResultExt, select_platform,
};

use crate::reference;

const MEDIA_TYPE: &str = "mediatype:";
const SIZE: &str = "size:";

/// What is wanted of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Object {
    /// The full name, for a resolver.
    pub(crate) name: String,
    digest: Option<Digest>,
    media_type: Option<MediaType>,
    size: Option<u64>,
}

impl Object {
    /// Reads `[object] [hint...]`, which belong to `repository`.
    pub(crate) fn parse<'a>(
        repository: &str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self> {
        let mut words = words.into_iter().peekable();
        let object = words.next_if(|word| !is_hint(word));
        let mut read = Self { name: String::new(), digest: None, media_type: None, size: None };
        for word in words {
            if let Some(media_type) = word.strip_prefix(MEDIA_TYPE) {
                read.media_type = Some(MediaType::parse(media_type));
            } else if let Some(size) = word.strip_prefix(SIZE).and_then(|size| size.parse().ok()) {
                read.size = Some(size);
            } else {
                return Err(Error::new(
                    ErrorKind::InvalidArgument,
                    format!("read hint {word:?}: hints are mediatype:TYPE and size:BYTES"),
                ));
            }
        }
        reference::check(repository)?;
        let is_address = dist_core::scheme(repository, reference::WEB).is_some();
        let base = match dist_core::scheme(repository, reference::SCHEMES) {
            Some(_) => repository.to_owned(),
            None if object.is_some() => reference::parse(repository)?.locator(),
            None => {
                let own = reference::parse(repository)?;
                read.digest = own.digest().copied();
                own.to_string()
            }
        };
        read.name = match object {
            None => base,
            Some(object) if object.contains(':') => {
                let digest = super::parse_digest(object)?;
                read.digest = Some(digest);
                let sign = if is_address { '#' } else { '@' };
                format!("{base}{sign}{digest}")
            }
            Some(tag) if is_address => format!("{base}#{tag}"),
            Some(tag) => format!("{base}:{tag}"),
        };
        reference::check(&read.name)?;
        Ok(read)
    }

    /// Finds out what it is.
    pub(crate) async fn describe(
        &self,
        remotes: &Remotes,
        platform: &Platform,
    ) -> Result<Descriptor> {
        if let Self {
            digest: Some(digest), media_type: Some(media_type), size: Some(size), ..
        } = self
        {
            return Ok(Descriptor::new(media_type.clone(), *digest, *size));
        }
        let mut desc = remotes.resolve(&self.name).await?.target;
        if desc.media_type.is_index()
            && self.media_type.as_ref().is_some_and(MediaType::is_manifest)
        {
            desc = self.below_index(remotes, &desc, platform).await?;
        }
        if let Some(hint) = &self.media_type
            && !fits(hint, &desc.media_type)
        {
            let got = desc.media_type.as_str();
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "check the media type of {}: it is {got:?}, not {:?}",
                    self.name,
                    hint.as_str()
                ),
            ));
        }
        match self.size {
            Some(expected) if expected != desc.size => {
                Err(Error::new(ErrorKind::Corrupt, format!("check the size of {}", self.name))
                    .with_source(ContentMismatch::Size { expected, got: desc.size }))
            }
            _ => Ok(desc),
        }
    }

    /// The manifest for `platform`: who asks for a manifest by a tag that is an index's means this.
    async fn below_index(
        &self,
        remotes: &Remotes,
        index: &Descriptor,
        platform: &Platform,
    ) -> Result<Descriptor> {
        let fetcher = remotes.fetcher(&self.name)?;
        let bytes = dist::fetch_document(&*fetcher, index).await?;
        let document = Document::parse(&index.media_type, &bytes)
            .during(|| format!("parse index {}", index.digest))?;
        let best = select_platform(document.children(), platform)?.into_iter().next();
        best.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("the index {} is empty", index.digest))
        })
    }
}

/// Whether something of type `got` can be what `hint` says. Docker's and OCI's documents of one kind
/// are the same to a caller; blobs have no type in a registry, so that they can be any.
fn fits(hint: &MediaType, got: &MediaType) -> bool {
    let is_document = |media_type: &MediaType| media_type.is_manifest() || media_type.is_index();
    if is_document(got) || is_document(hint) {
        (hint.is_manifest(), hint.is_index()) == (got.is_manifest(), got.is_index())
    } else {
        true
    }
}

fn is_hint(word: &str) -> bool {
    word.starts_with(MEDIA_TYPE) || word.starts_with(SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_and_hints() {
        let digest = Digest::sha256(b"x");
        let text = digest.to_string();
        for (repository, words, name) in [
            ("redis", &[][..], "docker.io/library/redis:latest".to_owned()),
            ("redis", &["7"], "docker.io/library/redis:7".into()),
            ("redis:6", &["7", "size:3"], "docker.io/library/redis:7".into()),
            ("h:5000/a", &[text.as_str()], format!("h:5000/a@{digest}")),
            ("oci:/l", &["v1"], "oci:/l:v1".into()),
            ("https://h/l/", &["v1"], "https://h/l/#v1".into()),
            ("redis", &["size:3"], "docker.io/library/redis:latest".into()),
        ] {
            let read = Object::parse(repository, words.iter().copied()).unwrap();
            assert_eq!(read.name, name, "{repository} {words:?}");
        }
        let hinted =
            Object::parse("a", ["t", "mediatype:application/json; q=1", "size:12"]).unwrap();
        assert_eq!(hinted.size, Some(12));
        assert_eq!(hinted.media_type, Some(MediaType::parse("application/json")));
    }

    #[test]
    fn media_types_must_fit() {
        let blob = MediaType::parse("application/octet-stream");
        let docker = MediaType::parse("application/vnd.docker.distribution.manifest.v2+json");
        for (hint, got, fit) in [
            (&MediaType::Manifest, &MediaType::Manifest, true),
            (&MediaType::Manifest, &docker, true),
            (&MediaType::Index, &MediaType::Manifest, false),
            (&MediaType::parse("foo/bar"), &MediaType::Manifest, false),
            (&MediaType::parse("foo/bar"), &blob, true),
            (&MediaType::Manifest, &blob, false),
        ] {
            assert_eq!(fits(hint, got), fit, "{hint} {got}");
        }
    }

    #[test]
    fn bad_ones_are_usage_errors() {
        for words in [&["t", "what"][..], &["t", "size:-1"], &["sha256:12"], &["-x"], &["a b"]] {
            let error = Object::parse("a", words.iter().copied()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{words:?}");
        }
    }
}
