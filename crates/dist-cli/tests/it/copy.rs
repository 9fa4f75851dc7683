//! Images from one registry into another, and what comes along.

use std::ffi::OsStr;

use dist_testutil::{
    Auth, Dist, Fault, FaultProxy, Gate, Image, Registry, RegistryOptions, Response, Rule,
    index_of, request, run, timed,
};
use serde_json::{Value, json};

use crate::support::{pulled, quick};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn manifest(registry: &Registry, name: &str, object: &str) -> Response {
    let accept = [("Accept", &*format!("{MANIFEST}, {INDEX}"))];
    request(registry.address(), "GET", &format!("/v2/{name}/manifests/{object}"), &accept, b"")
}

fn put(
    registry: &Registry,
    name: &str,
    object: &str,
    media_type: &str,
    document: &Value,
) -> String {
    let (path, bytes) = (format!("/v2/{name}/manifests/{object}"), document.to_string());
    let kind = [("Content-Type", media_type)];
    let done = request(registry.address(), "PUT", &path, &kind, bytes.as_bytes());
    assert_eq!(done.status, 201, "put {object}: {}", String::from_utf8_lossy(&done.body));
    dist_core::Digest::sha256(bytes.as_bytes()).to_string()
}

/// Everything of `image` is at `name`, as the bytes that it was.
#[track_caller]
fn verify(registry: &Registry, name: &str, tag: &str, image: &Image) {
    assert_eq!(manifest(registry, name, tag).body, image.manifest.bytes);
    for child in &image.children {
        assert_eq!(manifest(registry, name, &child.digest.to_string()).body, child.bytes);
    }
    for blob in &image.blobs {
        let path = format!("/v2/{name}/blobs/{}", blob.digest);
        assert_eq!(request(registry.address(), "GET", &path, &[], b"").body, blob.bytes);
    }
}

fn two_platforms() -> Image {
    index_of(&[
        ("amd64", None, Image::random(1, &[300_000, 20])),
        ("arm64", Some("v8"), Image::random(2, &[200_000])),
        ("s390x", None, Image::random(3, &[1000])),
    ])
}

#[test]
fn an_index_goes_whole_and_is_not_sent_twice() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let proxy = FaultProxy::start(here.address());
    let image = two_platforms();
    image.push(&there, "team/app", "1");
    let dist = quick();
    let (source, destination) = (there.reference("team/app:1"), proxy.reference("mirror/app:2"));
    let said = dist.ok(&["copy", &source, &destination]);
    assert_eq!(said.text(), format!("{destination}@{}\n", image.digest()));
    verify(&here, "mirror/app", "2", &image);
    let inspect = |registry: &Registry, name: &str| {
        let name = format!("docker://{}", registry.reference(name));
        run("skopeo", &["inspect", "--raw", "--tls-verify=false", &name].map(OsStr::new))
    };
    assert_eq!(inspect(&there, "team/app:1"), inspect(&here, "mirror/app:2"));
    // Nothing is left in a store.
    assert!(!dist.root().exists(), "a store was made");

    proxy.reset();
    dist.ok(&["copy", "-q", &source, &destination]);
    let writes = proxy.log().iter().filter(|r| r.method != "HEAD" && r.method != "GET").count();
    assert_eq!(writes, 0, "{:?}", proxy.log());
    // What was pulled elsewhere from the copy is the image.
    let digest = pulled(&dist.ok(&["pull", &destination]).text());
    assert!(
        image.children.iter().any(|child| child.digest.to_string() == digest)
            || digest == image.digest()
    );
}

#[test]
fn platforms_make_a_manifest_or_a_smaller_index() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let image = two_platforms();
    image.push(&there, "app", "1");
    let dist = quick();
    let source = there.reference("app:1");
    let one = here.reference("app:one");
    let said = dist.ok(&["copy", "--platform", "linux/amd64", &source, &one]);
    assert_eq!(pulled(&said.text()), image.children[0].digest.to_string());
    assert!(said.stderr.contains(&image.digest()), "{}", said.stderr);
    assert_eq!(manifest(&here, "app", "one").body, image.children[0].bytes);

    let some = here.reference("app:some");
    let said = dist
        .ok(&["copy", "--platform", "linux/amd64", "--platform", "linux/s390x", &source, &some])
        .says("warning");
    let index = manifest(&here, "app", "some");
    assert_eq!(dist_core::Digest::sha256(&index.body).to_string(), pulled(&said.text()));
    let index: Value = serde_json::from_slice(&index.body).expect("an index");
    let entries = index["manifests"].as_array().expect("entries");
    let architectures: Vec<_> = entries.iter().map(|e| &e["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "s390x"]);
    dist.run(&["copy", "--platform", "linux/riscv64", &source, &one]).exit(3);

    // What is in no index can't be chosen.
    let alone = there.reference("app@") + &image.children[0].digest.to_string();
    let to = here.reference("app:of");
    for platforms in [&["linux/arm64"][..], &["linux/amd64"], &["linux/arm64", "linux/amd64"]] {
        let mut line = vec!["copy", &alone, &to];
        line.extend(platforms.iter().flat_map(|platform| ["--platform", platform]));
        let said = dist.ok(&line);
        let warned = said.stderr.contains("is for linux/amd64, not for linux/arm64");
        assert_eq!(warned, platforms[0] == "linux/arm64", "{platforms:?}: {}", said.stderr);
    }
    dist.ok(&["pull", "--platform", "linux/arm64", &alone]).says("not for linux/arm64");
    dist.ok(&["pull", "--platform", "linux/arm64", &alone]).says("not for linux/arm64");
    dist.ok(&["fetch", "--platform", "linux/arm64", &alone]).says("not for linux/arm64");
    let said = dist.ok(&["pull", "--platform", "linux/amd64", &alone]);
    assert!(!said.stderr.contains("is for"), "{}", said.stderr);
}

#[test]
fn a_layout_of_another_version_is_not_written_to_and_nothing_stays_of_nothing() {
    let _timed = timed("copy");
    let there = Registry::start();
    let image = Image::random(9, &[5000]);
    image.push(&there, "app", "1");
    let dist = quick();
    fs_err::create_dir(dist.dir().join("later")).expect("a directory");
    let marker = dist.dir().join("later/oci-layout");
    let later = r#"{"imageLayoutVersion":"2.0.0"}"#;
    fs_err::write(&marker, later).expect("a marker");
    dist.run(&["copy", &there.reference("app:1"), "oci:later:1"]).exit(6).says("2.0.0");
    assert_eq!(fs_err::read_to_string(&marker).expect("the marker"), later);
    assert_eq!(fs_err::read_dir(dist.dir().join("later")).expect("list").count(), 1);

    let layer = image.layer(0);
    let hex = layer.strip_prefix("sha256:").expect("a digest");
    let blobs = there.storage().join("docker/registry/v2/blobs/sha256");
    fs_err::remove_file(blobs.join(&hex[..2]).join(hex).join("data")).expect("lose a layer");
    dist.run(&["copy", &there.reference("app:1"), "oci:now:1"]).exit(3);
    let left = dist.script("find now -name '.*.part' -size 0").stdout;
    assert_eq!(String::from_utf8_lossy(&left), "");
}

#[test]
fn blobs_are_mounted_within_a_registry() {
    let _timed = timed("copy");
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let image = Image::random(4, &[400_000, 20]);
    image.push(&registry, "team/app", "1");
    let (source, destination) = (proxy.reference("team/app:1"), proxy.reference("prod/app:1"));
    quick().ok(&["copy", &source, &destination]);
    verify(&registry, "prod/app", "1", &image);
    let log = proxy.log();
    assert!(!log.iter().any(|r| r.method == "GET" && r.path.contains("/blobs/")), "{log:?}");
    let puts: Vec<_> = log.iter().filter(|r| r.method == "PUT").map(|r| &r.path).collect();
    assert_eq!(puts, ["/v2/prod/app/manifests/1"]);
}

/// A signature under cosign's tag, and a list of packages that the tag schema lists.
pub(crate) fn attach(registry: &Registry, image: &Image) -> (String, String) {
    let subject = image.manifest.descriptor();
    let hex = image.manifest.digest.hex();
    let layers = vec![image.blobs.last().expect("a layer").descriptor()];
    let config = image.blobs[0].descriptor();
    let signature = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers,
        "annotations": { "about": "signature" },
    });
    let signature = put(registry, "app", &format!("sha256-{hex}.sig"), MANIFEST, &signature);
    let packages = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json",
        "config": config, "layers": layers, "subject": subject,
    });
    let bytes = packages.to_string();
    let digest = dist_core::Digest::sha256(bytes.as_bytes()).to_string();
    put(registry, "app", &digest, MANIFEST, &packages);
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [{
        "mediaType": MANIFEST, "digest": digest, "size": bytes.len(),
        "artifactType": "application/spdx+json",
    }]});
    put(registry, "app", &format!("sha256-{hex}"), INDEX, &list);
    (signature, digest)
}

#[test]
fn what_refers_to_an_image_comes_along_unless_it_shall_not() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(5, &[10_000]);
    image.push(&there, "app", "1");
    let (signature, packages) = attach(&there, &image);
    let dist = quick();
    let (source, bare) = (there.reference("app:1"), here.reference("bare:1"));
    dist.ok(&["copy", "--no-referrers", &source, &bare]);
    let tag = format!("sha256-{}", image.manifest.digest.hex());
    assert_eq!(manifest(&here, "bare", &format!("{tag}.sig")).status, 404);
    assert_eq!(manifest(&here, "bare", &tag).status, 404);

    let whole = here.reference("whole:1");
    dist.ok(&["copy", &source, &whole]);
    for tag in [&format!("{tag}.sig"), &tag, &packages, &signature] {
        let (old, new) = (manifest(&there, "app", tag), manifest(&here, "whole", tag));
        assert_eq!((new.status, new.body), (200, old.body), "{tag}");
    }

    // What the destination lists already stays listed.
    let other = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "config": image.blobs[0].descriptor(),
        "layers": [], "subject": image.manifest.descriptor(),
    });
    let bytes = other.to_string();
    let digest = dist_core::Digest::sha256(bytes.as_bytes()).to_string();
    put(&here, "bare", &digest, MANIFEST, &other);
    let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": bytes.len() });
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    put(&here, "bare", &tag, INDEX, &list);
    // Also where a mirror of it says otherwise: what is replaced is what is there.
    let (stale, hosts) = (Registry::start(), dist_testutil::scratch());
    put(
        &stale,
        "bare",
        &tag,
        INDEX,
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }),
    );
    let dir = hosts.path().join(here.address());
    fs_err::create_dir(&dir).expect("make a directory");
    let text = format!(
        "[host.'http://{}']\ncapabilities = ['pull', 'resolve', 'referrers']",
        stale.address()
    );
    fs_err::write(dir.join("hosts.toml"), text).expect("write hosts.toml");
    let hosts = hosts.path().to_str().expect("a path in UTF-8");
    dist.ok(&["--hosts-dir", hosts, "copy", &source, &bare]);
    let list: Value = serde_json::from_slice(&manifest(&here, "bare", &tag).body).expect("a list");
    let listed: Vec<_> = list["manifests"].as_array().expect("entries").iter().collect();
    assert_eq!(listed.len(), 2, "{list}");
    assert_eq!(listed[0]["digest"], digest);
    assert_eq!(listed[1]["digest"], packages);
    assert_eq!(listed[1]["artifactType"], "application/spdx+json");
}

#[test]
fn each_side_gets_its_own_credentials_and_nobody_elses() {
    let _timed = timed("copy");
    let (kept, image) = crate::auth::basic();
    let (user, password) = (crate::auth::USER, crate::auth::PASSWORD);
    let from = FaultProxy::start(kept.0.address());
    let here = Registry::start();
    let to = FaultProxy::start(here.address());
    let (source, destination) = (from.reference("test/private:1"), to.reference("app:1"));
    let dist = quick();
    dist.run(&["copy", &source, &destination]).exit(4).says("--src-creds");
    let login = format!("{user}:{password}");
    dist.run(&["--user", &login, "copy", &source, &destination]).exit(2).says("--src-creds");
    to.reset();
    let said = dist.ok(&["copy", "--src-creds", &login, &source, &destination]);
    let piped = |line: &[&str]| {
        dist.feed(&[&["copy", "--password-stdin"], line].concat(), password.as_bytes())
    };
    let more = here.reference("piped:1");
    piped(&["--src-creds", user, &source, &more]).ok();
    piped(&["--src-creds", user, "--dest-creds", "any:word", &source, &more]).ok();
    piped(&["--src-creds", user, "--dest-creds", user, &source, &more])
        .exit(2)
        .says("one password");
    piped(&["--src-creds", &login, &source, &more]).exit(2).says("not given yet");
    piped(&["--dest-creds", user, "oci-archive:-", &more]).exit(2).says("standard input");
    piped(&[&source, &more]).exit(2).says("--user");
    let both = ["copy", "--dest-creds", &login, &source, "oci:out:1"];
    dist.run(&both).exit(2).says("the destination is no registry");
    assert!(!said.stderr.contains(password), "{}", said.stderr);
    verify(&here, "app", "1", &image);
    assert!(from.log().iter().any(|request| request.authorized));
    assert!(to.log().iter().all(|request| !request.authorized), "{:?}", to.log());

    let auth = Auth::Basic { user: "eve".into(), password: "other".into() };
    let locked = Registry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    let (target, copy) = (locked.reference("app:1"), here.reference("app:1"));
    dist.run(&["copy", "--src-creds", &login, &copy, &target]).exit(4);
    dist.run(&["copy", "--dest-creds", "eve:wrong", &copy, &target]).exit(4);
    dist.ok(&["copy", "--dest-creds", "eve:other", &copy, &target]);
}

#[test]
fn breaks_on_both_sides_are_gone_over() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let image = Image::random(6, &[3 << 20]);
    image.push(&there, "app", "1");
    from.add(Rule::get("/blobs/", Fault::Cut(1_000_000)).times(1));
    to.add(Rule::any("digest=", Fault::Keep(2_000_000)).times(1).after(1));
    quick().ok(&["--jobs", "1", "copy", &from.reference("app:1"), &to.reference("app:1")]);
    verify(&here, "app", "1", &image);
}

#[test]
fn wrong_bytes_make_no_blob_and_no_tag() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let from = FaultProxy::start(there.address());
    let image = Image::random(7, &[500_000]);
    image.push(&there, "app", "1");
    let layer = image.blobs[1].digest.to_string();
    from.add(Rule::get(format!("/blobs/{layer}"), Fault::Flip(1000)));
    let dist = quick();
    let (source, destination) = (from.reference("app:1"), here.reference("app:1"));
    dist.run(&["copy", &source, &destination]).exit(6).says(&layer);
    assert_eq!(manifest(&here, "app", "1").status, 404);
    let path = format!("/v2/app/blobs/{layer}");
    assert_eq!(request(here.address(), "HEAD", &path, &[], b"").status, 404);
    from.reset();
    from.add(Rule::get("/manifests/", Fault::Flip(20)));
    dist.run(&["copy", &source, &destination]).exit(6);
    dist.run(&["copy", &there.reference("app:none"), &destination]).exit(3);
    assert_eq!(manifest(&here, "app", "1").status, 404);
}

#[test]
fn after_a_kill_only_what_is_not_there_is_sent() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let image = Image::random(8, &[1 << 20, 2 << 20]);
    image.push(&there, "app", "1");
    let (gate, held) = (Gate::default(), image.blobs[1].digest.to_string());
    from.add(Rule::get(format!("/blobs/{held}"), Fault::Hold(500_000, gate.clone())));
    let dist: Dist = quick();
    let (source, destination) = (from.reference("app:1"), to.reference("app:1"));
    let command = ["--stall-timeout", "30s", "copy", "--progress", "plain", &source, &destination];
    let first = Dist::new(dist.binary());
    let running = first.spawn(&command);
    gate.wait_held(1);
    let other = image.blobs[2].digest.to_string();
    let there = || {
        let path = format!("/v2/app/blobs/{other}");
        request(here.address(), "HEAD", &path, &[], b"").status == 200
    };
    while !there() {
        std::thread::yield_now();
    }
    running.kill();
    gate.open();
    assert_eq!(manifest(&here, "app", "1").status, 404);
    to.reset();
    from.reset();
    dist.ok(&["copy", &source, &destination]);
    verify(&here, "app", "1", &image);
    let sent: Vec<_> = to.log().into_iter().filter(|r| r.method == "PUT").collect();
    assert!(!sent.iter().any(|request| request.path.contains(&other)), "{sent:?}");
}

#[test]
fn layouts_are_written_and_read_with_what_refers_to_their_images() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(9, &[100_000]);
    image.push(&there, "app", "1");
    let (signature, packages) = attach(&there, &image);
    let index = two_platforms();
    index.push(&there, "app", "all");
    let dist = quick();
    dist.ok(&["copy", &there.reference("app:1"), "oci:layout:one"]);
    dist.ok(&["copy", &there.reference("app:all"), "oci:layout:all"]);
    let again = dist.ok(&["copy", &there.reference("app:1"), "oci:layout:one"]);
    assert_eq!(again.text(), format!("oci:layout:one@{}\n", image.digest()));
    let layout = dist.dir().join("layout");
    let name = format!("oci:{}:one", layout.display());
    let raw = run("skopeo", &["inspect", "--raw", &name].map(OsStr::new));
    assert_eq!(raw.as_bytes(), image.manifest.bytes);
    fs_err::rename(&layout, dist.dir().join("moved")).expect("move the layout");
    dist.ok(&["copy", "oci:moved:one", &here.reference("new/app:1")]);
    dist.ok(&["copy", "oci:moved:all", &here.reference("new/app:all")]);
    verify(&here, "new/app", "1", &image);
    verify(&here, "new/app", "all", &index);
    for digest in [&signature, &packages] {
        assert_eq!(manifest(&here, "new/app", digest).status, 200);
    }
    let tag = format!("sha256-{}.sig", image.manifest.digest.hex());
    assert_eq!(manifest(&here, "new/app", &tag).status, 200);
}

#[test]
fn archives_are_written_and_read_as_others_do() {
    let _timed = timed("copy");
    let (there, here) = (Registry::start(), Registry::start());
    let proxy = FaultProxy::start(there.address());
    let image = Image::random(10, &[300_000, 40]);
    image.push(&there, "app", "1");
    let (signature, _) = attach(&there, &image);
    let dist = quick();
    let source = proxy.reference("app:1");
    dist.ok(&["copy", &source, "oci-archive:a.tar:one"]);
    dist.ok(&["copy", &source, "docker-archive:d.tar:team/app:1"]);
    let raw = |name: &str, file: &str| {
        let name = format!("{name}:{}", dist.dir().join(file).display());
        run("skopeo", &["inspect", "--raw", &name].map(OsStr::new))
    };
    assert_eq!(raw("oci-archive", "a.tar:one").as_bytes(), image.manifest.bytes);
    assert!(raw("docker-archive", "d.tar").contains(&image.blobs[0].digest.to_string()));
    dist.ok(&["copy", "oci-archive:a.tar:one", &here.reference("oci:1")]);
    verify(&here, "oci", "1", &image);
    assert_eq!(manifest(&here, "oci", &signature).status, 200);
    dist.ok(&["copy", "docker-archive:d.tar:team/app:1", &here.reference("docker:1")]);
    verify(&here, "docker", "1", &image);
    dist.run(&["copy", "docker-archive:d.tar:team/app:2", &here.reference("docker:2")]).exit(3);

    // To standard output goes the archive alone, and the same every time.
    let piped = dist.ok(&["copy", &source, "oci-archive:-:one"]).stdout;
    assert_eq!(piped.len() % 512, 0);
    fs_err::write(dist.dir().join("p.tar"), &piped).expect("write the archive");
    dist.ok(&["copy", "oci-archive:p.tar", "oci:layout:one"]);

    // What older dockers save names nothing by digest.
    let (from, to) = (there.reference("app:1"), dist.dir().join("old.tar"));
    let (from, to) = (format!("docker://{from}"), format!("docker-archive:{}:old:1", to.display()));
    run("skopeo", &["copy", "-q", "--src-tls-verify=false", &from, &to].map(OsStr::new));
    dist.ok(&["copy", "docker-archive:old.tar", &here.reference("old:1")]);
    let old: Value = serde_json::from_slice(&manifest_of_docker(&here, "old", "1")).expect("JSON");
    assert_eq!(old["config"]["digest"], image.blobs[0].digest.to_string());
    assert_eq!(old["layers"].as_array().map(Vec::len), Some(image.diff_ids.len()));

    // What breaks off leaves no archive.
    proxy.add(Rule::get("/blobs/", Fault::Flip(10)));
    dist.run(&["copy", &source, "oci-archive:broken.tar"]).exit(6);
    let left = fs_err::read_dir(dist.dir()).expect("list").filter_map(Result::ok);
    assert!(!left.into_iter().any(|entry| entry.file_name().to_string_lossy().contains("broken")));
}

fn manifest_of_docker(registry: &Registry, name: &str, tag: &str) -> Vec<u8> {
    let accept = [("Accept", "application/vnd.docker.distribution.manifest.v2+json")];
    let path = format!("/v2/{name}/manifests/{tag}");
    request(registry.address(), "GET", &path, &accept, b"").body
}
