//! Processes that are killed: what they leave is taken up.

use std::io::Write as _;

use dist_core::{Cancel, Digest, ErrorKind, Ingest, Ingester as _};

use crate::{Root, answer, check, content, expect, key, open, run, start, write};

#[test]
fn a_killed_writer_is_resumed_at_its_last_byte() {
    let root = Root::new();
    let bytes = content("3,20000000");
    let count = 17_000_123;
    let mut writer = start(&[], &root.job("partial", &format!("k 3,20000000 {count}")));
    assert_eq!(answer(&mut writer), "ready");
    let store = open(&root.path()).unwrap();
    assert_eq!(store.ingest_status(&key("k")).unwrap().active, Some(true));
    assert_eq!(store.abort(&key("k")).unwrap_err().kind(), ErrorKind::Busy);
    writer.kill().unwrap();
    writer.wait().unwrap();
    let status = store.ingest_status(&key("k")).unwrap();
    assert_eq!(status.active, Some(false));
    assert_eq!(status.offset, count);
    let Ingest::Writer(mut writer) =
        store.ingest(&key("k"), expect(&bytes), &Cancel::default()).unwrap()
    else {
        panic!("exists")
    };
    assert_eq!(writer.offset(), count);
    writer.write_all(&bytes[usize::try_from(count).unwrap()..]).unwrap();
    writer.commit(expect(&bytes)).unwrap();
    check(&root.path());
}

/// One waits for a writer, which is killed: the one who waited goes on where it stopped.
#[test]
fn a_waiter_takes_over_from_a_killed_writer() {
    let root = Root::new();
    let mut writer = start(&[], &root.job("partial", "k 3,5000000 4000000"));
    assert_eq!(answer(&mut writer), "ready");
    let mut waiter = start(&[], &root.job("ingest", "k 3,5000000"));
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(answer(&mut waiter), "new");
    waiter.wait().unwrap();
    check(&root.path());
}

/// Killed at every system call of a write in turn: the store stays good, the same job succeeds.
#[test]
fn killed_at_any_call() {
    let root = Root::new();
    drop(open(&root.path()).unwrap());
    for call in ["fsync", "linkat", "rename", "pwrite64", "unlinkat", "rmdir", "mkdir", "flock"] {
        for when in 1..=4 {
            let inject = format!("inject={call}:signal=KILL:when={when}");
            let job = root.job("ingest", &format!("{call} {when},300000"));
            run(&["strace", "-f", "-qqq", "-o", "/dev/null", "-e", &inject], &job);
            let store = check(&root.path());
            let bytes = content(&format!("{when},300000"));
            write(&store, call, &bytes).unwrap();
            store.verify(&Digest::sha256(&bytes), &Cancel::default()).unwrap();
            store.delete(&Digest::sha256(&bytes)).unwrap();
            assert!(store.ingests().unwrap().is_empty(), "{call} {when}");
        }
    }
}

/// Several at one key, killed one after another wherever they are; in the end one goes through.
#[test]
fn killed_anywhere() {
    let root = Root::new();
    for round in 0..12 {
        let name = format!("k {round},9000000");
        let mut children: Vec<_> = (0..4).map(|_| start(&[], &root.job("ingest", &name))).collect();
        for (n, child) in children.iter_mut().enumerate() {
            // Not a wait for anything: it only spreads the kills over the job's course.
            let micros = (round * 7_919 + n as u64 * 3_571) % 23_000;
            std::thread::sleep(std::time::Duration::from_micros(micros));
            child.kill().unwrap();
        }
        for mut child in children {
            child.wait().unwrap();
        }
        let store = check(&root.path());
        let bytes = content(&format!("{round},9000000"));
        write(&store, "k", &bytes).unwrap();
        store.verify(&Digest::sha256(&bytes), &Cancel::default()).unwrap();
        assert!(store.ingests().unwrap().is_empty());
    }
    assert_eq!(open(&root.path()).unwrap().list().unwrap().len(), 12);
}
