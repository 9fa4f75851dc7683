//! Images into archives and out of them, ours and those of peers.

use std::process::Stdio;

use dist_testutil::{Dist, Image, ImageOptions, Layer, Registry, index_of, require, timed};

use crate::support::{chain_of, dist, pull, verify_store, with_view};

/// Runs skopeo's copy.
fn skopeo_copy(dist: &Dist, from: &str, to: &str) {
    require(&["skopeo"]);
    let mut skopeo = dist.clean("skopeo");
    skopeo.args(["copy", "--src-tls-verify=false", from, to]);
    dist.finish(skopeo).ok();
}

/// The names and digests of all images.
fn images(dist: &Dist) -> Vec<(String, String)> {
    let rows = dist.ok(&["images", "--format", "json"]).json();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or("").to_owned();
    rows.as_array()
        .expect("rows")
        .iter()
        .map(|row| (text(row, "name"), text(row, "digest")))
        .collect()
}

#[test]
fn an_archive_brings_an_image_to_another_store() {
    let _timed = timed("archives");
    let (registry, from, to) = (Registry::of_images(), dist(), dist());
    let redis = format!("localhost:{}/library/redis:7", registry.port());
    let digest = pull(&from, &redis);
    let path = from.dir().join("redis.tar");
    let path = path.to_str().expect("a path in UTF-8");
    assert_eq!(from.ok(&["export", "-o", path, &redis]).text(), "");
    let ran = to.ok(&["import", path]);
    assert_eq!(ran.text(), format!("{redis}@{digest}\n"));
    verify_store(&to);
    assert_eq!(chain_of(&from, &digest), chain_of(&to, &digest));
    // The same images are the same bytes, over a pipe too.
    let piped = from.ok(&["export", &redis]);
    assert!(piped.stdout == fs_err::read(path).expect("read the archive"));
    let again = to.feed(&["import", "--no-unpack", "-"], &piped.stdout).ok();
    assert_eq!(again.text(), ran.text());
    let version = with_view(&to, &digest, |root| root.join("usr/bin/redis-server").exists());
    assert!(version, "the image has its program");
}

#[test]
fn archives_of_peers_are_taken() {
    let _timed = timed("archives");
    let (registry, dist) = (Registry::of_images(), dist());
    let source = format!("docker://localhost:{}/library/busybox:1", registry.port());
    skopeo_copy(&dist, &source, "docker-archive:docker.tar:mine/box:3");
    skopeo_copy(&dist, &source, "oci-archive:oci.tar:v9");
    skopeo_copy(&dist, &source, "oci-archive:bare.tar");
    let docker = dist.ok(&["import", "docker.tar"]).text();
    assert!(docker.starts_with("docker.io/mine/box:3@sha256:"), "{docker}");
    let tagged = dist.ok(&["import", "oci.tar"]).text();
    assert!(tagged.starts_with("localhost/import:v9@"), "{tagged}");
    let based = dist.ok(&["import", "--base-name", "box", "oci.tar"]).text();
    assert!(based.starts_with("docker.io/library/box:v9@"), "{based}");
    let bare = dist.ok(&["import", "--no-unpack", "bare.tar"]).text();
    assert!(bare.starts_with("localhost/import@sha256:"), "{bare}");
    let mut gzip = dist.clean("sh");
    gzip.args(["-c", "gzip -c docker.tar > docker.tar.gz; zstd -q -o docker.tar.zst docker.tar"]);
    dist.finish(gzip).ok();
    for name in ["docker.tar.gz", "docker.tar.zst"] {
        assert_eq!(dist.ok(&["import", name]).text(), docker);
    }
    verify_store(&dist);
}

#[test]
fn peers_take_our_archives() {
    let _timed = timed("archives");
    let (registry, dist) = (Registry::of_images(), dist());
    let redis = format!("localhost:{}/library/redis:7", registry.port());
    let digest = pull(&dist, &redis);
    dist.ok(&["tag", &redis, "mine/box:3"]);
    dist.ok(&["export", "-o", "both.tar", &redis, "mine/box:3"]);
    // The layout has two names for one image: skopeo is told which.
    skopeo_copy(&dist, "docker-archive:both.tar:mine/box:3", "dir:from-docker");
    dist.ok(&["export", "--oci-only", "-o", "oci.tar", "mine/box:3"]);
    skopeo_copy(&dist, "oci-archive:oci.tar", "dir:from-oci");
    let manifest = fs_err::read(dist.dir().join("from-oci/manifest.json")).expect("read");
    assert_eq!(dist_core::Digest::sha256(&manifest).to_string(), digest);
    let mut docker = dist.clean("skopeo");
    docker.args(["inspect", "docker-archive:oci.tar"]);
    assert_ne!(dist.finish(docker).code, Some(0), "it has nothing for docker");
}

#[test]
fn of_an_index_as_much_is_exported_as_is_there() {
    let _timed = timed("archives");
    let (registry, from) = (Registry::start(), dist());
    let amd = Image::random(2, &[50_000]);
    let arm = Image::new(
        &[Layer::random(3, 60_000)],
        &ImageOptions { platform: Some(("arm64", None)), ..ImageOptions::default() },
    );
    let index = index_of(&[("amd64", None, amd.clone()), ("arm64", None, arm.clone())]);
    index.push(&registry, "test/index", "1");
    let source = registry.reference("test/index:1");
    pull(&from, &source);
    from.ok(&["export", "-o", "part.tar", &source]);
    from.run(&["export", "--all-platforms", "-o", "none.tar", &source]).exit(3);
    from.run(&["export", "--platform", "linux/s390x", "-o", "none.tar", &source]).exit(3);
    assert!(!from.dir().join("none.tar").exists());
    from.ok(&["fetch", "--all-platforms", &source]);
    from.ok(&["export", "-o", "whole.tar", &source]);
    // What is whole comes whole, also beside what is not.
    let other = registry.reference("test/part:1");
    let part = index_of(&[("amd64", None, amd.clone()), ("s390x", None, Image::random(4, &[10]))]);
    part.push(&registry, "test/part", "1");
    pull(&from, &other);
    from.ok(&["export", "-o", "mixed.tar", &source, &other]);
    let listed = from.script("tar -tf mixed.tar").ok().text();
    let has = |image: &Image| listed.contains(image.layer(0).trim_start_matches("sha256:"));
    assert!(has(&amd) && has(&arm), "{listed}");
    for (archive, args, blobs) in [
        ("part.tar", &[][..], amd.blob_count() + 1),
        ("whole.tar", &[], amd.blob_count() + 1),
        ("whole.tar", &["--all-platforms"], index.blob_count()),
    ] {
        let to = dist();
        let path = from.dir().join(archive);
        let path = path.to_str().expect("a path in UTF-8");
        let ran = to.ok(&[&["import", path][..], args].concat());
        assert_eq!(ran.text(), format!("{source}@{}\n", index.digest()));
        to.ok(&["gc"]);
        let rows = to.ok(&["list", "--format", "json"]).json();
        assert!(rows.as_array().expect("rows").len() >= blobs, "{archive}: {rows}");
        verify_store(&to);
    }
}

#[test]
fn a_bad_archive_registers_nothing() {
    let _timed = timed("archives");
    let (registry, from, to) = (Registry::of_images(), dist(), dist());
    let busybox = format!("localhost:{}/library/busybox:1", registry.port());
    pull(&from, &busybox);
    let archive = from.ok(&["export", &busybox]).stdout;
    to.feed(&["import"], &archive[..archive.len() / 2]).exit(6).says("cut off");
    to.feed(&["import"], b"neither a tar nor anything").exit(6).says("import standard input");
    to.feed(&["import"], b"").exit(6);
    let mut flipped = archive.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    to.feed(&["import"], &flipped).exit(6).says("sha256:");
    to.run(&["import", "nowhere.tar"]).exit(3).says("nowhere.tar");
    to.run(&["import", "--base-name", "Not/A/Name", "nowhere.tar"]).exit(2);
    assert_eq!(images(&to), []);
    to.feed(&["import"], &archive).ok();
    verify_store(&to);
}

#[test]
fn a_file_is_there_when_it_is_whole() {
    let _timed = timed("archives");
    let (registry, dist, image) = (Registry::start(), dist(), Image::random(8, &[3_000_000]));
    image.push(&registry, "test/app", "1");
    let source = registry.reference("test/app:1");
    pull(&dist, &source);
    let old = dist.dir().join("app.tar");
    fs_err::write(&old, "old").expect("write");
    // A layer that is no longer what it should be ends it; the old file stays.
    let path = dist.ok(&["path", &image.layer(0)]).text();
    let good = fs_err::read(path.trim()).expect("read the layer");
    let mut bad = good.clone();
    bad[1000] ^= 1;
    fs_err::remove_file(path.trim()).expect("remove the layer");
    fs_err::write(path.trim(), &bad).expect("write the layer");
    dist.run(&["export", "-o", "app.tar", &source]).exit(6).says(&image.layer(0));
    assert_eq!(fs_err::read(&old).expect("read"), b"old");
    fs_err::write(path.trim(), &good).expect("write the layer");
    // A reader that goes away is no error, a full disk is one.
    let mut command = dist.command(&["export", &source]);
    command.stdout(Stdio::piped());
    let mut running = command.spawn().expect("start it");
    drop(running.stdout.take());
    assert_eq!(running.wait().expect("wait for it").code(), Some(0));
    dist.run(&["export", "-o", "/dev/full", &source]).exit(8).says("No space left");
    dist.run(&["export", "-o", "/nowhere/app.tar", &source]).exit(8).says("/nowhere");
    dist.run(&["export", "-o", "app.tar", "nothing:1"]).exit(3).says("nothing:1");
    dist.ok(&["export", "-o", "app.tar", &source]);
    assert!(fs_err::metadata(&old).expect("stat").len() > 3_000_000);
    dist.script("ln -s app.tar link.tar").ok();
    dist.ok(&["export", "-o", "link.tar", &source]);
    assert!(dist.dir().join("link.tar").is_symlink());
    let parts = fs_err::read_dir(dist.dir()).expect("list");
    let is_part = |name: &std::ffi::OsStr| name.to_string_lossy().ends_with(".partial");
    assert!(!parts.flatten().any(|entry| is_part(&entry.file_name())), "a part was left");
}
