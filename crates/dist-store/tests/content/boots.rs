//! What is left after another boot.

use std::io::Write as _;

use dist_core::{Digest, Labels, Namespace};
use dist_store::{Durability, OpenMode, Registration, SettleMode, Store, StoreOptions};

use crate::{Fixture, begin, boot, exists, expect, get, put};

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

/// Blobs of one piece of work are durable with its end, and not before.
#[test]
fn what_settles_later_is_durable_once_it_is_registered() {
    let mut f = Fixture::new();
    let later = f.content().settling_later();
    let registration = |digests: &[Digest]| Registration {
        labels: digests.iter().map(|digest| (*digest, Labels::new())).collect(),
        ..Registration::default()
    };
    let named = put(&later, b"named");
    assert!(exists(&later, "n", expect(b"named")));
    f.reboot("b002", Durability::Content);
    assert!(f.content().list().unwrap().is_empty());

    let later = f.content().settling_later();
    assert!(exists(&later, "n", expect(b"named")));
    let new = put(&later, b"new");
    f.store.register(Namespace::default(), &registration(&[named, new])).unwrap();
    assert_eq!(f.store.settle(SettleMode::Now).unwrap().flipped, 0);
    f.reboot("b003", Durability::Content);
    assert_eq!(f.content().list().unwrap().len(), 2);

    // Who promises that what it finds is durable makes it so.
    put(&f.content().settling_later(), b"found");
    assert!(exists(&f.content(), "f", expect(b"found")));
    f.reboot("b004", Durability::Content);
    assert_eq!(f.content().list().unwrap().len(), 3);

    // Nothing is promised without durability.
    f.reboot("b004", Durability::None);
    let last = put(&f.content().settling_later(), b"last");
    f.store.register(Namespace::default(), &registration(&[last])).unwrap();
    f.reboot("b005", Durability::Content);
    assert_eq!(f.content().list().unwrap().len(), 3);
}
