//! Ingests that are written step by step, by clients that say at the end what they wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use dist_core::{
    Cancel, ContentMismatch, Digest, Error, ErrorKind, Expected, Hasher, Info, Ingest, IngestKey,
    Ingester as _, LabelChange, Labels, Namespace, Provider as _, Resource,
};
use dist_store::{
    ContentStore, INGEST_LIFETIME, IngestWriter, Scope, Sharing, Store, StoreOptions,
};

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

    fn content(&self, namespace: &str) -> ContentStore {
        self.store.content(namespace.parse::<Namespace>().unwrap())
    }

    fn ingests(&self) -> usize {
        std::fs::read_dir(self.store.root().join("content/ingest")).unwrap().count()
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("content/blobs").join(digest.algorithm()).join(digest.hex())
    }
}

fn key(text: &str) -> IngestKey {
    text.parse().unwrap()
}

fn expect(bytes: &[u8]) -> Expected {
    Expected { digest: Some(Digest::sha256(bytes)), size: Some(bytes.len() as u64) }
}

fn open(content: &ContentStore, key_text: &str, said: Expected) -> Result<IngestWriter, Error> {
    content.open_writer(&key(key_text), said, Sharing::Shared)
}

fn put(content: &ContentStore, bytes: &[u8]) -> Info {
    let mut writer = open(content, "put", Expected::default()).unwrap();
    writer.write(bytes).unwrap();
    writer.commit(expect(bytes), &Labels::new()).unwrap()
}

fn get(content: &ContentStore, digest: &Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    content.open(digest).unwrap().file.read_to_end(&mut bytes).unwrap();
    bytes
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_nanos()).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

#[test]
fn each_step_is_described_with_the_digest_so_far() {
    let f = Fixture::new();
    let content = f.content("a");
    let said = Expected { digest: Some(Digest::sha256(b"hello world")), size: Some(11) };
    let before = now();
    let mut writer = open(&content, "k", said).unwrap();
    let opened = now();
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total, status.expected), (0, Some(11), said.digest));
    assert!(before <= status.started_at && status.started_at <= opened);
    assert!(before <= status.updated_at && status.updated_at <= opened);
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b""));

    writer.write(b"hello ").unwrap();
    let written = now();
    let status = writer.status().unwrap();
    assert!(opened <= status.updated_at && status.updated_at <= written);
    assert_eq!((status.offset, writer.digest().unwrap()), (6, Digest::sha256(b"hello ")));
    // Beside the writer, and after it, the same is seen.
    assert_eq!(content.ingest_status(&key("k")).unwrap(), status);
    drop(writer);
    let mut writer = open(&content, "k", said).unwrap();
    assert_eq!(writer.status().unwrap(), status);
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b"hello "));

    writer.truncate().unwrap();
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b""));
    writer.write(b"hello world").unwrap();
    let info = writer.commit(Expected::default(), &labels(&[("x", "1")])).unwrap();
    assert_eq!((info.digest, info.size), (Digest::sha256(b"hello world"), 11));
    assert_eq!(info.labels, labels(&[("x", "1")]));
    assert_eq!(content.info(&info.digest).unwrap(), info);
    assert_eq!(f.ingests(), 0);
}

#[test]
fn nothing_that_was_said_is_enforced_before_the_commit() {
    let f = Fixture::new();
    let content = f.content("a");
    let mut writer = open(&content, "k", expect(b"hello")).unwrap();
    writer.write(b"something longer").unwrap();
    for wrong in [expect(b"hello"), Expected { size: Some(5), ..Expected::default() }] {
        let error = writer.commit(wrong, &Labels::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.find::<ContentMismatch>().is_some());
        // The ingest is as it was, and free.
        writer = open(&content, "k", expect(b"hello")).unwrap();
        assert_eq!(writer.status().unwrap().offset, 16);
    }
    writer.commit(expect(b"something longer"), &Labels::new()).unwrap();
    assert_eq!(get(&content, &Digest::sha256(b"something longer")), b"something longer");
}

#[test]
fn an_algorithm_is_chosen_beforehand_or_at_the_commit() {
    let f = Fixture::new();
    let content = f.content("a");
    let mut hasher = Hasher::sha512();
    let empty = hasher.clone().finish();
    hasher.update(b"hello");
    let digest = hasher.finish();
    let said = Expected { digest: Some(digest), size: None };
    let mut writer = open(&content, "k", said).unwrap();
    assert_eq!(writer.digest().unwrap(), empty);
    writer.write(b"hello").unwrap();
    assert_eq!(writer.digest().unwrap(), digest);
    assert_eq!(writer.commit(said, &Labels::new()).unwrap().digest, digest);
    content.delete(&digest).unwrap();

    let mut writer = open(&content, "k", Expected::default()).unwrap();
    writer.write(b"hello").unwrap();
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b"hello"));
    assert_eq!(writer.commit(said, &Labels::new()).unwrap().digest, digest);
    assert_eq!(get(&content, &digest), b"hello");
}

#[test]
fn a_key_has_one_writer_and_nobody_waits() {
    let f = Fixture::new();
    let content = f.content("a");
    let writer = open(&content, "k", Expected::default()).unwrap();
    assert_eq!(open(&content, "k", Expected::default()).unwrap_err().kind(), ErrorKind::Busy);
    // Another namespace has another ingest under the same key.
    let mut other = open(&f.content("b"), "k", Expected::default()).unwrap();
    other.write(b"other").unwrap();
    assert_eq!(content.ingests().unwrap().len(), 1);
    assert_eq!(content.ingest_status(&key("k")).unwrap().offset, 0);
    assert_eq!(f.content("b").ingests().unwrap()[0].offset, 5);
    assert_eq!(content.abort(&key("k")).unwrap_err().kind(), ErrorKind::Busy);
    drop(writer);
    open(&content, "k", Expected::default()).unwrap().abort().unwrap();
    assert!(content.ingests().unwrap().is_empty());
    assert_eq!(f.content("b").ingests().unwrap().len(), 1);
}

/// Whoever lists ingests looks at their locks.
#[test]
fn listing_disturbs_no_writer() {
    let f = Fixture::new();
    let content = f.content("a");
    drop(open(&content, "k", Expected::default()).unwrap());
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                f.store.all_ingests().unwrap();
            }
        });
        for _ in 0..300 {
            drop(open(&content, "k", Expected::default()).unwrap());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn what_a_namespace_has_is_not_written_again() {
    let f = Fixture::new();
    let content = f.content("a");
    let mut left = open(&content, "left", Expected::default()).unwrap();
    left.write(b"he").unwrap();
    drop(left);
    let info = put(&content, b"hello");
    for said in [expect(b"hello"), Expected { size: Some(7), ..expect(b"hello") }] {
        let error = open(&content, "left", said).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(f.ingests(), 0);
    // Without a digest it is found out at the end; labels stay what they are.
    let mut writer = open(&content, "k", Expected::default()).unwrap();
    writer.write(b"hello").unwrap();
    let error = writer.commit(Expected::default(), &labels(&[("x", "1")])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!((content.info(&info.digest).unwrap(), f.ingests()), (info.clone(), 0));

    // A row whose file is lost says nothing.
    std::fs::remove_file(f.blob_path(&info.digest)).unwrap();
    let mut writer = open(&content, "k", expect(b"hello")).unwrap();
    writer.write(b"hello").unwrap();
    writer.commit(expect(b"hello"), &Labels::new()).unwrap();
    let mut writer = open(&content, "k", Expected::default()).unwrap();
    writer.write(b"hello").unwrap();
    std::fs::remove_file(f.blob_path(&info.digest)).unwrap();
    writer.commit(expect(b"hello"), &Labels::new()).unwrap();
    assert_eq!(get(&content, &info.digest), b"hello");
}

#[test]
fn what_another_namespace_has_needs_only_a_commit() {
    let f = Fixture::new();
    let (a, b) = (f.content("a"), f.content("b"));
    let digest = put(&a, b"hello").digest;
    let before = now();
    let writer = open(&b, "k", expect(b"hello")).unwrap();
    let status = writer.status().unwrap();
    assert_eq!((status.offset, status.total), (5, Some(5)));
    assert!(before <= status.started_at && status.started_at <= now());
    assert_eq!(writer.digest().unwrap(), digest);
    assert_eq!(b.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(open(&b, "k", expect(b"hello")).unwrap_err().kind(), ErrorKind::Busy);
    let wrong = Expected { size: Some(6), ..Expected::default() };
    let error = writer.commit(wrong, &Labels::new()).unwrap_err();
    assert_eq!(error.find(), Some(&ContentMismatch::Size { expected: 6, got: 5 }));
    let writer = open(&b, "k", Expected { size: None, ..expect(b"hello") }).unwrap();
    let error = writer.commit(expect(b"jello"), &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);

    // The bytes stay, whatever their first owner does.
    let writer = open(&b, "k", expect(b"hello")).unwrap();
    a.delete(&digest).unwrap();
    assert!(!f.blob_path(&digest).exists());
    let info = writer.commit(expect(b"hello"), &labels(&[("x", "1")])).unwrap();
    assert_eq!((info.size, info.labels.len()), (5, 1));
    assert_eq!(get(&b, &digest), b"hello");
    assert_eq!(std::fs::metadata(f.blob_path(&digest)).unwrap().nlink(), 1);
    assert_eq!(f.ingests(), 0);

    // A size that is not the blob's was said of something else.
    let writer = open(&a, "k", Expected { size: Some(4), ..expect(b"hello") }).unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
}

#[test]
fn a_write_takes_a_copy_of_what_is_shared() {
    let f = Fixture::new();
    let (a, b) = (f.content("a"), f.content("b"));
    let digest = put(&a, b"hello").digest;
    let mut writer = open(&b, "k", expect(b"hello")).unwrap();
    writer.write(b" world").unwrap();
    assert_eq!(writer.status().unwrap().offset, 11);
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b"hello world"));
    drop(writer);
    let writer = open(&b, "k", Expected::default()).unwrap();
    assert_eq!(writer.status().unwrap().offset, 11);
    let info = writer.commit(expect(b"hello world"), &Labels::new()).unwrap();
    assert_eq!(get(&b, &info.digest), b"hello world");
    assert_eq!(get(&a, &digest), b"hello");
    assert_eq!(b.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);

    let mut writer = open(&b, "k", expect(b"hello")).unwrap();
    writer.truncate().unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write(b"jello").unwrap();
    writer.commit(expect(b"jello"), &Labels::new()).unwrap();
    assert_eq!(get(&a, &digest), b"hello");

    drop(open(&b, "k", expect(b"hello")).unwrap());
    open(&b, "k", expect(b"hello")).unwrap().abort().unwrap();
    assert_eq!((f.ingests(), std::fs::metadata(f.blob_path(&digest)).unwrap().nlink()), (0, 1));
}

/// A daemon that was killed leaves the link of what it shared.
#[test]
fn a_left_link_is_not_written_to() {
    let f = Fixture::new();
    let (a, b) = (f.content("a"), f.content("b"));
    let digest = put(&a, b"hello").digest;
    drop(open(&b, "k", Expected::default()).unwrap());
    let dir = std::fs::read_dir(f.store.root().join("content/ingest")).unwrap().next();
    let link = dir.unwrap().unwrap().path().join("shared");
    std::fs::hard_link(f.blob_path(&digest), &link).unwrap();
    assert_eq!(b.ingests().unwrap()[0].offset, 5);
    let mut writer = open(&b, "k", Expected::default()).unwrap();
    assert_eq!(writer.status().unwrap().offset, 0);
    writer.write(b"HELLO").unwrap();
    drop(writer);
    assert!(!link.exists());
    assert_eq!(get(&a, &digest), b"hello");
}

#[test]
fn an_isolated_namespace_must_bring_the_bytes() {
    let f = Fixture::new();
    let (a, b) = (f.content("a"), f.content("b"));
    put(&a, b"hello");
    let open = || b.open_writer(&key("k"), expect(b"hello"), Sharing::Isolated).unwrap();
    let mut writer = open();
    assert_eq!(writer.status().unwrap().offset, 0);
    assert_eq!(writer.digest().unwrap(), Digest::sha256(b""));
    writer.write(b"hello").unwrap();
    writer.commit(expect(b"hello"), &Labels::new()).unwrap();
    assert_eq!(get(&b, &Digest::sha256(b"hello")), b"hello");
    b.delete(&Digest::sha256(b"hello")).unwrap();
    // But what a namespace has that shares is free for all.
    let share = |value: &str| {
        let label = labels(&[("containerd.io/namespace.shareable", value)]);
        let name = "a".parse::<Namespace>().unwrap();
        f.store.namespaces().update(&name, &LabelChange::Merge(label)).unwrap();
    };
    share("yes");
    assert_eq!(open().status().unwrap().offset, 0);
    let ingest = |sharing| {
        let b = b.clone().sharing(sharing);
        b.ingest(&key("whole"), expect(b"hello"), &Cancel::default()).unwrap()
    };
    assert!(matches!(ingest(Sharing::Isolated), Ingest::Writer(_)));
    share("true");
    assert!(matches!(ingest(Sharing::Isolated), Ingest::Exists(_)));
    b.delete(&Digest::sha256(b"hello")).unwrap();
    let writer = open();
    assert_eq!(writer.status().unwrap().offset, 5);
    writer.commit(expect(b"hello"), &Labels::new()).unwrap();
    for sharing in [Sharing::Shared, Sharing::Isolated] {
        assert_eq!(sharing.to_string().parse::<Sharing>().unwrap(), sharing);
    }
    assert_eq!("all".parse::<Sharing>().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_lease_holds_the_ingest_and_then_the_blob() {
    let f = Fixture::new();
    let namespace: Namespace = "a".parse().unwrap();
    let leases = f.store.leases(&namespace);
    let lease = leases.create(None, &Labels::new()).unwrap().id;
    let scope = Scope { namespace: namespace.clone(), lease: Some(lease.clone()) };
    let content = f.store.content(scope);
    let held = || leases.resources(&lease).unwrap();

    let mut writer = open(&content, "k", Expected::default()).unwrap();
    assert_eq!(held(), [Resource::Ingest(key("k"))]);
    writer.write(b"hello").unwrap();
    drop(writer);
    assert_eq!(held(), [Resource::Ingest(key("k"))]);
    let writer = open(&content, "k", Expected::default()).unwrap();
    let digest = writer.commit(Expected::default(), &Labels::new()).unwrap().digest;
    assert_eq!(held(), [Resource::Content(digest)]);
    // Also where the blob was there before, found out at the beginning or at the end.
    let again = |content: &ContentStore| {
        leases.remove(&lease, &Resource::Content(digest)).unwrap();
        let mut writer = open(content, "k", Expected::default()).unwrap();
        writer.write(b"hello").unwrap();
        writer.commit(Expected::default(), &Labels::new()).unwrap_err()
    };
    assert_eq!(again(&content).kind(), ErrorKind::AlreadyExists);
    assert_eq!(held(), [Resource::Content(digest)]);
    leases.remove(&lease, &Resource::Content(digest)).unwrap();
    let error = open(&content, "k", expect(b"hello")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(held(), [Resource::Content(digest)]);
    // What is aborted is held no longer.
    open(&content, "k", Expected::default()).unwrap().abort().unwrap();
    drop(open(&content, "k", Expected::default()).unwrap());
    content.abort(&key("k")).unwrap();
    assert_eq!(held(), [Resource::Content(digest)]);

    let unknown = Scope { namespace, lease: Some("none".parse().unwrap()) };
    let unknown = f.store.content(unknown);
    for said in [Expected::default(), expect(b"hello"), expect(b"new")] {
        let error = open(&unknown, "k", said).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("lease \"none\" does not exist"), "{error}");
    }
    assert_eq!(f.ingests(), 0);
}

#[test]
fn an_ingest_makes_its_namespace() {
    let f = Fixture::new();
    drop(open(&f.content("new"), "k", Expected::default()).unwrap());
    let names = f.store.namespaces().list().unwrap();
    assert!(names.iter().any(|(name, _)| name.as_str() == "new"));
}

/// What a pull left is taken up by a client, and the reverse.
#[test]
fn both_kinds_of_writers_resume_each_other() {
    let f = Fixture::new();
    let content = f.content("a");
    let pull = || match content.ingest(&key("k"), expect(b"hello"), &Cancel::default()).unwrap() {
        Ingest::Writer(writer) => writer,
        Ingest::Exists(info) => panic!("{info:?}"),
    };
    pull().write_all(b"he").unwrap();
    let mut writer = open(&content, "k", expect(b"hello")).unwrap();
    assert_eq!(writer.status().unwrap().offset, 2);
    writer.write(b"ll").unwrap();
    drop(writer);
    let mut writer = pull();
    assert_eq!(writer.offset(), 4);
    writer.write_all(b"o").unwrap();
    assert_eq!(open(&content, "k", Expected::default()).unwrap_err().kind(), ErrorKind::Busy);
    writer.commit(expect(b"hello")).unwrap();
    let error = open(&content, "k", expect(b"hello")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn another_total_begins_anew() {
    let f = Fixture::new();
    let content = f.content("a");
    let total = |size| Expected { digest: None, size: Some(size) };
    open(&content, "k", total(5)).unwrap().write(b"he").unwrap();
    assert_eq!(open(&content, "k", total(5)).unwrap().status().unwrap().offset, 2);
    let status = open(&content, "k", total(6)).unwrap().status().unwrap();
    assert_eq!((status.offset, status.total), (0, Some(6)));
}

/// Makes an ingest as version 1 had them: one for all namespaces.
fn left_by_version_1(f: &Fixture, name: &str, bytes: &[u8]) {
    let content = f.content("old");
    let mut writer = open(&content, name, expect(b"hello")).unwrap();
    writer.write(bytes).unwrap();
    drop(writer);
    let root = f.store.root().join("content/ingest");
    let new = root.join(Digest::sha256(format!("old\0{name}").as_bytes()).hex());
    std::fs::remove_file(new.join("namespace")).unwrap();
    std::fs::remove_file(new.join("updatedat")).unwrap();
    std::fs::rename(new, root.join(Digest::sha256(name.as_bytes()).hex())).unwrap();
}

#[test]
fn an_ingest_of_version_1_goes_to_who_asks_first() {
    let f = Fixture::new();
    let (a, b) = (f.content("a"), f.content("b"));
    left_by_version_1(&f, "k", b"hel");
    for content in [&a, &b] {
        assert_eq!(content.ingests().unwrap()[0].offset, 3);
        assert_eq!(content.ingest_status(&key("k")).unwrap().offset, 3);
    }
    let writer = open(&a, "k", expect(b"hello")).unwrap();
    assert_eq!(writer.status().unwrap().offset, 3);
    assert_eq!(open(&b, "k", expect(b"hello")).unwrap().status().unwrap().offset, 0);
    drop(writer);
    assert_eq!(a.ingests().unwrap()[0].offset, 3);
    assert_eq!(b.ingests().unwrap()[0].offset, 0);
    a.abort(&key("k")).unwrap();

    // Whoever has an ingest of the key keeps it, the old one can be removed by its name.
    left_by_version_1(&f, "k", b"hell");
    assert_eq!(open(&b, "k", expect(b"hello")).unwrap().status().unwrap().offset, 0);
    a.abort(&key("k")).unwrap();
    assert_eq!(a.abort(&key("k")).unwrap_err().kind(), ErrorKind::NotFound);
    b.abort(&key("k")).unwrap();
    assert_eq!(f.ingests(), 0);

    // A pull takes it up, too.
    left_by_version_1(&f, "k", b"hell");
    let Ok(Ingest::Writer(writer)) = a.ingest(&key("k"), expect(b"hello"), &Cancel::default())
    else {
        panic!("no writer")
    };
    assert_eq!(writer.offset(), 4);
}

#[test]
fn ingests_expire_a_day_after_the_last_write() {
    let f = Fixture::new();
    let content = f.content("a");
    open(&content, "old", Expected::default()).unwrap().write(b"he").unwrap();
    let raw = f.store.content(Namespace::raw("x"));
    raw.open_writer(&key("raw"), Expected::default(), Sharing::Shared)
        .unwrap()
        .write(b"x")
        .unwrap();
    left_by_version_1(&f, "unowned", b"he");
    let active = open(&content, "active", Expected::default()).unwrap();
    let last = now();
    let all = f.store.all_ingests().unwrap();
    assert_eq!(all.len(), 4);
    assert!(all.iter().all(|entry| entry.expires_at() <= last + INGEST_LIFETIME));
    let mut expired = all;
    expired.retain(|entry| !entry.namespace.as_ref().is_some_and(Namespace::is_raw));
    expired.retain(|entry| !entry.status.active);
    expired.sort_by(|a, b| a.status.key.cmp(&b.status.key));
    let names: Vec<_> = expired
        .iter()
        .map(|entry| (entry.namespace.as_ref().map(Namespace::as_str), entry.status.key.as_str()))
        .collect();
    assert_eq!(names, [(Some("a"), "old"), (None, "unowned")]);

    // Written to since it was listed, it is not removed.
    let mut writer = open(&content, "old", Expected::default()).unwrap();
    assert!(!f.store.remove_ingest(&expired[0]).unwrap());
    writer.write(b"l").unwrap();
    drop(writer);
    assert!(!f.store.remove_ingest(&expired[0]).unwrap());
    assert_eq!(content.ingest_status(&key("old")).unwrap().offset, 3);
    assert!(f.store.remove_ingest(&expired[1]).unwrap());
    assert!(!f.store.remove_ingest(&expired[1]).unwrap());
    drop(active);
    assert_eq!(content.ingests().unwrap().len(), 2);
}
