//! Content into OCI layout directories.
//!
//! ```text
//! PATH/blobs/<algorithm>/.<hex>.part   a blob on its way; what a process left is gone on with
//! PATH/blobs/<algorithm>/<hex>         renamed to when it is verified and on the disk
//! PATH/index.json                      written anew and renamed, last
//! ```
//!
//! Who writes a blob holds a lock on its part, who changes the index one on the directory.

use std::fs::{File, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ContentMismatch, Context as _, Descriptor, Digest, Error, ErrorKind, Event, Fetcher, Hasher,
    Progress, Pushed, Pusher, Result, ResultExt as _,
};
use fs_err as fs;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use crate::escape;
use crate::held::blocking;
use crate::layout::Name;
use crate::layout_index::{Object, REF_NAME, check_marker};

/// How much is written at once.
const BATCH: usize = 1 << 20;
const MARKER: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Pushes what belongs to one name.
pub(crate) struct LayoutPusher {
    path: PathBuf,
    tag: Option<String>,
    root: Digest,
}

impl LayoutPusher {
    /// # Errors
    /// `InvalidArgument` where the name is pinned to something else than `root`.
    pub(crate) fn new(name: Name, root: &Digest) -> Result<Self> {
        let tag = match name.object {
            Object::Only => None,
            Object::Tag(tag) => Some(tag),
            Object::Digest(digest) if digest == *root => None,
            Object::Digest(digest) => {
                let message = format!("push {root} to {digest}: that is the name of other content");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        };
        Ok(Self { path: name.path, tag, root: *root })
    }

    fn what(&self, desc: &Descriptor) -> String {
        let path = escape::text(&self.path.display().to_string());
        format!("push {} {} to oci:{path}", desc.media_type.noun(), desc.digest)
    }

    fn directory(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm())
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.directory(digest).join(digest.hex())
    }

    fn exists(&self, desc: &Descriptor) -> bool {
        let found = fs::symlink_metadata(self.blob(&desc.digest));
        found.is_ok_and(|found| found.is_file() && found.len() == desc.size)
    }

    /// The entries of the index, and whether the root is among them as it shall be.
    fn index(&self) -> Result<(Value, bool)> {
        let path = self.path.join("index.json");
        let what = || format!("read {}", path.display());
        let index: Value = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, what)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({
                "schemaVersion": 2,
                "mediaType": dist_core::MediaType::Index.as_str(),
                "manifests": [],
            }),
            Err(error) => return Err(error).context(ErrorKind::Storage, what),
        };
        let Some(entries) = index.get("manifests").and_then(Value::as_array) else {
            return Err(Error::new(ErrorKind::Corrupt, format!("{}: it is no index", what())));
        };
        let root = self.root.to_string();
        let named = entries.iter().any(|entry| {
            entry.get("digest").and_then(Value::as_str) == Some(&root)
                && (self.tag.is_none() || tag_of(entry) == self.tag.as_deref())
        });
        Ok((index, named))
    }

    /// Makes the name stand for the root.
    fn name(&self, desc: &Descriptor) -> Result<Pushed> {
        let what = || format!("write the index of {}", self.path.display());
        let lock = self.lock().context(ErrorKind::Storage, what)?;
        let (mut index, named) = self.index()?;
        if named {
            return Ok(Pushed::Existed);
        }
        let mut entry = desc.clone();
        entry.annotations.remove(REF_NAME);
        if let Some(tag) = &self.tag {
            entry.annotations.insert(REF_NAME.to_owned(), tag.clone());
        }
        if let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) {
            if self.tag.is_some() {
                entries.retain(|entry| tag_of(entry) != self.tag.as_deref());
            }
            entries.push(json!(entry));
        }
        replace(&lock, &self.path.join("index.json"), &index.to_string())
            .context(ErrorKind::Storage, what)?;
        Ok(Pushed::Uploaded)
    }

    /// The directory, for one process at a time.
    fn lock(&self) -> std::io::Result<fs::File> {
        let lock = fs::File::open(&self.path)?;
        lock.file().lock()?;
        Ok(lock)
    }

    /// Makes a layout of the directory, which may be one already, but none of another version.
    fn mark(&self) -> Result<()> {
        let marker = self.path.join("oci-layout");
        let what = || format!("make layout {}", self.path.display());
        let check = || match fs::read(&marker) {
            Ok(bytes) => check_marker(&bytes, &marker.display().to_string()).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).context(ErrorKind::Storage, what),
        };
        if check()? {
            return Ok(());
        }
        fs::create_dir_all(&self.path).context(ErrorKind::Storage, what)?;
        let lock = self.lock().context(ErrorKind::Storage, what)?;
        if check()? {
            return Ok(());
        }
        replace(&lock, &marker, MARKER).context(ErrorKind::Storage, what)
    }

    /// Makes the directories, and takes the part of a blob; `None` where the blob is there.
    fn begin(&self, desc: &Descriptor) -> Result<Option<Part>> {
        let what = || format!("open a part of {}", desc.digest);
        let directory = self.directory(&desc.digest);
        self.mark()?;
        fs::create_dir_all(&directory).context(ErrorKind::Storage, what)?;
        let path = directory.join(format!(".{}.part", desc.digest.hex()));
        loop {
            if self.exists(desc) {
                return Ok(None);
            }
            let mut options = fs::OpenOptions::new();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.open(&path).context(ErrorKind::Storage, what)?.into_parts().0;
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => file.lock().context(ErrorKind::Storage, what)?,
                Err(TryLockError::Error(error)) => {
                    return Err(error).context(ErrorKind::Storage, what);
                }
                Ok(()) => {}
            }
            // Whoever had it may have finished, and it is another file by now.
            let held = file.metadata().context(ErrorKind::Storage, what)?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == held.ino()) {
                return Part::take_up(path, file, desc).context(ErrorKind::Storage, what).map(Some);
            }
        }
    }

    async fn write(&self, desc: &Descriptor, mut part: Part, content: &dyn Fetcher) -> Result<()> {
        let mut stream = content.fetch(desc, part.at).await?;
        let mut batch: Vec<Bytes> = Vec::new();
        loop {
            let chunk = stream.next().await.transpose();
            let ended = !matches!(chunk, Ok(Some(_)));
            let failed = chunk.map(|chunk| batch.extend(chunk)).err();
            if ended || batch.iter().map(Bytes::len).sum::<usize>() >= BATCH {
                let (chunks, digest) = (std::mem::take(&mut batch), desc.digest);
                part = blocking(move || {
                    part.write(&chunks)
                        .context(ErrorKind::Storage, || format!("write {digest}"))?;
                    Ok(part)
                })
                .await?;
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if ended {
                break;
            }
        }
        let (desc, path) = (desc.clone(), self.blob(&desc.digest));
        blocking(move || part.finish(&desc, path)).await
    }
}

/// A blob that is being written.
struct Part {
    path: PathBuf,
    file: File,
    at: u64,
    hasher: Hasher,
}

impl Part {
    /// Goes on behind what is there.
    fn take_up(path: PathBuf, mut file: File, desc: &Descriptor) -> std::io::Result<Self> {
        if file.metadata()?.len() > desc.size {
            file.set_len(0)?;
        }
        let (mut hasher, mut at) = (desc.digest.hasher(), 0);
        let mut buffer = vec![0; BATCH];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(Self { path, file, at, hasher });
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
        }
    }

    fn write(&mut self, chunks: &[Bytes]) -> std::io::Result<()> {
        for chunk in chunks {
            self.file.write_all(chunk)?;
            self.hasher.update(chunk);
            self.at += chunk.len() as u64;
        }
        Ok(())
    }

    fn finish(self, desc: &Descriptor, to: PathBuf) -> Result<()> {
        let what = || format!("keep {}", desc.digest);
        if let Err(error) = desc.verify(self.at, self.hasher.clone().finish()) {
            fs::remove_file(&self.path).context(ErrorKind::Storage, what)?;
            return Err(error);
        }
        self.file.sync_all().context(ErrorKind::Storage, what)?;
        fs::rename(&self.path, to).context(ErrorKind::Storage, what)
    }
}

impl Drop for Part {
    /// What is there is kept for whoever goes on with it: of nothing, nothing.
    fn drop(&mut self) {
        if self.at == 0
            && let Err(error) = fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "an empty part stays");
        }
    }
}

/// Puts a file of `directory` in the place of what is there. Nobody else may do that meanwhile.
fn replace(directory: &fs::File, path: &Path, text: &str) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let part = path.with_file_name(format!(".{name}.part"));
    let mut file = fs::File::create(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)?;
    directory.sync_all()
}

fn tag_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

#[async_trait]
impl Pusher for LayoutPusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        _sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let this = Arc::new(Self { path: self.path.clone(), tag: self.tag.clone(), ..*self });
        let counted = Counted { content, progress: Arc::clone(&progress) };
        let mut pushed = Pushed::Existed;
        loop {
            let (shared, wanted) = (Arc::clone(&this), desc.clone());
            let part = blocking(move || shared.begin(&wanted)).await.during(|| self.what(desc))?;
            let Some(part) = part else { break };
            let offset = part.at;
            progress.event(Event::Started { desc, offset });
            match this.write(desc, part, &counted).await {
                // It may be what was there that is wrong; it is not there any more.
                Err(error) if offset > 0 && error.find::<ContentMismatch>().is_some() => {}
                written => {
                    written.during(|| self.what(desc))?;
                    pushed = Pushed::Uploaded;
                    break;
                }
            }
        }
        if desc.digest == self.root {
            let wanted = desc.clone();
            let named = blocking(move || this.name(&wanted)).await.during(|| self.what(desc))?;
            pushed = if named == Pushed::Uploaded { named } else { pushed };
        }
        progress.event(match pushed {
            Pushed::Uploaded => Event::Committed { digest: desc.digest },
            Pushed::Mounted | Pushed::Existed => Event::Existed { desc },
        });
        Ok(pushed)
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        // Nothing says that what a manifest names is here as well.
        let _ = desc;
        Ok(false)
    }
}

/// Tells of what passes.
struct Counted {
    content: Arc<dyn Fetcher>,
    progress: Arc<dyn Progress>,
}

#[async_trait]
impl Fetcher for Counted {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<dist_core::ByteStream> {
        let (progress, digest) = (Arc::clone(&self.progress), desc.digest);
        let stream = self.content.fetch(desc, offset).await?;
        Ok(Box::pin(stream.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                let bytes = chunk.len() as u64;
                progress.event(Event::Advanced { digest, bytes });
            }
        })))
    }
}
