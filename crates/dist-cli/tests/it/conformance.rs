//! containerd's own content and snapshotter suites, over a socket.
//!
//! `tests/conformance` is the driver, in Go; suites and compiler are Debian's. `tests/operation` asks
//! for health and reflection with Debian's stubs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use dist_testutil::{Containerd, require, scratch, timed};

use crate::support::{dist, project};

/// How many tests the suites have for content, and for each snapshotter, their groups included.
const CONTENT: usize = 16;
const SNAPSHOTTER: usize = 22;

/// The suites as a program, built once.
fn suites() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let program = go("test", &["-c"], "tests/conformance", "conformance");
        assert!(program.exists(), "go made no {}", program.display());
        program
    })
}

/// Builds a Go package of the project against Debian's sources.
pub(crate) fn go(command: &str, flags: &[&str], package: &str, name: &str) -> PathBuf {
    require(&["go"]);
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = target.join(name);
    let path = format!("{}:/usr/share/gocode", target.join("gopath").display());
    let built = Command::new("go")
        .arg(command)
        .args(flags)
        .arg("-o")
        .arg(&program)
        .arg(".")
        .current_dir(project().join(package))
        .env("GO111MODULE", "off")
        .env("GOPATH", path)
        .env("GOCACHE", target.join("gocache"))
        .env("GOFLAGS", "")
        .output()
        .expect("run go");
    assert!(
        built.status.success(),
        "go {command} {package}: {}\nrun tests/setup as root when a package is missing",
        String::from_utf8_lossy(&built.stderr)
    );
    program
}

/// Asks the server at `socket` for its health and descriptions, with stubs that are not ours.
#[track_caller]
fn described(program: &Path, socket: &Path, services: &[&str]) {
    let ran = Command::new(program)
        .arg("-test.v")
        .env("DIST_ADDRESS", socket)
        .env("DIST_SERVICES", services.join(" "))
        .output()
        .expect("ask for health and descriptions");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(said.matches("--- PASS: ").count(), 5, "{said}");
}

#[test]
fn go_is_told_of_health_and_of_what_is_served_and_nothing_else() {
    let _timed = timed("conformance");
    let program = go("test", &["-c"], "tests/operation", "operation");
    let everywhere = [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    ];
    let backend =
        ["containerd.services.content.v1.Content", "containerd.services.snapshots.v1.Snapshots"];
    let more = [
        "containerd.services.containers.v1.Containers",
        "containerd.services.diff.v1.Diff",
        "containerd.services.events.v1.Events",
        "containerd.services.images.v1.Images",
        "containerd.services.introspection.v1.Introspection",
        "containerd.services.leases.v1.Leases",
        "containerd.services.namespaces.v1.Namespaces",
        "containerd.services.streaming.v1.Streaming",
        "containerd.services.tasks.v1.Tasks",
        "containerd.services.transfer.v1.Transfer",
        "containerd.services.version.v1.Version",
    ];
    let dist = dist();
    let daemon = dist.daemon();
    described(&program, daemon.address(), &[&everywhere[..], &backend, &more].concat());
    described(&program, &daemon.backend(), &[&everywhere[..], &backend].concat());
    daemon.stop().ok();
}

/// Runs all suites against the server at `socket` and judges what Go printed.
#[track_caller]
fn judge(socket: &Path, snapshotters: &[&str]) {
    let dir = scratch();
    let ran = Command::new(suites())
        .arg("-test.v")
        .env("DIST_ADDRESS", socket)
        .env("DIST_SNAPSHOTTERS", snapshotters.join(","))
        .current_dir(dir.path())
        .output()
        .expect("run the suites");
    let said = String::from_utf8_lossy(&ran.stdout);
    let named = |verdict: &str| -> Vec<&str> {
        let mark = format!("--- {verdict}: ");
        let mut names: Vec<&str> = said
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix(&mark)?.split(' ').next())
            .collect();
        names.sort_unstable();
        names
    };
    let failed = named("FAIL");
    assert!(
        ran.status.success() && failed.is_empty(),
        "{failed:?}\n{said}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    // What the suites' authors skip over any remote snapshotter.
    let mut skipped: Vec<String> =
        snapshotters.iter().map(|name| format!("TestSnapshotter/{name}/Rename")).collect();
    skipped.sort_unstable();
    assert_eq!(named("SKIP"), skipped);
    let all = CONTENT + snapshotters.len() * SNAPSHOTTER;
    assert_eq!(named("PASS").len() + skipped.len(), all, "{said}");
}

/// Judges the judge: what fails here says nothing about us.
#[test]
fn containerd_passes_its_own_suites() {
    let _timed = timed("conformance");
    let containerd = Containerd::start();
    judge(containerd.socket(), &["overlayfs", "native"]);
}

/// A fresh root first, and what it has become after that.
#[test]
fn containerds_suites_pass_three_times_over_the_daemon() {
    let _timed = timed("conformance");
    let dist = dist();
    for _ in 0..3 {
        let daemon = dist.daemon();
        judge(daemon.address(), &["overlayfs", "native", "erofs"]);
        daemon.stop().ok();
    }
}
