//! A process that dies anywhere leaves a store that works on.

use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use dist_core::{ErrorKind, Labels, Namespace, SnapshotKind};
use dist_store::{Store, StoreOptions};

use crate::support::{Bench, fails, for_each_snapshotter, key, write};

const STORE: &str = "DIST_TEST_KILLED_STORE";
const SNAPSHOTTER: &str = "DIST_TEST_KILLED_SNAPSHOTTER";

for_each_snapshotter!(
    killed_anywhere,
    whoever_dies_while_making_frees_the_key,
    directories_without_rows_are_purged,
    directories_of_ids_to_come_are_left_while_snapshots_are_made,
    leftover_directory_of_a_new_id,
    a_removed_directory_takes_its_row_along,
);

/// Not a test of its own: the process that is killed.
#[test]
fn worker() {
    let (Ok(root), Ok(name)) = (std::env::var(STORE), std::env::var(SNAPSHOTTER)) else { return };
    let store = Store::open(root.as_ref(), StoreOptions::default()).unwrap();
    let snapshotter = dist_snapshot::open(&store, Namespace::default(), &name).unwrap();
    println!("ready");
    loop {
        round(&*snapshotter);
    }
}

/// Makes and removes a stack of two, whatever an earlier round left.
fn round(snapshotter: &dyn dist_core::Snapshotter) {
    for left in ["active", "view", "top", "base"] {
        match snapshotter.remove(&key(left)) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{left}: {error:?}"),
            _ => (),
        }
    }
    let none = Labels::new();
    for (name, parent) in [("base", None), ("top", Some(key("base")))] {
        let mounts = snapshotter.prepare(&key("active"), parent.as_ref(), &none).unwrap();
        let dir = mounts[0].writable_dir().unwrap();
        for file in 0..20 {
            write(&dir.join(format!("{name}-{file}")), "content");
        }
        snapshotter.commit(&key(name), &key("active"), None, &none, None).unwrap();
    }
    snapshotter.view(&key("view"), Some(&key("top")), &none).unwrap();
}

fn killed_anywhere(bench: &Bench) {
    let mut delay = 0x2545_f491_u32;
    for _ in 0..25 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::worker", "--nocapture"])
            .env(STORE, bench.store.root())
            .env(SNAPSHOTTER, bench.name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let ready = output.lines().any(|line| line.unwrap().contains("ready"));
        // Not to wait for something, but to die at an arbitrary point.
        delay = delay.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_micros(u64::from(delay >> 16)));
        child.kill().unwrap();
        let signal = child.wait().unwrap().signal();
        assert!(ready && signal == Some(9), "the worker failed before it was killed");
        check(bench);
    }
    round(&*bench.snapshotter);
    let (base, top) = match bench.name {
        "native" => (21, 41),
        "erofs" => (1, 1),
        _ => (21, 21),
    };
    for (name, inodes) in [("base", base), ("top", top)] {
        assert_eq!(bench.snapshotter.usage(&key(name)).unwrap().inodes, inodes);
    }
}

/// After a purge there is a directory for each row and no other; what is committed is whole.
fn check(bench: &Bench) {
    dist_snapshot::purge(&bench.store).unwrap();
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 0);
    let mut rows = Vec::new();
    bench
        .snapshotter
        .walk(&mut |info| {
            rows.push(info);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
    let ids = bench.store.snapshot_ids(bench.name).unwrap();
    assert_eq!(ids.len(), rows.len());
    for dir in bench.dirs() {
        assert!(ids.iter().any(|id| id.to_string() == dir), "{dir} has no row");
    }
    for info in rows.iter().filter(|info| info.kind == SnapshotKind::Committed) {
        let mounted = bench.mount(&bench.view("look", Some(info.key.as_str())));
        let names = std::fs::read_dir(&mounted.target).unwrap();
        let prefix = format!("{}-", info.key);
        let own = names
            .filter(|n| n.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix))
            .count();
        assert_eq!(own, 20, "{info:?}");
        drop(mounted);
        bench.remove("look").unwrap();
    }
    round(&*bench.snapshotter);
}

fn whoever_dies_while_making_frees_the_key(bench: &Bench) {
    bench.layer("base", None, |root| write(&root.join("file"), "x"));
    let fs = bench.prepare("a", Some("base"))[0].writable_dir().unwrap();
    // As it is between the row and the end of the copy.
    std::fs::rename(&fs, fs.with_file_name("new")).unwrap();
    fails(ErrorKind::FailedPrecondition, bench.snapshotter.mounts(&key("a")));
    fails(ErrorKind::FailedPrecondition, bench.snapshotter.usage(&key("a")));
    fails(ErrorKind::FailedPrecondition, bench.try_commit("name", "a", None));
    fails(ErrorKind::AlreadyExists, bench.try_prepare("base", None));
    let again = bench.prepare("a", Some("base"))[0].writable_dir().unwrap();
    assert!(again.is_dir() && again != fs && !fs.parent().unwrap().exists());
    std::fs::remove_dir_all(again.parent().unwrap()).unwrap();
    bench.remove("a").unwrap();
    bench.prepare("a", Some("base"));
}

fn directories_without_rows_are_purged(bench: &Bench) {
    bench.prepare("a", None);
    let root = bench.store.root();
    let stray = root.join("snapshots").join(bench.name).join("999/fs/deep");
    std::fs::create_dir_all(&stray).unwrap();
    let trash = root.join("trash").join(format!("snapshot-{}-998-x", bench.name));
    std::fs::create_dir_all(trash.join("fs")).unwrap();
    let blob = root.join("trash/9f86d081-1-2-3");
    std::fs::write(&blob, "left by whoever deleted a blob").unwrap();
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 3);
    assert!(!stray.exists() && !trash.exists() && !blob.exists());
    assert_eq!(bench.dirs().len(), 1);
}

fn directories_of_ids_to_come_are_left_while_snapshots_are_made(bench: &Bench) {
    bench.prepare("a", None);
    bench.remove("a").unwrap();
    let base = bench.store.root().join("snapshots");
    let (dead, next) = (base.join(bench.name).join("1"), base.join(bench.name).join("2"));
    for dir in [&dead, &next] {
        std::fs::create_dir_all(dir.join("fs")).unwrap();
    }
    let making = std::fs::File::open(base.join("lock")).unwrap();
    rustix::fs::flock(&making, rustix::fs::FlockOperation::LockShared).unwrap();
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 1);
    assert!(!dead.exists() && next.exists());
    drop(making);
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 1);
    assert!(!next.exists());
}

fn leftover_directory_of_a_new_id(bench: &Bench) {
    let fs = bench.prepare("a", None)[0].source.clone();
    let next: u64 = fs.parent().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    let left = fs.parent().unwrap().with_file_name((next + 1).to_string());
    std::fs::create_dir_all(left.join("fs")).unwrap();
    write(&left.join("fs/old"), "x");
    let new = bench.prepare("b", None)[0].source.clone();
    assert_eq!(new, left.join("fs"));
    assert_eq!(std::fs::read_dir(new).unwrap().count(), 0);
}

fn a_removed_directory_takes_its_row_along(bench: &Bench) {
    let base_of = |name: &str| {
        let namespace = Namespace::default();
        let dirs =
            dist_snapshot::layer_dirs(&bench.store, &namespace, bench.name, &key(name)).unwrap();
        dirs[0].parent().unwrap().to_owned()
    };
    for lost in ["base", "middle", "top"] {
        bench.layer("base", None, |root| write(&root.join("base"), "x"));
        bench.layer("middle", Some("base"), |root| write(&root.join("middle"), "x"));
        bench.layer("top", Some("middle"), |root| write(&root.join("top"), "x"));
        bench.view("view", Some("top"));
        if bench.name == "erofs" {
            dist_snapshot::mount::unmount(&base_of(lost).with_extension("fs")).unwrap();
            std::fs::remove_file(base_of(lost).with_extension("erofs")).unwrap();
        } else {
            std::fs::remove_dir_all(base_of(lost)).unwrap();
        }
        let error = fails(ErrorKind::FailedPrecondition, bench.stat("top"));
        assert!(error.to_string().contains(bench.store.root().to_str().unwrap()), "{error}");
        bench.remove("view").unwrap();
        fails(ErrorKind::NotFound, bench.try_view("view", Some("top")));
        fails(ErrorKind::NotFound, bench.stat("top"));
        for (name, there) in [("base", lost != "base"), ("middle", lost == "top")] {
            assert_eq!(bench.stat(name).is_ok(), there, "{name} without {lost}");
        }
        let mut rows = bench.store.snapshot_ids(bench.name).unwrap().len();
        assert_eq!(bench.dirs().len(), rows, "without {lost}");
        for name in ["middle", "base"].into_iter().filter(|name| bench.stat(name).is_ok()) {
            bench.remove(name).unwrap();
            rows -= 1;
        }
        assert_eq!(rows, 0);
    }
}
