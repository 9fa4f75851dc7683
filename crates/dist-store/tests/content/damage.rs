//! Blobs and ingests that are lost, damaged or half there.

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use dist_core::{
    Cancel, Committed, ContentMismatch, Digest, ErrorKind, Expected, Ingest, Ingester as _,
    Namespace, Provider as _,
};

use crate::{Fixture, begin, exists, expect, get, key, put};

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
