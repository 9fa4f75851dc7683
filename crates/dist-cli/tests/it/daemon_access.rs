//! Whom the daemon answers. The socket is open to everybody here, so that what refuses is the
//! daemon, not the kernel.

use std::os::unix::fs::PermissionsExt as _;

use dist_testutil::{Dist, Ran, Served, require, timed};

use crate::daemon::config;
use crate::support::dist;

/// The binary with a config file, and a directory that others may go through.
fn open_to_all(settings: &str) -> Dist {
    require(&["setpriv"]);
    let dist = dist();
    let everybody = fs_err::metadata(dist.dir()).expect("stat").permissions();
    let mode = everybody.mode() | 0o711;
    fs_err::set_permissions(dist.dir(), std::fs::Permissions::from_mode(mode)).expect("chmod");
    let file = config(&dist, &format!("[daemon]\nmode = \"0666\"\n{settings}"));
    dist.with(&["--config-file", &file])
}

/// Runs `ctr version` as a user and groups.
fn ask(dist: &Dist, daemon: &Served<'_>, user: &str, group: &str, groups: &str) -> Ran {
    let mut command = dist.clean("setpriv");
    command.args(["--reuid", user, "--regid", group]);
    if groups.is_empty() {
        command.arg("--clear-groups");
    } else {
        command.args(["--groups", groups]);
    }
    command.arg("ctr").arg("--address").arg(daemon.address()).arg("version");
    dist.finish(command)
}

#[test]
fn strangers_are_refused_in_words() {
    let _timed = timed("daemon");
    let dist = open_to_all("");
    let daemon = dist.daemon();
    ask(&dist, &daemon, "65534", "65534", "").exit(1).says("uid 65534 gid 65534").says("may not");
    ask(&dist, &daemon, "0", "65534", "").ok();
    // The sockets' group is root's here.
    ask(&dist, &daemon, "65534", "0", "").ok();
    ask(&dist, &daemon, "65534", "65534", "0").ok();
    let log = daemon.stop().ok().stderr;
    assert!(log.contains("uid 65534"), "a refusal is logged: {log}");
}

#[test]
fn users_and_groups_can_be_let_in() {
    let _timed = timed("daemon");
    let dist = open_to_all("allow_users = [\"nobody\", \"4001\"]\nallow_groups = [\"4002\"]\n");
    let daemon = dist.daemon();
    ask(&dist, &daemon, "65534", "4009", "").ok();
    ask(&dist, &daemon, "4001", "4009", "").ok();
    ask(&dist, &daemon, "4000", "4002", "").ok();
    ask(&dist, &daemon, "4000", "4009", "4008,4002").ok();
    ask(&dist, &daemon, "4000", "4009", "4008").exit(1).says("may not use this daemon");
}

#[test]
fn a_group_that_does_not_exist_is_told() {
    let _timed = timed("daemon");
    let dist = open_to_all("group = \"no-such-group\"\n");
    let address = dist.dir().join("dist.sock");
    let address = address.to_str().expect("a path in UTF-8");
    dist.run(&["daemon", "--address", address]).exit(2).says("no-such-group");
}
