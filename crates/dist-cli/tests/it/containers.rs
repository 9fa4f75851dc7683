//! Containers, by containerd's real shim over the real runc and crun.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use dist_testutil::{require, run, timed, torture};
use serde_json::json;

use crate::machine::{Machine, wait_for};
use crate::support::{ONE_KIND_OF_CGROUPS, ten_at_once};

#[test]
fn a_command_has_our_streams_and_gives_its_exit_code() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ran = machine.shell(&["--rm", "--name", "a"], "echo out; echo err >&2; exit 7");
    assert_eq!((ran.code, ran.text().as_str(), ran.stderr.as_str()), (Some(7), "out\n", "err\n"));
    let mut command = machine.command(&["--rm", "-i"], &["busybox", "wc", "-c"]);
    let input = machine.dist.dir().join("input");
    fs_err::write(&input, vec![b'x'; 300_000]).unwrap();
    command.stdin(std::fs::File::open(&input).unwrap());
    assert_eq!(machine.dist.finish(command).ok().text(), "300000\n");
    let much = machine.run(&["--rm"], &["busybox", "seq", "200000"]).ok();
    assert!(much.text().ends_with("\n200000\n") && much.stdout.len() == 1_288_895);
    require(&["tini-static"]);
    let init = machine.shell(&["--rm", "--init"], "busybox head -c 17 /proc/1/cmdline");
    assert_eq!(init.ok().text(), "/sbin/docker-init");
    for (flags, args, code, part) in [
        (&["--rm"][..], &["nosuch"][..], 127, "executable file not found"),
        (&["--rm"], &["/no/such"], 127, "no such file"),
        (&["--rm"], &["/etc"], 126, "ermission denied"),
        (&["--rm", "--runtime", "nope"], &["sh"], 125, "find runtime nope"),
        (&["--rm", "--user", "nobody"], &["sh"], 125, "find user \"nobody\""),
        (&["--rm", "--runtime", "io.containerd.nope.v1"], &["sh"], 125, "containerd-shim-nope-v1"),
        (&["--rm", "-t"], &["sh"], 125, "standard input is no terminal"),
        (&["--rm", "--pull", "never", "no/such/image"], &[], 125, "it is not in the store"),
    ] {
        machine.run(flags, args).exit(code).says(part);
    }
    machine.assert_clean(&["a"]);
}

#[test]
fn a_container_is_made_as_it_was_asked_for() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    fs_err::write(machine.dist.dir().join("mine"), "mine\n").unwrap();
    let flags = [
        "-d",
        "--name",
        "b",
        "-e",
        "WHO=me",
        "-v",
        "./mine:/mine:ro",
        "-w",
        "/new",
        "-u",
        "7:8",
        "--net",
        "none",
        "--memory",
        "64MiB",
        "--pids-limit",
        "20",
        "--cpus",
        "0.5",
        "--read-only",
        "--mount",
        "type=tmpfs,dst=/scratch",
        "-l",
        "k=v",
    ];
    let script = "echo $WHO; busybox cat /mine; pwd; busybox id -u; busybox hostname
        busybox touch /x 2>/dev/null || echo read-only; busybox touch /scratch/x && echo scratch
        busybox ls /sys/class/net; exec busybox sleep 1000";
    assert_eq!(machine.shell(&flags, script).ok().text(), "b\n");
    let told = machine.dist.ok(&["containers", "inspect", "b"]).json();
    assert_eq!((&told["state"], &told["labels"]["k"]), (&json!("running"), &json!("v")));
    assert_eq!(told["image"], machine.image);
    let cgroup = told["spec"]["linux"]["cgroupsPath"].as_str().unwrap();
    let limit = |controller: &str, name: &str| {
        let path = format!("/sys/fs/cgroup/{controller}{cgroup}/{name}");
        fs_err::read_to_string(path).unwrap().trim().to_owned()
    };
    if fs_err::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok() {
        assert_eq!(limit("", "memory.max"), "67108864");
        assert_eq!(limit("", "pids.max"), "20");
        assert_eq!(limit("", "cpu.max"), "50000 100000");
    } else {
        assert_eq!(limit("memory", "memory.limit_in_bytes"), "67108864");
        assert_eq!(limit("pids", "pids.max"), "20");
        assert_eq!(limit("cpu", "cpu.cfs_quota_us"), "50000");
    }
    machine.dist.run(&["stop", "--time", "0", "b"]).ok();
    assert_eq!(machine.dist.ok(&["wait", "b"]).text(), "137\n");
    let wanted = "me\nmine\n/new\n7\nb\nread-only\nscratch\nlo\n";
    assert_eq!(machine.dist.ok(&["logs", "b"]).text(), wanted);
    machine.dist.ok(&["containers", "rm", "b"]);
    machine.assert_clean(&["b"]);
}

#[test]
fn what_was_asked_for_wrongly_is_told_and_leaves_nothing() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let dist = &machine.dist;
    fs_err::write(dist.dir().join("env"), "A=1\n# no\n\n=2\n").unwrap();
    for (flags, code, part) in [
        (&["-v", "/tmp:/d", "--mount", "type=tmpfs,dst=/d/"][..], 125, "/d/: two mounts go there"),
        (&["--env-file", "env"], 125, "env, line 4"),
        (&["--mount", "type=bind,src=/tmp,dst=/d,options=nosuch"], 2, "no option of type=bind"),
        (&["--memory", "99999999999g"], 2, "\"99999999999g\" is no size of memory"),
        (&["--memory", "-1"], 2, "\"-1\""),
    ] {
        let line = [&["run", "--rm"], flags, &[&*machine.image, "true"]].concat();
        dist.run(&line).exit(code).says(part);
    }
    let name = ["run", "-d", "--name", "c", &machine.image, "busybox", "sleep", "100"];
    dist.ok(&name);
    dist.run(&["exec", "-w", "/nosuch", "c", "busybox", "true"]).exit(126);
    dist.run(&["exec", "c", "nosuch"]).exit(127);
    dist.ok(&["rm", "-f", "c"]);
    machine.assert_clean(&[]);
}

#[test]
fn a_detached_container_lives_until_it_is_stopped() {
    let _timed = timed("containers");
    let machine = Machine::new("redis:7");
    let dist = &machine.dist;
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = port.to_string();
    machine.run(&["-d", "--name", "my-redis"], &["--port", &port]).ok();
    let again = machine.run(&["-d", "--name", "my-redis"], &[]).exit(125);
    again
        .says("make container my-redis: it exists already")
        .says("`dist rm --force my-redis` removes that one");
    // It answers once it listens, and each question takes its time.
    let ping = ["exec", "my-redis", "redis-cli", "-p", &port, "ping"];
    let answered = (0..100).any(|_| dist.run(&ping).text() == "PONG\n");
    assert!(answered, "{}", dist.run(&["logs", "my-redis"]).text());
    let row = dist.ok(&["ps", "--format", "json"]).json()[0].clone();
    assert_eq!((&row["id"], &row["state"]), (&json!("my-redis"), &json!("running")));
    assert!(dist.ok(&["logs", "my-redis"]).text().contains("Ready to accept connections"));

    let who = dist.ok(&[
        "exec",
        "-e",
        "A=b",
        "-w",
        "/etc",
        "my-redis",
        "sh",
        "-c",
        "id -un; pwd; echo $A",
    ]);
    assert_eq!(who.text(), "redis\n/etc\nb\n");
    assert_eq!(dist.ok(&["exec", "-u", "root", "my-redis", "id", "-un"]).text(), "root\n");
    assert_eq!(dist.feed(&["exec", "-i", "my-redis", "cat"], b"fed").ok().text(), "fed");
    assert_eq!(dist.run(&["exec", "my-redis", "sh", "-c", "exit 3"]).code, Some(3));
    dist.run(&["exec", "my-redis", "nosuch"]).exit(127);

    dist.ok(&["pause", "my-redis"]);
    assert_eq!(machine.list()[0]["state"], "paused");
    dist.run(&ping).exit(125).says("it is paused").says("`dist unpause my-redis`");
    dist.ok(&["unpause", "my-redis"]);
    assert_eq!(machine.list()[0]["state"], "running");
    dist.run(&["unpause", "my-redis"]).exit(1).says("unpause container my-redis: ");

    // Its snapshot stays, and what it stands on, also without the image's name.
    dist.ok(&["rmi", &machine.image]);
    let collected = dist.ok(&["gc"]).text();
    assert!(!collected.contains("snapshot"), "{collected}");
    assert_eq!(dist.ok(&ping).text(), "PONG\n");
    let checked = dist.ok(&["fsck", "--format", "json"]).text();
    assert!(!checked.contains("containers"), "{checked}");

    dist.run(&["containers", "rm", "my-redis"]).exit(1).says("it runs");
    assert_eq!(dist.ok(&["stop", "my-redis"]).text(), "my-redis\n");
    assert_eq!(dist.ok(&["ps", "-q"]).text(), "");
    assert_eq!(machine.list()[0]["exit_status"], 0);
    assert_eq!(dist.ok(&["wait", "my-redis"]).text(), "0\n");
    dist.run(&ping).exit(125).says("it does not run");
    dist.ok(&["containers", "rm", "my-redis"]);
    machine.assert_clean(&["my-redis"]);
    for verb in ["rm", "logs", "stop", "wait", "kill", "pause", "stats"] {
        dist.run(&[verb, "my-redis"]).exit(3).says("find container my-redis: it is not there");
    }
    dist.run(&["containers", "rm", "my-redis"]).exit(3);
    dist.run(&["exec", "my-redis", "true"]).exit(125).says("it is not there");
}

#[test]
fn signals_are_passed_on() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ready = machine.signal();
    let script =
        "trap 'echo caught; exit 9' TERM; echo >/ready; while :; do busybox sleep 0.05; done";
    let args = ["--rm", "--name", "s", "-v", "./ready:/ready"];
    let running = dist_testutil::Running::of(machine.command(&args, &["sh", "-c", script]));
    wait_for(ready);
    running.signal("TERM");
    let ran = running.wait();
    assert_eq!((ran.code, ran.text().as_str()), (Some(9), "caught\n"), "{}", ran.stderr);
    machine.assert_clean(&["s"]);
}

#[test]
fn one_that_somebody_waits_for_can_be_stopped_by_another() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ready = machine.signal();
    let script = "echo >/ready; exec busybox sleep 1000";
    let flags = ["--name", "w", "-v", "./ready:/ready", "--stop-timeout", "0s"];
    let running = dist_testutil::Running::of(machine.command(&flags, &["sh", "-c", script]));
    wait_for(ready);
    machine.dist.ok(&["stop", "w"]);
    assert_eq!(running.wait().code, Some(137));
    assert_eq!(machine.list()[0]["exit_status"], 137);
    machine.dist.run(&["logs", "w"]).exit(3).says("it was not run with --detach");
    machine.dist.run(&["attach", "w"]).exit(125).says("it does not run");
    machine.dist.run(&["rm", "no:container"]).exit(2).says("`dist rmi` removes names of images");
    assert_eq!(machine.dist.ok(&["rm", "w"]).text(), "w\n");
    machine.assert_clean(&["w"]);
}

#[test]
fn logs_follow_until_the_end() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let go = machine.signal();
    let script = "echo first; read go </ready; echo second; exit 3";
    machine.shell(&["-d", "--name", "f", "-v", "./ready:/ready"], script).ok();
    let following = machine.dist.spawn(&["logs", "--follow", "f"]);
    fs_err::write(go, "go\n").unwrap();
    assert_eq!(following.wait().ok().text(), "first\nsecond\n");
    assert_eq!(machine.dist.ok(&["logs", "-f", "f"]).text(), "first\nsecond\n");
    assert_eq!(machine.dist.ok(&["logs", "--tail", "1", "f"]).text(), "second\n");
    assert_eq!(machine.dist.ok(&["logs", "-f", "--tail", "0", "f"]).text(), "");
    assert_eq!(machine.dist.ok(&["wait", "f"]).text(), "3\n");
    machine.dist.ok(&["containers", "rm", "f"]);
    machine.assert_clean(&["f"]);
}

#[test]
fn a_shim_that_was_killed_before_it_had_an_order_is_no_hindrance() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ids: Vec<String> = (0..8).map(|at| format!("early-{at}")).collect();
    for id in &ids {
        let bundle = machine.dist.root().join("containers/bundles/default").join(id);
        let command = machine.command(&["-d", "--name", id], &["busybox", "sleep", "1000"]);
        let running = dist_testutil::Running::of(command);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !bundle.join("address").exists() {
            assert!(Instant::now() < deadline, "no shim is started");
        }
        running.kill();
        for shim in shims(id, machine.dist.root()) {
            // It may have ended by itself.
            std::process::Command::new("kill").args(["-9", &shim]).status().expect("run kill");
        }
        machine.dist.ok(&["rm", "--force", id]);
    }
    machine.assert_clean(&ids.iter().map(String::as_str).collect::<Vec<_>>());
}

/// The processes of the shim of a container.
fn shims(id: &str, root: &std::path::Path) -> Vec<String> {
    let root = root.to_str().expect("a path in UTF-8");
    let processes = fs_err::read_dir("/proc").expect("list processes").flatten();
    let is_it = |entry: &fs_err::DirEntry| {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("containerd-shim") && line.contains(root) && line.contains(id)
    };
    processes.filter(is_it).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn what_a_killed_process_left_the_next_one_removes() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ready = machine.signal();
    let script = "echo >/ready; exec busybox sleep 1000";
    let args = ["--rm", "--name", "k", "-v", "./ready:/ready"];
    let running = dist_testutil::Running::of(machine.command(&args, &["sh", "-c", script]));
    wait_for(ready.clone());
    assert_eq!(machine.list()[0]["state"], "running");
    running.kill();
    machine.assert_clean(&["k"]);

    machine.shell(&["-d", "--name", "k"], "busybox sleep 1000").ok();
    machine.dist.ok(&["pause", "k"]);
    machine.dist.ok(&["containers", "rm", "--force", "k"]);
    machine.assert_clean(&["k"]);

    // Files whose row a power cut took go with the next command, too.
    let lost = machine.dist.root().join("containers/bundles/default/lost/rootfs");
    fs_err::create_dir_all(&lost).unwrap();
    machine.assert_clean(&[]);

    // One that nobody waits for goes when it has ended; the shim may be killed before.
    machine.shell(&["-d", "--rm", "--name", "k", "-v", "./ready:/ready"], script).ok();
    wait_for(ready);
    let pid = machine.list()[0]["pid"].as_u64().expect("a process id").to_string();
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    run("kill", &["-9", parent].map(AsRef::as_ref));
    machine.dist.ok(&["ps"]);
    machine.assert_clean(&["k"]);
    assert!(!PathBuf::from(format!("/proc/{pid}/root/bin")).exists(), "{pid} runs on");
}

#[test]
fn a_run_that_is_killed_at_any_moment_leaves_nothing() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let took = machine.run(&["--rm"], &["busybox", "true"]).ok().took;
    let rounds: u32 = if torture() { 200 } else { 12 };
    for round in 0..rounds {
        let flags = ["--rm", "--name", "m"];
        let running =
            dist_testutil::Running::of(machine.command(&flags, &["busybox", "sleep", "1000"]));
        // The moment is the stimulus here: an even spread over the run.
        std::thread::sleep(took * round / rounds);
        running.kill();
        machine.dist.ok(&["ps"]);
        machine.assert_clean(&["m"]);
    }
}

#[test]
fn a_terminal_is_one_and_has_our_size() {
    let _timed = timed("containers");
    require(&["script", "stty"]);
    let machine = Machine::busybox();
    let inner = format!(
        "stty rows 45 cols 123; {} run --rm -it --name t {} sh -c \
         'busybox tty; busybox stty size; read word; echo got $word'",
        machine.dist.binary().display(),
        machine.image
    );
    let mut command = machine.dist.clean("script");
    command.args(["-qec", &inner, "/dev/null"]);
    let input = machine.dist.dir().join("keys");
    fs_err::write(&input, "hello\n").unwrap();
    command.stdin(std::fs::File::open(input).unwrap());
    let text = machine.dist.finish(command).ok().text();
    for part in ["/dev/pts/0", "45 123", "got hello"] {
        assert!(text.contains(part), "no {part:?} in {text:?}");
    }
    machine.assert_clean(&["t"]);
}

#[test]
fn a_terminal_changes_its_size_with_ours() {
    let _timed = timed("containers");
    require(&["script", "stty"]);
    let machine = Machine::busybox();
    let (dist, ready) = (machine.dist.binary().display(), machine.signal());
    let script = "trap 'busybox stty size; exit 6' WINCH; echo >/ready; \
        busybox sleep 60 & wait; exit 1";
    // Whoever writes to the pipe waits for a reader, who then changes the size.
    let inner = format!(
        "stty rows 45 cols 123; (read ready <{ready}; stty rows 46 cols 124 </dev/tty) & \
         {dist} run --rm -it --name t -v {ready}:/ready {image} sh -c \"{script}\"",
        ready = ready.display(),
        image = machine.image,
    );
    let mut command = machine.dist.clean("script");
    command.args(["-qec", &inner, "/dev/null"]).stdin(std::process::Stdio::null());
    let ran = machine.dist.finish(command);
    assert_eq!(ran.code, Some(6), "{}", ran.text());
    assert!(ran.text().contains("46 124"), "{}", ran.text());
    machine.assert_clean(&["t"]);
}

#[test]
fn many_at_once_leave_nothing() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let ids = ten_at_once(|id| {
        let ran = machine.shell(&["--rm", "--name", id], "echo $0; exit 4");
        assert_eq!((ran.code, ran.text().as_str()), (Some(4), "sh\n"), "{}", ran.stderr);
    });
    machine.assert_clean(&ids.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn crun_runs_what_runc_runs() {
    let _timed = timed("containers");
    require(&["crun"]);
    let machine = Machine::busybox();
    let script = format!("{ONE_KIND_OF_CGROUPS} exec \"$@\"");
    let mut command = machine.dist.clean("unshare");
    command.args(["--mount", "sh", "-euc", &script, "sh"]).arg(machine.dist.binary());
    command.args(["run", "--rm", "--runtime", "crun", "--name", "c", &machine.image]);
    command.args(["sh", "-c", "echo crun; exit 5"]);
    let ran = machine.dist.finish(command);
    assert_eq!((ran.code, ran.text().as_str()), (Some(5), "crun\n"), "{}", ran.stderr);
    // It does so without being asked to, where it can: these are its words.
    let script = format!("{ONE_KIND_OF_CGROUPS} \"$@\" nosuch || echo $?; exec \"$@\" /etc");
    let mut command = machine.dist.clean("unshare");
    command.args(["--mount", "sh", "-euc", &script, "sh"]).arg(machine.dist.binary());
    command.args(["run", "--rm", "--name", "c", &machine.image]);
    let ran = machine.dist.finish(command).exit(126);
    assert_eq!(ran.text(), "127\n");
    ran.says("executable file `nosuch` not found").says("open executable:");
    machine.assert_clean(&["c"]);
}
