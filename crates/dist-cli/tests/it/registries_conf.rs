//! containers' `registries.conf`: mirrors, other places, what is blocked, and what needs no https.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use dist_testutil::{Certificates, Dist, Fault, Image, Registry, RegistryOptions, Rule, timed};

use crate::mirrors::{Pair, asked};
use crate::support::{dist, pull, quick, verify_image};

impl Pair {
    /// Writes the file; `REGISTRY` and `MIRROR` are the addresses.
    fn say_conf(&self, text: &str) {
        let text = text.replace("REGISTRY", self.before.address());
        let text = text.replace("MIRROR", self.between.address());
        fs_err::write(self.dir.path().join("registries.conf"), text).expect("write the file");
    }

    fn file(&self) -> String {
        self.dir.path().join("registries.conf").to_str().expect("a path in UTF-8").to_owned()
    }

    fn by_conf(&self) -> Dist {
        quick().with(&["--registries-conf", &self.file()])
    }
}

#[test]
fn a_mirror_serves_a_part_of_a_registry_under_another_path() {
    let _timed = timed("registries.conf");
    let (pair, image) = (Pair::new(), Image::random(1, &[200_000, 3000]));
    image.push(&pair.mirror, "copies/of/app", "1");
    pair.say_conf(
        "[[registry]]\nprefix = 'REGISTRY/team'\nlocation = 'REGISTRY/team'
         [[registry.mirror]]\nlocation = 'MIRROR/copies/of'",
    );
    let (dist, name) = (pair.by_conf(), pair.before.reference("team/app:1"));
    let pulled = dist.ok(&["pull", &name]);
    assert!(pulled.text().starts_with(&format!("{name}@{}", image.digest())), "{}", pulled.text());
    assert!(pulled.stderr.contains(&format!("{} answered for", pair.between.address())));
    verify_image(&dist, &name, &image);
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    let requests = asked(&pair.between);
    assert!(requests.iter().all(|request| request.contains("/v2/copies/of/app/")), "{requests:?}");
    assert!(requests.iter().all(|request| !request.contains("ns=")), "{requests:?}");
    // So do lists, and `hosts explain` tells it.
    let tags = dist.ok(&["tags", "ls", &pair.before.reference("team/app")]).text();
    assert_eq!(tags, "1\n");
    let told = dist.ok(&["hosts", "explain", &name]).text();
    assert!(told.contains("copies/of/app:1") && told.contains("registries.conf"), "{told}");
    // Other repositories are no business of the mirror's.
    pair.reset();
    pair.by_conf().run(&["pull", &pair.before.reference("other/app:1")]).exit(3);
    assert_eq!(asked(&pair.between), Vec::<String>::new());
}

#[test]
fn where_a_mirror_fails_the_registry_serves_and_pushes_never_leave_it() {
    let _timed = timed("registries.conf");
    let (pair, image) = (Pair::new(), Image::random(2, &[300_000, 3000]));
    image.push(&pair.registry, "test/app", "1");
    pair.say_conf(
        "[[registry]]\nlocation = 'REGISTRY'\n[[registry.mirror]]\nlocation = 'MIRROR/x'",
    );
    let name = pair.before.reference("test/app:1");
    let whole = |what: &str| {
        let dist = pair.by_conf();
        assert_eq!(pull(&dist, &name), image.digest(), "{what}");
        verify_image(&dist, &name, &image);
        dist
    };
    whole("lacks it");
    assert!(!asked(&pair.between).is_empty());
    image.push(&pair.mirror, "x/test/app", "1");
    for status in [401, 403, 429, 500] {
        pair.reset();
        pair.between.add(Rule::any("test/app", Fault::Status(status, Vec::new())));
        whole(&format!("answers {status}"));
    }
    pair.reset();
    pair.between.add(Rule::get(image.layer(0), Fault::Cut(100)));
    pair.between.add(Rule::get(image.layer(1), Fault::Status(404, Vec::new())));
    let dist = whole("breaks off");
    let rest = pair.before.blob_gets(&image.layer(0));
    assert!(rest.iter().all(|request| request.range.is_some()) && !rest.is_empty(), "{rest:?}");
    pair.reset();
    let pushed = pair.before.reference("test/pushed:1");
    dist.ok(&["tag", &name, &pushed]);
    dist.ok(&["push", &pushed]);
    assert_eq!(asked(&pair.between), Vec::<String>::new());
    // Names by tag keep away from mirrors that are for digests alone.
    pair.say_conf(
        "[[registry]]\nlocation = 'REGISTRY'\nmirror-by-digest-only = true
         [[registry.mirror]]\nlocation = 'MIRROR/x'",
    );
    pair.reset();
    whole("is for digests");
    assert_eq!(asked(&pair.between), Vec::<String>::new());
    pair.reset();
    pull(&pair.by_conf(), &format!("{}@{}", pair.before.reference("test/app"), image.digest()));
    assert_eq!(asked(&pair.before), Vec::<String>::new());
}

#[test]
fn what_is_blocked_is_not_asked_for() {
    let _timed = timed("registries.conf");
    let (pair, image) = (Pair::new(), Image::random(3, &[3000]));
    image.push(&pair.registry, "test/app", "1");
    let name = pair.before.reference("test/app:1");
    let dist = pair.by_conf();
    pair.say_conf("");
    pull(&dist, &name);
    pair.say_conf("[[registry]]\nlocation = 'REGISTRY/test'\nblocked = true");
    pair.reset();
    for verb in [
        &["pull", &name][..],
        &["fetch", &name],
        &["push", &name],
        &["tags", "ls", &pair.before.reference("test/app")],
        &["hosts", "explain", &name],
        &["copy", &name, "oci:/nowhere"],
    ] {
        dist.run(verb).exit(10).says("registries.conf");
    }
    assert_eq!(asked(&pair.before), Vec::<String>::new());
    pair.say_conf("[[registry]]\nlocation = 'REGISTRY/test'\nblocked = 1");
    dist.run(&["pull", &name]).exit(2).says("registries.conf");
    pair.say_conf("[registries.block]\nregistries = ['REGISTRY']");
    dist.run(&["pull", &name]).exit(6).says("version 2");
    let missing = quick().with(&["--registries-conf", "/nowhere/registries.conf"]);
    missing.run(&["pull", &name]).exit(2).says("/nowhere/registries.conf");
    let none = quick().env("CONTAINERS_REGISTRIES_CONF", pair.file());
    none.run(&["pull", &name]).exit(6).says("version 2");
    none.with(&["--registries-conf", ""]).ok(&["pull", &name]);
}

#[test]
fn insecure_means_any_certificate_and_no_https_at_all() {
    let _timed = timed("registries.conf");
    let certificates = Certificates::new();
    let tls = Some(certificates.server("good", "IP:127.0.0.1"));
    let registry = Registry::with(RegistryOptions { tls, ..RegistryOptions::default() });
    let plain = Registry::start();
    let image = Image::random(4, &[3000]);
    image.push(&plain, "test/app", "1");
    let dir = dist_testutil::scratch();
    let file = dir.path().join("registries.conf");
    let file_name = file.to_str().expect("a path in UTF-8");
    let say = |location: &str, insecure: bool| {
        let text = format!(
            "[[registry]]\nlocation = 'r.invalid'\n[[registry.mirror]]\n\
             location = '{location}'\ninsecure = {insecure}"
        );
        fs_err::write(&file, text).expect("write the file");
    };
    let dist = || quick().with(&["--registries-conf", file_name]);
    // http, where nobody speaks https.
    say(plain.address(), true);
    assert_eq!(pull(&dist(), "r.invalid/test/app:1"), image.digest());
    // https, with whatever certificate.
    dist().with(&["--insecure"]).ok(&[
        "copy",
        &plain.reference("test/app:1"),
        &registry.reference("test/app:1"),
    ]);
    say(registry.address(), false);
    dist().run(&["pull", "r.invalid/test/app:1"]).exit(5);
    say(registry.address(), true);
    assert_eq!(pull(&dist(), "r.invalid/test/app:1"), image.digest());
    // Or with its own, from containers' directory.
    say(registry.address(), false);
    let certs = dir.path().join("containers/certs.d").join(registry.address());
    fs_err::create_dir_all(&certs).expect("make a directory");
    fs_err::copy(certificates.authority(), certs.join("ca.crt")).expect("copy the certificate");
    let dist = dist().env("XDG_CONFIG_HOME", dir.path());
    assert_eq!(pull(&dist, "r.invalid/test/app:1"), image.digest());
    let told = dist.ok(&["hosts", "explain", "r.invalid/test/app:1"]).text();
    assert!(told.contains("ca.crt"), "{told}");
    let login = ["login", "-u", "ann", "--password-stdin", registry.address()];
    dist.feed(&login, b"secret").ok();
    crate::support::dist().feed(&login, b"secret").exit(5).says("nobody who is trusted");
}

#[test]
fn a_users_own_files_are_read_and_the_systems_are_not() {
    let _timed = timed("registries.conf");
    let dir = dist_testutil::scratch();
    let write = |name: &str, text: &str| {
        let path = dir.path().join("containers").join(name);
        fs_err::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs_err::write(path, text).expect("write the file");
    };
    let dist = dist().env("XDG_CONFIG_HOME", dir.path());
    let explain = |name: &str| dist.ok(&["hosts", "explain", "--format", "json", name]).json();
    write("registries.conf", "[[registry]]\nlocation = 'r.invalid'\ninsecure = true");
    assert_eq!(explain("r.invalid/a")[0]["insecure"], true);
    write(
        "registries.conf.d/1.conf",
        "[[registry]]\nprefix = 'r.invalid'\nlocation = 'other.invalid'",
    );
    assert_eq!(explain("r.invalid/a")[0]["host"], "https://other.invalid/v2");
    let from = explain("r.invalid/a")[0]["from"].as_str().map(str::to_owned);
    assert!(from.is_some_and(|from| from.ends_with("1.conf")));
    // A hosts.toml counts before it.
    let hosts = dir.path().join("containerd/certs.d/r.invalid");
    fs_err::create_dir_all(&hosts).expect("make a directory");
    fs_err::write(hosts.join("hosts.toml"), "[host.'https://m.invalid']").expect("write the file");
    assert_eq!(explain("r.invalid/a")[0]["host"], "https://m.invalid/v2");
}

#[test]
fn auth_status_names_sources_and_no_secrets() {
    let _timed = timed("registries.conf");
    let (home, dir) = (dist_testutil::scratch(), dist_testutil::scratch());
    let write = |path: &str, text: &str| {
        let path = home.path().join(path);
        fs_err::create_dir_all(path.parent().expect("a parent")).expect("make a directory");
        fs_err::write(&path, text).expect("write the file");
    };
    // base64 of ann:hunter2
    write(
        "docker/config.json",
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YW5uOmh1bnRlcjI="}},
            "credHelpers":{"kept.invalid":"disttest"}}"#,
    );
    write(
        "containers/auth.json",
        r#"{"auths":{"r.invalid/team":{"identitytoken":"hunter2"},"r.invalid":{"auth":"YW5uOmh1bnRlcjI="}}}"#,
    );
    let helper = dir.path().join("docker-credential-disttest");
    let script =
        "#!/bin/sh\necho '{\"ServerURL\":\"x\",\"Username\":\"bob\",\"Secret\":\"hunter2\"}'\n";
    fs_err::write(&helper, script).expect("write the helper");
    fs_err::set_permissions(&helper, Permissions::from_mode(0o755)).expect("chmod");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap_or_default());
    let dist = dist()
        .env("PATH", path)
        .env("DOCKER_CONFIG", home.path().join("docker"))
        .env("XDG_CONFIG_HOME", home.path());
    let all = dist.ok(&["auth", "status"]);
    assert!(!all.text().contains("hunter2") && !all.stderr.contains("hunter2"), "{}", all.text());
    let lines: Vec<_> = all
        .text()
        .lines()
        .map(|line| line.split_whitespace().take(4).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let file = |file: &str| home.path().join(file).display().to_string();
    for (line, expected) in lines.iter().zip([
        ["REGISTRY", "USER", "KIND", "FROM"],
        ["docker.io", "ann", "password", &file("docker/config.json")],
        ["kept.invalid", "bob", "password", "docker-credential-disttest"],
        ["r.invalid", "ann", "password", &file("containers/auth.json")],
        ["r.invalid/team", "-", "token", &file("containers/auth.json")],
    ]) {
        assert_eq!(line, &expected, "{}", all.text());
    }
    let json = dist.ok(&["auth", "status", "--format", "json", "r.invalid/team/app"]).json();
    assert_eq!((&json[0]["key"], &json[0]["kind"]), (&"r.invalid/team".into(), &"token".into()));
    assert!(dist.ok(&["auth", "status", "other.invalid"]).text().contains("anonymous"));
    // One that can't be had keeps no other from being told.
    write("docker/config.json", r#"{"credHelpers":{"h.invalid":"missing"}}"#);
    let both = dist.run(&["auth", "status", "h.invalid", "r.invalid"]);
    assert!(both.code != Some(0) && both.stderr.contains("missing"), "{}", both.stderr);
    let told = String::from_utf8_lossy(&both.stdout).lines().count();
    assert_eq!(told, 3, "{:?}", both.stdout);
    // containers' settings can name a helper for all.
    write("containers/registries.conf", "credential-helpers = ['disttest']");
    let json = dist.ok(&["auth", "status", "--format", "json", "other.invalid"]).json();
    assert_eq!((&json[0]["user"], &json[0]["helper"]), (&"bob".into(), &"disttest".into()));
}

#[test]
fn short_names_are_aliases_or_looked_for_in_each_registry() {
    let _timed = timed("registries.conf");
    let (pair, image) = (Pair::new(), Image::random(5, &[3000]));
    let other = Image::random(6, &[3000]);
    image.push(&pair.mirror, "app", "1");
    other.push(&pair.registry, "of/team/thing", "1");
    let search = "unqualified-search-registries = ['REGISTRY', 'MIRROR']";
    let say = |mode: &str, more: &str| {
        pair.say_conf(&format!(
            "{search}\nshort-name-mode = '{mode}'\n{more}
             [aliases]\n'thing' = 'REGISTRY/of/team/thing'"
        ));
    };
    let dist = pair.by_conf();
    let full = pair.between.reference("app:1");
    // One registry after the other, as nobody can be asked.
    for mode in ["", "permissive", "disabled"] {
        say(mode, "");
        pair.reset();
        let pulled = dist.ok(&["pull", "app:1"]).text();
        assert!(pulled.starts_with(&format!("{full}@{}", image.digest())), "{pulled}");
        assert!(!asked(&pair.before).is_empty(), "the first registry is asked first");
    }
    // The name that it was pulled by is one for what is there.
    assert!(dist.ok(&["inspect", "app:1"]).text().contains(&image.digest().to_string()));
    dist.ok(&["tag", "app:1", "r.invalid/kept:1"]);
    assert_eq!(dist.ok(&["rmi", "app:1"]).text(), format!("{full}\n"));
    dist.run(&["rmi", "app:1"]).exit(3);
    // Somebody must choose.
    say("enforcing", "");
    pair.reset();
    dist.run(&["pull", "app:1"]).exit(2).says(pair.before.address()).says(&full);
    assert!(asked(&pair.before).is_empty() && asked(&pair.between).is_empty());
    dist.run(&["tags", "ls", "app"]).exit(2).says("whole name");
    // An alias leaves no choice.
    let pulled = dist.ok(&["pull", "thing:1"]).text();
    assert!(pulled.starts_with(&pair.before.reference("of/team/thing:1")), "{pulled}");
    assert_eq!(dist.ok(&["tags", "ls", "thing"]).text(), "1\n");
    // Where none has it, each is heard.
    say("permissive", "");
    let said = dist.run(&["pull", "none:1"]).exit(3).stderr;
    assert!(
        said.contains(pair.before.address()) && said.contains(pair.between.address()),
        "{said}"
    );
    // What is blocked is not passed over.
    say("permissive", "[[registry]]\nlocation = 'REGISTRY'\nblocked = true");
    dist.run(&["pull", "app:1"]).exit(10);
}
