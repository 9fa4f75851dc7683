-- Version 4: containers, and how their processes are reached.

CREATE TABLE containers (
    id            INTEGER PRIMARY KEY,
    namespace     TEXT    NOT NULL,
    name          TEXT    NOT NULL,
    image         TEXT    NOT NULL,
    runtime       TEXT    NOT NULL,
    options_type  TEXT,
    options       BLOB,
    spec_type     TEXT,
    spec          BLOB,
    snapshotter   TEXT    NOT NULL,
    snapshot_key  TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    updated_at    INTEGER NOT NULL,
    UNIQUE (namespace, name)
) STRICT;

CREATE TABLE container_labels (
    container_id INTEGER NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    value        TEXT    NOT NULL,
    PRIMARY KEY (container_id, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE container_extensions (
    container_id INTEGER NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
    name         TEXT    NOT NULL,
    type         TEXT    NOT NULL,
    value        BLOB    NOT NULL,
    PRIMARY KEY (container_id, name)
) STRICT, WITHOUT ROWID;

-- The processes of a container. Without an exit the shim knows more, if `boot_id` is this boot.
CREATE TABLE tasks (
    container_id INTEGER PRIMARY KEY REFERENCES containers (id) ON DELETE CASCADE,
    boot_id      TEXT    NOT NULL,
    address      TEXT    NOT NULL,
    version      INTEGER NOT NULL,
    exit_status  INTEGER,
    exited_at    INTEGER
) STRICT;
