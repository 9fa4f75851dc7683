//! Kills in the middle of uploads: what comes next goes on where the registry has them.

use dist_testutil::{
    Dist, Fault, FaultProxy, Gate, Image, Registry, Request, Rule, request, timed,
};

use super::support::dist;

/// Requests that carried this blob to its end.
fn sent(log: &[Request], digest: &str) -> Vec<Request> {
    let hex = digest.trim_start_matches("sha256:");
    let of = |request: &&Request| request.method == "PUT" && request.path.contains(hex);
    log.iter().filter(of).cloned().collect()
}

/// What the registry answered to the question how much of an upload came.
fn standings(log: &[Request]) -> Vec<u16> {
    let asked = |request: &&Request| request.method == "GET" && request.path.contains("_state=");
    log.iter().filter(asked).map(|request| request.status).collect()
}

/// Checks that the registry has exactly this image.
fn verify(registry: &Registry, name: &str, image: &Image) {
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    let get = |path: &str| request(registry.address(), "GET", path, &accept, b"").body;
    assert!(get(&format!("/v2/{name}/manifests/1")) == image.manifest.bytes, "{name}");
    for blob in &image.blobs {
        let path = format!("/v2/{name}/blobs/{}", blob.digest);
        assert!(get(&path) == blob.bytes, "{path}");
    }
}

/// How many uploads are noted.
fn notes(dist: &Dist) -> usize {
    let dir = dist.home().join(".local/state/dist/uploads");
    std::fs::read_dir(dir).map_or(0, Iterator::count)
}

fn wait_idle(proxy: &FaultProxy) {
    while proxy.log().iter().any(|request| request.is_open) {
        std::thread::yield_now();
    }
}

#[test]
fn a_copy_killed_between_two_parts_sends_the_rest_alone() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let image = Image::random(40, &[5 << 20]);
    image.push(&there, "app", "1");
    // All of it is too much; the third part never gets there.
    let gate = Gate::default();
    to.add(Rule::upload(Fault::KeepHeld(0, gate.clone())).by("PATCH").after(2).times(1));
    to.add(Rule::upload(Fault::TooLarge(2 << 20)));
    let dist = dist().with(&["--retry-delay", "10ms"]);
    let (source, destination) = (from.reference("app:1"), to.reference("app:1"));
    let command = ["copy", "--jobs", "1", &source, &destination];
    let running = dist.spawn(&command);
    gate.wait_held(1);
    running.kill();
    gate.open();
    wait_idle(&to);
    assert_eq!(notes(&dist), 1);
    let before = to.log().len();
    from.reset();
    dist.ok(&command);
    verify(&here, "app", &image);
    let layer = image.layer(0);
    let gets = from.blob_gets(&layer);
    let from_there = |get: &&Request| get.range.as_deref() == Some("bytes=2097152-");
    assert!(gets.iter().all(|get| from_there(&get)), "what was hashed is read again: {gets:?}");
    let log = to.log().split_off(before);
    let parts = log.iter().filter(|request| request.method == "PATCH");
    let received: u64 = parts.chain(&sent(&log, &layer)).map(|request| request.received).sum();
    assert_eq!(received, image.blobs[1].bytes.len() as u64 - (2 << 20), "{log:?}");
    assert_eq!(notes(&dist), 0, "what has arrived is noted no more");
}

/// Runs a command until it ends by itself, killed whenever some more bytes have reached the registry;
/// returns how often that was.
fn run_over_kills(dist: &Dist, command: &[&str], to: &FaultProxy, every: u64) -> u32 {
    let received = || to.log().iter().map(|request| request.received).sum::<u64>();
    let mut kills = 0;
    loop {
        let next = received() + every;
        let mut running = dist.spawn(command);
        while received() < next && !running.has_ended() {
            std::thread::yield_now();
        }
        if running.has_ended() {
            running.wait().ok();
            return kills;
        }
        running.kill();
        kills += 1;
        wait_idle(to);
        assert!(kills < 100, "it gets nowhere: {:?}", to.log());
    }
}

/// Kills a command again and again, and counts what of the image's blobs reached the registry.
fn nothing_is_sent_twice(seed: u64, command: impl Fn(&Dist, &str, &str) -> Vec<String>) {
    let (there, here) = (Registry::start(), Registry::start());
    let to = FaultProxy::start(here.address());
    let image = Image::random(seed, &[6 << 20, 5 << 20, 300_000]);
    image.push(&there, "app", "1");
    let dist = dist().with(&["--limit-rate", "24M"]);
    let destination = to.reference("to/app");
    let command = command(&dist, &there.reference("app"), &destination);
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    to.add(Rule::upload(Fault::KeepAll));
    let kills = run_over_kills(&dist, &command, &to, 1_300_000 + seed * 1000);
    assert!(kills > 2, "{kills}");
    verify(&here, "to/app", &image);
    let log = to.log();
    for blob in &image.blobs[1..3] {
        let sent = sent(&log, &blob.digest.to_string());
        let received: u64 = sent.iter().map(|request| request.received).sum();
        assert_eq!(received, blob.bytes.len() as u64, "{sent:?}");
    }
    assert!(standings(&log).contains(&204), "{log:?}");
    assert_eq!(notes(&dist), 0);
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn a_copy_killed_at_any_moment_sends_nothing_twice() {
    let _timed = timed("copy");
    nothing_is_sent_twice(41, |_, source, to| {
        words(&["copy", &format!("{source}:1"), &format!("{to}:1")])
    });
}

#[test]
fn a_push_killed_at_any_moment_sends_nothing_twice() {
    let _timed = timed("push");
    nothing_is_sent_twice(42, |dist, source, to| {
        dist.ok(&["pull", &format!("{source}:1")]);
        words(&["push", &format!("{source}:1"), &format!("{to}:1")])
    });
}

#[test]
fn a_sync_killed_at_any_moment_sends_nothing_twice() {
    let _timed = timed("sync");
    nothing_is_sent_twice(43, |dist, source, to| {
        let file = dist.dir().join("sync.toml");
        let text = format!("[[repository]]\nsource = '{source}'\ndestination = '{to}'\n");
        std::fs::write(&file, text).expect("write the file");
        words(&["sync", file.to_str().expect("a name")])
    });
}

#[test]
fn an_upload_that_the_registry_forgot_begins_anew() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let to = FaultProxy::start(here.address());
    let image = Image::random(44, &[3 << 20]);
    image.push(&there, "app", "1");
    let dist = dist().with(&["--retry-delay", "10ms"]);
    let (source, destination) = (there.reference("app:1"), to.reference("app:1"));
    let gate = Gate::default();
    to.add(Rule::upload(Fault::KeepHeld(1 << 20, gate.clone())).times(1));
    let running = dist.spawn(&["copy", "--jobs", "1", &source, &destination]);
    gate.wait_held(1);
    running.kill();
    gate.open();
    wait_idle(&to);
    let uploads = here.storage().join("docker/registry/v2/repositories/app/_uploads");
    std::fs::remove_dir_all(uploads).expect("remove the registry's uploads");
    let before = to.log().len();
    dist.ok(&["copy", &source, &destination]);
    verify(&here, "app", &image);
    let log = to.log().split_off(before);
    assert_eq!(standings(&log), [404]);
    assert_eq!(sent(&log, &image.layer(0)).len(), 1);
    assert_eq!(notes(&dist), 0);
}
