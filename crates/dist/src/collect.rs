//! What nothing keeps goes.

use std::collections::HashMap;

use dist_core::{Error, Resource, Result};
use dist_snapshot::Leftover;
use dist_store::{Collected, GcOptions, Leak, Object, Quarantined, Removed, SnapshotId, Store};

/// Removes what nothing keeps, in all namespaces but raw ones, and what crashes left behind,
/// and what has been in quarantine for its time.
///
/// Readers and writers go on meanwhile. A crash at any point loses nothing that is needed; what it
/// leaves, the next collection removes. What went is added to `collected` as it goes, also where
/// something fails later.
///
/// # Errors
/// `Storage`; the first failure, after all else has been tried.
pub fn collect(store: &Store, options: GcOptions, collected: &mut Collected) -> Result<()> {
    store.collect(options, collected)?;
    let mut snapshots: HashMap<SnapshotId, &mut Removed> = collected
        .removed
        .iter_mut()
        .filter_map(|removed| Some((removed.snapshot_id?, removed)))
        .collect();
    let leftovers = if options.dry_run {
        snapshots.iter_mut().for_each(|(id, removed)| measure(store, *id, removed));
        dist_snapshot::leftovers(store)?
    } else {
        dist_snapshot::purge_measured(store)?
    };
    for Leftover { path, id, bytes } in leftovers {
        match id.and_then(|id| snapshots.get_mut(&id)) {
            Some(removed) => removed.bytes = bytes,
            None => collected.leaked.push(Leak { path, bytes, ended: None }),
        }
    }
    collect_quarantined(store, options, collected)
}

/// Removes what has been in quarantine for long enough.
fn collect_quarantined(store: &Store, options: GcOptions, collected: &mut Collected) -> Result<()> {
    let now = jiff::Timestamp::now().as_nanosecond();
    let mut failure: Option<Error> = None;
    for Quarantined { path, ends_at } in store.quarantined()? {
        if i128::from(ends_at) >= now {
            collected.next_end = collected.next_end.into_iter().chain([ends_at]).min();
            continue;
        }
        let bytes = dist_snapshot::disk_bytes(&path);
        if !options.dry_run
            && let Err(error) = dist_snapshot::remove_tree(&path)
        {
            failure = failure.or(Some(error));
            continue;
        }
        collected.leaked.push(Leak { path, bytes, ended: Some(ends_at) });
    }
    failure.map_or(Ok(()), Err)
}

fn measure(store: &Store, id: SnapshotId, removed: &mut Removed) {
    if let Object::Resource(Resource::Snapshot { snapshotter, .. }) = &removed.object {
        removed.bytes = dist_snapshot::directory_bytes(store, snapshotter, id);
    }
}
