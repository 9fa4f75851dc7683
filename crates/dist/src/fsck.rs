//! Finds what is lost or damaged in a store, and brings it again.
//!
//! Blobs first, because snapshots are rebuilt from them. A damaged blob is set aside and fetched
//! from where it came: the repositories in its labels `containerd.io/distribution.source.<host>`,
//! else those of the images that lead to it. A damaged snapshot gets new files in the place of the
//! old ones: its row and what stands on it stay.

mod missing;

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::{
    Applier as _, Cancel, ChainId, ContentMismatch, Context as _, Descriptor, Digest, Error,
    ErrorKind, Event, Expected, IngestKey, Labels, LayerForm, MediaType, Mount, Namespace,
    Progress, Provider as _, Reference, Resolver as _, Result, ResultExt as _, SnapshotKey,
    children,
};
use dist_layer::{ApplyOptions, LayerApplier, first_difference, inherit_dirs};
use dist_store::{Checked, ContentStore, Finding, Problem, Sharing, SnapshotRow, Subject};
use rustix::fs::FlockOperation;

use self::missing::{Missing, missing, unpack_again};
use crate::Engine;
use crate::blocking::{Alive, Downloads, blocking};
use crate::layers::{Layer, plan};

/// Begins the names of labels that say where a blob came from.
const SOURCE: &str = "containerd.io/distribution.source.";

/// Choices for [`fsck`].
#[derive(Clone, Copy, Debug, Default)]
pub struct FsckOptions {
    /// Whether contents are read and compared: of blobs with their digests, of snapshots with what
    /// their layers unpack to.
    pub deep: bool,
    /// Whether what is found is repaired.
    pub repair: bool,
}

/// What [`fsck`] found.
#[derive(Debug, Default)]
pub struct Fscked {
    /// What is wrong, and what became of it.
    pub findings: Vec<(Finding, Outcome)>,
    /// How many blobs there are.
    pub blobs: u64,
    /// How many bytes they have.
    pub bytes: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
}

/// What became of something that is wrong.
#[derive(Debug)]
pub enum Outcome {
    /// It was not to be repaired.
    Found,
    /// It is as it should be now.
    Repaired,
    /// It could not be repaired.
    Failed(Error),
}

/// Looks for all that is lost or damaged, in every namespace, and for what crashes left behind.
///
/// Safe while other processes use the store. With `repair` a store must be writable.
///
/// # Errors
/// `Storage` where the store can't be read at all. What could not be repaired is told in the
/// result.
pub async fn fsck(
    engine: &Engine,
    options: FsckOptions,
    progress: Arc<dyn Progress>,
) -> Result<Fscked> {
    let alive = Alive::new();
    let mut result = Fscked::default();
    if options.repair {
        engine.store().check_writable()?;
    }
    let (store, cancel) = (engine.store().clone(), alive.cancel());
    let checked = blocking(move || store.check(options.deep, &cancel)).await?;
    (result.blobs, result.bytes) = (checked.blobs, checked.bytes);
    let (blobs, leftovers): (Vec<_>, Vec<_>) = checked
        .findings
        .into_iter()
        .partition(|finding| matches!(finding.subject, Subject::Blob(_)));
    result.findings = if options.repair {
        Healer { engine, alive: &alive, progress: Arc::clone(&progress) }.heal(blobs).await?
    } else {
        blobs.into_iter().map(|finding| (finding, Outcome::Found)).collect()
    };
    let (held, cancel) = (engine.clone(), alive.cancel());
    let (missing, more) =
        blocking(move || check_snapshots(&held, options, leftovers, &cancel)).await?;
    result.findings.extend(more);
    for (finding, manifest) in missing {
        let outcome = match (&finding.subject, manifest) {
            (Subject::Missing { namespace, snapshotter, .. }, Some(manifest)) if options.repair => {
                let engine = engine.in_namespace(namespace.clone()).with_snapshotter(snapshotter);
                unpack_again(&engine, &manifest, Arc::clone(&progress)).await
            }
            _ => Outcome::Found,
        };
        result.findings.push((finding, outcome));
    }
    let (engine, cancel) = (engine.clone(), alive.cancel());
    let repaired = result.findings.iter().any(|(_, outcome)| matches!(outcome, Outcome::Repaired));
    let (after, rows) = blocking(move || {
        if options.repair {
            let purged = dist_snapshot::purge(engine.store());
            engine.store().settle(dist_store::SettleMode::Now)?;
            purged?;
        }
        let after = repaired.then(|| engine.store().check(false, &cancel)).transpose()?;
        Ok((after, engine.store().snapshot_rows()?))
    })
    .await?;
    if let Some(after) = after {
        (result.blobs, result.bytes) = (after.blobs, after.bytes);
    }
    result.snapshots = rows.len() as u64;
    Ok(result)
}

/// Findings with what became of them.
type Done = Vec<(Finding, Outcome)>;

/// Looks at the snapshots, and repairs those that have rows and what was found before.
fn check_snapshots(
    engine: &Engine,
    options: FsckOptions,
    leftovers: Vec<Finding>,
    cancel: &Cancel,
) -> Result<(Missing, Done)> {
    let mut checked = Checked { findings: leftovers, ..Checked::default() };
    let rows = dist_snapshot::check(engine.store(), cancel, &mut checked)?;
    let trees = Trees::new(engine, &rows, cancel)?;
    let mut findings: Vec<_> =
        checked.findings.into_iter().map(|finding| (finding, Outcome::Found)).collect();
    if options.repair {
        // Snapshots after those below them.
        findings.sort_by_key(|(finding, _)| trees.depth(finding));
        for (finding, outcome) in &mut findings {
            *outcome = trees.repair(finding);
        }
    }
    if options.deep {
        findings.extend(trees.compare_all(&findings, options.repair)?);
    }
    Ok((missing(engine)?, findings))
}

/// What an image's documents say of a blob.
struct Known {
    desc: Descriptor,
    images: Vec<String>,
}

/// Brings blobs again.
struct Healer<'a> {
    engine: &'a Engine,
    alive: &'a Alive,
    progress: Arc<dyn Progress>,
}

impl Healer<'_> {
    async fn heal(&self, findings: Vec<Finding>) -> Result<Vec<(Finding, Outcome)>> {
        let mut left = findings;
        let mut done = Vec::new();
        // A document that came again tells of what lies below it.
        loop {
            let known = self.known()?;
            let (mut healed, mut failed) = (Vec::new(), Vec::new());
            for mut finding in left {
                match self.heal_one(&mut finding, &known).await {
                    Ok(()) => healed.push((finding, Outcome::Repaired)),
                    Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                    Err(error) => failed.push((finding, Outcome::Failed(error))),
                }
            }
            let progress = !healed.is_empty();
            done.extend(healed);
            if !progress || failed.is_empty() {
                done.extend(failed);
                return Ok(done);
            }
            left = failed.into_iter().map(|(finding, _)| finding).collect();
        }
    }

    async fn heal_one(&self, finding: &mut Finding, known: &HashMap<Digest, Known>) -> Result<()> {
        let Subject::Blob(digest) = finding.subject else { return Ok(()) };
        let store = self.engine.store();
        let owners = store.blob_owners(&digest)?;
        let Some(owner) = owners.first() else { return Ok(()) };
        let mut desc = Descriptor::new(MediaType::Other("".into()), digest, owner.size);
        let mut names: Vec<String> = Vec::new();
        for (label, repositories) in owners.iter().flat_map(|owner| &owner.labels) {
            if let Some(host) = label.strip_prefix(SOURCE) {
                names.extend(repositories.split(',').map(|name| format!("{host}/{name}@{digest}")));
            }
        }
        if let Some(known) = known.get(&digest) {
            desc = known.desc.clone();
            names.extend(known.images.iter().map(|name| pinned(name, &digest)));
        }
        let what = || format!("fetch blob {digest} again");
        let mut failure = Error::new(ErrorKind::NotFound, "nothing says where it came from");
        if let Some(moved) = store.quarantine_blob(&digest)? {
            note_moved(finding, &moved);
        }
        let engine = self.engine.in_namespace(owner.namespace.clone());
        for name in names {
            let fetched = match self.engine.remotes().fetcher(&name) {
                Ok(fetcher) => {
                    let downloads = self.alive.downloads(fetcher);
                    let (content, desc) = (engine.content(), desc.clone());
                    blocking(move || bring(&content, &downloads, &desc)).await
                }
                Err(error) => Err(error),
            };
            match fetched {
                Ok(()) => {
                    self.progress.event(Event::Committed { digest });
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => failure = error,
            }
        }
        Err(failure).during(what)
    }

    /// What the images that are there lead to.
    fn known(&self) -> Result<HashMap<Digest, Known>> {
        let mut known: HashMap<Digest, Known> = HashMap::new();
        for (engine, image) in images(self.engine)? {
            each_below(&engine, &image.target, &mut |desc| {
                let known = known
                    .entry(desc.digest)
                    .or_insert_with(|| Known { desc: desc.clone(), images: Vec::new() });
                known.images.push(image.name.as_str().to_owned());
            });
        }
        Ok(known)
    }
}

/// Says where a damaged or strange file is now.
fn note_moved(finding: &mut Finding, moved: &Path) {
    if !finding.detail.is_empty() {
        finding.detail.push_str("; ");
    }
    finding.detail.push_str(&format!("moved to {}", moved.display()));
}

/// Downloads a blob whose rows are there. They stay: an ingest that says what it expects would drop
/// those whose file is lost, and labels with them.
fn bring(content: &ContentStore, downloads: &Downloads, desc: &Descriptor) -> Result<()> {
    let key = IngestKey::for_content("fsck", &desc.digest);
    let mut writer = content.open_writer(&key, Expected::default(), Sharing::Isolated)?;
    let mut write = || {
        writer.truncate()?;
        let mut body = downloads.start(desc, 0);
        while let Some(chunk) = body.next_chunk()? {
            writer.write(&chunk)?;
        }
        Ok(())
    };
    if let Err(error) = write() {
        writer.abort()?;
        return Err(error);
    }
    match writer.commit(Expected::from(desc), &Labels::new()) {
        Err(error) if error.find::<ContentMismatch>().is_some() => {
            content.abort(&key)?;
            Err(Error::new(ErrorKind::Corrupt, "verify what came").with_source(error))
        }
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// The reference of a blob in the repository of an image.
fn pinned(image: &str, digest: &Digest) -> String {
    match Reference::parse(image) {
        Ok(reference) => reference.pinned(*digest).to_string(),
        Err(_) => image.to_owned(),
    }
}

/// All images, each with an engine in its namespace.
fn images(engine: &Engine) -> Result<Vec<(Engine, dist_core::Image)>> {
    let mut all = Vec::new();
    for (namespace, _) in engine.store().namespaces().list()? {
        let engine = engine.in_namespace(namespace);
        for image in engine.images().list()? {
            all.push((engine.clone(), image));
        }
    }
    Ok(all)
}

/// Visits a descriptor and all that documents which are there name below it.
fn each_below(engine: &Engine, target: &Descriptor, visit: &mut dyn FnMut(&Descriptor)) {
    let (mut todo, mut seen) = (vec![target.clone()], HashSet::new());
    while let Some(desc) = todo.pop() {
        if !seen.insert(desc.digest) {
            continue;
        }
        visit(&desc);
        if desc.media_type.is_index() || desc.media_type.is_manifest() {
            // One that is missing or damaged has been found as such.
            todo.extend(children(&engine.content(), &desc).unwrap_or_default());
        }
    }
}

/// Committed snapshots as trees that layers unpack to.
struct Trees<'a> {
    engine: &'a Engine,
    rows: &'a [SnapshotRow],
    cancel: &'a Cancel,
    /// The layers of a chain, lowest first.
    chains: HashMap<(Namespace, SnapshotKey), Vec<Layer>>,
}

impl<'a> Trees<'a> {
    fn new(engine: &'a Engine, rows: &'a [SnapshotRow], cancel: &'a Cancel) -> Result<Self> {
        let mut chains = HashMap::new();
        for (engine, image) in images(engine)? {
            each_below(&engine, &image.target, &mut |desc| {
                if !desc.media_type.is_manifest() {
                    return;
                }
                // Manifests for other platforms have no config here.
                let Ok(plan) = plan(&engine.content(), desc) else { return };
                for end in 1..=plan.layers.len() {
                    let layers = plan.layers[..end].to_vec();
                    let key = SnapshotKey::from(plan.layers[end - 1].chain_id);
                    chains.insert((engine.namespace().clone(), key), layers);
                }
            });
        }
        Ok(Self { engine, rows, cancel, chains })
    }

    /// How many layers the snapshot of a finding has.
    fn depth(&self, finding: &Finding) -> usize {
        match &finding.subject {
            Subject::Snapshot(row) => self.layers(row).map_or(0, <[Layer]>::len),
            _ => 0,
        }
    }

    fn repair(&self, finding: &mut Finding) -> Outcome {
        let repaired = match (&finding.subject, finding.problem) {
            (Subject::Snapshot(row), Problem::SnapshotUnfinished) => {
                dist_snapshot::remove_unfinished(self.engine.store(), row)
            }
            (Subject::Snapshot(row), _) => self.rebuild(row),
            (Subject::Database, _) => {
                let message = "repair the database: restore it from a copy";
                Err(Error::new(ErrorKind::Storage, message))
            }
            // Directories without rows go when all else is done.
            (_, Problem::SnapshotUnowned) => Ok(()),
            _ => self.engine.store().remove_leftover(finding).map(|moved| {
                if let Some(moved) = moved {
                    note_moved(finding, &moved);
                }
            }),
        };
        repaired.map_or_else(Outcome::Failed, |()| Outcome::Repaired)
    }

    fn layers(&self, row: &SnapshotRow) -> Option<&[Layer]> {
        let key = (row.namespace.clone(), row.key.clone());
        self.chains.get(&key).map(Vec::as_slice)
    }

    /// Compares all committed snapshots that layers lead to, but for those that were found before.
    fn compare_all(
        &self,
        before: &[(Finding, Outcome)],
        repair: bool,
    ) -> Result<Vec<(Finding, Outcome)>> {
        let told: HashSet<_> = before
            .iter()
            .filter_map(|(finding, _)| match &finding.subject {
                Subject::Snapshot(row) => Some(row.id),
                _ => None,
            })
            .collect();
        let mut found = Vec::new();
        let mut rows: Vec<_> =
            self.rows.iter().filter(|row| row.committed && !told.contains(&row.id)).collect();
        rows.sort_by_key(|row| self.layers(row).map_or(0, <[Layer]>::len));
        for row in rows {
            self.cancel.check()?;
            let Some(detail) = self.compare(row)? else { continue };
            let subject = Subject::Snapshot(row.clone());
            let mut finding = Finding { problem: Problem::SnapshotContents, subject, detail };
            let outcome = if repair { self.repair(&mut finding) } else { Outcome::Found };
            found.push((finding, outcome));
        }
        Ok(found)
    }

    /// Unpacks what a snapshot should be beside it; says what is not the same.
    fn compare(&self, row: &SnapshotRow) -> Result<Option<String>> {
        let (Some(layers), Some(dir)) =
            (self.layers(row), dist_snapshot::tree_dir(self.engine.store(), row))
        else {
            return Ok(None);
        };
        let content = self.engine.in_namespace(row.namespace.clone()).content();
        let needed = if row.snapshotter == "native" { layers } else { &layers[layers.len() - 1..] };
        let lost = |dir: &PathBuf| !dir.exists();
        let parent = layers[layers.len() - 1].parent;
        let below = parent.map_or_else(|| Ok(Vec::new()), |parent| self.below(row, parent));
        if needed.iter().any(|layer| content.open(&layer.desc.digest).is_err())
            || below.map_or(true, |below| below.iter().any(lost))
        {
            return Ok(None); // nothing to compare it with, which is told of what is lost
        }
        let beside = Beside::new(self.engine.store().root())?;
        match self.unpack(row, layers, &beside.path) {
            // Its blob is damaged, which is told.
            Err(error) if blames_content(error.kind()) => return Ok(None),
            unpacked => unpacked?,
        }
        let difference = match first_difference(&beside.path, &dir, self.cancel) {
            // Removed meanwhile.
            Err(error) if error.kind() == ErrorKind::Aborted && !dir.exists() => return Ok(None),
            difference => difference?,
        };
        Ok(difference.map(|name| format!("it differs from its layers at {name}")))
    }

    fn rebuild(&self, row: &SnapshotRow) -> Result<()> {
        let what = || format!("rebuild snapshot {}", row.key);
        let Some(layers) = self.layers(row) else {
            let message = format!("{}: no image here has its layers", what());
            return Err(Error::new(ErrorKind::NotFound, message));
        };
        dist_snapshot::rebuild(self.engine.store(), row, |new| self.unpack(row, layers, new))
            .during(what)
    }

    /// Unpacks the last of `layers`, or for whole copies all of them, into an empty directory.
    fn unpack(&self, row: &SnapshotRow, layers: &[Layer], dir: &Path) -> Result<()> {
        let engine = self.engine.in_namespace(row.namespace.clone());
        let snapshotter = engine.with_snapshotter(&row.snapshotter).snapshotter()?;
        let form = snapshotter.layer_form();
        let merged = form == LayerForm::Merged;
        let from = if merged { 0 } else { layers.len() - 1 };
        for layer in &layers[from..] {
            let mut blob = engine.content().open(&layer.desc.digest)?.file;
            let options = ApplyOptions { form, limits: *engine.limits(), split: true };
            let mount = Mount {
                fstype: "bind".into(),
                source: dir.to_owned(),
                target: None,
                options: vec!["rw".into()],
            };
            let applied =
                LayerApplier::new(options).apply(&layer.desc, &mut blob, &[mount], self.cancel)?;
            layer.check_diff_id(applied.diff_id)?;
            if let (false, Some(parent)) = (merged, layer.parent) {
                let below = self.below(row, parent)?;
                inherit_dirs(dir, &below, &applied.implicit_dirs)?;
            }
        }
        Ok(())
    }

    fn below(&self, row: &SnapshotRow, parent: ChainId) -> Result<Vec<PathBuf>> {
        let (store, key) = (self.engine.store(), SnapshotKey::from(parent));
        dist_snapshot::layer_dirs(store, &row.namespace, &row.snapshotter, &key)
    }
}

/// Whether a layer could not be unpacked because of its own bytes.
fn blames_content(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Corrupt
            | ErrorKind::UnsafeLayer
            | ErrorKind::Unsupported
            | ErrorKind::ResourceExhausted
            | ErrorKind::NotFound
    )
}

/// A directory in the store that is gone with this value; one that a killed process left is found
/// as trash, because nobody holds its lock.
struct Beside {
    path: PathBuf,
    _lock: std::fs::File,
}

impl Beside {
    fn new(root: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not in the trash, which everybody empties.
        let path = root.join("quarantine").join(format!("fsck-{}-{next}", std::process::id()));
        let make = || {
            std::fs::create_dir(&path)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
            let lock = std::fs::File::open(&path)?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        };
        let lock = make()
            .map_err(|error: std::io::Error| error)
            .context(ErrorKind::Storage, || format!("create directory {}", path.display()))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(error) = dist_snapshot::remove_tree(&self.path) {
            tracing::debug!(?error, "what a snapshot was compared with was not removed");
        }
    }
}
