//! What nothing keeps goes.

use std::collections::HashMap;

use dist_core::{Resource, Result};
use dist_snapshot::Leftover;
use dist_store::{Collected, GcOptions, Leak, Object, Removed, SnapshotId, Store};

/// Removes what nothing keeps, in all namespaces but raw ones, and what crashes left behind.
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
            None => collected.leaked.push(Leak { path, bytes }),
        }
    }
    Ok(())
}

fn measure(store: &Store, id: SnapshotId, removed: &mut Removed) {
    if let Object::Resource(Resource::Snapshot { snapshotter, .. }) = &removed.object {
        removed.bytes = dist_snapshot::directory_bytes(store, snapshotter, id);
    }
}
