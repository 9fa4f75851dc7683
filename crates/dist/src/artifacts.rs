//! What refers to an image: listed, and made of files.
//!
//! An artifact is a manifest whose `subject` is what it is about, with an empty config and its files
//! as layers (image-spec, "Guidelines for Artifact Usage"). A registry lists such manifests by itself,
//! or an index under the tag `<algorithm>-<hex>` does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ByteStream, Context as _, Descriptor, Digest, Error, ErrorKind, Event, Fetcher, MAX_DEPTH,
    MediaType, Progress, Referrer, Resolved, Resolver as _, Result,
};
use serde_json::{Value, json};

use crate::Remotes;
use crate::blocking::blocking;
use crate::copy::tag_of;
use crate::plain::fetch_document;

/// What artifacts have for a config.
const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// What a file in an artifact is called.
const TITLE: &str = "org.opencontainers.image.title";
/// The endings of cosign's tags, and what lies there.
const COSIGN: [&str; 3] = [".sig", ".att", ".sbom"];

/// Something that refers to an image, and what refers to it in turn.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// What names it.
    pub desc: Descriptor,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// The tag that it is found by, where no list has it.
    pub tag: Option<String>,
    /// What refers to it.
    pub attachments: Vec<Self>,
}

/// Lists what refers to the manifest or index that `name` stands for, and what refers to that.
///
/// # Errors
/// Those of the remote.
pub async fn referrers(remotes: &Remotes, name: &str) -> Result<(Resolved, Vec<Attachment>)> {
    let resolved = remotes.resolve(name).await?;
    let content = remotes.fetcher(&resolved.name)?;
    let subject = resolved.target.digest;
    let mut found = tree(remotes, &resolved.name, &*content, subject, 0).await?;
    for ending in COSIGN {
        let tag = format!("{}{ending}", tag_of(&subject));
        let there = remotes.look_up(&remotes.beside(&resolved.name, &tag)?).await?;
        if let Some(Resolved { target: desc, .. }) = there {
            let attachments = Vec::new();
            found.push(Attachment { desc, artifact_type: None, tag: Some(tag), attachments });
        }
    }
    Ok((resolved, found))
}

async fn tree(
    remotes: &Remotes,
    name: &str,
    content: &dyn Fetcher,
    subject: Digest,
    depth: usize,
) -> Result<Vec<Attachment>> {
    let mut found = Vec::new();
    if depth == MAX_DEPTH {
        return Ok(found);
    }
    let (entries, _) = listed(remotes, name, content, &subject).await?;
    for Referrer { desc, artifact_type } in entries {
        let below = Box::pin(tree(remotes, name, content, desc.digest, depth + 1));
        let attachments = below.await?;
        found.push(Attachment { desc, artifact_type, tag: None, attachments });
    }
    Ok(found)
}

/// What refers to a subject, and whether the remote lists that by itself.
async fn listed(
    remotes: &Remotes,
    name: &str,
    content: &dyn Fetcher,
    subject: &Digest,
) -> Result<(Vec<Referrer>, bool)> {
    if let Some(entries) = content.referrers(subject).await? {
        return Ok((entries, true));
    }
    match remotes.look_up(&remotes.beside(name, &tag_of(subject))?).await? {
        Some(Resolved { target, .. }) if target.media_type.is_index() => {
            let bytes = fetch_document(content, &target).await?;
            Ok((dist_registry::read_referrers(&bytes)?, false))
        }
        _ => Ok((Vec::new(), false)),
    }
}

/// What is attached to an image.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// What kind it is, as `application/spdx+json`.
    pub artifact_type: String,
    /// Files, with their media types.
    pub files: Vec<(PathBuf, String)>,
    /// What else is said of it.
    pub annotations: BTreeMap<String, String>,
}

/// Attaches files to what `name` stands for. The same files make the same artifact.
///
/// # Errors
/// `InvalidArgument` for what is no media type; `NotFound` for a file, and for `name`; those of the
/// remote.
pub async fn attach(
    remotes: &Remotes,
    name: &str,
    artifact: &Artifact,
    progress: Arc<dyn Progress>,
) -> Result<(Resolved, Descriptor)> {
    for kind in artifact.files.iter().map(|(_, kind)| kind).chain([&artifact.artifact_type]) {
        if !is_media_type(kind) {
            let message = format!("attach to {name}: {kind:?} is no media type, as type/subtype");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    let resolved = remotes.resolve(name).await?;
    let there = remotes.fetcher(&resolved.name)?;
    let files = artifact.files.clone();
    let (mut content, layers) = blocking(move || Files::read(files)).await?;
    let config = content.hold(MediaType::parse(EMPTY_TYPE), Bytes::from_static(EMPTY));
    let layers = if layers.is_empty() { vec![config.clone()] } else { layers };
    let subject = &resolved.target;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::Manifest.as_str(),
        "artifactType": artifact.artifact_type,
        "config": config,
        "layers": layers,
        "subject": Descriptor::new(subject.media_type.clone(), subject.digest, subject.size),
        "annotations": artifact.annotations,
    });
    let manifest = content.hold(MediaType::Manifest, Bytes::from(manifest.to_string()));
    progress.event(Event::Resolved { name: &resolved.name, target: &manifest });
    for desc in layers.iter().chain([&config, &manifest]) {
        progress.event(Event::Waiting { desc });
    }
    // It has no tag of its own: the root of this name, which would get one, is there already.
    let list_name = remotes.beside(&resolved.name, &tag_of(&subject.digest))?;
    let pusher = remotes.pusher(&resolved.name, &subject.digest)?;
    let parts: Arc<dyn Fetcher> = Arc::new(content.clone());
    for desc in layers.iter().chain([&config, &manifest]) {
        pusher.push(desc, Arc::clone(&parts), &[], Arc::clone(&progress)).await?;
    }
    let _held = remotes.hold(&resolved.name).await?;
    let (known, by_itself) = listed(remotes, &resolved.name, &*there, &subject.digest).await?;
    if !by_itself && !known.iter().any(|entry| entry.desc.digest == manifest.digest) {
        let list = content.hold(MediaType::Index, list_with(&known, &manifest, artifact));
        let pusher = remotes.pusher(&list_name, &list.digest)?;
        pusher.push(&list, Arc::new(content), &[], progress).await?;
    }
    Ok((resolved, manifest))
}

/// The index that lists what is known and one more.
fn list_with(known: &[Referrer], manifest: &Descriptor, artifact: &Artifact) -> Bytes {
    let mut entry = manifest.clone();
    entry.annotations = artifact.annotations.clone();
    let artifact_type = Some(artifact.artifact_type.clone());
    let new = Referrer { desc: entry, artifact_type };
    let entries: Vec<Value> = known.iter().chain([&new]).map(crate::copy::entry).collect();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": MediaType::Index.as_str(),
        "manifests": entries,
    });
    Bytes::from(index.to_string())
}

fn is_media_type(text: &str) -> bool {
    let part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
        !part.is_empty() && part.chars().all(known)
    };
    text.split_once('/').is_some_and(|(kind, rest)| part(kind) && part(rest))
}

/// Files, and documents that were made.
#[derive(Clone)]
struct Files {
    paths: BTreeMap<Digest, PathBuf>,
    held: BTreeMap<Digest, Bytes>,
}

impl Files {
    /// Hashes files.
    fn read(files: Vec<(PathBuf, String)>) -> Result<(Self, Vec<Descriptor>)> {
        let mut this = Self { paths: BTreeMap::new(), held: BTreeMap::new() };
        let mut layers = Vec::new();
        for (path, kind) in files {
            let what = || format!("read {}", path.display());
            let mut file = std::fs::File::open(&path).map_err(|error| {
                let missing = error.kind() == std::io::ErrorKind::NotFound;
                let kind = if missing { ErrorKind::NotFound } else { ErrorKind::Storage };
                Error::new(kind, what()).with_source(error)
            })?;
            let mut hashing = Hashing(dist_core::Hasher::sha256());
            let size = std::io::copy(&mut file, &mut hashing).context(ErrorKind::Storage, what)?;
            let mut layer = Descriptor::new(MediaType::parse(&kind), hashing.0.finish(), size);
            let title = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            layer.annotations.insert(TITLE.to_owned(), title);
            this.paths.insert(layer.digest, path);
            layers.push(layer);
        }
        Ok((this, layers))
    }

    fn hold(&mut self, media_type: MediaType, bytes: Bytes) -> Descriptor {
        let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
        self.held.insert(digest, bytes);
        Descriptor::new(media_type, digest, size)
    }
}

struct Hashing(dist_core::Hasher);

impl std::io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Fetcher for Files {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        if let Some(bytes) = self.held.get(&desc.digest) {
            let at = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(Box::pin(futures_util::stream::iter([Ok(bytes.slice(at..))])));
        }
        let Some(path) = self.paths.get(&desc.digest) else {
            let message = format!("read {}: it is in no file", desc.digest);
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        let what = format!("read {}", path.display());
        let file = std::fs::File::open(path).context(ErrorKind::Storage, || what.clone())?;
        Ok(dist_registry::file_stream(file, offset, desc.size, what))
    }
}
