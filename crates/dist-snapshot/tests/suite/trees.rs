//! What is written into a snapshot is what its descendants show.

use std::os::unix::fs::{MetadataExt, chown};

use dist_core::{ErrorKind, SnapshotKind, Usage};

use crate::support::{Bench, Detail, chmod, fails, for_each_snapshotter, key, mkdir, tree, write};

for_each_snapshotter!(
    basic,
    view_is_read_only,
    commit_while_mounted,
    root_permission,
    root_attributes_are_inherited,
    removed_directory_comes_back_empty,
    owners_and_modes,
    deleted_and_moved_files,
    renames,
    usage,
    mounts_below_keep_a_snapshot,
);

fn basic(bench: &Bench) {
    let plain = bench.dir.path().join("plain");
    mkdir(&plain, 0o755);
    let initial = |root: &std::path::Path| {
        write(&root.join("foo"), "foo\n");
        mkdir(&root.join("a"), 0o755);
        mkdir(&root.join("a/b"), 0o755);
        mkdir(&root.join("a/b/c"), 0o755);
    };
    let change = |root: &std::path::Path| {
        write(&root.join("bar"), "bar\n");
        write(&root.join("foo"), "bar\n");
        std::fs::remove_dir_all(root.join("a/b")).unwrap();
    };
    bench.layer("committed", None, initial);
    initial(&plain);
    let next = bench.mount(&bench.prepare("next", Some("committed")));
    assert_eq!(tree(&next.target, Detail::Content), tree(&plain, Detail::Content));
    change(&next.target);
    change(&plain);
    drop(next);
    bench.commit("committed next", "next");
    assert_eq!(bench.tree("committed next", Detail::Content), tree(&plain, Detail::Content));
    fails(ErrorKind::FailedPrecondition, bench.remove("committed"));
    bench.remove("committed next").unwrap();
    bench.remove("committed").unwrap();
}

fn view_is_read_only(bench: &Bench) {
    bench.layer("one", None, |root| write(&root.join("file"), "1"));
    bench.layer("two", Some("one"), |_| ());
    for (view, parent) in [("v0", None), ("v1", Some("one")), ("v2", Some("two"))] {
        let mounts = bench.view(view, parent);
        assert!(mounts.iter().all(|mount| mount.writable_dir().is_none()));
        let mounted = bench.mount(&mounts);
        let error = std::fs::write(mounted.target.join("new"), b"x").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        drop(mounted);
        assert_eq!(bench.snapshotter.usage(&key(view)).unwrap(), Usage::default());
        bench.remove(view).unwrap();
    }
    let active = bench.prepare("a", Some("one"));
    assert!(active[0].writable_dir().unwrap().is_dir());
}

fn commit_while_mounted(bench: &Bench) {
    let mounted = bench.mount(&bench.prepare("active", None));
    write(&mounted.target.join("foo"), "foo\n");
    bench.commit("committed", "active");
    assert_eq!(bench.stat("committed").unwrap().kind, SnapshotKind::Committed);
    drop(mounted);
    assert_eq!(bench.tree("committed", Detail::Content).len(), 2);
}

fn root_permission(bench: &Bench) {
    let mounted = bench.mount(&bench.prepare("active", None));
    assert_eq!(std::fs::metadata(&mounted.target).unwrap().mode() & 0o7777, 0o755);
}

fn root_attributes_are_inherited(bench: &Bench) {
    bench.layer("base", None, |root| {
        chown(root, Some(1), Some(2)).unwrap();
        chmod(root, 0o1750);
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(root, "user.test", b"x", flags).unwrap();
    });
    let mounted = bench.mount(&bench.prepare("active", Some("base")));
    assert_eq!(tree(&mounted.target, Detail::All), bench.tree("base", Detail::All));
}

fn removed_directory_comes_back_empty(bench: &Bench) {
    bench.layer("one", None, |root| {
        mkdir(&root.join("dir/sub"), 0o700);
        write(&root.join("dir/file"), "1");
    });
    bench.layer("two", Some("one"), |root| std::fs::remove_dir_all(root.join("dir")).unwrap());
    bench.layer("three", Some("two"), |root| {
        mkdir(&root.join("dir"), 0o710);
        write(&root.join("dir/new"), "2");
    });
    assert_eq!(bench.tree("two", Detail::Content).len(), 1);
    let names: Vec<_> = bench.tree("three", Detail::Content).into_keys().collect();
    assert_eq!(names, ["", "dir", "dir/new"].map(std::path::PathBuf::from));
}

fn owners_and_modes(bench: &Bench) {
    bench.layer("one", None, |root| {
        mkdir(&root.join("dir"), 0o700);
        write(&root.join("dir/file"), "1");
    });
    bench.layer("two", Some("one"), |root| {
        chown(root.join("dir"), Some(1), Some(1)).unwrap();
        chown(root.join("dir/file"), Some(3), Some(4)).unwrap();
        chmod(&root.join("dir"), 0o2771);
        chmod(&root.join("dir/file"), 0o4711);
    });
    let two = bench.tree("two", Detail::Content);
    assert_eq!(two[std::path::Path::new("dir")], "42771 1:1");
    assert!(two[std::path::Path::new("dir/file")].starts_with("104711 3:4 1 "), "{two:?}");
    let one = bench.tree("one", Detail::Content);
    assert_eq!(one[std::path::Path::new("dir")], "40700 0:0");
}

fn deleted_and_moved_files(bench: &Bench) {
    bench.layer("one", None, |root| {
        mkdir(&root.join("dir1"), 0o700);
        write(&root.join("dir1/f1"), "Hello");
        mkdir(&root.join("dir2"), 0o700);
        write(&root.join("dir2/f2"), "...");
    });
    bench.layer("two", Some("one"), |root| {
        mkdir(&root.join("dir3"), 0o700);
        write(&root.join("dir3/f1"), "Hello");
        std::fs::remove_dir_all(root.join("dir1")).unwrap();
        std::fs::hard_link(root.join("dir2/f2"), root.join("dir3/f2")).unwrap();
        std::fs::remove_file(root.join("dir2/f2")).unwrap();
    });
    bench.layer("three", Some("two"), |_| ());
    let names: Vec<_> = bench.tree("three", Detail::Content).into_keys().collect();
    let expected = ["", "dir2", "dir3", "dir3/f1", "dir3/f2"].map(std::path::PathBuf::from);
    assert_eq!(names, expected);
    for update in 0..5 {
        let (name, parent) = (format!("u{update}"), format!("u{}", update - 1));
        let parent = if update == 0 { "three" } else { &parent };
        bench.layer(&name, Some(parent), |root| {
            write(&root.join("dir3/f1"), &format!("update {update}"));
        });
        let mounted = bench.mount(&bench.view("look", Some(&name)));
        let text = std::fs::read_to_string(mounted.target.join("dir3/f1")).unwrap();
        assert_eq!(text, format!("update {update}"));
        drop(mounted);
        bench.remove("look").unwrap();
    }
}

fn renames(bench: &Bench) {
    bench.layer("one", None, |root| {
        mkdir(&root.join("dir"), 0o755);
        write(&root.join("dir/a"), "a");
        write(&root.join("b"), "b");
    });
    bench.layer("two", Some("one"), |root| {
        std::fs::rename(root.join("dir/a"), root.join("c")).unwrap();
        std::fs::rename(root.join("b"), root.join("dir/a")).unwrap();
        mkdir(&root.join("new"), 0o755);
        std::fs::rename(root.join("new"), root.join("dir/new")).unwrap();
    });
    let names: Vec<_> = bench.tree("two", Detail::Content).into_keys().collect();
    assert_eq!(names, ["", "c", "dir", "dir/a", "dir/new"].map(std::path::PathBuf::from));
}

fn usage(bench: &Bench) {
    let bytes = vec![1; 1 << 20];
    let usage = |name: &str| bench.snapshotter.usage(&key(name)).unwrap();
    bench.prepare("active", None);
    let empty = usage("active");
    assert_eq!(empty.inodes, 1);
    let mounted = bench.mount(&bench.snapshotter.mounts(&key("active")).unwrap());
    std::fs::write(mounted.target.join("file"), &bytes).unwrap();
    std::fs::hard_link(mounted.target.join("file"), mounted.target.join("link")).unwrap();
    drop(mounted);
    let active = usage("active");
    assert_eq!(active.inodes, 2);
    assert!(active.bytes >= 1 << 20 && active.bytes < 3 << 19, "{active:?}");
    bench.commit("base", "active");
    bench.layer("top", Some("base"), |root| std::fs::write(root.join("new"), b"x").unwrap());
    match bench.name {
        "overlayfs" => {
            assert_eq!((usage("base"), usage("top").inodes), (active, 2));
            assert!(usage("top").bytes < 1 << 16);
        }
        "native" => assert_eq!((usage("base"), usage("top").inodes), (active, 3)),
        _ => {
            // An image each.
            assert_eq!((usage("base").inodes, usage("top").inodes), (1, 1));
            assert!(usage("base").bytes > 1 << 20 && usage("base").bytes < 3 << 19);
            assert!(usage("top").bytes < 1 << 16);
        }
    }
}

fn mounts_below_keep_a_snapshot(bench: &Bench) {
    bench.prepare("active", None);
    let [mount] = &bench.snapshotter.mounts(&key("active")).unwrap()[..] else { panic!() };
    let fs = mount.source.clone();
    bench.prepare("other", None);
    let other = bench.snapshotter.mounts(&key("other")).unwrap();
    dist_snapshot::mount::mount(&other, &fs).unwrap();
    let guard = crate::support::Mounted { target: fs };
    fails(ErrorKind::Busy, bench.remove("active"));
    fails(ErrorKind::Busy, bench.try_commit("name", "active", None));
    bench.stat("active").unwrap();
    drop(guard);
    bench.remove("active").unwrap();
}
