//! A bundle as it is written: blobs as they come, what names them at the end.
//!
//! It grows in `.<name>.part` beside its name, which a run that broke off leaves; the next one goes on
//! at the byte after the last. What is there is hashed first.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, ContentMismatch, Context as _, Descriptor, Digest, Document, Error, ErrorKind,
    Event, Fetcher, Hasher, MediaType, Progress, Pushed, Pusher, Reference, Resolved, Resolver,
    Result, ResultExt as _,
};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{About, LeftOut, SCHEME, beside, rest};
use crate::Scheme;
use crate::archives::read::ABOUT;
use crate::archives::write::{header, padding};
use crate::blocking::blocking;
use crate::import::{IMAGE_NAME, REF_NAME};
use crate::whole_file::Part;

/// How much is written, or hashed, at once.
const BATCH: usize = 1 << 20;
const BLOCK: u64 = 512;

/// The bundle that names lead to while it is written.
pub(super) struct Writing(Arc<BundleWriter>);

/// One bundle.
pub(super) struct BundleWriter {
    path: PathBuf,
    part: PathBuf,
    /// What former bundles have.
    known: BTreeMap<Digest, LeftOut>,
    named: Mutex<BTreeMap<String, Descriptor>>,
    state: tokio::sync::Mutex<State>,
}

struct State {
    file: Arc<File>,
    /// Where the next entry begins.
    end: u64,
    /// Where the content of each blob begins, and how long it is.
    blobs: BTreeMap<Digest, (u64, u64)>,
    directories: BTreeSet<String>,
    left_out: BTreeMap<Digest, LeftOut>,
    /// The blob at the end that is not whole.
    broken: Option<Broken>,
}

struct Broken {
    digest: Digest,
    size: u64,
    at: u64,
    hasher: Hasher,
}

/// What was written.
pub(super) struct Ended {
    pub(super) blobs: usize,
    pub(super) bytes: u64,
    pub(super) left_out: usize,
    /// Blobs that nothing names: a run for something else left them.
    pub(super) unnamed: usize,
}

impl BundleWriter {
    /// Opens the part, with what is in it.
    ///
    /// # Errors
    /// `Busy` where another process writes it; `Storage`.
    pub(super) fn open(path: &Path, known: BTreeMap<Digest, LeftOut>) -> Result<Arc<Self>> {
        let what = || format!("make bundle {}", path.display());
        let Part { file, path: part, to: path } = Part::open(path).during(what)?;
        let state = State::take_up(file).context(ErrorKind::Storage, what)?;
        Ok(Arc::new(Self {
            path,
            part,
            known,
            named: Mutex::default(),
            state: tokio::sync::Mutex::new(state),
        }))
    }

    /// What names lead to while it is written.
    pub(super) fn scheme(self: &Arc<Self>) -> Writing {
        Writing(Arc::clone(self))
    }

    /// Notes what a former bundle left out of what it names.
    pub(super) async fn leave_out(&self, blobs: &[LeftOut]) {
        let mut state = self.state.lock().await;
        state.left_out.extend(blobs.iter().map(|blob| (blob.digest, blob.clone())));
    }

    /// Takes the part away where there is nothing in it.
    pub(super) async fn leave(&self) {
        let state = self.state.lock().await;
        if state.end == 0
            && state.broken.is_none()
            && let Err(error) = std::fs::remove_file(&self.part)
        {
            tracing::warn!(path = %self.part.display(), %error, "an empty part stays");
        }
    }

    fn find(&self, name: &str) -> Option<Descriptor> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner).get(rest(name)).cloned()
    }

    /// Writes what names the blobs, and gives the bundle its name.
    pub(super) async fn finish(&self) -> Result<Ended> {
        let named = self.named.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut state = self.state.lock().await;
        let (ended, left_out) = state.reach(&named)?;
        let entries: Vec<_> = named.iter().map(|(name, desc)| entry(name, desc)).collect();
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Index.as_str(),
            "manifests": entries,
        });
        let what = || format!("write bundle {}", self.path.display());
        let about = About { version: 1, left_out };
        let about = serde_json::to_vec(&about).context(ErrorKind::Internal, what)?;
        let mut end = Vec::new();
        for (path, bytes) in [
            (ABOUT, about),
            ("index.json", index.to_string().into_bytes()),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ] {
            end.extend(header(path, bytes.len() as u64)?);
            end.extend(&bytes);
            end.extend(padding(bytes.len() as u64));
        }
        end.extend([0; 1024]);
        if let Some(broken) = state.broken.take() {
            state.end = broken.start(state.end);
        }
        let (file, at) = (Arc::clone(&state.file), state.end);
        let (part, path) = (self.part.clone(), self.path.clone());
        blocking(move || {
            let write = || {
                file.set_len(at)?;
                file.write_all_at(&end, at)?;
                file.sync_all()?;
                std::fs::rename(&part, &path)?;
                let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
                File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
            };
            write().context(ErrorKind::Storage, || format!("write bundle {}", path.display()))
        })
        .await?;
        Ok(ended)
    }

    async fn add(
        &self,
        desc: &Descriptor,
        content: &dyn Fetcher,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let mut state = self.state.lock().await;
        if state.blobs.contains_key(&desc.digest) {
            return Ok(Pushed::Existed);
        }
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        let known = self.known.get(&desc.digest).filter(|blob| blob.size == desc.size);
        if let (false, Some(known)) = (is_document, known) {
            state.left_out.insert(desc.digest, known.clone());
            return Ok(Pushed::Existed);
        }
        loop {
            let from = state.begin(desc).await?;
            progress.event(Event::Started { desc, offset: from });
            match state.fill(desc, content, progress).await {
                // It may be what was there that is wrong.
                Err(error) if from > 0 && error.find::<ContentMismatch>().is_some() => {}
                filled => return filled.map(|()| Pushed::Uploaded),
            }
        }
    }
}

impl Broken {
    /// Where the entry begins that `end` is behind.
    fn start(&self, end: u64) -> u64 {
        end - self.at - BLOCK
    }
}

impl State {
    /// Finds out what is in a part, and forgets what is behind the last good byte.
    fn take_up(file: File) -> std::io::Result<Self> {
        let length = file.metadata()?.len();
        let mut state = Self {
            file: Arc::new(file),
            end: 0,
            blobs: BTreeMap::new(),
            directories: BTreeSet::new(),
            left_out: BTreeMap::new(),
            broken: None,
        };
        while state.end + BLOCK <= length && state.broken.is_none() {
            let mut head = tar::Header::new_gnu();
            state.file.read_exact_at(head.as_mut_bytes(), state.end)?;
            let path = String::from_utf8_lossy(&head.path_bytes()).into_owned();
            if head.entry_type().is_dir() && path.starts_with("blobs/") {
                state.directories.insert(path);
                state.end += BLOCK;
                continue;
            }
            let digest = path.strip_prefix("blobs/").map(|rest| rest.replacen('/', ":", 1));
            let digest = digest.and_then(|text| text.parse::<Digest>().ok());
            let (Some(digest), Ok(size)) = (digest, head.entry_size()) else { break };
            let start = state.end + BLOCK;
            let there = size.min(length - start);
            let mut hasher = digest.hasher();
            let (mut buffer, mut at) = (vec![0; BATCH], 0);
            while at < there {
                let count = usize::try_from(there - at).unwrap_or(BATCH).min(BATCH);
                state.file.read_exact_at(&mut buffer[..count], start + at)?;
                hasher.update(&buffer[..count]);
                at += count as u64;
            }
            if there == size && hasher.clone().finish() != digest {
                break;
            }
            if start + size.next_multiple_of(BLOCK) <= length {
                state.blobs.insert(digest, (start, size));
                state.end = start + size.next_multiple_of(BLOCK);
            } else {
                state.end = start + there;
                state.broken = Some(Broken { digest, size, at: there, hasher });
            }
        }
        state.file.set_len(state.end)?;
        Ok(state)
    }

    /// Begins an entry, or goes on with the one that is not whole; returns how much of it is there.
    async fn begin(&mut self, desc: &Descriptor) -> Result<u64> {
        if let Some(broken) = self.broken.take() {
            if broken.digest == desc.digest && broken.size == desc.size {
                let at = broken.at;
                self.broken = Some(broken);
                return Ok(at);
            }
            self.end = broken.start(self.end);
        }
        let mut start = Vec::new();
        for path in ["blobs/".to_owned(), format!("blobs/{}/", desc.digest.algorithm())] {
            if self.directories.insert(path.clone()) {
                start.extend(header(&path, 0)?);
            }
        }
        start.extend(header(
            &format!("blobs/{}/{}", desc.digest.algorithm(), desc.digest.hex()),
            desc.size,
        )?);
        self.write(vec![start.into()]).await?;
        let (digest, size) = (desc.digest, desc.size);
        self.broken = Some(Broken { digest, size, at: 0, hasher: digest.hasher() });
        Ok(0)
    }

    /// Writes the rest of the entry that was begun.
    async fn fill(
        &mut self,
        desc: &Descriptor,
        content: &dyn Fetcher,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(mut broken) = self.broken.take() else { return Ok(()) };
        let filled = self.fill_up(&mut broken, desc, content, progress).await;
        let wrong = match filled {
            Ok(()) => desc.verify(broken.at, broken.hasher.clone().finish()),
            Err(error) => {
                self.broken = Some(broken);
                return Err(error);
            }
        };
        if wrong.is_err() {
            self.end = broken.start(self.end);
            return wrong;
        }
        self.blobs.insert(desc.digest, (self.end - desc.size, desc.size));
        self.write(vec![padding(desc.size).into()]).await
    }

    async fn fill_up(
        &mut self,
        broken: &mut Broken,
        desc: &Descriptor,
        content: &dyn Fetcher,
        progress: &dyn Progress,
    ) -> Result<()> {
        if broken.at == desc.size {
            return Ok(());
        }
        let mut stream = content.fetch(desc, broken.at).await?;
        let mut batch: Vec<Bytes> = Vec::new();
        loop {
            let chunk = stream.next().await.transpose();
            let ended = !matches!(chunk, Ok(Some(_)));
            let failed = chunk.map(|chunk| batch.extend(chunk)).err();
            if ended || batch.iter().map(Bytes::len).sum::<usize>() >= BATCH {
                let chunks = std::mem::take(&mut batch);
                let count: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
                self.write(chunks.clone()).await?;
                chunks.iter().for_each(|chunk| broken.hasher.update(chunk));
                broken.at += count;
                progress.event(Event::Advanced { digest: desc.digest, bytes: count });
            }
            if let Some(error) = failed {
                return Err(error);
            }
            if ended {
                return Ok(());
            }
        }
    }

    async fn write(&mut self, chunks: Vec<Bytes>) -> Result<()> {
        let (file, mut at) = (Arc::clone(&self.file), self.end);
        self.end = blocking(move || {
            for chunk in chunks {
                file.write_all_at(&chunk, at)
                    .context(ErrorKind::Storage, || "write the bundle".into())?;
                at += chunk.len() as u64;
            }
            Ok(at)
        })
        .await?;
        Ok(())
    }

    /// Makes sure that all that the names lead to is there, or left out.
    fn reach(&self, named: &BTreeMap<String, Descriptor>) -> Result<(Ended, Vec<LeftOut>)> {
        let mut seen = HashSet::new();
        let mut left_out = Vec::new();
        let mut waiting: Vec<Descriptor> = named.values().cloned().collect();
        while let Some(desc) = waiting.pop() {
            if !seen.insert(desc.digest) {
                continue;
            }
            let Some(&(at, size)) = self.blobs.get(&desc.digest) else {
                match self.left_out.get(&desc.digest) {
                    Some(blob) => left_out.push(blob.clone()),
                    None if desc.media_type.is_foreign() => {}
                    None => {
                        let message = format!("write the bundle: {} is not in it", desc.digest);
                        return Err(Error::new(ErrorKind::Internal, message));
                    }
                }
                continue;
            };
            if desc.media_type.is_manifest() || desc.media_type.is_index() {
                let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
                self.file
                    .read_exact_at(&mut bytes, at)
                    .context(ErrorKind::Storage, || "read the bundle".into())?;
                waiting.extend(Document::parse(&desc.media_type, &bytes)?.children());
            }
        }
        left_out.sort_by_key(|blob| blob.digest);
        let ended = Ended {
            blobs: self.blobs.len(),
            bytes: self.blobs.values().map(|(_, size)| size).sum(),
            left_out: left_out.len(),
            unnamed: self.blobs.keys().filter(|digest| !seen.contains(*digest)).count(),
        };
        Ok((ended, left_out))
    }
}

/// What `index.json` says of a name. What is attached to images is none itself.
fn entry(name: &str, desc: &Descriptor) -> Descriptor {
    let mut entry = desc.clone();
    entry.annotations.retain(|key, _| key != REF_NAME && key != IMAGE_NAME);
    entry.annotations.insert(REF_NAME.to_owned(), name.to_owned());
    let tag = Reference::parse(name).ok().and_then(|name| name.tag().map(str::to_owned));
    if !tag.is_some_and(|tag| dist_registry::is_attachment_tag(&tag)) {
        entry.annotations.insert(IMAGE_NAME.to_owned(), name.to_owned());
    }
    entry
}

#[async_trait]
impl Resolver for Writing {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let missing = || {
            let message = format!("find {} in the bundle", rest(name));
            Error::new(ErrorKind::NotFound, message)
        };
        let target = self.0.find(name).ok_or_else(missing)?;
        Ok(Resolved { name: name.to_owned(), target })
    }

    fn fetcher(&self, _name: &str) -> Result<Arc<dyn Fetcher>> {
        Ok(Arc::new(Self(Arc::clone(&self.0))))
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        let writer = Arc::clone(&self.0);
        Ok(Arc::new(BundlePusher { writer, name: rest(name).to_owned(), root: *root }))
    }
}

impl Scheme for Writing {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        beside(name, tag)
    }

    fn judged_as(&self, name: &str) -> Option<String> {
        Some(rest(name).to_owned()) // what it was in its registry
    }
}

#[async_trait]
impl Fetcher for Writing {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let what = || format!("fetch {} from the bundle", desc.digest);
        let state = self.0.state.lock().await;
        let found = state.blobs.get(&desc.digest);
        let &(at, size) = found.ok_or_else(|| Error::new(ErrorKind::NotFound, what()))?;
        let file = state.file.try_clone().context(ErrorKind::Storage, what)?;
        Ok(dist_registry::file_stream(file, at + offset, at + size, what()))
    }
}

struct BundlePusher {
    writer: Arc<BundleWriter>,
    name: String,
    root: Digest,
}

#[async_trait]
impl Pusher for BundlePusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        _sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let what = || {
            let path = self.writer.path.display();
            format!("write {} {} to bundle {path}", desc.media_type.noun(), desc.digest)
        };
        let pushed = self.writer.add(desc, &*content, &*progress).await.during(what)?;
        if desc.digest == self.root {
            let mut named = self.writer.named.lock().unwrap_or_else(PoisonError::into_inner);
            named.insert(self.name.clone(), desc.clone());
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

/// The name of what a bundle calls `reference`.
pub(super) fn name(reference: &str) -> String {
    format!("{SCHEME}:{reference}")
}
