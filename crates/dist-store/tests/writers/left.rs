//! Ingests that others left.

use std::io::Write as _;

use dist_core::{Cancel, Digest, ErrorKind, Expected, Ingest, Ingester as _, Namespace};
use dist_store::{INGEST_LIFETIME, Sharing};

use crate::{Fixture, expect, key, now, open};

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
    assert!(
        all.iter().all(|entry| entry.expires_at().is_some_and(|at| at <= last + INGEST_LIFETIME))
    );
    let mut expired = all;
    expired.retain(|entry| !entry.namespace.as_ref().is_some_and(Namespace::is_raw));
    expired.retain(|entry| entry.status.active != Some(true));
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
