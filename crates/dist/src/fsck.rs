//! Finds what is lost or damaged in a store, and brings it again.
//!
//! Blobs first, because snapshots are rebuilt from them. A damaged blob is set aside and fetched
//! from where it came: the repositories in its labels `containerd.io/distribution.source.<host>`,
//! else those of the images that lead to it. A damaged snapshot gets new files in the place of the
//! old ones: its row and what stands on it stay.

mod heal;
mod missing;
mod trees;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use dist_core::{Cancel, Descriptor, Error, Progress, Result, children};
use dist_store::{Checked, Finding, Subject};

use self::heal::Healer;
use self::missing::{Missing, missing, unpack_again};
use self::trees::Trees;
use crate::Engine;
use crate::blocking::{Alive, blocking};

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

/// Says where a damaged or strange file is now.
fn note_moved(finding: &mut Finding, moved: &Path) {
    if !finding.detail.is_empty() {
        finding.detail.push_str("; ");
    }
    finding.detail.push_str(&format!("moved to {}", moved.display()));
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
        if !seen.insert((desc.digest, desc.media_type.clone())) {
            continue;
        }
        visit(&desc);
        if desc.media_type.is_index() || desc.media_type.is_manifest() {
            // One that is missing or damaged has been found as such.
            todo.extend(children(&engine.content(), &desc).unwrap_or_default());
        }
    }
}
