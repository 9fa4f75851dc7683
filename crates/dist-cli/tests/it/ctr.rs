//! Debian's ctr, driven through its daily work: `tests/ctr/drive`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use dist_testutil::{Containerd, Registry, require, run, scratch, timed};

use crate::support::{dist, project};

/// The steps run containers of the same names, and so in the same cgroups.
static ALONE: Mutex<()> = Mutex::new(());

/// What ctr said to every step of the script, as a file.
fn record(socket: &Path, registry: &Registry, out: PathBuf) -> PathBuf {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    require(&["ctr", "python3"]);
    let drive = project().join("tests/ctr/drive");
    let args = ["--address", text(socket), "--registry", registry.address(), "--out", text(&out)];
    let mut all = vec![drive.as_os_str(), OsStr::new("record")];
    all.extend(args.map(OsStr::new));
    run("python3", &all);
    out
}

/// Fails the test where the records differ in more than the list says, or in less.
///
/// `ctr`, containerd and the shims have races of their own (which of two events comes first, what a
/// process that has just ended still says), so a difference counts where it is in each of three pairs.
#[track_caller]
fn compare(dir: &Path, pair: impl Fn(usize) -> [PathBuf; 2], differences: &Path) {
    let drive = project().join("tests/ctr/drive");
    let (mut records, mut said) = (Vec::new(), String::new());
    for turn in 0..3 {
        records.extend(pair(turn));
        let mut compared = Command::new("python3");
        compared.args([&drive, Path::new("compare")]).args(&records);
        compared.args([Path::new("--differences"), differences]).current_dir(dir);
        let output = compared.output().expect("run drive");
        if output.status.success() {
            return;
        }
        said = format!("{}{}", text_of(&output.stdout), text_of(&output.stderr));
    }
    panic!("they differ in each of three turns\n{said}");
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Judges the judge: two runs against two containerds of one version differ in nothing.
#[test]
fn ctr_says_the_same_of_two_containerds() {
    let _timed = timed("ctr");
    let (registry, dir) = (Registry::of_images(), scratch());
    let none = dir.path().join("differences");
    fs_err::write(&none, "").expect("write an empty list");
    let one = |name: String| record(Containerd::start().socket(), &registry, dir.path().join(name));
    let pair = |turn| ["one", "two"].map(|name| one(format!("{name}-{turn}")));
    compare(dir.path(), pair, &none);
}

#[test]
fn ctr_says_the_same_of_containerd_and_of_the_daemon() {
    let _timed = timed("ctr");
    let (registry, dir) = (Registry::of_images(), scratch());
    let pair = |turn| {
        let (theirs, ours) = (Containerd::start(), dist());
        [
            record(theirs.socket(), &registry, dir.path().join(format!("containerd-{turn}"))),
            record(ours.daemon().address(), &registry, dir.path().join(format!("dist-{turn}"))),
        ]
    };
    compare(dir.path(), pair, &project().join("tests/ctr/differences"));
}
