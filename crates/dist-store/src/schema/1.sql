-- Version 1. Times are nanoseconds since the epoch. `boot_id` is NULL where the files behind a row
-- are known to be on the disk; else it names the boot in whose page cache they may still be.

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
