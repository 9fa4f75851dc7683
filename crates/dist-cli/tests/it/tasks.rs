//! Containers of clients of the daemon: real `ctr`, real shims, real runc, and nothing left over.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::Digest;
use dist_grpc::api::containerd::events::{TaskExit, TaskOom};
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::tasks::v1::UpdateTaskRequest;
use dist_grpc::api::containerd::services::tasks::v1::tasks_client::TasksClient;
use dist_testutil::{Dist, Ran, Registry, Served, require, run, timed, torture};
use prost_types::Any;
use serde_json::{Value, json};
use tonic::Code;
use tonic_prost::prost::Message;

use crate::machine::cgroups;
use crate::run_images::push;
use crate::support::{dist, ten_at_once};
use crate::wire::{Server, request};

/// A store for a daemon, and nothing left of its containers afterwards.
struct Machine {
    dist: Dist,
    registry: Registry,
}

impl Machine {
    fn new() -> Self {
        require(&["containerd-shim-runc-v2", "runc", "ctr"]);
        Self { dist: dist(), registry: Registry::of_images() }
    }

    fn image(&self, name: &str) -> String {
        format!("{}/library/{name}", self.registry.address())
    }

    /// Starts a daemon that has the image `busybox:1`, whose name it gives.
    fn daemon(&self) -> (Served<'_>, String) {
        let (daemon, image) = (self.dist.daemon(), self.image("busybox:1"));
        daemon.ctr(&["images", "pull", "--plain-http", &image]).ok();
        (daemon, image)
    }

    /// A pipe through which a container and a test wait for one another.
    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.dist.dir().join(name);
        run("mkfifo", &[path.as_os_str()]);
        path
    }

    fn mount(path: &Path) -> String {
        let (path, name) = (path.display(), path.file_name().expect("a name").display());
        format!("type=bind,src={path},dst=/{name},options=rbind:rw")
    }

    fn list(&self) -> Value {
        self.dist.ok(&["containers", "ls", "--format", "json"]).json()
    }

    /// No process, mount, cgroup, socket, file or row of a container is left.
    #[track_caller]
    fn assert_clean(&self, ids: &[&str]) {
        let root = self.dist.root().to_str().expect("a path in UTF-8");
        assert_eq!(self.list(), json!([]));
        for entry in fs_err::read_dir("/proc").expect("list processes").flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            assert!(!line.contains("containerd-shim") || !line.contains(root), "{line}");
        }
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        assert!(!mounts.contains(root), "{mounts}");
        for id in ids {
            let cgroups = cgroups(|name| name == *id);
            assert_eq!(cgroups, Vec::<PathBuf>::new());
            let socket = Digest::sha256(format!("{root}/default/{id}").as_bytes());
            let socket = PathBuf::from("/run/containerd/s").join(socket.hex());
            assert!(!socket.exists(), "{}", socket.display());
        }
        for dir in ["bundles/default", "state/default"] {
            let dir = self.dist.root().join("containers").join(dir);
            let left = fs_err::read_dir(&dir).into_iter().flatten().flatten().next();
            assert!(left.is_none(), "{left:?} is left in {}", dir.display());
        }
        let snapshots = self.dist.ok(&["snapshots", "ls", "--format", "json"]).json();
        let active =
            snapshots.as_array().expect("a list").iter().any(|row| row["kind"] != "committed");
        assert!(!active, "{snapshots}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ids = self.dist.run(&["containers", "ls", "-q"]).text();
        for id in ids.lines() {
            self.dist.run(&["containers", "rm", "--force", id]);
        }
    }
}

/// Waits until a container writes to a pipe, or closes it.
fn hear(pipe: &Path) -> String {
    let mut text = String::new();
    fs_err::File::open(pipe).expect("open the pipe").read_to_string(&mut text).expect("read it");
    text
}

/// The status that `ctr tasks ls` shows.
fn status(daemon: &Served<'_>, id: &str) -> Option<String> {
    let list = daemon.ctr(&["tasks", "ls"]).ok().text();
    let line = list.lines().find(|line| line.split_whitespace().next() == Some(id))?;
    line.split_whitespace().last().map(str::to_owned)
}

/// Waits until a task has ended.
#[track_caller]
fn ended(daemon: &Served<'_>, id: &str) {
    let stopped = (0..300).any(|_| status(daemon, id).as_deref() == Some("STOPPED"));
    assert!(stopped, "{id} is {:?}", status(daemon, id));
}

/// Runs busybox's shell in the foreground, and gives what came of it.
fn shell(daemon: &Served<'_>, flags: &[&str], image: &str, id: &str, script: &str) -> Ran {
    daemon.ctr(&[&["run"], flags, &[image, id, "sh", "-c", script]].concat())
}

#[test]
fn ctr_runs_a_command_and_gives_its_exit_code() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let ran = shell(&daemon, &["--rm"], &image, "first", "echo out; echo err >&2; exit 7");
    assert_eq!((ran.code, ran.text().as_str()), (Some(7), "out\n"));
    assert!(ran.stderr.contains("err\n"), "{}", ran.stderr);
    let ran = daemon.ctr(&["run", "--rm", &image, "first", "nosuch"]);
    ran.exit(1).says("executable file not found");
    let ran = daemon.ctr(&["run", "--rm", "--runtime", "io.containerd.nope.v1", &image, "first"]);
    ran.exit(1).says("containerd-shim-nope-v1");
    // A bad spec is told, and leaves nothing either.
    let config = machine.dist.dir().join("config.json");
    fs_err::write(&config, "{\"ociVersion\": \"1.0.2\", \"process\": 7}").unwrap();
    let config = config.to_str().unwrap();
    let ran = daemon.ctr(&["run", "--rm", "--config", config, "bad"]);
    ran.exit(1);
    for id in ["first", "bad"] {
        daemon.ctr(&["containers", "rm", id]);
    }
    machine.assert_clean(&["first", "bad"]);
}

#[test]
fn commands_and_clients_see_the_same_containers() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let dist = &machine.dist;
    daemon.ctr(&["run", "-d", &image, "theirs", "busybox", "sleep", "1000"]).ok();
    let row = dist.ok(&["ps", "--format", "json"]).json()[0].clone();
    assert_eq!((&row["id"], &row["state"]), (&json!("theirs"), &json!("running")));
    assert_eq!(row["image"], json!(image));
    assert_eq!(dist.ok(&["exec", "theirs", "sh", "-c", "echo $0"]).text(), "sh\n");
    dist.ok(&["pause", "theirs"]);
    assert_eq!(status(&daemon, "theirs").as_deref(), Some("PAUSED"));
    daemon.ctr(&["tasks", "resume", "theirs"]).ok();
    dist.run(&["stop", "--time", "0", "theirs"]).ok();
    assert_eq!(dist.ok(&["wait", "theirs"]).text(), "137\n");
    // What a command has recorded, with the shim gone, a client sees, and deletes.
    assert_eq!(status(&daemon, "theirs").as_deref(), Some("STOPPED"));
    daemon.ctr(&["tasks", "kill", "theirs"]).exit(1).says("process already finished: not found");
    daemon.ctr(&["tasks", "rm", "theirs"]).ok().says("non-zero exit code 137");
    daemon.ctr(&["containers", "rm", "theirs"]).ok();

    dist.ok(&["run", "-d", "--name", "ours", &image, "sh", "-c", "busybox sleep 1000"]);
    assert_eq!(status(&daemon, "ours").as_deref(), Some("RUNNING"));
    let exec = daemon.ctr(&["tasks", "exec", "--exec-id", "e", "ours", "sh", "-c", "exit 4"]);
    assert_eq!(exec.code, Some(4), "{}", exec.stderr);
    daemon.ctr(&["containers", "rm", "ours"]).exit(1).says("cannot delete a non stopped container");
    daemon.ctr(&["tasks", "kill", "-s", "KILL", "ours"]).ok();
    ended(&daemon, "ours");
    daemon.ctr(&["containers", "rm", "ours"]).ok();
    machine.assert_clean(&["theirs", "ours"]);
}

#[test]
fn containers_outlive_the_daemon_and_the_next_one_has_them() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let pipes = ["ends", "stays"].map(|id| machine.pipe(&format!("go-{id}")));
    let log = |id: &str| machine.dist.dir().join(format!("{id}.log"));
    for (id, pipe, script) in [
        ("ends", &pipes[0], "echo first; read go </go-ends; exit 7"),
        (
            "stays",
            &pipes[1],
            "echo 1; read go </go-stays; echo 2; until read go </go-stays; do :; done; exit 9",
        ),
    ] {
        let uri = format!("file://{}", log(id).display());
        let flags = ["-d", "--log-uri", &uri, "--mount", &Machine::mount(pipe)];
        shell(&daemon, &flags, &image, id, script).ok();
    }
    daemon.kill();
    for pipe in &pipes {
        fs_err::write(pipe, "go\n").unwrap();
    }
    let daemon = machine.dist.daemon();
    ended(&daemon, "ends");
    assert_eq!(status(&daemon, "stays").as_deref(), Some("RUNNING"));
    let exec = daemon.ctr(&["tasks", "exec", "--exec-id", "e", "stays", "sh", "-c", "echo in"]);
    assert_eq!(exec.ok().text(), "in\n");
    // The shims of the daemon that was killed tell this one.
    let told = end_told(daemon.address(), "stays", || fs_err::write(&pipes[1], "go\n").unwrap());
    assert_eq!(told, 9);
    ended(&daemon, "stays");
    for (id, code) in [("ends", 7), ("stays", 9)] {
        daemon.ctr(&["tasks", "rm", id]).ok().says(&format!("non-zero exit code {code}"));
        daemon.ctr(&["containers", "rm", id]).ok();
    }
    assert_eq!(fs_err::read_to_string(log("ends")).unwrap(), "first\n");
    assert_eq!(fs_err::read_to_string(log("stays")).unwrap(), "1\n2\n");
    machine.assert_clean(&["ends", "stays"]);
}

/// The exit status that an event tells of a container's own process after something was done. What
/// other processes still have to tell comes in between.
fn end_told(socket: &Path, container: &str, act: impl FnOnce()) -> u32 {
    told(socket, "/tasks/exit", act, |exit: TaskExit| {
        (exit.container_id == container && exit.id == container).then_some(exit.exit_status)
    })
}

/// What is `wanted` of the events of a topic that come after something was done.
fn told<E: Message + Default, T>(
    socket: &Path,
    topic: &str,
    act: impl FnOnce(),
    wanted: impl Fn(E) -> Option<T>,
) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("make a runtime").block_on(async {
        let server = Server::connect(socket, false).await;
        let filters = vec![format!("topic==\"{topic}\"")];
        let subscribe = request("", "", SubscribeRequest { filters });
        let events = EventsClient::new(server.channel).subscribe(subscribe).await;
        act();
        let mut events = events.expect("subscribe").into_inner();
        loop {
            let told = tokio::time::timeout(Duration::from_secs(60), events.message()).await;
            let told = told.expect("it is told at all").expect("an event").expect("no end before");
            let event = told.event.expect("what happened");
            if let Some(told) = wanted(E::decode(&*event.value).expect("such an event")) {
                return told;
            }
        }
    })
}

#[test]
fn what_a_killed_shim_ran_is_ended_and_told() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let ready = machine.pipe("ready");
    let script = "echo >/ready; exec busybox sleep 1000";
    let mount = Machine::mount(&ready);
    let flags = ["run", "--rm", "--mount", &mount, &image, "k", "sh", "-c", script];
    let waiting = daemon.spawn_ctr(&flags);
    hear(&ready);
    let pid = machine.list()[0]["pid"].as_u64().expect("a process id").to_string();
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
    run("kill", &["-9", shim].map(AsRef::as_ref));
    let ran = waiting.wait();
    assert_eq!(ran.code, Some(137), "{}", ran.stderr);
    machine.assert_clean(&["k"]);
    assert!(!PathBuf::from(format!("/proc/{pid}/root/bin")).exists(), "{pid} runs on");

    // Without anybody who asks, whoever has made it.
    daemon.ctr(&["run", "-d", &image, "theirs", "busybox", "sleep", "1000"]).ok();
    machine.dist.ok(&["run", "-d", "--name", "ours", &image, "busybox", "sleep", "1000"]);
    for id in ["theirs", "ours"] {
        let row = machine.list();
        let row = row.as_array().unwrap().iter().find(|row| row["id"] == id).unwrap();
        let pid = row["pid"].as_u64().expect("a process id");
        let status = fs_err::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let shim = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim();
        let kill = || drop(run("kill", &["-9", shim].map(AsRef::as_ref)));
        assert_eq!(end_told(daemon.address(), id, kill), 137, "{id}");
        let told = machine.dist.ok(&["inspect", id]).json();
        assert_eq!((&told["state"], &told["exit_status"]), (&json!("exited"), &json!(137)));
        daemon.ctr(&["containers", "rm", id]).ok();
    }
    machine.assert_clean(&["theirs", "ours"]);
}

#[test]
fn memory_that_is_not_there_is_told() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let go = machine.pipe("go");
    let eat = "busybox dd if=/dev/zero of=/dev/null bs=200M count=1";
    let script = format!("read go </go; {eat}; exit $?");
    let flags = ["-d", "--memory-limit", "16777216", "--mount", &Machine::mount(&go)];
    shell(&daemon, &flags, &image, "eats", &script).ok();
    let id = told(
        daemon.address(),
        "/tasks/oom",
        || fs_err::write(&go, "go\n").unwrap(),
        |oom: TaskOom| Some(oom.container_id),
    );
    assert_eq!(id, "eats");
    ended(&daemon, "eats");
    let inspected = machine.dist.ok(&["inspect", "eats"]).json();
    assert_eq!((&inspected["state"], &inspected["exit_status"]), (&json!("exited"), &json!(137)));
    daemon.ctr(&["containers", "rm", "eats"]).ok();
    let args = ["run", "--rm", "--memory", "16MiB", &image, "sh", "-c", &format!("{eat}; exit $?")];
    machine.dist.run(&args).exit(137);
    machine.assert_clean(&["eats"]);
}

#[test]
fn many_of_a_client_at_once_leave_nothing() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let ids = ten_at_once(|id| {
        let ran = shell(&daemon, &["--rm"], &image, id, "echo $0; exit 4");
        assert_eq!((ran.code, ran.text().as_str()), (Some(4), "sh\n"), "{}", ran.stderr);
    });
    machine.assert_clean(&ids.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn clients_are_told_of_broken_images() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    machine.dist.ok(&["unpack", &image, "busybox"]);
    let busybox = fs_err::read(machine.dist.dir().join("busybox/bin/busybox")).unwrap();
    let registry = Registry::start();
    for (name, settings, part) in [
        ("user", json!({"User": "ghost", "Cmd": ["sh"]}), "no users found"),
        ("missing", json!({"Entrypoint": ["/bin/server"]}), "no such file or directory"),
        ("unknown", json!({"Cmd": ["server"]}), "executable file not found"),
        ("locked", json!({"Cmd": ["/bin/locked"]}), "ermission denied"),
        ("text", json!({"Cmd": ["/bin/text"]}), "exec format error"),
        ("type", json!({"Cmd": "sh -c true"}), "cannot unmarshal string"),
    ] {
        let image = push(&registry, &busybox, name, settings);
        // By a command, which does not mind that nobody can run it.
        machine.dist.ok(&["pull", &image]);
        daemon.ctr(&["run", "--rm", &image, name]).exit(1).says(part);
        // What ctr has made before it asked for a task it leaves to its user, on any daemon.
        daemon.ctr(&["containers", "rm", name]);
        daemon.ctr(&["snapshots", "rm", name]);
        machine.assert_clean(&[name]);
    }
}

#[test]
fn a_daemon_that_is_killed_at_any_moment_leaves_what_can_be_removed() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let took = shell(&daemon, &["--rm"], &image, "m", "exit 0").ok().took;
    drop(daemon);
    let rounds: u32 = if torture() { 100 } else { 8 };
    for round in 0..rounds {
        let daemon = machine.dist.daemon();
        let running = daemon.spawn_ctr(&["run", "-d", &image, "m", "busybox", "sleep", "1000"]);
        // The moment is the stimulus here: an even spread over the run.
        std::thread::sleep(took * round / rounds);
        daemon.kill();
        running.wait();
        let daemon = machine.dist.daemon();
        let gone = |_| {
            // A shim goes on with what it was told before: it may start the process only now.
            daemon.ctr(&["tasks", "kill", "-s", "KILL", "m"]);
            daemon.ctr(&["tasks", "rm", "m"]);
            daemon.ctr(&["containers", "rm", "m"]);
            machine.list() == json!([])
        };
        assert!((0..300).any(gone), "{}", machine.list());
        // The snapshot of a container that was never made is nobody's.
        daemon.ctr(&["snapshots", "rm", "m"]);
        machine.assert_clean(&["m"]);
    }
}

#[test]
fn a_container_of_a_client_keeps_its_image_s_layers() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    daemon.ctr(&["run", "-d", &image, "g", "busybox", "sleep", "1000"]).ok();
    daemon.ctr(&["images", "rm", "--sync", &image]).ok();
    machine.dist.ok(&["gc"]);
    let exec = ["tasks", "exec", "--exec-id", "e", "g", "busybox", "ls", "/bin/busybox"];
    assert_eq!(daemon.ctr(&exec).ok().text(), "/bin/busybox\n");
    let snapshots = || machine.dist.ok(&["snapshots", "ls", "-q"]).text().lines().count();
    assert!(snapshots() > 1);
    daemon.ctr(&["tasks", "kill", "-s", "KILL", "g"]).ok();
    ended(&daemon, "g");
    daemon.ctr(&["containers", "rm", "g"]).ok();
    machine.dist.ok(&["gc"]);
    assert_eq!(snapshots(), 0);
    machine.assert_clean(&["g"]);
}

#[test]
fn a_task_may_use_less_than_before() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    daemon.ctr(&["run", "-d", &image, "less", "busybox", "sleep", "1000"]).ok();
    let update = |id: &str, limit: &str| {
        let resources = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: format!(r#"{{"memory":{{"limit":{limit}}}}}"#).into(),
        };
        let message = UpdateTaskRequest {
            container_id: id.into(),
            resources: Some(resources),
            ..Default::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("make a runtime").block_on(async {
            let server = Server::connect(daemon.address(), false).await;
            let mut client = TasksClient::new(server.channel);
            client.update(request("default", "", message)).await.map_err(|status| status.code())
        })
    };
    update("less", "67108864").unwrap();
    let limits = ["memory/default/less/memory.limit_in_bytes", "default/less/memory.max"];
    let limits = limits.map(|path| fs_err::read_to_string(format!("/sys/fs/cgroup/{path}")));
    let limit = limits.into_iter().find_map(Result::ok).expect("a limit");
    assert_eq!(limit, "67108864\n");
    assert_eq!(update("less", "\"all\"").unwrap_err(), Code::Unknown);
    assert_eq!(update("none", "67108864").unwrap_err(), Code::NotFound);
    daemon.ctr(&["tasks", "rm", "--force", "less"]).ok();
    daemon.ctr(&["containers", "rm", "less"]).ok();
    machine.assert_clean(&["less"]);
}

#[test]
fn redis_answers() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = (machine.dist.daemon(), machine.image("redis:7"));
    daemon.ctr(&["images", "pull", "--plain-http", &image]).ok();
    let env = ["--env", "PATH=/usr/local/bin:/usr/bin:/bin"];
    daemon.ctr(&[&["run", "-d"][..], &env, &[&image, "r"]].concat()).ok();
    let ping = |n| {
        let id = format!("ping-{n}");
        daemon.ctr(&["tasks", "exec", "--exec-id", &id, "r", "redis-cli", "ping"])
    };
    // It answers once it listens, and each question takes its time.
    let answered = (0..100).any(|n| ping(n).text() == "PONG\n");
    assert!(answered, "{}", ping(100).stderr);
    daemon.ctr(&["tasks", "kill", "r"]).ok();
    ended(&daemon, "r");
    daemon.ctr(&["tasks", "rm", "r"]).ok();
    daemon.ctr(&["containers", "rm", "r"]).ok();
    machine.assert_clean(&["r"]);
}

#[test]
fn output_goes_where_the_client_wants_it() {
    let _timed = timed("tasks");
    let machine = Machine::new();
    let (daemon, image) = machine.daemon();
    let (log, done) = (machine.dist.dir().join("log"), machine.pipe("done"));
    let logger = machine.dist.dir().join("logger");
    let script = format!(
        "#!/bin/sh\nexec 5>&-\nhead -n 20000 <&3 >{}\necho $CONTAINER_ID >{}\n",
        log.display(),
        done.display()
    );
    fs_err::write(&logger, script).unwrap();
    run("chmod", &["+x".as_ref(), logger.as_os_str()]);
    let uri = format!("binary://{}", logger.display());
    shell(&daemon, &["-d", "--log-uri", &uri], &image, "b", "busybox seq 20000").ok();
    assert_eq!(hear(&done), "b\n");
    let text = fs_err::read_to_string(&log).unwrap();
    assert!(text.starts_with("1\n2\n") && text.ends_with("\n20000\n"), "{} bytes", text.len());
    ended(&daemon, "b");
    daemon.ctr(&["containers", "rm", "b"]).ok();
    // Through the client's own pipes, as much as a pipe does not hold.
    let much = daemon.ctr(&["run", "--rm", &image, "m", "busybox", "seq", "200000"]).ok();
    assert!(much.text().ends_with("\n200000\n") && much.stdout.len() == 1_288_895);
    machine.assert_clean(&["b", "m"]);
}
