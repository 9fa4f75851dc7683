//! The units of `contrib/systemd`, judged by systemd, and the sockets that it passes.

use std::path::Path;

use dist_testutil::{Running, require, timed};

use crate::support::{dist, project};

/// A unit of the project with the binary under test in it.
fn unit(name: &str, binary: &Path) -> String {
    let text = fs_err::read_to_string(project().join("contrib/systemd").join(name));
    let text = text.expect("read a unit");
    text.replace("/usr/local/bin/dist", binary.to_str().expect("a path in UTF-8"))
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    let _timed = timed("systemd");
    require(&["systemd-analyze"]);
    let dist = dist();
    let names = ["dist.service", "dist.socket"];
    let verify = || {
        let mut command = dist.clean("systemd-analyze");
        command.args(["verify", "--man=no"]).args(names.map(|name| dist.dir().join(name)));
        dist.finish(command)
    };
    for name in names {
        let text = unit(name, dist.binary());
        fs_err::write(dist.dir().join(name), text).expect("write a unit");
    }
    let ran = verify().ok();
    assert_eq!(ran.stderr, "", "it warns");
    // Judges the judge.
    let text = unit(names[0], dist.binary()).replace("KillMode=process", "KillMode=none-such");
    fs_err::write(dist.dir().join(names[0]), text).expect("write a unit");
    assert!(verify().stderr.contains("none-such"), "it does not look");
}

/// In the order of the unit's lines: the API first, then the backend.
#[test]
fn both_sockets_that_systemd_passes_are_taken_in_their_order() {
    let _timed = timed("systemd");
    require(&["systemd-socket-activate"]);
    let dist = dist();
    let socket = unit("dist.socket", dist.binary());
    let listen: Vec<_> = socket
        .lines()
        .filter_map(|line| line.strip_prefix("ListenStream=/run/dist/"))
        .map(|name| dist.dir().join(name))
        .collect();
    let [api, backend] = &listen[..] else { panic!("other than two sockets: {listen:?}") };
    let mut command = dist.clean("setpriv");
    command.args(["--pdeathsig", "KILL", "systemd-socket-activate"]);
    for path in &listen {
        command.arg("--listen").arg(path);
    }
    // It passes on what it was told to; the daemon starts with the first client.
    for name in ["DIST_ROOT", "DIST_CONFIG"] {
        command.arg("--setenv").arg(name);
    }
    command.arg(dist.binary()).arg("daemon");
    let mut activated = Running::of(command);
    while !backend.exists() {
        assert!(!activated.has_ended(), "no sockets were made");
        std::thread::yield_now();
    }
    let ctr = |socket: &Path, args: &[&str]| {
        let mut ctr = dist.clean("ctr");
        ctr.arg("--address").arg(socket).args(args);
        dist.finish(ctr)
    };
    ctr(api, &["images", "ls"]).ok();
    ctr(backend, &["content", "ls"]).ok();
    ctr(backend, &["images", "ls"]).exit(1).says("unknown service");
    activated.signal("TERM");
    activated.wait().ok();
}
