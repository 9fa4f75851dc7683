//! What keeps an image from being collected: a lease while it is brought, labels afterwards.

use std::collections::BTreeMap;

use dist_core::{
    Digest, GC_EXPIRE, GC_ROOT, LabelChange, Labels, LeaseId, Namespace, Resource, SnapshotKey,
    UNCOMPRESSED,
};
use dist_store::{OpenMode, Store, StoreOptions};
use dist_testutil::{Dist, Fault, FaultProxy, Gate, Image, Registry, Rule, timed};

use crate::support::{dist, pull, quick, verify_image};

/// The store of the binary, for a look.
fn store(dist: &Dist) -> Store {
    let options = StoreOptions { mode: OpenMode::Existing, ..StoreOptions::default() };
    Store::open(dist.root(), options).expect("open the store")
}

fn labels(dist: &Dist) -> BTreeMap<Digest, Labels> {
    let infos = store(dist).content(Namespace::default()).list().expect("list blobs");
    infos.into_iter().map(|info| (info.digest, info.labels)).collect()
}

/// The leases, and what each holds.
fn leases(dist: &Dist) -> Vec<(LeaseId, Labels, Vec<Resource>)> {
    let leases = store(dist).leases(&Namespace::default());
    let list = leases.list().expect("list leases");
    list.into_iter()
        .map(|lease| {
            let held = leases.resources(&lease.id).expect("what a lease holds");
            (lease.id, lease.labels, held)
        })
        .collect()
}

/// How many seconds a lease has left.
fn remaining(labels: &Labels) -> i64 {
    let expires: jiff::Timestamp = labels[GC_EXPIRE].parse().expect("a time");
    expires.as_second() - jiff::Timestamp::now().as_second()
}

fn expected(image: &Image, source: Option<(&str, &str)>) -> BTreeMap<Digest, Labels> {
    let source = source.map(|(host, repository)| {
        (format!("containerd.io/distribution.source.{host}"), repository.to_owned())
    });
    let mut expected: BTreeMap<Digest, Labels> = image
        .blobs
        .iter()
        .chain([&image.manifest])
        .map(|blob| (blob.digest, source.clone().into_iter().collect()))
        .collect();
    let manifest = expected.get_mut(&image.manifest.digest).expect("the manifest");
    for (number, blob) in image.blobs.iter().enumerate() {
        let key = match number {
            0 => "containerd.io/gc.ref.content.config".to_owned(),
            number => format!("containerd.io/gc.ref.content.l.{}", number - 1),
        };
        manifest.insert(key, blob.digest.to_string());
    }
    expected
}

fn add_unpacked(expected: &mut BTreeMap<Digest, Labels>, image: &Image, snapshotter: &str) {
    let config = expected.get_mut(&image.blobs[0].digest).expect("the config");
    let key = format!("containerd.io/gc.ref.snapshot.{snapshotter}");
    config.insert(key, image.chain_id().0.to_string());
    for (blob, diff_id) in image.blobs[1..].iter().zip(&image.diff_ids) {
        let layer = expected.get_mut(&blob.digest).expect("a layer");
        layer.insert(UNCOMPRESSED.to_owned(), diff_id.0.to_string());
    }
}

#[test]
fn a_pull_labels_everything_and_leaves_no_lease() {
    let _timed = timed("leases");
    let (registry, image) = (Registry::start(), Image::random(61, &[3000, 2000]));
    image.push(&registry, "test/labels", "1");
    image.push(&registry, "test/again", "1");
    let host = format!("127.0.0.1:{}", registry.port());
    for snapshotter in ["overlayfs", "erofs", "native"] {
        let dist = dist().with(&["--snapshotter", snapshotter]);
        pull(&dist, &registry.reference("test/labels:1"));
        let mut expected = expected(&image, Some((&host, "test/labels")));
        add_unpacked(&mut expected, &image, snapshotter);
        assert_eq!(labels(&dist), expected);
        assert_eq!(leases(&dist), []);

        // Nothing changes when all is there, and another repository joins the first.
        let updated = |dist: &Dist| -> Vec<i64> {
            let infos = store(dist).content(Namespace::default()).list().expect("list blobs");
            infos.into_iter().map(|info| info.updated_at).collect()
        };
        let before = updated(&dist);
        pull(&dist, &registry.reference("test/labels:1"));
        assert_eq!(updated(&dist), before);
        pull(&dist, &registry.reference("test/again:1"));
        let key = format!("containerd.io/distribution.source.{host}");
        for labels in labels(&dist).values() {
            assert_eq!(labels[&key], "test/again,test/labels");
        }
        assert_eq!(leases(&dist), []);
    }
}

#[test]
fn what_is_brought_by_hand_is_a_root() {
    let _timed = timed("leases");
    let (registry, image) = (Registry::start(), Image::random(62, &[3000, 2000]));
    image.push(&registry, "test/hand", "1");
    let host = format!("127.0.0.1:{}", registry.port());
    let root = |labels: &Labels| labels.contains_key(GC_ROOT);

    let fetched = dist();
    for _ in 0..2 {
        fetched.ok(&["fetch", &registry.reference("test/hand:1")]);
        let mut found = labels(&fetched);
        let manifest = found.get_mut(&image.manifest.digest).expect("the manifest");
        assert!(manifest.remove(GC_ROOT).is_some(), "{manifest:?}");
        assert_eq!(found, expected(&image, Some((&host, "test/hand"))));
        assert_eq!(leases(&fetched), []);
    }
    fetched.ok(&["rootfs", "unpack", &image.digest()]);
    let config = &labels(&fetched)[&image.blobs[0].digest];
    let unpacked = config.iter().find(|(key, _)| key.starts_with("containerd.io/gc.ref.snapshot."));
    assert_eq!(unpacked.expect("a snapshot").1, &image.chain_id().0.to_string());
    assert_eq!(leases(&fetched), []);
    let chain = image.chain_id().0.to_string();
    fetched.ok(&["rootfs", "prepare", "--view", &chain, "mine"]);
    let snapshots = store(&fetched).snapshots(Namespace::default(), dist_snapshot::default_name());
    let mine: SnapshotKey = "mine".parse().expect("a key");
    assert!(root(&snapshots.get(&mine).expect("the view").info.labels));

    let layer = &image.blobs[1];
    let (many, ingested) = (dist(), dist());
    let line = format!("{} mediatype:{}\n", layer.digest, layer.media_type);
    let repository = registry.reference("test/hand");
    many.feed(&["multi-fetch", &repository], line.as_bytes()).ok();
    ingested.feed(&["ingest", "a-key"], &layer.bytes).ok();
    for dist in [&many, &ingested] {
        let found = labels(dist);
        assert!(root(&found[&layer.digest]), "{found:?}");
        assert_eq!((found.len(), leases(dist)), (1, Vec::new()));
    }
}

#[test]
fn a_pull_that_outlasts_its_lease_loses_nothing() {
    let _timed = timed("leases");
    let (registry, image) = (Registry::start(), Image::random(64, &[3000, 2000]));
    image.push(&registry, "test/long", "1");
    let proxy = FaultProxy::start(registry.address());
    let (dist, gate) = (dist(), Gate::default());
    proxy.add(Rule::get(image.layer(1), Fault::Hold(100, gate.clone())).times(1));
    let running = dist.spawn(&["pull", &proxy.reference("test/long:1")]);
    gate.wait_held(1);
    // As a clock that is set does, or a pull of more than a day.
    let ended = LabelChange::Merge([(GC_EXPIRE.to_owned(), "2001-01-01T00:00:00Z".into())].into());
    let (id, ..) = leases(&dist).remove(0);
    let store = store(&dist).leases(&Namespace::default());
    store.update_lazily(&id, &ended).expect("end a lease");
    assert_eq!(dist.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    let why = dist.ok(&["gc", "why", &image.digest()]).text();
    assert!(why.contains("somebody works with it"), "{why}");
    gate.open();
    running.wait().ok();
    assert_eq!(leases(&dist), []);
    dist.ok(&["gc"]);
    verify_image(&dist, &proxy.reference("test/long:1"), &image);
}

#[test]
fn a_lease_keeps_what_a_killed_or_failed_pull_has_brought() {
    let _timed = timed("leases");
    let (registry, image) = (Registry::start(), Image::random(63, &[3000, 2000]));
    image.push(&registry, "test/killed", "1");
    let proxy = FaultProxy::start(registry.address());
    let reference = proxy.reference("test/killed:1");
    let held_at = |dist: &Dist| {
        let mut leases = leases(dist);
        assert_eq!(leases.len(), 1, "{leases:?}");
        let (_, labels, held) = leases.remove(0);
        for blob in [&image.manifest, &image.blobs[0]] {
            assert!(held.contains(&Resource::Content(blob.digest)), "{held:?}");
        }
        remaining(&labels)
    };

    let (killed, gate) = (dist(), Gate::default());
    proxy.add(Rule::get(image.layer(1), Fault::Hold(100, gate.clone())).times(1));
    let running = killed.spawn(&["pull", &reference]);
    gate.wait_held(1);
    // It holds what it is about to bring as well.
    let held = leases(&killed).remove(0).2;
    assert!(held.contains(&Resource::Content(image.blobs[2].digest)), "{held:?}");
    running.kill();
    gate.open();
    assert!((23 * 3600..=24 * 3600).contains(&held_at(&killed)));

    proxy.reset();
    proxy.add(Rule::get(image.layer(1), Fault::Status(404, Vec::new())));
    let failed = quick();
    assert_ne!(failed.run(&["pull", &reference]).code, Some(0));
    assert!((3000..=3600).contains(&held_at(&failed)), "a day after a failure");
    proxy.reset();
    pull(&failed, &reference);
    assert_eq!(leases(&failed).len(), 1, "the lease of the failure stays, that of the pull goes");
}
