//! What the suites share.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use dist_testutil::{
    Bound, Dist, Image, Tree, blobs_on_disk, run, torture, verify_blobs, verify_database,
};

/// Flags that let a fault show within a second or two.
pub(crate) const QUICK: [&str; 8] =
    ["--connect-timeout", "1s", "--stall-timeout", "1s", "--retries", "3", "--retry-delay", "10ms"];

/// The binary with an empty store of its own.
pub(crate) fn dist() -> Dist {
    Dist::new(env!("CARGO_BIN_EXE_dist"))
}

/// The same, with short timeouts and few retries.
pub(crate) fn quick() -> Dist {
    dist().with(&QUICK)
}

/// The project's directory.
pub(crate) fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the project")
}

/// The digest that `pull` printed last.
pub(crate) fn pulled(stdout: &str) -> String {
    let line = stdout.trim_end().lines().last().unwrap_or_default();
    let (_, digest) = line.rsplit_once('@').unwrap_or_else(|| panic!("no name@digest: {line:?}"));
    digest.to_owned()
}

/// Pulls and gives the digest it printed.
#[track_caller]
pub(crate) fn pull(dist: &Dist, reference: &str) -> String {
    pulled(&dist.ok(&["pull", reference]).text())
}

/// The chain ID of an image that is in the store.
#[track_caller]
pub(crate) fn chain_of(dist: &Dist, manifest: &str) -> String {
    let text = dist.ok(&["rootfs", "unpack", manifest]).text();
    text.split_whitespace().last().expect("a chain ID").to_owned()
}

/// Mounts the unpacked root of an image read-only and hands it to `look`.
#[track_caller]
pub(crate) fn with_view<T>(dist: &Dist, manifest: &str, look: impl FnOnce(&Path) -> T) -> T {
    let chain = chain_of(dist, manifest);
    let target = tempfile::tempdir_in(dist.dir()).expect("make a mount point");
    let key = target.path().to_str().expect("a path in UTF-8");
    let commands = dist.ok(&["rootfs", "prepare", "--view", &chain, key]).text();
    let bound = Bound::by_commands(&commands, target.path());
    let answer = look(bound.path());
    drop(bound);
    dist.ok(&["snapshots", "rm", key]);
    answer
}

/// The unpacked root of an image in the store.
#[track_caller]
pub(crate) fn view(dist: &Dist, manifest: &str) -> Tree {
    with_view(dist, manifest, Tree::read)
}

/// Judges the store after whatever happened to it: a sound database, every blob
/// what its name says, every listed blob on the disk, every image whole.
#[track_caller]
pub(crate) fn verify_store(dist: &Dist) {
    verify_database(dist.root());
    verify_blobs(dist.root());
    let disk: Vec<String> =
        blobs_on_disk(dist.root()).iter().map(|(digest, _)| digest.to_string()).collect();
    let listed = dist.ok(&["list", "-q"]).text();
    for digest in listed.lines() {
        assert!(disk.iter().any(|there| there == digest), "{digest} is listed and not there");
    }
    dist.ok(&["images", "--format", "json"]).json();
}

/// Everything of `image` is in the store, under this name, and unpacks to its tree.
#[track_caller]
pub(crate) fn verify_image(dist: &Dist, reference: &str, image: &Image) {
    verify_store(dist);
    let names = dist.ok(&["images", "-q"]).text();
    assert!(names.lines().any(|name| name == reference), "{reference} is not in {names:?}");
    let listed = dist.ok(&["list", "-q"]).text();
    for blob in image.blobs.iter().chain([&image.manifest]) {
        let digest = blob.digest.to_string();
        assert!(listed.contains(&digest), "{digest} is not listed");
    }
    assert_eq!(chain_of(dist, &image.digest()), image.chain_id().0.to_string());
}

/// Runs one of the project's scripts and shows its output when it fails.
#[track_caller]
pub(crate) fn script(program: &str, args: &[&OsStr]) -> String {
    run(program, args)
}

/// The start of a script, for a mount namespace of its own, after which it does not see the second
/// version of cgroups beside the first: crun 1.8 refuses a machine with both.
pub(crate) const ONE_KIND_OF_CGROUPS: &str = "
if mountpoint -q /sys/fs/cgroup/unified; then
    view=$(mktemp -d)
    mount -t tmpfs cgroups $view
    for controller in /sys/fs/cgroup/*; do
        name=${controller##*/}
        [ $name != unified ] || continue
        mkdir $view/$name
        mount --bind $controller $view/$name
    done
    mount --rbind $view /sys/fs/cgroup
    umount -l $view
    rmdir $view
fi
";

/// Calls `run` with names of their own from ten threads until all are taken, and gives the names:
/// fifty, or as many as a test has the time for.
pub(crate) fn ten_at_once(run: impl Fn(&str) + Sync) -> Vec<String> {
    let count = if torture() { 50 } else { 20 };
    let ids: Vec<String> = (0..count).map(|n| format!("many-{n}")).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..10 {
            scope.spawn(|| {
                while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                    run(id);
                }
            });
        }
    });
    ids
}
