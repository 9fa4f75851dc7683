//! Files of images, without the images.

use dist_testutil::{
    Entry, Fault, FaultProxy, Form, Image, ImageOptions, Layer, Registry, Rule, timed,
};

use crate::support::{dist, pull, quick};
use crate::validate::with_manifest;

/// An image whose upper layers replace, hide and link what the lower ones have.
fn layered() -> Image {
    let layers = [
        &[
            Entry::dir("etc"),
            Entry::file("etc/kept", "below"),
            Entry::file("etc/changed", "old"),
            Entry::file("etc/gone", "old"),
            Entry::file("hidden/file", "old"),
            Entry::dir("usr/bin"),
            Entry::file("usr/bin/tool", "tool"),
            Entry::symlink("bin", "usr/bin"),
            Entry::link("etc/linked", "etc/kept"),
        ][..],
        &[
            Entry::file("etc/changed", "new"),
            Entry::whiteout("etc/gone"),
            Entry::opaque("hidden"),
            Entry::symlink("etc/way", "/bin/../etc/./changed"),
            Entry::symlink("etc/round", "round"),
            Entry::fifo("etc/fifo"),
        ],
    ];
    let layers = layers.map(|entries| Layer::new(entries, Form::Gzip));
    Image::new(&layers, &ImageOptions::default())
}

#[test]
fn a_file_is_what_the_layers_make_it() {
    let _timed = timed("cat");
    let (registry, dist, image) = (Registry::start(), dist(), layered());
    image.push(&registry, "test/app", "1");
    let name = registry.reference("test/app:1");
    let look = |place: &str| {
        for (path, contents) in [
            ("/etc/kept", "below"),
            ("etc//./kept", "below"),
            ("etc/linked", "below"),
            ("etc/changed", "new"),
            ("etc/way", "new"),
            ("bin/tool", "tool"),
        ] {
            assert_eq!(dist.ok(&["cat", &name, path]).text(), contents, "{path} {place}");
        }
        for (path, code) in [
            ("etc/gone", 3),
            ("hidden/file", 3),
            ("etc/kept/x", 3),
            ("nothing", 3),
            ("etc", 2),
            ("etc/fifo", 2),
            ("etc/round", 6),
            ("../etc/kept", 2),
        ] {
            let ran = dist.run(&["cat", &name, path]).exit(code);
            assert_eq!(ran.text(), "", "{path} {place}");
        }
    };
    look("in the registry");
    assert!(!dist.root().exists(), "nothing was kept");
    pull(&dist, &name);
    drop(registry);
    look("in the store");
}

#[test]
fn only_the_layers_that_are_needed_are_read() {
    let _timed = timed("cat");
    let (registry, dist, image) = (Registry::start(), quick(), layered());
    image.push(&registry, "test/app", "1");
    let proxy = FaultProxy::start(registry.address());
    let name = proxy.reference("test/app:1");
    dist.ok(&["cat", &name, "etc/changed"]);
    assert_eq!(proxy.blob_gets(&image.layer(0)).len(), 0);
    assert_eq!(proxy.blob_gets(&image.layer(1)).len(), 1);
    // What is not what it should be is not printed.
    proxy.add(Rule::get(image.layer(1), Fault::Flip(30)).times(9));
    let ran = dist.run(&["cat", &name, "etc/changed"]).exit(6).says(&image.layer(1));
    assert_eq!(ran.text(), "");
}

#[test]
fn a_layer_of_another_size_is_told_as_such() {
    let _timed = timed("cat");
    let (registry, dist) = (Registry::start(), quick());
    for (tag, change) in [("1", 1), ("2", -1)] {
        let image = with_manifest(&layered(), |manifest| {
            let size = &mut manifest["layers"][1]["size"];
            *size = (size.as_i64().expect("a size") + change).into();
        });
        image.push(&registry, "test/app", tag);
        let said = dist.run(&["cat", &registry.reference(&format!("test/app:{tag}")), "etc/kept"]);
        said.exit(6);
    }
}

#[test]
fn a_large_file_of_a_real_image() {
    let _timed = timed("cat");
    let (images, dist) = (Registry::of_images(), dist());
    let redis = format!("localhost:{}/library/redis:7", images.port());
    let remote = dist.ok(&["cat", &redis, "/usr/bin/redis-server"]).stdout;
    dist.ok(&["unpack", &redis, "plain"]);
    let server = dist.dir().join("plain/usr/bin/redis-server").canonicalize().expect("a file");
    assert!(remote == fs_err::read(server).expect("read the file"));
}

#[test]
fn images_are_looked_at_wherever_they_are() {
    let _timed = timed("cat");
    let (registry, dist, image) = (Registry::start(), dist(), layered());
    image.push(&registry, "test/app", "1");
    let name = registry.reference("test/app:1");
    let places = ["oci:layout:1", "oci-archive:a.tar:1", "docker-archive:d.tar:app:1", "dir:plain"];
    places.iter().for_each(|place| drop(dist.ok(&["copy", "-q", &name, place])));
    pull(&dist, &name);
    drop(registry);
    let daemon = dist.daemon();
    let (stored, theirs) =
        (format!("store:{name}"), format!("daemon:{}:{name}", daemon.address().display()));
    for (at, place) in places.into_iter().chain([&*stored, &*theirs]).enumerate() {
        assert_eq!(dist.ok(&["cat", place, "etc/changed"]).text(), "new", "{place}");
        dist.run(&["cat", place, "etc/gone"]).exit(3);
        let config = dist.ok(&["inspect", "--config", place]).stdout;
        assert_eq!(config, image.blobs[0].bytes, "{place}");
        let out = format!("out{at}");
        dist.ok(&["unpack", "-q", place, &out]);
        let changed = dist.dir().join(&out).join("etc/changed");
        assert_eq!(fs_err::read_to_string(changed).expect("a file"), "new", "{place}");
        if place != "dir:plain" {
            dist.ok(&["referrers", place]);
        }
    }
    daemon.stop().ok();
    dist.run(&["cat", "store:none:1", "etc/changed"]).exit(3).says("not in the store");
    dist.run(&["inspect", "store:none:1"]).exit(3).says("not in the store");
}
