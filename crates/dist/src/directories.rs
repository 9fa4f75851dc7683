//! Plain directories of one image each, as skopeo's `dir:` has them.
//!
//! ```text
//! PATH/version                  Directory Transport Version: 1.1
//! PATH/manifest.json            the manifest or the index
//! PATH/<hex>.manifest.json      a manifest that an index names
//! PATH/<hex>                    a blob
//! ```

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    ByteStream, ContentMismatch, Context as _, Descriptor, Digest, Document, Error, ErrorKind,
    Event, Fetcher, MAX_DOCUMENT_BYTES, MediaType, Progress, Pushed, Pusher, Resolved, Resolver,
    Result, ResultExt as _,
};
use futures_util::StreamExt as _;

use crate::Scheme;
use crate::blocking::blocking;

/// The scheme of these directories.
pub(crate) const DIR: &str = "dir";

const VERSION: &str = "Directory Transport Version: 1.1\n";

/// Directories by `dir:path`.
pub(crate) struct Directories;

fn path_of(name: &str) -> Result<PathBuf> {
    match name.split_once(':') {
        Some((_, path)) if !path.is_empty() && !path.contains('\0') => Ok(path.into()),
        _ => {
            let message = format!("read name {name:?}: it has no path of a directory");
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
    }
}

/// Opens a regular file, and no other kind.
fn open(path: &Path) -> Result<(File, u64)> {
    let what = || format!("open {}", path.display());
    let found = fs::symlink_metadata(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Storage };
        Error::new(kind, what()).with_source(error)
    })?;
    if !found.is_file() {
        return Err(Error::new(ErrorKind::Corrupt, format!("{}: it is no file", what())));
    }
    let file = File::open(path).context(ErrorKind::Storage, what)?;
    Ok((file, found.len()))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

#[async_trait]
impl Resolver for Directories {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let (path, name) = (path_of(name)?.join("manifest.json"), name.to_owned());
        blocking(move || {
            let what = || format!("read {}", path.display());
            let (_, size) = open(&path)?;
            if size > MAX_DOCUMENT_BYTES {
                let limit = dist_core::Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
                return Err(Error::new(ErrorKind::ResourceExhausted, what()).with_source(limit));
            }
            let bytes = fs::read(&path).context(ErrorKind::Storage, what)?;
            let kind: Kind = serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what)?;
            let media_type = match (kind.media_type, kind.manifests) {
                (Some(media_type), _) => MediaType::parse(&media_type),
                (None, Some(_)) => MediaType::Index,
                (None, None) => MediaType::Manifest,
            };
            let target = Descriptor::new(media_type, Digest::sha256(&bytes), bytes.len() as u64);
            Ok(Resolved { name, target })
        })
        .await
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(Directory(path_of(name)?)))
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        Ok(Arc::new(DirectoryPusher { path: path_of(name)?, root: *root }))
    }
}

impl Scheme for Directories {
    fn beside(&self, name: &str, _tag: &str) -> Result<String> {
        let message = format!("find what is beside {name}: it has no tags");
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    fn has_tags(&self, _name: &str) -> bool {
        false
    }
}

/// A directory to read from.
struct Directory(PathBuf);

#[async_trait]
impl Fetcher for Directory {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let what = format!("fetch {} from {}", desc.digest, self.0.display());
        let (path, digest, expected) = (self.0.clone(), desc.digest, desc.size);
        let shown = what.clone();
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        let file = blocking(move || {
            let hex = digest.hex();
            let names = match is_document {
                true => vec![format!("{hex}.manifest.json"), "manifest.json".to_owned()],
                false => vec![hex],
            };
            let mut found = Err(Error::new(ErrorKind::NotFound, shown.clone()));
            for name in names {
                found = open(&path.join(name)).during(|| shown.clone());
                if found.is_ok() {
                    break;
                }
            }
            let (file, got) = found?;
            if got != expected {
                let source = ContentMismatch::Size { expected, got };
                return Err(Error::new(ErrorKind::Corrupt, shown).with_source(source));
            }
            Ok(file)
        })
        .await?;
        Ok(dist_registry::file_stream(file, offset, desc.size, what))
    }
}

struct DirectoryPusher {
    path: PathBuf,
    root: Digest,
}

impl DirectoryPusher {
    fn file(&self, desc: &Descriptor) -> PathBuf {
        let hex = desc.digest.hex();
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        self.path.join(match is_document {
            true if desc.digest == self.root => "manifest.json".to_owned(),
            true => format!("{hex}.manifest.json"),
            false => hex,
        })
    }

    /// Fails for a directory of something else: what is in it would be mixed with an image.
    fn check(&self) -> Result<()> {
        let what = || format!("write to directory {}", self.path.display());
        let mut entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                let message = format!("{}: it is none", what());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            entries => entries.context(ErrorKind::Storage, what)?,
        };
        if entries.next().is_none() || self.path.join("version").is_file() {
            return Ok(());
        }
        let message = format!("{}: there is something in it that is no image of this kind", what());
        Err(Error::new(ErrorKind::InvalidArgument, message))
    }

    async fn write(
        &self,
        desc: &Descriptor,
        content: &dyn Fetcher,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let (dir, path) = (self.path.clone(), self.file(desc));
        let what = || format!("write {}", path.display());
        let there = fs::symlink_metadata(&path);
        if desc.digest != self.root && there.is_ok_and(|there| there.len() == desc.size) {
            return Ok(Pushed::Existed);
        }
        self.check()?;
        let mut stream = content.fetch(desc, 0).await?;
        progress.event(Event::Started { desc, offset: 0 });
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let part = path.with_file_name(format!(".{name}.part"));
        let begin = || {
            fs::create_dir_all(&dir)?;
            fs::write(dir.join("version"), VERSION)?;
            File::create(&part)
        };
        let mut file = begin().context(ErrorKind::Storage, what)?;
        let (mut hasher, mut size) = (desc.digest.hasher(), 0);
        while let Some(chunk) = stream.next().await.transpose()? {
            hasher.update(&chunk);
            size += chunk.len() as u64;
            file.write_all(&chunk).context(ErrorKind::Storage, what)?;
            progress.event(Event::Advanced { digest: desc.digest, bytes: chunk.len() as u64 });
        }
        let verified = desc.verify(size, hasher.finish());
        if verified.is_err() {
            fs::remove_file(&part).context(ErrorKind::Storage, what)?;
        }
        verified?;
        let (shown, part) = (what(), part.clone());
        blocking(move || {
            let keep = || {
                file.sync_all()?;
                fs::rename(&part, &path)
            };
            keep().context(ErrorKind::Storage, || shown)
        })
        .await?;
        Ok(Pushed::Uploaded)
    }
}

impl DirectoryPusher {
    /// Removes what an image that was here before has left, and `root` does not name.
    fn clear(&self, root: &Descriptor) -> Result<()> {
        let what = || format!("clear {}", self.path.display());
        let mut kept = HashSet::new();
        let mut waiting = vec![root.clone()];
        while let Some(desc) = waiting.pop() {
            let file = self.file(&desc);
            let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
            if !kept.insert(file.clone()) || !is_document {
                continue;
            }
            let bytes = fs::read(&file).context(ErrorKind::Storage, what)?;
            waiting.extend(Document::parse(&desc.media_type, &bytes)?.children());
        }
        for entry in fs::read_dir(&self.path).context(ErrorKind::Storage, what)? {
            let path = entry.context(ErrorKind::Storage, what)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if is_content(&name) && !kept.contains(&path) {
                fs::remove_file(&path).context(ErrorKind::Storage, what)?;
            }
        }
        Ok(())
    }
}

/// Whether a file of this name is a blob or a manifest of an index.
fn is_content(name: &str) -> bool {
    let hex = name.strip_suffix(".manifest.json").unwrap_or(name);
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    matches!(hex.len(), 64 | 96 | 128) && hex.bytes().all(is_hex)
}

#[async_trait]
impl Pusher for DirectoryPusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        _sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let pushed = self.write(desc, &*content, &*progress).await?;
        if desc.digest == self.root {
            self.clear(desc)?;
        }
        progress.event(match pushed {
            Pushed::Uploaded => Event::Committed { digest: desc.digest },
            Pushed::Mounted | Pushed::Existed => Event::Existed { desc },
        });
        Ok(pushed)
    }

    async fn has(&self, _desc: &Descriptor) -> Result<bool> {
        Ok(false) // what a manifest names may be missing
    }
}
