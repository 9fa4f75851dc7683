//! An image straight into a plain directory: no store, no snapshots, one step.
//!
//! The tree grows in a private directory beside the target and gets its name when all of it has
//! been verified.

use std::io::Read;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    Applier as _, ByteStream, Cancel, Context as _, Descriptor, Document, Error, ErrorKind, Event,
    Fetcher, Hasher, ImageConfig, LayerForm, Mount, Platform, Progress, Resolved, Resolver as _,
    Result, ResultExt as _, Warning,
};
use dist_layer::{ApplyOptions, Cores, LayerApplier, Limits};
use futures_util::StreamExt as _;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::blocking::{Alive, Body, Downloads, blocking};
use crate::layers::{Layer, Plan, best, check_document_size, image_parts, too_deep};
use crate::pull::PullOptions;
use crate::servers::Servers;
use crate::{Contents, Remotes};

/// Unpacks the image `name` into `directory`, which must be empty or not exist.
///
/// # Errors
/// `InvalidArgument` where the directory has something in it; those of the remote and of the layers.
/// Nothing is left under the directory's name then.
pub async fn unpack_to_directory(
    remotes: &Remotes,
    name: &str,
    directory: &Path,
    options: &PullOptions,
    limits: &Limits,
    progress: Arc<dyn Progress>,
) -> Result<(Resolved, Vec<Warning>)> {
    check_target(directory)?;
    let resolved = remotes.admit(name).await?;
    let fetcher = remotes.fetcher(name)?;
    let origin = Origin { resolved, fetcher, servers: remotes.servers() };
    let warnings = unpack_origin(&origin, directory, options, limits, progress).await?;
    Ok((origin.resolved, warnings))
}

/// As [`unpack_to_directory`], of an image whose content is in a store.
///
/// # Errors
/// As [`unpack_to_directory`]; `NotFound` for content that is not there.
pub async fn unpack_stored_to_directory(
    content: Arc<dyn Contents>,
    resolved: Resolved,
    directory: &Path,
    options: &PullOptions,
    limits: &Limits,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Warning>> {
    let fetcher = stored_fetcher(content);
    let origin = Origin { resolved, fetcher, servers: &Servers::new(1) };
    unpack_origin(&origin, directory, options, limits, progress).await
}

/// An image and whoever has it.
struct Origin<'a> {
    resolved: Resolved,
    fetcher: Arc<dyn Fetcher>,
    servers: &'a Servers,
}

async fn unpack_origin(
    origin: &Origin<'_>,
    directory: &Path,
    options: &PullOptions,
    limits: &Limits,
    progress: Arc<dyn Progress>,
) -> Result<Vec<Warning>> {
    check_target(directory)?;
    let alive = Alive::new();
    let Resolved { name, target } = &origin.resolved;
    progress.event(Event::Resolved { name, target });
    let plan = fetch_plan(&*origin.fetcher, target, options).await?;
    plan.tell_other(name, &options.platform, &*progress);
    let work = Work {
        downloads: alive.downloads(origin.servers, origin.fetcher.clone()),
        cancel: alive.cancel(),
        applier: LayerApplier::new(ApplyOptions {
            form: LayerForm::Merged,
            limits: *limits,
            cores: Cores::available(),
        }),
        progress,
    };
    let directory = directory.to_owned();
    let warnings = blocking(move || {
        let staging = Staging::new(&directory)?;
        let warnings = work.fill(&plan, &staging)?;
        staging.publish()?;
        Ok(warnings)
    })
    .await?;
    Ok(warnings)
}

/// A fetcher of what is in a store.
#[must_use]
pub fn stored_fetcher(content: Arc<dyn Contents>) -> Arc<dyn Fetcher> {
    Arc::new(StoredFetcher(content))
}

/// Content of a store as if it were far away.
struct StoredFetcher(Arc<dyn Contents>);

#[async_trait]
impl Fetcher for StoredFetcher {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        /// Bytes that are read at once.
        const CHUNK: usize = 256 << 10;
        let (content, digest) = (self.0.clone(), desc.digest);
        let file = blocking(move || {
            let mut file = content.open(&digest)?.file;
            let skipped = std::io::copy(&mut (&mut file).take(offset), &mut std::io::sink());
            skipped.context(ErrorKind::Storage, || format!("read blob {digest}"))?;
            Ok(file)
        })
        .await?;
        Ok(Box::pin(futures_util::stream::try_unfold(Some(file), move |file| async move {
            let Some(mut file) = file else { return Ok(None) };
            blocking(move || {
                let mut chunk = Vec::with_capacity(CHUNK);
                (&mut file)
                    .take(CHUNK as u64)
                    .read_to_end(&mut chunk)
                    .context(ErrorKind::Storage, || format!("read blob {digest}"))?;
                let more = (chunk.len() == CHUNK).then_some(file);
                Ok((!chunk.is_empty()).then(|| (Bytes::from(chunk), more)))
            })
            .await
        })))
    }
}

/// Fetches and verifies the documents from `target` to the config, in memory.
async fn fetch_plan(
    fetcher: &dyn Fetcher,
    target: &Descriptor,
    options: &PullOptions,
) -> Result<Plan> {
    let desc = fetch_manifest(fetcher, target, &options.platform).await?;
    let (config, layers) = image_parts(&desc, &fetch_document(fetcher, &desc).await?)?;
    let bytes = fetch_document(fetcher, &config).await?;
    let parsed = ImageConfig::parse(&bytes).during(|| format!("parse config {}", config.digest))?;
    Plan::new(layers, config.digest, &parsed).during(|| format!("unpack image {}", desc.digest))
}

/// Finds the manifest for `platform` below `target`: indexes are fetched, it is not.
///
/// # Errors
/// Those of [`fetch_document`]; `NotFound` where an index has nothing for the platform; `Corrupt` for
/// what is no index, and for indexes that are nested too deep.
pub async fn fetch_manifest(
    fetcher: &dyn Fetcher,
    target: &Descriptor,
    platform: &Platform,
) -> Result<Descriptor> {
    let mut desc = target.clone();
    for _ in 0..dist_core::MAX_DEPTH {
        if !desc.media_type.is_index() {
            return Ok(desc);
        }
        let bytes = fetch_document(fetcher, &desc).await?;
        let document = Document::parse(&desc.media_type, &bytes)
            .during(|| format!("parse {} {}", desc.media_type.noun(), desc.digest))?;
        desc = best(document.children(), platform)?;
    }
    Err(too_deep(target))
}

/// Fetches a manifest, an index or a config into memory and verifies it.
///
/// # Errors
/// Those of the fetcher; `ResourceExhausted` for more than 4 MiB; `Corrupt` where size or digest
/// are not the descriptor's.
pub async fn fetch_document(fetcher: &dyn Fetcher, desc: &Descriptor) -> Result<Vec<u8>> {
    check_document_size(desc)?;
    let during = || format!("fetch {} {}", desc.media_type.noun(), desc.digest);
    let mut body = fetcher.fetch(desc, 0).await.during(during)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.during(during)?);
    }
    let mut hasher = desc.digest.hasher();
    hasher.update(&bytes);
    desc.verify(bytes.len() as u64, hasher.finish())?;
    Ok(bytes)
}

struct Work {
    downloads: Downloads,
    cancel: Cancel,
    applier: LayerApplier,
    progress: Arc<dyn Progress>,
}

impl Work {
    fn fill(&self, plan: &Plan, staging: &Staging) -> Result<Vec<Warning>> {
        let mount = Mount {
            fstype: "bind".into(),
            source: staging.path.clone(),
            target: None,
            options: vec!["rw".into(), "rbind".into()],
        };
        let mut warnings = Vec::new();
        for layer in &plan.layers {
            let found = self
                .apply(layer, &mount)
                .during(|| format!("unpack layer {}", layer.desc.digest))?;
            warnings.extend(found);
        }
        Ok(warnings)
    }

    fn apply(&self, layer: &Layer, mount: &Mount) -> Result<Vec<Warning>> {
        let desc = &layer.desc;
        self.progress.event(Event::Started { desc, offset: 0 });
        let mut body = Hashed {
            body: self.downloads.start(desc, 0),
            hasher: desc.digest.hasher(),
            size: 0,
            desc,
            progress: &*self.progress,
        };
        let applied =
            self.applier.apply(desc, &mut body, std::slice::from_ref(mount), &self.cancel)?;
        desc.verify(body.size, body.hasher.finish())?;
        self.progress.event(Event::Committed { digest: desc.digest });
        layer.check_diff_id(applied.diff_id)?;
        self.progress.event(Event::Unpacked { layer: desc.digest, chain_id: Some(layer.chain_id) });
        Ok(applied.warnings)
    }
}

/// A body that is hashed while it is read.
struct Hashed<'a> {
    body: Body,
    hasher: Hasher,
    size: u64,
    desc: &'a Descriptor,
    progress: &'a dyn Progress,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.body.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        self.size += length as u64;
        if length > 0 {
            self.progress.event(Event::Advanced { digest: self.desc.digest, bytes: length as u64 });
        }
        Ok(length)
    }
}

/// The private directory that becomes the target; emptied where it does not.
///
/// It stands beside the target under a fixed name and is locked, so that what a killed process left
/// is used again and two processes do not meet in it. A mount point cannot be replaced: there the
/// target itself is filled.
struct Staging {
    path: PathBuf,
    target: PathBuf,
    published: bool,
    _lock: std::fs::File,
}

impl Staging {
    fn new(target: &Path) -> Result<Self> {
        check_target(target)?;
        let target = std::path::absolute(target)
            .context(ErrorKind::InvalidArgument, || format!("look at {}", target.display()))?;
        let (Some(name), Some(parent)) = (target.file_name(), target.parent()) else {
            return Err(refusal(&target, "it has no name of its own"));
        };
        let device = |path: &Path| std::fs::metadata(path).map(|meta| meta.dev()).ok();
        let path = if target.exists() && device(&target) != device(parent) {
            target.clone()
        } else {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(".dist-unpack");
            target.with_file_name(hidden)
        };
        let lock = lock_dir(&path)?;
        empty(&path)?;
        Ok(Self { path, target, published: false, _lock: lock })
    }

    fn publish(mut self) -> Result<()> {
        if self.path != self.target {
            std::fs::rename(&self.path, &self.target).context(ErrorKind::Storage, || {
                format!("rename {} to {}", self.path.display(), self.target.display())
            })?;
        }
        self.published = true;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let removed =
            if self.path == self.target { empty(&self.path) } else { remove_tree(&self.path) };
        if let Err(error) = removed {
            tracing::warn!(path = %self.path.display(), ?error, "a failed tree was not removed");
        }
    }
}

/// Makes a directory where there is none and locks it.
fn lock_dir(path: &Path) -> Result<std::fs::File> {
    loop {
        let made = std::fs::DirBuilder::new().mode(0o755).create(path);
        match made {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(ErrorKind::Storage, || {
                    format!("create directory {}", path.display())
                });
            }
            _ => (),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => std::fs::File::from(dir),
            Err(Errno::NOENT) => continue, // whoever had it is done with it
            Err(error) => {
                return Err(error)
                    .context(ErrorKind::Storage, || format!("open {}", path.display()));
            }
        };
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => (),
            Err(Errno::WOULDBLOCK) => {
                let message = format!("unpack into {}: another process does that", path.display());
                return Err(Error::new(ErrorKind::Busy, message));
            }
            Err(error) => {
                return Err(error)
                    .context(ErrorKind::Storage, || format!("lock {}", path.display()));
            }
        }
        let inode = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let locked = dir.metadata().map(inode).ok();
        if locked.is_some() && locked == std::fs::symlink_metadata(path).map(inode).ok() {
            return Ok(dir);
        }
    }
}

/// Removes all that is in a directory.
fn empty(dir: &Path) -> Result<()> {
    let list = || format!("list {}", dir.display());
    for entry in std::fs::read_dir(dir).context(ErrorKind::Storage, list)? {
        let entry = entry.context(ErrorKind::Storage, list)?;
        if entry.file_type().context(ErrorKind::Storage, list)?.is_dir() {
            remove_tree(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())
                .context(ErrorKind::Storage, || format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Refuses a target that is not an empty directory, nor a name that is free.
fn check_target(target: &Path) -> Result<()> {
    match std::fs::symlink_metadata(target) {
        Ok(found) if found.is_dir() => {
            let mut entries = std::fs::read_dir(target)
                .context(ErrorKind::Storage, || format!("read {}", target.display()))?;
            match entries.next() {
                None => Ok(()),
                Some(_) => Err(refusal(target, "the directory is not empty")),
            }
        }
        Ok(_) => Err(refusal(target, "it exists and is not a directory")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            Err(error).context(ErrorKind::Storage, || format!("look at {}", target.display()))
        }
    }
}

fn refusal(target: &Path, what: &str) -> Error {
    let message = format!("unpack into {}: {what}", target.display());
    Error::new(ErrorKind::InvalidArgument, message)
}

fn remove_tree(path: &Path) -> Result<()> {
    dist_snapshot::remove_tree(path)
}
