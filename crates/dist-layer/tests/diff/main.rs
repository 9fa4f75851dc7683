//! Trees to layers and back.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dist_core::{
    Applier, Cancel, Compression, Diffed, Differ, ErrorKind, LayerForm, Mount, Result,
};
use dist_layer::{ApplyOptions, Compressor, DiffOptions, LayerApplier, LayerDiffer};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use tree::{STACKED, apply, assert_same, bind, require_root};

const CAPABILITY: &[u8] = b"\x01\0\0\x02\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

#[derive(Clone, Debug)]
enum What {
    File(Vec<u8>),
    /// Another name for the first file of the tree.
    Link,
    Symlink(String),
    Dir,
    Device(u32),
    Fifo,
}

#[derive(Clone, Debug)]
struct Thing {
    what: What,
    mode: u32,
    owner: u32,
    mtime: (i64, u32),
    xattr: Option<Vec<u8>>,
}

type Plan = BTreeMap<Vec<u8>, Thing>;

fn thing() -> impl Strategy<Value = Thing> {
    let what = prop_oneof![
        4 => prop::collection::vec(0u8..2, 0..3).prop_map(What::File),
        1 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(What::File),
        2 => Just(What::Link),
        1 => "[ab/.]{1,110}".prop_map(What::Symlink),
        4 => Just(What::Dir),
        1 => (1u32..3).prop_map(What::Device),
        1 => Just(What::Fifo),
    ];
    let mode = prop_oneof![Just(0o644u32), Just(0o755), Just(0o4751)];
    let owner = prop_oneof![Just(0u32), Just(1000), Just(3_000_000)];
    let mtime = prop_oneof![
        4 => Just((1_000_000_000i64, 0u32)),
        1 => Just((1_000_000_000, 120_000_000)),
        1 => Just((-3, 250_000_000)),
    ];
    let xattr = prop::option::weighted(0.2, prop::collection::vec(any::<u8>(), 0..9));
    (what, mode, owner, mtime, xattr).prop_map(|(what, mode, owner, mtime, xattr)| Thing {
        what,
        mode,
        owner,
        mtime,
        xattr,
    })
}

/// Paths of few names, so that two trees have many in common.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        6 => prop_oneof![Just("a"), Just("b"), Just("c")].prop_map(|name| name.as_bytes().to_vec()),
        1 => Just(vec![b'x'; 120]),
        1 => Just(b"\xff new\nline".to_vec()),
        1 => Just(b"..wh.".to_vec()),
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| names.join(&b'/'))
}

fn plan() -> impl Strategy<Value = Plan> {
    prop::collection::btree_map(path(), thing(), 0..14)
}

/// A tree and what some changes make of it.
fn pair() -> impl Strategy<Value = (Plan, Plan)> {
    (plan(), prop::collection::vec((path(), prop::option::of(thing())), 0..6)).prop_map(
        |(before, changes)| {
            let mut after = before.clone();
            for (path, thing) in changes {
                match thing {
                    Some(thing) => after.insert(path, thing),
                    None => after.remove(&path),
                };
            }
            (before, after)
        },
    )
}

/// Makes a tree; what a file stands in the way of is left out.
fn build(plan: &Plan, root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    let mut first: Option<PathBuf> = None;
    for (path, thing) in plan {
        let full = root.join(OsStr::from_bytes(path));
        if std::fs::create_dir_all(full.parent().unwrap()).is_err() {
            continue;
        }
        match &thing.what {
            What::File(bytes) => {
                std::fs::write(&full, bytes).unwrap();
                first.get_or_insert_with(|| full.clone());
            }
            What::Link => {
                if let Some(first) = &first {
                    std::fs::hard_link(first, &full).unwrap();
                }
                continue;
            }
            What::Symlink(to) => symlink(to, &full).unwrap(),
            What::Dir => std::fs::create_dir_all(&full).unwrap(),
            What::Device(minor) => {
                let device = rustix::fs::makedev(250, *minor);
                rustix::fs::mknodat(CWD, &full, FileType::CharacterDevice, Mode::RUSR, device)
                    .unwrap();
            }
            What::Fifo => {
                rustix::fs::mknodat(CWD, &full, FileType::Fifo, Mode::RUSR, 0).unwrap();
            }
        }
        let owner = (Some(Uid::from_raw(thing.owner)), Some(Gid::from_raw(7)));
        rustix::fs::chownat(CWD, &full, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        if !matches!(thing.what, What::Symlink(_)) {
            std::fs::set_permissions(&full, PermissionsExt::from_mode(thing.mode)).unwrap();
        }
        if let (Some(value), What::File(_) | What::Dir) = (&thing.xattr, &thing.what) {
            rustix::fs::setxattr(&full, "user.test", value, XattrFlags::empty()).unwrap();
        }
        if let (Some(_), What::File(_)) = (&thing.xattr, &thing.what) {
            rustix::fs::setxattr(&full, "security.capability", CAPABILITY, XattrFlags::empty())
                .unwrap();
        }
    }
    // Times last, and of what is below before those above.
    for path in tree::read(root).keys().rev() {
        let planned = plan.get(path.as_os_str().as_bytes());
        let planned = planned.filter(|thing| !matches!(thing.what, What::Link));
        let (seconds, nanos) = planned.map_or((5, 0), |thing| thing.mtime);
        let full = root.join(path);
        if std::fs::symlink_metadata(&full).unwrap().permissions().mode() & 0o170_000 != 0o040_000
            && planned.is_none()
        {
            continue;
        }
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &full, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

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

/// A mount that ends with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(mount: &Mount, at: &Path) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let options = std::ffi::CString::new(mount.options.join(",")).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("overlay", at, "overlay", flags, options.as_c_str()).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// A tree, without the time of its root: whoever makes a tree sets that.
fn read(root: &Path) -> tree::Tree {
    let mut tree = tree::read(root);
    tree.get_mut(Path::new("")).unwrap().mtime = (0, 0);
    tree
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_layer_applied_to_the_one_tree_gives_the_other((before, after) in pair()) {
        require_root();
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| temp.path().join(name);
        build(&before, &dir("a"));
        build(&after, &dir("b"));
        let (bytes, _) = diff(&[bind(&dir("a"))], &[bind(&dir("b"))]).unwrap();
        let expected = read(&dir("b"));

        build(&before, &dir("merged"));
        apply(LayerForm::Merged, &bytes, &dir("merged")).unwrap();
        assert_same(&read(&dir("merged")), &expected);

        let applied = apply(STACKED, &bytes, &dir("upper")).unwrap();
        dist_layer::inherit_dirs(&dir("upper"), &[dir("a")], &applied.implicit_dirs).unwrap();
        std::fs::create_dir(dir("work")).unwrap();
        let stacked = overlay(&dir("upper"), &dir("a"), Some(&dir("work")));
        let mounted = Mounted::new(&stacked, &dir("overlay"));
        assert_same(&read(&mounted.0), &expected);

        // The same trees are the same bytes: through overlayfs, and read from its directories.
        let (through, _) = diff(&[bind(&dir("a"))], &[bind(&mounted.0)]).unwrap();
        prop_assert_eq!(&bytes, &through);
        let (beside, _) = diff(&[bind(&dir("a"))], &[stacked]).unwrap();
        prop_assert_eq!(&bytes, &beside);
        drop(mounted);
    }

    #[test]
    fn any_two_trees(before in plan(), after in plan()) {
        require_root();
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| temp.path().join(name);
        build(&before, &dir("a"));
        build(&after, &dir("b"));
        let (bytes, _) = diff(&[bind(&dir("a"))], &[bind(&dir("b"))]).unwrap();
        apply(LayerForm::Merged, &bytes, &dir("a")).unwrap();
        assert_same(&read(&dir("a")), &read(&dir("b")));
        let (again, _) = diff(&[bind(&dir("a"))], &[bind(&dir("b"))]).unwrap();
        prop_assert_eq!(again, vec![0; 1024]);
        let (whole, _) = diff(&[], &[bind(&dir("b"))]).unwrap();
        apply(LayerForm::Merged, &whole, &dir("c")).unwrap();
        assert_same(&read(&dir("c")), &read(&dir("b")));
    }

    #[test]
    fn what_is_done_on_a_mounted_overlay(before in plan(), changes in prop::collection::vec((path(), 0u8..9), 1..12)) {
        require_root();
        let temp = tempfile::tempdir().unwrap();
        let dir = |name: &str| temp.path().join(name);
        build(&before, &dir("a"));
        std::fs::create_dir(dir("work")).unwrap();
        std::fs::create_dir(dir("upper")).unwrap();
        let stacked = overlay(&dir("upper"), &dir("a"), Some(&dir("work")));
        let mounted = Mounted::new(&stacked, &dir("overlay"));
        for (path, what) in &changes {
            change(&mounted.0.join(OsStr::from_bytes(path)), &mounted.0.join("a"), *what);
        }
        let expected = read(&mounted.0);
        let (through, _) = diff(&[bind(&dir("a"))], &[bind(&mounted.0)]).unwrap();
        drop(mounted);
        let (beside, _) = diff(&[bind(&dir("a"))], &[stacked]).unwrap();
        prop_assert_eq!(&beside, &through);
        apply(LayerForm::Merged, &beside, &dir("a")).unwrap();
        assert_same(&read(&dir("a")), &expected);
    }
}

/// Changes something; what is not possible is left.
fn change(path: &Path, other: &Path, what: u8) {
    let _ = match what {
        0 => std::fs::remove_file(path),
        1 => std::fs::remove_dir_all(path),
        2 => std::fs::create_dir_all(path),
        // In place where it is a file: a device or fifo is no place to write to.
        3 if path.is_file() || !path.exists() => std::fs::write(path, b"new"),
        3 => std::fs::remove_file(path),
        4 => std::fs::rename(path, other),
        5 => std::fs::hard_link(path, other),
        6 => std::fs::remove_dir_all(path).and_then(|()| std::fs::create_dir(path)),
        7 => std::fs::set_permissions(path, PermissionsExt::from_mode(0o711)),
        _ => symlink("elsewhere", path),
    };
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

#[test]
fn other_readers_read_it() {
    let fixture = Fixture::new();
    let root = fixture.path("b");
    let long = root.join("l".repeat(150)).join("m".repeat(150));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    std::fs::write(&long, b"long").unwrap();
    std::fs::hard_link(&long, root.join("other")).unwrap();
    symlink("t".repeat(200), root.join("link")).unwrap();
    rustix::fs::chownat(
        CWD,
        root.join("other"),
        Some(Uid::from_raw(3_000_000)),
        None,
        AtFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(root.join("other"), "user.x", b"a\0\n", XattrFlags::empty()).unwrap();
    std::fs::write(fixture.path("a").join("gone"), b"").unwrap();
    for compression in [Compression::None, Compression::Gzip] {
        let path = fixture.path("layer.tar");
        std::fs::write(&path, compressed(&fixture.diff().unwrap().0, compression)).unwrap();
        let unpacked = fixture.path("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        let run = |program: &str, args: &[&OsStr]| {
            let status = std::process::Command::new(program).args(args).output().unwrap();
            assert!(status.status.success(), "{program}: {status:?}");
            String::from_utf8(status.stdout).unwrap()
        };
        let flags: &[&OsStr] = &["--xattrs", "--xattrs-include=*", "-C"].map(OsStr::new);
        let files = [OsStr::new("-xf"), path.as_os_str()];
        run("tar", &[flags, &[unpacked.as_os_str()], &files[..]].concat());
        assert_eq!(std::fs::read(unpacked.join(".wh.gone")).unwrap(), b"");
        std::fs::remove_file(unpacked.join(".wh.gone")).unwrap();
        assert_same(&read(&unpacked), &read(&root));
        std::fs::remove_dir_all(&unpacked).unwrap();
        let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]): \
                      print(m.name[:9], m.linkname[:3], m.type.decode(), m.uid)";
        let listed = run("python3", &[OsStr::new("-c"), OsStr::new(script), path.as_os_str()]);
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(
            lines,
            [
                ".wh.gone  0 0",
                "link ttt 2 0",
                "lllllllll  5 0",
                "lllllllll  0 3000000",
                "other lll 1 3000000"
            ]
        );
    }
}

fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
    std::io::Write::write_all(&mut compressor, bytes).unwrap();
    compressor.finish().unwrap()
}

#[test]
fn every_compression_is_the_same_twice_and_is_read_again() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("b").join("file"), vec![7; 3_000_000]).unwrap();
    let (bytes, done) = fixture.diff().unwrap();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let packed = compressed(&bytes, compression);
        assert_eq!(packed, compressed(&bytes, compression));
        assert_eq!(dist_layer::detect(&packed).unwrap(), compression);
        let applied = LayerApplier::new(ApplyOptions::new(LayerForm::Merged))
            .apply(
                &tree::descriptor(compression),
                &mut &packed[..],
                &[bind(&fixture.path("a"))],
                &Cancel::default(),
            )
            .unwrap();
        assert_eq!(applied.diff_id, done.diff_id);
    }
}
