//! Images against the specification: sound ones of every kind of place, and all that is wrong at once.

use std::ffi::OsStr;

use dist_testutil::{
    Blob, Dist, Entry, Fault, FaultProxy, Form, Image, ImageOptions, Layer, Registry, Rule,
    WebServer, index_of, scratch, timed,
};
use serde_json::{Value, json};

use crate::address::Through;
use crate::policy::Place;
use crate::support::{dist, project, pull, quick, script};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// What is found, as severity, kind and place; `*` stands for no place.
fn found(dist: &Dist, name: &str, code: i32) -> Vec<String> {
    let said = dist.run(&["validate", "--notes", "--format", "json", name]).exit(code).json();
    let text = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let rows = said.as_array().expect("an array").iter();
    rows.map(|row| {
        assert!(!text(row, "spec").is_empty() && !text(row, "problem").is_empty(), "{row}");
        let place = text(row, "place");
        let place = if place.is_empty() { "*" } else { &place };
        format!("{} {} {place}", text(row, "severity"), text(row, "kind"))
    })
    .collect()
}

/// The same image with another manifest.
pub(crate) fn with_manifest(image: &Image, change: impl FnOnce(&mut Value)) -> Image {
    let mut manifest: Value = serde_json::from_slice(&image.manifest.bytes).expect("a manifest");
    change(&mut manifest);
    let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
    Image { manifest, ..image.clone() }
}

#[test]
fn a_sound_image_is_sound_wherever_it_is() {
    let _timed = timed("validate");
    let (registry, dist) = (Registry::start(), quick());
    let image = Image::varied_in(Form::Gzip);
    image.push(&registry, "test/app", "1");
    let name = registry.reference("test/app:1");
    let notes = ["note layer bin/su", "note layer dev/null", "note layer attributes"];
    assert_eq!(found(&dist, &name, 0), notes);
    assert!(!dist.root().exists(), "nothing was kept");
    let places =
        ["oci:layout:1", "oci-archive:oci.tar:1", "docker-archive:docker.tar:app:1", "dir:plain"];
    for place in places {
        dist.ok(&["copy", &name, place]);
        assert_eq!(found(&dist, place, 0), notes, "{place}");
    }
    dist.ok(&["bundle", "create", "b.tar", &name]);
    assert_eq!(found(&dist, "bundle:b.tar", 0), notes);
    pull(&dist, &name);
    drop(registry);
    assert_eq!(found(&dist, &name, 0), notes);
    assert_eq!(found(&dist, &format!("store:{name}"), 0), notes);
    let daemon = dist.daemon();
    let there = format!("daemon:{}:{name}", daemon.address().display());
    assert_eq!(found(&dist, &there, 0), notes);
    let through = Through::new(&dist, &daemon);
    through.same(&["validate", "-q", &name]);
    through.same(&["diff", "-q", &name, &there]);
    daemon.stop().ok();
    let server = WebServer::start();
    for place in ["layout", "oci.tar"] {
        fs_err::rename(dist.dir().join(place), server.files().join(place)).expect("move");
    }
    for address in ["layout/#1", "oci.tar"] {
        assert_eq!(found(&dist, &format!("http://{}/{address}", server.address()), 0), notes);
    }
    assert_eq!(found(&dist, &image.digest(), 0), notes);
    assert_eq!(found(&dist, &image.blobs[0].digest.to_string(), 0), [""; 0]);
    assert_eq!(found(&dist, &image.layer(0), 0), notes);
    let said = dist.ok(&["validate", &name]).text();
    assert!(said.starts_with("2 documents, 3 blobs, ") && said.ends_with(": 3 notes\n"), "{said}");
    dist.run(&["validate", &format!("sha256:{}", "0".repeat(64))]).exit(3);
    dist.run(&["validate", "store:nothing/there:1"]).exit(3);
    dist.run(&["validate", "Not/A/Name"]).exit(2);
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let _timed = timed("validate");
    let dist = dist();
    let layers = [
        Layer::new(
            &[
                Entry::file("twice", "1"),
                Entry::file("twice", "2"),
                Entry::link("lost", "nowhere"),
                Entry::file("file", ""),
                Entry::file("file/below", ""),
                Entry::symlink("way", "/etc"),
                Entry::file("way/passwd", "root"),
                Entry::file("dir/.wh.", ""),
                Entry::dir("a/.wh.b"),
                Entry::device("null", 1, 3),
            ],
            Form::Gzip,
        ),
        Layer::new(&[Entry::file("a", "a")], Form::Zstd),
        Layer::of_tar(b"this is no archive, and that is all there is to it", Form::Gzip),
    ];
    let wrong = Layer::random(9, 9).diff_id;
    let told = vec![layers[0].diff_id, wrong, layers[2].diff_id];
    let settings = json!({ "Env": ["NOTHING"], "Cmd": "sh", "User": 0 });
    let options = ImageOptions {
        diff_ids: Some(told),
        settings: Some(settings),
        platform: Some(("x86_64", None)),
    };
    let image = Image::new(&layers, &options);
    let image = with_manifest(&image, |manifest| {
        manifest["schemaVersion"] = 3.into();
        manifest["annotations"] = json!({ "a": 1, "org.opencontainers.image.created": "today" });
        manifest["subject"] = image.blobs[1].descriptor();
    });
    let layout = image.write_layout(&dist.dir().join("layout"), "1");
    assert_eq!(
        found(&dist, &layout.reference("1"), 6),
        [
            "error manifest schemaVersion",
            "error manifest annotations.a",
            "warning manifest annotations.org.opencontainers.image.created",
            "warning manifest subject.mediaType",
            "warning config architecture",
            "error config config.User",
            "error config config.Env[0]",
            "error config config.Cmd",
            "error layer twice",
            "error layer lost",
            "error layer file/below",
            "warning layer way/passwd",
            "error layer dir/.wh.",
            "error layer a/.wh.b",
            "note layer null",
            "error layer *",
            "error config rootfs.diff_ids[1]",
        ]
    );
    let said = dist.run(&["validate", &layout.reference("1")]).exit(6).says("12 errors").text();
    assert!(said.contains("twice: the path is there twice (layer.md#"), "{said}");
    assert!(said.contains(&layers[1].diff_id.0.to_string()), "{said}");
}

#[test]
fn blobs_that_are_missing_or_changed_are_told_and_the_rest_is_looked_at() {
    let _timed = timed("validate");
    let (registry, dist) = (Registry::start(), quick());
    let image = Image::random(5, &[3000, 4000, 5000]);
    image.push(&registry, "test/app", "1");
    let proxy = FaultProxy::start(registry.address());
    let name = proxy.reference("test/app:1");
    proxy.add(Rule::get(image.layer(0), Fault::Flip(30)).times(99));
    let said = dist.run(&["validate", &name]).exit(6).text();
    assert!(said.contains(&format!("error layer {}: ", image.layer(0))), "{said}");
    assert!(said.contains("3 blobs") || said.contains("2 blobs"), "{said}");
    let layout = image.write_layout(&dist.dir().join("layout"), "1");
    let blobs = layout.path().join("blobs/sha256");
    fs_err::remove_file(blobs.join(image.blobs[2].digest.hex())).expect("remove a layer");
    fs_err::write(blobs.join(image.blobs[3].digest.hex()), "short").expect("cut a layer");
    let place = layout.reference("1");
    assert_eq!(found(&dist, &place, 6), ["error layer *", "error layer *"]);
    let said = dist.run(&["validate", &place]).exit(6).text();
    assert!(said.contains("it is not there") && said.contains("descriptor says"), "{said}");
    fs_err::remove_file(blobs.join(image.blobs[0].digest.hex())).expect("remove the config");
    assert_eq!(found(&dist, &place, 6)[0], "error config *");
}

#[test]
fn an_index_is_looked_at_whole_or_for_one_platform() {
    let _timed = timed("validate");
    let (registry, dist) = (Registry::start(), quick());
    let arm = ImageOptions { platform: Some(("arm64", Some("v8"))), ..ImageOptions::default() };
    let arm = Image::new(&[Layer::random(2, 100)], &arm);
    let both = index_of(&[("amd64", None, Image::random(1, &[100])), ("arm64", Some("v8"), arm)]);
    both.push(&registry, "test/both", "1");
    let name = registry.reference("test/both:1");
    assert_eq!(found(&dist, &name, 0), [""; 0]);
    let said = dist.ok(&["validate", &name]).text();
    assert!(said.starts_with("5 documents, 2 blobs, "), "{said}");
    let said = dist.ok(&["validate", "--platform", "linux/arm64", &name]).text();
    assert!(said.starts_with("3 documents, 1 blob, "), "{said}");
    dist.run(&["validate", "--platform", "plan9/amd64", &name]).exit(3);
    // A store has one platform, and that is no fault of its index.
    pull(&dist, &name);
    assert_eq!(found(&dist, &name, 0), ["note manifest *"]);
    // What the index says of an image must be so.
    let lying = index_of(&[("s390x", None, Image::random(1, &[100]))]);
    lying.push(&registry, "test/lying", "1");
    let name = registry.reference("test/lying:1");
    assert_eq!(found(&dist, &name, 6), ["error config architecture"]);
}

#[test]
fn artifacts_are_no_images_and_sound() {
    let _timed = timed("validate");
    let (registry, dist) = (Registry::start(), quick());
    let empty = Blob::new("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let file = Blob::new("text/plain", b"some text".to_vec());
    let artifact = |artifact_type: Option<&str>| {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": empty.descriptor(),
            "layers": [file.descriptor()],
        });
        if let Some(artifact_type) = artifact_type {
            manifest["artifactType"] = artifact_type.into();
        }
        Image {
            manifest: Blob::new(MANIFEST, manifest.to_string().into_bytes()),
            blobs: vec![empty.clone(), file.clone()],
            children: Vec::new(),
            diff_ids: Vec::new(),
        }
    };
    artifact(Some("application/vnd.example.note")).push(&registry, "test/note", "1");
    artifact(None).push(&registry, "test/note", "2");
    artifact(Some("note")).push(&registry, "test/note", "3");
    assert_eq!(found(&dist, &registry.reference("test/note:1"), 0), [""; 0]);
    let odd = ["error manifest artifactType"];
    assert_eq!(found(&dist, &registry.reference("test/note:2"), 6), odd);
    assert_eq!(found(&dist, &registry.reference("test/note:3"), 6), odd);
}

#[test]
fn signatures_and_what_a_bundle_leaves_out_are_sound() {
    let _timed = timed("validate");
    let place = Place::new();
    let (registry, dist) = (&place.registry, &place.dist);
    let name = registry.reference("team/app:1");
    dist.ok(&["sign", "--key", "key.key", &name]);
    let hex = place.image.manifest.digest.hex();
    let signature = registry.reference(&format!("team/app:sha256-{hex}.sig"));
    assert_eq!(found(dist, &signature, 0), [""; 0]);

    place.image.push(registry, "team/app", "2");
    dist.ok(&["bundle", "create", "old.tar", &name]);
    let again = registry.reference("team/app:2");
    dist.ok(&["bundle", "create", "--since", "old.tar", "new.tar", &again]);
    let notes = found(dist, "bundle:new.tar", 0);
    assert!(notes.contains(&"note config *".to_owned()), "{notes:?}");
    assert!(notes.iter().all(|flaw| flaw.starts_with("note ")), "{notes:?}");
}

#[test]
fn real_images_are_sound() {
    let _timed = timed("validate");
    let (images, dist) = (Registry::of_images(), dist());
    for name in ["redis:7", "busybox:1"] {
        let name = format!("localhost:{}/library/{name}", images.port());
        let said = dist.ok(&["validate", &name]).text();
        assert!(!said.contains("error"), "{said}");
    }
}

#[test]
fn nothing_that_must_be_refused_is_called_sound() {
    let _timed = timed("validate");
    let dir = scratch();
    let (corpus, canary) = (dir.path().join("corpus"), dir.path().join("canary"));
    let generator = project().join("tests/adversarial/gen_adversarial.py");
    let canary = [OsStr::new("--canary"), canary.as_os_str()];
    script("python3", &[generator.as_os_str(), corpus.as_os_str(), canary[0], canary[1]]);
    let index = fs_err::read(corpus.join("index.json")).expect("the corpus");
    let index: Value = serde_json::from_slice(&index).expect("an index of cases");
    let cases = index["cases"].as_array().expect("cases").iter();
    let refused: Vec<&str> = cases
        .filter(|case| case["expect"] == "reject")
        .map(|case| case["id"].as_str().expect("a name"))
        // An artifact can't be unpacked, and may be as it should be.
        .filter(|id| *id != "mf-artifact")
        .collect();
    assert!(refused.len() > 100, "{} cases", refused.len());
    let dist = dist();
    let is_called_sound = |id: &&str| {
        let name = format!("oci:{}:t", corpus.join("cases").join(id).display());
        let ran = dist.run(&["validate", "--platform", "linux/amd64", &name]);
        // A layer of a type that is not known is only warned of.
        ran.code == Some(0) && !ran.text().contains("warning")
    };
    let sound: Vec<&str> = refused.into_iter().filter(is_called_sound).collect();
    assert_eq!(sound, [""; 0]);
}
