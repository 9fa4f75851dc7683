-- Before version 2 nothing was ever collected, and no label said what belongs to what. So all that
-- is there is kept until somebody takes the label away.

INSERT OR IGNORE INTO content_labels (content_id, name, value)
    SELECT id, 'containerd.io/gc.root', strftime('%Y-%m-%dT%H:%M:%SZ', 'now') FROM content;
INSERT OR IGNORE INTO snapshot_labels (snapshot_id, name, value)
    SELECT id, 'containerd.io/gc.root', strftime('%Y-%m-%dT%H:%M:%SZ', 'now') FROM snapshots;

-- How many objects were ever deleted, by whatever process: a daemon that collects garbage looks here.
CREATE TABLE deletions (count INTEGER NOT NULL) STRICT;
INSERT INTO deletions (count) VALUES (0);
CREATE TRIGGER content_deleted AFTER DELETE ON content
    BEGIN UPDATE deletions SET count = count + 1; END;
CREATE TRIGGER image_deleted AFTER DELETE ON images
    BEGIN UPDATE deletions SET count = count + 1; END;
CREATE TRIGGER snapshot_deleted AFTER DELETE ON snapshots
    BEGIN UPDATE deletions SET count = count + 1; END;
CREATE TRIGGER lease_deleted AFTER DELETE ON leases
    BEGIN UPDATE deletions SET count = count + 1; END;
CREATE TRIGGER lease_resource_deleted AFTER DELETE ON lease_resources
    BEGIN UPDATE deletions SET count = count + 1; END;
