//! Snapshots that images were unpacked to and that have no row.

use std::sync::Arc;

use dist_core::{Digest, ErrorKind, GC_REF_SNAPSHOT, Progress, Provider as _, Result, SnapshotKey};
use dist_store::{Finding, Problem, Subject};

use super::{Outcome, each_below, images};
use crate::Engine;
use crate::layers::plan;
use crate::pull::{PullOptions, unpack_manifest};

/// Snapshots that images name and that are not there, each with the manifest that can be unpacked
/// to it.
pub(super) type Missing = Vec<(Finding, Option<Digest>)>;

/// Finds the snapshots that the labels of images' configs name and that have no row: an unclean
/// stop takes back those that were not known to be on the disk, and one whose directory is gone is
/// dropped by who stumbles over it.
pub(super) fn missing(engine: &Engine) -> Result<Missing> {
    let mut found: Missing = Vec::new();
    for (engine, image) in images(engine)? {
        let content = engine.content();
        each_below(&engine, &image.target, &mut |desc| {
            if !desc.media_type.is_manifest() {
                return;
            }
            let Ok(plan) = plan(&content, desc) else { return };
            let (Ok(info), Some(chain_id)) = (content.info(&plan.config), plan.chain_id()) else {
                return;
            };
            let key = SnapshotKey::from(chain_id);
            for snapshotter in dist_snapshot::NAMES {
                let label = format!("{GC_REF_SNAPSHOT}{snapshotter}");
                let snapshots = engine.store().snapshots(engine.namespace(), snapshotter);
                let is_missing = info.labels.get(&label).is_some_and(|name| name == key.as_str())
                    && snapshots.get(&key).is_err_and(|error| error.kind() == ErrorKind::NotFound);
                let subject = Subject::Missing {
                    namespace: engine.namespace().clone(),
                    snapshotter: snapshotter.to_owned(),
                    key: key.clone(),
                };
                if !is_missing || found.iter().any(|(finding, _)| finding.subject == subject) {
                    continue;
                }
                let lost =
                    plan.layers.iter().find(|layer| content.open(&layer.desc.digest).is_err());
                let detail = match lost {
                    Some(layer) => {
                        format!("{}, whose layer {} is not here", image.name, layer.desc.digest)
                    }
                    None => format!("{} was unpacked to it", image.name),
                };
                let manifest = lost.is_none().then_some(desc.digest);
                found.push((
                    Finding { problem: Problem::SnapshotMissing, subject, detail },
                    manifest,
                ));
            }
        });
    }
    Ok(found)
}

/// Unpacks the manifest that a missing snapshot was found with.
pub(super) async fn unpack_again(
    engine: &Engine,
    manifest: &Digest,
    progress: Arc<dyn Progress>,
) -> Outcome {
    match unpack_manifest(engine, manifest, &PullOptions::default(), progress).await {
        Ok(_) => Outcome::Repaired,
        Err(error) => Outcome::Failed(error),
    }
}
