//! Random trees: a layer of the difference makes the one from the other.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use dist_core::{LayerForm, Mount};
use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};

use crate::tree::{self, STACKED, apply, assert_same, bind, require_root};
use crate::{CAPABILITY, diff, overlay, read};

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

/// Makes a tree; what a file or a symlink stands in the way of is left out.
fn build(plan: &Plan, root: &Path) {
    std::fs::create_dir_all(root).unwrap();
    let mut first: Option<PathBuf> = None;
    for (path, thing) in plan {
        let full = root.join(OsStr::from_bytes(path));
        let mut above = full.ancestors().skip(1).take_while(|dir| *dir != root);
        if above.any(Path::is_symlink) || std::fs::create_dir_all(full.parent().unwrap()).is_err() {
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
        // Copying up takes a file from its other names, which only the mount shows as a change of these.
        if !before.values().any(|thing| matches!(thing.what, What::Link)) {
            prop_assert_eq!(&beside, &through);
        }
        build(&before, &dir("b"));
        for (layer, to) in [(&beside, "a"), (&through, "b")] {
            apply(LayerForm::Merged, layer, &dir(to)).unwrap();
            assert_same(&read(&dir(to)), &expected);
        }
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
