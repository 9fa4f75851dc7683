-- Version 2: namespaces have rows of their own, and leases hold things. Tables are only added, so
-- that a store of version 1 that can't be written is read with these as temporary ones.

CREATE TABLE namespaces (
    id   INTEGER PRIMARY KEY,
    name TEXT    NOT NULL UNIQUE
) STRICT;
INSERT INTO namespaces (name)
    SELECT namespace FROM content UNION SELECT namespace FROM images
    UNION SELECT namespace FROM snapshots;

CREATE TABLE namespace_labels (
    namespace_id INTEGER NOT NULL REFERENCES namespaces (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    value        TEXT    NOT NULL,
    PRIMARY KEY (namespace_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE leases (
    id         INTEGER PRIMARY KEY,
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;

CREATE TABLE lease_labels (
    lease_id INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    PRIMARY KEY (lease_id, name)
) STRICT, WITHOUT ROWID;

-- What a lease holds need not exist. `snapshotter` is empty but for snapshots.
CREATE TABLE lease_resources (
    lease_id    INTEGER NOT NULL REFERENCES leases (id) ON DELETE CASCADE,
    kind        TEXT    NOT NULL CHECK (kind IN ('content', 'ingest', 'image', 'snapshot')),
    snapshotter TEXT    NOT NULL,
    name        TEXT    NOT NULL,
    PRIMARY KEY (lease_id, kind, snapshotter, name)
) STRICT, WITHOUT ROWID;
