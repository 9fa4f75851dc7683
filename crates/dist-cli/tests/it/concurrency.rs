//! Many processes, one store.

use dist_testutil::{FaultProxy, Image, ImageOptions, Layer, Registry, Running, timed};

use crate::support::{dist, verify_image, verify_store, view};

const MANY: u64 = 16;

fn all_ok(running: Vec<Running>) {
    let ran: Vec<_> = running.into_iter().map(Running::wait).collect();
    for ran in ran {
        ran.ok();
    }
}

fn same(snapshotter: &str) {
    let registry = Registry::start();
    let image = Image::random(41, &[2_000_000, 500_000, 1000]);
    image.push(&registry, "test/same", "1");
    let proxy = FaultProxy::start(registry.address());
    let dist = dist().with(&["--snapshotter", snapshotter]);
    let reference = proxy.reference("test/same:1");
    all_ok((0..MANY).map(|_| dist.spawn(&["pull", &reference])).collect());
    verify_image(&dist, &reference, &image);
    for blob in &image.blobs {
        let gets = proxy.blob_gets(&blob.digest.to_string());
        assert_eq!(gets.len(), 1, "{}: {gets:?}", blob.digest);
    }
    let snapshots = dist.ok(&["snapshots", "ls", "-q"]).text();
    assert_eq!(snapshots.lines().count(), 3, "{snapshots}");
}

#[test]
fn sixteen_pull_the_same_image_and_each_blob_comes_once() {
    let _timed = timed("concurrency");
    same("overlayfs");
}

#[test]
fn sixteen_pull_the_same_image_into_native_snapshots() {
    let _timed = timed("concurrency");
    same("native");
}

#[test]
fn sixteen_pull_different_images_over_one_base() {
    let _timed = timed("concurrency");
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let base = Layer::random(50, 1_000_000);
    let images: Vec<Image> = (0..MANY)
        .map(|seed| {
            let layers = [base.clone(), Layer::random(60 + seed, 50_000)];
            Image::new(&layers, &ImageOptions::default())
        })
        .collect();
    let name = |at: usize| format!("test/different-{at}");
    for (at, image) in images.iter().enumerate() {
        image.push(&registry, &name(at), "1");
    }
    let dist = dist();
    let references: Vec<String> =
        (0..images.len()).map(|at| proxy.reference(&format!("{}:1", name(at)))).collect();
    all_ok(references.iter().map(|reference| dist.spawn(&["pull", reference])).collect());
    for (reference, image) in references.iter().zip(&images) {
        verify_image(&dist, reference, image);
    }
    assert_eq!(proxy.blob_gets(&base.blob.digest.to_string()).len(), 1);
}

#[test]
fn sixteen_create_one_store() {
    let _timed = timed("concurrency");
    for _ in 0..5 {
        let dist = dist();
        // Every process finds no store and wants one.
        let script: String = (0..MANY)
            .map(|at| format!("dist ingest key-{at} <<<'content {at}' & pids+=\" $!\"\n"))
            .collect();
        dist.script(&format!("pids=\n{script}for p in $pids; do wait $p; done")).ok();
        assert_eq!(dist.ok(&["list", "-q"]).text().lines().count() as u64, MANY);
        verify_store(&dist);
    }
}

#[test]
fn one_is_killed_and_the_others_go_on() {
    let _timed = timed("concurrency");
    let registry = Registry::start();
    let image = Image::random(42, &[1_000_000, 300_000]);
    image.push(&registry, "test/killed", "1");
    let proxy = FaultProxy::start(registry.address());
    let (dist, reference) = (dist(), proxy.reference("test/killed:1"));
    let gate = dist_testutil::Gate::default();
    let hold = dist_testutil::Fault::Hold(500_000, gate.clone());
    proxy.add(dist_testutil::Rule::get(image.layer(0), hold).times(1));
    let first = dist.spawn(&["pull", &reference]);
    gate.wait_held(1);
    let others: Vec<Running> = (0..4).map(|_| dist.spawn(&["pull", &reference])).collect();
    first.kill();
    all_ok(others);
    gate.open();
    verify_image(&dist, &reference, &image);
    view(&dist, &image.digest());
}

#[test]
fn rmi_delete_and_pull_at_once() {
    let _timed = timed("concurrency");
    let registry = Registry::start();
    let image = Image::random(43, &[100_000, 100]);
    image.push(&registry, "test/mix", "1");
    let (dist, reference) = (dist(), registry.reference("test/mix:1"));
    dist.ok(&["pull", &reference]);
    let mut running = Vec::new();
    for round in 0..8 {
        running.push(dist.spawn(&["pull", &reference]));
        let layer = image.layer(round % 2);
        running.push(dist.spawn(&["delete", &layer]));
        running.push(dist.spawn(&["images"]));
        running.push(dist.spawn(&["list"]));
    }
    for ran in running.into_iter().map(Running::wait) {
        assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
    }
    dist.ok(&["pull", &reference]);
    verify_image(&dist, &reference, &image);
}
