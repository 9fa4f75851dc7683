//! The printed commands do what [`dist_snapshot::mount::mount`] does.

use std::path::Path;
use std::process::Command;

use dist_core::ErrorKind;
use dist_snapshot::mount::{commands, lower_dirs, mount, unmount};

use crate::support::{Bench, Detail, Mounted, fails, tree, write};

fn run_commands(bench: &Bench, mounts: &[dist_core::Mount]) -> Mounted {
    let target = bench.dir.path().join("it's a target");
    std::fs::create_dir_all(&target).unwrap();
    for command in commands(mounts, &target) {
        let status = Command::new("sh").args(["-ec", &command]).status().unwrap();
        assert!(status.success(), "{command}");
    }
    Mounted { target }
}

fn compare(bench: &Bench) {
    bench.layer("one", None, |root| write(&root.join("one"), "1"));
    bench.layer("two", Some("one"), |root| write(&root.join("two"), "2"));
    for (key, mounts) in [
        ("a0", bench.prepare("a0", None)),
        ("a1", bench.prepare("a1", Some("two"))),
        ("v1", bench.view("v1", Some("one"))),
        ("v2", bench.view("v2", Some("two"))),
    ] {
        let by_command = run_commands(bench, &mounts);
        let seen = tree(&by_command.target, Detail::Content);
        let writable = std::fs::write(by_command.target.join("new"), b"x").is_ok();
        assert_eq!(writable, key.starts_with('a'), "{key}");
        drop(by_command);
        let by_call = bench.mount(&mounts);
        let _ = std::fs::remove_file(by_call.target.join("new"));
        assert_eq!(tree(&by_call.target, Detail::Content), seen, "{key}");
    }
}

#[test]
fn overlayfs_commands() {
    compare(&Bench::new("overlayfs"));
}

#[test]
fn native_commands() {
    compare(&Bench::below("native", "with: 'every', \\ char"));
}

/// Paths so long that the options exceed a page, and single ones what `fsconfig` takes.
#[test]
fn long_options() {
    let deep = format!("{}/{}", "long path ".repeat(20), "x".repeat(200));
    let bench = Bench::below("overlayfs", &deep);
    let mut parent: Option<String> = None;
    for layer in 0..128 {
        let name = format!("layer {layer}");
        bench.prepare("tmp", parent.as_deref());
        let [dir] = &bench.snapshotter.mounts(&"tmp".parse().unwrap()).unwrap()[..] else {
            panic!()
        };
        write(&dir.writable_dir().unwrap().join(format!("file-{layer}")), "x");
        bench.commit(&name, "tmp");
        parent = Some(name);
    }
    let mounts = bench.prepare("active", parent.as_deref());
    assert_eq!(lower_dirs(&mounts).len(), 128);
    assert!(mounts[0].options.join(",").len() > 40_000);
    let by_command = run_commands(&bench, &mounts);
    assert_eq!(tree(&by_command.target, Detail::Content).len(), 129);
    drop(by_command);
    let by_call = bench.mount(&mounts);
    assert_eq!(tree(&by_call.target, Detail::Content).len(), 129);
}

#[test]
fn what_cannot_be_mounted() {
    let bench = Bench::new("overlayfs");
    bench.layer("one", None, |_| ());
    let mounts = bench.prepare("active", Some("one"));
    fails(ErrorKind::NotFound, mount(&mounts, Path::new("/nonexistent/target")));
    let target = bench.dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mut bad = mounts.clone();
    bad[0].options.push("nosuchoption=1".into());
    let error = fails(ErrorKind::InvalidArgument, mount(&bad, &target));
    assert!(format!("{error:?}").contains("nosuchoption"), "{error:?}");
    let mut unknown = mounts.clone();
    unknown[0].fstype = "nosuchfs".into();
    fails(ErrorKind::Unsupported, mount(&unknown, &target));
    fails(ErrorKind::FailedPrecondition, unmount(&target));
    fails(ErrorKind::NotFound, unmount(Path::new("/nonexistent/target")));

    // The second fails, so the first is undone.
    let mut second = bad[0].clone();
    second.target = Some("/".into());
    fails(ErrorKind::InvalidArgument, mount(&[mounts[0].clone(), second], &target));
    fails(ErrorKind::FailedPrecondition, unmount(&target));

    let mounted = bench.mount(&mounts);
    let open = std::fs::File::create(mounted.target.join("open")).unwrap();
    fails(ErrorKind::Busy, unmount(&mounted.target));
    drop(open);
}
