//! Writers of what is there already, here or in another namespace.

use std::os::unix::fs::MetadataExt as _;

use dist_core::{
    Cancel, ContentMismatch, Digest, ErrorKind, Expected, Ingest, Ingester as _, LabelChange,
    Labels, Namespace, Provider as _,
};
use dist_store::Sharing;

use crate::{Fixture, expect, get, key, labels, now, open, put};

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

/// Each has its own say about who may have what, and says when it is deleted.
#[test]
fn another_daemon_and_clients_take_nothing_of_each_other_by_its_digest() {
    let f = Fixture::new();
    let (client, daemon) = (f.content("a"), f.store.content(Namespace::raw("")));
    for (from, to, bytes) in [(&client, &daemon, b"hello"), (&daemon, &client, b"world")] {
        let digest = put(from, bytes).digest;
        let ingest = to.ingest(&key("whole"), expect(bytes), &Cancel::default()).unwrap();
        let Ingest::Writer(writer) = ingest else { panic!("{digest} was there") };
        writer.abort().unwrap();
        let mut writer = open(to, "k", expect(bytes)).unwrap();
        assert_eq!(writer.status().unwrap().offset, 0);
        writer.write(bytes).unwrap();
        writer.commit(expect(bytes), &Labels::new()).unwrap();
        // One file, which stays until the last of them has deleted it.
        assert_eq!(std::fs::metadata(f.blob_path(&digest)).unwrap().nlink(), 1);
        from.delete(&digest).unwrap();
        assert_eq!(get(to, &digest), bytes);
        to.delete(&digest).unwrap();
        assert!(!f.blob_path(&digest).exists());
    }
    // What a client's namespace has as well is shared between clients as ever.
    let digest = put(&client, b"hello").digest;
    put(&daemon, b"hello");
    let other = f.content("b");
    let ingest = other.ingest(&key("whole"), expect(b"hello"), &Cancel::default()).unwrap();
    assert!(matches!(ingest, Ingest::Exists(_)));
    for content in [&client, &daemon] {
        content.delete(&digest).unwrap();
    }
    assert_eq!(get(&other, &digest), b"hello");
}
