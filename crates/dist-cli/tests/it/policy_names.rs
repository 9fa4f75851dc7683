//! Policies by what a name leads to: the store, an index, an address, a tag that moves.

use dist_testutil::{Image, Registry, WebServer, index_of, timed};

use crate::policy::Place;
use crate::support::quick;

#[test]
fn what_nobody_could_believe_is_not_signed_for_and_no_key() {
    let _timed = timed("policy");
    let place = Place::new();
    let name = place.registry.reference("team/app:1");
    let sign = |identity: &str| {
        place.dist.run(&["sign", "--key", "key.key", "--identity", identity, &name])
    };
    for identity in ["", "No Name", "a//b", "localhost:5000/app:1:2"] {
        sign(identity).exit(2).says("sign for");
    }
    sign("example.com/team/app:1").ok();
    for (bits, code) in [(1024, 10), (2048, 0)] {
        place
            .openssl(&format!("genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:{bits} -out r.key"));
        place.openssl("pkey -in r.key -pubout -out r.pub");
        let policy = place.policy("keys = [\"r.pub\"]");
        place.dist.run(&["--policy", &policy, "policy", "check"]).exit(code);
    }
}

#[test]
fn what_is_in_the_store_is_asked_about_when_it_is_run() {
    let _timed = timed("policy");
    let place = Place::new();
    let (policy, reference) = (place.by_key(), place.reference());
    place.dist.ok(&["pull", "-q", &reference]);
    place.dist.run(&["--policy", &policy, "oci", "bundle", &reference, "none"]).exit(10);
    assert!(!place.path("none").exists());
    let spec = |policy: &str| {
        place.dist.run(&["--policy", policy, "oci", "spec", "--pull", "never", &reference])
    };
    spec(&policy).exit(10).says("there is no such signature");
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    spec(&policy).ok();
    place.pull(&policy).ok();
    // From now on it is known to be signed: nobody is asked, as long as the rule is the same.
    place.proxy.reset();
    spec(&policy).ok();
    assert_eq!(place.proxy.log().len(), 0, "{:?}", place.proxy.log());
    let pinned = format!("{reference}@{}", place.image.digest());
    place.dist.ok(&["--policy", &policy, "pull", "-q", &pinned]);
    place.proxy.reset();
    place.dist.ok(&["--policy", &policy, "pull", "-q", &pinned]);
    assert_eq!(place.proxy.log().len(), 0, "{:?}", place.proxy.log());
    let other = place.policy("keys = [\"other.pub\"]");
    spec(&other).exit(10).says("another key made it");
}

#[test]
fn what_is_revoked_is_not_used_through_an_index_either() {
    let _timed = timed("policy");
    let (registry, dist) = (Registry::start(), quick());
    let index = index_of(&[
        ("amd64", None, Image::random(1, &[3000])),
        ("arm64", Some("v8"), Image::random(2, &[2000])),
    ]);
    index.push(&registry, "app", "1");
    let name = registry.reference("app:1");
    dist.ok(&["pull", "-q", "--platform", "linux/amd64", &name]);
    let policy = format!("default = \"accept\"\nrevoked = [\"{}\"]", index.children[0].digest);
    fs_err::write(dist.dir().join("policy.toml"), policy).expect("write a policy");
    let other = quick();
    for args in [
        &["pull", &name][..],
        &["fetch", &name],
        &["unpack", &name, "out"],
        &["cat", "--remote", &name, "etc/passwd"],
        &["copy", &name, "oci:out:1"],
        &["copy", &name, "store:other:1"],
        &["copy", "--platform", "linux/amd64", &name, "oci:out:1"],
        &["bundle", "create", "b.tar", &name],
    ] {
        let policy = dist.dir().join("policy.toml");
        let policy = policy.to_str().expect("a path in UTF-8");
        other.run(&[&["--policy", policy], args].concat()).exit(10).says("revoked");
    }
    assert!(!other.dir().join("out").exists());
    // What came before it was revoked is not run any more, without a network too.
    drop(registry);
    dist.run(&["--policy", "policy.toml", "oci", "spec", &name]).exit(10).says("revoked");
}

#[test]
fn addresses_and_what_others_store_have_scopes() {
    let _timed = timed("policy");
    let place = Place::new();
    let (name, server) = (place.reference(), WebServer::start());
    for at in ["good", "bad"] {
        fs_err::create_dir(server.files().join(at)).expect("make a directory");
        let archive = server.files().join(at).join("app.tar");
        place.dist.ok(&["copy", "-q", &name, &format!("oci-archive:{}:1", archive.display())]);
    }
    place.write(
        "policy.toml",
        format!(
            "default = 'reject'
            [[rule]]
            scope = 'http://{}/good/'
            require = 'accept'
            [[rule]]
            scope = '{}'
            keys = ['key.pub']",
            server.address(),
            place.proxy.address()
        ),
    );
    let run = |args: &[&str]| place.dist.run(&[&["--policy", "policy.toml"], args].concat());
    let address = |path: &str| format!("http://{}/{path}/app.tar", server.address());
    run(&["copy", &address("good"), "oci:out:1"]).ok();
    run(&["copy", &address("b%61d"), "oci:out:2"]).exit(10);
    run(&["copy", &address("good/../bad"), "oci:out:2"]).exit(10);
    run(&["policy", "explain", &address("good")]).ok();
    // What is in the store was judged when it came; what another has is judged by its name.
    place.dist.ok(&["pull", "-q", &name]);
    run(&["copy", &format!("store:{name}"), "oci:out:3"]).ok();
    let daemon = place.dist.daemon();
    let theirs = format!("daemon:{}:{name}", daemon.address().display());
    run(&["copy", &theirs, "oci:out:4"]).exit(10).says("there is no such signature");
    place.dist.ok(&["sign", "--key", "key.key", &name]);
    place.dist.ok(&["bundle", "create", "-q", "b.tar", &name]);
    place.dist.ok(&["bundle", "load", "-q", "b.tar"]);
    run(&["copy", &theirs, "oci:out:4"]).ok();
    daemon.stop().ok();
    assert_eq!(place.dist.ok(&["validate", "-q", "oci:out:4"]).code, Some(0));
}

#[test]
fn a_tag_that_moves_to_something_unsigned_is_refused() {
    let _timed = timed("policy");
    let place = Place::new();
    let (policy, reference) = (place.by_key(), place.reference());
    place.dist.ok(&["sign", "--key", "key.key", &reference]);
    place.pull(&policy).ok();
    Image::random(8, &[3000]).push(&place.registry, "team/app", "1");
    place.pull(&policy).exit(10).says("there is no such signature");
    let listed = place.dist.ok(&["images", "--format", "json"]).text();
    assert!(listed.contains(&place.image.digest()), "the one before stays: {listed}");
    // What was signed once may be taken back.
    place.image.push(&place.registry, "team/app", "1");
    place.pull(&policy).ok();
    let text = fs_err::read_to_string(&policy).expect("read the policy");
    let revoked = format!("revoked = [\"{}\"]\n{text}", place.image.digest());
    fs_err::write(&policy, revoked).expect("write the policy");
    place.pull(&policy).exit(10).says("is revoked");
    place.dist.run(&["--policy", &policy, "oci", "spec", &reference]).exit(10).says("is revoked");
}
