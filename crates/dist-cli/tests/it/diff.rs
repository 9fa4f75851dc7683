//! How two images differ: manifests, configs, files, and what is fetched for it.

use dist_testutil::{
    Blob, Dist, Entry, FaultProxy, Form, Image, ImageOptions, Layer, Registry, WebServer, timed,
};
use serde_json::{Value, json};

use crate::support::{dist, pull, quick};

fn base() -> Layer {
    base_in(Form::Gzip)
}

fn base_in(form: Form) -> Layer {
    let entries = [
        Entry::dir("etc"),
        Entry::file("etc/passwd", "root\n"),
        Entry::file("etc/gone", "x"),
        Entry::file("cache/one", "1"),
        Entry::file("cache/two", "2"),
        Entry::symlink("way", "etc"),
    ];
    Layer::new(&entries, form)
}

fn image(layers: &[Layer], settings: Value) -> Image {
    Image::new(layers, &ImageOptions { settings: Some(settings), ..ImageOptions::default() })
}

/// Two images on one base.
fn two() -> (Image, Image) {
    let first = [
        Entry::dir("etc"),
        Entry::file("etc/both", "same"),
        Entry::file("app", "one").mode(0o755),
        Entry::file("only-a", ""),
        Entry::symlink("link", "here"),
        Entry::file("kind", "a file"),
        Entry::file("marked", "").attribute("user.note", b"a"),
    ];
    let second = [
        Entry::dir("etc"),
        Entry::file("etc/both", "same"),
        Entry::file("etc/passwd", "root\nuser\n"),
        Entry::whiteout("etc/gone"),
        Entry::dir("cache"),
        Entry::opaque("cache"),
        Entry::file("app", "three").owner(1, 2),
        Entry::symlink("link", "there"),
        Entry::dir("kind"),
        Entry::file("marked", "").attribute("user.note", b"b"),
    ];
    let a = image(&[base(), Layer::new(&first, Form::Gzip)], json!({ "Env": ["A=1", "B=2"] }));
    let settings = json!({ "Env": ["A=1", "B=3"], "Labels": { "x": "y" } });
    (a, image(&[base(), Layer::new(&second, Form::Zstd)], settings))
}

/// Statuses and paths of the files that differ.
fn files(dist: &Dist, args: &[&str]) -> Vec<String> {
    let said = dist.ok(&[&["diff", "--format", "json"], args].concat()).json();
    let rows = said["files"].as_array().expect("files").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    rows.map(|row| format!("{} {}", text(&row["status"]), text(&row["path"]))).collect()
}

#[test]
fn what_differs_is_told_and_what_is_shared_is_not_fetched() {
    let _timed = timed("diff");
    let (registry, dist, (a, b)) = (Registry::start(), quick(), two());
    a.push(&registry, "test/app", "1");
    b.push(&registry, "test/app", "2");
    let proxy = FaultProxy::start(registry.address());
    let (one, other) = (proxy.reference("test/app:1"), proxy.reference("test/app:2"));
    let told = [
        "modified app",
        "written_by_b cache",
        "removed etc/gone",
        "written_by_b etc/passwd",
        "modified kind",
        "modified link",
        "modified marked",
        "written_by_a only-a",
    ];
    assert_eq!(files(&dist, &[&one, &other]), told);
    assert_eq!(proxy.blob_gets(&a.layer(0)).len(), 0, "the base");
    assert_eq!(proxy.blob_gets(&a.layer(1)).len(), 1);
    assert_eq!(proxy.blob_gets(&b.layer(1)).len(), 1);
    assert!(!dist.root().exists(), "nothing was kept");
    let whole = [
        "modified app",
        "removed cache/one",
        "removed cache/two",
        "removed etc/gone",
        "modified etc/passwd",
        "modified kind",
        "modified link",
        "modified marked",
        "removed only-a",
    ];
    assert_eq!(files(&dist, &["--whole", &one, &other]), whole);
    assert_eq!(proxy.blob_gets(&a.layer(0)).len(), 1, "the base, once");
    let turned = files(&dist, &["--whole", &other, &one]);
    assert!(turned.contains(&"added only-a".to_owned()), "{turned:?}");
    let text = dist.ok(&["diff", &one, &other]).text();
    for part in [
        &format!("--- {one}@{}", a.digest()),
        &format!("+++ {other}@{}", b.digest()),
        "layers: 1 shared from the start",
        &format!("  - {}", a.layer(1)),
        &format!("  + {}", b.layer(1)),
        "  config.Env.B: \"2\" -> \"3\"",
        "  + config.Labels.x: \"y\"",
        "M app (mode 0755 -> 0644, owner 0:0 -> 1:2, size 3 -> 5, content)",
        "M kind (file -> directory)",
        "M link (target here -> there)",
        "M marked (xattrs)",
    ] {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    let names = dist.ok(&["diff", "--name-only", &one, &other]).text();
    assert_eq!(names.lines().count(), told.len());
    dist.run(&["diff", "--exit-code", &one, &other]).exit(1);
    let before = proxy.log().len();
    let said = dist.ok(&["diff", "--no-files", "--format", "json", &one, &other]).json();
    assert_eq!((&said["files"], &said["equal"]), (&Value::Null, &Value::Bool(false)));
    let log = proxy.log();
    assert!(!log[before..].iter().any(|request| request.path.contains(&a.layer(1))));
}

#[test]
fn equal_images_differ_in_nothing_wherever_they_are() {
    let _timed = timed("diff");
    let (registry, dist, (a, _)) = (Registry::start(), quick(), two());
    a.push(&registry, "test/app", "1");
    let name = registry.reference("test/app:1");
    dist.ok(&["copy", &name, "oci:layout:1"]);
    dist.ok(&["copy", &name, "oci-archive:oci.tar:1"]);
    pull(&dist, &name);
    let (daemon, server) = (dist.daemon(), WebServer::start());
    fs_err::copy(dist.dir().join("oci.tar"), server.files().join("oci.tar")).expect("copy");
    let there = format!("daemon:{}:{name}", daemon.address().display());
    let address = format!("http://{}/oci.tar", server.address());
    for other in ["oci:layout:1", "oci-archive:oci.tar:1", &a.digest(), &there, &address] {
        let said = dist.ok(&["diff", "--exit-code", &name, other]).text();
        assert!(said.ends_with("nothing differs\n"), "{said}");
        assert_eq!(files(&dist, &["--remote", &name, other]), [""; 0]);
    }
    daemon.stop().ok();
    // The same files in another compression are the same files.
    let packed = image(&[base()], json!({})).write_layout(&dist.dir().join("p"), "1");
    let other = image(&[base_in(Form::Zstd)], json!({})).write_layout(&dist.dir().join("q"), "1");
    let (packed, other) = (packed.reference("1"), other.reference("1"));
    assert_eq!(files(&dist, &[&packed, &other]), [""; 0]);
    dist.run(&["diff", "--exit-code", &packed, &other]).exit(1);
}

#[test]
fn what_is_no_image_or_is_not_whole_is_compared_as_far_as_it_goes() {
    let _timed = timed("diff");
    let (dist, (a, b)) = (dist(), two());
    let empty = image(&[], json!({})).write_layout(&dist.dir().join("empty"), "1").reference("1");
    let first = a.write_layout(&dist.dir().join("a"), "1").reference("1");
    let listed = files(&dist, &[&empty, &first]);
    assert!(listed.contains(&"added etc/passwd".to_owned()), "{listed:?}");
    // An artifact has no files.
    let note = |text: &str| {
        let config = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
        let file = Blob::new("text/plain", text.as_bytes().to_vec());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "text/plain",
            "config": config.descriptor(),
            "layers": [file.descriptor()],
            "annotations": { "com.example.text": text },
        });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        Image {
            manifest: Blob::new(media_type, manifest.to_string().into_bytes()),
            blobs: vec![config, file],
            children: Vec::new(),
            diff_ids: Vec::new(),
        }
    };
    let notes = ["one", "two"]
        .map(|text| note(text).write_layout(&dist.dir().join(text), "1").reference("1"));
    let said = dist.ok(&["diff", "--format", "json", &notes[0], &notes[1]]).json();
    assert_eq!(said["files"], Value::Null);
    assert_eq!(said["manifest"][0]["field"], "annotations.com.example.text");
    assert_eq!(said["layers"]["added"].as_array().map(Vec::len), Some(1));
    // What is missing, and what is no image.
    let second = b.write_layout(&dist.dir().join("b"), "1");
    let blob = second.path().join("blobs/sha256").join(b.blobs[2].digest.hex());
    fs_err::remove_file(&blob).expect("remove a layer");
    dist.run(&["diff", &first, &second.reference("1")]).exit(3).says(&b.layer(1));
    dist.ok(&["diff", "--no-files", &first, &second.reference("1")]);
    fs_err::write(&blob, vec![0; b.blobs[2].bytes.len()]).expect("write another layer");
    dist.run(&["diff", &first, &second.reference("1")]).exit(6).says(&b.layer(1));
    dist.run(&["diff", &first, "oci:nothing:1"]).exit(3);
    dist.run(&["diff", &first]).exit(2);
}

#[test]
fn real_images_of_one_base() {
    let _timed = timed("diff");
    let (images, dist) = (Registry::of_images(), dist());
    let name = |name: &str| format!("localhost:{}/library/{name}", images.port());
    let (busybox, redis) = (name("busybox:1"), name("redis:7"));
    let said = dist.ok(&["diff", "--name-only", &busybox, &redis]).text();
    assert!(
        said.lines()
            .any(|path| path == "usr/local/bin/redis-server" || path == "usr/bin/redis-server"),
        "{said}"
    );
    let said = dist.ok(&["diff", "--exit-code", &redis, &redis]).text();
    assert!(said.ends_with("nothing differs\n"), "{said}");
}
