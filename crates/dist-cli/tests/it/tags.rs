//! What registries list, and tags taken away in them.

use std::collections::BTreeSet;

use dist_testutil::{
    Fault, FaultProxy, Image, Registry, RegistryOptions, Rule, WebServer, index_of, timed,
};

use crate::support::{dist, pull, pulled, quick};

#[test]
fn tags_and_repositories_are_listed() {
    let _timed = timed("tags");
    let (registry, dist, image) = (Registry::start(), dist(), Image::random(1, &[1000]));
    for (name, tag) in [("a/one", "1"), ("a/one", "2.0"), ("b", "latest")] {
        image.push(&registry, name, tag);
    }
    let listed = dist.ok(&["tags", "ls", &registry.reference("a/one")]).text();
    assert_eq!(listed.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["1", "2.0"]));
    let json = dist.ok(&["tags", "ls", "--format", "json", &registry.reference("b")]).json();
    assert_eq!(json, serde_json::json!(["latest"]));
    assert_eq!(dist.ok(&["repo", "ls", registry.address()]).text(), "a/one\nb\n");
    dist.run(&["tags", "ls", &registry.reference("nothing")]).exit(3).says("nothing");
    dist.run(&["tags", "ls", &registry.reference("a/one:1")]).exit(2);
    dist.run(&["repo", "ls", &registry.reference("a")]).exit(2);
    dist.run(&["repo", "ls", "localhost:1"]).exit(5);
}

#[test]
fn a_list_is_followed_to_its_end() {
    let _timed = timed("tags");
    let (registry, dist, image) = (Registry::start(), quick(), Image::random(1, &[1000]));
    let names: Vec<String> = (0..120).map(|number| format!("many/{number:03}")).collect();
    for name in &names {
        image.push(&registry, name, "1");
    }
    // docker-registry lists a hundred at a time.
    let listed = dist.ok(&["repo", "ls", registry.address()]).text();
    assert_eq!(listed.lines().collect::<Vec<_>>(), names);
    let proxy = FaultProxy::start(registry.address());
    proxy.add(Rule::get("_catalog", Fault::Cut(10)).after(1).times(1));
    assert_eq!(dist.ok(&["repo", "ls", proxy.address()]).text(), listed);
    let elsewhere = "<http://192.0.2.1/v2/_catalog?last=x>; rel=\"next\"".to_owned();
    proxy.add(Rule::get("_catalog", Fault::With("link", elsewhere)).times(1));
    dist.run(&["repo", "ls", proxy.address()]).exit(5).says("another server");

    let web = WebServer::start();
    let lists = [("[]", 5), (r#"[["1"]]"#, 5), ("{}", 0), (r#"{"tags": null}"#, 0)];
    for (at, (text, code)) in lists.into_iter().enumerate() {
        let tags = web.files().join(format!("v2/app{at}/tags"));
        fs_err::create_dir_all(&tags).expect("make directories");
        fs_err::write(tags.join("list"), text).expect("write a list");
        let said = dist.run(&["tags", "ls", &format!("{}/app{at}", web.address())]).exit(code);
        assert_eq!(said.stderr.contains("the answer is no list"), code == 5, "{}", said.stderr);
    }
}

#[test]
fn a_registry_that_only_reads_is_named_as_one() {
    let _timed = timed("tags");
    let (open, image) = (Registry::start(), Image::random(3, &[1000]));
    image.push(&open, "test/app", "1");
    let storage = Some(open.storage().to_owned());
    let reads = Registry::with(RegistryOptions { storage, read_only: true, ..<_>::default() });
    let (dist, name) = (quick(), reads.reference("test/app:1"));
    pull(&dist, &name);
    dist.run(&["tags", "rm", &name]).exit(6).says("set up to be read");
    dist.run(&["push", &name, &reads.reference("test/new:1")]).exit(6).says("set up to be read");
    dist.run(&["copy", &name, &reads.reference("test/new:1")]).exit(6).says("405");
    dist.run(&["copy", &name, "https://192.0.2.1/app.tar"]).exit(2).says("only read from");
}

#[test]
fn a_tag_goes_and_its_manifest_stays() {
    let _timed = timed("tags");
    let registry = Registry::start();
    let (dist, image) = (dist(), Image::random(2, &[1000]));
    for tag in ["old", "kept", "other"] {
        image.push(&registry, "test/app", tag);
    }
    let name = |tag: &str| registry.reference(&format!("test/app:{tag}"));
    let removed = dist.ok(&["tags", "rm", &name("old"), &name("other")]).text();
    assert_eq!(removed, format!("{}\n{}\n", name("old"), name("other")));
    assert_eq!(dist.ok(&["tags", "ls", &registry.reference("test/app")]).text(), "kept\n");
    assert_eq!(pull(&dist, &name("kept")), image.digest());
    dist.run(&["pull", &name("old")]).exit(3);
    dist.run(&["tags", "rm", &name("old")]).exit(3).says("test/app:old");
    dist.run(&["tags", "rm", &registry.reference("test/app")]).exit(2);
    let pinned = format!("{}@{}", registry.reference("test/app"), image.digest());
    dist.run(&["tags", "rm", &pinned]).exit(2);
}

#[test]
fn a_tag_of_an_index_goes_too() {
    let _timed = timed("tags");
    let (registry, dist) = (Registry::start(), quick());
    let index = index_of(&[("amd64", None, Image::random(1, &[100]))]);
    index.push(&registry, "test/app", "1");
    index.push(&registry, "test/app", "2");
    let name = |tag: &str| registry.reference(&format!("test/app:{tag}"));
    dist.ok(&["tags", "rm", &name("1")]);
    assert_eq!(dist.ok(&["tags", "ls", &registry.reference("test/app")]).text(), "2\n");
    assert_eq!(pulled(&dist.ok(&["copy", &name("2"), "oci:out:1"]).text()), index.digest());
}

#[test]
fn a_registry_that_deletes_nothing_keeps_the_tag() {
    let _timed = timed("tags");
    let keeps_all = RegistryOptions { keeps_all: true, ..RegistryOptions::default() };
    let registry = Registry::with(keeps_all);
    let (dist, image) = (quick(), Image::random(3, &[1000]));
    image.push(&registry, "test/app", "1");
    let name = registry.reference("test/app:1");
    dist.run(&["tags", "rm", &name]).exit(6).says("set up to delete nothing");
    assert_eq!(pull(&dist, &name), image.digest());
    assert_eq!(dist.ok(&["tags", "ls", &registry.reference("test/app")]).text(), "1\n");
}
