//! Bad input: a clear error, the right exit code, nothing lost, nothing
//! outside touched.

use dist_testutil::{
    Dist, Entry, Filesystem, Form, Image, ImageOptions, Layer, Registry, blobs_on_disk, timed,
    verify_blobs,
};

use crate::support::{dist, pull, quick, verify_image, verify_store};

#[test]
fn what_is_not_there() {
    let _timed = timed("bad input");
    let (registry, image) = (Registry::start(), Image::random(1, &[100]));
    image.push(&registry, "test/there", "1");
    let dist = quick();
    let said = dist.run(&["pull", &registry.reference("test/there:2")]).exit(3).stderr;
    assert!(said.contains("test/there:2"), "{said}");
    dist.run(&["pull", &registry.reference("test/nowhere:1")]).exit(3);
    let none = format!("test/there@sha256:{}", "0".repeat(64));
    dist.run(&["pull", &registry.reference(&none)]).exit(3);
    // Nobody listens, and no such name.
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.local_addr().expect("an address")
    };
    dist.run(&["pull", &format!("{closed}/test/there:1")]).exit(5).says("refused");
    dist.run(&["pull", "no-such-host.invalid/test/there:1"]).exit(5).says("no-such-host.invalid");
    for args in [
        &["rmi", "127.0.0.1:1/x:1"][..],
        &["get", &format!("sha256:{}", "0".repeat(64))],
        &["rootfs", "unpack", &format!("sha256:{}", "0".repeat(64))],
        &["snapshots", "rm", "nothing"],
    ] {
        dist.run(args).exit(3);
    }
}

fn layout_pull(dist: &Dist, image: &Image) -> dist_testutil::Ran {
    let layout = image.write_layout(&dist.dir().join(image.manifest.digest.hex()), "t");
    dist.run(&["pull", &layout.reference("t")])
}

#[test]
fn layers_that_are_not_what_the_config_says() {
    let _timed = timed("bad input");
    let layers = [Layer::random(1, 1000), Layer::random(2, 1000)];
    let swapped = vec![layers[1].diff_id, layers[0].diff_id];
    let options = ImageOptions { diff_ids: Some(swapped), ..ImageOptions::default() };
    let dist = dist();
    let said = layout_pull(&dist, &Image::new(&layers, &options)).exit(6).stderr;
    assert!(said.contains(&layers[0].diff_id.0.to_string()), "{said}");
    let one = vec![layers[0].diff_id];
    let options = ImageOptions { diff_ids: Some(one), ..ImageOptions::default() };
    layout_pull(&dist, &Image::new(&layers, &options)).exit(6);
    assert_eq!(dist.ok(&["images", "-q"]).text(), "");
    let left = dist.ok(&["snapshots", "ls", "-q"]).text();
    assert_eq!(left, "", "snapshots of refused layers");
    verify_store(&dist);
}

#[test]
fn broken_and_unsafe_layers() {
    let _timed = timed("bad input");
    let good = Layer::new(&[Entry::file("a", vec![7; 100_000])], Form::Gzip);
    let mut short = good.clone();
    short.blob.bytes.truncate(50);
    let mut long = good.clone();
    long.blob.bytes.extend_from_slice(b"and more");
    for layer in [short, long] {
        // The descriptor is of the broken bytes: only the format is wrong.
        let mut layer = layer;
        layer.blob = dist_testutil::Blob::new(&layer.blob.media_type, layer.blob.bytes);
        layout_pull(&dist(), &Image::new(&[layer], &ImageOptions::default())).exit(6);
    }
    let victim = tempfile::tempdir().expect("a directory");
    let outside = victim.path().to_str().expect("UTF-8").trim_start_matches('/').to_owned();
    let escape = Layer::new(
        &[Entry::symlink("way", &format!("/{outside}")), Entry::file("way/in", "x")],
        Form::Plain,
    );
    let ran = layout_pull(&dist(), &Image::new(&[escape], &ImageOptions::default()));
    assert!(matches!(ran.code, Some(0 | 7)), "{ran:?}");
    assert_eq!(fs_err::read_dir(victim.path()).expect("read it").count(), 0, "it got out");
    let bomb = Layer::new(&[Entry::file("zeros", vec![0; 60 << 20])], Form::Gzip);
    let dist = quick().with(&["--max-layer-size", "10MiB"]);
    let said = layout_pull(&dist, &Image::new(&[bomb], &ImageOptions::default())).exit(6).stderr;
    assert!(said.contains("--max-layer-size"), "{said}");
    verify_store(&dist);
}

#[test]
fn a_full_disk_in_the_middle() {
    let _timed = timed("bad input");
    let (registry, image) = (Registry::start(), Image::random(91, &[20 << 20, 20 << 20]));
    image.push(&registry, "test/big", "1");
    let reference = registry.reference("test/big:1");
    let disk = Filesystem::ext4(64);
    let dist = quick().at(disk.path().join("root"));
    let said = dist.run(&["pull", &reference]).exit(8).stderr;
    assert!(said.contains("space") && said.contains("hint:"), "{said}");
    verify_store(&dist);
    assert_eq!(dist.ok(&["images", "-q"]).text(), "");
    // What was fetched is kept: on a disk with room the rest is enough.
    let kept: u64 = blobs_on_disk(dist.root()).iter().map(|(_, size)| size).sum();
    let active = dist.ok(&["active", "--format", "json"]).json();
    let partial: u64 =
        active.as_array().expect("rows").iter().filter_map(|row| row["offset"].as_u64()).sum();
    assert!(kept + partial > 10 << 20, "{kept} bytes of blobs and {partial} of ingests were kept");
    drop(dist);
    let small = Filesystem::tmpfs("size=64m,nr_inodes=60");
    let inodes = quick().at(small.path().join("root"));
    let entries: Vec<Entry> = (0..200).map(|at| Entry::file(&format!("f{at}"), "x")).collect();
    let many = Image::new(&[Layer::new(&entries, Form::Gzip)], &ImageOptions::default());
    many.push(&registry, "test/many", "1");
    inodes.run(&["pull", &registry.reference("test/many:1")]).exit(8);
    verify_blobs(inodes.root());
}

#[test]
fn stores_that_cannot_be_written() {
    let _timed = timed("bad input");
    let (registry, image) = (Registry::start(), Image::random(92, &[5000]));
    image.push(&registry, "test/ro", "1");
    let reference = registry.reference("test/ro:1");
    let disk = Filesystem::ext4(64);
    let dist = quick().at(disk.path().join("root"));
    pull(&dist, &reference);
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        let out =
            std::process::Command::new("mount").args(["-o", &options]).arg(disk.path()).status();
        assert!(out.expect("run mount").success());
    };
    remount("ro");
    let listed = dist.ok(&["list", "-q"]).text();
    assert!(listed.contains(&image.layer(0)), "{listed}");
    assert!(dist.ok(&["images", "-q"]).text().contains(&reference));
    assert_eq!(dist.ok(&["get", &image.layer(0)]).stdout, image.blobs[1].bytes);
    dist.run(&["delete", &image.layer(0)]).exit(8);
    dist.run(&["pull", &registry.reference("test/ro@sha256:00")]).exit(2);
    let other = Image::random(93, &[5000]);
    other.push(&registry, "test/ro", "2");
    dist.run(&["pull", &registry.reference("test/ro:2")]).exit(8).says("root");
    remount("rw");
    dist.ok(&["pull", &registry.reference("test/ro:2")]);
    verify_image(&dist, &reference, &image);
}

#[test]
fn a_store_of_a_newer_format_is_left_alone() {
    let _timed = timed("bad input");
    let (registry, image) = (Registry::start(), Image::random(94, &[100]));
    image.push(&registry, "test/new", "1");
    let (dist, reference) = (dist(), registry.reference("test/new:1"));
    pull(&dist, &reference);
    let format = dist.root().join("format");
    let text = fs_err::read_to_string(&format).expect("the format file");
    let digit = text.find(|c: char| c.is_ascii_digit()).expect("a version");
    let newer = format!("{}999{}", &text[..digit], &text[digit + 1..]);
    fs_err::write(&format, &newer).expect("write a newer format");
    for args in [&["list"][..], &["images"], &["pull", &reference]] {
        let said = dist.run(args).exit(8).stderr;
        assert!(said.contains("999"), "{said}");
    }
    assert_eq!(fs_err::read_to_string(&format).expect("the format file"), newer);
    fs_err::write(&format, text).expect("put it back");
    verify_image(&dist, &reference, &image);
}

#[test]
fn ingest_takes_nothing_wrong() {
    let _timed = timed("bad input");
    let dist = dist();
    let digest = dist_core::Digest::sha256(b"hello").to_string();
    let said = dist.feed(&["ingest", "k", "--expected-digest", &digest], b"hallo").exit(6).stderr;
    assert!(said.contains(&digest) && said.matches("sha256:").count() >= 2, "{said}");
    let said = dist.feed(&["ingest", "k", "--expected-size", "4"], b"hello").exit(6).stderr;
    assert!(said.contains('4') && said.contains('5'), "{said}");
    assert_eq!(dist.ok(&["list", "-q"]).text(), "");
    assert_eq!(dist.ok(&["active", "--format", "json"]).json(), serde_json::json!([]));
    dist.feed(&["ingest", "k", "--expected-size", "5", "--expected-digest", &digest], b"hello")
        .ok();
    assert_eq!(dist.ok(&["list", "-q"]).text().trim(), digest);
    dist.feed(&["ingest", "other", "--expected-digest", &digest], b"").ok();
    dist.feed(&["ingest", ""], b"x").exit(2);
    dist.feed(&["ingest", "k2", "--expected-digest", "md5:1"], b"x").exit(2);
}

#[test]
fn a_wrong_value_is_told_in_short() {
    let _timed = timed("bad input");
    let dist = dist();
    dist.run(&["rmi", "bad ref:::"]).exit(2).says("bad ref:::");
    let ran = dist.run(&["snapshots", "mounts", &"k".repeat(5000)]).exit(2).says("kkk...");
    assert!(ran.stderr.len() < 1000, "{}", ran.stderr);
}
