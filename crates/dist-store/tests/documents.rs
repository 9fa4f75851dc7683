//! What was read of documents: kept for listings, gone with the blobs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "rows that this program would not write")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use dist_core::{
    Cancel, Descriptor, Digest, Ingest, Ingester as _, LabelChange, Labels, MediaType, Namespace,
    Outline, Platform,
};
use dist_store::{Collected, ContentStore, GcOptions, OpenMode, Outlined, Store, StoreOptions};
use rusqlite::Connection;

fn content(root: &Path, namespace: &str) -> ContentStore {
    let store = Store::open(root, StoreOptions::default()).unwrap();
    store.content(namespace.parse::<Namespace>().unwrap())
}

fn put(content: &ContentStore, bytes: &[u8]) -> Digest {
    let desc = Descriptor::new(MediaType::Manifest, Digest::sha256(bytes), bytes.len() as u64);
    let ingest = content.ingest(&desc.ingest_key(), (&desc).into(), &Cancel::default()).unwrap();
    if let Ingest::Writer(mut writer) = ingest {
        writer.write_all(bytes).unwrap();
        writer.commit((&desc).into()).unwrap();
    }
    desc.digest
}

/// One outline of each kind, of one document that is named in several ways.
fn outlines(digest: Digest) -> Vec<(Outlined, Arc<Outline>)> {
    let layers = vec![Digest::sha256(b"layer"), Digest::Sha512([7; 64])];
    let platform = Platform::new("linux", "arm", Some("v6"));
    let mut named = Descriptor::new(MediaType::parse("application/x-own"), layers[0], 1 << 40);
    let plain = named.clone();
    named.platform = Some(Platform { os_version: Some("10.0".into()), ..platform.clone() });
    let config = Digest::sha256(b"config");
    [
        (MediaType::Index, Outline::Index(vec![named, plain])),
        (MediaType::Manifest, Outline::Manifest { config, config_size: 3, layers }),
        (MediaType::Config, Outline::Config(Some(platform))),
        (MediaType::parse("application/x-none"), Outline::Config(None)),
    ]
    .into_iter()
    .map(|(media_type, outline)| ((digest, media_type), Arc::new(outline)))
    .collect()
}

fn rows(root: &Path) -> i64 {
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.query_row("SELECT count(*) FROM documents", [], |row| row.get(0)).unwrap()
}

#[test]
fn outlines_are_read_as_they_were_kept() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let (a, b) = (content(&root, "a"), content(&root, "b"));
    let (first, second) = (put(&a, b"first"), put(&a, b"second"));
    assert!(a.known().unwrap().keeps);
    a.keep_outlines(&outlines(first)).unwrap();
    a.keep_outlines(&outlines(first)).unwrap();
    let known = a.known().unwrap();
    assert_eq!(known.outlines, outlines(first).into_iter().collect());
    assert_eq!(known.blobs, [(first, 5), (second, 6)].into_iter().collect());
    let known = b.known().unwrap();
    assert!(known.blobs.is_empty() && known.outlines.is_empty(), "{known:?}");
    // What can't be read is not there, until it is kept again.
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection
        .execute("UPDATE documents SET outline = '{}' WHERE media_type = 'application/x-none'", [])
        .unwrap();
    assert_eq!(a.known().unwrap().outlines.len(), 3);
    a.keep_outlines(&outlines(first)).unwrap();
    assert_eq!(a.known().unwrap().outlines.len(), 4);
}

#[test]
fn outlines_go_with_the_last_row_of_their_blob() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let (a, b) = (content(&root, "a"), content(&root, "b"));
    let digest = put(&a, b"shared");
    let keep = || a.keep_outlines(&outlines(digest)).unwrap();
    keep();
    assert_eq!(put(&b, b"shared"), digest);
    a.delete(&digest).unwrap();
    assert_eq!(rows(&root), 4);
    assert!(a.known().unwrap().outlines.is_empty(), "of a blob of another namespace");
    assert_eq!(b.known().unwrap().outlines.len(), 4);
    b.delete(&digest).unwrap();
    assert_eq!(rows(&root), 0);
    // A blob that is gone leaves nothing to know.
    keep();
    assert_eq!(rows(&root), 0);

    put(&a, b"shared");
    keep();
    let store = Store::open(&root, StoreOptions::default()).unwrap();
    store.collect(GcOptions::default(), &mut Collected::default()).unwrap();
    assert_eq!(rows(&root), 0, "after a collection");

    put(&a, b"shared");
    keep();
    let path = a.path(&digest).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"SHARED").unwrap();
    a.verify(&digest, &Cancel::default()).unwrap_err();
    assert_eq!(rows(&root), 0, "of a damaged blob");
}

#[test]
fn an_outline_without_its_blob_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let a = content(&root, "a");
    let digest = put(&a, b"gone");
    a.keep_outlines(&outlines(digest)).unwrap();
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.execute_batch("DROP TRIGGER document_deleted; DELETE FROM content").unwrap();
    let known = a.known().unwrap();
    assert!(known.blobs.is_empty() && known.outlines.is_empty(), "{known:?}");
}

#[test]
fn many_keep_the_same_outlines_while_the_blob_comes_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let digest = put(&content(&root, "a"), b"busy");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let a = content(&root, "a");
                for _ in 0..20 {
                    a.keep_outlines(&outlines(digest)).unwrap();
                    let known = a.known().unwrap();
                    let expected = if known.blobs.is_empty() { 0 } else { 4 };
                    assert!([0, expected].contains(&known.outlines.len()), "{known:?}");
                }
            });
        }
        scope.spawn(|| {
            let a = content(&root, "a");
            for _ in 0..20 {
                a.delete(&digest).unwrap();
                put(&a, b"busy");
            }
        });
    });
    let a = content(&root, "a");
    a.keep_outlines(&outlines(digest)).unwrap();
    assert_eq!((rows(&root), a.known().unwrap().outlines.len()), (4, 4));
}

#[test]
fn a_store_that_is_only_read_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let digest = put(&content(&root, "a"), b"read");
    let options = StoreOptions { mode: OpenMode::ReadOnly, ..StoreOptions::default() };
    let a = Store::open(&root, options).unwrap().content("a".parse::<Namespace>().unwrap());
    a.keep_outlines(&outlines(digest)).unwrap_err();
    assert_eq!(rows(&root), 0);
}

/// Listings read few rows by an index and many by a scan: both say the same.
#[test]
fn lists_are_the_same_however_many_rows_others_have() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    let few = content(&root, "few");
    let mine: Vec<Digest> = (0..3_u8).map(|n| put(&few, &[b'f', n])).collect();
    let label = LabelChange::Merge(Labels::from([("k".into(), "v".into())]));
    few.update_labels(&mine[1], &label).unwrap();
    let before = (few.list().unwrap(), few.known().unwrap().blobs);
    let labels: Vec<usize> = before.0.iter().map(|info| info.labels.len()).collect();
    assert_eq!(labels.iter().sum::<usize>(), 1);
    assert!(before.0.is_sorted_by_key(|info| info.digest));
    let many = content(&root, "many");
    let others: Vec<Digest> = (0..120_u8).map(|n| put(&many, &[b'm', n])).collect();
    many.update_labels(&others[7], &label).unwrap();
    put(&few, b"last");
    few.delete(&Digest::sha256(b"last")).unwrap();
    assert_eq!((few.list().unwrap(), few.known().unwrap().blobs), before);
    let listed = many.list().unwrap();
    assert!(listed.is_sorted_by_key(|info| info.digest));
    assert_eq!(listed.len(), 120);
    for info in listed {
        let expected = if info.digest == others[7] { 1 } else { 0 };
        assert_eq!(info.labels.len(), expected, "{}", info.digest);
    }
}
