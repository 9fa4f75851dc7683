//! Archives as remotes: `oci-archive:PATH[:TAG]`, `docker-archive:PATH[:NAME]`.
//!
//! Both are an OCI layout as a tar. One for docker has docker's `manifest.json` beside `index.json`; what
//! older dockers save, which is nothing but that, is read as well. `-` is standard output, or input.
//! What is read through a pipe, or is compressed, is kept in a temporary file: its index may be its
//! last entry.

pub(crate) mod read;
mod source;
pub(crate) mod write;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dist_core::{
    Context as _, Digest, Error, ErrorKind, Fetcher, Pusher, Reference, Resolved, Resolver, Result,
    ResultExt as _,
};

use self::read::Archive;
pub(crate) use self::source::WebReader;
use self::write::{ArchivePusher, ArchiveWriter};
use crate::blocking::blocking;
use crate::remotes::Scheme;

/// The scheme of OCI layouts as archives.
pub(crate) const OCI_ARCHIVE: &str = "oci-archive";
/// The scheme of archives for docker.
pub(crate) const DOCKER_ARCHIVE: &str = "docker-archive";

/// Reads and writes archives. What is written is whole after [`Archives::finish`].
#[derive(Default)]
pub(crate) struct Archives {
    read: Mutex<HashMap<PathBuf, Arc<Archive>>>,
    written: Mutex<HashMap<PathBuf, Arc<ArchiveWriter>>>,
}

/// A name with its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    docker: bool,
    path: PathBuf,
    object: Option<String>,
}

impl Name {
    /// The path ends at the first `:`.
    fn parse(text: &str) -> Result<Self> {
        let invalid = || {
            let message =
                format!("read name {text:?}: it is {OCI_ARCHIVE}: or {DOCKER_ARCHIVE}: and a path");
            Error::new(ErrorKind::InvalidArgument, message)
        };
        let (scheme, rest) = text.split_once(':').ok_or_else(invalid)?;
        let (path, object) = match rest.split_once(':') {
            Some((path, object)) if !object.is_empty() => (path, Some(object.to_owned())),
            Some(_) => return Err(invalid()),
            None => (rest, None),
        };
        if path.is_empty() {
            return Err(invalid());
        }
        let path = if path == "-" { "/dev/stdout" } else { path };
        Ok(Self { docker: scheme == DOCKER_ARCHIVE, path: path.into(), object })
    }
}

/// What of a whole name is before its tag or digest, with the `:`; nothing of a tag alone.
fn repository(object: &str) -> String {
    let name = object.split('@').next().unwrap_or_default();
    let last = name.rfind('/').map_or(0, |at| at + 1);
    match name[last..].rfind(':') {
        Some(at) => name[..=last + at].to_owned(),
        None if last > 0 => format!("{name}:"),
        None => String::new(),
    }
}

impl Archives {
    /// The name for `tag` in the archive of `name`: in the same repository, where that is named.
    fn beside(name: &str, tag: &str) -> Result<String> {
        let Name { docker, path, object } = Name::parse(name)?;
        let scheme = if docker { DOCKER_ARCHIVE } else { OCI_ARCHIVE };
        let repository = object.as_deref().map(repository).unwrap_or_default();
        Ok(format!("{scheme}:{}:{repository}{tag}", path.display()))
    }

    /// Ends what is written: indexes, and the files' names.
    async fn end(&self) -> Result<()> {
        let written: Vec<_> = {
            let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written.drain().map(|(_, writer)| writer).collect()
        };
        for writer in written {
            writer.finish().await?;
        }
        Ok(())
    }

    async fn open(&self, name: &Name) -> Result<Arc<Archive>> {
        if let Some(archive) = self.opened(&name.path) {
            return Ok(archive);
        }
        // One name is for both directions.
        let stdin = name.path == Path::new("/dev/stdout");
        let path = if stdin { PathBuf::from("/dev/stdin") } else { name.path.clone() };
        let archive = Arc::new(blocking(move || Archive::open(&path)).await?);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(read.entry(name.path.clone()).or_insert(archive)))
    }

    fn opened(&self, path: &PathBuf) -> Option<Arc<Archive>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }
}

#[async_trait]
impl Resolver for Archives {
    async fn resolve(&self, text: &str) -> Result<Resolved> {
        let name = Name::parse(text)?;
        let what = || format!("resolve {text}");
        let archive = self.open(&name).await.during(what)?;
        let target = archive.find(name.object.as_deref()).during(what)?;
        Ok(Resolved { name: text.to_owned(), target })
    }

    async fn look_up(&self, text: &str) -> Result<Option<Resolved>> {
        let name = Name::parse(text)?;
        let written =
            self.written.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&name.path);
        if written {
            return Ok(None); // it begins empty
        }
        match self.resolve(text).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            resolved => resolved.map(Some),
        }
    }

    fn fetcher(&self, text: &str) -> Result<Arc<dyn Fetcher>> {
        let name = Name::parse(text)?;
        match self.opened(&name.path) {
            Some(archive) => Ok(archive),
            None => Ok(Arc::new(read::Nothing)),
        }
    }

    fn pusher(&self, text: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        let mut name = Name::parse(text)?;
        if let (true, Some(object)) = (name.docker, &mut name.object) {
            let full = Reference::parse_familiar(object);
            *object = full
                .context(ErrorKind::InvalidArgument, || format!("parse reference {object:?}"))?
                .to_string();
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = written
            .entry(name.path.clone())
            .or_insert_with(|| Arc::new(ArchiveWriter::new(name.path, name.docker)));
        Ok(Arc::new(ArchivePusher::new(Arc::clone(writer), name.object, *root)))
    }
}

#[async_trait]
impl Scheme for Archives {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        Self::beside(name, tag)
    }

    fn has_tags(&self, name: &str) -> bool {
        // docker would take what lies there for images.
        !name.starts_with(DOCKER_ARCHIVE)
    }

    async fn finish(&self) -> Result<()> {
        self.end().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = |text: &str| Name::parse(text).unwrap();
        let read = name("docker-archive:/a/b.tar:redis:7");
        assert_eq!((read.docker, read.object.as_deref()), (true, Some("redis:7")));
        assert_eq!(read.path, PathBuf::from("/a/b.tar"));
        assert_eq!(name("oci-archive:-").path, PathBuf::from("/dev/stdout"));
        assert_eq!(name("oci-archive:x").object, None);
        for text in ["oci-archive:", "oci-archive::x", "oci-archive:x:", "x"] {
            assert!(Name::parse(text).is_err(), "{text}");
        }
        let beside = Archives::beside("oci-archive:x:1", "sha256-ab").unwrap();
        assert_eq!(beside, "oci-archive:x:sha256-ab");
        for (object, repository) in [
            ("redis:7", "redis:"),
            ("localhost:5000/a/b:1", "localhost:5000/a/b:"),
            ("localhost:5000/a/b", "localhost:5000/a/b:"),
            ("a/b:1@sha256:00", "a/b:"),
        ] {
            let beside = Archives::beside(&format!("oci-archive:x:{object}"), "sha256-ab").unwrap();
            assert_eq!(beside, format!("oci-archive:x:{repository}sha256-ab"));
        }
    }
}
