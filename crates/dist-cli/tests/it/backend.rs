//! containerd with its content and its snapshots behind our backend socket.

use std::path::Path;

use dist_testutil::{
    Bound, Containerd, Form, Image, Registry, Tree, blobs_on_disk, timed, verify_blobs,
    verify_database,
};

use crate::support::{dist, pull, view};

/// What containerd calls our snapshotter.
const SNAPSHOTTER: &str = "--snapshotter=dist";

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

/// The directories of snapshots below a root, of all snapshotters.
fn snapshots_on_disk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for snapshotter in ["overlayfs", "native"] {
        let Ok(dir) = fs_err::read_dir(root.join("snapshots").join(snapshotter)) else { continue };
        for entry in dir {
            let entry = entry.expect("read the snapshots");
            found.push(format!("{snapshotter}/{}", entry.file_name().to_string_lossy()));
        }
    }
    found
}

fn pull_behind(containerd: &Containerd, reference: &str) {
    let platform = "--platform=linux/amd64";
    containerd.ctr(&["images", "pull", "--plain-http", SNAPSHOTTER, platform, reference]);
}

/// Nothing is missing of the images, as containerd judges it.
#[track_caller]
fn check(containerd: &Containerd, references: &[&str]) {
    let listed = containerd.ctr(&["images", "ls", "-q"]);
    assert_eq!(lines(&listed), references);
    let checked = containerd.ctr(&["images", "check", SNAPSHOTTER]);
    assert_eq!(checked.lines().count(), references.len() + 1, "{checked}");
    for line in checked.lines().skip(1) {
        assert!(line.contains(" complete ") && line.trim_end().ends_with("true"), "{checked}");
    }
}

/// The tree of a chain of layers, through a view that containerd makes of it.
fn view_behind(containerd: &Containerd, chain: &str) -> Tree {
    let target = tempfile::tempdir_in(containerd.dir()).expect("make a mount point");
    let target = target.path().to_str().expect("a path in UTF-8");
    containerd.ctr(&["snapshots", SNAPSHOTTER, "view", "a view/of it", chain]);
    let commands = containerd.ctr(&["snapshots", SNAPSHOTTER, "mounts", target, "a view/of it"]);
    let bound = Bound::by_commands(&commands, Path::new(target));
    let tree = Tree::read(bound.path());
    drop(bound);
    containerd.ctr(&["snapshots", SNAPSHOTTER, "rm", "a view/of it"]);
    tree
}

#[test]
fn containerd_pulls_unpacks_lists_deletes_and_collects_through_us() {
    let _timed = timed("backend");
    let (images, registry) = (Registry::of_images(), Registry::start());
    let image = Image::varied_in(Form::Gzip);
    image.push(&registry, "test/varied", "gzip");
    let (busybox, varied) =
        (images.reference("library/busybox:1"), registry.reference("test/varied:gzip"));
    let dist = dist();
    let daemon = dist.daemon();
    let containerd = Containerd::behind(&daemon.backend());
    pull_behind(&containerd, &varied);
    check(&containerd, &[&varied]);
    assert_eq!(snapshots_on_disk(dist.root()).len(), image.diff_ids.len());

    // What containerd has is what we keep, and no client of ours sees it.
    let listed = lines(&containerd.ctr(&["content", "ls", "-q"]));
    let disk: Vec<_> =
        blobs_on_disk(dist.root()).iter().map(|(digest, _)| digest.to_string()).collect();
    assert_eq!(listed, disk);
    assert_eq!(verify_blobs(dist.root()), image.blobs.len() + 1);
    for command in
        [&["content", "ls", "-q"][..], &["images", "ls", "-q"], &["namespaces", "ls", "-q"]]
    {
        assert_eq!(daemon.ctr(command).ok().text(), "", "{command:?}");
    }
    assert_eq!(dist.ok(&["list", "-q"]).text(), "");

    // The same tree as when we pull.
    let chain = image.chain_id().0.to_string();
    let ours = crate::support::dist();
    let expected = view(&ours, &pull(&ours, &varied));
    assert!(expected.0.len() > 15, "{:?}", expected.0.keys());
    // The root directory belongs to whoever made it, where no layer has one.
    let [theirs, expected] = [view_behind(&containerd, &chain), expected]
        .map(|tree| tree.without(|path| path.as_os_str().is_empty()));
    theirs.assert_same(&expected, "containerd's and ours");

    // A collection of ours takes none of it.
    daemon.ctr(&["leases", "create", "--id", "ours"]).ok();
    daemon.ctr(&["leases", "rm", "--sync", "ours"]).ok();
    pull_behind(&containerd, &busybox);
    check(&containerd, &if busybox < varied { [&*busybox, &varied] } else { [&*varied, &busybox] });

    // What containerd deletes is gone for good; what it keeps is not.
    containerd.ctr(&["images", "rm", "--sync", &busybox]);
    check(&containerd, &[&varied]);
    assert_eq!(verify_blobs(dist.root()), image.blobs.len() + 1);
    assert_eq!(snapshots_on_disk(dist.root()).len(), image.diff_ids.len());
    containerd.ctr(&["images", "rm", "--sync", &varied]);
    assert_eq!(containerd.ctr(&["content", "ls", "-q"]), "");
    assert_eq!(blobs_on_disk(dist.root()), []);
    assert_eq!(snapshots_on_disk(dist.root()), [""; 0]);
    let ingests = fs_err::read_dir(dist.root().join("content/ingest")).expect("list ingests");
    assert_eq!(ingests.count(), 0);

    // And it can come again, also behind a daemon that was started anew.
    daemon.stop().ok();
    let daemon = dist.daemon();
    pull_behind(&containerd, &varied);
    check(&containerd, &[&varied]);
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").expect("read the mounts");
    for dir in [dist.dir(), containerd.dir()] {
        let dir = dir.to_str().expect("a path in UTF-8");
        assert!(!mounts.contains(dir), "something is mounted below {dir}\n{mounts}");
    }
    drop(containerd);
    daemon.stop().ok();
    verify_database(dist.root());
}
