//! Debian's ctr, driven through its daily work: `tests/ctr/drive`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use dist_testutil::{Containerd, Registry, require, run, scratch, timed};

use crate::support::{dist, project};

/// What ctr said to every step of the script, as a file.
fn record(socket: &Path, registry: &Registry, out: PathBuf) -> PathBuf {
    require(&["ctr", "python3"]);
    let drive = project().join("tests/ctr/drive");
    let args = ["--address", text(socket), "--registry", registry.address(), "--out", text(&out)];
    let mut all = vec![drive.as_os_str(), OsStr::new("record")];
    all.extend(args.map(OsStr::new));
    run("python3", &all);
    out
}

/// Fails the test where two records differ in more than the list says, or in less.
#[track_caller]
fn compare(one: &Path, other: &Path, differences: &Path) {
    let drive = project().join("tests/ctr/drive");
    let flag = OsStr::new("--differences");
    let args = [drive.as_os_str(), OsStr::new("compare"), one.as_os_str(), other.as_os_str()];
    run("python3", &[&args[..], &[flag, differences.as_os_str()]].concat());
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Judges the judge: two runs against two containerds of one version differ in nothing.
#[test]
fn ctr_says_the_same_of_two_containerds() {
    let _timed = timed("ctr");
    let (registry, dir) = (Registry::of_images(), scratch());
    let records = ["one", "two"]
        .map(|name| record(Containerd::start().socket(), &registry, dir.path().join(name)));
    let none = dir.path().join("differences");
    fs_err::write(&none, "").expect("write an empty list");
    compare(&records[0], &records[1], &none);
}

#[test]
fn ctr_says_the_same_of_containerd_and_of_the_daemon() {
    let _timed = timed("ctr");
    let (registry, dir, dist) = (Registry::of_images(), scratch(), dist());
    let theirs = record(Containerd::start().socket(), &registry, dir.path().join("containerd"));
    let ours = record(dist.daemon().address(), &registry, dir.path().join("dist"));
    compare(&theirs, &ours, &project().join("tests/ctr/differences"));
}
