//! A store that a program of database version 1, 2 or 3 made.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_methods, reason = "a database that this program can not make")]

use std::path::Path;
use std::sync::Arc;

use dist_core::{Descriptor, Digest, ErrorKind, GC_ROOT, Labels, MediaType, Namespace, Outline};
use dist_store::{OpenMode, Store, StoreOptions};
use rusqlite::Connection;

/// The tables of version 1, as that program made them.
const VERSION_1: &str = r"
CREATE TABLE content (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT    NOT NULL,
    digest     TEXT    NOT NULL,
    size       INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    boot_id    TEXT,
    UNIQUE (namespace, digest)
) STRICT;
CREATE INDEX content_digest ON content (digest);
CREATE INDEX content_unsettled ON content (boot_id) WHERE boot_id IS NOT NULL;

CREATE TABLE content_labels (
    content_id INTEGER NOT NULL REFERENCES content (id) ON DELETE CASCADE,
    name       TEXT    NOT NULL,
    value      TEXT    NOT NULL,
    PRIMARY KEY (content_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE images (
    id          INTEGER PRIMARY KEY,
    namespace   TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    media_type  TEXT    NOT NULL,
    digest      TEXT    NOT NULL,
    size        INTEGER NOT NULL,
    annotations TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;
CREATE INDEX images_digest ON images (digest);

CREATE TABLE image_labels (
    image_id INTEGER NOT NULL REFERENCES images (id) ON DELETE CASCADE,
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    PRIMARY KEY (image_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE snapshots (
    id          INTEGER PRIMARY KEY AUTOINCREMENT, -- names a directory, so never used twice
    namespace   TEXT    NOT NULL,
    snapshotter TEXT    NOT NULL,
    key         TEXT    NOT NULL,
    parent_id   INTEGER REFERENCES snapshots (id),
    kind        TEXT    NOT NULL CHECK (kind IN ('view', 'active', 'committed')),
    bytes       INTEGER NOT NULL,
    inodes      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    boot_id     TEXT,
    UNIQUE (namespace, snapshotter, key)
) STRICT;
CREATE INDEX snapshots_parent ON snapshots (parent_id);
CREATE INDEX snapshots_unsettled ON snapshots (boot_id) WHERE boot_id IS NOT NULL;

CREATE TABLE snapshot_labels (
    snapshot_id INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    name        TEXT    NOT NULL,
    value       TEXT    NOT NULL,
    PRIMARY KEY (snapshot_id, name)
) STRICT, WITHOUT ROWID;
";

/// One blob, image and snapshot in the namespace `a`, an image in `b`.
const ROWS: &str = "
INSERT INTO content VALUES (7, 'a', 'DIGEST', 5, 11, 12, NULL);
INSERT INTO content_labels VALUES (7, 'l', '1');
INSERT INTO images VALUES (1, 'a', 'n', 'application/vnd.oci.image.index.v1+json', 'DIGEST', 5,
    '{\"k\":\"v\"}', 13, 14);
INSERT INTO images VALUES (2, 'b', 'n', 'application/vnd.oci.image.index.v1+json', 'DIGEST', 5,
    '{}', 13, 14);
INSERT INTO snapshots VALUES (3, 'a', 'native', 's', NULL, 'committed', 1, 2, 15, 16, NULL);
";

fn options(mode: OpenMode) -> StoreOptions {
    StoreOptions { mode, ..StoreOptions::default() }
}

fn digest() -> Digest {
    Digest::sha256(b"hello")
}

fn namespace(name: &str) -> Namespace {
    name.parse().unwrap()
}

/// Makes a store and puts a database of version 1 in the place of its own.
fn make_version_1(root: &Path) {
    drop(Store::open(root, options(OpenMode::Create)).unwrap());
    for file in ["meta.db", "meta.db-wal", "meta.db-shm"] {
        match std::fs::remove_file(root.join(file)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => (),
        }
    }
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.execute_batch(VERSION_1).unwrap();
    connection.pragma_update(None, "user_version", 1).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.execute_batch(&ROWS.replace("DIGEST", &digest().to_string())).unwrap();
    drop(connection);
    let hex = digest().hex();
    std::fs::write(root.join("content/blobs/sha256").join(hex), b"hello").unwrap();
}

fn version(root: &Path) -> i64 {
    Connection::open(root.join("meta.db"))
        .unwrap()
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap()
}

/// What was there is read as it was, whether the store was migrated or not.
fn check_rows(store: &Store) {
    let info = store.content(namespace("a")).info(&digest()).unwrap();
    assert_eq!((info.size, info.created_at, info.updated_at), (5, 11, 12));
    assert_eq!(info.labels["l"], "1");
    let image = store.images(namespace("a")).get(&"n".parse().unwrap()).unwrap();
    let mut target = Descriptor::new(MediaType::Index, digest(), 5);
    target.annotations.insert("k".into(), "v".into());
    assert_eq!((image.target, image.created_at, image.updated_at), (target, 13, 14));
    let snapshot = store.snapshots(namespace("a"), "native").get(&"s".parse().unwrap()).unwrap();
    assert_eq!((snapshot.id.to_string().as_str(), snapshot.info.created_at), ("3", 15));
    let namespaces: Vec<_> =
        store.namespaces().list().unwrap().into_iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(namespaces, ["a", "b"]);
    assert_eq!(store.leases(&namespace("a")).list().unwrap(), []);
}

#[test]
fn a_store_of_version_1_is_migrated_and_nothing_in_it_can_be_collected() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    let store = Store::open(&root, options(OpenMode::Existing)).unwrap();
    assert_eq!(version(&root), 4);
    check_rows(&store);
    let info = store.content(namespace("a")).info(&digest()).unwrap();
    assert!(info.labels.contains_key(GC_ROOT), "{:?}", info.labels);
    let snapshots = store.snapshots(namespace("a"), "native").list().unwrap();
    assert!(snapshots[0].labels.contains_key(GC_ROOT), "{snapshots:?}");
    store.leases(&namespace("a")).create(None, &Labels::new()).unwrap();
    drop(store);
    let again = Store::open(&root, options(OpenMode::Existing)).unwrap();
    assert_eq!(again.leases(&namespace("a")).list().unwrap().len(), 1);
}

#[test]
fn a_store_of_version_1_is_read_as_it_is_where_it_may_not_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    let before = std::fs::read(root.join("meta.db")).unwrap();
    let store = Store::open(&root, options(OpenMode::ReadOnly)).unwrap();
    check_rows(&store);
    let error = store.leases(&namespace("a")).create(None, &Labels::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage);
    drop(store);
    assert_eq!(std::fs::read(root.join("meta.db")).unwrap(), before);
    assert_eq!(version(&root), 1);
}

#[test]
fn many_threads_migrate_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| check_rows(&Store::open(&root, options(OpenMode::Existing)).unwrap()));
        }
    });
}

/// A migration that fails half-way, as one that is killed, leaves version 1.
#[test]
fn a_migration_happens_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    let connection = Connection::open(root.join("meta.db")).unwrap();
    // A statement amid the migration finds this in its way.
    let block = "CREATE TRIGGER block BEFORE INSERT ON snapshot_labels
                 BEGIN SELECT RAISE(ABORT, 'blocked'); END";
    connection.execute_batch(block).unwrap();
    let error = Store::open(&root, options(OpenMode::Existing)).unwrap_err();
    assert!(format!("{error:?}").contains("to version 4"), "{error:?}");
    assert_eq!(version(&root), 1);
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'leases'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(tables, 0);
    connection.execute_batch("DROP TRIGGER block").unwrap();
    check_rows(&Store::open(&root, options(OpenMode::Existing)).unwrap());
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.pragma_update(None, "user_version", 5).unwrap();
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        let error = Store::open(&root, options(mode)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        assert!(error.to_string().ends_with("version 5, this program knows 4"), "{error}");
    }
}

const WITHOUT_CONTAINERS: &str = "DROP TRIGGER container_deleted; DROP TABLE tasks;
    DROP TABLE container_extensions; DROP TABLE container_labels; DROP TABLE containers;";

const WITHOUT_DOCUMENTS: &str = "DROP TRIGGER document_deleted; DROP TABLE documents;";

/// Makes a store as a program of version 2 had it: without what version 3 added.
fn make_version_2(root: &Path) {
    make_version_1(root);
    drop(Store::open(root, options(OpenMode::Existing)).unwrap());
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.execute_batch(WITHOUT_CONTAINERS).unwrap();
    connection.execute_batch(WITHOUT_DOCUMENTS).unwrap();
    connection.pragma_update(None, "user_version", 2).unwrap();
}

#[test]
fn a_store_of_version_2_is_migrated_or_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_2(&root);
    let before = std::fs::read(root.join("meta.db")).unwrap();
    let store = Store::open(&root, options(OpenMode::ReadOnly)).unwrap();
    check_rows(&store);
    let known = store.content(namespace("a")).known().unwrap();
    assert_eq!(known.blobs, [(digest(), 5)].into_iter().collect());
    assert!(known.outlines.is_empty() && !known.keeps, "{known:?}");
    drop(store);
    assert_eq!(std::fs::read(root.join("meta.db")).unwrap(), before);
    assert_eq!(version(&root), 2);

    let store = Store::open(&root, options(OpenMode::Existing)).unwrap();
    assert_eq!(version(&root), 4);
    check_rows(&store);
    let content = store.content(namespace("a"));
    assert!(content.known().unwrap().keeps);
    let outline = Arc::new(Outline::Config(None));
    content.keep_outlines(&[((digest(), MediaType::Config), outline)]).unwrap();
    assert_eq!(content.known().unwrap().outlines.len(), 1);
    content.delete(&digest()).unwrap();
    let connection = Connection::open(root.join("meta.db")).unwrap();
    let left: i64 =
        connection.query_row("SELECT count(*) FROM documents", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_store_of_version_3_is_migrated_or_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("s");
    make_version_1(&root);
    drop(Store::open(&root, options(OpenMode::Existing)).unwrap());
    let connection = Connection::open(root.join("meta.db")).unwrap();
    connection.execute_batch(WITHOUT_CONTAINERS).unwrap();
    connection.pragma_update(None, "user_version", 3).unwrap();
    drop(connection);
    let store = Store::open(&root, options(OpenMode::ReadOnly)).unwrap();
    check_rows(&store);
    assert_eq!(store.containers(&namespace("a")).list().unwrap(), []);
    drop(store);
    assert_eq!(version(&root), 3);
    let store = Store::open(&root, options(OpenMode::Existing)).unwrap();
    assert_eq!(version(&root), 4);
    check_rows(&store);
    assert_eq!(store.containers(&namespace("a")).list().unwrap(), []);
}
