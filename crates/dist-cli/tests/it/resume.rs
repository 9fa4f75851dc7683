//! Killed in the middle, and on with the same command.

use std::time::{Duration, Instant};

use dist_testutil::{Dist, Fault, FaultProxy, Gate, Image, Registry, Rule, timed};

use crate::support::{dist, verify_image, verify_store};

/// Runs `active` until it shows at least `bytes` of something.
pub(crate) fn wait_active(dist: &Dist, bytes: u64) -> serde_json::Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let rows = dist.run(&["active", "--format", "json"]);
        if rows.code == Some(0) && !rows.stdout.is_empty() {
            let rows = rows.json();
            let found = rows
                .as_array()
                .and_then(|rows| rows.iter().find(|row| size_of(row) >= bytes).cloned());
            if let Some(row) = found {
                return row;
            }
        }
        assert!(Instant::now() < deadline, "nothing of {bytes} bytes became active");
    }
}

/// Waits until a blob is whole.
pub(crate) fn wait_listed(dist: &Dist, digest: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !dist.ok(&["list", "-q"]).text().contains(digest) {
        assert!(Instant::now() < deadline, "{digest} does not come");
    }
}

fn size_of(row: &serde_json::Value) -> u64 {
    row["offset"].as_u64().unwrap_or(0)
}

#[test]
fn kill_9_in_the_middle_costs_only_the_rest() {
    let _timed = timed("resume");
    let registry = Registry::start();
    let image = Image::random(21, &[4_000_000]);
    image.push(&registry, "test/resume", "1");
    let proxy = FaultProxy::start(registry.address());
    let (dist, reference) = (dist(), proxy.reference("test/resume:1"));
    let gate = Gate::default();
    let part = format!("/blobs/{}", image.layer(0));
    proxy.add(Rule::get(part, Fault::Hold(3_000_000, gate.clone())).times(1));
    let running = dist.spawn(&["pull", &reference]);
    gate.wait_held(1);
    let row = wait_active(&dist, 2_000_000);
    assert_eq!(row["active"], true, "{row}");
    assert!(row.to_string().contains(&image.layer(0)), "{row}");
    running.kill();
    gate.open();

    // The abandoned ingest is shown as such, and blocks nobody.
    let row = wait_active(&dist, 2_000_000);
    assert_eq!(row["active"], false, "a live writer? {row}");
    verify_store(&dist);
    proxy.reset();
    dist.ok(&["pull", &reference]);
    let gets = proxy.blob_gets(&image.layer(0));
    assert_eq!(gets.len(), 1, "{gets:?}");
    // Less than a packed layer has beyond what was active.
    assert!(gets[0].range.is_some() && gets[0].sent <= 2_250_000, "{gets:?}");
    verify_image(&dist, &reference, &image);
    assert_eq!(dist.ok(&["active", "--format", "json"]).json(), serde_json::json!([]));
}

#[test]
fn abort_forgets_what_nobody_writes() {
    let _timed = timed("resume");
    let registry = Registry::start();
    let image = Image::random(22, &[3_000_000]);
    image.push(&registry, "test/abort", "1");
    let proxy = FaultProxy::start(registry.address());
    let (dist, reference) = (dist(), proxy.reference("test/abort:1"));
    let gate = Gate::default();
    let part = format!("/blobs/{}", image.layer(0));
    proxy.add(Rule::get(part, Fault::Hold(2_500_000, gate.clone())).times(1));
    let running = dist.spawn(&["pull", &reference]);
    gate.wait_held(1);
    let row = wait_active(&dist, 1);
    let key = row["ref"].as_str().expect("a ref").to_owned();
    dist.run(&["abort", &key]).exit(9);
    running.kill();
    gate.open();
    dist.ok(&["abort", "--older-than", "1h"]);
    assert!(size_of(&wait_active(&dist, 1)) > 0, "a young ingest was aborted");
    dist.ok(&["abort", &key]);
    assert_eq!(dist.ok(&["active", "--format", "json"]).json(), serde_json::json!([]));
    dist.run(&["abort", &key]).exit(3);
    proxy.reset();
    dist.ok(&["pull", &reference]);
    assert!(proxy.blob_gets(&image.layer(0))[0].range.is_none());
    verify_image(&dist, &reference, &image);
}

#[test]
fn ingest_goes_on_where_it_was() {
    let _timed = timed("resume");
    let dist = dist();
    let bytes: Vec<u8> = Image::random(23, &[2_000_000]).blobs[1].bytes.clone();
    let digest = dist_core::Digest::sha256(&bytes).to_string();
    let size = bytes.len().to_string();
    let args = ["ingest", "a-key", "--expected-size", &size, "--expected-digest", &digest];
    dist.feed(&args, &bytes[..1_500_000]).exit(6);
    verify_store(&dist);
    dist.feed(&args, &bytes).ok();
    assert_eq!(dist.ok(&["list", "-q"]).text().trim(), digest);
    assert_eq!(dist.ok(&["get", &digest]).stdout, bytes);
    dist.feed(&args, b"").ok();
}

#[test]
fn a_signal_says_how_to_go_on() {
    let _timed = timed("resume");
    let registry = Registry::start();
    let image = Image::random(24, &[3_000_000]);
    image.push(&registry, "test/signal", "1");
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let proxy = FaultProxy::start(registry.address());
        let (dist, reference) = (dist(), proxy.reference("test/signal:1"));
        let gate = Gate::default();
        let part = format!("/blobs/{}", image.layer(0));
        proxy.add(Rule::get(part, Fault::Hold(2_500_000, gate.clone())).times(1));
        let running = dist.spawn(&["pull", &reference]);
        gate.wait_held(1);
        wait_active(&dist, 1_000_000);
        let since = Instant::now();
        running.signal(signal);
        let ran = running.wait().exit(code);
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        assert!(ran.stderr.contains("pull"), "how to go on? {}", ran.stderr);
        gate.open();
        verify_store(&dist);
        proxy.reset();
        dist.ok(&["pull", &reference]);
        let gets = proxy.blob_gets(&image.layer(0));
        assert!(gets[0].range.is_some(), "{gets:?}");
        verify_image(&dist, &reference, &image);
    }
}
