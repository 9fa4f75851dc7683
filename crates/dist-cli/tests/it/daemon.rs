//! `dist daemon` as a process: how it starts, what it says of itself, what it refuses.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};

use dist_testutil::{Dist, timed};

use crate::support::dist;

/// A config file among the test's own files.
pub(crate) fn config(dist: &Dist, text: &str) -> String {
    let path = dist.dir().join("dist.toml");
    fs_err::write(&path, text).expect("write the config");
    path.to_str().expect("a path in UTF-8").to_owned()
}

#[test]
fn ctr_reads_the_version_and_the_daemon_stops_in_order() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let version = daemon.ctr(&["version"]).ok().text();
    let ours = dist.ok(&["version"]).text();
    let ours = ours.split_whitespace().last().expect("a version");
    assert!(version.contains(ours), "{version} has no {ours}");
    let (address, backend) = (daemon.address().to_owned(), daemon.backend());
    for path in [&address, &backend] {
        let there = fs_err::symlink_metadata(path).expect("stat the socket");
        assert!(there.file_type().is_socket());
        assert_eq!(there.permissions().mode() & 0o7777, 0o660, "{}", path.display());
        assert_eq!(there.uid(), rustix::process::geteuid().as_raw());
    }
    let dir = fs_err::metadata(address.parent().expect("a directory")).expect("stat");
    assert_eq!(dir.permissions().mode() & 0o7777, 0o711);
    daemon.stop().ok();
    assert!(!address.exists() && !backend.exists(), "the sockets are still there");
}

#[test]
fn its_identity_survives_a_restart() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let uuid = |daemon: &dist_testutil::Served<'_>| {
        let text = daemon.ctr(&["version"]).ok().text();
        let (_, uuid) = text.split_once("UUID: ").unwrap_or_else(|| panic!("no UUID in {text}"));
        uuid.trim().to_owned()
    };
    let first = uuid(&daemon);
    assert_eq!(first.len(), 36);
    daemon.stop().ok();
    assert_eq!(uuid(&dist.daemon()), first);
}

#[test]
fn plugins_are_listed_and_filtered() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let all = daemon.ctr(&["plugins", "ls"]).ok().text();
    for (kind, id) in [
        ("snapshotter.v1", "overlayfs"),
        ("snapshotter.v1", "native"),
        ("grpc.v1", "version"),
        ("runtime.v2", "task"),
    ] {
        let found = all.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(&format!("io.containerd.{kind}")) && words.next() == Some(id)
        });
        assert!(found, "{kind} {id} is not in\n{all}");
    }
    let some = daemon.ctr(&["plugins", "ls", "type==io.containerd.snapshotter.v1,id==native"]);
    let some = some.ok().text();
    assert_eq!(some.lines().count(), 2, "{some}");
    assert!(some.contains("native"), "{some}");
    daemon.ctr(&["plugins", "ls", "type="]).exit(1).says("invalid argument");
}

#[test]
fn events_reach_ctr_under_the_names_it_knows() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    // What happens before the subscription is there is not told, so it happens again and again.
    let mut command = daemon.ctr_command(&["events"]);
    let mut events = command.stdout(std::process::Stdio::piped()).spawn().expect("start ctr");
    let mut said = events.stdout.take().expect("a piped stdout");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        let mut chunk = [0; 4096];
        while !text.contains("/snapshot/remove") {
            let length = said.read(&mut chunk).expect("read the events");
            assert!(length > 0, "ctr ended after: {text}");
            text.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
        text
    });
    while !reader.is_finished() {
        daemon.ctr(&["snapshots", "--snapshotter", "native", "prepare", "key"]).ok();
        daemon.ctr(&["snapshots", "--snapshotter", "native", "rm", "key"]).ok();
    }
    events.kill().expect("stop ctr");
    events.wait().expect("wait for ctr");
    let text = reader.join().expect("the events");
    let line = text.lines().find(|line| line.contains("/snapshot/remove")).expect("an event");
    assert!(line.contains(" default /snapshot/remove {"), "{line}");
    assert!(line.contains("\"key\":\"key\""), "ctr knows the message: {line}");
}

#[test]
fn a_socket_that_nobody_listens_on_is_taken_over() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let address = daemon.address().to_owned();
    daemon.kill();
    assert!(address.exists(), "a killed daemon leaves its socket");
    let daemon = dist.daemon();
    daemon.ctr(&["version"]).ok();
}

#[test]
fn what_is_in_the_way_is_left_alone() {
    let _timed = timed("daemon");
    let dist = dist();
    let path = dist.dir().join("precious");
    fs_err::write(&path, "data").expect("write a file");
    let address = path.to_str().expect("a path in UTF-8");
    dist.run(&["daemon", "--address", address]).exit(1).says("something else is there");
    assert_eq!(fs_err::read_to_string(&path).expect("read it back"), "data");
    let long = format!("{}/{}", dist.dir().display(), "x".repeat(108));
    dist.run(&["daemon", "--address", &long]).exit(2).says(&long);
}

#[test]
fn one_daemon_a_root_and_one_a_socket() {
    let _timed = timed("daemon");
    let (one, other) = (dist(), dist());
    let daemon = one.daemon();
    let elsewhere = one.dir().join("elsewhere.sock");
    let elsewhere = elsewhere.to_str().expect("a path in UTF-8");
    one.run(&["daemon", "--address", elsewhere]).exit(9).says("another daemon serves it");
    let address = daemon.address().to_str().expect("a path in UTF-8");
    other.run(&["daemon", "--address", address]).exit(9).says("a daemon already listens on");
    daemon.ctr(&["version"]).ok();
    // Commands work on the root beside its daemon.
    one.ok(&["images"]);
}

#[test]
fn a_socket_that_is_passed_is_taken() {
    let _timed = timed("daemon");
    let dist = dist();
    let path = dist.dir().join("passed.sock");
    let listener = UnixListener::bind(&path).expect("make a socket");
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"";
    let mut command = dist.clean("setpriv");
    command
        .args(["--pdeathsig", "KILL", "sh", "-c", script, "sh"])
        .arg(dist.binary())
        .arg("daemon")
        .stdin(std::os::fd::OwnedFd::from(listener));
    let daemon = dist.start_service(command);
    let mut ctr = dist.clean("ctr");
    ctr.arg("--address").arg(&path).arg("version");
    dist.finish(ctr).ok();
    daemon.signal("TERM");
    daemon.wait().ok();
    assert!(path.exists(), "who made the socket removes it");
}

#[test]
fn metrics_tell_what_was_asked() {
    let _timed = timed("daemon");
    let dist = dist();
    let path = dist.dir().join("metrics.sock");
    let daemon = dist.daemon_with(&["--metrics", path.to_str().expect("a path in UTF-8")]);
    daemon.ctr(&["version"]).ok();
    daemon.ctr(&["plugins", "ls", "type="]).exit(1);
    let get = |what: &str| {
        let mut client = UnixStream::connect(&path).expect("connect to the metrics");
        write!(client, "GET {what} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("ask");
        let mut text = String::new();
        client.read_to_string(&mut text).expect("read the answer");
        text
    };
    let text = get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    for line in [
        "dist_requests_total{method=\"containerd.services.version.v1.Version/Version\",code=\"OK\"} 1",
        "dist_requests_total{method=\"containerd.services.introspection.v1.Introspection/Plugins\",\
         code=\"INVALID_ARGUMENT\"} 1",
        "dist_active_requests 0",
        "dist_ingests 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|there| there == line), "no {line} in\n{text}");
    }
    assert!(text.contains("dist_request_duration_seconds_count{"), "{text}");
    assert!(get("/").starts_with("HTTP/1.1 404"));
    let there = fs_err::symlink_metadata(&path).expect("stat the socket");
    assert_eq!(there.permissions().mode() & 0o7777, 0o660);
    daemon.stop().ok();
    assert!(!path.exists(), "the socket is still there");
}

#[test]
fn metrics_are_for_this_machine_only() {
    let _timed = timed("daemon");
    let dist = dist();
    let address = dist.dir().join("dist.sock");
    let address = address.to_str().expect("a path in UTF-8");
    for bad in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9", "localhost", "9100"] {
        dist.run(&["daemon", "--address", address, "--metrics", bad]).exit(2).says(bad);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = taken.local_addr().expect("an address").to_string();
    dist.run(&["daemon", "--address", address, "--metrics", &port])
        .exit(9)
        .says(&format!("serve metrics on {port}: another process listens there"));
}

#[test]
fn the_config_file_says_how_it_listens() {
    let _timed = timed("daemon");
    let dist = dist();
    let file = config(
        &dist,
        "[daemon]\nmode = \"0600\"\nbackend_address = \"\"\nlog_format = \"json\"\n\
         log_level = \"debug\"\ngroup = \"0\"\n",
    );
    let dist = dist.with(&["--config-file", &file]);
    let daemon = dist.daemon();
    let there = fs_err::symlink_metadata(daemon.address()).expect("stat the socket");
    assert_eq!(there.permissions().mode() & 0o7777, 0o600);
    assert!(!daemon.backend().exists());
    daemon.ctr(&["version"]).ok();
    let log = daemon.stop().ok().stderr;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    let request = lines
        .iter()
        .find(|line| line["fields"]["method"] == "containerd.services.version.v1.Version/Version")
        .unwrap_or_else(|| panic!("no request in {log}"));
    assert!(request["span"].is_null(), "each field once: {request}");
    let request = &request["fields"];
    assert!(request["id"].is_u64() && request["ms"].is_u64() && request["code"] == "OK");
    assert!(request["peer"].as_str().is_some_and(|peer| peer.starts_with("uid 0 ")), "{request}");
    let bad = config(&dist, "[daemon]\n\nmodes = \"0600\"\n");
    let line = format!("{bad}: line 3: unknown field `modes`");
    dist.run(&["daemon"]).exit(2).says(&line);
    dist.run(&["images"]).exit(2).says(&line);
}

#[test]
fn config_show_tells_where_settings_come_from() {
    let _timed = timed("daemon");
    let dist = dist();
    let file = config(&dist, "namespace = \"of-the-file\"\njobs = 2\n");
    let rows = dist
        .with(&["--config-file", &file, "--jobs", "3"])
        .ok(&["config", "show", "--format", "json"])
        .json();
    let row = |key: &str| {
        let row = rows.as_array().expect("rows").iter().find(|row| row["key"] == key);
        row.unwrap_or_else(|| panic!("no {key} in {rows}")).clone()
    };
    assert_eq!(row("namespace")["value"], "of-the-file");
    assert_eq!(row("namespace")["from"], file.as_str());
    assert_eq!((&row("jobs")["value"], &row("jobs")["from"]), (&3.into(), &"flag".into()));
    assert_eq!(row("root")["from"], "DIST_ROOT");
    assert_eq!(row("durability")["from"], "default");
}

#[test]
fn why_a_daemon_can_not_listen_is_told_by_its_address() {
    let _timed = timed("daemon");
    let (dist, other) = (dist(), dist());
    let daemon = dist.daemon();
    let address = daemon.address().to_owned();
    let address = address.to_str().expect("a path in UTF-8");
    let again = ["daemon", "--address", address];
    let says = format!("a daemon already listens on {address}");
    for dist in [&dist, &other] {
        dist.run(&again).exit(9).says(&says).says("another --address");
    }
    daemon.stop().ok();
    fs_err::write(address, "").expect("write a file");
    dist.run(&again).exit(1).says("something else is there").says("hint: it is no socket");
    dist.run(&["daemon", "--address", "127.0.0.1:9999"]).exit(2).says("unix socket");
    let file = other.dir().join("file");
    fs_err::write(&file, "").expect("write a file");
    let new = other.dir().join("new/dist.sock");
    let new = new.to_str().expect("a path in UTF-8");
    let root = file.to_str().expect("a path in UTF-8");
    let ran = other.run(&["--root", root, "daemon", "--address", new]);
    assert!(ran.code != Some(0) && !ran.stderr.contains("listening"), "{}", ran.stderr);
    assert!(!other.dir().join("new").exists(), "the directory is still there");
}
