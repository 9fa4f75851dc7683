//! The main job, and doing it again.

use dist_testutil::{
    Dist, FaultProxy, Image, ImageOptions, Layer, Registry, index_of, require, timed,
};

use crate::listing::sql;
use crate::support::{chain_of, dist, pull, quick, verify_image, verify_store, view, with_view};

#[test]
fn a_real_image_runs_from_its_root() {
    let _timed = timed("pull");
    let (registry, dist) = (Registry::of_images(), dist());
    let reference = format!("localhost:{}/library/redis:7", registry.port());
    let ran = dist.ok(&["pull", &reference]);
    let text = ran.text();
    let line = text.trim_end().lines().last().expect("a last line");
    assert!(line.starts_with(&format!("{reference}@sha256:")), "{line:?}");
    let manifest = line.rsplit_once('@').expect("a digest").1;

    let images = dist.ok(&["images"]).text();
    assert!(images.contains(&reference), "{images}");
    assert!(images.contains("MiB") || images.contains("MB"), "no real size: {images}");

    let said = with_view(&dist, manifest, |root| {
        assert!(fs_err::write(root.join("x"), "").is_err(), "the view can be written");
        let out = dist.clean("chroot").arg(root).args(["redis-server", "--version"]).output();
        String::from_utf8_lossy(&out.expect("run redis-server").stdout).into_owned()
    });
    assert!(said.contains("Redis server v=7"), "{said:?}");
    verify_store(&dist);
}

#[test]
fn every_kind_of_entry_comes_through() {
    let _timed = timed("pull");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let reference = registry.reference("test/varied:1");
    assert_eq!(pull(&dist, &reference), image.digest());
    verify_image(&dist, &reference, &image);
    let tree = view(&dist, &image.digest());
    let at = |path: &str| tree.0.get(std::path::Path::new(path));
    assert!(at("etc/gone").is_none() && at("hidden/below").is_none());
    assert_eq!(at("bin/su").expect("a file").mode, 0o4755);
    assert_eq!(at("bin/su").expect("a file").mtime, 1_500_000_000_999_999_999);
    assert_eq!(at("bin").expect("a directory").mtime, 1_500_000_001_123_456_789);
    assert_eq!(
        at("bin/tool-too").expect("a link").same_as,
        at("bin/tool").expect("a file").same_as
    );
    assert_eq!(at("dev/null").expect("a device").device, rustix_makedev(1, 3));
    assert_eq!(at("run-pipe").expect("a fifo").owner, (4_000_000, 4_000_001));
    assert_eq!(at("attributes").expect("a file").attributes.len(), 2);
    assert_eq!(at("tmp").expect("a directory").mode, 0o1777);
}

fn rustix_makedev(major: u64, minor: u64) -> u64 {
    major << 8 | minor
}

#[test]
fn a_second_pull_fetches_nothing() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let image = Image::random(1, &[30_000, 20_000]);
    image.push(&registry, "test/twice", "1");
    let proxy = FaultProxy::start(registry.address());
    let (dist, reference) = (dist(), proxy.reference("test/twice:1"));
    pull(&dist, &reference);
    assert_eq!(proxy.blob_gets("").len(), image.blobs.len(), "each blob once");
    proxy.reset();
    pull(&dist, &reference);
    assert_eq!(proxy.blob_gets("").len(), 0, "{:?}", proxy.log());
    assert!(proxy.log().len() <= 3, "{:?}", proxy.log());
}

/// What system calls that change files or make them durable a command makes.
fn changes(dist: &Dist, args: &[&str]) -> Vec<String> {
    require(&["strace"]);
    let log = dist.dir().join("strace.log");
    let trace = "trace=fsync,fdatasync,syncfs,pwrite64,ftruncate,fallocate,/link|rename|mkdir";
    let mut command = dist.clean("strace");
    command.args(["-f", "-y", "-qq", "-e", trace, "-o"]).arg(&log);
    command.arg("--").arg(dist.binary()).args(args);
    let out = command.output().expect("run strace");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let text = fs_err::read_to_string(&log).expect("read the trace");
    let calls = text.lines().filter(|line| line.contains(" = 0") || line.contains("pwrite64("));
    calls.map(str::to_owned).collect()
}

#[test]
fn a_pull_of_what_is_there_writes_nothing() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let image = Image::random(1, &[30_000, 20_000]);
    image.push(&registry, "test/there", "1");
    image.push(&registry, "test/there", "2");
    let (dist, reference) = (dist(), registry.reference("test/there:1"));
    let listed = || dist.ok(&["images", "--format", "json"]).text();
    pull(&dist, &reference);
    let before = listed();
    let args = ["pull", "--progress", "plain", reference.as_str()];
    let calls = changes(&dist, &args);
    // A reader of the database makes its shared memory, and takes it away.
    let changes: Vec<_> = calls.iter().filter(|call| !call.contains("meta.db-")).collect();
    assert!(changes.is_empty(), "{changes:#?}");
    assert_eq!(calls.iter().filter(|call| call.contains("sync")).count(), 0, "{calls:#?}");
    assert_eq!(listed(), before);

    // The other name is new, and then it is not.
    pull(&dist, &registry.reference("test/there:2"));
    let before = listed();
    pull(&dist, &registry.reference("test/there:2"));
    assert_eq!(listed(), before);
    verify_image(&dist, &reference, &image);
}

#[test]
fn a_pull_repairs_whatever_is_missing() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let image = Image::random(3, &[30_000, 20_000, 10_000]);
    image.push(&registry, "test/missing", "1");
    let (dist, reference) = (dist(), registry.reference("test/missing:1"));
    pull(&dist, &reference);
    let chain = image.chain_id().0.to_string();
    let changed = "UPDATE images SET digest = 'sha256:' || hex(zeroblob(32))";
    for damage in [
        "DELETE FROM content_labels WHERE name LIKE 'containerd.io/gc.ref.%'",
        "DELETE FROM content WHERE id = (SELECT max(id) FROM content)",
        "DELETE FROM images",
        changed,
    ] {
        sql(&dist, damage);
        pull(&dist, &reference);
        verify_image(&dist, &reference, &image);
        dist.ok(&["gc"]);
        verify_image(&dist, &reference, &image);
    }
    dist.ok(&["snapshots", "rm", &chain]);
    pull(&dist, &reference);
    verify_image(&dist, &reference, &image);
}

#[test]
fn timings_add_up_to_the_whole_time() {
    let _timed = timed("pull");
    let registry = Registry::of_images();
    let reference = format!("localhost:{}/library/redis:7", registry.port());
    for snapshotter in ["overlayfs", "native"] {
        let dist = dist().with(&["--snapshotter", snapshotter]);
        let ran = dist.ok(&["pull", "--progress", "none", "--timings", &reference]);
        assert_timings(&ran.stderr);
    }
    let missing = format!("localhost:{}/library/redis:none", registry.port());
    dist().run(&["pull", "--progress", "none", "--timings", &missing]).exit(3).says("total  ");
    dist().run(&["--address", "/nowhere", "pull", "--timings", &reference]).exit(2);
}

fn assert_timings(text: &str) {
    let lines = text.lines().map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [stage, seconds, "s"] = words[..] else { panic!("no timing: {line:?}") };
        (stage.to_owned(), seconds.parse::<f64>().expect("seconds"))
    });
    let timings: Vec<(String, f64)> = lines.collect();
    let of = |wanted: &str| {
        let found = timings.iter().find(|(stage, _)| stage == wanted);
        found.unwrap_or_else(|| panic!("no {wanted} in {text}")).1
    };
    for stage in ["resolve", "documents", "store", "inflate", "hash", "untar", "sync", "commit"] {
        assert!(of(stage) > 0.0, "{text}");
    }
    let sum: f64 = timings.iter().filter(|(stage, _)| stage != "total").map(|(_, time)| time).sum();
    // Each is rounded to a millisecond.
    assert!((sum - of("total")).abs() < 0.001 * timings.len() as f64, "{text}");
}

#[test]
fn shared_layers_are_fetched_and_unpacked_once() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let options = ImageOptions::default();
    let base = Layer::random(1, 40_000);
    let images: Vec<Image> = (2..4)
        .map(|seed| Image::new(&[base.clone(), Layer::random(seed, 10_000)], &options))
        .collect();
    let proxy = FaultProxy::start(registry.address());
    let dist = dist();
    for (name, image) in ["test/one", "test/two"].iter().zip(&images) {
        image.push(&registry, name, "1");
        pull(&dist, &proxy.reference(&format!("{name}:1")));
        verify_image(&dist, &proxy.reference(&format!("{name}:1")), image);
    }
    assert_eq!(proxy.blob_gets(&base.blob.digest.to_string()).len(), 1);
    let snapshots = dist.ok(&["snapshots", "ls", "--format", "json"]).text();
    assert_eq!(snapshots.matches("ommitted").count(), 3, "{snapshots}");
}

#[test]
fn a_blob_that_the_disk_lost_is_fetched_again() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let image = Image::random(5, &[30_000, 20_000]);
    image.push(&registry, "test/lost", "1");
    let (dist, reference) = (dist(), registry.reference("test/lost:1"));
    pull(&dist, &reference);
    let path = |at: usize| {
        let text = dist.ok(&["path", &image.layer(at)]).text();
        std::path::PathBuf::from(text.trim())
    };
    fs_err::remove_file(path(0)).expect("lose a blob");
    let mut short = fs_err::read(path(1)).expect("read a blob");
    short.truncate(100);
    fs_err::remove_file(path(1)).expect("replace a blob");
    fs_err::write(
        dist.root().join("content/blobs/sha256").join(image.blobs[2].digest.hex()),
        short,
    )
    .expect("shorten a blob");
    pull(&dist, &reference);
    // The shortened file is writable now only when it was not replaced.
    verify_image(&dist, &reference, &image);
}

/// Changes one byte of a blob on the disk; its size stays.
fn damage(dist: &Dist, digest: &str) {
    let path = dist.root().join("content/blobs").join(digest.replace(':', "/"));
    let mut bytes = fs_err::read(&path).expect("read a blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs_err::remove_file(&path).expect("replace a blob");
    fs_err::write(&path, bytes).expect("damage a blob");
}

#[test]
fn a_document_that_the_disk_changed_is_fetched_again() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let image = Image::random(5, &[30_000, 20_000]);
    image.push(&registry, "test/changed", "1");
    let (dist, reference) = (dist(), registry.reference("test/changed:1"));
    let config = image.blobs[0].digest.to_string();
    for digest in [image.digest(), config] {
        pull(&dist, &reference);
        damage(&dist, &digest);
        dist.run(&["fsck"]).exit(0);
        let found = dist.run(&["fsck", "--deep"]).exit(8).text();
        assert!(found.contains(&digest), "looking changes nothing: {found}");
        for how in ["pull", "fetch"] {
            pull(&dist, &reference);
            damage(&dist, &digest);
            dist.ok(&[how, &reference]);
            verify_image(&dist, &reference, &image);
            assert!(dist.ok(&["fsck", "--deep"]).text().ends_with("nothing is wrong\n"));
        }
    }
    let aside = fs_err::read_dir(dist.root().join("quarantine")).expect("list what is aside");
    assert_eq!(aside.count(), 6, "nothing damaged is thrown away");
}

#[test]
fn snapshots_come_back_from_blobs_without_a_registry() {
    let _timed = timed("pull");
    let image = Image::varied();
    let (dist, reference) = {
        let registry = Registry::start();
        image.push(&registry, "test/gone", "1");
        let (dist, reference) = (dist(), registry.reference("test/gone:1"));
        pull(&dist, &reference);
        (dist, reference)
    };
    let before = view(&dist, &image.digest());
    for row in dist.ok(&["snapshots", "ls", "-q"]).text().lines().rev() {
        dist.run(&["snapshots", "rm", row]);
    }
    for row in dist.ok(&["snapshots", "ls", "-q"]).text().lines() {
        dist.run(&["snapshots", "rm", row]);
    }
    assert_eq!(chain_of(&dist, &image.digest()), image.chain_id().0.to_string());
    view(&dist, &image.digest()).assert_same(&before, "rebuilt from blobs");
    assert!(dist.ok(&["images", "-q"]).text().contains(&reference));
}

#[test]
fn the_platform_of_an_index() {
    let _timed = timed("pull");
    let registry = Registry::start();
    let of = |seed, platform| {
        let options = ImageOptions { platform: Some(platform), ..ImageOptions::default() };
        Image::new(&[Layer::random(seed, 1000)], &options)
    };
    let (amd, v3) = (of(1, ("amd64", None)), of(2, ("amd64", Some("v3"))));
    let (arm, seven) = (of(3, ("arm64", Some("v8"))), of(4, ("arm", Some("v7"))));
    let index = index_of(&[
        ("amd64", Some("v3"), v3),
        ("arm64", Some("v8"), arm.clone()),
        ("amd64", None, amd.clone()),
        ("arm", Some("v7"), seven),
    ]);
    index.push(&registry, "test/index", "1");
    let reference = registry.reference("test/index:1");

    for (platform, image) in
        [("linux/amd64", &amd), ("linux/arm64", &arm), ("linux/arm64/v8", &arm)]
    {
        let dist = dist();
        dist.ok(&["pull", "--platform", platform, &reference]);
        let listed = dist.ok(&["list", "-q"]).text();
        assert!(listed.contains(&image.layer(0)), "{platform}: {listed}");
        assert_eq!(listed.lines().count(), 4, "{platform}: {listed}");
    }
    let said = quick().run(&["pull", "--platform", "linux/s390x", &reference]).exit(3).stderr;
    assert!(said.contains("linux/arm64") && said.contains("linux/arm/v7"), "{said}");
    dist().run(&["pull", "--platform", "linux/", &reference]).exit(2);
}

#[test]
fn fetch_unpacks_nothing_and_a_layout_is_a_registry_too() {
    let _timed = timed("pull");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let fetched = dist();
    fetched.ok(&["fetch", &registry.reference("test/varied:1")]);
    assert_eq!(fetched.ok(&["list", "-q"]).text().lines().count(), image.blob_count());
    assert_eq!(fetched.ok(&["snapshots", "ls", "-q"]).text(), "");
    assert_eq!(chain_of(&fetched, &image.digest()), image.chain_id().0.to_string());

    let local = dist();
    let layout = image.write_layout(&local.dir().join("layout"), "v");
    assert_eq!(pull(&local, &layout.reference("v")), image.digest());
    view(&local, &image.digest()).assert_same(&view(&fetched, &image.digest()), "from a layout");
    local.run(&["pull", &layout.reference("none")]).exit(3);
}

#[test]
fn tags_move_and_digests_do_not() {
    let _timed = timed("pull");
    let (registry, dist) = (Registry::start(), dist());
    let (old, new) = (Image::random(1, &[100]), Image::random(2, &[100]));
    let reference = registry.reference("test/tag:1");
    old.push(&registry, "test/tag", "1");
    assert_eq!(pull(&dist, &reference), old.digest());
    new.push(&registry, "test/tag", "1");
    assert_eq!(pull(&dist, &reference), new.digest());
    let by_digest = registry.reference(&format!("test/tag@{}", old.digest()));
    assert_eq!(pull(&dist, &by_digest), old.digest());
    let rows = dist.ok(&["images", "--format", "json"]).text();
    assert!(rows.contains(&new.digest()) && rows.contains(&by_digest), "{rows}");
    dist.ok(&["rmi", &reference]);
    dist.run(&["rmi", &reference]).exit(3);
    assert_eq!(dist.ok(&["images", "-q"]).text().trim(), by_digest);
    verify_store(&dist);
}

#[test]
fn namespaces_share_blobs_and_not_names() {
    let _timed = timed("pull");
    let (registry, dist) = (Registry::start(), dist());
    let image = Image::random(1, &[5000]);
    image.push(&registry, "test/ns", "1");
    let proxy = FaultProxy::start(registry.address());
    let reference = proxy.reference("test/ns:1");
    pull(&dist, &reference);
    assert_eq!(dist.ok(&["--namespace", "other", "list", "-q"]).text(), "");
    assert_eq!(dist.ok(&["--namespace", "other", "images", "-q"]).text(), "");
    dist.ok(&["--namespace", "other", "pull", &reference]);
    assert_eq!(proxy.blob_gets(&image.layer(0)).len(), 1, "fetched once for both");
    dist.ok(&["--namespace", "other", "delete", &image.layer(0)]);
    assert!(dist.ok(&["list", "-q"]).text().contains(&image.layer(0)));
    verify_image(&dist, &reference, &image);
}
