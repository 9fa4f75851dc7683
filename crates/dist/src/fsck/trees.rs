//! Snapshots are compared with what their layers unpack to, and made again from them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use dist_core::{
    Applier as _, Cancel, ChainId, Compression, Context as _, Descriptor, Digest, Error, ErrorKind,
    LayerForm, MediaType, Mount, Namespace, Provider as _, Result, ResultExt as _, SnapshotKey,
};
use dist_layer::{
    ApplyOptions, Cores, LayerApplier, erofs_tar, first_difference, image_path, inherit_dirs,
    open_erofs,
};
use dist_store::{Finding, Problem, SnapshotRow, Subject};
use rustix::fs::FlockOperation;

use super::{Done, Outcome, each_below, images, note_moved};
use crate::Engine;
use crate::layers::{Layer, plan};

/// Committed snapshots as trees that layers unpack to.
pub(super) struct Trees<'a> {
    engine: &'a Engine,
    rows: &'a [SnapshotRow],
    cancel: &'a Cancel,
    /// The layers of a chain, lowest first.
    chains: HashMap<(Namespace, SnapshotKey), Vec<Layer>>,
}

impl<'a> Trees<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        rows: &'a [SnapshotRow],
        cancel: &'a Cancel,
    ) -> Result<Self> {
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
    pub(super) fn depth(&self, finding: &Finding) -> usize {
        match &finding.subject {
            Subject::Snapshot(row) => self.layers(row).map_or(0, <[Layer]>::len),
            _ => 0,
        }
    }

    pub(super) fn repair(&self, finding: &mut Finding) -> Outcome {
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
    pub(super) fn compare_all(&self, before: &[(Finding, Outcome)], repair: bool) -> Result<Done> {
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
        let image = self.is_image(row)?;
        let lost = |dir: &PathBuf| {
            if image { open_erofs(&image_path(dir)).is_err() } else { !dir.exists() }
        };
        let parent = layers[layers.len() - 1].parent;
        let below = parent.map_or_else(|| Ok(Vec::new()), |parent| self.below(row, parent));
        let is_lost = |layer: &Layer| content.open(&layer.desc.digest).is_err();
        let itself = image && needed.iter().any(is_lost);
        if (!image && needed.iter().any(is_lost))
            || below.map_or(true, |below| below.iter().any(lost))
        {
            return Ok(None); // nothing to compare it with, which is told of what is lost
        }
        let beside = Beside::new(self.engine.store().root())?;
        match self.unpack(row, layers, &beside.tree) {
            Err(error) if itself && blames_content(error.kind()) => {
                return Ok(Some("its image differs from its layer".to_owned()));
            }
            // Its blob is damaged, which is told.
            Err(error) if blames_content(error.kind()) => return Ok(None),
            unpacked => unpacked?,
        }
        if image {
            let same = same_bytes(&image_path(&beside.tree), &image_path(&dir))?;
            return Ok((!same).then(|| "its image differs from its layer".to_owned()));
        }
        let difference = match first_difference(&beside.tree, &dir, self.cancel) {
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
            .during(|| match self.lost_blob(row, layers) {
                Some(digest) => {
                    format!("{} without layer {digest}: `dist fetch` an image that has it", what())
                }
                None => what(),
            })
    }

    /// The blob of the last layer, where it is not here.
    fn lost_blob(&self, row: &SnapshotRow, layers: &[Layer]) -> Option<Digest> {
        let content = self.engine.in_namespace(row.namespace.clone()).content();
        let digest = layers.last()?.desc.digest;
        content.open(&digest).is_err().then_some(digest)
    }

    fn is_image(&self, row: &SnapshotRow) -> Result<bool> {
        let engine = self.engine.in_namespace(row.namespace.clone());
        let form = engine.with_snapshotter(&row.snapshotter).snapshotter()?.layer_form();
        Ok(matches!(form, LayerForm::Image { .. }))
    }

    /// Unpacks the last of `layers`, or for whole copies all of them, into an empty directory.
    fn unpack(&self, row: &SnapshotRow, layers: &[Layer], dir: &Path) -> Result<()> {
        let engine = self.engine.in_namespace(row.namespace.clone());
        let snapshotter = engine.with_snapshotter(&row.snapshotter).snapshotter()?;
        let form = snapshotter.layer_form();
        let merged = form == LayerForm::Merged;
        let from = if merged { 0 } else { layers.len() - 1 };
        for layer in &layers[from..] {
            let (desc, mut input) = self.input(row, layer, form)?;
            let options =
                ApplyOptions { form, limits: *engine.limits(), cores: Cores::available() };
            let mount = Mount {
                fstype: "bind".into(),
                source: dir.to_owned(),
                target: None,
                options: vec!["rw".into()],
            };
            let applied =
                LayerApplier::new(options).apply(&desc, &mut *input, &[mount], self.cancel)?;
            layer.check_diff_id(applied.diff_id)?;
            if let (false, Some(parent)) = (merged, layer.parent) {
                let below = self.below(row, parent)?;
                inherit_dirs(dir, &below, &applied.implicit_dirs)?;
            }
        }
        Ok(())
    }

    /// A layer's blob; where that was discarded, the tar in the image of the snapshot itself.
    fn input(
        &self,
        row: &SnapshotRow,
        layer: &Layer,
        form: LayerForm,
    ) -> Result<(Descriptor, Box<dyn Read + Send>)> {
        let content = self.engine.in_namespace(row.namespace.clone()).content();
        let image = match (content.open(&layer.desc.digest), form) {
            (Err(error), LayerForm::Image { .. }) if error.kind() == ErrorKind::NotFound => {
                dist_snapshot::tree_dir(self.engine.store(), row).map(|dir| image_path(&dir))
            }
            (blob, _) => return Ok((layer.desc.clone(), Box::new(blob?.file))),
        };
        let missing = || format!("{} is not here, nor is its tar", layer.desc.digest);
        let image = image.ok_or_else(|| Error::new(ErrorKind::NotFound, missing()))?;
        let open = || erofs_tar(File::open(image)?);
        let tar =
            open().map_err(|error: std::io::Error| error).context(ErrorKind::NotFound, missing)?;
        let media_type = MediaType::Layer(Compression::None);
        let desc = Descriptor::new(media_type, layer.diff_id.0, layer.desc.size);
        Ok((desc, Box::new(tar)))
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

fn same_bytes(left: &Path, right: &Path) -> Result<bool> {
    let compare = || {
        let (mut left, mut right) = (File::open(left)?, File::open(right)?);
        let (mut a, mut b) = (vec![0; 256 << 10], vec![0; 256 << 10]);
        if left.metadata()?.len() != right.metadata()?.len() {
            return Ok(false);
        }
        loop {
            let count = left.read(&mut a)?;
            right.read_exact(&mut b[..count])?;
            if a[..count] != b[..count] {
                return Ok(false);
            }
            if count == 0 {
                return Ok(true);
            }
        }
    };
    compare()
        .map_err(|error: std::io::Error| error)
        .context(ErrorKind::Storage, || format!("compare {}", right.display()))
}

/// A directory in the store that is gone with this value; one that a killed process left is found
/// as trash, because nobody holds its lock.
struct Beside {
    path: PathBuf,
    /// The tree, which an image may come to stand beside.
    tree: PathBuf,
    _lock: std::fs::File,
}

impl Beside {
    fn new(root: &Path) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        // Not in the trash, which everybody empties.
        let path = root.join("quarantine").join(format!("fsck-{}-{next}", std::process::id()));
        let tree = path.join("fs");
        let make = || {
            std::fs::create_dir(&path)?;
            std::fs::create_dir(&tree)?;
            std::fs::set_permissions(&tree, std::fs::Permissions::from_mode(0o755))?;
            let lock = std::fs::File::open(&path)?;
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
            Ok(lock)
        };
        let lock = make()
            .map_err(|error: std::io::Error| error)
            .context(ErrorKind::Storage, || format!("create directory {}", path.display()))?;
        Ok(Self { path, tree, _lock: lock })
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Err(error) = dist_snapshot::remove_tree(&self.path) {
            tracing::debug!(?error, "what a snapshot was compared with was not removed");
        }
    }
}
