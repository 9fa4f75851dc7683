//! What is on the disk when the command has answered, seen in its system calls,
//! and what another boot makes of it. The power-cut rig proves the same on a
//! real filesystem.

use dist_testutil::{Dist, Image, Registry, require, timed};

use crate::support::{dist, verify_image, view};

/// In a pull, before its answer: syncs of blobs and their directory, and of whole filesystems.
fn syncs(mode: &str, reference: &str, image: &Image) -> (usize, usize) {
    require(&["strace"]);
    let dist = dist();
    let log = dist.dir().join("strace.log");
    let mut command = dist.clean("strace");
    let trace = "trace=fsync,fdatasync,syncfs,write";
    command.args(["-f", "-y", "-qq", "-s", "200", "-e", trace, "-o"]).arg(&log);
    command.arg("--").arg(dist.binary()).args(["--durability", mode, "pull", reference]);
    let out = command.output().expect("run strace");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = fs_err::read_to_string(&log).expect("read the trace");
    let answer = format!("{reference}@{}", image.digest());
    let before: Vec<&str> = text.lines().take_while(|line| !line.contains(&answer)).collect();
    assert!(before.len() < text.lines().count(), "the answer is not in the trace:\n{text}");
    let content = before
        .iter()
        .filter(|line| line.contains("sync(") && !line.contains("syncfs("))
        .filter(|line| line.contains("/ingest/") || line.contains("/blobs/sha256"))
        .count();
    verify_image(&dist, reference, image);
    (content, before.iter().filter(|line| line.contains("syncfs(")).count())
}

#[test]
fn modes_promise_what_they_say() {
    let _timed = timed("durability");
    let (registry, image) = (Registry::start(), Image::random(1, &[50_000, 20_000]));
    image.push(&registry, "test/sync", "1");
    let reference = registry.reference("test/sync:1");
    assert_eq!(syncs("none", &reference, &image), (0, 0), "none syncs no content");
    // Each blob and their directory, or all at once where little else waits to be written.
    let (content, whole) = syncs("content", &reference, &image);
    assert!(content > image.blob_count() || whole == 1, "content: {content} and {whole} syncs");
    assert!(content == 0 || whole == 0, "content: {content} and {whole} syncs");
    let (_, whole) = syncs("full", &reference, &image);
    assert_eq!(whole, 1, "full");
}

/// Runs a script under another boot id, in a mount namespace of its own.
fn after_reboot(dist: &Dist, script: &str) -> String {
    let text = format!(
        "cat /proc/sys/kernel/random/uuid >boot_id\n\
         exec unshare --mount bash -euo pipefail -c '\n\
         mount --bind boot_id /proc/sys/kernel/random/boot_id\n{script}'"
    );
    dist.script(&text).ok().text()
}

#[test]
fn after_a_reboot_blobs_are_enough() {
    let _timed = timed("durability");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/boot", "1");
    let reference = registry.reference("test/boot:1");
    let dist = dist().env("MANIFEST", image.digest());
    dist.ok(&["pull", &reference]);
    let tree = view(&dist, &image.digest());
    drop(registry);
    let text = after_reboot(&dist, "dist images -q; dist rootfs unpack $MANIFEST");
    assert_eq!(text.lines().next(), Some(reference.as_str()));
    assert!(text.contains(&image.chain_id().0.to_string()), "{text}");
    view(&dist, &image.digest()).assert_same(&tree, "after a reboot");
}

#[test]
fn what_was_never_synced_is_not_believed() {
    let _timed = timed("durability");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/boot", "1");
    let reference = registry.reference("test/boot:1");
    let dist = dist().env("IMAGE", &reference);
    dist.ok(&["--durability", "none", "pull", &reference]);
    let chain = image.chain_id().0.to_string();
    assert!(dist.ok(&["snapshots", "ls", "-q"]).text().contains(&chain));
    let text = after_reboot(
        &dist,
        "dist snapshots ls -q; echo --; dist pull $IMAGE >pulled; dist snapshots ls -q",
    );
    let (before, after) = text.split_once("--\n").expect("two listings");
    assert!(!before.contains(&chain), "{text}");
    assert!(after.contains(&chain), "{text}");
    verify_image(&dist, &reference, &image);
}
