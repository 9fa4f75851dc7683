//! Collections: what they take and leave, beside everything else, and killed at every step.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dist_core::{Digest, GC_EXPIRE, Labels, Namespace, Resource};
use dist_store::{OpenMode, Store, StoreOptions};
use dist_testutil::{Dist, Image, ImageOptions, Layer, Registry, blobs_on_disk, timed, torture};
use serde_json::Value;

use crate::support::{dist, pull, verify_image, verify_store, view};
use crate::sweep::{counts_of, points, strace};

/// The store of the binary, for what has no command.
fn store(dist: &Dist) -> Store {
    let options = StoreOptions { mode: OpenMode::Existing, ..StoreOptions::default() };
    Store::open(dist.root(), options).expect("open the store")
}

fn entries(dir: &Path) -> usize {
    fs_err::read_dir(dir).map_or(0, Iterator::count)
}

/// Nothing is left to collect, and no file lies there that nothing owns.
#[track_caller]
fn verify_clean(dist: &Dist) {
    verify_store(dist);
    let dry = dist.ok(&["gc", "--dry-run", "--format", "json"]).json();
    assert_eq!(dry, Value::Array(Vec::new()), "there is garbage left");
    let listed = dist.ok(&["list", "-q"]).text();
    assert_eq!(blobs_on_disk(dist.root()).len(), listed.lines().count(), "blobs without rows");
    let snapshots = dist.ok(&["snapshots", "ls", "-q"]).text();
    let dirs: usize = ["overlayfs", "erofs", "native"]
        .iter()
        .map(|name| entries(&dist.root().join("snapshots").join(name)))
        .sum();
    assert_eq!(dirs, snapshots.lines().count(), "directories without rows");
    for name in ["trash", "locks", "content/ingest", "quarantine"] {
        assert_eq!(entries(&dist.root().join(name)), 0, "something is left in {name}");
    }
}

/// Three images over one base.
fn images(registry: &Registry, repository: &str) -> Vec<(String, Image)> {
    let base = Layer::random(70, 200_000);
    (0..3_u64)
        .map(|number| {
            let layers = [base.clone(), Layer::random(71 + number, 50_000)];
            let image = Image::new(&layers, &ImageOptions::default());
            let tag = number.to_string();
            image.push(registry, repository, &tag);
            (registry.reference(&format!("{repository}:{tag}")), image)
        })
        .collect()
}

#[test]
fn an_image_that_is_removed_takes_along_what_only_it_needed() {
    let _timed = timed("gc");
    let registry = Registry::start();
    let images = images(&registry, "test/gc");
    let dist = dist();
    let [(first, one), (second, two), _] = &images[..] else { panic!("three images") };
    pull(&dist, first);
    pull(&dist, second);
    assert_eq!(dist.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    dist.ok(&["rmi", first]);

    let dry = dist.ok(&["gc", "--dry-run", "--format", "json"]).json();
    let rows = dry.as_array().expect("an array");
    // Manifest, config, the layer of its own, and the snapshot of that.
    assert_eq!(rows.len(), 4, "{dry}");
    let names: Vec<_> = rows.iter().map(|row| row["name"].as_str().unwrap_or_default()).collect();
    assert!(names.contains(&&*one.digest()) && !names.contains(&&*one.layer(0)), "{names:?}");
    assert!(rows.iter().all(|row| row["namespace"] == "default"), "{dry}");
    verify_image(&dist, second, two);

    let text = dist.ok(&["gc"]).text();
    assert!(text.contains("removed 1 snapshot and 3 blobs, "), "{text}");
    assert!(text.contains("nothing refers to it"), "{text}");
    verify_clean(&dist);
    verify_image(&dist, second, two);
    view(&dist, &two.digest());

    let path = dist.ok(&["gc", "why", &two.layer(1)]).text();
    for part in [second.as_str(), &two.digest(), &two.layer(1), "gc.ref.content.l.1"] {
        assert!(path.contains(part), "{part} is not in {path}");
    }
    assert_eq!(dist.ok(&["gc", "why", second, "--format", "json"]).json()[0]["kind"], "image");
    dist.run(&["gc", "why", &one.layer(1)]).exit(3).says("is not there");
    dist.ok(&["rmi", second]);
    dist.run(&["gc", "why", &two.layer(1)]).exit(3).says("nothing keeps");
    dist.ok(&["gc"]);
    verify_clean(&dist);
    assert_eq!(dist.ok(&["list", "-q"]).text(), "");
}

#[test]
fn no_pull_loses_anything_to_collections_beside_it() {
    let _timed = timed("gc");
    let registry = Registry::start();
    let images = images(&registry, "test/beside");
    let dist = dist();
    let (reference, image) = &images[0];
    for _ in 0..if torture() { 50 } else { 5 } {
        let mut running = Vec::new();
        for _ in 0..3 {
            running.push(dist.spawn(&["pull", reference]));
            running.push(dist.spawn(&["gc"]));
            running.push(dist.spawn(&["rmi", reference]));
        }
        running.push(dist.spawn(&["pull", reference]));
        for ran in running.into_iter().map(dist_testutil::Running::wait) {
            assert!(matches!(ran.code, Some(0 | 3)), "{ran:?}");
        }
        pull(&dist, reference);
        dist.ok(&["gc"]);
        verify_image(&dist, reference, image);
    }
    dist.ok(&["rmi", reference]);
    dist.ok(&["gc"]);
    verify_clean(&dist);
}

/// Numbers that look random, the same ones in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// One thing that somebody does with the store.
fn act(dist: &Dist, images: &[(String, Image)], dice: &mut Dice) {
    let (reference, image) = &images[usize::try_from(dice.below(3)).expect("a place")];
    let args: &[&str] = match dice.below(10) {
        0..5 => &["pull", reference],
        5..7 => &["rmi", reference],
        7..9 => &["gc"],
        _ => {
            let end =
                if dice.below(2) == 0 { "2001-01-01T00:00:00Z" } else { "2201-01-01T00:00:00Z" };
            let leases = store(dist).leases(&Namespace::default());
            let labels: Labels = [(GC_EXPIRE.to_owned(), end.to_owned())].into();
            let held = Resource::Content(image.manifest.digest);
            leases.create_lazily(&labels, &[held]).expect("make a lease");
            return;
        }
    };
    let running = dist.spawn(args);
    if dice.below(3) == 0 {
        // The moment is the stimulus.
        std::thread::sleep(Duration::from_micros(dice.below(60_000)));
        running.kill();
        return;
    }
    let ran = running.wait();
    let missing = args[0] == "rmi" && ran.code == Some(3);
    assert!(ran.code == Some(0) || missing, "{args:?}: {ran:?}");
}

#[test]
fn pulls_removals_collections_and_kills_at_random_leave_a_whole_store() {
    let _timed = timed("gc");
    let registry = Registry::start();
    let images = images(&registry, "test/race");
    let dist = dist();
    pull(&dist, &images[0].0);
    let rounds = if torture() { 500 } else { 12 };
    std::thread::scope(|threads| {
        for seed in 1..=4 {
            let (dist, images) = (&dist, &images);
            threads.spawn(move || {
                let mut dice = Dice(seed);
                (0..rounds).for_each(|_| act(dist, images, &mut dice));
            });
        }
    });
    let names = dist.ok(&["images", "-q"]).text();
    for (reference, image) in images.iter().filter(|(name, _)| names.lines().any(|n| n == name)) {
        verify_image(&dist, reference, image);
        view(&dist, &image.digest());
    }
    // What the killed were at is kept for them for a day.
    let leases = store(&dist).leases(&Namespace::default());
    for lease in leases.list().expect("list leases") {
        leases.delete(&lease.id).expect("delete a lease");
    }
    for key in dist.ok(&["active", "-q"]).text().lines() {
        dist.ok(&["abort", key]);
    }
    dist.ok(&["gc"]);
    verify_clean(&dist);
    for (reference, image) in images.iter().filter(|(name, _)| names.lines().any(|n| n == name)) {
        verify_image(&dist, reference, image);
    }
    for (reference, _) in &images {
        dist.run(&["rmi", reference]);
    }
    dist.ok(&["gc"]);
    verify_clean(&dist);
    assert_eq!(dist.ok(&["list", "-q"]).text(), "");
}

/// A store with garbage of every kind beside an image.
fn littered(registry: &Registry) -> (Dist, String, Image) {
    let mut images = images(registry, "test/step");
    let dist = dist();
    for (reference, _) in &images[..2] {
        pull(&dist, reference);
    }
    dist.ok(&["rmi", &images[1].0]);
    let root = dist.root();
    let leak = root.join("content/blobs/sha256").join(Digest::sha256(b"leak").hex());
    fs_err::write(&leak, "leak").expect("write a leak");
    let read_only = std::os::unix::fs::PermissionsExt::from_mode(0o444);
    fs_err::set_permissions(&leak, read_only).expect("protect a leak");
    fs_err::write(root.join("trash/leak-1"), "leak").expect("write a leak");
    fs_err::create_dir_all(root.join("snapshots/overlayfs/999/fs")).expect("make a leak");
    fs_err::write(root.join("locks/leak"), "").expect("write a leak");
    fs_err::create_dir(root.join("content/ingest/leak")).expect("make a leak");
    let leases = store(&dist).leases(&Namespace::default());
    let labels: Labels = [(GC_EXPIRE.to_owned(), "2001-01-01T00:00:00Z".to_owned())].into();
    leases.create_lazily(&labels, &[]).expect("make a lease");
    let (reference, image) = images.swap_remove(0);
    (dist, reference, image)
}

#[test]
fn what_was_put_aside_is_kept_for_a_week() {
    let dist = dist();
    let digest = Digest::sha256(b"right");
    dist.feed(&["ingest", "a-key"], b"right").ok();
    let path = dist.root().join("content/blobs/sha256").join(digest.hex());
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs_err::set_permissions(&path, writable).expect("open a blob");
    fs_err::write(&path, "wrong").expect("damage a blob");
    assert_ne!(dist.run(&["fsck", "--deep", "--repair"]).code, Some(0), "nobody has it");
    let quarantine = dist.root().join("quarantine");
    assert_eq!(entries(&quarantine), 1);
    dist.ok(&["gc"]);
    assert_eq!(entries(&quarantine), 1, "it was put there just now");

    // A name alone says little: what came here just now is kept, whatever it is called.
    let early = format!("{}-1700000000000000000-7-0", digest.hex());
    for name in ["mine", "redis-layer-2026-11-22", "leak-1000000000000000000-7-0", &early] {
        fs_err::write(quarantine.join(name), "mine").expect("write a file");
    }
    dist.ok(&["gc"]);
    assert_eq!(entries(&quarantine), 5);

    fs_err::remove_dir_all(&quarantine).expect("remove the quarantine");
    dist.ok(&["gc"]);
}

#[test]
fn a_collection_that_is_killed_at_any_step_is_finished_by_the_next() {
    let _timed = timed("gc");
    let registry = Registry::start();
    let (template, reference, image) = littered(&registry);
    let copy = || {
        let dist = dist();
        let run = Command::new("cp").arg("-a").arg(template.root()).arg(dist.root()).status();
        assert!(run.expect("run cp").success());
        dist
    };
    let (mut tried, mut bad) = (0, Vec::new());
    // To die at a call that only looks is to die at the change before it.
    let looks = |call: &str| matches!(call, "read" | "pread64" | "openat" | "getdents64");
    let calls = counts_of(&copy(), &["gc"]).into_iter();
    for (call, count) in calls.filter(|(call, _)| torture() || !looks(call)) {
        for at in points(count, 2) {
            let inject = format!("inject={call}:signal=KILL:when={at}");
            let attempt = || {
                let dist = copy();
                let log = dist.dir().join("strace.log");
                let log = log.to_str().expect("a path in UTF-8");
                strace(&dist, &["-o", log, "-e", &inject], &["gc"]);
                verify_store(&dist);
                dist.ok(&["gc"]);
                verify_clean(&dist);
                verify_image(&dist, &reference, &image);
                assert_eq!(dist.ok(&["list", "-q"]).text().lines().count(), 4);
            };
            if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attempt)) {
                let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
                bad.push(format!("{inject}: {text}"));
            }
            tried += 1;
        }
    }
    assert!(tried > 12, "only {tried} calls were tried");
    assert!(bad.is_empty(), "{} of {tried}:\n{}", bad.len(), bad.join("\n"));
}
