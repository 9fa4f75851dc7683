//! What layers hide of those below them, and what they inherit.

use std::path::{Path, PathBuf};

use crate::archive::{archive, dir, file, hard_link, symlink};
use crate::tree::{self, STACKED, apply, require_root};
use crate::{both_forms, kind, paths};

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
