//! Images against the trees that the same layers unpack to, as Linux shows both.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/image.rs"]
mod image;
#[path = "support/tree.rs"]
mod tree;

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use archive::{Item, archive, device, dir, file, hard_link, item, symlink};
use dist_layer::erofs_tar;
use image::{Image, write};
use rustix::mount::MountFlags;
use tree::{STACKED, apply, assert_same, chain, require_root};

/// Makes an image of a layer and looks at it in every way there is.
fn check(layer: &[u8]) {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let image = Image::new(layer, temp.path());
    let unpacked = temp.path().join("unpacked");
    let applied = apply(STACKED, layer, &unpacked).unwrap();
    assert_same(&tree::read(&unpacked), &tree::read(&image.at));
    assert_eq!((applied.diff_id, applied.size), (image.applied.diff_id, image.applied.size));
    let mut implicit = [applied.implicit_dirs, image.applied.implicit_dirs.clone()];
    implicit.iter_mut().for_each(|dirs| dirs.sort());
    assert_eq!(implicit[0], implicit[1]);
    assert_eq!(applied.warnings, image.applied.warnings);
    // That of Debian 12 knows blocks of one size only, so a newer one has to be named.
    if let Some(fsck) = std::env::var_os("FSCK_EROFS") {
        let fsck = Command::new(fsck).arg("--extract").arg(&image.file).output().unwrap();
        assert!(fsck.status.success(), "{}", String::from_utf8_lossy(&fsck.stderr));
    }
    let mut tar = Vec::new();
    let file = File::open(&image.file).unwrap();
    erofs_tar(file).unwrap().read_to_end(&mut tar).unwrap();
    assert!(tar == layer, "the tar is not what it was");
    let again = temp.path().join("again");
    write(layer, &again).unwrap();
    assert!(std::fs::read(&again).unwrap() == std::fs::read(&image.file).unwrap());
}

#[test]
fn every_kind_of_entry() {
    check(&archive(&[
        dir("./").mode(0o711).owner(1, 2).mtime(5),
        dir("d").mode(0o1777).owner(1000, 100_000).mtime(4_000_000_000),
        file("d/setuid", "x").mode(0o6755).owner(70_000, 3_000_000_000),
        file("d/empty", ""),
        file("d/block", vec![b'b'; 512]),
        file("d/big", vec![b'c'; 300_001]),
        file("d/time", "x").pax("mtime", "1700000000.123456789"),
        file("d/before", "x").pax("mtime", "-12.25"),
        symlink("link", "d/big"),
        hard_link("d/other", "d/big"),
        hard_link("third", "d/other"),
        hard_link("link-too", "link"),
        device("null", b'3', (1, 3)).mode(0o666),
        device("far", b'3', (300, 70_000)),
        device("disk", b'4', (8, 1)),
        item("fifo", b'6'),
        file("implicit/deep/file", "x"),
        file("attributes", "x")
            .pax("SCHILY.xattr.user.one", "1")
            .pax("SCHILY.xattr.user.empty", "")
            .pax(
                "SCHILY.xattr.security.capability",
                [1, 0, 0, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            )
            .pax("SCHILY.xattr.trusted.big", vec![b'v'; 2000]),
        dir("dir-attributes").pax("SCHILY.xattr.user.two", "22"),
    ]));
}

#[test]
fn whiteouts_and_what_replaces_what() {
    check(&archive(&[
        file("a/.wh.gone", "").mtime(77),
        file("a/.wh..wh..opq", ""),
        file(".wh.b", ""),
        file("b/under", "hidden below"),
        file(".wh.c", ""),
        dir("c"),
        dir("d"),
        file("d/x", ""),
        file(".wh.d", ""),
        file("e", ""),
        file(".wh.e", ""),
        file("f", "first"),
        file("f", "second"),
        dir("g"),
        file("g/inside", ""),
        symlink("g", "a"),
        file("g/through", "lands in a"),
        file("h", "x"),
        hard_link("h2", "h"),
        file("h", "another"),
        dir("i").mode(0o700),
        dir("i").mode(0o755).pax("SCHILY.xattr.user.late", "1"),
        symlink("up", "../../a"),
        file("up/over", "also in a"),
        file("k/l/m", "x"),
        file("k", "instead of a directory"),
        file("m/n/first", "has a name elsewhere"),
        hard_link("m-too", "m/n/first"),
        file("m/n/only", "goes"),
        file("m", "instead of both"),
        hard_link("m-three", "m-too"),
    ]));
}

fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

const ACCESS: &str = "SCHILY.xattr.system.posix_acl_access";
const DEFAULT: &str = "SCHILY.xattr.system.posix_acl_default";

/// What Linux makes of them when they are set is what an image has.
#[test]
fn acls_and_what_no_node_can_have() {
    let (owner, group, other) = ((1, 7, 0), (4, 5, 0), (32, 5, 0));
    let short = acl(&[owner, group, other]);
    let long = acl(&[owner, (2, 7, 1000), group, (8, 6, 7), (16, 5, 0), other]);
    check(&archive(&[
        file("junk", "x").pax(ACCESS, "junk"),
        file("one-entry", "x").pax(ACCESS, acl(&[owner])),
        file("old-version", "x").pax(ACCESS, [&[1, 0, 0, 0], &long[4..]].concat()),
        file("empty", "x").pax(ACCESS, acl(&[])),
        file("nothing", "x").pax(ACCESS, ""),
        file("short", "x").mode(0o640).pax(ACCESS, &short),
        file("contradicts", "x").mode(0o644).pax(ACCESS, &long),
        file("setgid", "x").mode(0o2770).pax(ACCESS, &long),
        file("no-directory", "x").pax(DEFAULT, &long),
        symlink("link", "short").pax(ACCESS, &long).pax("SCHILY.xattr.user.a", "b"),
        item("fifo", b'6').mode(0o620).pax(ACCESS, &long).pax("SCHILY.xattr.user.a", "b"),
        dir("d").mode(0o700).pax(ACCESS, &long).pax(DEFAULT, &long),
        file("d/inherits-nothing", "x").mode(0o666),
        dir("d/nor-this").mode(0o777),
        dir("short-default").pax(DEFAULT, &short),
        dir("empty-default").pax(DEFAULT, acl(&[])),
        dir("twice").mode(0o755).pax(ACCESS, &long),
        dir("twice").mode(0o500),
        dir("again").pax(DEFAULT, &long),
        dir("again/below").pax(DEFAULT, &long),
        file("again", "no directory"),
        dir("again/"),
        file("again/without", "x").mode(0o666),
        file("names", "x")
            .pax("SCHILY.xattr.user.", "x")
            .pax("SCHILY.xattr.other.a", "x")
            .pax(&format!("SCHILY.xattr.user.{}", "n".repeat(250)), "x")
            .pax(&format!("SCHILY.xattr.user.{}", "n".repeat(251)), "x"),
        file("values", "x").pax("SCHILY.xattr.trusted.a", vec![b'v'; 65536]),
    ]));
    let temp = tempfile::tempdir().unwrap();
    let capability = file("a", "x").pax("SCHILY.xattr.security.capability", [1, 0, 0, 2, 0]);
    let layer = archive(&[capability]);
    let errors = [
        write(&layer, &temp.path().join("image")).unwrap_err(),
        apply(STACKED, &layer, &temp.path().join("tree")).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), dist_core::ErrorKind::Corrupt, "{}", chain(&error));
    }
}

/// Names and targets of every length, so that blocks are filled to their last byte and not.
#[test]
fn directories_and_symlinks_of_every_size() {
    let mut items = Vec::new();
    for count in 0..60 {
        let name = format!("few/{count}");
        items.push(dir(&name));
        items.extend((0..count).map(|at| file(format!("{name}/{at:0>w$}", w = 1 + count % 7), "")));
    }
    for length in (1..=255).step_by(3) {
        items.push(file(format!("names/{}", "n".repeat(length)), ""));
    }
    for length in (1..1100).step_by(7).chain([507, 511, 512, 513, 4095]) {
        let target = "t".repeat(length);
        let link = item(format!("links/{length}"), b'2').pax("linkpath", &target);
        items.push(Item { mode: 0o777, ..link.clone() });
        items.push(
            Item { name: format!("links/x{length}").into(), mode: 0o777, ..link }
                .pax("SCHILY.xattr.trusted.x", "v".repeat(length % 90)),
        );
    }
    for name in ["!", "-", "+x", ".hidden", "..more", "..", "~", "ä", "\u{1}"] {
        if name != ".." {
            items.push(file(format!("order/{name}"), ""));
        }
    }
    check(&archive(&items));
}

#[test]
fn twenty_thousand_names_in_one_directory() {
    let items: Vec<Item> =
        (0..20_000).map(|at| file(format!("d/{}", at * 7919 % 20_011), "")).collect();
    check(&archive(&items));
}

#[test]
fn ten_thousand_directories_take_what_they_are_from_below() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let name = |at: u32| format!("d/{}", at * 7919 % 10_007);
    let described = |at| dir(name(at)).mode(0o700 + at % 8).owner(at, 1).mtime(5);
    let mut below: Vec<Item> = (0..10_000).map(described).collect();
    let only_files: Vec<Item> = (0..10_000).map(|at| file(format!("{}/x", name(at)), "")).collect();
    let layers = [archive(&below), {
        // Attributes that need room in the image.
        below[7] = described(7).pax("SCHILY.xattr.user.k", "v");
        archive(&below)
    }];
    for (at, below) in layers.iter().enumerate() {
        let place = |name: &str| temp.path().join(format!("{name}{at}"));
        let images = [Image::new(below, &place("below"))];
        let image = Image::above(&archive(&only_files), &place("above"), &images);
        let (parent, target) = (place("parent"), place("target"));
        apply(STACKED, below, &parent).unwrap();
        let applied = apply(STACKED, &archive(&only_files), &target).unwrap();
        dist_layer::inherit_dirs(&target, &[parent], &applied.implicit_dirs).unwrap();
        let tree = tree::read(&image.at);
        assert_eq!(tree[Path::new(&name(7))].xattrs.len(), at);
        assert_eq!(tree[Path::new(&name(9999))].owner, (9999, 1));
        assert_same(&tree::read(&target), &tree);
    }
}

#[test]
fn a_name_that_is_taken_twenty_thousand_times() {
    let items: Vec<Item> = (0..20_000)
        .map(|at| if at % 3 == 1 { dir("same") } else { file("same", at.to_string()) })
        .collect();
    check(&archive(&items));
}

fn sparse(name: &str, size: u64, regions: &[(u64, Vec<u8>)]) -> Item {
    let mut map = format!("{}\n", regions.len());
    regions.iter().for_each(|(at, bytes)| map.push_str(&format!("{at}\n{}\n", bytes.len())));
    let mut body = archive::padded(map.as_bytes());
    regions.iter().for_each(|(_, bytes)| body.extend(bytes));
    Item { body, ..file("x", "") }
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", name)
        .pax("GNU.sparse.realsize", size.to_string())
}

#[test]
fn sparse_files_stay_sparse() {
    let bytes = |count: usize| (0..count).map(|at| (at % 251) as u8).collect::<Vec<u8>>();
    check(&archive(&[
        sparse("aligned", 1 << 20, &[(4096, bytes(4096)), (1 << 19, bytes(8192))]),
        sparse("to-the-end", 10_000, &[(512, bytes(512)), (9728, bytes(272))]),
        sparse("odd", 5_000_000, &[(1, bytes(3)), (700, bytes(1000)), (4_999_999, bytes(1))]),
        sparse("hole", 12_345, &[]),
        sparse("gone", 9000, &[(5, bytes(5))]),
        file("gone", "replaced"),
        file("after", "1"),
    ]));
    let temp = tempfile::tempdir().unwrap();
    let layer =
        archive(&[sparse("huge", 100 << 30, &[(0, bytes(4)), ((100 << 30) - 4, bytes(4))])]);
    let image = Image::new(&layer, temp.path());
    let huge = image.at.join("huge");
    assert_eq!(huge.metadata().unwrap().len(), 100 << 30);
    let mut end = [0; 6];
    std::os::unix::fs::FileExt::read_exact_at(
        &File::open(&huge).unwrap(),
        &mut end,
        (100 << 30) - 6,
    )
    .unwrap();
    assert_eq!(end, [0, 0, 0, 1, 2, 3]);
    let taken = std::os::unix::fs::MetadataExt::blocks(&image.file.metadata().unwrap()) * 512;
    assert!(taken < 1 << 20, "{taken} bytes");
}

#[test]
fn what_is_unpacked_nowhere_makes_no_image() {
    let temp = tempfile::tempdir().unwrap();
    for (name, layer) in [
        ("outside", archive(&[file("../x", "")])),
        ("below a file", archive(&[file("a", ""), file("a/b", "")])),
        ("link to nothing", archive(&[hard_link("a", "b")])),
        ("link to a directory", archive(&[dir("b"), hard_link("a", "b")])),
        ("link to itself", archive(&[file("a", ""), hard_link("a", "a")])),
        ("link to a whiteout", archive(&[file(".wh.a", ""), hard_link("b", "a")])),
        ("loop", archive(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "")])),
        ("long name", archive(&[file("x", "").pax("path", "n".repeat(256))])),
        ("long target", archive(&[item("x", b'2').pax("linkpath", "n".repeat(4096))])),
        ("root", archive(&[symlink(".", "x")])),
        ("cut off", archive(&[file("a", vec![1; 2000])])[..1500].to_vec()),
    ] {
        let path = temp.path().join(name);
        let error = write(&layer, &path).unwrap_err();
        let unpacked =
            apply(STACKED, &layer, &temp.path().join(format!("unpacked {name}"))).unwrap_err();
        assert_eq!(error.kind(), unpacked.kind(), "{name}: {}", chain(&error));
        let at = temp.path().join("at");
        std::fs::create_dir_all(&at).unwrap();
        let mounted = rustix::mount::mount(&path, &at, "erofs", MountFlags::RDONLY, None);
        assert!(mounted.is_err(), "{name} can be mounted");
    }
}
