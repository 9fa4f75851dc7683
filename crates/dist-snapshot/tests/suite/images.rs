//! What `erofs` keeps on the disk.

use std::collections::BTreeSet;
use std::path::Path;

use dist_core::{Cancel, ErrorKind};
use dist_store::{Checked, Problem};

use crate::support::{Bench, Detail, fails, key, write};

fn names(bench: &Bench) -> Vec<String> {
    bench.names().into_iter().collect()
}

fn verify(bench: &Bench) {
    let mut checked = Checked::default();
    dist_snapshot::check(&bench.store, &Cancel::default(), &mut checked).unwrap();
    assert!(checked.findings.is_empty(), "{:?}", checked.findings);
}

#[test]
fn a_committed_snapshot_is_one_file() {
    let bench = Bench::new("erofs");
    bench.layer("base", None, |root| write(&root.join("base"), "x"));
    bench.layer("top", Some("base"), |root| write(&root.join("top"), "x"));
    assert_eq!(names(&bench), ["1.erofs", "2.erofs"]);
    bench.view("view", Some("top"));
    assert_eq!(names(&bench), ["1.erofs", "1.fs", "2.erofs", "2.fs", "3"]);
    verify(&bench);
    bench.remove("view").unwrap();
    assert_eq!(names(&bench), ["1.erofs", "2.erofs"]);
    bench.remove("top").unwrap();
    bench.remove("base").unwrap();
    assert_eq!(bench.names(), BTreeSet::new());
}

#[test]
fn what_older_programs_committed_stays_in_use() {
    let bench = Bench::new("erofs");
    bench.layer("base", None, |root| write(&root.join("base"), "x"));
    let new = bench.tree("base", Detail::All);
    let dir = bench.store.root().join("snapshots/erofs/1");
    std::fs::create_dir_all(dir.join("fs")).unwrap();
    std::fs::rename(dir.with_extension("erofs"), dir.join("layer.erofs")).unwrap();
    let format = bench.store.root().join("format");
    let now = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, now.replace("\"image-files\"", "")).unwrap();

    verify(&bench);
    assert_eq!(bench.tree("base", Detail::All), new);
    bench.layer("top", Some("base"), |root| write(&root.join("top"), "y"));
    assert_eq!(std::fs::read_to_string(&format).unwrap(), now);
    assert_eq!(names(&bench), ["1", "4.erofs"]);
    let mounted = bench.mount(&bench.view("view", Some("top")));
    assert_eq!(std::fs::read_to_string(mounted.target.join("base")).unwrap(), "x");
    drop(mounted);
    for name in ["view", "top", "base"] {
        bench.remove(name).unwrap();
    }
    assert_eq!(bench.names(), BTreeSet::new());
}

#[test]
fn the_directory_that_a_killed_commit_leaves_is_found_and_removed() {
    let bench = Bench::new("erofs");
    bench.layer("base", None, |root| write(&root.join("base"), "x"));
    bench.layer("old", None, |root| write(&root.join("old"), "x"));
    let at = |name: &str| bench.store.root().join("snapshots/erofs").join(name);
    for id in ["1", "2"] {
        std::fs::create_dir_all(at(id).join("fs/below")).unwrap();
        std::fs::create_dir(at(id).join("work")).unwrap();
        write(&at(id).join("fs/below/file"), "x");
    }
    std::fs::rename(at("2.erofs"), at("2/layer.erofs")).unwrap();
    bench.prepare("active", Some("base"));
    assert_eq!(names(&bench), ["1", "1.erofs", "1.fs", "2", "3"]);

    let found = dist_snapshot::leftovers(&bench.store).unwrap();
    assert_eq!(found.iter().map(|left| &left.path).collect::<Vec<_>>(), [&at("1")]);
    assert!(found[0].bytes > 0);
    let mut checked = Checked::default();
    dist_snapshot::check(&bench.store, &Cancel::default(), &mut checked).unwrap();
    let problems: Vec<_> = checked.findings.iter().map(|found| found.problem).collect();
    assert_eq!(problems, [Problem::SnapshotUnowned]);

    assert_eq!(dist_snapshot::purge_measured(&bench.store).unwrap(), found);
    assert_eq!(names(&bench), ["1.erofs", "1.fs", "2", "3"]);
    verify(&bench);
    assert_eq!(dist_snapshot::purge(&bench.store).unwrap(), 0);
    for (name, file) in [("base", "base"), ("old", "old")] {
        assert!(bench.tree(name, Detail::Content).contains_key(Path::new(file)));
    }
}

#[test]
fn a_refused_removal_changes_no_mount() {
    let bench = Bench::new("erofs");
    bench.layer("base", None, |root| write(&root.join("base"), "x"));
    let mounts = bench.prepare("active", Some("base"));
    fails(ErrorKind::FailedPrecondition, bench.remove("base"));
    let mounted = bench.mount(&mounts);
    assert!(mounted.target.join("base").exists());
}

#[test]
fn a_refused_commit_changes_nothing() {
    let bench = Bench::new("erofs");
    bench.layer("base", None, |root| write(&root.join("base"), "x"));
    let mounted = bench.mount(&bench.prepare("active", Some("base")));
    write(&mounted.target.join("own"), "y");
    drop(mounted);
    fails(ErrorKind::AlreadyExists, bench.try_commit("base", "active", None));
    assert_eq!(names(&bench), ["1.erofs", "1.fs", "2"]);
    let mounted = bench.mount(&bench.snapshotter.mounts(&key("active")).unwrap());
    assert_eq!(std::fs::read_to_string(mounted.target.join("own")).unwrap(), "y");
    drop(mounted);
    bench.commit("top", "active");
    assert!(bench.tree("top", Detail::Content).contains_key(Path::new("own")));
}
