//! `dist fsck`: what is damaged is found, and comes again from the real registry.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_testutil::{
    Bound, Dist, Fault, FaultProxy, Gate, Image, Registry, Rule, Tree, blobs_on_disk, timed,
    verify_blobs,
};
use serde_json::Value;

use crate::support::{chain_of, dist, quick, verify_image, verify_store, view};

const SNAPSHOTTERS: [&str; 2] = ["overlayfs", "native"];

/// A store with an image of every kind of entry, from a registry.
struct Pulled {
    registry: Registry,
    image: Image,
    reference: String,
    dist: Dist,
}

impl Pulled {
    fn new(snapshotter: &str) -> Self {
        let registry = Registry::start();
        let image = Image::varied();
        image.push(&registry, "test/fsck", "1");
        let reference = registry.reference("test/fsck:1");
        let dist = quick().with(&["--snapshotter", snapshotter]);
        dist.ok(&["pull", &reference]);
        Self { registry, image, reference, dist }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dist.root().join(below)
    }

    /// The findings, with the exit code that they must have.
    #[track_caller]
    fn fsck(&self, flags: &[&str], code: i32) -> Vec<Value> {
        let all = [&["fsck", "--format", "json"], flags].concat();
        match self.dist.run(&all).exit(code).json() {
            Value::Array(findings) => findings,
            other => panic!("{other}"),
        }
    }

    /// Fails unless the store is as good as new.
    #[track_caller]
    fn assert_healthy(&self) {
        assert_eq!(self.fsck(&["--deep"], 0), [] as [Value; 0]);
        verify_image(&self.dist, &self.reference, &self.image);
    }

    fn blob_path(&self, digest: &str) -> PathBuf {
        self.path("content/blobs").join(digest.replace(':', "/"))
    }

    /// The directories of all snapshots, lowest layer first.
    fn trees(&self, snapshotter: &str) -> Vec<PathBuf> {
        let dir = self.path("snapshots").join(snapshotter);
        let mut ids: Vec<u64> = fs_err::read_dir(&dir)
            .unwrap()
            .filter_map(|entry| {
                let name = entry.unwrap().file_name();
                name.to_str().unwrap().split('.').next().unwrap().parse().ok()
            })
            .collect();
        ids.sort_unstable();
        ids.iter().map(|id| dir.join(id.to_string()).join("fs")).collect()
    }
}

/// The unpacked root, without the time of its own directory, which no layer need hold.
fn rootfs(pulled: &Pulled) -> Tree {
    let mut tree = view(&pulled.dist, &pulled.image.digest());
    tree.0.get_mut(Path::new("")).unwrap().mtime = 0;
    tree
}

fn problems(findings: &[Value]) -> Vec<(&str, bool, bool)> {
    let one = |finding: &Value| {
        let flag = |name: &str| finding[name].as_bool().unwrap();
        (flag("damage"), flag("repaired"))
    };
    findings
        .iter()
        .map(|finding| {
            let (damage, repaired) = one(finding);
            (finding["problem"].as_str().unwrap(), damage, repaired)
        })
        .collect()
}

fn flip(path: &Path) {
    let mut bytes = fs_err::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    rewrite(path, &bytes);
}

/// Writes into the same file, whose mode and times stay.
fn rewrite(path: &Path, bytes: &[u8]) {
    let meta = fs_err::metadata(path).unwrap();
    let mode = meta.permissions();
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    fs_err::write(path, bytes).unwrap();
    fs_err::set_permissions(path, mode).unwrap();
    let file = fs_err::OpenOptions::new().write(true).open(path).unwrap();
    file.file().set_modified(meta.modified().unwrap()).unwrap();
}

#[test]
fn a_healthy_store_says_so() {
    let _timed = timed("fsck");
    for snapshotter in SNAPSHOTTERS {
        let pulled = Pulled::new(snapshotter);
        let said = pulled.dist.ok(&["fsck", "--deep"]).text();
        assert!(said.ends_with("nothing is wrong\n"), "{said}");
        pulled.assert_healthy();
    }
    dist().run(&["fsck"]).exit(3).says("there is none");
}

#[test]
fn every_blob_that_is_damaged_comes_again() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let labels = pulled.dist.ok(&["list", "--format", "json"]).json();
    for (digest, _) in blobs_on_disk(pulled.dist.root()) {
        let path = pulled.blob_path(&digest.to_string());
        for (problem, deep) in [("blob-digest", true), ("blob-size", false), ("blob-lost", false)] {
            match problem {
                "blob-digest" => flip(&path),
                "blob-size" => rewrite(&path, &fs_err::read(&path).unwrap()[1..]),
                _ => fs_err::remove_file(&path).unwrap(),
            }
            let flags: &[&str] = if deep { &["--deep"] } else { &[] };
            let found = pulled.fsck(flags, 8);
            assert_eq!(problems(&found), [(problem, true, false)], "{digest}");
            assert_eq!(found[0]["subject"], digest.to_string());
            let found = pulled.fsck(&[flags, &["--repair"]].concat(), 0);
            assert_eq!(problems(&found), [(problem, true, true)], "{digest}");
        }
    }
    pulled.assert_healthy();
    let again = pulled.dist.ok(&["list", "--format", "json"]).json();
    for (before, after) in labels.as_array().unwrap().iter().zip(again.as_array().unwrap()) {
        assert_eq!((&before["digest"], &before["labels"]), (&after["digest"], &after["labels"]));
    }
}

#[test]
fn all_that_is_lost_at_once_comes_again() {
    let _timed = timed("fsck");
    for snapshotter in SNAPSHOTTERS {
        let pulled = Pulled::new(snapshotter);
        let tree = rootfs(&pulled);
        for (digest, _) in blobs_on_disk(pulled.dist.root()) {
            fs_err::remove_file(pulled.blob_path(&digest.to_string())).unwrap();
        }
        for dir in pulled.trees(snapshotter) {
            fs_err::remove_dir_all(dir.parent().unwrap()).unwrap();
        }
        let found = pulled.fsck(&["--repair"], 0);
        assert!(found.iter().all(|one| one["repaired"] == true), "{found:?}");
        pulled.assert_healthy();
        rootfs(&pulled).assert_same(&tree, snapshotter);
    }
}

#[test]
fn without_the_network_it_says_what_is_missing() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let layer = pulled.image.layer(0);
    fs_err::remove_file(pulled.blob_path(&layer)).unwrap();
    let Pulled { registry, dist, .. } = pulled;
    drop(registry);
    for _ in 0..2 {
        dist.run(&["fsck", "--repair"]).exit(5).says(&layer);
        dist.run(&["fsck"]).exit(8);
    }
    verify_blobs(dist.root());
}

#[test]
fn every_damage_to_a_snapshot_is_found_and_undone() {
    let _timed = timed("fsck");
    for snapshotter in SNAPSHOTTERS {
        let pulled = Pulled::new(snapshotter);
        let tree = rootfs(&pulled);
        // Layers are unpacked in any order: one that holds files.
        let dirs: Vec<_> = pulled
            .trees(snapshotter)
            .into_iter()
            .filter(|dir| find(dir, &|meta| meta.is_file() && meta.len() > 0).is_some())
            .collect();
        let file = |dir: &Path| first(dir, &|meta| meta.is_file() && meta.len() > 0);
        type Damage<'a> = &'a dyn Fn(&Path);
        let damages: [(&str, Damage<'_>); 6] = [
            ("snapshot-lost", &|dir| fs_err::remove_dir_all(dir).unwrap()),
            ("snapshot-inodes", &|dir| fs_err::write(dir.join("more"), b"").unwrap()),
            ("snapshot-inodes", &|dir| {
                fs_err::remove_file(file(dir)).unwrap();
            }),
            ("snapshot-contents", &|dir| flip(&file(dir))),
            ("snapshot-contents", &|dir| {
                let file = file(dir);
                rewrite(&file, &fs_err::read(&file).unwrap()[1..]);
            }),
            ("snapshot-contents", &|dir| {
                let mode = PermissionsExt::from_mode(0o4711);
                fs_err::set_permissions(file(dir), mode).unwrap();
            }),
        ];
        for (problem, damage) in damages {
            damage(&dirs[0]);
            let found = pulled.fsck(&["--deep"], 8);
            assert_eq!(problems(&found), [(problem, true, false)], "{snapshotter}: {found:?}");
            let found = pulled.fsck(&["--deep", "--repair"], 0);
            assert_eq!(problems(&found), [(problem, true, true)], "{snapshotter}: {found:?}");
        }
        pulled.assert_healthy();
        rootfs(&pulled).assert_same(&tree, snapshotter);
    }
}

/// The first entry below a directory that fits, by name.
fn first(dir: &Path, fits: &dyn Fn(&std::fs::Metadata) -> bool) -> PathBuf {
    find(dir, fits).unwrap_or_else(|| panic!("nothing fits in {}", dir.display()))
}

fn find(dir: &Path, fits: &dyn Fn(&std::fs::Metadata) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<_> =
        fs_err::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let meta = |path: &PathBuf| fs_err::symlink_metadata(path).unwrap();
    if let Some(path) = paths.iter().find(|path| fits(&meta(path))) {
        return Some(path.clone());
    }
    paths.iter().filter(|path| meta(path).is_dir()).find_map(|path| find(path, fits))
}

#[test]
fn what_stands_on_a_damaged_snapshot_stays() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let chain = chain_of(&pulled.dist, &pulled.image.digest());
    let target = pulled.dist.dir().join("mine");
    fs_err::create_dir(&target).unwrap();
    let prepare = ["rootfs", "prepare", &chain, target.to_str().unwrap()];
    let commands = pulled.dist.ok(&prepare).text();
    let bound = Bound::by_commands(&commands, &target);
    fs_err::write(target.join("work"), b"of hours").unwrap();
    drop(bound);
    for dir in &pulled.trees("overlayfs")[..1] {
        fs_err::remove_dir_all(dir).unwrap();
    }
    pulled.fsck(&["--repair"], 0);
    let bound = Bound::by_commands(&commands, &target);
    assert_eq!(fs_err::read(target.join("work")).unwrap(), b"of hours");
    drop(bound);
    pulled.assert_healthy();
}

#[test]
fn what_a_mount_uses_is_not_rebuilt_below_it() {
    let _timed = timed("fsck");
    for snapshotter in SNAPSHOTTERS {
        let pulled = Pulled::new(snapshotter);
        let chain = chain_of(&pulled.dist, &pulled.image.digest());
        let tree = pulled.trees(snapshotter).pop().unwrap();
        let target = pulled.dist.dir().join("view");
        fs_err::create_dir(&target).unwrap();
        let bound = match snapshotter {
            "overlayfs" => {
                let view = ["rootfs", "prepare", "--view", &chain, target.to_str().unwrap()];
                Bound::by_commands(&pulled.dist.ok(&view).text(), &target)
            }
            // A view is a copy here: the snapshot's own directory.
            _ => {
                let bind = format!("mount --bind {} {}", tree.display(), target.display());
                Bound::by_commands(&bind, &target)
            }
        };
        let names = |dir: &Path| fs_err::read_dir(dir).unwrap().count();
        let before = names(&target);
        fs_err::write(tree.join("more"), b"").unwrap();
        let mounted = target.display().to_string();
        let refused = pulled.dist.run(&["fsck", "--repair"]).exit(9);
        refused.says(&format!("the mount on {mounted} uses it")).says("unmount");
        let found = pulled.fsck(&["--repair"], 9);
        assert_eq!(problems(&found), [("snapshot-inodes", true, false)], "{snapshotter}");
        assert!(found[0]["error"].as_str().unwrap().contains(&mounted), "{found:?}");
        assert!(names(&target) >= before);
        drop(bound);
        let found = pulled.fsck(&["--repair"], 0);
        assert_eq!(problems(&found), [("snapshot-inodes", true, true)], "{snapshotter}");
    }
}

#[test]
fn strays_are_found_in_every_directory_and_put_aside() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let digest = "0".repeat(64);
    let strays = [
        ("stray", "stray"),
        ("content/stray", "stray"),
        ("content/blobs/stray", "stray"),
        ("content/blobs/sha256/stray", "stray"),
        ("content/ingest/stray", "stray"),
        ("locks/stray", "stray"),
        ("snapshots/stray", "stray"),
        ("snapshots/overlayfs/stray", "stray"),
        ("trash/stray", "trash"),
    ];
    for (path, _) in strays {
        fs_err::write(pulled.path(path), b"x").unwrap();
    }
    fs_err::write(pulled.path("content/blobs/sha256").join(&digest), b"x").unwrap();
    fs_err::write(pulled.path("locks").join(&digest), b"").unwrap();
    fs_err::create_dir_all(pulled.path("snapshots/overlayfs/999999/fs")).unwrap();
    let id = pulled.trees("overlayfs")[0].parent().unwrap().to_owned();
    fs_err::write(id.join("stray"), b"x").unwrap();

    let found = pulled.fsck(&[], 0);
    let mut told: Vec<(&str, &str)> = found
        .iter()
        .map(|one| (one["problem"].as_str().unwrap(), one["subject"].as_str().unwrap()))
        .collect();
    told.sort_unstable();
    let root = pulled.dist.root().to_str().unwrap();
    let mut expected: Vec<(&str, String)> =
        strays.iter().map(|(path, problem)| (*problem, format!("{root}/{path}"))).collect();
    expected.extend([
        ("blob-unowned", format!("{root}/content/blobs/sha256/{digest}")),
        ("lock", format!("{root}/locks/{digest}")),
        ("snapshot-unowned", format!("{root}/snapshots/overlayfs/999999")),
        ("stray", id.join("stray").display().to_string()),
    ]);
    expected.sort_unstable();
    assert_eq!(told, expected.iter().map(|(a, b)| (*a, b.as_str())).collect::<Vec<_>>());
    assert!(found.iter().all(|one| one["damage"] == false));

    let found = pulled.fsck(&["--repair"], 0);
    assert!(found.iter().all(|one| one["repaired"] == true), "{found:?}");
    assert_eq!(fs_err::read_dir(pulled.path("quarantine")).unwrap().count(), 9);
    pulled.assert_healthy();
}

#[test]
fn a_damaged_database_is_found() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], timeout=10)\n\
                  db.execute('pragma foreign_keys = off')\n\
                  db.execute(\"insert into content_labels values (987654, 'a', 'b')\")\n\
                  db.commit()";
    let database = pulled.path("meta.db");
    dist_testutil::run("python3", &["-c".as_ref(), script.as_ref(), database.as_os_str()]);
    let found = pulled.fsck(&[], 8);
    assert_eq!(problems(&found), [("database", true, false)]);
    pulled.dist.run(&["fsck", "--repair"]).exit(8);
}

#[test]
fn a_database_that_cannot_be_read_is_a_finding() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let database = pulled.path("meta.db");
    // All is in the one file.
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], timeout=10)\n\
                  db.execute('pragma wal_checkpoint(truncate)')";
    dist_testutil::run("python3", &["-c".as_ref(), script.as_ref(), database.as_os_str()]);
    let whole = fs_err::read(&database).unwrap();
    let mut pages = whole.clone();
    pages[4096..7 * 4096].fill(0x5a);
    let mut head = whole.clone();
    head[..100].fill(0x5a);
    for (bytes, said) in [(&pages[..], "malformed"), (&head[..], "not a database"), (b"", "empty")]
    {
        fs_err::write(&database, bytes).unwrap();
        for command in [&["images"][..], &["gc"], &["pull", &pulled.reference]] {
            let ran =
                pulled.dist.run(command).exit(8).says("meta.db").says("`dist fsck` says more");
            assert!(!ran.stderr.contains("rror code"), "{}", ran.stderr);
        }
        let found = pulled.fsck(&[], 8);
        assert_eq!(problems(&found), [("database", true, false)], "{said}");
        assert!(found[0]["detail"].as_str().unwrap().contains(said), "{found:?}");
        pulled.dist.run(&["fsck", "--repair"]).exit(8).says("restore a copy of meta.db");
    }
    fs_err::write(&database, whole).unwrap();
    pulled.assert_healthy();
}

#[test]
fn a_snapshot_that_an_image_names_and_that_has_no_row_is_unpacked_again() {
    let _timed = timed("fsck");
    for snapshotter in SNAPSHOTTERS {
        let pulled = Pulled::new(snapshotter);
        let tree = rootfs(&pulled);
        let chain = chain_of(&pulled.dist, &pulled.image.digest());
        pulled.dist.script("dist snapshots ls -q | xargs -r dist snapshots rm").ok();
        let found = pulled.fsck(&[], 0);
        assert_eq!(problems(&found), [("snapshot-missing", false, false)], "{snapshotter}");
        assert_eq!(found[0]["subject"], format!("{snapshotter}/{chain}"));
        // Without a layer it is told, and no failure.
        let layer = pulled.image.layer(0);
        let path = pulled.blob_path(&layer);
        let away = pulled.dist.dir().join("away");
        fs_err::rename(&path, &away).unwrap();
        let found = pulled.fsck(&[], 8);
        assert!(problems(&found).contains(&("snapshot-missing", false, false)), "{found:?}");
        // That comes first.
        let found = pulled.fsck(&["--repair"], 0);
        assert!(found.iter().all(|one| one["repaired"] == true), "{found:?}");
        pulled.assert_healthy();
        rootfs(&pulled).assert_same(&tree, snapshotter);
    }
}

#[test]
fn after_repairs_it_says_how_many_and_where_things_went() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("overlayfs");
    let healthy = pulled.dist.ok(&["fsck"]).text();
    let layer = pulled.image.layer(0);
    flip(&pulled.blob_path(&layer));
    let file = |meta: &std::fs::Metadata| meta.is_file() && meta.len() > 0;
    let (tree, path) = pulled
        .trees("overlayfs")
        .into_iter()
        .find_map(|tree| Some((tree.clone(), find(&tree, &file)?)))
        .unwrap();
    flip(&path);
    let said = pulled.dist.ok(&["fsck", "--deep", "--repair"]).text();
    let expected = healthy.replace("nothing is wrong", "2 repaired, now nothing is wrong");
    assert_eq!(said.lines().last(), expected.lines().last());
    let name = path.strip_prefix(&tree).unwrap().display().to_string();
    assert!(said.contains(&format!("it differs from its layers at {name:?}")), "{said}");
    let moved = said.lines().find_map(|line| line.split_once("; moved to ")).unwrap().1;
    let moved = Path::new(moved.split(')').next().unwrap());
    assert_eq!(moved.parent().unwrap(), pulled.path("quarantine"));
    assert!(moved.is_file(), "{said}");
    assert_eq!(pulled.dist.ok(&["fsck"]).text(), healthy);
}

#[test]
fn after_a_kill_in_the_middle_of_a_pull_nothing_is_wrong() {
    let _timed = timed("fsck");
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "test/fsck", "1");
    let proxy = FaultProxy::start(registry.address());
    let reference = proxy.reference("test/fsck:1");
    let dist = dist();
    for blob in &image.blobs {
        let gate = Gate::default();
        proxy.reset();
        let half = blob.bytes.len() as u64 / 2;
        proxy.add(Rule::get(blob.digest.to_string(), Fault::Hold(half, gate.clone())).times(1));
        let running = dist.spawn(&["pull", &reference]);
        gate.wait_held(1);
        running.kill();
        gate.open();
        let found = dist.ok(&["fsck", "--deep", "--format", "json"]).json();
        let damaged = |one: &&Value| one["damage"] == true;
        assert_eq!(found.as_array().unwrap().iter().filter(damaged).count(), 0, "{found}");
        dist.ok(&["pull", &reference]);
        assert_eq!(dist.ok(&["fsck", "--deep", "--repair"]).stderr, "");
        let said = dist.ok(&["fsck", "--deep"]).text();
        assert!(said.ends_with("nothing is wrong\n"), "{said}");
        for digest in dist.ok(&["list", "-q"]).text().lines() {
            dist.ok(&["delete", digest]);
        }
        dist.script("dist snapshots ls -q | xargs -r dist snapshots rm").ok();
        dist.script("dist images -q | xargs -r dist rmi").ok();
    }
}

#[test]
fn what_others_do_meanwhile_is_no_damage() {
    let _timed = timed("fsck");
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "test/fsck", "1");
    let reference = registry.reference("test/fsck:1");
    let dist = dist();
    dist.ok(&["pull", &reference]);
    for round in 0..8 {
        let other = dist.spawn(&["pull", &reference]);
        // The moment is the stimulus here.
        std::thread::sleep(Duration::from_millis(round * 7));
        let found = dist.ok(&["fsck", "--deep", "--repair", "--format", "json"]).json();
        let damaged = |one: &&Value| one["damage"] == true;
        assert_eq!(found.as_array().unwrap().iter().filter(damaged).count(), 0, "{found}");
        other.wait().ok();
        verify_store(&dist);
        let layer = image.layer(usize::try_from(round).unwrap() % 2);
        dist.ok(&["delete", &layer]);
        dist.script("dist snapshots ls -q | xargs -r dist snapshots rm").ok();
    }
}

#[test]
fn images_are_compared_with_their_layers_and_written_again() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("erofs");
    pulled.assert_healthy();
    let image = |tree: &PathBuf| tree.parent().unwrap().with_extension("erofs");
    let images: Vec<PathBuf> = pulled.trees("erofs").iter().map(image).collect();
    for path in &images {
        let mut bytes = fs_err::read(path).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        fs_err::write(path, bytes).unwrap();
    }
    assert_eq!(pulled.fsck(&[], 0), [] as [Value; 0], "their sizes are right");
    let found = pulled.fsck(&["--deep", "--repair"], 0);
    let each = vec![("snapshot-contents", true, true); images.len()];
    assert_eq!(problems(&found), each);
    pulled.assert_healthy();
    fs_err::remove_file(&images[0]).unwrap();
    let found = pulled.fsck(&["--repair"], 0);
    assert_eq!(problems(&found), [("snapshot-lost", true, true)]);
    pulled.assert_healthy();
}

/// Ways to damage a snapshot's image so that its length, or that it is none, tells.
const CUTS: [&str; 4] = ["none of it", "a part of it", "a directory", "other bytes"];

fn cut(image: &Path, how: &str) {
    let mut bytes = fs_err::read(image).unwrap();
    fs_err::remove_file(image).unwrap();
    match how {
        "none of it" => bytes.clear(),
        "a part of it" => bytes.truncate(5000),
        "a directory" => return fs_err::create_dir_all(image.join("below")).unwrap(),
        _ => bytes.fill(7),
    }
    fs_err::write(image, bytes).unwrap();
}

#[test]
fn an_image_that_is_cut_off_is_found_at_once_and_written_again() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("erofs");
    let before = rootfs(&pulled);
    let image = |tree: &PathBuf| tree.parent().unwrap().with_extension("erofs");
    for how in CUTS {
        let images: Vec<PathBuf> = pulled.trees("erofs").iter().map(image).collect();
        images.iter().for_each(|path| cut(path, how));
        let found = pulled.fsck(&["--deep"], 8);
        let each = |repaired| vec![("snapshot-contents", true, repaired); images.len()];
        assert_eq!(problems(&found), each(false), "{how}");
        let found = pulled.fsck(&["--repair"], 0);
        assert_eq!(problems(&found), each(true), "{how}");
        pulled.assert_healthy();
        rootfs(&pulled).assert_same(&before, how);

        // The next use notices it as well.
        cut(images.last().unwrap(), how);
        pulled.dist.ok(&["pull", &pulled.reference]);
        pulled.assert_healthy();
        rootfs(&pulled).assert_same(&before, how);
    }
}

#[test]
fn an_image_that_the_kernel_refuses_is_told_as_damage() {
    let _timed = timed("fsck");
    let pulled = Pulled::new("erofs");
    let image = pulled.trees("erofs")[0].parent().unwrap().with_extension("erofs");
    let mut bytes = fs_err::read(&image).unwrap();
    // The superblock asks for what no kernel knows.
    bytes[1024 + 83] = 0x80;
    rewrite(&image, &bytes);
    let chain = chain_of(&pulled.dist, &pulled.image.digest());
    let said = pulled.dist.run(&["rootfs", "prepare", "--view", &chain, "refused"]).exit(8);
    said.says("dist fsck --repair").says(image.to_str().unwrap());
}
