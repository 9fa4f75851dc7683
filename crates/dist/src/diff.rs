//! Blobs onto mounts and mounts to blobs, as a daemon's clients ask for it.
//!
//! Directories are read and written where they lie, with overlayfs' own marks; only what can't be
//! done so is mounted, where nobody else sees it.

use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::{
    Applied, Applier, Cancel, Compression, Context, Descriptor, Diffed, Differ, Error, ErrorKind,
    Expected, Hasher, Info, IngestKey, LabelChange, Labels, LayerForm, MediaType, Mount, Provider,
    Result, ResultExt,
};
use dist_layer::{ApplyOptions, Compressor, Cores, DiffOptions, LayerApplier, LayerDiffer, Limits};
use dist_snapshot::mount::{Detached, lower_dirs};
use dist_store::{ContentStore, IngestWriter, Sharing, Store};

/// The label with the digest of a blob's uncompressed bytes.
pub const UNCOMPRESSED_LABEL: &str = "containerd.io/uncompressed";

/// Bytes that are read or written at a time.
const CHUNK: usize = 256 << 10;

/// How a blob is unpacked onto mounts.
#[derive(Clone, Copy, Debug, Default)]
pub struct ApplyBlob {
    /// What the layer may cost.
    pub limits: Limits,
    /// Whether the file system is synced before this returns.
    pub sync: bool,
}

/// Unpacks the layer `desc` of `content` onto what `mounts` show, and describes its uncompressed
/// form. No mounts at all: it is only measured. A snapshot of `store` that is an image once it is
/// committed gets the image at once; nothing of it shows before the commit.
///
/// What a layer marked as compressed really is, its first bytes say. The blob was verified when it
/// was stored and is not verified again.
///
/// # Errors
/// `NotFound` for a missing blob; `Unsupported` for what is no layer and for mounts that can't be
/// performed here; those of [`Applier::apply`].
pub fn apply_blob(
    store: &Store,
    content: &ContentStore,
    desc: &Descriptor,
    mounts: &[Mount],
    options: ApplyBlob,
    cancel: &Cancel,
) -> Result<Descriptor> {
    let mut blob = content.open(&desc.digest)?.file;
    let layer =
        Descriptor { media_type: actual_type(&desc.media_type, &mut blob)?, ..desc.clone() };
    let (diff_id, size) = if mounts.is_empty() {
        measure(&layer, &mut blob, options.limits, cancel)?
    } else {
        let applied = Target::of(store, mounts)?.apply(&layer, &mut blob, options, cancel)?;
        (applied.diff_id.0, applied.size)
    };
    Ok(Descriptor::new(MediaType::Layer(Compression::None), diff_id, size))
}

/// The media type with the compression that the blob has. A plain OCI layer is believed.
fn actual_type(declared: &MediaType, blob: &mut std::fs::File) -> Result<MediaType> {
    let Some(compression) = declared.layer_compression() else {
        let message = format!("unpack a blob of type {:?}: it is no layer", declared.as_str());
        return Err(Error::new(ErrorKind::Unsupported, message));
    };
    if compression == Compression::None && *declared != MediaType::DockerLayer(compression) {
        return Ok(declared.clone());
    }
    let mut start = Vec::new();
    let mut read = || {
        Read::take(&mut *blob, 6).read_to_end(&mut start)?;
        io::Seek::rewind(blob)
    };
    read().context(ErrorKind::Storage, || "read the start of the blob".into())?;
    Ok(MediaType::Layer(dist_layer::detect(&start)?))
}

fn measure(
    layer: &Descriptor,
    blob: &mut std::fs::File,
    limits: Limits,
    cancel: &Cancel,
) -> Result<(dist_core::Digest, u64)> {
    let mut bytes = dist_layer::decompress(&layer.media_type, blob, limits)?;
    let (mut hasher, mut size) = (Hasher::sha256(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        cancel.check()?;
        let count = bytes
            .read(&mut buffer)
            .context(ErrorKind::Corrupt, || format!("read layer {}", layer.digest))?;
        if count == 0 {
            return Ok((hasher.finish(), size));
        }
        hasher.update(&buffer[..count]);
        size += count as u64;
    }
}

/// Where a layer is unpacked, and how.
struct Target {
    dir: PathBuf,
    form: LayerForm,
    /// The layers below, nearest first, where the form is stacked.
    parents: Vec<PathBuf>,
    /// Keeps the directory there.
    _mounted: Option<Detached>,
}

impl Target {
    fn of(store: &Store, mounts: &[Mount]) -> Result<Self> {
        let mounts: Vec<Mount> = mounts.iter().map(as_bind).collect();
        if let [mount] = &mounts[..]
            && mount.target.is_none()
            && let Some(dir) = mount.writable_dir()
        {
            if is_plain(mount)
                && let Some(form) = dist_snapshot::image_form(store, &dir)?
            {
                return Ok(Self {
                    dir,
                    form,
                    parents: dist_snapshot::image_dirs(&lower_dirs(&mounts)),
                    _mounted: None,
                });
            }
            if mount.fstype == "bind" {
                let form = LayerForm::Merged;
                return Ok(Self { dir, form, parents: Vec::new(), _mounted: None });
            }
            // Overlayfs' own marks say all only where no other layer was unpacked before.
            if mount.fstype == "overlay" && is_plain(mount) && is_empty(&dir)? {
                let user_xattr = mount.options.iter().any(|option| option == "userxattr");
                let form = LayerForm::Stacked { user_xattr };
                return Ok(Self { dir, form, parents: lower_dirs(&mounts), _mounted: None });
            }
        }
        if let [Mount { fstype, .. }] = &mounts[..]
            && fstype == "bind"
        {
            let message = "unpack onto a mount: it is read-only";
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        let mounted = Detached::new(&mounts)?;
        let (dir, form) = (mounted.path(), LayerForm::Merged);
        Ok(Self { dir, form, parents: Vec::new(), _mounted: Some(mounted) })
    }

    fn apply(
        &self,
        layer: &Descriptor,
        blob: &mut std::fs::File,
        options: ApplyBlob,
        cancel: &Cancel,
    ) -> Result<Applied> {
        let choices =
            ApplyOptions { form: self.form, limits: options.limits, cores: Cores::available() };
        let applied =
            LayerApplier::new(choices).apply(layer, blob, &[bind(self.dir.clone())], cancel)?;
        dist_layer::inherit_dirs(&self.dir, &self.parents, &applied.implicit_dirs)?;
        if options.sync {
            let sync = || Ok(rustix::fs::syncfs(std::fs::File::open(&self.dir)?)?);
            sync().map_err(|error: io::Error| error).context(ErrorKind::Storage, || {
                format!("sync the file system of {}", self.dir.display())
            })?;
        }
        Ok(applied)
    }
}

/// Some clients write a bind mount as an option of no file system.
fn as_bind(mount: &Mount) -> Mount {
    let bind = mount.options.iter().any(|option| option == "bind" || option == "rbind");
    let fstype = if bind { "bind".to_owned() } else { mount.fstype.clone() };
    Mount { fstype, ..mount.clone() }
}

fn bind(source: PathBuf) -> Mount {
    Mount { fstype: "bind".into(), source, target: None, options: vec!["rw".into()] }
}

/// Whether an overlay's directories are written as paths and nothing else.
fn is_plain(mount: &Mount) -> bool {
    // A layer that gets its parent at commit has nothing below it yet.
    let Some(lower) = mount.option("lowerdir") else { return true };
    !lower.contains('\\') && lower.split(':').all(|dir| dir.starts_with('/'))
}

fn is_empty(dir: &Path) -> Result<bool> {
    let list = || std::fs::read_dir(dir)?.next().transpose();
    match list() {
        Ok(first) => Ok(first.is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(error).context(ErrorKind::NotFound, || format!("list {}", dir.display()))
        }
        Err(error) => Err(error).context(ErrorKind::Storage, || format!("list {}", dir.display())),
    }
}

/// What is made of the difference of two trees.
#[derive(Clone, Debug)]
pub struct DiffBlob {
    /// How the layer is compressed.
    pub compression: Compression,
    /// The ingest to write; what it holds is thrown away. `None` takes one of its own.
    pub key: Option<IngestKey>,
    /// Labels for the blob.
    pub labels: Labels,
    /// The latest time that entries have, in seconds since the epoch.
    pub source_date_epoch: Option<i64>,
}

impl Default for DiffBlob {
    fn default() -> Self {
        let (compression, labels) = (Compression::Gzip, Labels::new());
        Self { compression, key: None, labels, source_date_epoch: None }
    }
}

/// Stores the changes from `lower` to `upper` as a layer. That it is there already is fine.
///
/// A compressed layer gets the label [`UNCOMPRESSED_LABEL`].
///
/// # Errors
/// `Busy` where somebody writes the ingest; those of [`Differ::diff`] and of the store.
pub fn diff_blob(
    content: &ContentStore,
    lower: &[Mount],
    upper: &[Mount],
    options: &DiffBlob,
    cancel: &Cancel,
) -> Result<Descriptor> {
    let key = match &options.key {
        Some(key) => key.clone(),
        None => unique_key()?,
    };
    let mut writer = content.open_writer(&key, Expected::default(), Sharing::Isolated)?;
    let written =
        writer.truncate().and_then(|()| write(&mut writer, lower, upper, options, cancel));
    let (done, digest, size) = match written {
        Ok(written) => written,
        Err(error) => {
            if options.key.is_none() {
                writer.abort()?;
            }
            return Err(error);
        }
    };
    let mut labels = options.labels.clone();
    if options.compression != Compression::None {
        labels.insert(UNCOMPRESSED_LABEL.to_owned(), done.diff_id.to_string());
    }
    let expected = Expected { digest: Some(digest), size: Some(size) };
    match writer.commit(expected, &labels) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let Info { labels: known, .. } = content.info(&digest)?;
            labels.retain(|name, _| name == UNCOMPRESSED_LABEL && !known.contains_key(name));
            if !labels.is_empty() {
                content.update_labels(&digest, &LabelChange::Merge(labels))?;
            }
        }
        Err(error) => {
            if options.key.is_none() {
                remove_left(content, &key);
            }
            return Err(error);
        }
    }
    Ok(Descriptor::new(MediaType::Layer(options.compression), digest, size))
}

/// Removes what a failed commit left, under a key that nobody knows.
fn remove_left(content: &ContentStore, key: &IngestKey) {
    match content.abort(key) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            tracing::debug!(?error, %key, "the ingest of a layer was not removed");
        }
        _ => (),
    }
}

fn write(
    writer: &mut IngestWriter,
    lower: &[Mount],
    upper: &[Mount],
    options: &DiffBlob,
    cancel: &Cancel,
) -> Result<(Diffed, dist_core::Digest, u64)> {
    let attempt = |writer: &mut IngestWriter, lower: &[Mount], upper: &[Mount]| {
        let mut out = BufWriter::with_capacity(CHUNK, Appended(writer));
        let done = write_diff(lower, upper, options, &mut out, cancel)?;
        out.flush().context(ErrorKind::Storage, || "write layer".into()).map(|()| done)
    };
    let done = match attempt(writer, lower, upper) {
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            let (Some(below), Some(above)) = (Shown::new(lower)?, Shown::new(upper)?) else {
                return Err(error);
            };
            if !below.is_new() && !above.is_new() {
                return Err(error);
            }
            writer.truncate()?;
            attempt(writer, &below.mounts, &above.mounts)?
        }
        result => result?,
    };
    Ok((done, writer.digest()?, writer.status()?.offset))
}

/// Writes the changes from `lower` to `upper` as a layer, compressed as `options` say.
///
/// # Errors
/// Those of [`Differ::diff`].
pub fn write_diff(
    lower: &[Mount],
    upper: &[Mount],
    options: &DiffBlob,
    out: &mut dyn Write,
    cancel: &Cancel,
) -> Result<Diffed> {
    let (lower, upper): (Vec<_>, Vec<_>) =
        (lower.iter().map(as_bind).collect(), upper.iter().map(as_bind).collect());
    let differ = LayerDiffer::new(DiffOptions { source_date_epoch: options.source_date_epoch });
    let mut compressor = Compressor::new(options.compression, out)?;
    let done = differ.diff(&lower, &upper, &mut compressor, cancel)?;
    compressor.finish().during(|| "compress layer".into())?;
    Ok(done)
}

/// Mounts as what can be read: themselves, or where they were performed.
struct Shown {
    mounts: Vec<Mount>,
    mounted: Option<Detached>,
}

impl Shown {
    /// `None` where they can't be performed in no directory.
    fn new(mounts: &[Mount]) -> Result<Option<Self>> {
        let mounts: Vec<Mount> = mounts.iter().map(as_bind).collect();
        match &mounts[..] {
            [] | [Mount { target: None, .. }] if mounts.iter().all(|it| it.fstype == "bind") => {
                Ok(Some(Self { mounts, mounted: None }))
            }
            [Mount { target: None, .. }] => {
                let mounted = Detached::new(&mounts)?;
                Ok(Some(Self { mounts: vec![bind(mounted.path())], mounted: Some(mounted) }))
            }
            _ => Ok(None),
        }
    }

    fn is_new(&self) -> bool {
        self.mounted.is_some()
    }
}

/// An ingest as something to write to.
struct Appended<'a>(&'a mut IngestWriter);

impl Write for Appended<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(Error::into_io)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn unique_key() -> Result<IngestKey> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
    let key = format!("diff-{now}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    key.parse().context(ErrorKind::Internal, || format!("make ingest key {key}"))
}
