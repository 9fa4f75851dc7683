//! Images copied into a store: what a pull leaves, but for the snapshots.

use dist_testutil::{
    Containerd, Fault, FaultProxy, Gate, Image, Registry, Rule, Served, index_of, timed,
};
use serde_json::Value;

use crate::address::Through;
use crate::address_work::rows;
use crate::resume::wait_active;
use crate::support::{chain_of, pulled, quick, verify_store};

/// The blobs with their labels, without what unpacking says.
fn blobs(dist: &dist_testutil::Dist) -> Value {
    let mut rows = rows(dist, &["list"]);
    for row in rows.as_array_mut().expect("an array") {
        let labels = row["labels"].as_object_mut().expect("labels");
        labels.retain(|key, _| !key.contains("gc.ref.snapshot") && !key.contains("uncompressed"));
    }
    rows
}

#[test]
fn a_copy_into_the_store_leaves_what_a_pull_leaves_but_snapshots() {
    let _timed = timed("copy");
    let registry = Registry::start();
    let image = Image::varied();
    image.push(&registry, "team/app", "1");
    let name = registry.reference("team/app:1");
    let (pulls, copies, through) = (quick(), quick(), quick());
    pulls.ok(&["pull", "-q", &name]);
    let said = copies.ok(&["copy", &name, "store:"]).text();
    assert_eq!(said, format!("{name}@{}\n", image.digest()));
    assert_eq!(blobs(&copies), blobs(&pulls));
    assert_eq!(rows(&copies, &["snapshots", "ls"]), Value::Array(Vec::new()));
    let names = |dist| rows(dist, &["images"])[0]["name"].clone();
    assert_eq!(names(&copies), names(&pulls));
    assert_eq!(copies.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    verify_store(&copies);
    // A daemon's store is filled in the same way.
    let daemon = through.daemon();
    assert_eq!(
        through.ok(&Through::new(&through, &daemon).args(&["copy", &name, "store:"])).text(),
        said
    );
    assert_eq!(daemon.ctr(&["leases", "ls", "-q"]).ok().text(), "");
    drop(daemon);
    assert_eq!(blobs(&through), blobs(&pulls));
    assert_eq!(names(&through), names(&pulls));
    // It needs nobody any more.
    drop(registry);
    assert_eq!(chain_of(&copies, &image.digest()), chain_of(&pulls, &image.digest()));
}

#[test]
fn layouts_archives_and_parts_of_indexes_go_into_the_store() {
    let _timed = timed("copy");
    let dist = quick();
    let image = index_of(&[
        ("amd64", None, Image::random(1, &[30_000])),
        ("arm64", Some("v8"), Image::random(2, &[20_000])),
        ("s390x", None, Image::random(3, &[1000])),
    ]);
    let layout = image.write_layout(&dist.dir().join("layout"), "1").reference("1");
    dist.ok(&["copy", "-q", &layout, "oci-archive:app.tar:1"]);
    let said = dist.ok(&["copy", "oci-archive:app.tar", "store:mine/app:1"]).text();
    assert_eq!(said, format!("docker.io/mine/app:1@{}\n", image.digest()));
    let two = ["--platform", "linux/amd64", "--platform", "linux/s390x"];
    let said = dist.ok(&[&["copy"], &two[..], &[&layout, "store:mine/app:two"]].concat());
    assert_ne!(pulled(&said.text()), image.digest());
    assert!(said.stderr.contains(&image.digest()), "{}", said.stderr);
    let one = dist.ok(&["copy", "--platform", "linux/arm64", &layout, "store:mine/app:one"]);
    assert_eq!(pulled(&one.text()), image.children[1].digest.to_string());
    let again = dist.ok(&["copy", "store:mine/app:one", "store:other"]).text();
    assert_eq!(pulled(&again), pulled(&one.text()));
    assert_eq!(dist.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    verify_store(&dist);
    dist.run(&["copy", &layout, "store:"]).exit(2).says("store:NAME");
    dist.run(&["copy", &layout, "store:UPPER"]).exit(2);
    // A name never stands for other content than it says.
    let wrong = format!("app@sha256:{}", "0".repeat(64));
    dist.run(&["copy", &layout, &format!("store:{wrong}")]).exit(2).says("other content");
    dist.run(&["tag", "mine/app:1", &wrong]).exit(2).says("other content");
    dist.ok(&["tag", "mine/app:1", &format!("mine/app@{}", image.digest())]);
    dist.ok(&["rmi", &format!("mine/app@{}", image.digest())]);
    dist.run(&["tag", "mine/app:1", "oci:app:1"]).exit(2).says("oci:");
    dist.run(&["import", "."]).exit(2).says("directory");
    dist.run(&["copy", &layout, "daemon:/none.sock:app"]).exit(5).says("/none.sock");
    dist.run(&["copy", &layout, "daemon:"]).exit(2);
    dist.run(&["copy", "--platform", "linux/riscv64", &layout, "store:none"]).exit(3);
    assert_eq!(rows(&dist, &["images"]).as_array().expect("rows").len(), 4);
}

#[test]
fn of_an_index_in_part_the_platform_is_asked_for() {
    let _timed = timed("copy");
    let (registry, dist) = (Registry::start(), quick());
    let image = index_of(&[
        ("amd64", None, Image::random(1, &[3000])),
        ("arm64", Some("v8"), Image::random(2, &[2000])),
    ]);
    image.push(&registry, "app", "1");
    let name = registry.reference("app:1");
    dist.ok(&["pull", "--platform", "linux/amd64", &name]);
    let stored = format!("store:{name}");
    for args in [["copy", &stored, "oci:out:1"], ["bundle", "create", "b.tar"]] {
        let more = if args[0] == "bundle" { vec![&*stored] } else { Vec::new() };
        dist.run(&[&args[..], &more[..]].concat()).exit(3).says("--platform");
    }
    dist.ok(&["copy", "--platform", "linux/amd64", &stored, "oci:out:1"]);
    let none = dist.run(&["copy", "store:none:1", "oci:out:1"]).exit(3);
    assert!(!none.stderr.contains("--platform"), "{}", none.stderr);
}

#[test]
fn a_directory_is_no_archive_to_write_or_read() {
    let _timed = timed("copy");
    let (registry, dist) = (Registry::start(), quick());
    Image::random(1, &[3000]).push(&registry, "app", "1");
    let name = registry.reference("app:1");
    fs_err::create_dir(dist.dir().join("d")).expect("make a directory");
    for args in [
        &["copy", &name, "oci-archive:d"][..],
        &["copy", &name, "docker-archive:d/:app:1"],
        &["copy", "oci-archive:d", "oci:out:1"],
        &["bundle", "create", "d", &name],
        &["bundle", "create", "/", &name],
        &["bundle", "verify", "d"],
    ] {
        dist.run(args).exit(2).says("it is a directory");
    }
    fs_err::write(dist.dir().join("text"), "what is no tar\n".repeat(100)).expect("write a file");
    let said = dist.run(&["bundle", "verify", "text"]).exit(6).says("it is no tar");
    assert!(!said.stderr.contains("what is"), "{}", said.stderr);
    let left: Vec<_> = fs_err::read_dir(dist.dir()).expect("read").flatten().collect();
    assert!(left.iter().all(|entry| !entry.path().to_string_lossy().contains(".part")), "{left:?}");
}

#[test]
fn what_a_policy_refuses_does_not_come_into_the_store() {
    let _timed = timed("copy");
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    Image::random(4, &[30_000]).push(&registry, "team/app", "1");
    let dist = quick();
    fs_err::write(dist.dir().join("policy.json"), r#"{"default":[{"type":"reject"}]}"#)
        .expect("write a policy");
    let dist = dist.with(&["--policy", "policy.json"]);
    dist.run(&["copy", &proxy.reference("team/app:1"), "store:"]).exit(10);
    assert!(proxy.log().iter().all(|r| !r.path.contains("/blobs/")), "{:?}", proxy.log());
    assert_eq!(dist.ok(&["images", "-q"]).text(), "");
}

#[test]
fn a_copy_into_a_store_goes_on_where_a_kill_left_it() {
    let _timed = timed("copy");
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let image = Image::random(5, &[3_000_000]);
    image.push(&registry, "team/app", "1");
    let name = proxy.reference("team/app:1");
    let (alone, behind) = (quick(), quick());
    let daemon = behind.daemon();
    for (dist, to) in
        [(&alone, "store:app:1".to_owned()), (&behind, format!("{}:app:1", address(&daemon)))]
    {
        let (gate, part) = (Gate::default(), format!("/blobs/{}", image.layer(0)));
        proxy.add(Rule::get(part, Fault::Hold(2_500_000, gate.clone())).times(1));
        let running = dist.spawn(&["copy", &name, &to]);
        gate.wait_held(1);
        wait_active(dist, 1_000_000);
        running.kill();
        gate.open();
        assert_eq!(dist.ok(&["images", "-q"]).text(), "");
        proxy.reset();
        dist.ok(&["copy", &name, &to]);
        let gets = proxy.blob_gets(&image.layer(0));
        assert!(gets[0].range.is_some() && gets[0].sent < 2_250_000, "{to}: {gets:?}");
        verify_store(dist);
        proxy.reset();
    }
}

/// What goes before the name of an image of a daemon.
fn address(daemon: &Served<'_>) -> String {
    format!("daemon:{}", daemon.address().display())
}

#[test]
fn daemons_and_containerds_are_copied_into() {
    let _timed = timed("copy");
    let (registry, dist, behind) = (Registry::start(), quick(), quick());
    let image = Image::varied();
    image.push(&registry, "team/app", "1");
    let name = registry.reference("team/app:1");
    let (containerd, daemon) = (Containerd::start(), behind.daemon());
    let (ours, theirs) = (address(&daemon), format!("daemon:{}", containerd.socket().display()));
    let pinned = format!("{name}@{}\n", image.digest());
    for to in [&theirs, &ours] {
        // The name is the source's, whatever the source is.
        assert_eq!(dist.ok(&["copy", &name, &format!("{to}:")]).text(), pinned);
        assert_eq!(dist.ok(&["copy", &name, to]).text(), pinned);
    }
    drop(registry);
    // Nothing is collected that the image needs, and no lease is left.
    containerd.ctr(&["leases", "create", "--id", "end"]);
    containerd.ctr(&["leases", "delete", "--sync", "end"]);
    assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "");
    let checked = containerd.ctr(&["images", "check", &format!("name=={name}")]);
    assert!(checked.contains("complete"), "{checked}");
    assert_eq!(behind.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    let back = format!("{theirs}:{name}");
    dist.ok(&["copy", &back, &format!("{ours}:mine:2")]);
    dist.ok(&["copy", &back, &ours]);
    assert_eq!(
        dist.ok(&["copy", &format!("{ours}:mine:2"), "store:"]).text(),
        format!("docker.io/library/mine:2@{}\n", image.digest())
    );
    verify_store(&dist);
    assert_eq!(dist.ok(&["list", "-q"]).text(), behind.ok(&["list", "-q"]).text());
    // Each namespace has its own.
    dist.run(&["--namespace", "k8s.io", "copy", &back, "oci:out:1"]).exit(3);
    dist.ok(&["copy", &back, "oci:out:1"]);
    dist.ok(&["--namespace", "k8s.io", "copy", "oci:out:1", &format!("{theirs}:app:1")]);
    let names = containerd.ctr(&["--namespace", "k8s.io", "images", "ls", "-q"]);
    assert_eq!(names, "docker.io/library/app:1\n");
}
