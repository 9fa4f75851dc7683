//! Layers onto directories: what ends up on the disk.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/tree.rs"]
mod tree;

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink as fs_symlink};
use std::path::{Path, PathBuf};

use archive::{Item, archive, device, dir, file, hard_link, item, symlink};
use dist_core::{Cancel, ErrorKind, LayerForm};
use rustix::fs::{FileType, Mode, makedev};
use tree::{STACKED, apply, assert_same, chain, require_root};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// A mount that ends with the test.
struct Overlay(PathBuf);

impl Overlay {
    /// Shows directories, nearest first, as one.
    fn new(at: &Path, layers: &[PathBuf]) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let empty = at.with_extension("empty");
        std::fs::create_dir_all(&empty).unwrap();
        let mut lower: Vec<&str> = layers.iter().map(|path| path.to_str().unwrap()).collect();
        lower.push(empty.to_str().unwrap());
        let options = std::ffi::CString::new(format!("lowerdir={}", lower.join(":"))).unwrap();
        let flags = rustix::mount::MountFlags::RDONLY;
        rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// Unpacks layers both ways, compares overlayfs's view of the one with the other; returns it.
fn both_forms(layers: &[Vec<u8>]) -> tree::Tree {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let merged = temp.path().join("merged");
    let mut stacked: Vec<PathBuf> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        apply(LayerForm::Merged, layer, &merged).unwrap();
        let dir = temp.path().join(at.to_string());
        let applied = apply(STACKED, layer, &dir).unwrap();
        dist_layer::inherit_dirs(&dir, &stacked, &applied.implicit_dirs).unwrap();
        stacked.insert(0, dir);
    }
    let overlay = Overlay::new(&temp.path().join("overlay"), &stacked);
    let (mut seen, mut merged) = (tree::read(&overlay.0), tree::read(&merged));
    // The root of a merged tree without an entry of its own is the caller's.
    for tree in [&mut seen, &mut merged] {
        tree.remove(Path::new(""));
    }
    assert_same(&merged, &seen);
    merged
}

fn kind<'a>(tree: &'a tree::Tree, path: &str) -> Option<&'a str> {
    tree.get(Path::new(path)).map(|node| node.kind.as_str())
}

fn paths(tree: &tree::Tree) -> Vec<&str> {
    tree.keys().map(|path| path.to_str().unwrap()).collect()
}

#[test]
fn attributes_are_exact() {
    require_root();
    let layer = archive(&[
        dir("./").mode(0o700).owner(5, 6).mtime(1000),
        dir("sticky").mode(0o1777).mtime(2000),
        dir("group").mode(0o2775).owner(0, 8).mtime(3000),
        file("group/f", "1").mode(0o664),
        dir("group/d"),
        file("su", "x").mode(0o6755).owner(1, 2).pax("mtime", "1700000000.123456789"),
        file("old", "x").pax("mtime", "-1.5"),
        file("cap", "x")
            .mode(0o755)
            .owner(9, 9)
            .pax("SCHILY.xattr.security.capability", CAPABILITY),
        file("wide", "x").mode(0o666).pax("SCHILY.xattr.user.a", "b"),
        symlink("l", "/nowhere").owner(3, 4).mtime(4000),
        item("p", b'6').mode(0o666),
        device("null", b'3', (1, 3)).mode(0o666).owner(0, 5),
        dir("sticky/late").mtime(5000),
        dir("none").mode(0),
        file("none/x", "1"),
        file("a/b/c", "implicit"),
    ]);
    let temp = tempfile::tempdir().unwrap();
    for (name, form) in [("m", LayerForm::Merged), ("s", STACKED)] {
        let target = temp.path().join(name);
        let applied = apply(form, &layer, &target).unwrap();
        assert_eq!(applied.diff_id.0, dist_core::Digest::sha256(&layer));
        assert_eq!(applied.size, layer.len() as u64);
        assert_eq!(applied.implicit_dirs, [b"a".to_vec(), b"a/b".to_vec()]);
        assert_eq!(applied.warnings, []);
        let tree = tree::read(&target);
        let node = |path: &str| {
            let node = &tree[Path::new(path)];
            (node.mode, node.owner, node.mtime)
        };
        let default = (1_000_000_000, 0);
        assert_eq!(node(""), (0o700, (5, 6), (1000, 0)));
        assert_eq!(node("sticky"), (0o1777, (0, 0), (2000, 0)));
        assert_eq!(node("group"), (0o2775, (0, 8), (3000, 0)));
        assert_eq!(node("group/f"), (0o664, (0, 0), default));
        assert_eq!(node("group/d"), (0o755, (0, 0), default));
        assert_eq!(node("su"), (0o6755, (1, 2), (1_700_000_000, 123_456_789)));
        assert_eq!(node("old").2, (-2, 500_000_000));
        assert_eq!(node("wide").0, 0o666);
        assert_eq!(node("l"), (0o777, (3, 4), (4000, 0)));
        assert_eq!(node("p").0, 0o666);
        assert_eq!(node("null"), (0o666, (0, 5), default));
        assert_eq!(kind(&tree, "null"), Some("char 103"));
        assert_eq!(node("sticky/late").2, (5000, 0));
        assert_eq!(node("none").0, 0);
        assert_eq!(node("a/b"), (0o755, (0, 0), (0, 0)));
        let capability = &tree[Path::new("cap")].xattrs[b"security.capability".as_slice()];
        assert_eq!(capability, CAPABILITY);
        assert_eq!(tree[Path::new("wide")].xattrs[b"user.a".as_slice()], b"b");
    }
}

#[test]
fn setgid_of_the_target_is_not_inherited() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir(&target).unwrap();
    std::os::unix::fs::chown(&target, Some(0), Some(77)).unwrap();
    std::fs::set_permissions(&target, PermissionsExt::from_mode(0o2755)).unwrap();
    apply(LayerForm::Merged, &archive(&[file("f", "1"), dir("d"), file("d/x", "")]), &target)
        .unwrap();
    let tree = tree::read(&target);
    for path in ["f", "d", "d/x"] {
        assert_eq!(tree[Path::new(path)].owner, (0, 0), "{path}");
    }
    assert_eq!(tree[Path::new("d")].mode, 0o755);
}

#[test]
fn whiteouts_and_opaque_directories() {
    let lower = archive(&[
        file("a", "old"),
        dir("q").mode(0o700),
        file("q/old", "1"),
        dir("q/sub"),
        file("q/sub/x", "1"),
        dir("gone"),
        file("gone/x", "1"),
        dir("kept").mode(0o750).owner(7, 8).mtime(77),
        file("kept/low", "1"),
        dir("r"),
        file("r/low", "1"),
        dir("w"),
        file("w/low", "1"),
        dir("v"),
        file("v/low", "1"),
    ]);
    for late in [false, true] {
        let mut marks = vec![
            file(".wh.a", ""),
            file("q/.wh..wh..opq", ""),
            file(".wh.gone", ""),
            file(".wh.never", ""),
            file(".wh.w", ""),
            file(".wh.v", ""),
        ];
        let mut own = vec![
            dir("q").mode(0o701),
            file("q/new", "2"),
            file("kept/new", "2"), // no entry for `kept`
            dir("w"),
            file("w/new", "2"),
            file("v/new", "2"), // no entry for `v`
            file("r", "now a file"),
        ];
        let upper = if late {
            own.append(&mut marks);
            archive(&own)
        } else {
            marks.append(&mut own);
            archive(&marks)
        };
        let tree = both_forms(&[lower.clone(), upper]);
        assert_eq!(
            paths(&tree),
            ["kept", "kept/low", "kept/new", "q", "q/new", "r", "v", "v/new", "w", "w/new"]
        );
        let kept = &tree[Path::new("kept")];
        assert_eq!((kept.mode, kept.owner, kept.mtime), (0o750, (7, 8), (77, 0)));
        assert_eq!(tree[Path::new("q")].mode, 0o701);
    }
}

#[test]
fn an_entry_of_the_same_layer_outlives_its_whiteout() {
    for items in [[file("a", "keep"), file(".wh.a", "")], [file(".wh.a", ""), file("a", "keep")]] {
        let tree = both_forms(&[archive(&[file("a", "low")]), archive(&items)]);
        assert_eq!(paths(&tree), ["a"]);
        assert!(kind(&tree, "a").unwrap().starts_with("file 4 "));
    }
}

#[test]
fn opaque_root() {
    let low = archive(&[file("old", "1"), dir("d"), file("d/x", "1")]);
    let tree = both_forms(&[low, archive(&[file(".wh..wh..opq", ""), file("d/new", "1")])]);
    assert_eq!(paths(&tree), ["d", "d/new"]);
}

#[test]
fn a_layer_never_sees_the_ones_below() {
    let low = archive(&[
        dir("run"),
        dir("var"),
        symlink("var/run", "/run"),
        symlink("lib", "usr/lib"),
        dir("usr"),
        dir("usr/lib"),
        file("plain", "1"),
        symlink("out", "/etc"),
    ]);
    let up = archive(&[
        file("var/run/x", "1"),
        dir("lib").mode(0o711),
        file("plain/below", "1"),
        file("out/x", "1"),
    ]);
    let tree = both_forms(&[low, up]);
    assert_eq!(kind(&tree, "var/run"), Some("dir"));
    assert_eq!(kind(&tree, "lib"), Some("dir"));
    assert_eq!(kind(&tree, "plain"), Some("dir"));
    assert_eq!(kind(&tree, "out"), Some("dir"));
    assert_eq!(kind(&tree, "run/x"), None);
    assert!(!Path::new("/etc/x").exists());
}

#[test]
fn directories_merge() {
    let low = archive(&[
        dir("d").mode(0o755).owner(1, 1).mtime(1).pax("SCHILY.xattr.user.low", "1"),
        file("d/a", "1"),
        dir("d/e").mtime(2),
        file("d/e/x", "1"),
        file("f", "1"),
        hard_link("g", "f"),
    ]);
    let up = archive(&[
        dir("d").mode(0o2711).owner(2, 2).mtime(3).pax("SCHILY.xattr.user.up", "2"),
        file("d/b", "2"),
        dir("d/n/m"),
        file("f", "22"),
    ]);
    let tree = both_forms(&[low, up]);
    let d = &tree[Path::new("d")];
    assert_eq!((d.mode, d.owner, d.mtime), (0o2711, (2, 2), (3, 0)));
    assert_eq!(d.xattrs.keys().collect::<Vec<_>>(), [b"user.up".as_slice()]);
    assert_eq!(tree[Path::new("d/e")].mtime, (2, 0));
    assert!(kind(&tree, "g").unwrap().starts_with("file 1 "));
    assert!(kind(&tree, "f").unwrap().starts_with("file 2 "));
}

#[test]
fn symlinks_of_the_layer_lead_inside() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let out = outside.to_str().unwrap();
    let layer = archive(&[
        symlink("abs", out),
        file("abs/x", "1"),
        symlink("up", "../../../../../../.."),
        file("up/y", "1"),
        symlink("p", "/proc/self/cwd"),
        file("p/z", "1"),
        dir("a"),
        dir("a/b"),
        symlink("a/b/c", "../../d"),
        dir("d"),
        file("a/b/c/w", "1"),
    ]);
    for (name, form) in [("m", LayerForm::Merged), ("s", STACKED)] {
        let target = temp.path().join(name);
        apply(form, &layer, &target).unwrap();
        assert_eq!(outside.read_dir().unwrap().count(), 0);
        assert!(target.join(out.trim_start_matches('/')).join("x").exists());
        assert!(target.join("y").exists() && target.join("proc/self/cwd/z").exists());
        assert!(target.join("d/w").exists());
    }
}

#[test]
fn unsafe_layers_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let unsafe_ = [
        vec![file("../x", "1")],
        vec![file("a/../../x", "1")],
        vec![symlink(".", "/")],
        vec![file("./", "1").pax("path", ".")],
        vec![file(".wh...", "")],
        vec![hard_link("h", "../x")],
        vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "1")],
    ];
    let corrupt = [
        vec![hard_link("h", "/etc/passwd")],
        vec![symlink("l", "/etc"), hard_link("h", "l/passwd")],
        vec![hard_link("h", "h")],
        vec![dir("d"), hard_link("h", "d")],
        vec![file("a", "1"), hard_link("a", "a")],
        vec![hard_link("h", "")],
        vec![symlink("s", "")],
        vec![file("a", "1"), file("a/b", "1")],
        vec![file(".wh.", "")],
        vec![file(".wh.a/b", "")],
        vec![dir(".wh.a")],
        vec![file("n".repeat(100), "").pax("path", "n".repeat(300))],
        vec![file(".wh.a", ""), hard_link("h", "a")],
    ];
    let cases = unsafe_.iter().map(|items| (items, ErrorKind::UnsafeLayer));
    let cases = cases.chain(corrupt.iter().map(|items| (items, ErrorKind::Corrupt)));
    for (number, (items, expected)) in cases.enumerate() {
        for (name, form) in [("m", LayerForm::Merged), ("s", STACKED)] {
            let target = temp.path().join(format!("{name}{number}"));
            // Something below, so that a merged layer is merged.
            std::fs::create_dir(&target).unwrap();
            std::fs::write(target.join("low"), "").unwrap();
            let error = apply(form, &archive(items), &target).unwrap_err();
            assert_eq!(error.kind(), expected, "{number}: {}", chain(&error));
            let name = items.last().unwrap().pax.first().map(|_| "").unwrap_or("at byte");
            assert!(chain(&error).contains(name), "{}", chain(&error));
            if form == LayerForm::Merged {
                assert_eq!(target.read_dir().unwrap().count(), 1, "the staging directory is gone");
            }
        }
    }
}

#[test]
fn later_entries_of_a_name_win() {
    let temp = tempfile::tempdir().unwrap();
    let victim = temp.path().join("victim");
    std::fs::write(&victim, "canary").unwrap();
    let layer = archive(&[
        symlink("l", victim.to_str().unwrap()),
        file("l", "1"),
        symlink("m", temp.path().to_str().unwrap()),
        dir("m").mode(0o711),
        item("p", b'6'),
        file("p", "2"),
        dir("d").mtime(5),
        file("d/x", "1"),
        file("d", "3"),
        file("a", "1"),
        hard_link("b", "a"),
        file("b", "4"),
        dir("e").mode(0o700),
        dir("e").mode(0o500).mtime(9),
        dir("f"),
        dir("f/g").mtime(3),
        symlink("f", "e"),
        dir("f").mtime(6),
    ]);
    for (name, form) in [("t/m", LayerForm::Merged), ("t/s", STACKED)] {
        let target = temp.path().join(name);
        let applied = apply(form, &layer, &target).unwrap();
        let tree = tree::read(&target);
        for (path, size) in [("l", 1), ("p", 1), ("d", 1), ("a", 1), ("b", 1)] {
            assert!(kind(&tree, path).unwrap().starts_with(&format!("file {size} ")), "{path}");
        }
        assert_eq!(tree[Path::new("m")].mode, 0o711);
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "canary");
        assert_eq!(std::fs::metadata(&victim).unwrap().nlink(), 1);
        assert_eq!((tree[Path::new("e")].mode, tree[Path::new("e")].mtime.0), (0o500, 9));
        assert_eq!(tree[Path::new("f")].mtime.0, 6);
        assert_eq!(kind(&tree, "f/g"), None);
        assert!(applied.implicit_dirs.iter().all(Vec::is_empty));
    }
}

#[test]
fn sparse_files_keep_their_holes() {
    let temp = tempfile::tempdir().unwrap();
    let size = 3u64 << 30;
    let map = format!("2\n0\n4\n{}\n4\n", size - 4);
    let mut body = archive::padded(map.as_bytes());
    body.extend(b"headtail");
    let layer = archive(&[
        Item { body, ..file("x", "") }
            .pax("GNU.sparse.major", "1")
            .pax("GNU.sparse.minor", "0")
            .pax("GNU.sparse.name", "sp")
            .pax("GNU.sparse.realsize", size.to_string()),
        file("after", "1"),
    ]);
    apply(STACKED, &layer, temp.path()).unwrap();
    let meta = temp.path().join("sp").metadata().unwrap();
    assert_eq!(meta.len(), size);
    assert!(meta.blocks() * 512 < 1 << 20);
    assert!(temp.path().join("after").exists());
}

#[test]
fn storage_private_attributes_are_dropped() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let mut item = dir("q");
    for key in [
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "user.fuseoverlayfs.x",
        "user.containers.y",
    ] {
        item = item.pax(&format!("SCHILY.xattr.{key}"), "y");
    }
    item = item.pax("SCHILY.xattr.user.mine", "1");
    let layer = archive(&[item, device("secret", b'3', (0, 0))]);
    let applied = apply(STACKED, &layer, temp.path()).unwrap();
    let warnings: Vec<_> = applied.warnings.iter().map(|w| (w.what, w.count)).collect();
    assert_eq!(
        warnings,
        [("extended attribute of a storage driver dropped", 4), ("device 0:0 not created", 1)]
    );
    let tree = tree::read(temp.path());
    assert_eq!(tree[Path::new("q")].xattrs.keys().collect::<Vec<_>>(), [b"user.mine".as_slice()]);
    assert_eq!(kind(&tree, "secret"), None);
}

#[test]
fn more_links_than_the_file_system_takes() {
    let temp = tempfile::tempdir().unwrap();
    let mut items = vec![file("f", "content").mode(0o4711).mtime(7)];
    items.extend((0..65_100).map(|number| hard_link(format!("d/{number}"), "f")));
    apply(STACKED, &archive(&items), temp.path()).unwrap();
    let last = temp.path().join("d/65099");
    assert_eq!(std::fs::read_to_string(&last).unwrap(), "content");
    let meta = last.metadata().unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o4711, 7));
}

#[test]
fn deep_and_long_paths() {
    let temp = tempfile::tempdir().unwrap();
    let deep = ["deep".repeat(5).as_str(); 300].join("/");
    let long = [&*"c".repeat(200); 30].join("/");
    let layer = archive(&[
        file("x", "1").pax("path", &deep),
        file("x", "2").pax("path", &long),
        file("x", "3").pax("path", format!("{deep}2")),
    ]);
    for (name, form) in [("s", STACKED), ("m", LayerForm::Merged), ("m", LayerForm::Merged)] {
        let applied = apply(form, &layer, &temp.path().join(name)).unwrap();
        assert_eq!(
            applied.implicit_dirs.len() >= 328,
            name == "s" || !applied.implicit_dirs.is_empty()
        );
    }
    // An opaque root makes the second layer remove all of the first.
    apply(LayerForm::Merged, &archive(&[file(".wh..wh..opq", "")]), &temp.path().join("m"))
        .unwrap();
    assert_eq!(temp.path().join("m").read_dir().unwrap().count(), 0);
    apply(
        LayerForm::Merged,
        &archive(&[file(format!(".wh.{}", "deep".repeat(5)), ""), file(".wh.c", "")]),
        &temp.path().join("s"),
    )
    .unwrap();
    assert!(!temp.path().join("s").join("deep".repeat(5)).exists());
}

#[test]
fn an_ordinary_user_gets_warnings() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let target = temp.path().join("t");
    let layer = archive(&[
        dir("ro").mode(0o555).owner(1, 1),
        file("ro/x", "1").mode(0o400).owner(1, 1).pax("SCHILY.xattr.user.a", "1"),
        dir("np").mode(0),
        file("np/x", "1"),
        device("null", b'3', (1, 3)),
        file("cap", "").pax("SCHILY.xattr.security.capability", CAPABILITY),
    ]);
    let again = archive(&[file("ro/y", "1"), file(".wh.np", "")]);
    // Credentials belong to threads; this one stays an ordinary user and ends.
    let warnings = std::thread::spawn({
        let target = target.clone();
        move || {
            rustix::thread::set_thread_groups(&[]).unwrap();
            let nobody = rustix::fs::Gid::from_raw(65534);
            rustix::thread::set_thread_res_gid(nobody, nobody, nobody).unwrap();
            let nobody = rustix::fs::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let first = apply(LayerForm::Merged, &layer, &target).unwrap().warnings;
            apply(LayerForm::Merged, &again, &target).unwrap();
            first
        }
    })
    .join()
    .unwrap();
    let mut warnings: Vec<_> = warnings.iter().map(|w| (w.what, w.count)).collect();
    warnings.sort_unstable();
    assert_eq!(
        warnings,
        [("device not created", 1), ("extended attribute not set", 1), ("owner not set", 5)]
    );
    let tree = tree::read(&target);
    assert_eq!(paths(&tree), ["", "cap", "ro", "ro/x", "ro/y"]);
    assert_eq!(tree[Path::new("ro")].mode, 0o555);
    assert_eq!(tree[Path::new("ro/x")].mode, 0o400);
}

#[test]
fn a_raised_flag_stops_it() {
    let temp = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let layer = archive(&[file("a", "1")]);
    let applier = dist_layer::LayerApplier::new(dist_layer::ApplyOptions::new(STACKED));
    let error = dist_core::Applier::apply(
        &applier,
        &tree::descriptor(dist_core::Compression::None),
        &mut &*layer,
        &[tree::bind(temp.path())],
        &cancel,
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
}

#[test]
fn a_full_disk_is_a_storage_error_with_its_path() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let options = c"size=256k,nr_inodes=100";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", flags, options).unwrap();
    let results = [
        apply(STACKED, &archive(&[file("big", vec![7; 1 << 20])]), &temp.path().join("a")),
        apply(
            STACKED,
            &archive(&(0..200).map(|n| file(format!("f{n}"), "")).collect::<Vec<_>>()),
            &temp.path().join("b"),
        ),
    ];
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    for (result, name) in results.into_iter().zip(["/a/big", "/b/f"]) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        let text = chain(&error);
        assert!(text.contains(name) && text.contains("No space left"), "{text}");
    }
}

#[test]
fn inherited_attributes_stop_where_a_layer_hides() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let layers = [
        archive(&[
            dir("a").mode(0o711).owner(1, 1).mtime(1),
            dir("a/b").mode(0o712).owner(2, 2).mtime(2).pax("SCHILY.xattr.user.k", "v"),
            dir("c").mode(0o713).mtime(3),
            dir("c/d").mode(0o714).mtime(4),
            dir("e").mode(0o715).mtime(5),
        ]),
        archive(&[dir("c").mode(0o716).mtime(6), file("c/.wh..wh..opq", ""), file("e", "hidden")]),
        archive(&[file("a/b/x", "1"), file("c/d/x", "1"), file("e/x", "1"), file("n/x", "1")]),
    ];
    let mut parents: Vec<PathBuf> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        let target = temp.path().join(at.to_string());
        let applied = apply(STACKED, layer, &target).unwrap();
        dist_layer::inherit_dirs(&target, &parents, &applied.implicit_dirs).unwrap();
        parents.insert(0, target);
    }
    let tree = tree::read(&parents[0]);
    let node = |path: &str| {
        let node = &tree[Path::new(path)];
        (node.mode, node.owner, node.mtime.0)
    };
    assert_eq!(node("a"), (0o711, (1, 1), 1));
    assert_eq!(node("a/b"), (0o712, (2, 2), 2));
    assert_eq!(tree[Path::new("a/b")].xattrs[b"user.k".as_slice()], b"v");
    assert_eq!(node("c"), (0o716, (0, 0), 6));
    for path in ["c/d", "e", "n"] {
        assert_eq!(node(path), (0o755, (0, 0), 0), "{path}");
    }
}

#[test]
fn what_stands_in_the_way_is_not_followed() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("victim"), "canary").unwrap();
    let target = temp.path().join("t");
    std::fs::create_dir(&target).unwrap();
    fs_symlink(&outside, target.join("d")).unwrap();
    fs_symlink(outside.join("victim"), target.join("f")).unwrap();
    let kind = FileType::Fifo;
    let at = rustix::fs::CWD;
    rustix::fs::mknodat(at, target.join("p"), kind, Mode::RWXU, makedev(0, 0)).unwrap();
    let layer = archive(&[
        file("d/victim", "evil"),
        file("d/.wh..wh..opq", ""),
        file("f", "new"),
        file("p", "new"),
    ]);
    apply(LayerForm::Merged, &layer, &target).unwrap();
    assert_eq!(std::fs::read_to_string(outside.join("victim")).unwrap(), "canary");
    assert_eq!(std::fs::read_to_string(target.join("d/victim")).unwrap(), "evil");
    assert_eq!(std::fs::read_to_string(target.join("f")).unwrap(), "new");
    assert!(target.join("p").metadata().unwrap().is_file());
}
