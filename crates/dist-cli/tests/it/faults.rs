//! A real registry behind a proxy that spoils its answers: each fault ends in
//! the whole image or in the right exit code, and never in a wrong byte.

use std::time::Duration;

use dist_testutil::{Dist, Fault, FaultProxy, Image, Registry, Rule, timed};

use crate::support::{quick, verify_image, verify_store};

struct Setup {
    proxy: FaultProxy,
    image: Image,
    dist: Dist,
    reference: String,
    _registry: Registry,
}

impl Setup {
    fn new() -> Self {
        let registry = Registry::start();
        let image = Image::random(11, &[300_000, 5_000]);
        image.push(&registry, "test/faults", "1");
        let proxy = FaultProxy::start(registry.address());
        let reference = proxy.reference("test/faults:1");
        Self { proxy, image, dist: quick(), reference, _registry: registry }
    }

    fn blob(&self) -> String {
        format!("/blobs/{}", self.image.layer(0))
    }

    /// The rule is survived: the pull succeeds and the store is whole.
    fn survives(&self, rule: Rule) {
        self.proxy.add(rule);
        self.dist.ok(&["pull", &self.reference]);
        verify_image(&self.dist, &self.reference, &self.image);
    }

    /// The rule ends the pull with `code`; once it is gone the same command succeeds.
    fn fails(&self, rule: Rule, code: i32) -> String {
        self.proxy.add(rule);
        let said = self.dist.run(&["pull", &self.reference]).exit(code).stderr;
        verify_store(&self.dist);
        assert_eq!(self.dist.ok(&["images", "-q"]).text(), "", "a failed pull has a name");
        self.proxy.reset();
        self.dist.ok(&["pull", &self.reference]);
        verify_image(&self.dist, &self.reference, &self.image);
        said
    }
}

#[test]
fn a_cut_body_is_resumed_where_it_ended() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.survives(Rule::get(setup.blob(), Fault::Cut(100_000)).times(1));
    let gets = setup.proxy.blob_gets(&setup.image.layer(0));
    assert_eq!(gets.len(), 2, "{gets:?}");
    let sent: u64 = gets.iter().map(|get| get.sent).sum();
    assert!(gets[1].range.is_some() && gets[1].status == 206, "{gets:?}");
    assert!(sent <= setup.image.blobs[1].bytes.len() as u64 * 11 / 10, "{sent} bytes for it");
}

#[test]
fn a_reset_is_resumed_too() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.survives(Rule::get(setup.blob(), Fault::Reset(100_000)).times(2));
    assert!(setup.proxy.blob_gets(&setup.image.layer(0)).len() >= 2);
}

#[test]
fn refused_connections_are_tried_again() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.survives(Rule::any("/v2/", Fault::Refuse).times(2));
}

#[test]
fn a_server_that_ignores_ranges_doubles_nothing() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.proxy.add(Rule::get(setup.blob(), Fault::Cut(100_000)).times(1));
    setup.survives(Rule::get(setup.blob(), Fault::IgnoreRange));
}

#[test]
fn a_range_that_lies_is_noticed() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.proxy.add(Rule::get(setup.blob(), Fault::Cut(100_000)).times(1));
    setup.proxy.add(Rule::get(setup.blob(), Fault::ShiftRange(7)));
    let ran = setup.dist.run(&["pull", &setup.reference]);
    assert!(matches!(ran.code, Some(0 | 5 | 6)), "{ran:?}");
    verify_store(&setup.dist);
    setup.proxy.reset();
    setup.dist.ok(&["pull", &setup.reference]);
    verify_image(&setup.dist, &setup.reference, &setup.image);
}

#[test]
fn too_many_requests_waits_as_told() {
    let _timed = timed("faults");
    let setup = Setup::new();
    let wait = vec![("Retry-After", "1".to_owned())];
    setup.proxy.add(Rule::get(setup.blob(), Fault::Status(429, wait)).times(1));
    let ran = setup.dist.ok(&["pull", &setup.reference]);
    assert!(ran.took >= Duration::from_secs(1), "it asked again after {:?}", ran.took);
    verify_image(&setup.dist, &setup.reference, &setup.image);
}

#[test]
fn server_errors_are_tried_again_but_not_for_ever() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.survives(Rule::get("/blobs/", Fault::Status(500, Vec::new())).times(2));
    let setup = Setup::new();
    let said = setup.fails(Rule::get(setup.blob(), Fault::Status(500, Vec::new())), 5);
    assert!(said.contains("500"), "{said}");
    let setup = Setup::new();
    setup.fails(Rule::any("/manifests/", Fault::Status(503, Vec::new())), 5);
}

#[test]
fn a_refusal_is_believed_at_once() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.fails(Rule::get(setup.blob(), Fault::Status(404, Vec::new())), 3);
    let setup = Setup::new();
    setup.fails(Rule::get(setup.blob(), Fault::Status(403, Vec::new())), 4);
}

#[test]
fn wrong_bytes_are_refused_with_both_digests() {
    let _timed = timed("faults");
    let setup = Setup::new();
    let said = setup.fails(Rule::get(setup.blob(), Fault::Flip(150_000)), 6);
    assert!(said.contains(&setup.image.layer(0)), "{said}");
    assert_eq!(said.matches("sha256:").count().min(2), 2, "both digests: {said}");
    let setup = Setup::new();
    setup.fails(Rule::get("/manifests/", Fault::Flip(20)), 6);
}

#[test]
fn a_body_that_is_always_cut_ends_with_an_error() {
    let _timed = timed("faults");
    let setup = Setup::new();
    setup.fails(Rule::get(setup.blob(), Fault::Cut(0)), 5);
}

#[test]
fn silence_is_not_waited_for() {
    let _timed = timed("faults");
    let setup = Setup::new();
    let gate = dist_testutil::Gate::default();
    let said = setup.fails(Rule::get(setup.blob(), Fault::Hold(1000, gate.clone())), 5);
    gate.open();
    assert!(said.contains("for 1.0 s") || said.contains("for 1s"), "names the limit: {said}");
}

#[test]
fn slow_is_not_silent() {
    let _timed = timed("faults");
    let setup = Setup::new();
    let slow = Fault::Slow(30_000, Duration::from_millis(150));
    setup.survives(Rule::get(setup.blob(), slow));
}

#[test]
fn the_whole_may_have_a_limit() {
    let _timed = timed("faults");
    let setup = Setup::new();
    let slow = Fault::Slow(1_000, Duration::from_millis(100));
    setup.proxy.add(Rule::get(setup.blob(), slow));
    let ran = setup.dist.run(&["--timeout", "1s", "pull", &setup.reference]).exit(5);
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    verify_store(&setup.dist);
    setup.proxy.reset();
    setup.dist.ok(&["pull", &setup.reference]);
    let gets = setup.proxy.blob_gets(&setup.image.layer(0));
    assert!(gets[0].range.is_some(), "it started again from nothing: {gets:?}");
    verify_image(&setup.dist, &setup.reference, &setup.image);
}
