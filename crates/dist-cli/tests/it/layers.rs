//! `dist snapshots diff`: layers of snapshots, and trees of these layers.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use dist_testutil::{Bound, Dist, Image, Registry, Tree, timed};

use crate::support::{chain_of, dist, pull, view};

/// A tree, without the time of its root, which no layer holds.
fn tree(root: &Path) -> Tree {
    let mut tree = Tree::read(root);
    tree.0.get_mut(Path::new("")).unwrap().mtime = 0;
    tree
}

/// Pulls, changes the root in a snapshot, and gives the chain and the tree that came out.
fn changed(dist: &Dist, registry: &Registry) -> (String, Tree) {
    let image = Image::varied();
    image.push(registry, "test/layers", "1");
    let digest = pull(dist, &registry.reference("test/layers:1"));
    let chain = chain_of(dist, &digest);
    let target = dist.dir().join("mine");
    fs_err::create_dir(&target).unwrap();
    let prepare = ["rootfs", "prepare", &chain, target.to_str().unwrap()];
    let commands = dist.ok(&prepare).text();
    let bound = Bound::by_commands(&commands, &target);
    for entry in fs_err::read_dir(&target).unwrap().take(2) {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            fs_err::remove_dir_all(&path).unwrap();
        } else {
            fs_err::remove_file(&path).unwrap();
        }
    }
    fs_err::write(target.join("new"), b"new").unwrap();
    fs_err::hard_link(target.join("new"), target.join("other")).unwrap();
    let tree = tree(bound.path());
    drop(bound);
    (chain, tree)
}

#[test]
fn the_layer_of_a_snapshot_makes_its_tree_of_its_parents() {
    let _timed = timed("layers");
    let registry = Registry::start();
    for snapshotter in ["overlayfs", "erofs", "native"] {
        let dist = dist().with(&["--snapshotter", snapshotter]);
        let (chain, expected) = changed(&dist, &registry);
        let key = dist.dir().join("mine").display().to_string();
        let diff = ["snapshots", "diff", key.as_str()];
        let between = ["snapshots", "diff", chain.as_str(), key.as_str()];
        let layer = dist.ok(&diff).stdout;
        assert_eq!(layer, dist.ok(&between).stdout, "the parent is what it is compared with");
        assert_eq!(layer, dist.ok(&diff).stdout, "the same trees give the same bytes");

        let whole = dist.dir().join("whole");
        fs_err::create_dir(&whole).unwrap();
        let reference = registry.reference("test/layers:1");
        dist.ok(&["unpack", &reference, whole.to_str().unwrap()]);
        dist.feed(&["apply", whole.to_str().unwrap()], &layer).ok();
        expected.assert_same(&tree(&whole), snapshotter);

        let script = format!("dist snapshots diff {key} | tar -tz | grep -c '^new$'");
        assert_eq!(dist.script(&script).ok().text(), "1\n");
        let left = dist.ok(&["snapshots", "ls", "-q"]).text();
        assert!(!left.contains("diff "), "views are left: {left}");
    }
}

/// All below a directory, and itself; but for the database's log, which may be left to the next
/// process.
fn count(dir: &Path) -> usize {
    let entries = fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| !path.starts_with(dir.join("meta.db-wal")));
    let entries = entries.filter(|path| !path.starts_with(dir.join("meta.db-shm")));
    1 + entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum::<usize>()
}

#[test]
fn with_erofs_an_image_is_a_file_a_blob_and_a_file_a_layer() {
    let _timed = timed("layers");
    let registry = Registry::start();
    let dist = dist().with(&["--snapshotter", "erofs"]);
    let mut there = 0;
    // That makes the store.
    dist.run(&["pull", &registry.reference("test/files:none")]).exit(3);
    // The first one brings the snapshotter's directory.
    for (seed, own) in [(1, 1), (2, 0)] {
        let empty = count(dist.root());
        let image = Image::random(seed, &[40_000, 2000, 500]);
        image.push(&registry, "test/files", &seed.to_string());
        dist.ok(&["pull", &registry.reference(&format!("test/files:{seed}"))]);
        let added = count(dist.root()) - empty;
        assert_eq!(added, image.blob_count() + 3 + own, "image {seed}");
        there += added;
    }
    assert!(there < 20);
    dist.script("dist images -q | xargs dist rmi").ok();
    dist.ok(&["gc"]);
    assert_eq!(fs_err::read_dir(dist.root().join("snapshots/erofs")).unwrap().count(), 0);
}

#[test]
fn every_layer_of_an_image_is_found_again() {
    let _timed = timed("layers");
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "test/layers", "1");
    let dist = dist();
    let digest = pull(&dist, &registry.reference("test/layers:1"));
    let listed = dist.ok(&["snapshots", "ls", "--format", "json"]).json();
    let whole = dist.dir().join("whole");
    fs_err::create_dir(&whole).unwrap();
    let mut parent = serde_json::Value::Null;
    let snapshots = listed.as_array().unwrap();
    for _ in snapshots {
        let next = snapshots.iter().find(|one| one["parent"] == parent).unwrap();
        let layer = dist.ok(&["snapshots", "diff", next["key"].as_str().unwrap()]).stdout;
        dist.feed(&["apply", whole.to_str().unwrap()], &layer).ok();
        parent = next["key"].clone();
    }
    let mut expected = view(&dist, &digest);
    expected.0.get_mut(Path::new("")).unwrap().mtime = 0;
    expected.assert_same(&tree(&whole), "applied one by one");
}

#[test]
fn forms_times_and_errors() {
    let _timed = timed("layers");
    let registry = Registry::start();
    let dist = dist();
    let (chain, _) = changed(&dist, &registry);
    let key = dist.dir().join("mine").display().to_string();
    for (form, at, mark) in
        [("none", 257, &b"ustar"[..]), ("gzip", 0, b"\x1f\x8b"), ("zstd", 0, b"\x28\xb5\x2f\xfd")]
    {
        let layer = dist.ok(&["snapshots", "diff", "--compression", form, &key]).stdout;
        assert!(layer[at..].starts_with(mark), "{form}");
    }
    let script = format!(
        "SOURCE_DATE_EPOCH=5 dist snapshots diff {key} | TZ=UTC tar -tvz --full-time | grep -c ' 1970-01-01 00:00:05 '"
    );
    assert_ne!(dist.script(&script).ok().text(), "0\n");
    dist.run(&["snapshots", "diff", "none"]).exit(3);
    dist.run(&["snapshots", "diff", &chain, "none"]).exit(3);
    let bad = dist.script(&format!("SOURCE_DATE_EPOCH=soon dist snapshots diff {key}"));
    bad.exit(2).says("SOURCE_DATE_EPOCH");
}
