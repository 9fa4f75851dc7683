//! What nothing keeps goes.

use std::collections::HashMap;

use dist_core::{Resource, Result};
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
/// `Storage`; the first failure, after all else has been tried. That something in quarantine can't be
/// removed is a warning only.
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
    collect_quarantined(store, options, jiff::Timestamp::now(), collected)
}

/// Removes what has been in quarantine for long enough `now`.
fn collect_quarantined(
    store: &Store,
    options: GcOptions,
    now: jiff::Timestamp,
    collected: &mut Collected,
) -> Result<()> {
    for Quarantined { path, ends_at } in store.quarantined()? {
        if i128::from(ends_at) >= now.as_nanosecond() {
            collected.next_end = collected.next_end.into_iter().chain([ends_at]).min();
            continue;
        }
        let bytes = dist_snapshot::disk_bytes(&path);
        if !options.dry_run
            && let Err(error) = dist_snapshot::remove_tree(&path)
        {
            tracing::warn!(?error, path = %path.display(), "what was in quarantine stays");
            continue;
        }
        collected.leaked.push(Leak { path, bytes, ended: Some(ends_at) });
    }
    Ok(())
}

fn measure(store: &Store, id: SnapshotId, removed: &mut Removed) {
    if let Object::Resource(Resource::Snapshot { snapshotter, .. }) = &removed.object {
        removed.bytes = dist_snapshot::directory_bytes(store, snapshotter, id);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dist_store::{Collected, GcOptions, Store, StoreOptions};

    use super::collect_quarantined;

    #[test]
    fn what_was_put_aside_goes_a_week_after_it_came() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let store = Store::open(&dir.path().join("store"), StoreOptions::default())?;
        let quarantine = store.root().join("quarantine");
        let ended = quarantine.join("leak-1700000000000000000-7-0");
        std::fs::create_dir(&ended)?;
        std::fs::write(ended.join("file"), "leak")?;
        let mine = quarantine.join("redis-layer-2026-11-22");
        std::fs::write(&mine, "mine")?;

        let day = Duration::from_secs(24 * 60 * 60);
        let now = jiff::Timestamp::now();
        let after = |days: u32, dry_run: bool| {
            let mut collected = Collected::default();
            let options = GcOptions { dry_run };
            collect_quarantined(&store, options, now + day * days, &mut collected)
                .map(|()| collected)
        };
        let kept = after(6, false)?;
        assert!(kept.leaked.is_empty() && kept.next_end.is_some() && ended.exists());
        let told = after(8, true)?.leaked;
        assert!(ended.exists(), "nothing goes in a dry run");
        let gone = after(8, false)?.leaked;
        assert_eq!(told, gone);
        assert_eq!(gone.iter().map(|leak| &leak.path).collect::<Vec<_>>(), [&ended]);
        assert!(!ended.exists() && mine.exists());

        std::fs::remove_dir_all(&quarantine)?;
        assert_eq!(after(8, false)?, Collected::default());
        Ok(())
    }
}
