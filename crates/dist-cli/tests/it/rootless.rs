//! As an ordinary user, with a root of one's own.

use std::path::Path;

use dist_testutil::{
    Dist, Image, Ran, Registry, require, run, timed, verify_blobs, verify_database,
};

use crate::support::dist;

/// Runs the binary as nobody; a copy of it where nobody can reach it.
struct Nobody {
    dist: Dist,
}

impl Nobody {
    fn new() -> Self {
        require(&["setpriv"]);
        assert!(rustix::process::geteuid().is_root(), "needs root, to become nobody");
        let dist = dist();
        let binary = dist.dir().join("dist");
        fs_err::copy(dist.binary(), &binary).expect("copy the binary");
        let all = [dist.dir().as_os_str()];
        run("chown", &[&["-R", "nobody:nogroup"].map(std::ffi::OsStr::new)[..], &all].concat());
        run("chmod", &[&["755"].map(std::ffi::OsStr::new)[..], &all].concat());
        Self { dist }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let mut words = vec![
            "exec setpriv --reuid=nobody --regid=nogroup --clear-groups --inh-caps=-all ./dist"
                .to_owned(),
        ];
        words.extend(args.iter().map(|arg| format!("'{arg}'")));
        self.dist.script(&words.join(" "))
    }
}

#[test]
fn content_needs_no_root() {
    let _timed = timed("rootless");
    let (registry, image, nobody) = (Registry::start(), Image::varied(), Nobody::new());
    image.push(&registry, "test/user", "1");
    nobody.run(&["fetch", &registry.reference("test/user:1")]).ok();
    let listed = nobody.run(&["list", "-q"]).ok().text();
    assert_eq!(listed.lines().count(), image.blob_count());
    assert_eq!(nobody.run(&["get", &image.layer(0)]).ok().stdout, image.blobs[1].bytes);
    verify_blobs(nobody.dist.root());
    verify_database(nobody.dist.root());
}

#[test]
fn pull_unpacks_and_says_what_it_could_not_set() {
    let _timed = timed("rootless");
    let (registry, image, nobody) = (Registry::start(), Image::varied(), Nobody::new());
    image.push(&registry, "test/user", "1");
    let ran = nobody.run(&["pull", &registry.reference("test/user:1")]).ok();
    assert!(ran.stderr.contains("owner") || ran.stderr.contains("device"), "{}", ran.stderr);
    let target = nobody.dist.dir().join("plain");
    let target = target.to_str().expect("UTF-8");
    nobody.run(&["unpack", &registry.reference("test/user:1"), target]).ok();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs_err::metadata(Path::new(target).join("bin/su")).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o7777, 0o4755);
}

#[test]
fn anothers_store_is_not_touched() {
    let _timed = timed("rootless");
    let (registry, image, nobody) = (Registry::start(), Image::random(1, &[10]), Nobody::new());
    image.push(&registry, "test/user", "1");
    let theirs = dist();
    theirs.ok(&["pull", &registry.reference("test/user:1")]);
    let root = theirs.root().to_str().expect("UTF-8");
    nobody.run(&["--root", root, "pull", &registry.reference("test/user:1")]).exit(8);
}
