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

#[test]
fn a_config_file_in_the_home_of_another_is_passed_over() {
    let _timed = timed("rootless");
    let mut nobody = Nobody::new();
    nobody.dist = nobody.dist.env("DIST_CONFIG", "");
    let closed = nobody.dist.home().join(".config/dist");
    fs_err::create_dir_all(&closed).expect("make the directory");
    fs_err::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("chmod");
    let ran = nobody.run(&["version"]).ok();
    assert_eq!(ran.stderr.matches("Permission denied").count(), 1, "{}", ran.stderr);
    let file = closed.join("dist.toml");
    let file = file.to_str().expect("UTF-8");
    nobody.run(&["--config-file", file, "version"]).exit(2).says("Permission denied");
}

#[test]
fn whom_a_daemon_does_not_answer_hears_whom_it_does() {
    let _timed = timed("rootless");
    let nobody = Nobody::new();
    let daemon = nobody.dist.daemon();
    let address = daemon.address().to_str().expect("UTF-8").to_owned();
    let ask = || nobody.run(&["--address", &address, "list"]).exit(4);
    for mode in [0o660, 0o666] {
        let rights = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs_err::set_permissions(&address, rights).expect("chmod");
        let ran = ask().says(&format!("mode {mode:04o} and group root")).says("allow_users");
        assert_eq!(ran.stderr.matches("hint:").count(), 1, "{}", ran.stderr);
    }
    daemon.stop().ok();
}

/// Nobody but root could ever mount them.
#[test]
fn images_of_erofs_are_refused_before_anything_is_fetched() {
    let _timed = timed("rootless");
    let nobody = Nobody::new();
    let digest = format!("sha256:{}", "0".repeat(64));
    for args in [&["pull", "localhost:1/test/user:1"][..], &["rootfs", "unpack", &digest]] {
        let ran = nobody.run(&[&["--snapshotter", "erofs"], args].concat());
        ran.exit(2).says("only root may mount its images").says("overlayfs");
    }
    assert!(!nobody.dist.root().join("content").exists());
}
