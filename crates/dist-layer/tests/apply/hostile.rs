//! Layers that lead outside, or try to.

use std::os::unix::fs::symlink as fs_symlink;
use std::path::Path;

use dist_core::{ErrorKind, LayerForm};
use rustix::fs::{FileType, Mode, makedev};

use crate::archive::{archive, device, dir, file, hard_link, symlink};
use crate::kind;
use crate::tree::{self, STACKED, apply, chain, require_root};

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
