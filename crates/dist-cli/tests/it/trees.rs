//! What comes out of the same layers here, from umoci and from containerd.

use std::ffi::OsStr;
use std::path::Path;

use dist_testutil::{Containerd, Dist, Form, Image, Registry, Tree, require, run, scratch, timed};

use crate::support::{dist, pulled, view};

const IMAGES: [&str; 5] = ["busybox:1", "debian:bookworm", "redis:7", "python-sci:1", "node-app:1"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Our trees of an image: as a plain directory, and pulled layer by layer in
/// parallel and one after the other, with all snapshotters.
fn ours(dist: &Dist, reference: &str) -> Tree {
    let plain = dist.dir().join("plain");
    dist.ok(&["unpack", reference, text(&plain)]);
    let tree = Tree::read(&plain);
    fs_err::remove_dir_all(&plain).expect("remove a tree");
    tree
}

fn pulled_tree(flags: &[&str], reference: &str) -> Tree {
    let dist = dist().with(flags);
    let digest = pulled(&dist.ok(&["pull", reference]).text());
    view(&dist, &digest)
}

/// umoci's tree of an image in the registry.
fn umoci(reference: &str) -> Tree {
    require(&["skopeo", "umoci"]);
    let dir = scratch();
    let layout = dir.path().join("layout");
    let (from, to) = (format!("docker://{reference}"), format!("oci:{}:t", layout.display()));
    run(
        "skopeo",
        &["copy", "-q", "--src-tls-verify=false", "--override-arch=amd64", &from, &to]
            .map(OsStr::new),
    );
    let bundle = dir.path().join("bundle");
    let image = format!("{}:t", layout.display());
    run("umoci", &["unpack", "--image", &image, text(&bundle)].map(OsStr::new));
    Tree::read(&bundle.join("rootfs"))
}

/// containerd's tree of an image in the registry.
fn containerds(containerd: &Containerd, reference: &str) -> Tree {
    // ctr names the snapshot after the target: each image needs its own.
    let target = containerd.dir().join(reference.replace(['/', ':'], "-"));
    fs_err::create_dir_all(&target).expect("make a mount point");
    containerd.ctr(&["images", "pull", "--plain-http", "--platform", "linux/amd64", reference]);
    containerd.ctr(&["images", "mount", "--platform", "linux/amd64", reference, text(&target)]);
    let bound = dist_testutil::Bound::adopt(&target);
    let tree = Tree::read(&target);
    drop(bound);
    tree
}

/// The root directory belongs to the tool that made it, where no layer has one.
fn without_root(tree: Tree) -> Tree {
    let mut tree = tree;
    tree.0.remove(Path::new(""));
    tree
}

fn compare(registry: &Registry, names: &[&str], others: bool) {
    let containerd = others.then(Containerd::start);
    for name in names {
        let reference = registry.reference(name);
        let tree = without_root(ours(&dist(), &reference));
        assert!(tree.0.len() > 3, "{name}: {} entries", tree.0.len());
        let ways: [&[&str]; 4] = [
            &["--jobs", "1"],
            &["--jobs", "8"],
            &["--snapshotter", "native"],
            &["--snapshotter", "erofs"],
        ];
        let [first, others @ ..] = ways.map(|flags| pulled_tree(flags, &reference));
        for (other, flags) in others.iter().zip(&ways[1..]) {
            first.assert_same(other, &format!("{name}: pulls, the second {flags:?}"));
        }
        tree.assert_same(&without_root(first), &format!("{name}: unpack and pull"));
        if let Some(containerd) = &containerd {
            let other = without_root(umoci(&reference));
            tree.assert_same(&other, &format!("{name}: dist and umoci"));
            let other = without_root(containerds(containerd, &reference));
            tree.assert_same(&other, &format!("{name}: dist and containerd"));
        }
    }
}

#[test]
fn every_test_image_unpacks_as_with_umoci_and_containerd() {
    let _timed = timed("trees");
    let registry = Registry::of_images();
    let names = IMAGES.map(|name| format!("library/{name}"));
    compare(&registry, &names.each_ref().map(String::as_str), true);
}

#[test]
fn every_kind_of_entry_unpacks_as_with_umoci_and_containerd() {
    let _timed = timed("trees");
    let registry = Registry::start();
    Image::varied_in(Form::Gzip).push(&registry, "test/varied", "gzip");
    compare(&registry, &["test/varied:gzip"], true);
    // umoci 0.4 knows no zstd.
    Image::varied().push(&registry, "test/varied", "zstd");
    compare(&registry, &["test/varied:zstd"], false);
}

/// Judges the judges: where they differ, a difference of ours would mean nothing.
#[test]
fn the_peers_agree_with_each_other() {
    let _timed = timed("trees");
    let registry = Registry::start();
    Image::varied_in(Form::Gzip).push(&registry, "test/varied", "gzip");
    let reference = registry.reference("test/varied:gzip");
    let tree = without_root(umoci(&reference));
    assert!(tree.0.len() > 15, "{:?}", tree.0.keys());
    tree.assert_same(
        &without_root(containerds(&Containerd::start(), &reference)),
        "umoci and containerd",
    );
}
