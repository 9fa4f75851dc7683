//! Directories of hosts: mirrors before the registry, and the way back to it.

use dist_testutil::{
    Auth, Certificates, Dist, Fault, FaultProxy, Image, Registry, RegistryOptions, Rule, timed,
};

use serde_json::Value;

use crate::mirrors::{Pair, asked};
use crate::support::{dist, pull, quick, verify_image};

impl Pair {
    /// Writes what is said about the registry.
    fn say(&self, text: &str) {
        let port = self.before.address().rsplit(':').next().expect("a port");
        let dir = self.dir.path().join(format!("127.0.0.1_{port}_"));
        fs_err::create_dir_all(&dir).expect("make a directory");
        fs_err::write(dir.join("hosts.toml"), text).expect("write hosts.toml");
    }

    fn mirrored(&self, settings: &str) {
        self.say(&format!("[host.'http://{}']\n{settings}", self.between.address()));
    }

    fn quick(&self) -> Dist {
        let dir = self.dir.path().to_str().expect("a path in UTF-8");
        quick().with(&["--hosts-dir", dir])
    }
}

#[test]
fn a_mirror_that_has_it_serves_it_alone() {
    let _timed = timed("hosts");
    let (pair, image) = (Pair::new(), Image::random(1, &[200_000, 3000]));
    image.push(&pair.mirror, "test/app", "1");
    pair.mirrored("capabilities = ['pull', 'resolve']");
    let (dist, name) = (pair.quick(), pair.before.reference("test/app:1"));
    assert_eq!(pull(&dist, &name), image.digest());
    verify_image(&dist, &name, &image);
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    let wanted = format!("ns={}", pair.before.address().replace(':', "%3A"));
    let requests = asked(&pair.between);
    assert!(requests.iter().all(|request| request.ends_with(&wanted)), "{requests:?}");
    assert!(requests.iter().any(|request| request.contains("/blobs/")), "{requests:?}");
    let said = pair.quick().run(&["--debug", "pull", &name]).exit(0).stderr;
    assert!(said.contains(pair.between.address()), "{said}");
    // Without the directory the mirror is nobody.
    quick().run(&["pull", &name]).exit(3);
}

#[test]
fn a_mirror_without_resolve_says_nothing_about_tags() {
    let _timed = timed("hosts");
    let (pair, image, other) =
        (Pair::new(), Image::random(2, &[50_000]), Image::random(3, &[50_000]));
    image.push(&pair.registry, "test/app", "1");
    image.push(&pair.mirror, "test/app", "kept");
    other.push(&pair.mirror, "test/app", "1");
    pair.mirrored("capabilities = ['pull']");
    let (dist, name) = (pair.quick(), pair.before.reference("test/app:1"));
    assert_eq!(pull(&dist, &name), image.digest());
    let of_registry = asked(&pair.before);
    assert!(of_registry.iter().all(|request| request.starts_with("HEAD ")), "{of_registry:?}");
    let of_mirror = asked(&pair.between);
    assert!(of_mirror.iter().all(|request| request.contains("sha256")), "{of_mirror:?}");
    // A digest is a digest everywhere.
    pair.reset();
    let pinned = format!("{}@{}", pair.before.reference("test/app"), image.digest());
    pull(&pair.quick(), &pinned);
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    // Nor about which tags there are.
    assert_eq!(dist.ok(&["tags", "ls", &pair.before.reference("test/app")]).text(), "1\n");
    // With resolve it would be believed.
    pair.mirrored("");
    assert_eq!(pull(&pair.quick(), &name), other.digest());
}

#[test]
fn the_next_host_is_asked_where_a_mirror_fails() {
    let _timed = timed("hosts");
    let (pair, image) = (Pair::new(), Image::random(4, &[300_000, 3000]));
    image.push(&pair.registry, "test/app", "1");
    let name = pair.before.reference("test/app:1");
    let whole = |what: &str| {
        let dist = pair.quick();
        assert_eq!(pull(&dist, &name), image.digest(), "{what}");
        verify_image(&dist, &name, &image);
    };
    // It lacks the image.
    pair.mirrored("");
    whole("lacks it");
    assert!(!asked(&pair.between).is_empty());
    // It is down, and comes before one that is not there either.
    pair.say("[host.'http://127.0.0.1:1']\n[host.'https://mirror.invalid']");
    whole("is down");
    // It refuses, it is broken, it speaks no https.
    image.push(&pair.mirror, "test/app", "1");
    for status in [401, 403, 429, 500] {
        pair.mirrored("");
        pair.reset();
        pair.between.add(Rule::any("test/app", Fault::Status(status, Vec::new())));
        whole(&format!("answers {status}"));
    }
    pair.reset();
    pair.say(&format!("[host.'https://{}']", pair.between.address()));
    whole("speaks no https");
    // It lacks one blob, and breaks off in another for ever.
    pair.mirrored("");
    pair.reset();
    pair.between.add(Rule::get(image.layer(0), Fault::Cut(100)));
    pair.between.add(Rule::get(image.layer(1), Fault::Status(404, Vec::new())));
    whole("breaks off");
    let rest = pair.before.blob_gets(&image.layer(0));
    assert!(rest.iter().all(|request| request.range.is_some()) && !rest.is_empty(), "{rest:?}");
}

#[test]
fn where_all_hosts_fail_each_is_heard() {
    let _timed = timed("hosts");
    let pair = Pair::new();
    pair.say("[host.'http://127.0.0.1:1']");
    let said = pair.quick().run(&["pull", &pair.before.reference("test/app:1")]).exit(3).stderr;
    assert!(said.contains("127.0.0.1:1/v2") && said.contains(pair.before.address()), "{said}");
    pair.reset();
    pair.say("server = 'http://127.0.0.1:1'\ncapabilities = ['push']");
    let said = pair.quick().run(&["pull", &pair.before.reference("test/app:1")]).exit(1).stderr;
    assert!(said.contains("hosts.toml") && said.contains("resolve"), "{said}");
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    pair.say("blocked = true");
    pair.quick().run(&["pull", &pair.before.reference("test/app:1")]).exit(6).says("blocked");
    let missing = pair.dir.path().join("missing");
    let flags = ["--hosts-dir", missing.to_str().expect("a path in UTF-8")];
    dist().with(&flags).run(&["pull", "localhost:1/a"]).exit(2).says("missing");
}

#[test]
fn a_push_goes_to_the_first_host_that_takes_it() {
    let _timed = timed("hosts");
    let (pair, image) = (Pair::new(), Image::random(5, &[50_000]));
    image.push(&pair.registry, "test/app", "1");
    let (dist, name) = (pair.quick(), pair.before.reference("test/app:1"));
    pull(&dist, &name);
    let pushed = pair.before.reference("test/pushed:1");
    dist.ok(&["tag", &name, &pushed]);
    pair.mirrored("capabilities = ['pull', 'resolve']");
    pair.reset();
    dist.ok(&["push", &pushed]);
    assert_eq!(asked(&pair.between), Vec::<String>::new());
    pair.mirrored("capabilities = ['push']");
    pair.reset();
    dist.ok(&["push", &pushed]);
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    let requests = asked(&pair.between);
    assert!(requests.iter().all(|request| request.contains("ns=127.0.0.1")), "{requests:?}");
    assert_eq!(pull(&quick(), &pair.mirror.reference("test/pushed:1")), image.digest());
}

#[test]
fn a_mirror_does_not_see_the_registrys_password() {
    let _timed = timed("hosts");
    let auth = || Auth::Basic { user: "ann".into(), password: "secret".into() };
    let with = |auth| Registry::with(RegistryOptions { auth, ..RegistryOptions::default() });
    let (open, image) = (Registry::start(), Image::random(6, &[3000]));
    image.push(&open, "test/app", "1");
    let storage = Some(open.storage().to_owned());
    let registry =
        Registry::with(RegistryOptions { storage, auth: auth(), ..RegistryOptions::default() });
    let mut pair = Pair::new();
    pair.mirror = with(auth());
    pair.between = FaultProxy::start(pair.mirror.address());
    pair.before = FaultProxy::start(registry.address());
    pair.mirrored("");
    let name = pair.before.reference("test/app:1");
    let dist = pair.quick().with(&["--user", "ann:secret"]);
    assert_eq!(pull(&dist, &name), image.digest());
    let heard = pair.between.log();
    assert!(!heard.is_empty() && heard.iter().all(|request| !request.authorized), "{heard:?}");
    assert!(pair.before.log().iter().any(|request| request.authorized));
}

#[test]
fn a_path_is_added_or_replaced() {
    let _timed = timed("hosts");
    let pair = Pair::new();
    let name = pair.before.reference("test/app:1");
    for (settings, expected) in [
        ("", "HEAD /cache/v2/test/app/manifests/1?"),
        ("override_path = true", "HEAD /cache/test/app/manifests/1?"),
    ] {
        pair.reset();
        pair.say(&format!("[host.'http://{}/cache']\n{settings}", pair.between.address()));
        pair.quick().run(&["pull", &name]).exit(3);
        let requests = asked(&pair.between);
        assert!(requests[0].starts_with(expected), "{requests:?}");
    }
}

#[test]
fn a_client_certificate_is_shown_to_whom_it_is_for() {
    let _timed = timed("hosts");
    let (open, image) = (Registry::start(), Image::random(7, &[3000]));
    image.push(&open, "test/app", "1");
    let certificates = Certificates::new();
    let registry = Registry::with(RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some(certificates.server("good", "IP:127.0.0.1")),
        client_ca: Some(certificates.authority()),
        ..RegistryOptions::default()
    });
    let (cert, key) = certificates.server("client", "DNS:client");
    let root = dist_testutil::scratch();
    let dir = root.path().join(format!("127.0.0.1_{}_", registry.port()));
    fs_err::create_dir(&dir).expect("make a directory");
    fs_err::copy(certificates.authority(), dir.join("ca.crt")).expect("copy");
    let (flags, name) =
        (["--hosts-dir", root.path().to_str().expect("UTF-8")], registry.reference("test/app:1"));
    let try_pull = || quick().with(&flags).run(&["pull", &name]);
    try_pull().exit(5);
    // As docker has it: beside the authority.
    fs_err::copy(&cert, dir.join("client.cert")).expect("copy");
    try_pull().exit(2).says("client.key");
    fs_err::copy(&key, dir.join("client.key")).expect("copy");
    try_pull().exit(0);
    // As containerd has it.
    for (file, client) in [
        ("own", "[['client.cert', 'client.key']]".to_owned()),
        ("both", "'both.pem'".to_owned()),
        ("list", "['both.pem']".to_owned()),
    ] {
        let both = [&cert, &key].map(|path| fs_err::read_to_string(path).expect("read")).concat();
        fs_err::write(dir.join("both.pem"), both).expect("write");
        let address = registry.address();
        let text = format!("server = 'https://{address}'\nca = 'ca.crt'\nclient = {client}");
        fs_err::write(dir.join("hosts.toml"), text).expect("write");
        try_pull().exit(0);
        let text = format!("server = 'https://{address}'\nca = 'ca.crt'");
        fs_err::write(dir.join("hosts.toml"), text).expect("write");
        assert_ne!(try_pull().code, Some(0), "{file}");
    }
}

#[test]
fn a_mirror_that_sends_other_bytes_is_passed_over() {
    let _timed = timed("hosts");
    let (pair, image) = (Pair::new(), Image::random(1, &[300_000, 2000]));
    image.push(&pair.mirror, "test/app", "1");
    image.push(&pair.registry, "test/app", "1");
    pair.mirrored("");
    let name = pair.before.reference("test/app:1");
    for layer in [0, 1] {
        pair.reset();
        let part = format!("/blobs/{}", image.layer(layer));
        pair.between.add(Rule::get(part.clone(), Fault::Flip(100)));
        let pulled = pair.quick();
        pulled.ok(&["pull", &name]).says("sent other content");
        verify_image(&pulled, &name, &image);
        let sent = |proxy: &FaultProxy| asked(proxy).iter().filter(|it| it.contains(&part)).count();
        assert!(sent(&pair.before) > 0 && sent(&pair.between) > 0, "{:?}", asked(&pair.before));
        let here = Registry::start();
        let copied = pair.quick();
        copied.ok(&["copy", &name, &here.reference("app:1")]).says("sent other content");
        assert_eq!(pull(&dist(), &here.reference("app:1")), image.digest());
        copied.ok(&["copy", &name, "oci:layout:1"]);
        copied.ok(&["validate", "oci:layout:1"]);
        // Where nobody else has it, it is an error.
        pair.before.add(Rule::get(part.clone(), Fault::Flip(100)));
        pair.quick().run(&["pull", &name]).exit(6);
        copied.run(&["copy", &name, "oci:other:1"]).exit(6);
    }
}

#[test]
fn a_mirror_does_not_say_what_refers_to_its_images() {
    let _timed = timed("hosts");
    let (pair, image) = (Pair::new(), Image::random(1, &[2000]));
    image.push(&pair.mirror, "test/app", "1");
    pair.mirrored("");
    pair.before.add(Rule::any("", Fault::Refuse));
    let (dist, name) = (pair.quick(), pair.before.reference("test/app:1"));
    let said = dist.run(&["copy", &name, "oci:layout:1"]).exit(5);
    said.says("find what refers to").says("--no-referrers");
    dist.ok(&["copy", "--no-referrers", &name, "oci:layout:1"]);
}

#[test]
fn hosts_are_explained_without_a_word_to_them() {
    let _timed = timed("hosts");
    let pair = Pair::new();
    pair.mirrored(
        "capabilities = ['pull']\nca = 'a.pem'\nskip_verify = true\nheader = { x-a = 'secret' }",
    );
    let name = pair.before.reference("test/app:1");
    let explain =
        |flags: &[&str]| pair.quick().ok(&[&["hosts", "explain", &name][..], flags].concat());
    let text = explain(&[]).text();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[1].contains(pair.between.address()), "{text}");
    assert!(lines[1].contains("a.pem (not there)"), "{text}");
    assert!(lines[2].contains(pair.before.address()) && lines[2].contains("pull,resolve,push"));
    assert!(!text.contains("secret"), "{text}");
    let json = explain(&["--format", "json"]).json();
    assert_eq!(json[0]["capabilities"], serde_json::json!(["pull"]));
    assert!(json[0]["missing"][0].as_str().is_some_and(|path| path.ends_with("a.pem")));
    assert_eq!((&json[0]["otherwise"], &json[1]["otherwise"]), (&Value::Null, &"https".into()));
    assert_eq!(json[0]["headers"], serde_json::json!(["x-a"]));
    assert_eq!((&json[0]["mirror"], &json[1]["mirror"]), (&true.into(), &false.into()));
    assert!(json[1]["from"].as_str().is_some_and(|from| from.ends_with("hosts.toml")));
    assert!(asked(&pair.before).is_empty() && asked(&pair.between).is_empty());
    let plain = dist().ok(&["hosts", "explain", "localhost:5/a"]).text();
    let first = "http://localhost:5/v2, else https ";
    assert!(plain.contains(first) && plain.contains("default"), "{plain}");
    let only = dist().ok(&["--plain-http", "hosts", "explain", "localhost:5/a"]).text();
    assert!(only.contains("http://localhost:5/v2 "), "{only}");
}
