//! Images out of the store into registries, and what peers say of them there.

use dist_testutil::{
    Dist, Fault, FaultProxy, Image, ImageOptions, Layer, Registry, Rule, index_of, require, timed,
};

use crate::address::Through;
use crate::support::{dist, pull, pulled, quick, verify_store};

/// The requests of a method whose path has `part` in it.
fn count(proxy: &FaultProxy, method: &str, part: &str) -> usize {
    let is_it =
        |request: &&dist_testutil::Request| request.method == method && request.path.contains(part);
    proxy.log().iter().filter(is_it).count()
}

/// What skopeo says the digest is.
fn digest_by_skopeo(dist: &Dist, reference: &str) -> String {
    require(&["skopeo"]);
    let mut skopeo = dist.clean("skopeo");
    skopeo.args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"]);
    skopeo.arg(format!("docker://{reference}"));
    dist.finish(skopeo).ok().text().trim().to_owned()
}

#[test]
fn what_was_pulled_is_pushed_as_it_was() {
    let _timed = timed("push");
    let (images, registry, dist) = (Registry::of_images(), Registry::start(), dist());
    let source = format!("localhost:{}/library/redis:7", images.port());
    let digest = pull(&dist, &source);
    let target = registry.reference("mine/redis:7");
    let ran = dist.ok(&["push", &source, &target]);
    assert_eq!(ran.text(), format!("{target}@{digest}\n"));
    assert_eq!(digest_by_skopeo(&dist, &target), digest);
    let mut skopeo = dist.clean("skopeo");
    skopeo.args(["copy", "--src-tls-verify=false", &format!("docker://{target}"), "dir:copied"]);
    dist.finish(skopeo).ok();
    let other = crate::support::dist();
    assert_eq!(pull(&other, &target), digest);
    verify_store(&other);
    verify_store(&dist);
}

#[test]
fn only_what_is_missing_is_sent() {
    let _timed = timed("push");
    let (registry, dist, image) =
        (Registry::start(), dist(), Image::random(1, &[200_000, 300_000]));
    let images = Registry::start();
    image.push(&images, "test/app", "1");
    let source = images.reference("test/app:1");
    pull(&dist, &source);
    let proxy = FaultProxy::start(registry.address());
    dist.ok(&["push", &source, &proxy.reference("a/app:1")]);
    assert_eq!(count(&proxy, "PUT", "/blobs/uploads/"), image.blob_count() - 1);
    proxy.reset();
    // The same again is questions alone.
    dist.ok(&["push", &source, &proxy.reference("a/app:1")]);
    assert_eq!([count(&proxy, "PUT", "/"), count(&proxy, "POST", "/")], [0, 0]);
    proxy.reset();
    // Another name there has the same manifest, another repository takes the blobs from the first.
    dist.ok(&["tag", &source, &proxy.reference("b/app:2")]);
    dist.ok(&["push", &proxy.reference("b/app:2")]);
    assert_eq!(count(&proxy, "PUT", "/blobs/uploads/"), 0);
    assert_eq!(count(&proxy, "POST", "from=a%2Fapp"), image.blob_count() - 1);
    assert_eq!(digest_by_skopeo(&dist, &registry.reference("b/app:2")), image.digest());
}

#[test]
fn of_an_index_as_much_is_pushed_as_is_there() {
    let _timed = timed("push");
    let (registry, dist) = (Registry::start(), dist());
    let amd = Image::random(2, &[50_000]);
    let arm = Image::new(
        &[Layer::random(3, 60_000)],
        &ImageOptions { platform: Some(("arm64", None)), ..ImageOptions::default() },
    );
    let index = index_of(&[("amd64", None, amd.clone()), ("arm64", None, arm.clone())]);
    let images = Registry::start();
    index.push(&images, "test/index", "1");
    let source = images.reference("test/index:1");
    let target = |tag: &str| registry.reference(&format!("test/index:{tag}"));
    pull(&dist, &source);
    let ran =
        dist.ok(&["push", &source, &target("part")]).says("only the manifest for linux/amd64");
    assert_eq!(pulled(&ran.text()), amd.digest());
    // Where the registry has the rest, nothing is taken away from it.
    for name in [source.clone(), images.reference("test/index:2")] {
        let said = dist.ok(&["push", &source, &name]);
        assert_eq!(pulled(&said.text()), index.digest());
        assert!(!said.stderr.contains("only the manifest"), "{}", said.stderr);
        assert_eq!(digest_by_skopeo(&dist, &name), index.digest());
    }
    let said = dist.run(&["push", "--platform", "linux/arm64", &source, &target("arm")]).exit(3);
    said.says("`dist fetch` brings other platforms");
    dist.run(&["push", "--all-platforms", &source, &target("all")]).exit(3).says(&arm.digest());
    dist.ok(&["fetch", "--all-platforms", &source]);
    let ran = dist.ok(&["push", &source, &target("whole")]);
    assert_eq!(pulled(&ran.text()), index.digest());
    assert_eq!(digest_by_skopeo(&dist, &target("whole")), index.digest());
    let ran = dist.ok(&["push", "--platform", "linux/arm64", &source, &target("arm")]);
    assert_eq!(pulled(&ran.text()), arm.digest());
    // What failed gave no name away.
    dist.run(&["pull", &target("all")]).exit(3);
}

#[test]
fn a_push_that_breaks_goes_on_when_it_is_run_again() {
    let _timed = timed("push");
    let (registry, images, dist) = (Registry::start(), Registry::start(), quick());
    let image = Image::random(4, &[400_000, 500_000]);
    image.push(&images, "test/app", "1");
    let source = images.reference("test/app:1");
    pull(&dist, &source);
    let proxy = FaultProxy::start(registry.address());
    let target = proxy.reference("test/app:1");
    // The manifest is refused until the tries are used up: the blobs stay, the name is not given.
    proxy.add(Rule::any("/manifests/", Fault::Status(503, Vec::new())).times(u32::MAX));
    dist.run(&["push", &source, &target]).exit(5).says("503");
    dist.run(&["pull", &registry.reference("test/app:1")]).exit(3);
    proxy.reset();
    let target = dist.ok(&["push", &source, &target]).text();
    assert!(target.ends_with(&format!("@{}\n", image.digest())), "{target}");
    assert_eq!(count(&proxy, "PUT", "/blobs/uploads/"), 0);
    // No registry at all, and no such image.
    dist.run(&["push", &source, "localhost:1/x:1"]).exit(5).says("refused");
    dist.run(&["push", "nothing:1"]).exit(3).says("nothing:1");
    dist.run(&["push", &source, "Not/A/Name"]).exit(2);
}

#[test]
fn a_document_whose_digest_is_doubted_is_sent_once_more() {
    let _timed = timed("push");
    let registry = Registry::start();
    let image = Image::random(9, &[3000]);
    let dist = quick();
    let layout = image.write_layout(&dist.dir().join("layout"), "1").reference("1");
    let proxy = FaultProxy::start(registry.address());
    let doubt = || Rule::any("/manifests/1", Fault::Code(400, "DIGEST_INVALID")).by("PUT");
    proxy.add(doubt().times(1));
    dist.ok(&["copy", &layout, &proxy.reference("app:1")]);
    assert_eq!(count(&proxy, "PUT", "/manifests/1"), 2);
    assert_eq!(digest_by_skopeo(&dist, &registry.reference("app:1")), image.digest());
    // Twice is the registry's last word.
    proxy.reset();
    proxy.add(doubt());
    dist.run(&["copy", &layout, &proxy.reference("other:1")]).exit(6).says("DIGEST_INVALID");
    assert_eq!(count(&proxy, "PUT", "/manifests/1"), 2);
}

#[test]
fn a_layer_that_was_discarded_is_pushed() {
    let _timed = timed("push");
    let (registry, images) = (Registry::start(), Registry::of_images());
    let dist = dist().with(&["--snapshotter", "erofs"]);
    let source = format!("localhost:{}/library/busybox:1", images.port());
    dist.ok(&["pull", "--discard-blobs", &source]);
    let target = registry.reference("test/busybox:1");
    let ran = dist.ok(&["--progress", "json", "push", &source, &target]);
    let digest = pulled(&ran.text());
    assert_eq!(digest_by_skopeo(&dist, &target), digest);
    // What it took to have the layer again was not sent.
    let lines = ran.stderr.lines().filter(|line| line.starts_with('{'));
    let events: Vec<serde_json::Value> =
        lines.map(|line| serde_json::from_str(line).expect("an event")).collect();
    for begun in events.iter().filter(|event| event["event"] == "started") {
        let advanced = |event: &&serde_json::Value| {
            event["event"] == "advanced" && event["digest"] == begun["digest"]
        };
        let sent: u64 = events.iter().filter(advanced).filter_map(|e| e["bytes"].as_u64()).sum();
        assert_eq!(begun["size"].as_u64(), Some(sent), "{}", ran.stderr);
    }
    assert!(events.iter().any(|event| event["event"] == "advanced"), "{}", ran.stderr);
    let other = crate::support::dist();
    assert_eq!(pull(&other, &target), digest);
    verify_store(&other);
}

#[test]
fn names_are_given_and_moved() {
    let _timed = timed("push");
    let (registry, dist) = (Registry::start(), dist());
    let (one, two) = (Image::random(5, &[10_000]), Image::random(6, &[10_000]));
    one.push(&registry, "test/app", "1");
    two.push(&registry, "test/app", "2");
    let (first, second) = (registry.reference("test/app:1"), registry.reference("test/app:2"));
    pull(&dist, &first);
    pull(&dist, &second);
    let ran = dist.ok(&["tag", &first, "app", "app:stable"]);
    assert_eq!(ran.text(), "docker.io/library/app:latest\ndocker.io/library/app:stable\n");
    dist.ok(&["tag", &second, "app:stable"]).says(&one.digest());
    let row = dist.ok(&["images", "--format", "json", "app:stable"]).json();
    assert_eq!((row.as_array().map(Vec::len), &row[0]["digest"]), (Some(1), &two.digest().into()));
    // A name keeps what it stands for, also without the one that it was made from.
    dist.ok(&["rmi", &first]);
    dist.ok(&["gc"]);
    let row = dist.ok(&["images", "ls", "--format", "json", "docker.io/library/app:latest"]).json();
    assert_eq!((&row[0]["digest"], &row[0]["complete"]), (&one.digest().into(), &true.into()));
    dist.run(&["tag", "nothing", "x"]).exit(3);
    dist.run(&["tag", &second, "UPPER"]).exit(2);
}

#[test]
fn a_daemon_tags_and_pushes_alike() {
    let _timed = timed("push");
    let (images, registry, dist) = (Registry::start(), Registry::start(), dist());
    let image = Image::random(7, &[100_000]);
    image.push(&images, "test/app", "1");
    let (source, target) = (images.reference("test/app:1"), registry.reference("test/app:1"));
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    dist.ok(&through.args(&["pull", &source]));
    dist.ok(&through.args(&["tag", &source, &target]));
    dist.ok(&through.args(&["tag", &source, &target]));
    let ran = dist.ok(&through.args(&["push", &target])).text();
    assert_eq!(ran, format!("{target}@{}\n", image.digest()));
    assert_eq!(digest_by_skopeo(&dist, &target), image.digest());
    dist.run(&through.args(&["push", &source, "localhost:1/x:1"])).exit(5);
    daemon.stop().ok();
}
