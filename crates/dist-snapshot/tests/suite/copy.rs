//! A native snapshot's tree is its parent's in everything.

use std::ffi::CString;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::support::{Bench, Detail, chmod, mkdir, tree};

fn everything(root: &Path) {
    mkdir(&root.join("dir"), 0o1777);
    mkdir(&root.join("dir/closed"), 0o000);
    std::fs::write(root.join("dir/file"), vec![7; 300_000]).unwrap();
    std::fs::write(root.join("empty"), b"").unwrap();
    for link in ["link", "dir/link", "dir/closed/link"] {
        std::fs::hard_link(root.join("dir/file"), root.join(link)).unwrap();
    }
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    sparse.write_all_at(&[1; 5000], 32 << 20).unwrap();
    symlink("/dangling", root.join("symlink")).unwrap();
    std::fs::hard_link(root.join("symlink"), root.join("symlink too")).unwrap();
    let special = |name: &str, kind, device| {
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, root.join(name), kind, mode, device).unwrap();
    };
    special("fifo", FileType::Fifo, 0);
    special("socket", FileType::Socket, 0);
    special("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    special("whiteout", FileType::CharacterDevice, 0);
    special("disk", FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    let set = |name: &str, attribute: &str, value: &[u8]| {
        let path = root.join(name);
        rustix::fs::lsetxattr(&path, attribute, value, XattrFlags::empty()).unwrap();
    };
    set("empty", "user.test", &[b'v'; 2000]);
    set("dir", "trusted.test", b"\0\xff");
    set("symlink", "trusted.on-a-link", b"x");
    set("null", "trusted.on-a-device", b"x");
    std::os::unix::fs::chown(root.join("dir/file"), Some(70_000), Some(2_000_000_000)).unwrap();
    chmod(&root.join("dir/file"), 0o6755);
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    set("dir/file", "security.capability", capability);
    std::os::unix::fs::lchown(root.join("symlink"), Some(5), Some(6)).unwrap();
    for (number, name) in ["dir/file", "sparse", "symlink", "fifo", "null", "dir/closed", "dir", ""]
        .iter()
        .enumerate()
    {
        let time = Timespec { tv_sec: -1 - number as i64, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::utimensat(CWD, root.join(name), &times, flags).unwrap();
    }
}

#[test]
fn native_copies_everything() {
    let bench = Bench::new("native");
    let source = bench.prepare("one", None)[0].source.clone();
    everything(&source);
    bench.commit("one committed", "one");
    let copy = bench.prepare("two", Some("one committed"))[0].source.clone();
    assert_ne!(copy, source);
    assert_eq!(tree(&copy, Detail::All), tree(&source, Detail::All));
    let [file, link] = ["dir/file", "dir/closed/link"].map(|name| copy.join(name));
    let inode = |path: &Path| std::fs::symlink_metadata(path).unwrap().ino();
    assert_eq!(inode(&file), inode(&link));
    assert_eq!(inode(&copy.join("symlink")), inode(&copy.join("symlink too")));
    assert_ne!(inode(&file), inode(&source.join("dir/file")));
    let blocks = |root: &Path| std::fs::metadata(root.join("sparse")).unwrap().blocks();
    assert!(blocks(&copy) <= blocks(&source) && blocks(&copy) < 100);
    let left: Vec<_> = std::fs::read_dir(copy.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");

    // What is shared on the disk is not shared in content.
    std::fs::write(copy.join("dir/file"), b"changed").unwrap();
    assert_eq!(std::fs::metadata(source.join("dir/file")).unwrap().len(), 300_000);
}

#[test]
fn native_copies_deep_trees() {
    let bench = Bench::new("native");
    let source = bench.prepare("one", None)[0].source.clone();
    let name = CString::new("d".repeat(100)).unwrap();
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
    let mut dir = rustix::fs::open(&source, flags, Mode::empty()).unwrap();
    for _ in 0..1500 {
        rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o751)).unwrap();
        rustix::fs::mknodat(&dir, c"fifo", FileType::Fifo, Mode::RUSR, 0).unwrap();
        dir = rustix::fs::openat(&dir, &name, flags, Mode::empty()).unwrap();
    }
    drop(dir);
    bench.commit("one committed", "one");
    bench.prepare("two", Some("one committed"));
    let usage = |key: &str| bench.snapshotter.usage(&key.parse().unwrap()).unwrap();
    assert_eq!(usage("one committed").inodes, 3001);
    assert_eq!(usage("two"), usage("one committed"));
    bench.remove("two").unwrap();
    bench.remove("one committed").unwrap();
    assert!(bench.dirs().is_empty());
}
