//! Opening and making stores.

use std::io::Write as _;
use std::sync::Barrier;

use dist_core::{Cancel, ErrorKind, Expected, Ingest, Ingester as _, Namespace};
use dist_store::{Durability, OpenMode, Store, StoreOptions};

fn options(mode: OpenMode) -> StoreOptions {
    StoreOptions { mode, ..StoreOptions::default() }
}

#[test]
fn many_threads_make_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b");
    let barrier = Barrier::new(16);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                let store = Store::open(&root, StoreOptions::default()).unwrap();
                let rows: i64 = store
                    .db()
                    .read(|c| {
                        Ok(c.query_row("SELECT count(*) FROM images", [], |r| r.get(0)).unwrap())
                    })
                    .unwrap();
                assert_eq!(rows, 0);
            });
        }
    });
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn modes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        assert_eq!(Store::open(&root, options(mode)).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!root.exists());
    }
    Store::open(&root, options(OpenMode::Create)).unwrap();
    assert!(!Store::open(&root, options(OpenMode::Existing)).unwrap().is_read_only());
    let store = Store::open(&root, options(OpenMode::ReadOnly)).unwrap();
    assert!(store.is_read_only());
    let error = store.db().write(|_| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    assert_eq!(store.durability(), Durability::Content);
}

#[test]
fn newer_format_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("format"), r#"{"version":3,"shards":[]}"#).unwrap();
    for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
        let error = Store::open(&root, options(mode)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().ends_with("store format 3, this program knows 1"), "{error}");
    }
    assert_eq!(std::fs::read_dir(&root).unwrap().count(), 1);
}

#[test]
fn lost_directories_are_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    drop(Store::open(&root, options(OpenMode::Create)).unwrap());
    let dirs = ["content/ingest", "content", "snapshots", "locks", "quarantine", "trash"];
    for lost in dirs {
        std::fs::remove_dir_all(root.join(lost)).unwrap();
        let store = Store::open(&root, options(OpenMode::Existing)).unwrap();
        assert!(root.join(lost).is_dir(), "{lost}");
        let content = store.content(Namespace::default());
        let Ingest::Writer(mut writer) =
            content.ingest(&"k".parse().unwrap(), Expected::default(), &Cancel::default()).unwrap()
        else {
            panic!("exists")
        };
        writer.write_all(lost.as_bytes()).unwrap();
        writer.commit(Expected::default()).unwrap();
        store.lock("l", &Cancel::default()).unwrap();
    }
}

#[test]
fn a_lost_database_is_told_and_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    drop(Store::open(&root, options(OpenMode::Create)).unwrap());
    std::fs::remove_file(root.join("meta.db")).unwrap();
    for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
        let error = Store::open(&root, options(mode)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().contains("meta.db is gone, restore it"), "{error:?}");
        assert!(!root.join("meta.db").exists());
    }
}

#[test]
fn a_full_directory_is_no_store() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.tex"), "").unwrap();
    let error = Store::open(dir.path(), options(OpenMode::Create)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn named_locks() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s"), options(OpenMode::Create)).unwrap();
    let held = store.lock("a\n\0", &Cancel::default()).unwrap();
    assert!(store.try_lock("a\n\0").unwrap().is_none());
    assert!(store.try_lock("b").unwrap().is_some());
    let cancel = Cancel::default();
    cancel.cancel();
    assert_eq!(store.lock("a\n\0", &cancel).unwrap_err().kind(), ErrorKind::Cancelled);
    drop(held);
    let (inside, total) =
        (std::sync::atomic::AtomicU32::new(0), std::sync::atomic::AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..50 {
                    use std::sync::atomic::Ordering::SeqCst;
                    let _held = store.lock("a\n\0", &Cancel::default()).unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0);
                    total.fetch_add(1, SeqCst);
                    inside.fetch_sub(1, SeqCst);
                }
            });
        }
    });
    assert_eq!(total.into_inner(), 400);
    assert_eq!(std::fs::read_dir(store.root().join("locks")).unwrap().count(), 0);
}
