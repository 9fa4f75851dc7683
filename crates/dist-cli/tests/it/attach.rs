//! Containers that run by themselves, and people who come and go.

use dist_testutil::{require, timed};
use serde_json::json;

use crate::machine::{Machine, wait_for};

/// `dist attach` in a terminal in which these keys are typed.
fn typed(machine: &Machine, name: &str, keys: &str) -> dist_testutil::Ran {
    let binary = machine.dist.binary().display();
    let inner = format!("stty rows 45 cols 123; {binary} attach --detach-keys ctrl-a,d {name}");
    let mut command = machine.dist.clean("script");
    command.args(["-qec", &inner, "/dev/null"]);
    let input = machine.dist.dir().join("keys");
    fs_err::write(&input, keys).expect("files of the test");
    command.stdin(std::fs::File::open(input).expect("files of the test"));
    machine.dist.finish(command)
}

#[test]
fn a_terminal_can_be_left_and_come_back_to() {
    let _timed = timed("containers");
    require(&["script", "stty"]);
    let machine = Machine::busybox();
    let script = "busybox tty; while read word; do busybox stty size; echo got $word
        [ $word != end ] || exit 6; done";
    machine.shell(&["-d", "-t", "--name", "t"], script).ok();
    typed(&machine, "t", "one\n\u{1}d").ok();
    assert_eq!(machine.list()[0]["state"], "running");
    let ran = typed(&machine, "t", "end\n");
    assert_eq!(ran.code, Some(6), "{:?}", ran.text());
    assert!(ran.text().contains("got end"), "{:?}", ran.text());
    let logs = machine.dist.ok(&["logs", "t"]).text();
    for part in ["/dev/pts/0", "got one", "45 123", "got end"] {
        assert!(logs.contains(part), "no {part:?} in {logs:?}");
    }
    machine.dist.ok(&["rm", "t"]);
    machine.assert_clean(&["t"]);
}

#[test]
fn input_without_a_terminal_comes_from_whoever_attaches() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let script = "read word; echo got $word; read word; echo got $word; read word; exit 4";
    machine.shell(&["-d", "-i", "--name", "i"], script).ok();
    let ran = machine.dist.feed(&["attach", "i"], b"one\ntwo\nthree\n");
    assert_eq!((ran.code, ran.text().as_str()), (Some(4), "got one\ngot two\n"), "{}", ran.stderr);
    assert_eq!(machine.dist.ok(&["wait", "i"]).text(), "4\n");
    machine.dist.run(&["attach", "i"]).exit(125).says("it does not run");
    machine.dist.ok(&["rm", "i"]);

    let ready = machine.signal();
    let script =
        "trap 'echo caught; exit 9' USR1; echo >/ready; while :; do busybox sleep 0.05; done";
    machine.shell(&["-d", "--name", "s", "-v", "./ready:/ready"], script).ok();
    wait_for(ready);
    let attached = machine.dist.spawn(&["attach", "s"]);
    // It has its signals as soon as it follows the output; before, one would end it.
    let catches = || {
        let status = fs_err::read_to_string(format!("/proc/{}/status", attached.id())).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() & 1 << 9 != 0
    };
    while !catches() {
        std::thread::yield_now();
    }
    attached.signal("USR1");
    let ran = attached.wait();
    assert_eq!((ran.code, ran.text().as_str()), (Some(9), "caught\n"), "{}", ran.stderr);
    machine.dist.ok(&["rm", "s"]);
    machine.assert_clean(&["i", "s"]);
}

#[test]
fn what_a_container_uses_is_told() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    machine.dist.run(&["stats", "--no-stream", "no"]).exit(3);
    assert_eq!(machine.dist.ok(&["stats", "--format", "json"]).json(), json!([]));
    let flags = ["-d", "--name", "u", "--memory", "64MiB", "--pids-limit", "20"];
    machine.run(&flags, &["busybox", "sleep", "1000"]).ok();
    machine.run(&["-d", "--name", "v"], &["busybox", "sleep", "1000"]).ok();
    let told = machine.dist.ok(&["stats", "--no-stream", "--format", "json", "u"]).json();
    let row = &told[0];
    assert_eq!(
        (&row["id"], &row["pids"], &row["pids_limit"]),
        (&json!("u"), &json!(1), &json!(20))
    );
    assert_eq!(row["memory_limit"], 64 << 20);
    let used = row["memory"].as_u64().unwrap();
    assert!((1..64 << 20).contains(&used) && row["cpu_ns"].as_u64().unwrap() > 0, "{row}");
    let table = machine.dist.ok(&["stats", "--no-stream"]).text();
    assert!(table.contains("1 / 20") && table.lines().count() == 3, "{table}");

    // A container's name comes before an image's.
    assert_eq!(machine.dist.ok(&["inspect", "v"]).json()["state"], "running");
    machine.dist.run(&["inspect", "--local", "v"]).exit(3).says("it is not in the store");
    machine.dist.run(&["rm", "u"]).exit(1).says("it runs");
    assert_eq!(machine.dist.ok(&["rm", "--force", "u", "v"]).text(), "u\nv\n");
    machine.dist.run(&["stats", "--no-stream", "u"]).exit(3);
    machine.assert_clean(&["u", "v"]);
}
