//! Blobs and ingests within one process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dist_core::{
    Cancel, Committed, ContentMismatch, Digest, ErrorKind, Expected, Ingest, IngestKey,
    Ingester as _, LabelChange, Labels, Namespace, Provider as _, Writer,
};
use dist_store::{ContentStore, Durability, OpenMode, SettleMode, Store, StoreOptions};

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
    assert!(status.active);
    assert_eq!((status.offset, status.total, status.expected), (6, Some(11), expected.digest));
    assert!(status.started_at > 0 && status.updated_at >= status.started_at);
    drop(writer);
    assert!(!content.ingest_status(&key(weird)).unwrap().active);
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

/// A re-pull repairs whatever happened to a blob's file.
#[test]
fn lost_and_damaged_blobs_are_written_again() {
    type Damage = fn(&Path);
    let damage: [(&str, Damage); 4] = [
        ("lost", |path| std::fs::remove_file(path).unwrap()),
        ("short", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::write(path, b"hell").unwrap();
        }),
        ("directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("x"), b"").unwrap();
        }),
        ("link", |path| {
            std::fs::rename(path, path.with_extension("away")).unwrap();
            std::os::unix::fs::symlink(path.with_extension("away"), path).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let f = Fixture::new();
        let (content, other) = (f.content(), f.store.content("b".parse::<Namespace>().unwrap()));
        let digest = put(&content, b"hello");
        damage(&f.blob_path(&digest));
        for error in [
            content.open(&digest).unwrap_err(),
            content.info(&digest).unwrap_err(),
            content.path(&digest).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::NotFound, "{what}");
        }
        let mut writer = begin(&other, "k", expect(b"hello"));
        assert!(content.list().unwrap().is_empty(), "{what}");
        assert_eq!(f.entries("quarantine"), usize::from(what != "lost"), "{what}");
        writer.write_all(b"hello").unwrap();
        assert!(matches!(writer.commit(expect(b"hello")).unwrap(), Committed::New(_)), "{what}");
        assert_eq!(get(&other, &digest), b"hello");
        assert!(exists(&content, "k", expect(b"hello")));
    }
}

/// Damage while a writer is at work is repaired by its commit.
#[test]
fn commit_replaces_what_is_wrong() {
    for (what, prepare) in [
        ("stray file", (|path| std::fs::write(path, b"HELLO").unwrap()) as fn(&Path)),
        ("stray directory", |path| std::fs::create_dir(path).unwrap()),
        ("nothing", |_| ()),
    ] {
        let f = Fixture::new();
        let content = f.content();
        let digest = Digest::sha256(b"hello");
        let mut writer = begin(&content, "k", expect(b"hello"));
        writer.write_all(b"hello").unwrap();
        prepare(&f.blob_path(&digest));
        writer.commit(expect(b"hello")).unwrap();
        assert_eq!(get(&content, &digest), b"hello", "{what}");
        assert_eq!(std::fs::metadata(f.blob_path(&digest)).unwrap().nlink(), 1, "{what}");
        content.verify(&digest, &Cancel::default()).unwrap();
    }
}

#[test]
fn a_blob_without_a_row_is_verified_then_adopted() {
    let f = Fixture::new();
    let content = f.content();
    let digest = Digest::sha256(b"hello");
    std::fs::write(f.blob_path(&digest), b"hello").unwrap();
    assert_eq!(content.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(exists(&content, "k", expect(b"hello")));
    assert_eq!(get(&content, &digest), b"hello");
    content.delete(&digest).unwrap();
    for bad in [&b"HELLO"[..], b"", b"hello, world"] {
        std::fs::write(f.blob_path(&digest), bad).unwrap();
        drop(begin(&content, "k", expect(b"hello")));
        assert!(!f.blob_path(&digest).exists());
    }
    assert_eq!(f.entries("quarantine"), 3);
}

/// A commit that was killed between the link and the end leaves the data under two names.
#[test]
fn a_left_ingest_never_writes_into_a_blob() {
    let f = Fixture::new();
    let content = f.content();
    let mut writer = begin(&content, "k", Expected::default());
    writer.write_all(b"hello").unwrap();
    drop(writer);
    let digest = Digest::sha256(b"hello");
    let ingest = std::fs::read_dir(f.store.root().join("content/ingest")).unwrap().next();
    let data = ingest.unwrap().unwrap().path().join("data");
    std::fs::hard_link(&data, f.blob_path(&digest)).unwrap();
    let mut writer = begin(&content, "k", Expected::default());
    assert_eq!(writer.offset(), 0);
    writer.write_all(b"other").unwrap();
    drop(writer);
    assert_eq!(std::fs::read(f.blob_path(&digest)).unwrap(), b"hello");
    assert!(exists(&content, "k", expect(b"hello")));
    assert!(content.ingests().unwrap().is_empty());
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
                            assert_eq!(get(content, &info.digest), b"hello");
                            content.delete(&info.digest).unwrap();
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

#[test]
fn after_another_boot_only_checked_bytes_are_kept() {
    let mut f = Fixture::new();
    let bytes = vec![7_u8; 20 << 20];
    let expected = expect(&bytes);
    begin(&f.content(), "k", expected).write_all(&bytes[..18 << 20]).unwrap();
    let path = std::fs::read_dir(f.store.root().join("content/ingest")).unwrap().next();
    let data = path.unwrap().unwrap().path().join("data");

    // The same boot: nothing is read again, so a change from outside shows only in the digest.
    let change = |at: usize, byte: u8| {
        let mut file = std::fs::OpenOptions::new().write(true).open(&data).unwrap();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at as u64)).unwrap();
        file.write_all(&[byte]).unwrap();
    };
    change(10 << 20, 8);
    assert_eq!(begin(&f.content(), "k", expected).offset(), 18 << 20);

    // Another boot: the file is read, and cut where it stops being what was written.
    f.reboot("b002", Durability::Content);
    let mut writer = begin(&f.content(), "k", expected);
    assert_eq!(writer.offset(), 8 << 20);
    writer.write_all(&bytes[8 << 20..]).unwrap();
    writer.commit(expected).unwrap();
    assert_eq!(get(&f.content(), &expected.digest.unwrap()), bytes);

    // Another boot and nothing lost: all is kept.
    f.content().delete(&expected.digest.unwrap()).unwrap();
    begin(&f.content(), "k", expected).write_all(&bytes[..18 << 20]).unwrap();
    f.reboot("b003", Durability::Content);
    assert_eq!(begin(&f.content(), "k", expected).offset(), 18 << 20);
}

#[test]
fn what_was_not_durable_is_verified_after_another_boot() {
    let mut f = Fixture::new();
    f.reboot("b001", Durability::None);
    let (good, empty) = (put(&f.content(), b"good"), put(&f.content(), b"will be empty"));
    f.reboot("b001", Durability::None);
    assert_eq!(f.content().list().unwrap().len(), 2);
    let path = f.blob_path(&empty);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, vec![0; 13]).unwrap();
    f.reboot("b002", Durability::None);
    assert!(f.content().list().unwrap().is_empty());
    assert!(exists(&f.content(), "g", expect(b"good")));
    drop(begin(&f.content(), "e", expect(b"will be empty")));
    f.reboot("b003", Durability::Content);
    assert!(f.content().list().unwrap().is_empty());
    assert!(exists(&f.content(), "g", expect(b"good")));
    f.reboot("b004", Durability::Content);
    assert_eq!(f.content().list().unwrap()[0].digest, good);
}

#[test]
fn finding_or_settling_makes_durable() {
    let mut f = Fixture::new();
    f.reboot("b001", Durability::None);
    put(&f.content(), b"found");
    put(&f.content(), b"settled");
    assert_eq!(f.store.settle(SettleMode::Exit).unwrap().flipped, 0);
    f.reboot("b001", Durability::Content);
    assert!(exists(&f.content(), "k", expect(b"found")));
    assert_eq!(f.store.settle(SettleMode::Answer).unwrap().flipped, 0);
    assert_eq!(f.store.settle(SettleMode::Now).unwrap().flipped, 1);
    assert_eq!(f.store.settle(SettleMode::Now).unwrap().flipped, 0);
    f.reboot("b002", Durability::Content);
    assert_eq!(f.content().list().unwrap().len(), 2);
}

#[test]
fn unsettled_snapshots_go_with_what_stands_on_them() {
    let mut f = Fixture::new();
    let insert = |store: &Store,
                  key: &str,
                  parent: Option<&str>,
                  kind: &str,
                  boot: Option<&str>| {
        store
            .db()
            .write(|t| {
                t.execute(
                    "INSERT INTO snapshots (namespace, snapshotter, key, parent_id, kind, bytes,
                         inodes, created_at, updated_at, boot_id)
                     VALUES ('n', 's', ?1, (SELECT id FROM snapshots WHERE key = ?2), ?3, 0, 0, 0, 0, ?4)",
                    (key, parent, kind, boot),
                )
                .unwrap();
                Ok(())
            })
            .unwrap();
    };
    let keys = |store: &Store| -> Vec<String> {
        store
            .db()
            .read(|c| {
                let mut s = c.prepare("SELECT key FROM snapshots ORDER BY key").unwrap();
                Ok(s.query_map([], |r| r.get(0)).unwrap().map(Result::unwrap).collect())
            })
            .unwrap()
    };
    insert(&f.store, "a", None, "committed", None);
    insert(&f.store, "b", Some("a"), "committed", Some("b001"));
    insert(&f.store, "c", Some("b"), "active", None);
    insert(&f.store, "d", Some("a"), "active", None);
    f.reboot("b001", Durability::Content);
    assert_eq!(keys(&f.store), ["a", "b", "c", "d"]);
    boot(f.dir.path(), "b002");
    let read_only = StoreOptions {
        mode: OpenMode::ReadOnly,
        boot_id: f.dir.path().join("boot_id"),
        ..StoreOptions::default()
    };
    assert_eq!(keys(&Store::open(f.store.root(), read_only).unwrap()), ["a", "d"]);
    assert_eq!(keys(&f.store), ["a", "b", "c", "d"]);
    f.reboot("b002", Durability::Content);
    assert_eq!(keys(&f.store), ["a", "d"]);

    insert(&f.store, "e", Some("a"), "committed", Some("b002"));
    f.reboot("b002", Durability::Full);
    assert_eq!(f.store.settle(SettleMode::Answer).unwrap().flipped, 1);
    f.reboot("b003", Durability::Content);
    assert_eq!(keys(&f.store), ["a", "d", "e"]);
}

#[test]
fn verify_finds_damage_and_the_next_ingest_repairs_it() {
    let f = Fixture::new();
    let content = f.content();
    let digest = put(&content, b"hello");
    let path = f.blob_path(&digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"jello").unwrap();
    let error = content.verify(&digest, &Cancel::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.find::<ContentMismatch>().is_some());
    assert_eq!(put(&content, b"hello"), digest);
    content.verify(&digest, &Cancel::default()).unwrap();
}

#[test]
fn damaged_ingests_block_nobody() {
    let f = Fixture::new();
    let content = f.content();
    let expected = expect(b"hello");
    let dir = {
        begin(&content, "k", expected).write_all(b"he").unwrap();
        let entry = std::fs::read_dir(f.store.root().join("content/ingest")).unwrap().next();
        entry.unwrap().unwrap().path()
    };
    for file in ["ref", "namespace", "state", "total", "expected", "startedat", "updatedat", "data"]
    {
        for damage in 0..if file == "data" { 3 } else { 2 } {
            drop(begin(&content, "k", expected));
            let path = dir.join(file);
            std::fs::remove_file(&path).unwrap();
            match damage {
                0 => (),
                1 => std::fs::write(&path, vec![0xff; 64]).unwrap(),
                _ => std::fs::create_dir(&path).unwrap(),
            }
            let opened = content.ingest(&key("k"), expected, &Cancel::default());
            let Ok(Ingest::Writer(mut writer)) = opened else {
                panic!("{file} {damage}: {:?}", opened.err())
            };
            writer.reset().unwrap();
            writer.write_all(b"hello").unwrap();
            writer.commit(expected).unwrap();
            content.delete(&Digest::sha256(b"hello")).unwrap();
            begin(&content, "k", expected).write_all(b"he").unwrap();
        }
    }
    content.abort(&key("k")).unwrap();
    std::fs::write(&dir, b"not a directory").unwrap();
    drop(begin(&content, "k", expected));
    content.abort(&key("k")).unwrap();
    std::fs::create_dir(&dir).unwrap();
    assert!(content.ingests().unwrap().is_empty());
    assert!(!dir.exists());
}
