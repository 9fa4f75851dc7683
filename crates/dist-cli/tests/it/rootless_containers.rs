//! Containers of ordinary users, by the real shim and runtime in user namespaces.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use dist_testutil::{Dist, Ran, Registry, Running, require, run, timed, torture};
use serde_json::{Value, json};

use crate::support::dist;

/// How many ids a user has beside its own.
const RANGE: u32 = 2000;

/// A user of this machine with a store, and nothing left of both afterwards.
struct Ordinary {
    dist: Dist,
    image: String,
    uid: u32,
    first: u32,
    _registry: Registry,
}

impl Ordinary {
    /// One whom nobody knows, who has no other ids.
    fn alone(image: &str) -> Self {
        Self::new(image, "exec")
    }

    /// One with ids in `/etc/subuid`. The files are this test's, in a mount namespace of each command.
    fn with_ids(image: &str) -> Self {
        require(&["newuidmap", "newgidmap"]);
        let script = "for name in passwd group subuid subgid; do
            mount --bind etc/$name /etc/$name; done; exec";
        Self::new(image, script)
    }

    fn new(image: &str, before: &str) -> Self {
        static USERS: AtomicU32 = AtomicU32::new(0);
        require(&["containerd-shim-runc-v2", "runc", "setpriv", "unshare", "nsenter"]);
        assert!(rustix::process::geteuid().is_root(), "needs root, to become somebody else");
        let user = std::process::id() % 10_000 * 20 + USERS.fetch_add(1, Ordering::Relaxed) % 20;
        let (uid, first) = (1_000_000 + user, 100_000_000 + user * RANGE);
        let (registry, dist) = (Registry::of_images(), dist());
        let write = |name: &str, text: String| {
            fs_err::write(dist.dir().join(name), text).expect("files of the test");
        };
        fs_err::create_dir(dist.dir().join("etc")).expect("files of the test");
        write("etc/passwd", format!("root:x:0:0::/:/bin/sh\nme:x:{uid}:{uid}::/:/bin/sh\n"));
        write("etc/group", format!("root:x:0:\nme:x:{uid}:\n"));
        write("etc/subuid", format!("me:{first}:{RANGE}\n"));
        write("etc/subgid", format!("me:{first}:{RANGE}\n"));
        write(
            "be",
            format!(
                "set -e\n{before} setpriv --reuid={uid} --regid={uid} --clear-groups \
                 --inh-caps=-all \"$@\"\n"
            ),
        );
        fs_err::copy(dist.binary(), dist.dir().join("dist")).expect("copy the binary");
        let owner = format!("{uid}:{uid}");
        run("chown", &["-R", &owner, &dist.dir().to_string_lossy()].map(AsRef::as_ref));
        run("chmod", &["755", &dist.dir().to_string_lossy()].map(AsRef::as_ref));
        let image = format!("localhost:{}/library/{image}", registry.port());
        let user = Self { dist, image, uid, first, _registry: registry };
        user.dist(&["pull", &user.image]).ok();
        user
    }

    /// A program, as this user.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.dist.clean("unshare");
        command.args(["--mount", "--", "sh", "be"]).args(words);
        command
    }

    fn dist(&self, args: &[&str]) -> Ran {
        self.dist.finish(self.command(&[&["./dist"], args].concat()))
    }

    /// `dist run FLAGS IMAGE ARGS`.
    fn run(&self, flags: &[&str], args: &[&str]) -> Ran {
        self.dist(&[&["run"], flags, &[self.image.as_str()], args].concat())
    }

    fn list(&self) -> Value {
        self.dist(&["ps", "--all", "--format", "json"]).ok().json()
    }

    /// The processes of this user: their names and user ids.
    fn processes(&self) -> Vec<(String, u32)> {
        // util-linux' unshare tries whether there are namespaces; its helpers may outlive who asked.
        const TRIES: [&str; 4] = ["unshare", "newuidmap", "newgidmap", "true"];
        let mut found = Vec::new();
        for entry in fs_err::read_dir("/proc").expect("list processes").flatten() {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let value = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.split_whitespace().next()).unwrap_or_default().to_owned()
            };
            let Ok(uid) = value("Uid:").parse::<u32>() else { continue };
            let is_ours = uid == self.uid || (self.first..self.first + RANGE).contains(&uid);
            let name = value("Name:");
            if is_ours && value("State:") != "Z" && !TRIES.contains(&name.as_str()) {
                found.push((name, uid));
            }
        }
        found
    }

    /// No process, mount, socket, file or row of a container is left.
    #[track_caller]
    fn assert_clean(&self) {
        assert_eq!(self.list(), json!([]));
        // Without processes there are no namespaces, and so no mounts in them.
        assert_eq!(self.processes(), []);
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        assert!(!mounts.contains(&*self.dist.root().to_string_lossy()), "{mounts}");
        for dir in ["bundles/default", "state/default", "run/s"] {
            let dir = self.dist.root().join("containers").join(dir);
            let left = fs_err::read_dir(&dir).into_iter().flatten().flatten().next();
            assert!(left.is_none(), "{left:?} is left in {}", dir.display());
        }
        let snapshots = self.dist(&["snapshots", "ls", "--format", "json"]).ok().json();
        let active =
            snapshots.as_array().expect("a list").iter().any(|row| row["kind"] != "committed");
        assert!(!active, "{snapshots}");
    }
}

impl Drop for Ordinary {
    fn drop(&mut self) {
        let ids = self.dist(&["ps", "--all", "-q"]).text();
        let ids: Vec<&str> = ids.lines().collect();
        if !ids.is_empty() {
            self.dist(&[&["rm", "--force"], &ids[..]].concat());
        }
    }
}

#[test]
fn a_user_with_one_id_runs_containers() {
    let _timed = timed("rootless");
    let user = Ordinary::alone("busybox:1");
    user.run(&["--rm"], &["busybox", "true"]).ok();
    let (uid, data) = (user.uid.to_string(), user.dist.dir().join("data"));
    fs_err::create_dir(&data).expect("files of the test");
    run("chown", &[uid.as_ref(), data.as_os_str()]);
    let script = "echo out; echo err >&2; busybox cat /proc/self/uid_map /proc/self/gid_map
        busybox ls /sys/fs/cgroup; busybox ls /sys/class/net >/data/net; exit 7";
    let ran = user.run(&["--rm", "-v", "./data:/data"], &["sh", "-c", script]);
    let words: Vec<String> = ran.text().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["out", "0", &uid, "1", "0", &uid, "1"], "{}", ran.stderr);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(7), "err\n"));
    let net = user.dist.dir().join("data/net");
    assert_eq!(fs_err::metadata(&net).expect("a file of the container").uid(), user.uid);
    let alone = user.run(&["--rm", "--net", "none"], &["busybox", "ls", "/sys/class/net"]);
    assert_eq!(alone.ok().text(), "lo\n");
    for (flags, args, code, part) in [
        (&["--rm"][..], &["nosuch"][..], 127, "executable file not found"),
        (&["--rm", "--memory", "64MiB"], &["sh"], 125, "an ordinary user can make no cgroups"),
        (&["--rm", "--net", "bridge"], &["sh"], 125, "join network bridge: that needs root"),
        (&["--rm", "--user", "7"], &["sh"], 125, "run as user 7: this user namespace has none"),
    ] {
        user.run(flags, args).exit(code).says(part);
    }
    let erofs = user.run(&["--snapshotter", "erofs"], &["true"]).exit(125);
    assert!(erofs.stderr.contains("only root may mount") && !erofs.stderr.contains("layer "));
    user.assert_clean();
}

#[test]
fn a_user_has_a_terminal() {
    let _timed = timed("rootless");
    require(&["script", "stty"]);
    let user = Ordinary::alone("busybox:1");
    let inner = format!(
        "stty rows 45 cols 123; ./dist run --rm -it {} sh -c 'busybox tty; busybox stty size; exit 6'",
        user.image
    );
    let ran = user.dist.finish(user.command(&["script", "-qec", &inner, "/dev/null"]));
    assert_eq!(ran.code, Some(6), "{:?}", ran.text());
    for part in ["/dev/pts/0", "45 123"] {
        assert!(ran.text().contains(part), "no {part:?} in {:?}", ran.text());
    }
    user.assert_clean();
}

#[test]
fn a_user_with_a_range_of_ids_runs_a_server_as_somebody_else() {
    let _timed = timed("rootless");
    let user = Ordinary::with_ids("redis:7");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = port.to_string();
    user.run(&["-d", "--name", "my-redis"], &["--port", &port]).ok();
    let ping = ["exec", "my-redis", "redis-cli", "-p", &port, "ping"];
    let answered = (0..100).any(|_| user.dist(&ping).text() == "PONG\n");
    assert!(answered, "{}", user.dist(&["logs", "my-redis"]).text());
    assert_eq!(user.list()[0]["state"], "running");
    let server = user.processes().into_iter().find(|(name, _)| name.starts_with("redis"));
    let (_, uid) = server.expect("a server that runs");
    assert!(uid >= user.first, "it runs as {uid}");
    for (flags, name) in [(&[][..], "redis\n"), (&["-u", "root"], "root\n")] {
        let args = [&["exec"], flags, &["my-redis", "id", "-un"]].concat();
        assert_eq!(user.dist(&args).ok().text(), name);
    }
    assert_eq!(user.dist(&["exec", "my-redis", "sh", "-c", "exit 3"]).code, Some(3));
    user.dist(&["exec", "-u", "5000", "my-redis", "id"]).exit(125).says("run as user 5000");
    user.dist(&["stats", "--no-stream", "my-redis"]).says("it has no cgroup");
    assert!(user.dist(&["logs", "my-redis"]).ok().text().contains("Ready to accept connections"));
    user.dist(&["kill", "--signal", "WINCH", "my-redis"]).ok();
    user.dist(&["stop", "my-redis"]).ok();
    assert_eq!(user.list()[0]["exit_status"], 0);
    assert_eq!(user.dist(&["rm", "my-redis"]).ok().text(), "my-redis\n");
    user.assert_clean();
}

#[test]
fn what_was_killed_of_a_user_goes_with_the_next_command() {
    let _timed = timed("rootless");
    let user = Ordinary::with_ids("busybox:1");
    let image = user.image.as_str();
    let took = user.run(&["--rm"], &["busybox", "true"]).ok().took;
    let rounds: u32 = if torture() { 100 } else { 10 };
    for round in 0..rounds {
        // Root of the container is the user itself, others are not.
        let as_whom = if round % 2 == 0 { "0" } else { "7" };
        let words = ["./dist", "run", "--rm", "--name", "m", "--user", as_whom, image];
        let running =
            Running::of(user.command(&[&words[..], &["busybox", "sleep", "1000"]].concat()));
        // The moment is the stimulus here: an even spread over the run.
        std::thread::sleep(took * round / rounds);
        running.kill();
        user.dist(&["ps"]).ok();
        user.assert_clean();
    }

    // Those whose shims are killed are in a user namespace each, as ids that are not the user's.
    for name in ["a", "b"] {
        user.run(&["-d", "--name", name, "-u", "7"], &["busybox", "sleep", "1000"]).ok();
    }
    let sleeping = ("busybox".to_owned(), user.first + 6);
    // A container is running a moment before its program is what its process runs.
    let are_there = || user.processes().iter().filter(|process| **process == sleeping).count() == 2;
    let asleep = (0..1000).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        are_there()
    });
    assert!(asleep, "{:?}", user.processes());
    let uid = user.uid.to_string();
    run("pkill", &["-KILL", "--uid", &uid, "containerd-shim"].map(AsRef::as_ref));
    let ends =
        || user.list().as_array().expect("a list").iter().all(|row| row["exit_status"] == 137);
    assert!((0..100).any(|_| ends()), "{}", user.list());
    user.dist(&["rm", "a", "b"]).ok();
    user.assert_clean();

    user.run(&["-d", "--name", "c", "-u", "7"], &["busybox", "sleep", "1000"]).ok();
    user.dist(&["stop", "--time", "0", "c"]).ok();
    user.run(&["-d", "--name", "d", "-u", "7"], &["busybox", "sleep", "1000"]).ok();
    user.dist(&["rm", "--force", "c", "d"]).ok();
    user.assert_clean();
}

#[test]
fn where_user_namespaces_are_forbidden_the_error_says_by_what() {
    let _timed = timed("rootless");
    let user = Ordinary::alone("busybox:1");
    // A user namespace in which no others may be made.
    let script = "unshare --user sleep 1000 & pid=$!
        trap 'kill $pid' EXIT
        until [ $(readlink /proc/$pid/ns/user) != $(readlink /proc/$$/ns/user) ]; do :; done
        echo 0 0 4294967295 >/proc/$pid/uid_map
        echo 0 0 4294967295 >/proc/$pid/gid_map
        nsenter --user --target $pid sh -c 'echo 0 >/proc/sys/user/max_user_namespaces
            exec sh be ./dist run --rm image'";
    let mut command = user.dist.clean("bash");
    command.args(["-euc", script]);
    user.dist.finish(command).exit(125).says("user.max_user_namespaces is 0");
    user.assert_clean();
}
