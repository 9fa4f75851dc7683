//! An archive as it is written: each blob once, in the order in which they come, indexes last.
//!
//! It is written beside its name and renamed when it is whole; a pipe gets it as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    Context as _, Descriptor, Digest, Document, Error, ErrorKind, Event, Fetcher, MediaType,
    Platform, Progress, Pushed, Pusher, Result, ResultExt as _,
};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::blocking::blocking;
use crate::import::REF_NAME;
use crate::layers::best;
use crate::whole_file::WholeFile;

/// How much is written at once.
const BATCH: usize = 1 << 20;

/// One archive.
pub(super) struct ArchiveWriter {
    path: PathBuf,
    docker: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    file: Option<WholeFile>,
    blobs: BTreeSet<Digest>,
    directories: BTreeSet<String>,
    index: Vec<Value>,
    /// What manifests name, and what indexes do.
    documents: BTreeMap<Digest, Vec<Descriptor>>,
    /// What docker is to call an image, and what got the name.
    names: Vec<(String, Descriptor)>,
}

impl ArchiveWriter {
    pub(super) fn new(path: PathBuf, docker: bool) -> Self {
        Self { path, docker, state: Mutex::default() }
    }

    /// Writes the indexes and gives the archive its name.
    pub(super) async fn finish(&self) -> Result<()> {
        let what = || format!("write archive {}", self.path.display());
        let mut state = self.state.lock().await;
        if state.file.is_none() {
            return Ok(());
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::Index.as_str(),
            "manifests": state.index,
        });
        let mut documents = vec![("index.json", index)];
        if self.docker {
            documents.push(("manifest.json", state.docker_manifest()?));
        }
        documents.push(("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })));
        let mut end = Vec::new();
        for (path, document) in documents {
            let bytes = document.to_string().into_bytes();
            end.extend(header(path, bytes.len() as u64).during(what)?);
            end.extend(&bytes);
            end.extend(padding(bytes.len() as u64));
        }
        end.extend([0; 1024]);
        state.write(vec![end.into()]).await.during(what)?;
        let Some(file) = state.file.take() else { return Ok(()) };
        blocking(move || file.finish(true)).await.during(what)
    }

    async fn add(
        &self,
        desc: &Descriptor,
        content: &dyn Fetcher,
        progress: &dyn Progress,
    ) -> Result<Pushed> {
        let mut state = self.state.lock().await;
        if state.blobs.contains(&desc.digest) {
            return Ok(Pushed::Existed);
        }
        let mut stream = content.fetch(desc, 0).await?;
        state.begin(&self.path).await?;
        progress.event(Event::Started { desc, offset: 0 });
        let mut start = Vec::new();
        for path in ["blobs/".to_owned(), format!("blobs/{}/", desc.digest.algorithm())] {
            if state.directories.insert(path.clone()) {
                start.extend(header(&path, 0)?);
            }
        }
        let path = format!("blobs/{}/{}", desc.digest.algorithm(), desc.digest.hex());
        start.extend(header(&path, desc.size)?);
        let mut batch = vec![Bytes::from(start)];
        let (mut hasher, mut size) = (desc.digest.hasher(), 0);
        let document = desc.media_type.is_manifest() || desc.media_type.is_index();
        let mut kept = Vec::new();
        while let Some(chunk) = stream.next().await.transpose()? {
            hasher.update(&chunk);
            size += chunk.len() as u64;
            let bytes = chunk.len() as u64;
            progress.event(Event::Advanced { digest: desc.digest, bytes });
            if document {
                kept.extend_from_slice(&chunk);
            }
            batch.push(chunk);
            if batch.iter().map(Bytes::len).sum::<usize>() >= BATCH {
                state.write(std::mem::take(&mut batch)).await?;
            }
        }
        desc.verify(size, hasher.finish())?;
        batch.push(padding(size).into());
        state.write(batch).await?;
        state.blobs.insert(desc.digest);
        if document {
            let children = Document::parse(&desc.media_type, &kept)?.children();
            state.documents.insert(desc.digest, children);
        }
        Ok(Pushed::Uploaded)
    }
}

/// The reader of a pipe that an archive was written to has gone away.
#[derive(Debug, thiserror::Error)]
#[error("its reader has gone away")]
pub struct ReaderGone;

impl State {
    async fn begin(&mut self, path: &std::path::Path) -> Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let to = path.to_owned();
        let what = format!("make archive {}", to.display());
        self.file = Some(blocking(move || WholeFile::create(&to).during(|| what)).await?);
        Ok(())
    }

    async fn write(&self, chunks: Vec<Bytes>) -> Result<()> {
        let Some(file) = self.file.as_ref().map(|file| Arc::clone(file.file())) else {
            return Ok(());
        };
        blocking(move || {
            for chunk in chunks {
                (&*file).write_all(&chunk).map_err(|error| {
                    let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
                    let failed = Error::new(ErrorKind::Storage, "write the archive");
                    if gone { failed.with_source(ReaderGone) } else { failed.with_source(error) }
                })?;
            }
            Ok(())
        })
        .await
    }

    /// What docker knows: of each image its config, its layers, and its names.
    fn docker_manifest(&self) -> Result<Value> {
        let mut saved: BTreeMap<Digest, (Value, Value, Vec<String>)> = BTreeMap::new();
        for (name, root) in &self.names {
            let mut desc = root.clone();
            while desc.media_type.is_index() {
                let entries = self.documents.get(&desc.digest).cloned().unwrap_or_default();
                desc = best(entries, &Platform::host())?;
            }
            let Some([config, layers @ ..]) = self.documents.get(&desc.digest).map(Vec::as_slice)
            else {
                continue;
            };
            let path = |desc: &Descriptor| {
                format!("blobs/{}/{}", desc.digest.algorithm(), desc.digest.hex())
            };
            let layers: Vec<String> = layers.iter().map(path).collect();
            let known = saved
                .entry(desc.digest)
                .or_insert_with(|| (json!(path(config)), json!(layers), Vec::new()));
            known.2.extend(Some(name.clone()).filter(|name| !name.is_empty()));
        }
        let saved = saved.into_values().map(|(config, layers, names)| {
            json!({ "Config": config, "RepoTags": names, "Layers": layers })
        });
        Ok(saved.collect())
    }
}

/// The header of an entry; a directory's name ends with `/`.
pub(crate) fn header(path: &str, size: u64) -> Result<Vec<u8>> {
    let mut header = tar::Header::new_gnu();
    let directory = path.ends_with('/');
    header.set_entry_type(if directory {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    });
    header.set_mode(if directory { 0o755 } else { 0o644 });
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_path(path).context(ErrorKind::Internal, || format!("name {path} in the archive"))?;
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// What follows an entry of so many bytes.
pub(crate) fn padding(size: u64) -> Vec<u8> {
    vec![0; usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0)]
}

/// Pushes what belongs to one name.
pub(super) struct ArchivePusher {
    writer: Arc<ArchiveWriter>,
    name: Option<String>,
    root: Digest,
}

impl ArchivePusher {
    pub(super) fn new(writer: Arc<ArchiveWriter>, name: Option<String>, root: Digest) -> Self {
        Self { writer, name, root }
    }
}

#[async_trait]
impl Pusher for ArchivePusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        _sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let what = || {
            let path = self.writer.path.display();
            format!("write {} {} to archive {path}", desc.media_type.noun(), desc.digest)
        };
        let pushed = self.writer.add(desc, &*content, &*progress).await.during(what)?;
        if desc.digest == self.root {
            let mut state = self.writer.state.lock().await;
            let mut entry = desc.clone();
            entry.annotations.remove(REF_NAME);
            if let Some(name) = &self.name {
                entry.annotations.insert(REF_NAME.to_owned(), name.clone());
            }
            state.index.push(json!(entry));
            state.names.push((self.name.clone().unwrap_or_default(), desc.clone()));
        }
        progress.event(match pushed {
            Pushed::Uploaded => Event::Committed { digest: desc.digest },
            Pushed::Mounted | Pushed::Existed => Event::Existed { desc },
        });
        Ok(pushed)
    }

    async fn has(&self, _desc: &Descriptor) -> Result<bool> {
        Ok(false) // it begins empty
    }
}
