//! OCI layout directories (OCI image-spec, image-layout.md); written by `layout_push.rs`.
//!
//! ```text
//! PATH/oci-layout                   {"imageLayoutVersion":"1.0.0"}
//! PATH/index.json                   an index; org.opencontainers.image.ref.name names its entries
//! PATH/blobs/<algorithm>/<hex>      content
//! ```
//!
//! A layout is as foreign as a registry. Only regular files are read, nothing below PATH is
//! reached over a symbolic link, opening never waits (fifos), and what is read whole has a limit.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    ByteStream, ContentMismatch, Context, Descriptor, Digest, Error, ErrorKind, Fetcher, Limit,
    MAX_DOCUMENT_BYTES, MediaType, Pusher, Resolved, Resolver, Result, ResultExt,
};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use crate::escape;
use crate::held::blocking;
use crate::layout_index::{self, Found, Object};
use crate::layout_push::LayoutPusher;
use crate::resolver::{check_supported, sniff};

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

    /// The name for `tag` in the layout that `name` is in.
    ///
    /// # Errors
    /// `InvalidArgument` where `name` cannot be one.
    pub fn beside(name: &str, tag: &str) -> Result<String> {
        let Name { path, .. } = Name::parse(name)?;
        Ok(Name { path, object: Object::Tag(tag.to_owned()) }.text())
    }

    /// Waits until nobody else holds the layout that `name` is in, and holds it until the file is
    /// dropped: for who changes what a tag lists. Nothing where there is no layout yet.
    ///
    /// # Errors
    /// `InvalidArgument` where `name` cannot be one; `Storage`.
    pub async fn hold(&self, name: &str) -> Result<Option<std::fs::File>> {
        // The directory is locked for each change of the index, so this is another file.
        let marker = Name::parse(name)?.path.join("oci-layout");
        blocking(move || {
            let what = || format!("lock {}", marker.display());
            let file = match std::fs::File::open(&marker) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                file => file.context(ErrorKind::Storage, what)?,
            };
            file.lock().context(ErrorKind::Storage, what)?;
            Ok(Some(file))
        })
        .await
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

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::new(LayoutPusher::new(Name::parse(name)?, root)?))
    }
}

/// A name without its scheme.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) path: PathBuf,
    pub(crate) object: Object,
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
        layout_index::check_marker(&marker, &path.join("oci-layout").display().to_string())?;
        Ok(layout)
    }

    fn find(&self, object: &Object) -> Result<Descriptor> {
        let bytes = self.document("index.json")?;
        let shown = || format!("read {}", self.path.join("index.json").display());
        match layout_index::find(&bytes, object, shown)? {
            Found::Named(desc) => Ok(*desc),
            Found::Unnamed(digest) => self.blob_descriptor(&digest),
        }
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
            match name {
                // One whose first image is being written, or was not to its end.
                "index.json" if missing => {
                    Error::new(ErrorKind::NotFound, "no image is whole in it").with_source(error)
                }
                // Without it the directory is no layout at all.
                _ if missing => {
                    Error::new(ErrorKind::Corrupt, "it is no OCI layout").with_source(error)
                }
                _ => error,
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
            Ok(file)
        })
        .await?;
        Ok(crate::held::file_stream(file, offset, desc.size, what))
    }
}

#[cfg(test)]
#[path = "layout_tests.rs"]
mod tests;
