//! Large layers over several connections.

use dist_testutil::{
    Dist, Fault, FaultProxy, Filesystem, Gate, Image, Rates, Registry, Request, Rule, timed,
};

use crate::address::Through;
use crate::support::{dist, quick, verify_image, verify_store};

/// Bytes a second: so slow that a layer of 80 MB is worth more than one connection.
const SLOW: Rates = Rates { each: Some(10_000_000), all: None };

const SIZE: usize = 80_000_000;

/// How many more connections the proxy may see than there are: one that the client has closed is open
/// for it until it writes to it.
const CLOSING: usize = 1;

/// What a connection may have brought that the client has no record of when it is killed.
const UNTOLD: u64 = 2 << 20;

/// A registry with an image, and a proxy before it.
struct Setup {
    registry: Registry,
    proxy: FaultProxy,
    image: Image,
}

impl Setup {
    fn new(seed: u64, sizes: &[usize]) -> Self {
        let registry = Registry::start();
        let image = Image::random(seed, sizes);
        image.push(&registry, "test/parts", "1");
        let proxy = FaultProxy::start(registry.address());
        proxy.limit(SLOW);
        Self { registry, proxy, image }
    }

    fn reference(&self) -> String {
        self.proxy.reference("test/parts:1")
    }

    /// What is in the path of requests for the layer.
    fn layer(&self) -> String {
        format!("/blobs/{}", self.image.layer(0))
    }

    fn gets(&self) -> Vec<Request> {
        self.proxy.blob_gets(&self.image.layer(0))
    }

    fn size(&self) -> u64 {
        let layer = self.image.layer(0);
        let blob = self.image.blobs.iter().find(|blob| blob.digest.to_string() == layer);
        blob.expect("the layer").bytes.len() as u64
    }

    /// All came, and at most one in a hundred bytes twice.
    #[track_caller]
    fn assert_sent_once(&self) {
        let (size, gets) = (self.size(), self.gets());
        let sent: u64 = gets.iter().map(|get| get.sent).sum();
        assert!(sent >= size && sent <= size + size / 100, "{sent} of {size}: {gets:?}");
    }
}

fn offset(dist: &Dist) -> u64 {
    let rows = dist.ok(&["active", "--format", "json"]).json();
    rows.as_array().expect("rows").iter().filter_map(|row| row["offset"].as_u64()).sum()
}

#[test]
fn slow_connections_are_joined_by_others_and_no_byte_comes_twice() {
    let _timed = timed("parts");
    let setup = Setup::new(61, &[SIZE]);
    let dist = dist();
    dist.ok(&["pull", &setup.reference()]);
    let most = setup.proxy.most_at_once();
    assert!((3..=6 + CLOSING).contains(&most), "{most} connections at once");
    setup.assert_sent_once();
    verify_image(&dist, &setup.reference(), &setup.image);

    // The user says how many.
    let (one, two) = (quick().with(&["--connections", "1"]), quick());
    setup.proxy.reset();
    setup.proxy.limit(SLOW);
    two.ok(&["--connections", "2", "fetch", &setup.reference()]);
    let most = setup.proxy.most_at_once();
    assert!((2..=2 + CLOSING).contains(&most), "{most} connections at once");
    setup.assert_sent_once();
    setup.proxy.reset();
    setup.proxy.limit(SLOW);
    one.ok(&["fetch", &setup.reference()]);
    assert_eq!(setup.gets().len(), 1, "{:?}", setup.gets());
}

#[test]
fn through_a_daemon_as_well() {
    let _timed = timed("parts");
    let setup = Setup::new(62, &[SIZE]);
    let dist = dist();
    let daemon = dist.daemon();
    dist.ok(&Through::new(&dist, &daemon).args(&["pull", &setup.reference()]));
    let most = setup.proxy.most_at_once();
    assert!((3..=6 + CLOSING).contains(&most), "{most} connections at once");
    setup.assert_sent_once();
    verify_image(&dist, &setup.reference(), &setup.image);
    daemon.stop().ok();
}

#[test]
fn a_full_link_and_a_fast_one_are_left_to_one() {
    let _timed = timed("parts");
    let setup = Setup::new(63, &[SIZE]);
    setup.proxy.limit(Rates { each: None, all: Some(20_000_000) });
    let dist = dist();
    dist.ok(&["pull", &setup.reference()]);
    let gets = setup.gets();
    // A second one is tried, and given up: it brings what it began, and the rest.
    assert!(setup.proxy.most_at_once() <= 2 + CLOSING && gets.len() <= 3, "{gets:?}");
    setup.assert_sent_once();
    verify_image(&dist, &setup.reference(), &setup.image);

    setup.proxy.reset();
    quick().ok(&["pull", &setup.reference()]);
    assert_eq!(setup.gets().len(), 1, "{:?}", setup.gets());
}

#[test]
fn kill_9_costs_no_part_that_came() {
    let _timed = timed("parts");
    let setup = Setup::new(64, &[SIZE]);
    let (dist, gate) = (dist(), Gate::default());
    let hold = Fault::Hold(500_000, gate.clone());
    setup.proxy.add(Rule::get(setup.layer(), hold).parts().after(3).times(1));
    let running = dist.spawn(&["pull", &setup.reference()]);
    gate.wait_held(1);
    running.kill();
    let first: u64 = setup.gets().iter().map(|get| get.sent).sum();
    gate.open();
    let there = offset(&dist);
    assert!(there > 8 << 20 && there <= first, "{there} of {first} bytes are whole");
    verify_store(&dist);

    setup.proxy.reset();
    dist.ok(&["pull", &setup.reference()]);
    let gets = setup.gets();
    let second: u64 = gets.iter().map(|get| get.sent).sum();
    assert!(gets.iter().all(|get| get.range.is_some()), "{gets:?}");
    let most = setup.size() + 6 * UNTOLD;
    assert!(first + second >= setup.size() && first + second <= most, "{first} and {second}");
    verify_image(&dist, &setup.reference(), &setup.image);
    assert_eq!(offset(&dist), 0);
}

#[test]
fn a_part_that_stalls_is_asked_for_again_while_others_come() {
    let _timed = timed("parts");
    let setup = Setup::new(65, &[SIZE]);
    let (dist, gate) = (dist().with(&["--stall-timeout", "10m"]), Gate::default());
    let hold = Fault::Hold(3_000_000, gate.clone());
    setup.proxy.add(Rule::get(setup.layer(), hold).parts().after(1).times(1));
    dist.ok(&["pull", &setup.reference()]);
    gate.wait_held(1);
    gate.open();
    setup.assert_sent_once();
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn a_layer_that_stalls_is_asked_for_again_while_another_comes() {
    let _timed = timed("parts");
    let setup = Setup::new(70, &[SIZE / 8, SIZE]);
    let gate = Gate::default();
    let dist = dist().with(&["--stall-timeout", "10m", "--connections", "1"]);
    setup.proxy.add(Rule::get(setup.layer(), Fault::Hold(300_000, gate.clone())).times(1));
    dist.ok(&["pull", &setup.reference()]);
    gate.wait_held(1);
    gate.open();
    let offsets: Vec<_> = setup.gets().iter().map(|get| get.sent).collect();
    assert_eq!(offsets.len(), 2, "{offsets:?}");
    setup.assert_sent_once();
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn parts_that_break_or_are_refused_are_asked_for_again() {
    let _timed = timed("parts");
    let setup = Setup::new(66, &[SIZE]);
    let rule = |fault| Rule::get(setup.layer(), fault).parts().times(1);
    setup.proxy.add(rule(Fault::Cut(1_000_000)).after(1));
    setup.proxy.add(rule(Fault::Reset(1_500_000)).after(1));
    setup.proxy.add(rule(Fault::Status(500, Vec::new())).after(2));
    let retry = vec![("Retry-After", "1".to_owned())];
    setup.proxy.add(rule(Fault::Status(429, retry)).after(3));
    let dist = dist();
    dist.ok(&["pull", &setup.reference()]);
    let refused = |status| setup.gets().iter().filter(|get| get.status == status).count();
    assert_eq!((refused(500), refused(429)), (1, 1), "{:?}", setup.gets());
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn a_server_that_wants_fewer_requests_gets_fewer() {
    let _timed = timed("parts");
    let setup = Setup::new(67, &[SIZE]);
    let busy = Fault::Status(503, Vec::new());
    setup.proxy.add(Rule::get(setup.layer(), busy).parts().times(2));
    let dist = dist();
    dist.ok(&["pull", &setup.reference()]);
    let gets = setup.gets();
    let refused = gets.iter().filter(|get| get.status == 503).count();
    assert!(refused >= 1 && gets.len() <= 4, "{gets:?}");
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn a_server_without_ranges_is_asked_once() {
    let _timed = timed("parts");
    let setup = Setup::new(68, &[60_000_000, 59_000_000]);
    setup.proxy.add(Rule::get("/blobs/", Fault::IgnoreRange));
    let dist = dist();
    dist.ok(&["--jobs", "1", "fetch", &setup.reference()]);
    let (first, second) = (setup.gets(), setup.proxy.blob_gets(&setup.image.layer(1)));
    assert_eq!(first.len() + second.len(), 3, "{first:?} {second:?}");
    let whole = |gets: &[Request]| gets.iter().filter(|get| get.range.is_none()).count();
    assert_eq!((whole(&first), whole(&second)), (1, 1), "{first:?} {second:?}");
    verify_store(&dist);
}

#[test]
fn parts_of_something_else_are_not_taken() {
    let _timed = timed("parts");
    let setup = Setup::new(69, &[60_000_000]);
    for fault in [
        Fault::With("etag", "\"another\"".into()),
        Fault::ShiftRange(1),
        Fault::With("content-range", "bytes 22000000-22999999/59999999".into()),
        Fault::Without("content-range"),
    ] {
        setup.proxy.reset();
        setup.proxy.limit(Rates { each: Some(14_000_000), all: None });
        setup.proxy.add(Rule::get(setup.layer(), fault.clone()).parts());
        let dist = dist();
        dist.ok(&["fetch", &setup.reference()]);
        let gets = setup.gets();
        assert_eq!(gets.len(), 2, "{fault:?}: {gets:?}");
        verify_store(&dist);
    }
}

#[test]
fn parts_come_from_where_the_registry_redirects_to() {
    let _timed = timed("parts");
    let setup = Setup::new(70, &[SIZE]);
    let storage = FaultProxy::start(setup.registry.address());
    storage.limit(SLOW);
    let place = format!("http://{}/v2/test/parts{}", storage.address(), setup.layer());
    let redirect = Fault::Status(307, vec![("Location", place)]);
    setup.proxy.add(Rule::get(setup.layer(), redirect));
    // An address that was signed for a time.
    let expired = Fault::Status(403, Vec::new());
    storage.add(Rule::get(setup.layer(), expired).parts().after(2).times(1));
    let dist = dist();
    dist.ok(&["pull", &setup.reference()]);
    let (asked, served) = (setup.gets(), storage.blob_gets(&setup.image.layer(0)));
    assert_eq!(asked.len(), 2, "once at first and once when it had expired: {asked:?}");
    assert!(served.len() > 4 && storage.most_at_once() >= 3, "{served:?}");
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn a_wrong_byte_in_a_part_is_found_and_nothing_is_kept() {
    let _timed = timed("parts");
    let setup = Setup::new(71, &[SIZE]);
    let flip = Fault::Flip(1000);
    setup.proxy.add(Rule::get(setup.layer(), flip).parts().after(1).times(1));
    let dist = dist();
    let ran = dist.run(&["fetch", &setup.reference()]).exit(6);
    assert!(ran.stderr.contains(&setup.image.layer(0)), "{}", ran.stderr);
    assert!(ran.stderr.contains("digest"), "{}", ran.stderr);
    assert_eq!(offset(&dist), 0);
    assert!(!dist.ok(&["list", "-q"]).text().contains(&setup.image.layer(0)));
    setup.proxy.reset();
    dist.ok(&["pull", &setup.reference()]);
    verify_image(&dist, &setup.reference(), &setup.image);
}

#[test]
fn a_disk_that_gets_full_keeps_the_parts() {
    let _timed = timed("parts");
    let setup = Setup::new(72, &[SIZE]);
    let disk = Filesystem::ext4(180);
    let (dist, gate) = (quick().at(disk.path().join("root")), Gate::default());
    let hold = Fault::Hold(100_000, gate.clone());
    setup.proxy.add(Rule::get(setup.layer(), hold).parts().after(1).times(1));
    let running = dist.spawn(&["fetch", &setup.reference()]);
    gate.wait_held(1);
    let filler = disk.path().join("filler");
    let full = std::io::copy(
        &mut std::io::repeat(1),
        &mut std::fs::File::create(&filler).expect("make a file"),
    );
    full.expect_err("the disk is endless");
    gate.open();
    let ran = running.wait().exit(8);
    assert!(ran.stderr.contains("space") && ran.stderr.contains("hint:"), "{}", ran.stderr);
    let there = offset(&dist);
    assert!(there > 4 << 20, "{there} bytes are whole");
    std::fs::remove_file(filler).expect("remove the file");
    setup.proxy.reset();
    dist.ok(&["fetch", &setup.reference()]);
    let second: u64 = setup.gets().iter().map(|get| get.sent).sum();
    assert!(second <= setup.size() - there + UNTOLD, "{second} bytes came again");
    verify_store(&dist);
}
