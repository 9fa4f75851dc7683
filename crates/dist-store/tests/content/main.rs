//! Blobs and ingests within one process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod boots;
mod damage;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dist_core::{
    Cancel, Committed, ContentMismatch, Digest, ErrorKind, Expected, Ingest, IngestKey,
    Ingester as _, LabelChange, Labels, Namespace, Provider as _, Writer,
};
use dist_store::{ContentStore, Durability, Emptier, OpenMode, Removal, Store, StoreOptions};

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        boot(dir.path(), "b001");
        let store = open(dir.path(), Durability::Content);
        Self { dir, store }
    }

    fn content(&self) -> ContentStore {
        self.store.content(Namespace::default())
    }

    /// Opens the store again as after a start of the machine.
    fn reboot(&mut self, id: &str, durability: Durability) {
        boot(self.dir.path(), id);
        self.store = open(self.dir.path(), durability);
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.store.root().join("content/blobs/sha256").join(digest.hex())
    }

    fn entries(&self, dir: &str) -> usize {
        std::fs::read_dir(self.store.root().join(dir)).unwrap().count()
    }
}

fn boot(dir: &Path, id: &str) {
    std::fs::write(dir.join("boot_id"), format!("{id}\n")).unwrap();
}

fn open(dir: &Path, durability: Durability) -> Store {
    let options = StoreOptions { durability, mode: OpenMode::Create, boot_id: dir.join("boot_id") };
    Store::open(&dir.join("root"), options).unwrap()
}

fn key(text: &str) -> IngestKey {
    text.parse().unwrap()
}

fn expect(bytes: &[u8]) -> Expected {
    Expected { digest: Some(Digest::sha256(bytes)), size: Some(bytes.len() as u64) }
}

fn begin(content: &ContentStore, key_text: &str, expected: Expected) -> Box<dyn Writer> {
    match content.ingest(&key(key_text), expected, &Cancel::default()).unwrap() {
        Ingest::Writer(writer) => writer,
        Ingest::Exists(info) => panic!("{info:?} exists"),
    }
}

fn exists(content: &ContentStore, key_text: &str, expected: Expected) -> bool {
    matches!(
        content.ingest(&key(key_text), expected, &Cancel::default()).unwrap(),
        Ingest::Exists(_)
    )
}

fn put(content: &ContentStore, bytes: &[u8]) -> Digest {
    let mut writer = begin(content, &Digest::sha256(bytes).to_string(), expect(bytes));
    writer.write_all(bytes).unwrap();
    writer.commit(expect(bytes)).unwrap().info().digest
}

fn get(content: &ContentStore, digest: &Digest) -> Vec<u8> {
    let mut blob = content.open(digest).unwrap();
    let mut bytes = Vec::new();
    blob.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, blob.size);
    bytes
}

/// Takes so many things on.
#[derive(Debug)]
struct Patient(AtomicUsize);

impl Emptier for Patient {
    fn thrown_away(&self) -> bool {
        self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

#[test]
fn a_blob_whose_file_can_not_be_moved_is_deleted_all_the_same() {
    let f = Fixture::new();
    let content = f.content();
    let digest = put(&content, b"hello");
    let trash = f.store.root().join("trash");
    std::fs::remove_dir(&trash).unwrap();
    std::fs::write(&trash, "").unwrap();
    content.delete(&digest).unwrap();
    assert!(content.list().unwrap().is_empty());
    assert_eq!(f.entries("content/blobs/sha256"), 1);
}

/// What another namespace has is new to one that did not have it, with its bytes or without.
#[test]
fn what_is_new_is_said_of_each_namespace() {
    let f = Fixture::new();
    put(&f.content(), b"hello");
    let other = |name: &str| f.store.content(name.parse::<Namespace>().unwrap());
    let ingest = |content: &ContentStore, expected: Expected| match content
        .ingest(&"a".parse().unwrap(), expected, &Cancel::default())
        .unwrap()
    {
        Ingest::Exists(found) => found,
        Ingest::Writer(mut writer) => {
            writer.write_all(b"hello").unwrap();
            writer.commit(expect(b"hello")).unwrap()
        }
    };
    for (expected, name) in [(Expected::default(), "written"), (expect(b"hello"), "taken")] {
        assert!(matches!(ingest(&other(name), expected), Committed::New(_)), "{name}");
        assert!(matches!(ingest(&other(name), expected), Committed::Existed(_)), "{name}");
    }
}

#[test]
fn what_is_removed_later_is_gone_at_once_and_takes_space_until_then() {
    let f = Fixture::new();
    let patient = Arc::new(Patient(AtomicUsize::new(3)));
    let later = f.store.removing(Removal::Later(Arc::clone(&patient) as _));
    assert!(!f.store.leave_in_trash());
    // Not where the disk that tests run on is nearly full.
    let left = usize::from(later.leave_in_trash());
    let content = later.content(Namespace::default());
    let digest = put(&content, b"hello");
    let mut writer = begin(&content, "half", Expected::default());
    writer.write_all(b"half").unwrap();
    drop(writer);
    content.delete(&digest).unwrap();
    assert_eq!(content.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((f.entries("content/blobs/sha256"), f.entries("trash")), (0, left));
    content.abort(&"half".parse().unwrap()).unwrap();
    assert_eq!((f.entries("content/ingest"), f.entries("trash")), (0, 2 * left));
    // He heard of each, and of the next he wants to hear nothing.
    assert_eq!(patient.0.load(Ordering::SeqCst), 3 - 3 * left);
    patient.0.store(0, Ordering::SeqCst);
    drop(begin(&content, "half", Expected::default()));
    content.abort(&"half".parse().unwrap()).unwrap();
    assert_eq!((f.entries("content/ingest"), f.entries("trash")), (0, 2 * left));
    // It can be brought again meanwhile, and goes at once where nobody said anything else.
    put(&content, b"hello");
    f.content().delete(&digest).unwrap();
    assert_eq!((f.entries("content/blobs/sha256"), f.entries("trash")), (0, 2 * left));
}

#[test]
fn write_and_read() {
    for durability in [Durability::None, Durability::Content, Durability::Full] {
        let mut f = Fixture::new();
        f.reboot("b001", durability);
        let content = f.content();
        let digest = put(&content, b"hello");
        assert_eq!(get(&content, &digest), b"hello");
        let meta = std::fs::metadata(content.path(&digest).unwrap()).unwrap();
        assert_eq!((meta.permissions().mode() & 0o7777, meta.nlink()), (0o444, 1));
        assert_eq!(content.info(&digest).unwrap().size, 5);
        assert_eq!(content.list().unwrap().len(), 1);
        assert!(content.ingests().unwrap().is_empty());
        assert_eq!((f.entries("content/ingest"), f.entries("trash")), (0, 0));
        assert!(exists(&content, "other", expect(b"hello")));
        content.delete(&digest).unwrap();
        assert_eq!(content.delete(&digest).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(content.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!f.blob_path(&digest).exists());
        assert_eq!(f.entries("trash"), 0);
        drop(begin(&content, "x", expect(b"hello")));
    }
}

#[test]
fn empty_content_and_unknown_digest() {
    let f = Fixture::new();
    let content = f.content();
    let empty = begin(&content, "e", Expected::default()).commit(Expected::default()).unwrap();
    assert_eq!(*empty.info(), content.info(&Digest::sha256(b"")).unwrap());
    let mut writer = begin(&content, "u", Expected::default());
    writer.write_all(b"abc").unwrap();
    let sha512 = {
        let mut hasher = dist_core::Hasher::sha512();
        hasher.update(b"abc");
        hasher.finish()
    };
    let committed = writer.commit(Expected { digest: Some(sha512), size: None }).unwrap();
    assert!(matches!(committed, Committed::New(info) if info.digest == sha512));
    assert_eq!(get(&content, &sha512), b"abc");
}

#[test]
fn mismatches_name_both_values_and_keep_the_ingest() {
    let f = Fixture::new();
    let content = f.content();
    let expected = expect(b"hello");

    let mut writer = begin(&content, "k", expected);
    writer.write_all(b"hell").unwrap();
    let error = writer.commit(expected).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.find(), Some(&ContentMismatch::Size { expected: 5, got: 4 }));

    let mut writer = begin(&content, "k", expected);
    assert_eq!(writer.offset(), 4);
    let error = writer.write_all(b"oworld").unwrap_err();
    let error = error.downcast::<dist_core::Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(error.find(), Some(&ContentMismatch::Size { expected: 5, got: 10 }));
    assert_eq!(writer.written().unwrap().metadata().unwrap().len(), 4);
    writer.write_all(b"a").unwrap();
    let error = writer.commit(Expected::default()).unwrap_err();
    let (expected_digest, got) = (Digest::sha256(b"hello"), Digest::sha256(b"hella"));
    assert_eq!(error.find(), Some(&ContentMismatch::Digest { expected: expected_digest, got }));
    assert_eq!(content.ingests().unwrap().len(), 1);
    assert_eq!(content.open(&got).unwrap_err().kind(), ErrorKind::NotFound);

    let mut writer = begin(&content, "k", expected);
    writer.reset().unwrap();
    writer.write_all(b"hello").unwrap();
    writer.commit(expected).unwrap();
    assert_eq!(get(&content, &Digest::sha256(b"hello")), b"hello");
}

#[test]
fn a_dropped_writer_is_resumed() {
    let f = Fixture::new();
    let content = f.content();
    let expected = expect(b"hello world");
    let weird = "new\nline \0 ../../etc/passwd";
    let mut writer = begin(&content, weird, expected);
    writer.write_all(b"hello ").unwrap();
    let status = content.ingest_status(&key(weird)).unwrap();
    assert_eq!(status.active, Some(true));
    assert_eq!((status.offset, status.total, status.expected), (6, Some(11), expected.digest));
    assert!(status.started_at > 0 && status.updated_at >= status.started_at);
    drop(writer);
    assert_eq!(content.ingest_status(&key(weird)).unwrap().active, Some(false));
    let mut writer = begin(&content, weird, expected);
    assert_eq!(writer.offset(), 6);
    let mut so_far = String::new();
    writer.written().unwrap().read_to_string(&mut so_far).unwrap();
    assert_eq!(so_far, "hello ");
    writer.write_all(b"world").unwrap();
    writer.commit(expected).unwrap();
    assert_eq!(get(&content, &expected.digest.unwrap()), b"hello world");
}

#[test]
fn another_total_or_digest_starts_over_where_a_digest_is_expected() {
    let f = Fixture::new();
    let content = f.content();
    let expected = expect(b"hello");
    begin(&content, "k", Expected { size: Some(7), ..expected }).write_all(b"he").unwrap();
    let error = content
        .ingest(&key("k"), Expected { digest: None, size: Some(5) }, &Cancel::default())
        .err()
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert!(error.to_string().contains("7 bytes") && error.to_string().contains('5'), "{error}");
    assert_eq!(content.ingest_status(&key("k")).unwrap().offset, 2);
    // Whoever said 7 was wrong, or whoever says 5 is: the digest will tell.
    let mut writer = begin(&content, "k", expected);
    assert_eq!(writer.offset(), 0);
    assert_eq!(content.ingest_status(&key("k")).unwrap().total, Some(5));
    writer.write_all(b"he").unwrap();
    drop(writer);
    assert_eq!(begin(&content, "k", expected).offset(), 2);
    let other = expect(b"something else");
    assert_eq!(begin(&content, "k", other).offset(), 0);
    assert_eq!(content.ingest_status(&key("k")).unwrap().expected, other.digest);
    let mut writer = begin(&content, "k", expected);
    writer.write_all(b"hello").unwrap();
    writer.commit(expected).unwrap();
}

/// Whoever waits for a writer of wrong bytes never sees them.
#[test]
fn commit_or_abort_removes_wrong_bytes_under_the_lock() {
    let f = Fixture::new();
    for wrong in [&b"hallo"[..], b"hell"] {
        let content = f.content();
        let mut writer = begin(&content, "k", expect(b"hello"));
        writer.write_all(wrong).unwrap();
        let (started, waiting) = std::sync::mpsc::channel();
        let waiter = std::thread::spawn(move || {
            started.send(()).unwrap();
            let mut writer = begin(&content, "k", expect(b"hello"));
            let offset = writer.offset();
            writer.write_all(b"hello").unwrap();
            let committed = writer.commit_or_abort(expect(b"hello")).unwrap();
            (offset, committed.info().digest)
        });
        waiting.recv().unwrap();
        let error = writer.commit_or_abort(expect(b"hello")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.find::<ContentMismatch>().is_some(), "{error:?}");
        let (offset, digest) = waiter.join().unwrap();
        assert_eq!((offset, digest), (0, Digest::sha256(b"hello")));
        assert!(f.content().ingests().unwrap().is_empty());
        f.content().delete(&digest).unwrap();
    }
}

#[test]
fn long_keys_and_abort() {
    let f = Fixture::new();
    let content = f.content();
    let long = "k".repeat(4096);
    let writer = begin(&content, &long, Expected::default());
    let error = content.abort(&key(&long)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.to_string().contains(&long));
    drop(writer);
    content.abort(&key(&long)).unwrap();
    assert_eq!(content.abort(&key(&long)).unwrap_err().kind(), ErrorKind::NotFound);
    begin(&content, &long, Expected::default()).abort().unwrap();
    assert_eq!(f.entries("content/ingest"), 0);
}

#[test]
fn namespaces_share_blobs_and_nothing_else() {
    let f = Fixture::new();
    let (a, b) = (f.content(), f.store.content("b".parse::<Namespace>().unwrap()));
    let digest = put(&a, b"hello");
    let change = LabelChange::Merge(Labels::from([("x".into(), "1".into())]));
    a.update_labels(&digest, &change).unwrap();
    assert!(b.list().unwrap().is_empty());
    assert_eq!(b.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(b.delete(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    let wrong = Expected { size: Some(4), ..expect(b"hello") };
    let error = b.ingest(&key("k"), wrong, &Cancel::default()).err().unwrap();
    assert_eq!(error.find(), Some(&ContentMismatch::Size { expected: 4, got: 5 }));
    assert!(exists(&b, "k", expect(b"hello")));
    assert!(b.info(&digest).unwrap().labels.is_empty());
    a.delete(&digest).unwrap();
    assert_eq!(get(&b, &digest), b"hello");
    b.delete(&digest).unwrap();
    assert!(!f.blob_path(&digest).exists());
}

#[test]
fn labels() {
    let f = Fixture::new();
    let content = f.content();
    let digest = put(&content, b"hello");
    let set = |pairs: &[(&str, &str)]| {
        let labels = pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        content.update_labels(&digest, &LabelChange::Merge(labels)).unwrap().labels
    };
    assert_eq!(set(&[("a", "1"), ("b", "2")]).len(), 2);
    let labels = Labels::from([("b".into(), "3".into())]);
    assert_eq!(set(&[("a", ""), ("b", "3")]), labels);
    assert_eq!(content.list().unwrap()[0].labels, labels);
    assert_eq!(content.info(&digest).unwrap().labels, labels);
    let change = LabelChange::Replace(Labels::from([("c".into(), "4".into())]));
    assert_eq!(content.update_labels(&digest, &change).unwrap().labels, *change.labels());
    assert_eq!(content.info(&digest).unwrap().labels, *change.labels());
    let long = LabelChange::Merge(Labels::from([("k".into(), "v".repeat(4096))]));
    let error = content.update_labels(&digest, &long).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let error = content.update_labels(&Digest::sha256(b""), &change).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[test]
fn two_keys_with_one_digest_end_in_one_blob() {
    let f = Fixture::new();
    let content = f.content();
    let mut writers: Vec<_> =
        (0..3).map(|n| begin(&content, &format!("k{n}"), expect(b"hello"))).collect();
    for writer in &mut writers {
        writer.write_all(b"hello").unwrap();
    }
    let committed: Vec<_> =
        writers.into_iter().map(|writer| writer.commit(expect(b"hello")).unwrap()).collect();
    assert!(matches!(
        &committed[..],
        [Committed::New(_), Committed::Existed(_), Committed::Existed(_)]
    ));
    assert_eq!((f.entries("content/blobs/sha256"), f.entries("content/ingest")), (1, 0));
}

#[test]
fn a_blob_deleted_during_its_commit_is_there_afterwards() {
    let f = Fixture::new();
    let (a, b) = (f.content(), f.store.content("b".parse::<Namespace>().unwrap()));
    std::thread::scope(|scope| {
        for content in [&a, &b] {
            scope.spawn(move || {
                for round in 0..60 {
                    let mut writer = match content.ingest(
                        &key(&format!("{round}-{:p}", content)),
                        expect(b"hello"),
                        &Cancel::default(),
                    ) {
                        Ok(Ingest::Writer(writer)) => writer,
                        Ok(Ingest::Exists(info)) => {
                            assert_eq!(get(content, &info.info().digest), b"hello");
                            content.delete(&info.info().digest).unwrap();
                            continue;
                        }
                        Err(error) => panic!("{error:?}"),
                    };
                    writer.write_all(b"hello").unwrap();
                    let digest = writer.commit(expect(b"hello")).unwrap().info().digest;
                    assert_eq!(get(content, &digest), b"hello");
                    content.delete(&digest).unwrap();
                }
            });
        }
    });
    assert_eq!((f.entries("content/blobs/sha256"), f.entries("trash")), (0, 0));
}

#[test]
fn a_writer_is_waited_for_and_the_wait_can_be_cancelled() {
    let f = Fixture::new();
    let content = f.content();
    let mut writer = begin(&content, "k", expect(b"hello"));
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| content.ingest(&key("k"), expect(b"hello"), &Cancel::default()));
        let cancelled = scope.spawn(|| content.ingest(&key("k"), expect(b"hello"), &cancel));
        cancel.cancel();
        assert_eq!(cancelled.join().unwrap().err().unwrap().kind(), ErrorKind::Cancelled);
        writer.write_all(b"hello").unwrap();
        writer.commit(expect(b"hello")).unwrap();
        assert!(matches!(waiter.join().unwrap().unwrap(), Ingest::Exists(_)));
    });
}
