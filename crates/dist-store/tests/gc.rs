//! What a collection takes, what it leaves, and what it says about it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use dist_core::{
    Cancel, Descriptor, Digest, ErrorKind, Expected, GC_EXPIRE, GC_ROOT, Labels, LeaseId,
    MediaType, Namespace, Provider as _, Resource, SnapshotKind, Usage,
};
use dist_store::{
    Collected, ContentStore, Explanation, GcOptions, Object, Reason, Scope, Sharing, Store,
    StoreOptions, Why,
};

const PAST: &str = "2001-01-01T00:00:00Z";
const FUTURE: &str = "2201-01-01T00:00:00Z";

struct Fixture {
    _dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("root"), StoreOptions::default()).unwrap();
        Self { _dir: dir, store }
    }

    fn content(&self, name: &str) -> ContentStore {
        self.store.content(namespace(name))
    }

    fn image(&self, name: &str, target: &Digest, pairs: &[(&str, &str)]) {
        let target = Descriptor::new(MediaType::Manifest, *target, 1);
        let images = self.store.images(namespace("a"));
        images.put(&name.parse().unwrap(), &target, &labels(pairs)).unwrap();
    }

    fn images(&self) -> Vec<String> {
        let list = self.store.images(namespace("a")).list().unwrap();
        list.into_iter().map(|image| image.name.to_string()).collect()
    }

    fn lease(&self, pairs: &[(&str, &str)], held: &[Resource]) -> LeaseId {
        let leases = self.store.leases(&namespace("a"));
        let id = leases.create(None, &labels(pairs)).unwrap().id;
        held.iter().for_each(|resource| leases.add(&id, resource).unwrap());
        id
    }

    /// A committed snapshot.
    fn snapshot(&self, name: &str, parent: Option<&str>, pairs: &[(&str, &str)]) {
        let records = self.store.snapshots(namespace("a"), "native");
        let key = |text: &str| text.parse().unwrap();
        let active = key(&format!("making {name}"));
        let parent = parent.map(key);
        records.insert(&active, parent.as_ref(), SnapshotKind::Active, &Labels::new()).unwrap();
        let usage = Usage { bytes: 10, inodes: 1 };
        records.commit(&key(name), &active, None, &labels(pairs), usage).unwrap();
    }

    fn snapshots(&self) -> BTreeSet<String> {
        let list = self.store.snapshots(namespace("a"), "native").list().unwrap();
        list.into_iter().map(|info| info.key.to_string()).collect()
    }

    fn collect(&self) -> Collected {
        self.run(GcOptions::default())
    }

    fn run(&self, options: GcOptions) -> Collected {
        let mut collected = Collected::default();
        self.store.collect(options, &mut collected).unwrap();
        collected
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("content/blobs").join(digest.algorithm()).join(digest.hex())
    }

    fn explain(&self, resource: &Resource) -> Explanation {
        self.store.explain(&namespace("a"), resource).unwrap()
    }
}

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

/// Writes a blob with labels; nothing keeps it but they.
fn put(content: &ContentStore, bytes: &[u8], pairs: &[(&str, &str)]) -> Digest {
    let key = "put".parse().unwrap();
    let mut writer = content.open_writer(&key, Expected::default(), Sharing::Shared).unwrap();
    writer.write(bytes).unwrap();
    writer.commit(Expected::default(), &labels(pairs)).unwrap().digest
}

fn listed(content: &ContentStore) -> BTreeSet<Digest> {
    content.list().unwrap().into_iter().map(|info| info.digest).collect()
}

fn content(digest: Digest) -> Resource {
    Resource::Content(digest)
}

fn snapshot(name: &str) -> Resource {
    Resource::Snapshot { snapshotter: "native".into(), key: name.parse().unwrap() }
}

#[test]
fn a_lease_that_somebody_works_under_does_not_end() {
    let f = Fixture::new();
    let blob = put(&f.content("a"), b"held", &[]);
    let lease = f.lease(&[(GC_EXPIRE, PAST)], &[content(blob)]);
    let used = f.store.use_lease(&namespace("a"), &lease, &Cancel::default()).unwrap();
    let given_up = Cancel::default();
    given_up.cancel();
    let twice = f.store.use_lease(&namespace("a"), &lease, &given_up).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Cancelled);
    // The same id in another namespace is another lease.
    f.store
        .leases(&namespace("b"))
        .create(Some(lease.clone()), &labels(&[(GC_EXPIRE, PAST)]))
        .unwrap();
    assert_eq!(f.collect().removed.len(), 1);
    let Explanation::Kept(path) = f.explain(&content(blob)) else { panic!("it goes") };
    assert_eq!(path[0].reason, Reason::InUse);
    drop(used);
    assert_eq!(f.collect().removed.len(), 2);
    assert!(f.store.leases(&namespace("a")).get(&lease).is_err());
}

fn objects(collected: &Collected) -> Vec<String> {
    collected.removed.iter().map(|removed| removed.object.to_string()).collect()
}

/// An image as a pull leaves it: manifest, config and layer, and snapshots of the layer.
fn pulled(f: &Fixture, name: &str) -> [Digest; 3] {
    let blobs = f.content("a");
    let layer = put(&blobs, b"layer", &[]);
    f.snapshot("below", None, &[]);
    f.snapshot("chain", Some("below"), &[]);
    let config = put(&blobs, b"config", &[("containerd.io/gc.ref.snapshot.native", "chain")]);
    let manifest = put(
        &blobs,
        b"manifest",
        &[
            ("containerd.io/gc.ref.content.config", &config.to_string()),
            ("containerd.io/gc.ref.content.l.0", &layer.to_string()),
        ],
    );
    f.image(name, &manifest, &[]);
    [manifest, config, layer]
}

#[test]
fn an_image_keeps_all_that_its_labels_lead_to_and_nothing_else_stays() {
    let f = Fixture::new();
    let kept = pulled(&f, "image");
    let lost = put(&f.content("a"), b"nobody's", &[]);
    f.snapshot("stray", Some("below"), &[]);
    f.snapshot("on stray", Some("stray"), &[]);
    let dry = f.run(GcOptions { dry_run: true });
    assert_eq!(f.snapshots().len(), 4);
    let collected = f.collect();
    assert_eq!(collected, dry);
    assert_eq!(
        objects(&collected),
        ["snapshot native/on stray", "snapshot native/stray", &format!("blob {lost}")]
    );
    assert_eq!(collected.removed[0].why, Why::Unreferenced);
    let on_stray = Object::Resource(snapshot("on stray"));
    assert_eq!(collected.removed[1].why, Why::OnlyBy(on_stray));
    assert_eq!(collected.removed[2].bytes, 8);
    assert!(collected.leaked.is_empty());
    assert_eq!(listed(&f.content("a")), BTreeSet::from(kept));
    assert_eq!(f.snapshots(), BTreeSet::from(["below".into(), "chain".into()]));
    assert!(!f.blob_path(&lost).exists());
    assert_eq!(f.collect(), Collected::default());

    let name = "image".parse().unwrap();
    f.store.images(namespace("a")).delete(&name, None).unwrap();
    assert_eq!(f.collect().removed.len(), 5);
    assert!(listed(&f.content("a")).is_empty() && f.snapshots().is_empty());
}

#[test]
fn a_path_is_told_for_what_is_kept_and_a_reason_for_what_is_not() {
    let f = Fixture::new();
    let [manifest, config, _] = pulled(&f, "image");
    let Explanation::Kept(path) = f.explain(&snapshot("below")) else { panic!("it is kept") };
    let told: Vec<_> = path.iter().map(|step| (step.object.to_string(), &step.reason)).collect();
    assert_eq!(
        told,
        [
            ("image image".into(), &Reason::Registered { expires: None }),
            (format!("blob {manifest}"), &Reason::Target),
            (
                format!("blob {config}"),
                &Reason::Refers("containerd.io/gc.ref.content.config".into())
            ),
            (
                "snapshot native/chain".into(),
                &Reason::Refers("containerd.io/gc.ref.snapshot.native".into())
            ),
            ("snapshot native/below".into(), &Reason::Parent),
        ]
    );
    f.snapshot("stray", None, &[]);
    assert_eq!(f.explain(&snapshot("stray")), Explanation::Dead(Why::Unreferenced));
    let missing = f.store.explain(&namespace("a"), &snapshot("ghost")).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let elsewhere = f.store.explain(&namespace("b"), &content(manifest)).unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::NotFound);
}

#[test]
fn leases_keep_what_they_hold_until_they_are_deleted_or_end() {
    let f = Fixture::new();
    let blobs = f.content("a");
    let below = put(&blobs, b"below", &[]);
    let refers = [("containerd.io/gc.ref.content.0", &*below.to_string())];
    let (held, flat) = (put(&blobs, b"held", &refers), put(&blobs, b"flat", &refers));
    f.snapshot("base", None, &[]);
    f.snapshot("top", Some("base"), &[("containerd.io/gc.ref.content", &below.to_string())]);
    let lease = f.lease(&[], &[content(held)]);
    let flatly = [content(flat), snapshot("top")];
    f.lease(&[("containerd.io/gc.flat", PAST)], &flatly);
    assert_eq!(f.collect(), Collected::default());

    // Only the flat one is left: what it holds, and the parent of the snapshot.
    f.store.leases(&namespace("a")).delete(&lease).unwrap();
    f.collect();
    assert_eq!(listed(&blobs), BTreeSet::from([flat]));
    assert_eq!(f.snapshots().len(), 2);

    let blob = put(&blobs, b"short", &[]);
    let ended = f.lease(&[(GC_EXPIRE, PAST)], &[content(blob)]);
    f.lease(&[(GC_EXPIRE, FUTURE)], &[content(flat)]);
    f.lease(&[(GC_EXPIRE, "some day")], &[content(flat)]);
    let collected = f.collect();
    assert_eq!(objects(&collected), [format!("lease {ended}"), format!("blob {blob}")]);
    assert!(matches!(collected.removed[0].why, Why::Ended { .. }));
    assert_eq!(collected.removed[1].why, Why::OnlyBy(Object::Lease(ended)));
    assert_eq!(f.store.leases(&namespace("a")).list().unwrap().len(), 3);
    let next = collected.next_end.unwrap();
    assert_eq!(f.store.next_end().unwrap(), Some(next));
    assert!(next > 7_000_000_000_000_000_000, "{next}");
}

#[test]
fn images_that_ended_go_with_all_that_only_they_kept() {
    let f = Fixture::new();
    let blobs = f.content("a");
    let [one, two, three] = [b"one", b"two", b"3rd"].map(|bytes| put(&blobs, bytes, &[]));
    f.image("ended", &one, &[(GC_EXPIRE, PAST)]);
    f.image("leased", &two, &[(GC_EXPIRE, PAST)]);
    f.image("lives", &three, &[(GC_EXPIRE, FUTURE)]);
    f.lease(&[], &[Resource::Image("leased".parse().unwrap())]);
    assert_eq!(objects(&f.collect()), ["image ended".into(), format!("blob {one}")]);
    assert_eq!(f.images(), ["leased", "lives"]);
    assert_eq!(listed(&blobs), BTreeSet::from([two, three]));
}

#[test]
fn root_labels_and_back_references_keep() {
    let f = Fixture::new();
    let blobs = f.content("a");
    let root = put(&blobs, b"root", &[(GC_ROOT, PAST)]);
    let back = put(&blobs, b"back", &[("containerd.io/gc.bref.content.x", &root.to_string())]);
    f.snapshot("base", None, &[]);
    f.snapshot("top", Some("base"), &[("containerd.io/gc.bref.image", "image")]);
    f.snapshot("root", None, &[(GC_ROOT, "yes")]);
    f.image("image", &Digest::sha256(b"not there"), &[]);
    assert_eq!(f.collect(), Collected::default());
    f.store.images(namespace("a")).delete(&"image".parse().unwrap(), None).unwrap();
    let change = dist_core::LabelChange::Merge(labels(&[(GC_ROOT, "")]));
    blobs.update_labels(&root, &change).unwrap();
    f.collect();
    assert!(listed(&blobs).is_empty(), "{back} kept itself");
    assert_eq!(f.snapshots(), BTreeSet::from(["root".into()]));
}

#[test]
fn what_one_namespace_loses_the_other_keeps() {
    let f = Fixture::new();
    let (ours, theirs) = (f.content("a"), f.content("b"));
    let blob = put(&ours, b"shared", &[]);
    put(&theirs, b"shared", &[(GC_ROOT, PAST)]);
    let raw = f.store.content(Namespace::raw("other"));
    let backend = put(&raw, b"another daemon's", &[]);
    let collected = f.collect();
    assert_eq!(objects(&collected), [format!("blob {blob}")]);
    assert_eq!(collected.removed[0].bytes, 0, "the other namespace has its bytes");
    assert!(listed(&ours).is_empty());
    assert_eq!(theirs.open(&blob).unwrap().size, 6);
    assert_eq!(raw.open(&backend).unwrap().size, 16);
    // A label leads nowhere outside its namespace.
    put(&ours, b"x", &[(GC_ROOT, "1"), ("containerd.io/gc.ref.content", &blob.to_string())]);
    theirs.delete(&blob).unwrap();
    put(&theirs, b"shared", &[]);
    assert_eq!(f.collect().removed.len(), 1);
}

#[test]
fn ingests_end_a_day_after_their_last_write_unless_leased_or_written_to() {
    let f = Fixture::new();
    let begin = |namespace: Namespace, key: &str| {
        let store = f.store.content(namespace);
        let digest = Digest::sha256(b"expected");
        let expected = Expected { digest: Some(digest), size: None };
        let mut writer =
            store.open_writer(&key.parse().unwrap(), expected, Sharing::Shared).unwrap();
        writer.write(b"some").unwrap();
        writer
    };
    f.lease(&[], &[Resource::Ingest("leased".parse().unwrap())]);
    drop(begin(namespace("a"), "old"));
    drop(begin(namespace("a"), "leased"));
    drop(begin(Namespace::raw("x"), "raw"));
    let active = begin(namespace("a"), "active");
    for entry in f.store.all_ingests().unwrap() {
        std::fs::write(entry.path().join("updatedat"), "0000000000000000001").unwrap();
        std::fs::write(entry.path().join("startedat"), "1").unwrap();
    }
    drop(begin(namespace("a"), "new"));
    // What an ingest will be is kept as long as the ingest.
    let expected = put(&f.content("a"), b"expected", &[]);
    let collected = f.collect();
    assert_eq!(objects(&collected), ["ingest old"]);
    assert_eq!(collected.removed[0].bytes, 4);
    assert_eq!(listed(&f.content("a")), BTreeSet::from([expected]));
    let mut left: Vec<_> =
        f.store.all_ingests().unwrap().into_iter().map(|e| e.status.key.to_string()).collect();
    left.sort();
    assert_eq!(left, ["active", "leased", "new", "raw"]);
    drop(active);
}

#[test]
fn an_ingest_that_was_begun_under_a_lease_ends_with_it() {
    let f = Fixture::new();
    let lease = f.lease(&[], &[]);
    let leased = Scope { namespace: namespace("a"), lease: Some(lease.clone()) };
    let open = |scope: &Scope, key: &str| {
        let content = f.store.content(scope);
        let mut writer = content
            .open_writer(&key.parse().unwrap(), Expected::default(), Sharing::Shared)
            .unwrap();
        writer.write(b"some").unwrap();
        writer
    };
    drop(open(&leased, "left"));
    let live = open(&leased, "live");
    drop(open(&leased, "taken over"));
    drop(open(&leased, "another boot"));
    for entry in f.store.all_ingests().unwrap() {
        assert!(entry.leased, "{entry:?}");
        if entry.status.key.as_str() == "another boot" {
            std::fs::write(entry.path().join("leased"), "another").unwrap();
        }
    }
    assert_eq!(f.collect().removed, [], "the lease holds them");
    f.store.leases(&namespace("a")).delete(&lease).unwrap();
    // The last one to open it says whether it needs a lease.
    drop(open(&namespace("a").into(), "taken over"));
    let collected = f.collect();
    assert_eq!(objects(&collected), ["ingest left"]);
    assert_eq!(collected.removed[0].why, Why::Unreferenced);
    drop(live);
    assert_eq!(objects(&f.collect()), ["ingest live"]);
    assert_eq!(f.store.all_ingests().unwrap().len(), 2);
}

#[test]
fn leaked_files_go_but_not_what_a_live_ingest_publishes() {
    let f = Fixture::new();
    let path = |bytes: &[u8]| f.blob_path(&Digest::sha256(bytes));
    std::fs::write(path(b"leak"), "leak").unwrap();
    // A commit that was killed between its link and its row, and one that is there right now.
    let blobs = f.content("a");
    let write = |key: &str, bytes: &[u8]| {
        let key = key.parse().unwrap();
        let mut writer = blobs.open_writer(&key, Expected::default(), Sharing::Shared).unwrap();
        writer.write(bytes).unwrap();
        let entries = f.store.all_ingests().unwrap();
        let entry = entries.iter().find(|entry| entry.status.key == key).unwrap();
        std::fs::hard_link(entry.path().join("data"), path(bytes)).unwrap();
        writer
    };
    drop(write("killed", b"killed"));
    let live = write("live", b"live");
    let stray = f.store.root().join("content/blobs/sha256/README");
    std::fs::write(&stray, "somebody else's").unwrap();
    let dry = f.run(GcOptions { dry_run: true });
    let collected = f.collect();
    assert_eq!(dry, collected);
    let mut leaked: Vec<_> =
        collected.leaked.iter().map(|leak| (leak.path.clone(), leak.bytes)).collect();
    leaked.sort();
    // The ingest still has the bytes.
    let mut expected = vec![(path(b"leak"), 4), (path(b"killed"), 0)];
    expected.sort();
    assert_eq!(leaked, expected);
    assert!(stray.exists() && path(b"live").exists());
    assert!(collected.removed.is_empty());
    // Both commit whatever went meanwhile.
    std::fs::remove_file(path(b"live")).unwrap();
    let info = live.commit(Expected::default(), &Labels::new()).unwrap();
    assert_eq!(blobs.open(&info.digest).unwrap().size, 4);
    let key = "killed".parse().unwrap();
    let killed = blobs.open_writer(&key, Expected::default(), Sharing::Shared).unwrap();
    let info = killed.commit(Expected::default(), &Labels::new()).unwrap();
    assert_eq!(blobs.open(&info.digest).unwrap().size, 6);
}

#[test]
fn locks_of_the_dead_go_and_those_of_the_living_stay() {
    let f = Fixture::new();
    let locks = f.store.root().join("locks");
    let held = f.store.try_lock("held").unwrap().unwrap();
    std::fs::write(locks.join("0123"), "").unwrap();
    f.collect();
    assert_eq!(std::fs::read_dir(&locks).unwrap().count(), 1);
    assert!(f.store.try_lock("held").unwrap().is_none());
    drop(held);
}

#[test]
fn a_collection_beside_writers_takes_all_and_only_what_is_dead() {
    let f = Fixture::new();
    for number in 0..150_u32 {
        put(&f.content("a"), &number.to_le_bytes(), &[]);
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let mut number = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                number += 1;
                put(&f.content("b"), &number.to_be_bytes(), &[(GC_ROOT, "1")]);
            }
            assert_eq!(listed(&f.content("b")).len(), number as usize);
        });
        let mut dead = 0;
        while dead < 150 {
            dead += f.collect().removed.len();
        }
        assert_eq!(dead, 150);
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(listed(&f.content("a")).is_empty());
    let kept = f.content("b");
    for digest in listed(&kept) {
        kept.open(&digest).unwrap();
    }
}

#[test]
fn only_what_somebody_deleted_counts_as_deleted() {
    let fixture = Fixture::new();
    fixture.snapshot("below", None, &[]);
    fixture.snapshot("above", Some("below"), &[]);
    let lease = fixture.lease(&[], &[]);
    let before = fixture.store.deletions().unwrap();
    assert_eq!(fixture.collect().removed.len(), 2);
    assert_eq!(fixture.store.deletions().unwrap(), before, "a collection leaves no garbage");
    fixture.store.leases(&namespace("a")).delete(&lease).unwrap();
    assert!(fixture.store.deletions().unwrap() > before);
}

/// A collection takes every lock that is free for a moment, to remove what the dead have left.
#[test]
fn a_lease_can_be_used_while_collections_run() {
    let f = Fixture::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let collecting = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                f.collect();
            }
        });
        let used = (0..20_000).try_for_each(|number| {
            let lease = format!("l{number}").parse().unwrap();
            f.store.use_lease(&namespace("a"), &lease, &Cancel::default()).map(drop)
        });
        done.store(true, Ordering::Relaxed);
        collecting.join().unwrap();
        used.unwrap();
    });
}
