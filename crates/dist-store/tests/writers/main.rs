//! Ingests that are written step by step, by clients that say at the end what they wrote.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod left;
mod shared;

use std::io::Read as _;
use std::path::PathBuf;
use std::time::SystemTime;

use dist_core::{
    ContentMismatch, Digest, Error, ErrorKind, Expected, Hasher, Info, IngestKey, Labels,
    Namespace, Provider as _, Resource,
};
use dist_store::{ContentStore, IngestWriter, Scope, Sharing, Store, StoreOptions};

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
