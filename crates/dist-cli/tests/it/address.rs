//! The commands through a daemon do what they do on its root directory.

use dist_testutil::{Dist, Fault, FaultProxy, Gate, Image, Registry, Rule, Served, timed};

use crate::auth::{PASSWORD, USER, basic};
use crate::support::{dist, pull, pulled, verify_image, verify_store};

/// The daemon's own commands, through its socket.
pub(crate) struct Through<'a> {
    dist: &'a Dist,
    address: String,
}

impl<'a> Through<'a> {
    pub(crate) fn new(dist: &'a Dist, daemon: &Served<'_>) -> Self {
        let address = daemon.address().to_str().expect("a path in UTF-8").to_owned();
        Self { dist, address }
    }

    pub(crate) fn args<'b>(&'b self, args: &[&'b str]) -> Vec<&'b str> {
        [&["--address", &self.address], args].concat()
    }

    /// Runs a command both ways and demands that both say the same; gives what they said.
    pub(crate) fn same(&self, args: &[&str]) -> String {
        let through = self.dist.ok(&self.args(args)).text();
        assert_eq!(through, self.dist.ok(args).text(), "{args:?}");
        through
    }
}

#[test]
fn a_pull_through_a_daemon_is_a_pull() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let reference = registry.reference("test/varied:1");
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let ran = dist.ok(&through.args(&["--progress", "json", "pull", &reference]));
    assert_eq!(pulled(&ran.text()), image.digest());
    for event in ["resolved", "committed", "unpacked"] {
        let found = ran.stderr.contains(&format!("\"event\":\"{event}\""));
        assert!(found, "no {event} in\n{}", ran.stderr);
    }
    verify_image(&dist, &reference, &image);
    // Nobody has to be asked for what the daemon brought.
    drop(registry);
    assert_eq!(pull(&dist, &format!("{reference}@{}", image.digest())), image.digest());
    dist.ok(&["rmi", &format!("{reference}@{}", image.digest())]);
    for args in [
        &["images"][..],
        &["images", "--format", "json"],
        &["images", "-q"],
        &["list"],
        &["list", "--format", "json"],
        &["active"],
        &["snapshots", "ls", "--format", "json"],
        &["inspect", "--local", &reference],
        &["get", &image.digest()],
    ] {
        through.same(args);
    }
    dist.ok(&through.args(&["rmi", &reference]));
    assert_eq!(through.same(&["images", "-q"]), "");
    dist.run(&through.args(&["rmi", &reference])).exit(3).says("there is none");
    daemon.stop().ok();
    verify_store(&dist);
}

#[test]
fn content_goes_in_and_out_through_a_daemon() {
    let _timed = timed("address");
    let dist = dist();
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let data: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let digest = digest_of(&data);
    let ingest = through.args(&["ingest", "one", "--expected-digest", &digest]);
    dist.feed(&ingest, &data).ok();
    assert_eq!(through.same(&["list", "-q"]).trim(), digest);
    assert_eq!(dist.ok(&through.args(&["get", &digest])).stdout, data);
    let wrong = digest_of(b"else");
    let ingest = through.args(&["ingest", "two", "--expected-digest", &wrong]);
    dist.feed(&ingest, &data[..10]).exit(6);
    assert_eq!(through.same(&["active", "-q"]), "");
    // What a person brings stays through a collection.
    dist.ok(&["gc"]);
    assert_eq!(through.same(&["list", "-q"]).trim(), digest);
    dist.ok(&through.args(&["delete", &digest]));
    assert_eq!(through.same(&["list", "-q"]), "");
    dist.run(&through.args(&["get", &digest])).exit(3);
}

#[test]
fn the_credentials_are_those_of_the_client() {
    let _timed = timed("address");
    let (registry, image) = basic();
    let (reference, dist) = (registry.0.reference("test/private:1"), dist());
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    dist.run(&through.args(&["pull", &reference])).exit(4);
    let login = format!("{USER}:{PASSWORD}");
    let pull = through.args(&["--user", &login, "pull", &reference]);
    assert_eq!(pulled(&dist.ok(&pull).text()), image.digest());
    daemon.stop().ok();
}

#[test]
fn snapshots_are_made_and_removed_through_a_daemon() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/varied", "1");
    pull(&dist, &registry.reference("test/varied:1"));
    let chain = crate::support::chain_of(&dist, &image.digest());
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let made = dist.ok(&through.args(&["rootfs", "prepare", &chain, "mine"])).text();
    assert_eq!(made, through.same(&["snapshots", "mounts", "mine"]));
    dist.ok(&through.args(&["snapshots", "rm", "mine"]));
    dist.run(&["snapshots", "mounts", "mine"]).exit(3);
    // An image's name does as well, here and there.
    let name = registry.reference("test/varied:1");
    dist.ok(&through.args(&["rootfs", "prepare", &name, "mine"]));
    dist.ok(&["rootfs", "prepare", "--view", &name, "seen"]);
    let listed = dist.ok(&["snapshots", "ls", "--format", "json"]).json();
    for key in ["mine", "seen"] {
        let row = listed.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap();
        assert_eq!(row["parent"], chain.as_str(), "{key}");
    }
    let absent = ["rootfs", "prepare", "no/such", "none"];
    for args in [absent.to_vec(), through.args(&absent)] {
        dist.run(&args).exit(3).says("find image no/such: it is not in the store");
    }
    daemon.stop().ok();
}

#[test]
fn what_needs_a_directory_says_so() {
    let _timed = timed("address");
    let dist = dist();
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let digest = digest_of(b"x");
    for args in [
        &["path", &digest][..],
        &["fsck"],
        &["gc", "--dry-run"],
        &["gc", "--format", "json"],
        &["gc", "-q"],
        &["gc", "why", &digest],
    ] {
        dist.run(&through.args(args)).exit(2).says("--root");
    }
    dist.run(&through.args(&["--root", "/tmp", "list"])).exit(2);
    daemon.stop().ok();
    dist.run(&["--address", "/nonexistent/socket", "list"]).exit(5).says("/nonexistent/socket");
    dist.run(&["--address", "tcp://127.0.0.1:1", "list"]).exit(2).says("unix socket");
    dist.run(&["--address", "tcp://127.0.0.1:1", "daemon"]).exit(2).says("unix socket");
}

fn digest_of(data: &[u8]) -> String {
    dist_core::Digest::sha256(data).to_string()
}

#[test]
fn a_daemon_that_goes_away_is_said_to_have_gone() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::random(7, &[8_000_000]));
    image.push(&registry, "test/large", "1");
    let (proxy, gate) = (FaultProxy::start(registry.address()), Gate::default());
    proxy.add(Rule::get("/blobs/", Fault::Hold(100_000, gate.clone())));
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let running = dist.spawn(&through.args(&["pull", &proxy.reference("test/large:1")]));
    gate.wait_held(1);
    drop(daemon.kill());
    running.wait().exit(5).says("the connection broke");
    gate.open();
}
