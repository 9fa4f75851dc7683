//! What refers to an image, and the other places that images are copied from and to.

use std::ffi::OsStr;

use dist_testutil::{Image, ReferrersRegistry, Registry, Response, index_of, request, run, timed};
use serde_json::Value;

use crate::copy::attach;
use crate::policy::Place;
use crate::support::{pulled, quick};

fn manifest(registry: &Registry, name: &str, object: &str) -> Response {
    let accept =
        "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let path = format!("/v2/{name}/manifests/{object}");
    request(registry.address(), "GET", &path, &[("Accept", accept)], b"")
}

#[test]
fn files_are_attached_and_listed_as_a_tree() {
    let _timed = timed("artifacts");
    let registry = Registry::start();
    let image = Image::random(1, &[1000]);
    image.push(&registry, "app", "1");
    let (signature, packages) = attach(&registry, &image);
    let dist = quick();
    let name = registry.reference("app:1");
    fs_err::write(dist.dir().join("a.json"), b"{\"a\":1}").expect("write");
    fs_err::write(dist.dir().join("notes"), b"text").expect("write");
    let args = ["attach", "--type", "application/vnd.example.scan", "--annotation", "by=me", &name];
    let files = ["a.json:application/json", "notes"];
    let scan = pulled(&dist.ok(&[&args[..], &files].concat()).text());
    // The same files are the same artifact, and listed once.
    assert_eq!(pulled(&dist.ok(&[&args[..], &files].concat()).text()), scan);
    let bytes = manifest(&registry, "app", &scan).body;
    let document: Value = serde_json::from_slice(&bytes).expect("a manifest");
    assert_eq!(document["subject"]["digest"], image.digest());
    assert_eq!(document["annotations"]["by"], "me");
    assert_eq!(document["layers"][0]["annotations"]["org.opencontainers.image.title"], "a.json");
    let digest = document["layers"][1]["digest"].as_str().expect("a digest");
    let blob = request(registry.address(), "GET", &format!("/v2/app/blobs/{digest}"), &[], b"");
    assert_eq!(blob.body, b"text");

    // What refers to that is below it.
    let above = registry.reference(&format!("app@{scan}"));
    let review = ["attach", "--type", "application/vnd.example.review", &above, "notes"];
    let review = pulled(&dist.ok(&review).text());
    let tree = dist.ok(&["referrers", &name]).text();
    let lines: Vec<&str> = tree.lines().collect();
    assert_eq!(lines.len(), 5, "{tree}");
    assert!(lines[1].starts_with("├── application/spdx+json") && lines[1].contains(&packages));
    assert!(lines[2].starts_with("├── application/vnd.example.scan") && lines[2].contains(&scan));
    assert!(lines[3].starts_with("│   └── application/vnd.example.review"), "{tree}");
    assert!(lines[4].starts_with("└── tag sha256-") && lines[4].contains(&signature), "{tree}");
    let kind = ["referrers", "--type", "application/vnd.example.review", "--format", "json", &name];
    let listed = dist.ok(&kind).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(1));
    assert_eq!(listed[0]["digest"], review);

    // All of it goes along.
    let here = Registry::start();
    dist.ok(&["copy", &name, &here.reference("new:1")]);
    for digest in [&scan, &review, &packages, &signature] {
        assert_eq!(manifest(&here, "new", digest).status, 200, "{digest}");
    }
    dist.ok(&["copy", &name, "oci:layout:one"]);
    let late = ["attach", "--type", "application/vnd.example.late", "oci:layout:one", "notes"];
    assert!(dist.ok(&late).text().starts_with("oci:layout@sha256:"));
    assert!(dist.ok(&["referrers", "oci:layout:one"]).text().contains("vnd.example.late"));

    dist.run(&["attach", "--type", "scan", &name, "notes"]).exit(2).says("media type");
    dist.run(&["attach", "--type", "a/b", &name, "none"]).exit(3);
    dist.run(&["attach", "--type", "a/b", &name]).exit(2);
    dist.run(&["attach", "--type", "a/b", &registry.reference("app:2"), "notes"]).exit(3);
    dist.run(&["referrers", &registry.reference("app:2")]).exit(3);
}

#[test]
fn plain_directories_are_written_and_read_as_skopeo_does() {
    let _timed = timed("artifacts");
    let (there, here) = (Registry::start(), Registry::start());
    let image = index_of(&[
        ("amd64", None, Image::random(2, &[3000])),
        ("arm64", None, Image::random(3, &[20])),
    ]);
    image.push(&there, "app", "1");
    let dist = quick();
    dist.ok(&["copy", &there.reference("app:1"), "dir:ours"]);
    let theirs = format!("dir:{}", dist.dir().join("theirs").display());
    let source = format!("docker://{}", there.reference("app:1"));
    let args = ["copy", "-q", "--all", "--src-tls-verify=false", &source, &theirs];
    run("skopeo", &args.map(OsStr::new));
    let list = |name: &str| {
        let entries = fs_err::read_dir(dist.dir().join(name)).expect("list");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry"))
            .map(|entry| (entry.file_name(), fs_err::read(entry.path()).expect("read")))
            .collect();
        files.sort();
        files
    };
    assert!(list("ours") == list("theirs"), "the directories differ");
    dist.ok(&["copy", "dir:theirs", &here.reference("app:1")]);
    assert_eq!(manifest(&here, "app", "1").body, image.manifest.bytes);
    for child in &image.children {
        assert_eq!(manifest(&here, "app", &child.digest.to_string()).body, child.bytes);
    }
    // Of another image nothing stays in it.
    let other = Image::random(8, &[500]);
    other.push(&there, "app", "2");
    dist.ok(&["copy", &there.reference("app:2"), "dir:reused"]);
    fs_err::write(dist.dir().join("reused/mine"), "mine").expect("a file");
    dist.ok(&["copy", &there.reference("app:1"), "dir:reused"]);
    fs_err::remove_file(dist.dir().join("reused/mine")).expect("it stays");
    assert!(list("ours") == list("reused"), "the directories differ");
    dist.run(&["copy", "dir:none", &here.reference("app:2")]).exit(3);
    dist.run(&["copy", "dir:", &here.reference("app:2")]).exit(2);
    let blob = dist.dir().join("ours").join(image.blobs[0].digest.hex());
    let mut bytes = fs_err::read(&blob).expect("read");
    bytes[0] ^= 1;
    fs_err::write(&blob, bytes).expect("write");
    dist.run(&["copy", "dir:ours", &here.reference("bad:2")]).exit(6);
}

#[test]
fn a_new_layout_gets_the_list_of_what_refers_to_its_first_image() {
    let _timed = timed("artifacts");
    let (registry, dist) = (Registry::start(), quick());
    Image::random(6, &[3000]).push(&registry, "app", "1");
    let name = registry.reference("app:1");
    fs_err::write(dist.dir().join("sbom.txt"), "packages").expect("write a file");
    dist.ok(&["attach", "-q", "--type", "text/sbom", &name, "sbom.txt"]);
    dist.ok(&["copy", &name, "oci:out:1"]);
    assert!(dist.ok(&["referrers", "oci:out:1"]).text().contains("text/sbom"));
    dist.ok(&["validate", "oci:out:1"]);
    // Nor does what broke off stand in the way.
    let dir = dist.dir().join("broken");
    fs_err::create_dir_all(dir.join("blobs/sha256")).expect("make a directory");
    fs_err::copy(dist.dir().join("out/oci-layout"), dir.join("oci-layout")).expect("copy");
    dist.run(&["inspect", "oci:broken:1"]).exit(3).says("no image is whole in it");
    dist.ok(&["copy", &name, "oci:broken:1"]);
    dist.ok(&["validate", "oci:broken:1"]);
}

#[test]
fn what_others_have_is_not_mixed_up_and_a_reader_may_go() {
    let _timed = timed("artifacts");
    let (registry, dist) = (Registry::start(), quick());
    Image::random(7, &[3_000_000]).push(&registry, "app", "1");
    let name = registry.reference("app:1");
    let said = dist.script(&format!(
        "dist copy -q {name} oci-archive:- | head -c 10 > start; echo ${{PIPESTATUS[0]}}"
    ));
    assert_eq!(said.ok().text(), "0\n");
    dist.ok(&["copy", "-q", &name, "oci:layout:1"]);
    dist.run(&["copy", &name, "dir:layout"]).exit(2).says("something in it");
    assert!(!dist.dir().join("layout/version").exists());
    // A name that means something to others is not one in Docker Hub's library.
    for (name, hint) in [
        ("bundle:x.tar", "dist bundle load"),
        ("containers-storage:x", "docker.io/library/containers-storage:x"),
        ("docker-daemon:x:1", "dist copy --help"),
        ("dir:x", "docker.io/library/dir:x"),
        ("oci-archive:/a.tar", "dist import"),
    ] {
        dist.run(&["pull", name]).exit(2).says(hint);
    }
    dist.run(&["copy", "oci:layout:1", "bundle:x.tar"]).exit(2).says("bundle:");
    dist.run(&["cat", &name, "../../etc/passwd"]).exit(2);
}

#[test]
fn stores_and_daemons_are_copied_from() {
    let _timed = timed("artifacts");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(4, &[3000]);
    image.push(&there, "app", "1");
    let dist = quick();
    let name = there.reference("app:1");
    dist.run(&["copy", &format!("store:{name}"), &here.reference("a:1")]).exit(3);
    dist.ok(&["pull", &name]);
    dist.ok(&["copy", &format!("store:{name}"), &here.reference("a:1")]);
    assert_eq!(manifest(&here, "a", "1").body, image.manifest.bytes);
    dist.run(&["copy", &format!("store:{name}x"), &here.reference("a:2")]).exit(3);
    dist.run(&["copy", &name, "daemon:/none:x"]).exit(5);
    for nothing in ["daemon:/none", "daemon:/none:", "store:"] {
        dist.run(&["copy", nothing, &here.reference("a:2")]).exit(2).says("NAME");
    }
    dist.run(&["copy", "daemon:/none:x", &here.reference("a:2")]).exit(5);
}

#[test]
fn archives_arrive_through_a_pipe_and_compressed() {
    let _timed = timed("artifacts");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(5, &[300_000]);
    image.push(&there, "app", "1");
    let (from, to) = (there.reference("app:1"), here.reference("app:1"));
    let dist = quick();
    dist.script(&format!(
        "dist copy {from} docker-archive:-:app:1 | dist copy docker-archive:-:app:1 {to}"
    ))
    .ok();
    assert_eq!(manifest(&here, "app", "1").body, image.manifest.bytes);
    let to = here.reference("zipped:1");
    dist.script(&format!("dist copy {from} oci-archive:-:x | gzip > a.tgz; dist copy oci-archive:a.tgz:x {to}; cat a.tgz | dist copy oci-archive:/dev/stdin {to}"))
        .ok();
    assert_eq!(manifest(&here, "zipped", "1").body, image.manifest.bytes);
    dist.feed(&["copy", "oci-archive:-", &to], b"no archive").exit(6);
}

#[test]
fn an_archive_brings_what_refers_to_its_image_into_the_store() {
    let _timed = timed("artifacts");
    let place = Place::new();
    let (dist, name) = (&place.dist, place.registry.reference("team/app:1"));
    fs_err::write(dist.dir().join("notes"), "notes").expect("a file");
    dist.ok(&["sign", "--key", "key.key", &name]);
    let kind = "application/vnd.example.scan";
    let scan = pulled(&dist.ok(&["attach", "--type", kind, &name, "notes"]).text());
    dist.ok(&["copy", &name, "oci-archive:a.tar:1"]);
    let imported = dist.ok(&["import", "a.tar"]).text();
    assert_eq!(imported.lines().count(), 3, "{imported}");
    let image = format!("localhost/import:1@{}", place.image.digest());
    assert!(imported.lines().any(|line| line == image), "{imported}");
    let found = dist.ok(&["referrers", "store:localhost/import:1"]).text();
    assert!(found.contains(&scan) && found.contains(".sig"), "{found}");
    assert_eq!(dist.ok(&["snapshots", "ls", "-q"]).text().lines().count(), 2);

    // With a whole name, what is attached is in the same repository, wherever it goes from there.
    dist.ok(&["copy", &name, "oci-archive:w.tar:example.com/team/app:1"]);
    let imported = dist.ok(&["import", "w.tar"]).text();
    let beside = |line: &str| line.starts_with("example.com/team/app:");
    assert!(imported.lines().count() == 3 && imported.lines().all(beside), "{imported}");
    let here = Registry::start();
    dist.ok(&["bundle", "load", "--to", &here.reference("a"), "w.tar"]);
    let found = dist.ok(&["referrers", &here.reference("a/team/app:1")]).text();
    assert!(found.contains(&scan) && found.contains(".sig"), "{found}");
    dist.ok(&["bundle", "create", "bundle.tar", &name]);
    dist.ok(&["copy", &format!("oci-archive:bundle.tar:{name}"), &here.reference("b:1")]);
    let found = dist.ok(&["referrers", &here.reference("b:1")]).text();
    assert!(found.contains(&scan) && found.contains(".sig"), "{found}");

    // An artifact by itself comes as well.
    let alone = place.registry.reference("team/app@") + &scan;
    dist.ok(&["copy", "--no-referrers", &alone, "oci-archive:b.tar:scan"]);
    dist.ok(&["import", "b.tar"]).says("");
    assert_eq!(dist.ok(&["snapshots", "ls", "-q"]).text().lines().count(), 2);
}

#[test]
fn many_attach_to_a_layout_at_once() {
    let _timed = timed("artifacts");
    let there = Registry::start();
    let image = Image::random(6, &[100]);
    image.push(&there, "app", "1");
    let dist = quick();
    dist.ok(&["copy", &there.reference("app:1"), "oci:layout:1"]);
    fs_err::write(dist.dir().join("notes"), "notes").expect("a file");
    let kinds: Vec<String> = (0..6).map(|at| format!("application/vnd.example.k{at}")).collect();
    let running: Vec<_> = kinds
        .iter()
        .map(|kind| dist.spawn(&["attach", "-q", "--type", kind, "oci:layout:1", "notes"]))
        .collect();
    for attaching in running {
        attaching.wait().ok();
    }
    let found = dist.ok(&["referrers", "oci:layout:1"]).text();
    assert!(kinds.iter().all(|kind| found.contains(kind)), "{found}");
}

#[test]
fn what_docker_saved_once_and_linked_twice_is_read() {
    let _timed = timed("artifacts");
    let here = Registry::start();
    let dist = quick();
    let image = Image::random(7, &[3000]);
    image.push(&here, "app", "1");
    dist.ok(&["copy", &here.reference("app:1"), "docker-archive:new.tar:app:1"]);
    dist.script(
        "set -e; mkdir old old/one old/two; tar -xf new.tar -C old
        config=$(jq -r '.[0].Config' old/manifest.json)
        layer=$(jq -r '.[0].Layers[0]' old/manifest.json)
        mv old/$layer old/one/layer.tar; mv old/$config old/config.json
        ln -s ../one/layer.tar old/two/layer.tar; rm -rf old/blobs old/index.json old/oci-layout
        jq '.[0].Config = \"config.json\" | .[0].Layers = [\"two/layer.tar\"]' \
            old/manifest.json > m; mv m old/manifest.json
        tar -cf old.tar -C old .",
    )
    .ok();
    dist.ok(&["copy", "docker-archive:old.tar", &here.reference("old:1")]);
    let path = format!("/v2/old/blobs/{}", image.layer(0));
    assert_eq!(request(here.address(), "HEAD", &path, &[], b"").status, 200);
    dist.ok(&["import", "old.tar"]);
}

#[test]
fn a_list_of_referrers_has_an_end() {
    let _timed = timed("artifacts");
    let behind = Registry::start();
    let lists = ReferrersRegistry::start(&behind);
    let image = Image::random(8, &[1000]);
    image.push(&behind, "app", "1");
    let name = lists.reference("app:1");
    let (address, _) = name.split_once('/').expect("a host");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    for number in 0..9 {
        let document = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type, "artifactType": "a/b",
            "config": image.blobs[0].descriptor(), "layers": [],
            "subject": image.manifest.descriptor(),
            "annotations": { "long": number.to_string().repeat(1_900_000) },
        });
        let bytes = document.to_string();
        let digest = dist_core::Digest::sha256(bytes.as_bytes());
        let path = format!("/v2/app/manifests/{digest}");
        let done =
            request(address, "PUT", &path, &[("Content-Type", media_type)], bytes.as_bytes());
        assert_eq!(done.status, 201);
        if number == 7 {
            let listed = quick().ok(&["referrers", "--format", "json", &name]).json();
            assert_eq!(listed.as_array().map(Vec::len), Some(8));
        }
    }
    // Pages of two entries are within the limit of each, and all together are not.
    quick().run(&["referrers", &name]).exit(6).says("the limit for referrers-size is 16777216");
}

#[test]
fn a_registry_that_lists_referrers_gets_no_tag_for_them() {
    let _timed = timed("artifacts");
    let (behind, plain, other) = (Registry::start(), Registry::start(), Registry::start());
    let (from, to) = (ReferrersRegistry::start(&behind), ReferrersRegistry::start(&other));
    let image = Image::random(6, &[1000]);
    image.push(&behind, "app", "1");
    let dist = quick();
    let name = from.reference("app:1");
    let tag = format!("sha256-{}", image.manifest.digest.hex());
    let mut attached: Vec<String> = Vec::new();
    for kind in ["a/x", "a/y", "a/z"] {
        fs_err::write(dist.dir().join("notes"), kind).expect("write");
        attached.push(pulled(&dist.ok(&["attach", "--type", kind, &name, "notes"]).text()));
    }
    assert_eq!(manifest(&behind, "app", &tag).status, 404, "a tag was made");
    // The list has two pages.
    let listed = dist.ok(&["referrers", "--format", "json", &name]).json();
    let digests: Vec<_> = listed.as_array().expect("a list").iter().map(|e| &e["digest"]).collect();
    assert_eq!(digests, attached.iter().collect::<Vec<_>>());
    assert_eq!(listed[0]["artifactType"], "a/x");

    // Where there is no list the tag comes to be, and where there is one it does not.
    dist.ok(&["copy", &name, &plain.reference("app:1")]);
    assert_eq!(manifest(&plain, "app", &tag).status, 200);
    dist.ok(&["copy", &plain.reference("app:1"), &to.reference("app:1")]);
    assert_eq!(manifest(&other, "app", &tag).status, 404, "a tag was copied");
    let listed = dist.ok(&["referrers", "--format", "json", &to.reference("app:1")]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    for digest in &attached {
        assert_eq!(manifest(&other, "app", digest).body, manifest(&behind, "app", digest).body);
    }
    dist.ok(&["bundle", "create", "a.tar", &name]);
    let place = to.reference("carried");
    dist.ok(&["bundle", "load", "--to", &place, "a.tar"]);
    let listed = dist.ok(&["referrers", "--format", "json", &format!("{place}/app:1")]).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
}
