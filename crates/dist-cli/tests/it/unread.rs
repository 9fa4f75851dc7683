//! What becomes of a container whose output nobody reads any more.

use dist_testutil::{Dist, Ran, timed};
use serde_json::json;

use crate::machine::{Machine, wait_for};

/// Runs `dist ARGS` until its first line is read; its exit code is the last line of the errors. One
/// that does not end is killed.
fn first_line(dist: &Dist, args: &str) -> Ran {
    let script = format!("set +e; {{ timeout -s KILL 100 dist {args}; echo $? >&2; }} | head -n 1");
    dist.script(&script).ok()
}

#[test]
fn a_command_whose_output_nobody_reads_is_ended() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let image = &machine.image;
    for (flags, script) in [
        // What asks others to end does not reach a first process that has not asked for it.
        ("--rm", "while echo y; do :; done"),
        ("--rm", "while echo y >&2; do :; done"),
        ("--rm --init", "while echo y; do :; done"),
        ("--name kept", "trap \"exit 5\" TERM; while :; do echo y; done"),
        ("--rm --stop-timeout 0", "trap : TERM; while :; do echo y; done"),
    ] {
        let ran = first_line(&machine.dist, &format!("run {flags} {image} sh -c '{script}' 2>&1"));
        assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("y\n", "141\n"), "{script}");
    }
    // How it ended is recorded.
    assert_eq!(machine.list()[0]["exit_status"], 5);
    machine.dist.ok(&["rm", "kept"]);

    let full = format!("dist run --rm {image} busybox seq 100000 >/dev/full");
    machine.dist.script(&full).exit(125).says("write to standard output: No space left on device");
    machine.assert_clean(&["kept"]);
}

#[test]
fn what_attaches_ends_alone_where_nobody_reads() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ready = machine.signal();
    let script = "echo >/ready; while :; do echo y; busybox sleep 0.01; done";
    machine.shell(&["-d", "--name", "a", "-v", "./ready:/ready"], script).ok();
    wait_for(ready);
    for (args, code) in [
        ("logs --follow a", "0\n"),
        ("attach a", "0\n"),
        ("exec a sh -c 'while echo y; do :; done'", "141\n"),
        // It is the one that was asked for that ends.
        ("exec a sh -c 'trap \"\" PIPE; while :; do echo y; done'", "141\n"),
    ] {
        let ran = first_line(&machine.dist, args);
        assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("y\n", code), "{args}");
    }
    assert_eq!(machine.list()[0]["state"], json!("running"));
    machine.dist.ok(&["rm", "--force", "a"]);
    machine.assert_clean(&["a"]);
}
