//! System calls that fail, and the order of those that make a commit durable.

use dist_core::{Cancel, Digest, ErrorKind, Provider as _};
use dist_store::{Store, StoreOptions};

use crate::{Root, check, content, open, run, write};

/// After a sync that failed nothing it was for is trusted; the same job then succeeds.
#[test]
fn a_failed_sync_throws_the_ingest_away() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let bytes = content("5,300000");
    let digest = Digest::sha256(&bytes);
    let mut failed = 0;
    for when in 1.. {
        let inject = format!("inject=fsync:error=EIO:when={when}");
        let job = root.job("ingest", "k 5,300000");
        let answer = run(&["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject], &job);
        let store = check(&root.path());
        if answer == "new" {
            break; // fewer syncs than that, or one that nobody waits for
        }
        failed += 1;
        assert!(answer.starts_with("error Storage") && answer.contains("/root/"), "{answer}");
        assert!(answer.contains("os error 5") || answer.contains("I/O error"), "{answer}");
        assert_eq!(store.open(&digest).unwrap_err().kind(), ErrorKind::NotFound);
        if when <= 2 {
            // The data, then the directory.
            assert!(store.ingests().unwrap().is_empty(), "{when}");
        }
        assert_eq!(write(&store, "k", &bytes).unwrap(), if when <= 2 { "new" } else { "exists" });
        store.delete(&digest).unwrap();
    }
    assert!(failed >= 3, "{failed}");
}

/// Any call fails: the store stays good, and the same job succeeds without a repair.
#[test]
fn any_call_fails() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    for call in [
        "write",
        "pwrite64",
        "pread64",
        "openat",
        "mkdir",
        "linkat",
        "rename",
        "ftruncate",
        "fchmod",
        "unlinkat",
        "rmdir",
        "unlink",
        "lseek",
        "flock",
        "statfs",
        "fcntl",
        "fadvise64",
    ] {
        for (error, when) in [("EIO", "1"), ("EIO", "2+"), ("ENOSPC", "1+"), ("EIO", "4")] {
            // Only calls on paths below the store, so that the test's own output works.
            let inject = format!("inject={call}:error={error}:when={when}");
            let trace = format!("trace={call}");
            let path = root.path();
            let mut strace = vec!["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &trace];
            let names = [
                "",
                "/meta.db",
                "/meta.db-wal",
                "/meta.db-shm",
                "/meta.lock",
                "/format",
                "/content/ingest",
                "/content/blobs/sha256",
                "/trash",
            ];
            let ingest = root.ingest_path("k");
            let paths: Vec<String> = names
                .iter()
                .map(|name| format!("{}{name}", path.display()))
                .chain(
                    ["", "/ref", "/data", "/state", "/state.new", "/total", "/expected"]
                        .map(|name| format!("{}{name}", ingest.display())),
                )
                .collect();
            for path in &paths {
                strace.extend(["-P", path]);
            }
            strace.extend(["-e", &inject]);
            let answer = run(&strace, &root.job("ingest", "k 5,300000"));
            assert!(
                ["new", "exists"].contains(&&*answer)
                    || answer.starts_with("error Storage")
                    || answer.starts_with("error Busy"),
                "{call} {error} {when}: {answer}"
            );
            let store = check(&root.path());
            let bytes = content("5,300000");
            write(&store, "k", &bytes).unwrap();
            let digest = Digest::sha256(&bytes);
            store.verify(&digest, &Cancel::default()).unwrap();
            store.delete(&digest).unwrap();
            assert!(store.ingests().unwrap().is_empty(), "{call} {error} {when}");
        }
    }
}

#[test]
fn a_failed_settle_drops_the_rows() {
    let root = Root::new();
    let store = Store::open(&root.path(), StoreOptions::default()).unwrap();
    let insert = |key: &str, boot_id: Option<&str>, parent: Option<&str>| {
        let row = (key, boot_id, parent);
        store
            .db()
            .write(|t| {
                t.execute(
                    "INSERT INTO snapshots (namespace, snapshotter, key, parent_id, kind, bytes,
                         inodes, created_at, updated_at, boot_id)
                     VALUES ('n', 's', ?1, (SELECT id FROM snapshots WHERE key = ?3), 'committed',
                         0, 0, 0, 0, ?2)",
                    row,
                )
                .unwrap();
                Ok(())
            })
            .unwrap();
    };
    let count = || -> i64 {
        let sql = "SELECT count(*) FROM snapshots";
        store.db().read(|c| Ok(c.query_row(sql, [], |row| row.get(0)).unwrap())).unwrap()
    };
    insert("a", None, None);
    insert("b", Some(store.boot_id()), Some("a"));
    insert("c", None, Some("b"));
    let strace =
        ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "inject=syncfs:error=EIO:when=1"];
    let answer = run(&strace, &root.job("settle", ""));
    assert!(answer.starts_with("error Storage") && answer.contains("snapshots"), "{answer}");
    assert_eq!(count(), 1);
    insert("b", Some(store.boot_id()), Some("a"));
    assert_eq!(run(&[], &root.job("settle", "")), "flipped 1");
    assert_eq!(count(), 2);
}

/// What could not be synced at the end of a piece of work is not kept; the same work then succeeds.
#[test]
fn a_failed_registration_drops_its_blobs() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let bytes = content("7,100000");
    let mut dropped = 0;
    for when in 1.. {
        let inject = format!("inject=syncfs,fsync:error=EIO:when={when}");
        let strace = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject];
        let answer = run(&strace, &root.job("register", "7,100000"));
        let store = check(&root.path());
        if answer == "registered" {
            break;
        }
        assert!(answer.starts_with("error Storage"), "{answer}");
        dropped += usize::from(store.list().unwrap().is_empty());
        assert_eq!(run(&[], &root.job("register", "7,100000")), "registered");
        store.verify(&Digest::sha256(&bytes), &Cancel::default()).unwrap();
        let settled = Store::open(&root.path(), StoreOptions::default()).unwrap();
        assert_eq!(settled.settle(dist_store::SettleMode::Now).unwrap().flipped, 0);
        store.delete(&Digest::sha256(&bytes)).unwrap();
    }
    assert!(dropped >= 1, "{dropped}");
}

/// Data, name, row: each on the disk before the next.
#[test]
fn the_order_of_a_commit() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    let log = root.0.path().join("trace");
    let strace = ["strace", "-f", "-y", "-qqq", "-e", "trace=fsync,linkat,pwrite64", "-o"];
    let wrapper: Vec<_> = strace.iter().copied().chain([log.to_str().unwrap()]).collect();
    assert_eq!(run(&wrapper, &root.job("ingest", "k 6,100000")), "new");
    let trace = std::fs::read_to_string(log).unwrap();
    let mut at = 0;
    for (call, object) in [
        ("fsync(", "/data>"),
        ("linkat(", "/blobs/sha256/"),
        ("fsync(", "/blobs/sha256>"),
        ("pwrite64(", "/meta.db-wal>"),
        ("fsync(", "/meta.db-wal>"),
    ] {
        at += trace[at..]
            .lines()
            .scan(0, |end, line| {
                *end += line.len() + 1;
                Some((*end, line))
            })
            .find(|(_, line)| line.contains(call) && line.contains(object))
            .unwrap_or_else(|| panic!("{call} {object} is not in its place:\n{trace}"))
            .0;
    }
}
