//! What is on the disk when the command has answered, seen in its system calls.
//! The power-cut rig proves it; this shows which mode promises what.

use dist_testutil::{Image, Registry, require, timed};

use crate::support::{dist, verify_image};

/// Counts of fsync and fdatasync, and of syncfs, in a pull.
fn syncs(mode: &str, reference: &str, image: &Image) -> (usize, usize) {
    require(&["strace"]);
    let dist = dist();
    let log = dist.dir().join("strace.log");
    let mut command = dist.clean("strace");
    command.args(["-f", "-qq", "-e", "trace=fsync,fdatasync,syncfs", "-o"]).arg(&log).arg("--");
    command.arg(dist.binary()).args(["--durability", mode, "pull", reference]);
    let out = command.output().expect("run strace");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = fs_err::read_to_string(&log).expect("read the trace");
    let whole = text.matches("syncfs(").count();
    verify_image(&dist, reference, image);
    (text.matches("sync(").count(), whole)
}

#[test]
fn modes_promise_what_they_say() {
    let _timed = timed("durability");
    let (registry, image) = (Registry::start(), Image::random(1, &[50_000, 20_000]));
    image.push(&registry, "test/sync", "1");
    let reference = registry.reference("test/sync:1");
    let (files, whole) = syncs("none", &reference, &image);
    assert_eq!((files, whole), (0, 0), "none syncs nothing");
    let (files, _) = syncs("content", &reference, &image);
    assert!(files > image.blobs.len(), "content: {files} syncs of files");
    let (files, whole) = syncs("full", &reference, &image);
    assert!(files > image.blobs.len() && whole >= 1, "full: {files} and {whole}");
}

#[test]
fn another_boot_drops_what_was_not_durable_and_builds_it_again() {
    let _timed = timed("durability");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/boot", "1");
    let dist = dist().env("IMAGE", registry.reference("test/boot:1"));
    let dist = dist.env("MANIFEST", image.digest());
    dist.ok(&["--durability", "none", "pull", &registry.reference("test/boot:1")]);
    drop(registry);
    // Another boot id, in a mount namespace of its own.
    let script = r#"
        cat /proc/sys/kernel/random/uuid >boot_id
        exec unshare --mount sh -euc '
            mount --bind boot_id /proc/sys/kernel/random/boot_id
            dist snapshots ls --format json >after
            dist images -q
            dist rootfs unpack $MANIFEST
            dist snapshots ls --format json >rebuilt'
    "#;
    let text = dist.script(script).ok().text();
    assert!(text.contains(&image.chain_id().0.to_string()), "{text}");
    let read = |name: &str| fs_err::read_to_string(dist.dir().join(name)).expect("a listing");
    assert!(!read("after").contains(&image.chain_id().0.to_string()), "{}", read("after"));
    assert!(read("rebuilt").contains(&image.chain_id().0.to_string()));
}
