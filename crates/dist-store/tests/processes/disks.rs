//! Disks that are full, and disks that are read-only.

use std::process::{Command, Stdio};

use dist_core::{Descriptor, Digest, ErrorKind, Labels, MediaType, Namespace};
use dist_store::{OpenMode, Store, StoreOptions};

use crate::{JOB, Root, answer, content, open, run, start, write};

/// A store that a clean process left, and one whose last process was killed, read-only.
#[test]
fn a_read_only_store_is_read() {
    for killed in [false, true] {
        let root = Root::new();
        let bytes = content("8,1000");
        let store = open(&root.path()).unwrap();
        write(&store, "k", &bytes).unwrap();
        let target =
            Descriptor::new(MediaType::Manifest, Digest::sha256(&bytes), bytes.len() as u64);
        let put = |name: &str| {
            Store::open(&root.path(), StoreOptions::default())
                .unwrap()
                .images(Namespace::default())
                .put(&name.parse().unwrap(), &target, &Labels::new())
                .unwrap();
        };
        put("image");
        drop(store);
        let mut left = start(&[], &root.job("partial", "left 4,1000 500"));
        assert_eq!(answer(&mut left), "ready");
        if killed {
            left.kill().unwrap();
        }
        drop(left.stdin.take());
        left.wait().unwrap();
        if !killed {
            // Whoever writes durably leaves no log.
            put("image");
        }
        assert_eq!(root.path().join("meta.db-wal").exists(), killed);
        let path = root.path();
        let path = path.to_str().unwrap();
        let mount =
            format!("mount --bind {path} {path} && mount -o remount,ro,bind {path} && exec \"$@\"");
        let mounted = ["unshare", "-m", "sh", "-ec", &mount, "sh"];
        assert_eq!(run(&mounted, &root.job("read", "8,1000")), "read", "killed: {killed}");

        // Another user, who may read and not write.
        let open_up = Command::new("chmod").args(["-R", "a+rX"]).arg(root.0.path()).status();
        assert!(open_up.unwrap().success());
        let me = std::env::current_exe().unwrap();
        let copy = root.0.path().join("me");
        std::fs::copy(me, &copy).unwrap();
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let mut child = Command::new(user[0])
            .args(&user[1..])
            .arg(copy)
            .args(["--exact", "child", "--nocapture"])
            .env(JOB, root.job("read", "8,1000"))
            .current_dir("/")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        assert_eq!(answer(&mut child), "read", "killed: {killed}");
        child.wait().unwrap();
    }
}

#[test]
fn read_only_without_a_store_says_so() {
    let root = Root::new();
    std::fs::create_dir(root.path()).unwrap();
    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        let options = StoreOptions { mode, ..StoreOptions::default() };
        assert_eq!(Store::open(&root.path(), options).unwrap_err().kind(), ErrorKind::NotFound);
    }
}

/// Does a job on a file system of its own.
fn run_small(size: &str, job: &str) -> String {
    let root = Root::new();
    std::fs::create_dir(root.path()).unwrap();
    let mount =
        format!("mount -t tmpfs -o size={size} none {} && exec \"$@\"", root.path().display());
    run(&["unshare", "-m", "sh", "-ec", &mount, "sh"], &root.job(job, ""))
}

#[test]
fn a_full_disk_leaves_a_resumable_ingest() {
    assert_eq!(run_small("6m", "full"), "filled");
}

#[test]
fn a_full_disk_can_be_freed() {
    assert_eq!(run_small("8m", "starve"), "freed");
}
