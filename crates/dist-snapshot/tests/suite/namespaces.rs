//! The kernel's namespaces: without privileges overlayfs works in one, and without one nothing can
//! be mounted.

use std::process::{Command, Stdio};

use dist_core::LayerForm;

use crate::support::{Bench, Detail, write};

const INSIDE: &str = "DIST_TEST_NAMESPACE";

/// Runs one of the functions below in another process, behind the words of `wrap`.
fn run_inside(test: &str, wrap: &[&str]) {
    let (program, arguments) = wrap.split_first().unwrap();
    let output = Command::new(program)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("namespaces::{test}"), "--nocapture"])
        .env(INSIDE, test)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", text(&output.stdout), text(&output.stderr));
}

fn is_inside(test: &str) -> bool {
    std::env::var(INSIDE).is_ok_and(|inside| inside == test)
}

#[test]
fn overlayfs_in_a_user_namespace() {
    if !is_inside("overlayfs_in_a_user_namespace") {
        let wrap = ["unshare", "--user", "--map-root-user", "--mount"];
        return run_inside("overlayfs_in_a_user_namespace", &wrap);
    }
    assert_eq!(dist_snapshot::default_name(), "overlayfs");
    let bench = Bench::new("overlayfs");
    assert_eq!(bench.snapshotter.layer_form(), LayerForm::Stacked { user_xattr: true });
    bench.layer("one", None, |root| {
        std::fs::create_dir(root.join("dir")).unwrap();
        write(&root.join("dir/file"), "1");
        write(&root.join("gone"), "1");
    });
    bench.layer("two", Some("one"), |root| {
        std::fs::remove_dir_all(root.join("dir")).unwrap();
        std::fs::create_dir(root.join("dir")).unwrap();
        std::fs::remove_file(root.join("gone")).unwrap();
    });
    bench.layer("three", Some("two"), |_| ());
    assert_eq!(bench.tree("three", Detail::Content).len(), 2);
}

#[test]
fn native_without_the_right_to_mount() {
    if !is_inside("native_without_the_right_to_mount") {
        let wrap = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
        return run_inside("native_without_the_right_to_mount", &wrap);
    }
    assert_eq!(dist_snapshot::default_name(), "native");
    let bench = Bench::new("native");
    let dir = bench.prepare("a", None)[0].writable_dir().unwrap();
    write(&dir.join("file"), "1");
    bench.commit("one", "a");
    let dir = bench.prepare("b", Some("one"))[0].writable_dir().unwrap();
    assert!(dir.join("file").exists());
    let target = bench.dir.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mounts = bench.view("v", Some("one"));
    let error = dist_snapshot::mount::mount(&mounts, &target).unwrap_err();
    assert_eq!(error.kind(), dist_core::ErrorKind::PermissionDenied, "{error:?}");
}

/// Kernels before 5.2, and sandboxes, know `mount(2)` only.
#[test]
fn mounts_without_the_newer_calls() {
    if !is_inside("mounts_without_the_newer_calls") {
        let inject = "--inject=fsopen:error=ENOSYS";
        let wrap =
            ["strace", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "--trace=fsopen", inject];
        return run_inside("mounts_without_the_newer_calls", &wrap);
    }
    let bench = Bench::below("overlayfs", &"long path ".repeat(20));
    let mut parent: Option<String> = None;
    for layer in 0..100 {
        let name = format!("layer {layer}");
        bench.prepare("tmp", parent.as_deref());
        bench.commit(&name, "tmp");
        parent = Some(name);
    }
    for (key, parent) in [("few", "layer 2"), ("many", "layer 99")] {
        let mounted = bench.mount(&bench.prepare(key, Some(parent)));
        write(&mounted.target.join("file"), "x");
        drop(mounted);
        assert_eq!(bench.snapshotter.usage(&key.parse().unwrap()).unwrap().inodes, 2);
    }
}
