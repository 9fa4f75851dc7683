//! Trees to layers and back.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod compression;
mod round_trip;
#[path = "../support/tree.rs"]
mod tree;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use dist_core::{Cancel, Diffed, Differ as _, ErrorKind, LayerForm, Mount, Result};
use dist_layer::{DiffOptions, LayerDiffer};
use rustix::fs::{AtFlags, CWD, Mode, Timespec, Timestamps, XattrFlags};
use tree::{apply, bind, require_root};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

fn diff(lower: &[Mount], upper: &[Mount]) -> Result<(Vec<u8>, Diffed)> {
    let mut bytes = Vec::new();
    let done = LayerDiffer::default().diff(lower, upper, &mut bytes, &Cancel::default())?;
    assert_eq!(done.diff_id.0, dist_core::Digest::sha256(&bytes));
    assert_eq!(done.size, bytes.len() as u64);
    Ok((bytes, done))
}

fn overlay(upper: &Path, lower: &Path, work: Option<&Path>) -> Mount {
    let mut options =
        vec![format!("upperdir={}", upper.display()), format!("lowerdir={}", lower.display())];
    options.extend(work.map(|work| format!("workdir={}", work.display())));
    Mount { fstype: "overlay".into(), source: "overlay".into(), target: None, options }
}

/// A tree, without the time of its root: whoever makes a tree sets that.
fn read(root: &Path) -> tree::Tree {
    let mut tree = tree::read(root);
    tree.get_mut(Path::new("")).unwrap().mtime = (0, 0);
    tree
}

/// A pair of directories whose only difference is made by the test.
struct Fixture {
    temp: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        require_root();
        let temp = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            std::fs::create_dir(temp.path().join(name)).unwrap();
        }
        Self { temp }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn diff(&self) -> Result<(Vec<u8>, Diffed)> {
        diff(&[bind(&self.path("a"))], &[bind(&self.path("b"))])
    }

    fn names(&self) -> Vec<String> {
        names(&self.diff().unwrap().0)
    }
}

fn names(bytes: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(bytes);
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| String::from_utf8_lossy(&entry.unwrap().path_bytes()).into_owned())
        .collect()
}

#[test]
fn entries_stand_in_order_and_only_for_what_differs() {
    let fixture = Fixture::new();
    for side in ["a", "b"] {
        std::fs::create_dir_all(fixture.path(side).join("kept/deep")).unwrap();
        std::fs::write(fixture.path(side).join("kept/deep/file"), b"same").unwrap();
        std::fs::write(fixture.path(side).join("kept/changed"), side).unwrap();
    }
    std::fs::create_dir(fixture.path("a").join("gone")).unwrap();
    std::fs::write(fixture.path("a").join("gone/inner"), b"").unwrap();
    std::fs::write(fixture.path("b").join("new"), b"").unwrap();
    let time = Timespec { tv_sec: 9, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    for name in ["a/kept/deep", "b/kept/deep", "a/kept/deep/file", "b/kept/deep/file"] {
        rustix::fs::utimensat(CWD, fixture.path(name), &times, AtFlags::empty()).unwrap();
    }
    assert_eq!(fixture.names(), [".wh.gone", "kept/", "kept/changed", "new"]);
}

#[test]
fn files_that_differ_in_nothing_but_their_bytes() {
    let fixture = Fixture::new();
    let time = Timespec { tv_sec: 9, tv_nsec: 7 };
    let times = Timestamps { last_access: time, last_modification: time };
    let long = |last: u8| [vec![0; 600_000], vec![last]].concat();
    for (side, last) in [("a", 1), ("b", 2)] {
        let path = fixture.path(side).join("file");
        std::fs::write(&path, long(last)).unwrap();
        rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
    }
    assert_eq!(fixture.names(), ["file"]);
    std::fs::write(fixture.path("b").join("file"), long(1)).unwrap();
    rustix::fs::utimensat(CWD, fixture.path("b").join("file"), &times, AtFlags::empty()).unwrap();
    assert!(fixture.names().is_empty());
}

#[test]
fn links_never_lead_out_of_the_tree() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    symlink(&outside, fixture.path("b").join("dir")).unwrap();
    symlink(outside.join("secret"), fixture.path("b").join("file")).unwrap();
    std::fs::create_dir(fixture.path("a").join("dir")).unwrap();
    std::fs::write(fixture.path("a").join("dir/secret"), b"").unwrap();
    let (bytes, _) = fixture.diff().unwrap();
    assert_eq!(names(&bytes), ["dir", "file"]);
    assert!(!bytes.windows(7).any(|bytes| bytes == b"secret\n"));
    let mut archive = tar::Archive::new(&bytes[..]);
    for entry in archive.entries().unwrap() {
        assert_eq!(entry.unwrap().header().entry_type(), tar::EntryType::Symlink);
    }
}

#[test]
fn names_that_would_be_whiteouts_are_refused() {
    for (side, name) in [("b", ".wh.x"), ("a", ".wh.x"), ("b", ".wh..wh..opq"), ("b", ".wh.d/f")] {
        let fixture = Fixture::new();
        let path = fixture.path(side).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"").unwrap();
        let error = fixture.diff().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{side}/{name}: {error:?}");
    }
}

#[test]
fn sockets_are_left_out_and_told() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("a").join("was-file"), b"").unwrap();
    for name in ["was-file", "socket"] {
        drop(std::os::unix::net::UnixListener::bind(fixture.path("b").join(name)).unwrap());
    }
    let (bytes, done) = fixture.diff().unwrap();
    assert_eq!(names(&bytes), [".wh.was-file"]);
    assert_eq!((done.warnings[0].what, done.warnings[0].count), ("socket left out", 2));
}

#[test]
fn the_epoch_of_a_source_bounds_times() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("b").join("new"), b"").unwrap();
    std::fs::write(fixture.path("b").join("old"), b"").unwrap();
    std::fs::write(fixture.path("a").join("gone"), b"").unwrap();
    let time = Timespec { tv_sec: 9, tv_nsec: 500_000_000 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, fixture.path("b").join("old"), &times, AtFlags::empty()).unwrap();
    let differ = LayerDiffer::new(DiffOptions { source_date_epoch: Some(1000) });
    let mut bytes = Vec::new();
    let (lower, upper) = (bind(&fixture.path("a")), bind(&fixture.path("b")));
    differ.diff(&[lower], &[upper], &mut bytes, &Cancel::default()).unwrap();
    apply(LayerForm::Merged, &bytes, &fixture.path("a")).unwrap();
    let tree = tree::read(&fixture.path("a"));
    assert_eq!(tree[Path::new("new")].mtime, (1000, 0));
    assert_eq!(tree[Path::new("old")].mtime, (9, 500_000_000));
    let mut archive = tar::Archive::new(&bytes[..]);
    let whiteout = archive.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(whiteout.header().mtime().unwrap(), 1000);
}

#[test]
fn a_raised_flag_ends_it() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("b").join("file"), b"").unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let mounts = [bind(&fixture.path("b"))];
    let error = LayerDiffer::default().diff(&[], &mounts, &mut Vec::new(), &cancel).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
}

#[test]
fn trees_deeper_than_paths_and_open_files_go() {
    let fixture = Fixture::new();
    let name = "d".repeat(200);
    for side in ["a", "b"] {
        let mut dir =
            rustix::fs::open(fixture.path(side), rustix::fs::OFlags::DIRECTORY, Mode::empty())
                .unwrap();
        for _ in 0..2000 {
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
            if side == "b" {
                rustix::fs::mkdirat(&dir, "z", Mode::RWXU).unwrap();
            }
            dir = rustix::fs::openat(&dir, &name, rustix::fs::OFlags::DIRECTORY, Mode::empty())
                .unwrap();
        }
    }
    let (bytes, _) = fixture.diff().unwrap();
    let count = bytes.windows(12).filter(|part| part == b"PaxHeaders.0").count();
    assert!(count > 3000, "{count}");
}

#[test]
fn marks_that_only_the_kernel_follows_are_refused() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("b").join("moved")).unwrap();
    let moved = fixture.path("b").join("moved");
    rustix::fs::setxattr(&moved, "trusted.overlay.redirect", b"/x", XattrFlags::empty()).unwrap();
    let stacked = overlay(&fixture.path("b"), &fixture.path("a"), None);
    let error = diff(&[bind(&fixture.path("a"))], &[stacked]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
}
