-- Before version 2 nothing was ever collected, and no label said what belongs to what. So all that
-- is there is kept until somebody takes the label away.

INSERT OR IGNORE INTO content_labels (content_id, name, value)
    SELECT id, 'containerd.io/gc.root', strftime('%Y-%m-%dT%H:%M:%SZ', 'now') FROM content;
INSERT OR IGNORE INTO snapshot_labels (snapshot_id, name, value)
    SELECT id, 'containerd.io/gc.root', strftime('%Y-%m-%dT%H:%M:%SZ', 'now') FROM snapshots;
