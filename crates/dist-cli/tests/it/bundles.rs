//! Many images in one file: written, gone on with, added to, checked, loaded.

use std::ffi::OsStr;
use std::path::Path;

use dist_testutil::{
    Dist, Fault, FaultProxy, Gate, Image, Registry, Response, Rule, request, run, timed,
};

use crate::address::Through;
use crate::copy::attach;
use crate::support::{dist, quick, verify_store};

fn manifest(registry: &Registry, name: &str, object: &str) -> Response {
    let accept =
        "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";
    let path = format!("/v2/{name}/manifests/{object}");
    request(registry.address(), "GET", &path, &[("Accept", accept)], b"")
}

fn size(dist: &Dist, name: &str) -> u64 {
    fs_err::metadata(dist.dir().join(name)).expect("a bundle").len()
}

/// Two images with one layer in common; the first is signed.
fn two(registry: &Registry) -> (Image, Image) {
    let first = Image::random(1, &[600_000, 1000]);
    let second = Image::random(1, &[600_000, 2000]);
    first.push(registry, "app", "1");
    second.push(registry, "team/other", "2");
    (first, second)
}

#[test]
fn a_bundle_is_a_registry_in_a_file() {
    let _timed = timed("bundles");
    let (there, here) = (Registry::start(), Registry::start());
    let (first, second) = two(&there);
    assert_eq!(first.layer(0), second.layer(0));
    let (signature, packages) = attach(&there, &first);
    let dist = quick();
    let names = [there.reference("app:1"), there.reference("team/other:2")];
    let said = dist.ok(&["bundle", "create", "a.tar", &names[0], &names[1]]);
    let digests = [first.digest(), second.digest()];
    assert_eq!(said.text(), format!("{}@{}\n{}@{}\n", names[0], digests[0], names[1], digests[1]));
    // What both hold is there once.
    assert!(size(&dist, "a.tar") < 700_000, "{}", size(&dist, "a.tar"));
    let checked = dist.ok(&["bundle", "verify", "a.tar"]).says("whole");
    assert_eq!(checked.text().lines().collect::<Vec<_>>(), names);

    let which = dist.run(&["copy", "oci-archive:a.tar", "oci:out:1"]).exit(2);
    which.says(&names[0]).says(&names[1]);
    dist.run(&["copy", "bundle:a.tar", "oci:out:1"]).exit(2).says("oci-archive:FILE:NAME");

    // Others read it.
    for (name, image) in names.iter().zip([&first, &second]) {
        let place = format!("oci-archive:{}:{name}", dist.dir().join("a.tar").display());
        let raw = run("skopeo", &["inspect", "--raw", &place].map(OsStr::new));
        assert_eq!(raw.as_bytes(), image.manifest.bytes);
    }

    let place = here.reference("mirror");
    let said = dist.ok(&["bundle", "load", "--to", &place, "a.tar"]);
    assert_eq!(said.text().lines().count(), 2, "{}", said.text());
    assert_eq!(manifest(&here, "mirror/app", "1").body, first.manifest.bytes);
    assert_eq!(manifest(&here, "mirror/team/other", "2").body, second.manifest.bytes);
    let tag = format!("sha256-{}", first.manifest.digest.hex());
    for object in [&signature, &packages, &tag, &format!("{tag}.sig")] {
        let (old, new) = (manifest(&there, "app", object), manifest(&here, "mirror/app", object));
        assert_eq!((new.status, new.body), (200, old.body), "{object}");
    }

    dist.ok(&["bundle", "load", "a.tar"]);
    verify_store(&dist);
    let listed = dist.ok(&["images", "-q"]).text();
    assert!(names.iter().all(|name| listed.lines().any(|line| line == name)), "{listed}");
}

#[test]
fn what_a_store_holds_is_bundled_with_its_signature() {
    let _timed = timed("bundles");
    let registry = Registry::start();
    let (first, _) = two(&registry);
    attach(&registry, &first);
    let (name, plain) = (registry.reference("app:1"), registry.reference("team/other:2"));
    let (dist, other) = (quick(), quick());
    dist.ok(&["bundle", "create", "a.tar", &name]);
    dist.ok(&["bundle", "load", "a.tar"]);
    dist.ok(&["pull", &plain]);
    drop(registry);
    let listed = |dist: &Dist| dist.ok(&["list", "-q"]).text();
    let stored = [format!("store:{name}"), format!("store:{plain}")];
    let said = dist.ok(&["bundle", "create", "b.tar", &stored[0], &stored[1]]).text();
    assert_eq!(said.lines().next(), Some(&*format!("{name}@{}", first.digest())));
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    dist.ok(&through.args(&["bundle", "create", "c.tar", &stored[0], &stored[1]]));
    daemon.stop().ok();
    for file in ["b.tar", "c.tar"] {
        let path = dist.dir().join(file).display().to_string();
        other.ok(&["bundle", "load", &path]);
        assert_eq!(listed(&other), listed(&dist), "{file}");
        let images = other.ok(&["images", "-q"]).text();
        other.ok(&[&["rmi"], &images.lines().collect::<Vec<_>>()[..]].concat());
        other.ok(&["gc"]);
    }
    dist.run(&["bundle", "create", "d.tar", "store:none:1"]).exit(3);
    dist.run(&["bundle", "create", "d.tar", "oci:none:1"]).exit(2);
}

#[test]
fn what_is_no_file_is_not_replaced_by_a_bundle() {
    let _timed = timed("bundles");
    let (registry, dist) = (Registry::start(), quick());
    two(&registry);
    let name = registry.reference("app:1");
    dist.script("mkfifo pipe; ln -s real.tar link.tar; ln -s /dev/full full; mkdir d").ok();
    for file in ["pipe", "full", "d", "-"] {
        dist.run(&["bundle", "create", file, &name]).exit(2);
    }
    for (verb, file) in [("create", "link.tar"), ("add", "link.tar")] {
        dist.ok(&["bundle", verb, file, &name]);
        let link = fs_err::symlink_metadata(dist.dir().join(file)).expect("the link");
        assert!(link.is_symlink(), "{verb}");
        dist.ok(&["bundle", "verify", "real.tar"]);
    }
    dist.ok(&["copy", "-q", &name, "oci-archive:link.tar"]);
    assert!(dist.dir().join("link.tar").is_symlink());
    dist.ok(&["copy", "-q", "oci-archive:real.tar", "oci:out:1"]);
    dist.ok(&["copy", "-q", "oci:out:1", "oci-archive:plain.tar:1"]);
    dist.run(&["bundle", "load", "plain.tar"]).exit(3).says("dist import");
    let special = dist.script("test -p pipe && test -L full && test -c /dev/full").code;
    assert_eq!(special, Some(0));
}

#[test]
fn what_a_former_bundle_has_is_left_out_and_must_be_there() {
    let _timed = timed("bundles");
    let (there, here) = (Registry::start(), Registry::start());
    let (first, second) = two(&there);
    let from = FaultProxy::start(there.address());
    let dist = quick();
    let (old, new) = (from.reference("app:1"), from.reference("team/other:2"));
    dist.ok(&["bundle", "create", "old.tar", &old]);
    from.reset();
    dist.ok(&["bundle", "create", "--since", "old.tar", "new.tar", &new]).says("1 left out");
    let layer = first.layer(0);
    assert!(!from.log().iter().any(|request| request.path.contains(&layer)), "{:?}", from.log());
    assert!(size(&dist, "new.tar") < 20_000, "{}", size(&dist, "new.tar"));
    dist.ok(&["bundle", "verify", "new.tar"]).says("1 left out");
    dist.ok(&["bundle", "verify", "--since", "old.tar", "new.tar"]);
    dist.run(&["bundle", "verify", "--since", "new.tar", "old.tar"]).ok();
    let other = Image::random(7, &[10]);
    other.push(&there, "third", "3");
    dist.ok(&["bundle", "create", "third.tar", &there.reference("third:3")]);
    dist.run(&["bundle", "verify", "--since", "third.tar", "new.tar"]).exit(6).says(&layer);

    let place = here.reference("m");
    dist.run(&["bundle", "load", "--to", &place, "new.tar"]).exit(3).says("former");
    assert_eq!(manifest(&here, "m/team/other", "2").status, 404);
    dist.run(&["bundle", "load", "new.tar"]).exit(3).says("former");
    let whole = size(&dist, "old.tar");
    dist.run(&["bundle", "create", "--since", "old.tar", "./old.tar", &old]).exit(2);
    dist.run(&["bundle", "verify", "--since", "new.tar", "./new.tar"]).exit(2);
    // What is added to leaves out what it left out.
    fs_err::copy(dist.dir().join("new.tar"), dist.dir().join("more.tar")).expect("copy");
    dist.ok(&["bundle", "add", "more.tar", &old]);
    dist.ok(&["bundle", "verify", "--since", "old.tar", "more.tar"]);
    assert_eq!(size(&dist, "old.tar"), whole);
    dist.ok(&["bundle", "load", "--to", &place, "old.tar"]);
    dist.ok(&["bundle", "load", "old.tar"]);
    dist.ok(&["bundle", "load", "new.tar"]);
    verify_store(&dist);
    // Another repository of the registry has the layer: this one gets it from there.
    dist.ok(&["bundle", "load", "--to", &place, "new.tar"]);
    assert_eq!(manifest(&here, "m/team/other", "2").body, second.manifest.bytes);
}

#[test]
fn images_are_added_and_nothing_is_lost() {
    let _timed = timed("bundles");
    let (there, here) = (Registry::start(), Registry::start());
    let (first, second) = two(&there);
    let (signature, _) = attach(&there, &first);
    let from = FaultProxy::start(there.address());
    let dist = quick();
    dist.ok(&["bundle", "create", "a.tar", &from.reference("app:1")]);
    dist.run(&["bundle", "add", "none.tar", &from.reference("app:1")]).exit(3);
    from.reset();
    dist.ok(&["bundle", "add", "a.tar", &from.reference("team/other:2")]);
    let layer = first.layer(0);
    assert!(!from.log().iter().any(|request| request.path.contains(&layer)), "{:?}", from.log());
    assert_eq!(dist.ok(&["bundle", "verify", "a.tar"]).text().lines().count(), 2);
    dist.ok(&["bundle", "load", "--to", here.address(), "a.tar"]);
    assert_eq!(manifest(&here, "app", "1").body, first.manifest.bytes);
    assert_eq!(manifest(&here, "team/other", "2").body, second.manifest.bytes);
    assert_eq!(manifest(&here, "app", &signature).status, 200);
}

#[test]
fn after_a_kill_a_bundle_is_gone_on_with() {
    let _timed = timed("bundles");
    let there = Registry::start();
    let from = FaultProxy::start(there.address());
    let image = Image::random(3, &[6 << 20]);
    image.push(&there, "app", "1");
    let gate = Gate::default();
    let (big, sent) = (image.layer(0), 4 << 20);
    from.add(Rule::get(format!("/blobs/{big}"), Fault::Hold(sent, gate.clone())));
    let dist = dist();
    let name = from.reference("app:1");
    let running = dist.spawn(&["bundle", "create", "a.tar", &name]);
    gate.wait_held(1);
    let part = dist.dir().join(".a.tar.part");
    while fs_err::metadata(&part).map_or(0, |part| part.len()) < 3 << 20 {
        std::thread::yield_now();
    }
    dist.run(&["bundle", "create", "a.tar", &name]).exit(9);
    running.kill();
    gate.open();
    assert!(!dist.dir().join("a.tar").exists());
    from.reset();
    dist.ok(&["bundle", "create", "--progress", "plain", "a.tar", &name]).says("continued at");
    let log = from.log();
    let again: u64 = log.iter().filter(|r| r.path.contains(&big)).map(|r| r.sent).sum();
    let most = image.blobs[1].bytes.len() as u64 - (3 << 20) + 4096;
    assert!(again <= most, "{again} bytes were sent again: {log:?}");
    dist.ok(&["bundle", "verify", "a.tar"]);
    assert!(!part.exists());

    // What lies there and is wrong is not believed.
    let bytes = fs_err::read(dist.dir().join("a.tar")).expect("the bundle");
    let mut wrong = bytes[..2 << 20].to_vec();
    wrong[1 << 20] ^= 1;
    fs_err::write(&part, wrong).expect("write a part");
    dist.ok(&["bundle", "create", "a.tar", &name]);
    assert!(fs_err::read(dist.dir().join("a.tar")).expect("the bundle") == bytes);
}

#[test]
fn of_names_that_are_not_there_nothing_is_left() {
    let _timed = timed("bundles");
    let there = Registry::start();
    two(&there);
    let dist = quick();
    let missing = there.reference("none:1");
    dist.run(&["bundle", "create", "a.tar", &missing]).exit(3);
    dist.ok(&["bundle", "create", "b.tar", &there.reference("app:1")]);
    let files = || dist.script("ls -A").stdout;
    let before = files();
    dist.run(&["bundle", "create", "b.tar", &missing]).exit(3);
    assert_eq!(String::from_utf8_lossy(&files()), String::from_utf8_lossy(&before));
    assert!(!String::from_utf8_lossy(&before).contains(".part"));
}

#[test]
fn damage_is_found() {
    let _timed = timed("bundles");
    let there = Registry::start();
    let (first, _) = two(&there);
    let dist = quick();
    dist.ok(&["bundle", "create", "a.tar", &there.reference("app:1")]);
    let path = dist.dir().join("a.tar");
    let good = fs_err::read(&path).expect("the bundle");
    let spoil = |path: &Path, at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs_err::write(path, bytes).expect("write");
    };
    spoil(&path, 300_000);
    dist.run(&["bundle", "verify", "a.tar"]).exit(6).says(&first.layer(0));
    fs_err::write(&path, &good[..good.len() - 5000]).expect("write");
    dist.run(&["bundle", "verify", "a.tar"]).exit(6);
    fs_err::write(&path, b"no tar").expect("write");
    dist.run(&["bundle", "load", "a.tar"]).exit(6);
    dist.run(&["bundle", "create", "b.tar", &there.reference("app:none")]).exit(3);
    assert!(!dist.dir().join("b.tar").exists());
    dist.run(&["bundle", "create", "b.tar", "oci:x"]).exit(2);
}
