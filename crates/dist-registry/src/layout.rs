//! OCI layout directories, read only (OCI image-spec, image-layout.md).
//!
//! ```text
//! PATH/oci-layout                   {"imageLayoutVersion":"1.0.0"}
//! PATH/index.json                   an index; org.opencontainers.image.ref.name names its entries
//! PATH/blobs/<algorithm>/<hex>      content
//! ```
//!
//! A layout is as foreign as a registry. Only regular files are read, nothing below PATH is
//! reached over a symbolic link, opening never waits (fifos), and what is read whole has a limit.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, ContentMismatch, Context, Descriptor, Digest, Document, Error, ErrorKind, Fetcher,
    Limit, MAX_DOCUMENT_BYTES, MediaType, Pusher, Resolved, Resolver, Result, ResultExt,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::escape;
use crate::resolver::{check_supported, sniff};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CHUNK: u64 = 256 << 10;

/// Resolves names in layout directories: `path`, `path:tag` or `path@digest`.
///
/// The last `:` that no `/` follows begins the tag, so `a:b/` is the directory `a:b`. A path alone
/// stands for the only manifest there is. Names come without the `oci:` that picks this resolver,
/// and are resolved to full names that have it.
#[derive(Clone, Debug, Default)]
pub struct LayoutResolver(());

impl LayoutResolver {
    /// Makes a resolver.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[async_trait]
impl Resolver for LayoutResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let parsed = Name::parse(name)?;
        let full = format!("oci:{name}");
        blocking(move || {
            let what = || format!("resolve oci:{}", escape::text(&parsed.text()));
            let target = Layout::open(&parsed.path).and_then(|layout| layout.find(&parsed.object));
            Ok(Resolved { name: full, target: target.during(what)? })
        })
        .await
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(LayoutFetcher { path: Name::parse(name)?.path }))
    }

    fn pusher(&self, name: &str, _root: &Digest) -> Result<Arc<dyn Pusher>> {
        let message = format!("push to oci:{}: layouts are only read", escape::text(name));
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

/// Runs file work where waiting for a disk holds nobody up.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context(ErrorKind::Internal, || "read a layout directory".into())?
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    path: PathBuf,
    object: Object,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Only,
    Tag(String),
    Digest(Digest),
}

impl Name {
    fn parse(text: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            let text = escape::text(text);
            Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("read name \"oci:{text}\": {problem}"),
            ))
        };
        let (path, object) = match text.rsplit_once('@') {
            Some((path, digest)) if digest.contains(':') && !digest.contains('/') => {
                let digest = digest.parse().context(ErrorKind::InvalidArgument, || {
                    format!("read name \"oci:{}\"", escape::text(text))
                })?;
                (path, Object::Digest(digest))
            }
            _ => match text.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => {
                    if tag.is_empty() {
                        return invalid("after : comes a tag");
                    }
                    (path, Object::Tag(tag.to_owned()))
                }
                _ => (text, Object::Only),
            },
        };
        if path.is_empty() || path.contains('\0') {
            return invalid("it has no path of a directory");
        }
        Ok(Self { path: path.into(), object })
    }

    fn text(&self) -> String {
        let path = self.path.display();
        match &self.object {
            Object::Only => path.to_string(),
            Object::Tag(tag) => format!("{path}:{tag}"),
            Object::Digest(digest) => format!("{path}@{digest}"),
        }
    }
}

/// An opened layout directory.
struct Layout {
    path: PathBuf,
    dir: OwnedFd,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(errno) => {
                let kind = match errno {
                    Errno::NOENT => ErrorKind::NotFound,
                    Errno::NOTDIR => ErrorKind::Corrupt,
                    _ => ErrorKind::Storage,
                };
                let what = format!("open directory {}", path.display());
                return Err(Error::new(kind, what).with_source(std::io::Error::from(errno)));
            }
        };
        let layout = Self { path: path.to_owned(), dir };
        let marker = layout.document("oci-layout")?;
        let marker: Marker = serde_json::from_slice(&marker).context(ErrorKind::Corrupt, || {
            format!("read {}: not valid", path.join("oci-layout").display())
        })?;
        if marker.image_layout_version != "1.0.0" {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "open layout {}: its version is {:?}, and only 1.0.0 is known",
                    path.display(),
                    escape::text(&marker.image_layout_version)
                ),
            ));
        }
        Ok(layout)
    }

    fn find(&self, object: &Object) -> Result<Descriptor> {
        let bytes = self.document("index.json")?;
        let index = Document::parse(&MediaType::Index, &bytes)
            .during(|| format!("read {}", self.path.join("index.json").display()))?;
        let Document::Index(index) = index else {
            return Err(Error::new(ErrorKind::Internal, "an index was read as something else"));
        };
        let tag = |desc: &Descriptor| desc.annotations.get(REF_NAME).cloned();
        let found: Vec<&Descriptor> = index
            .manifests
            .iter()
            .filter(|desc| match object {
                Object::Only => true,
                Object::Tag(wanted) => tag(desc).is_some_and(|tag| tag == *wanted),
                Object::Digest(wanted) => desc.digest == *wanted,
            })
            .collect();
        let digests: BTreeSet<String> = found.iter().map(|desc| desc.digest.to_string()).collect();
        let Some(first) = found.first() else {
            return match object {
                Object::Digest(digest) => self.blob_descriptor(digest),
                _ => Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no such name; there are: {}", names(&index.manifests, tag)),
                )),
            };
        };
        if digests.len() > 1 {
            return Err(match object {
                Object::Only => Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "there are several manifests, say which: {}",
                        names(&index.manifests, tag)
                    ),
                ),
                _ => Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "the name is ambiguous, it stands for {}",
                        digests.into_iter().collect::<Vec<_>>().join(" and ")
                    ),
                ),
            });
        }
        check_supported(&first.media_type)?;
        if !first.media_type.is_manifest() && !first.media_type.is_index() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} is named as {:?}, which is no manifest",
                    first.digest,
                    escape::text(first.media_type.as_str())
                ),
            ));
        }
        Ok((*first).clone())
    }

    /// Describes content that the index does not name; manifests tell their type themselves.
    fn blob_descriptor(&self, digest: &Digest) -> Result<Descriptor> {
        let (file, size) = self.blob(digest)?;
        let mut media_type = None;
        if size <= MAX_DOCUMENT_BYTES {
            let mut bytes = Vec::new();
            file.take(MAX_DOCUMENT_BYTES)
                .read_to_end(&mut bytes)
                .context(ErrorKind::Storage, || {
                    format!("read {}", self.blob_path(digest).display())
                })?;
            media_type = sniff(&bytes);
        }
        let media_type = media_type.unwrap_or_else(|| MediaType::parse("application/octet-stream"));
        check_supported(&media_type)?;
        Ok(Descriptor::new(media_type, *digest, size))
    }

    /// Reads a whole file that lies in the directory itself.
    fn document(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let what = || format!("read {}", path.display());
        let (file, size) = open_file(&self.dir, name).map_err(|problem| {
            let missing = matches!(problem, Refused::Errno(Errno::NOENT));
            let error = problem.into_error(what());
            // Without it the directory is no layout at all.
            if missing {
                Error::new(ErrorKind::Corrupt, "it is no OCI layout").with_source(error)
            } else {
                error
            }
        })?;
        let limit = || {
            Error::new(ErrorKind::ResourceExhausted, what())
                .with_source(Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES })
        };
        if size > MAX_DOCUMENT_BYTES {
            return Err(limit());
        }
        let mut bytes = Vec::new();
        file.take(MAX_DOCUMENT_BYTES + 1)
            .read_to_end(&mut bytes)
            .context(ErrorKind::Storage, what)?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES { Err(limit()) } else { Ok(bytes) }
    }

    /// Opens a blob; returns its size as the file system says it.
    fn blob(&self, digest: &Digest) -> Result<(File, u64)> {
        let what = || format!("open {}", self.blob_path(digest).display());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let refused = |dir: &OwnedFd, name: &str, errno: Errno| {
            let link = errno == Errno::NOTDIR
                && statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
                    rustix::fs::FileType::from_raw_mode(stat.st_mode).is_symlink()
                });
            let errno = if link { Errno::LOOP } else { errno };
            Refused::Errno(errno).into_error(what())
        };
        let blobs = openat(&self.dir, "blobs", flags, Mode::empty())
            .map_err(|errno| refused(&self.dir, "blobs", errno))?;
        let algorithm = openat(&blobs, digest.algorithm(), flags, Mode::empty())
            .map_err(|errno| refused(&blobs, digest.algorithm(), errno))?;
        open_file(&algorithm, &digest.hex()).map_err(|problem| problem.into_error(what()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm()).join(digest.hex())
    }
}

/// The names there are, ten at most.
fn names(manifests: &[Descriptor], tag: impl Fn(&Descriptor) -> Option<String>) -> String {
    const SHOWN: usize = 10;
    let mut names: Vec<String> = manifests
        .iter()
        .take(SHOWN)
        .map(|desc| tag(desc).map_or_else(|| format!("@{}", desc.digest), |tag| escape::text(&tag)))
        .collect();
    if manifests.len() > SHOWN {
        names.push(format!("and {} more", manifests.len() - SHOWN));
    }
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// Why a file was not opened.
enum Refused {
    Errno(Errno),
    NotRegular,
}

impl Refused {
    fn into_error(self, what: String) -> Error {
        match self {
            Self::NotRegular => {
                Error::new(ErrorKind::Corrupt, format!("{what}: it is no regular file"))
            }
            Self::Errno(Errno::LOOP) => {
                Error::new(ErrorKind::Corrupt, format!("{what}: there is a symbolic link"))
            }
            Self::Errno(errno) => {
                let kind = match errno {
                    Errno::NOENT => ErrorKind::NotFound,
                    Errno::NOTDIR | Errno::NXIO => ErrorKind::Corrupt,
                    _ => ErrorKind::Storage,
                };
                Error::new(kind, what).with_source(std::io::Error::from(errno))
            }
        }
    }
}

fn open_file(dir: &OwnedFd, name: &str) -> Result<(File, u64), Refused> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = openat(dir, name, flags, Mode::empty()).map_err(Refused::Errno)?;
    let file = File::from(fd);
    let stat = rustix::fs::fstat(&file).map_err(Refused::Errno)?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(Refused::NotRegular);
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

struct LayoutFetcher {
    path: PathBuf,
}

#[async_trait]
impl Fetcher for LayoutFetcher {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let what = format!(
            "fetch {} {} from oci:{}",
            desc.media_type.noun(),
            desc.digest,
            escape::text(&self.path.display().to_string())
        );
        if offset > desc.size {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("{what}: there is nothing at byte {offset} of {}", desc.size),
            ));
        }
        let (path, digest, expected) = (self.path.clone(), desc.digest, desc.size);
        let shown = what.clone();
        let file = blocking(move || {
            let (file, got) = Layout::open(&path)
                .and_then(|layout| layout.blob(&digest))
                .during(|| shown.clone())?;
            if got != expected {
                let source = ContentMismatch::Size { expected, got };
                return Err(Error::new(ErrorKind::Corrupt, shown).with_source(source));
            }
            Ok(Arc::new(file))
        })
        .await?;
        let size = desc.size;
        Ok(Box::pin(futures_util::stream::try_unfold(offset, move |at| {
            let (file, what) = (file.clone(), what.clone());
            async move {
                if at == size {
                    return Ok(None);
                }
                let chunk = blocking(move || read_at(&file, at, size, what)).await?;
                let next = at + chunk.len() as u64;
                Ok(Some((chunk, next)))
            }
        })))
    }
}

/// Reads what comes next; the file having shrunk since it was opened is an error.
fn read_at(file: &File, at: u64, size: u64, what: String) -> Result<Bytes> {
    let length = usize::try_from(CHUNK.min(size - at)).unwrap_or(0);
    let mut bytes = vec![0; length];
    let got = loop {
        match file.read_at(&mut bytes, at) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            got => break got.context(ErrorKind::Storage, || what.clone())?,
        }
    };
    if got == 0 {
        let source = ContentMismatch::Size { expected: size, got: at };
        return Err(Error::new(ErrorKind::Corrupt, what).with_source(source));
    }
    bytes.truncate(got);
    Ok(bytes.into())
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
