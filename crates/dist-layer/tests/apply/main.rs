//! Layers onto directories: what ends up on the disk.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/archive.rs"]
mod archive;
mod ends;
mod hostile;
#[path = "../support/image.rs"]
mod image;
#[path = "../support/tree.rs"]
mod tree;
mod whiteouts;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use archive::{Item, archive, device, dir, file, hard_link, item, symlink};
use dist_core::LayerForm;
use image::Image;
use tree::{STACKED, apply, assert_same, require_root};

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

/// Unpacks layers in every way, compares overlayfs's views of directories and of images with the
/// merged tree; returns that.
fn both_forms(layers: &[Vec<u8>]) -> tree::Tree {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let merged = temp.path().join("merged");
    let mut stacked: Vec<PathBuf> = Vec::new();
    let mut images: Vec<Image> = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        apply(LayerForm::Merged, layer, &merged).unwrap();
        let dir = temp.path().join(at.to_string());
        let applied = apply(STACKED, layer, &dir).unwrap();
        dist_layer::inherit_dirs(&dir, &stacked, &applied.implicit_dirs).unwrap();
        stacked.insert(0, dir);
        images.insert(0, Image::above(layer, &temp.path().join(format!("image {at}")), &images));
    }
    let overlay = Overlay::new(&temp.path().join("overlay"), &stacked);
    let mounted: Vec<PathBuf> = images.iter().map(|image| image.at.clone()).collect();
    let of_images = Overlay::new(&temp.path().join("of images"), &mounted);
    let (mut seen, mut merged) = (tree::read(&overlay.0), tree::read(&merged));
    assert_same(&seen, &tree::read(&of_images.0));
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
fn a_merged_root_without_an_entry_keeps_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let target = temp.path().join("t");
    apply(LayerForm::Merged, &archive(&[dir("./").mtime(17), file("a", "1")]), &target).unwrap();
    apply(LayerForm::Merged, &archive(&[file("b", "2"), file(".wh.a", "")]), &target).unwrap();
    assert_eq!(tree::read(&target)[Path::new("")].mtime, (17, 0));
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
