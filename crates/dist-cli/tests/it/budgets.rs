//! Budgets: bytes a second, bodies at once, and what a registry still gives.

use std::time::Duration;

use dist_testutil::{Fault, FaultProxy, Image, Registry, Rule, timed};

use crate::support::{pull, quick, verify_image};

/// How many bodies the proxy may still count that have come whole.
const CLOSING: usize = 1;

#[test]
fn all_connections_together_keep_the_rate() {
    let _timed = timed("budgets");
    let (registry, image) = (Registry::start(), Image::random(1, &[1_000_000; 4]));
    image.push(&registry, "test/app", "1");
    let (name, copied) = (registry.reference("test/app:1"), registry.reference("test/copied:1"));
    // Four million bytes, at four million a second; less than that would be a limit that leaks.
    let least = Duration::from_millis(950);
    let dist = quick().with(&["--limit-rate", "4M", "--jobs", "4"]);
    let ran = dist.ok(&["pull", &name]);
    assert!(ran.took >= least, "pull: {:?}", ran.took);
    verify_image(&dist, &name, &image);
    let elsewhere = Registry::start();
    let pushed = elsewhere.reference("test/app:1");
    dist.ok(&["tag", &name, &pushed]);
    let ran = dist.ok(&["push", &pushed]);
    assert!(ran.took >= least, "push: {:?}", ran.took);
    // What is mounted costs nothing; what is copied is received and sent.
    dist.ok(&["copy", &name, &copied]);
    let third = Registry::start();
    let ran = dist.ok(&["copy", &name, &third.reference("test/app:1")]);
    assert!(ran.took >= 2 * least, "copy: {:?}", ran.took);
    quick().with(&["--limit-rate", "0"]).ok(&["pull", &name]);
    quick().with(&["--limit-rate", "soon"]).run(&["pull", &name]).exit(2);
}

#[test]
fn there_are_no_more_bodies_at_once_than_allowed() {
    let _timed = timed("budgets");
    let (registry, image) = (Registry::start(), Image::random(2, &[300_000; 6]));
    image.push(&registry, "test/app", "1");
    let proxy = FaultProxy::start(registry.address());
    let name = proxy.reference("test/app:1");
    for most in [1, 2] {
        proxy.reset();
        proxy.add(Rule::any("blobs", Fault::Slow(30_000, Duration::from_millis(5))));
        let most_text = most.to_string();
        let dist = quick().with(&["--max-connections", &most_text, "--jobs", "6"]);
        assert_eq!(pull(&dist, &name), image.digest());
        verify_image(&dist, &name, &image);
        assert!(proxy.most_at_once() <= most + CLOSING, "{} at once", proxy.most_at_once());
        // A copy needs a place for what it reads while it sends, and comes to an end.
        let third = Registry::start();
        dist.ok(&["copy", &name, &third.reference("test/app:1")]);
        assert!(proxy.most_at_once() <= most + CLOSING, "{} at once", proxy.most_at_once());
    }
    proxy.reset();
    proxy.add(Rule::any("blobs", Fault::Slow(30_000, Duration::from_millis(5))));
    pull(&quick().with(&["--jobs", "6"]), &name);
    assert!(proxy.most_at_once() > 3, "without a limit there are more");
    quick().with(&["--max-connections", "0"]).run(&["pull", &name]).exit(2);
}

#[test]
fn limits_are_what_the_registry_says_with_a_manifest() {
    let _timed = timed("budgets");
    let (registry, image) = (Registry::start(), Image::random(3, &[3000]));
    image.push(&registry, "test/app", "1");
    let proxy = FaultProxy::start(registry.address());
    let name = proxy.reference("test/app:1");
    let limits = || quick().ok(&["limits", "--format", "json", &name]).json();
    assert_eq!(limits()[0]["remaining"], serde_json::Value::Null);
    let says = |header, value: &str| {
        proxy.add(Rule::any("test/app", Fault::With(header, value.to_owned())));
    };
    says("ratelimit-remaining", "76;w=21600");
    assert_eq!((&limits()[0]["remaining"], &limits()[0]["window"]), (&76.into(), &21600.into()));
    let text = quick().ok(&["limits", &name]).text();
    assert!(text.contains("76") && text.contains(proxy.address()), "{text}");
    assert!(proxy.log().iter().all(|request| request.method == "HEAD"), "no pull is used up");
    quick().run(&["limits", &proxy.reference("test/none:1")]).exit(3);
}

#[test]
fn a_registry_that_is_asked_too_much_gets_less_and_all_arrives() {
    let _timed = timed("budgets");
    let (registry, image) = (Registry::start(), Image::random(4, &[50_000; 8]));
    image.push(&registry, "test/app", "1");
    let proxy = FaultProxy::start(registry.address());
    let wait = vec![("retry-after", "1".to_owned())];
    proxy.add(Rule::any("blobs", Fault::Status(429, wait)).times(3));
    let name = proxy.reference("test/app:1");
    let dist = quick().with(&["--jobs", "8"]);
    let ran = dist.ok(&["--debug", "pull", &name]);
    assert!(ran.stderr.contains("wants fewer requests"), "{}", ran.stderr);
    assert!(ran.took >= Duration::from_millis(900), "{:?}", ran.took);
    verify_image(&dist, &name, &image);
}
