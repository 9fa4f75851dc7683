//! Daemons that do not answer: times and signals end every command all the same.

use std::process::Stdio;

use dist_testutil::{Dist, Image, Registry, Running, Served, timed};

use crate::address::Through;
use crate::support::dist;

/// A command for every way in which a daemon is spoken to.
const COMMANDS: &[&[&str]] = &[
    &["images"],
    &["list"],
    &["get", DIGEST],
    &["delete", DIGEST],
    &["rmi", "h/a:1"],
    &["inspect", "--local", "h/a:1"],
    &["active"],
    &["abort", "x"],
    &["snapshots", "ls"],
    &["rootfs", "prepare", DIGEST, "key"],
    &["rootfs", "unpack", DIGEST],
    &["gc"],
    &["fetch", "h.invalid/a:1"],
    &["pull", "h.invalid/a:1"],
    &["ingest", "key"],
];

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Starts a command whose standard input has nothing and does not end while the pipe is held.
fn start(dist: &Dist, args: &[&str]) -> (Running, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("make a pipe");
    let mut command = dist.command(args);
    command.stdin(Stdio::from(reader));
    (Running::of(command), writer)
}

/// Lets a stopped daemon go on and end.
fn end(daemon: Served<'_>) {
    daemon.signal("CONT");
    daemon.stop().ok();
}

#[test]
fn a_daemon_that_does_not_answer_holds_no_command_longer_than_it_may() {
    let _timed = timed("deaf");
    let dist = dist();
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    daemon.signal("STOP");
    for args in COMMANDS {
        let connect = through.args(&[&["--connect-timeout", "200ms"], *args].concat()).clone();
        let (running, _input) = start(&dist, &connect);
        running.wait().exit(5).says("nobody answers within 200ms");
        let timeout = through.args(&[&["--timeout", "200ms"], *args].concat()).clone();
        let (running, _input) = start(&dist, &timeout);
        running.wait().exit(5).says(args[0]).says("not done within --timeout 200ms");
    }
    end(daemon);
}

#[test]
fn one_signal_ends_a_command_whose_daemon_has_stopped_answering() {
    let _timed = timed("deaf");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let reference = registry.reference("test/varied:1");
    for args in [&["ingest", "key"][..], &["fetch", &reference], &["list"]] {
        let daemon = dist.daemon();
        let through = Through::new(&dist, &daemon);
        daemon.signal("STOP");
        let (running, _input) = start(&dist, &through.args(args));
        while !takes_signals(&running) {}
        running.signal("TERM");
        running.wait().exit(143).says(args[0]).says("asked to stop (SIGTERM)");
        end(daemon);
    }
}

/// Whether a process has taken SIGTERM over.
fn takes_signals(running: &Running) -> bool {
    const SIGTERM: u64 = 1 << 14;
    let status = fs_err::read_to_string(format!("/proc/{}/status", running.id())).expect("status");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a mask");
    u64::from_str_radix(caught.trim(), 16).expect("a mask") & SIGTERM != 0
}

#[test]
fn time_ends_an_ingest_whose_input_does_not() {
    let _timed = timed("deaf");
    let dist = dist();
    let (running, _input) = start(&dist, &["--timeout", "300ms", "ingest", "key"]);
    running
        .wait()
        .exit(5)
        .says("ingest key: not done within --timeout 300ms")
        .says("what was read is kept");
    assert_eq!(dist.ok(&["active", "-q"]).text().trim(), "key");
}
