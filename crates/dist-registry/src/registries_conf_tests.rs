//! containers-registries.conf(5) and containers-registries.conf.d(5), sentence by sentence: files, a
//! name, and where it is looked for.

use super::*;
use crate::RegistryOptions;

struct Files(tempfile::TempDir);

impl Files {
    /// The first text is the main file, the others are `1.conf`, `2.conf`, ... of the directory.
    fn new(texts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("d")).unwrap();
        for (at, text) in texts.iter().enumerate() {
            let name = if at == 0 { "main.conf".to_owned() } else { format!("d/{at}.conf") };
            fs_err::write(dir.path().join(name), text).unwrap();
        }
        Self(dir)
    }

    fn options(&self) -> RegistryOptions {
        let registries_conf = RegistriesFiles {
            main: Some(self.0.path().join("main.conf")),
            drop_ins: vec![self.0.path().join("d")],
            ..RegistriesFiles::default()
        };
        RegistryOptions { registries_conf, ..RegistryOptions::default() }
    }

    /// `address name` of each host that is asked for content; `!` before it where its certificate is
    /// taken as it is, `+push` behind it where it takes pushes.
    fn read(&self, name: &str) -> Result<Vec<String>> {
        let reference = Reference::parse(name).unwrap();
        let hosts = self.options().hosts(&reference)?;
        let shown = hosts.hosts.iter().map(|host| {
            let there = host.place.as_ref().and_then(|place| place.reference.as_ref());
            let there = there.unwrap_or(&reference);
            let insecure = if host.insecure == Some(true) { "!" } else { "" };
            let can = match (host.capabilities.pull, host.capabilities.push) {
                (true, true) => "+push",
                (false, true) => "=push",
                _ => "",
            };
            let address = hosts.address(host, false);
            let object = there.object();
            format!("{insecure}{address} {}:{object}{can}", there.repository())
        });
        Ok(shown.collect())
    }

    fn meant(&self, text: &str) -> Vec<String> {
        let meant = self.options().meant(text).unwrap();
        meant.names.iter().map(ToString::to_string).collect()
    }
}

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// Of `DIGEST` the tables say `@D`.
fn check(texts: &[&str], name: &str, expected: &[&str]) {
    let read = Files::new(texts).read(&name.replace("@D", &format!("@{DIGEST}")));
    let read: Vec<_> =
        read.unwrap().iter().map(|line| line.replace(&format!("@{DIGEST}"), "@D")).collect();
    assert_eq!(read, expected, "{name}\n{}", texts.join("\n---\n"));
}

#[test]
fn a_single_table_is_chosen_by_the_longest_prefix() {
    let file = "
        [[registry]]
        location = 'example.com'
        insecure = true
        [[registry]]
        prefix = 'example.com/foo'
        location = 'foo.test/f'
        [[registry]]
        prefix = 'example.com/foo/bar'
        location = 'bar.test'
        [[registry]]
        prefix = 'example.com/foo/bar/app:1'
        location = 'one.test/app:first'
        [[registry]]
        prefix = 'example.com:5000'
        location = 'port.test'
        [[registry]]
        prefix = 'docker.io/library'
        location = 'hub.test/library'
    ";
    for (name, expected) in [
        // Without a prefix, the location is one; it is asked as it is.
        ("example.com/app:1", &["!https://example.com/v2 app:1+push"][..]),
        ("example.com/foobar/app:1", &["!https://example.com/v2 foobar/app:1+push"]),
        (
            "example.com/foo/app:1",
            &["https://foo.test/v2 f/app:1", "https://example.com/v2 foo/app:1=push"],
        ),
        (
            "example.com/foo/bar/x:1",
            &["https://bar.test/v2 x:1", "https://example.com/v2 foo/bar/x:1=push"],
        ),
        // A prefix may be a whole name with its tag.
        (
            "example.com/foo/bar/app:1",
            &["https://one.test/v2 app:first", "https://example.com/v2 foo/bar/app:1=push"],
        ),
        (
            "example.com/foo/bar/app:12",
            &["https://bar.test/v2 app:12", "https://example.com/v2 foo/bar/app:12=push"],
        ),
        // A digest counts before a tag.
        (
            "example.com/foo/app:1@D",
            &["https://foo.test/v2 f/app:@D", "https://example.com/v2 foo/app:1@D=push"],
        ),
        // Another port is another registry.
        (
            "example.com:5000/app:1",
            &["https://port.test/v2 app:1", "https://example.com:5000/v2 app:1=push"],
        ),
        ("example.com:5001/app:1", &["https://example.com:5001/v2 app:1+push"]),
        ("other.com/app:1", &["https://other.com/v2 app:1+push"]),
        // Docker's short paths are names below library.
        (
            "docker.io/library/redis:7",
            &[
                "https://hub.test/v2 library/redis:7",
                "https://registry-1.docker.io/v2 library/redis:7=push",
            ],
        ),
        ("docker.io/user/app:1", &["https://registry-1.docker.io/v2 user/app:1+push"]),
    ] {
        check(&[file], name, expected);
    }
}

#[test]
fn a_star_stands_for_all_hosts_below_a_domain() {
    let file = "
        [[registry]]
        prefix = '*.example.com'
        insecure = true
        [[registry.mirror]]
        location = 'mirror.test/sub'
        [[registry]]
        prefix = '*.deep.example.com'
        location = 'deep.test'
        [[registry]]
        location = 'own.example.com'
    ";
    for (name, expected) in [
        // Without a location nothing is rewritten; all else counts.
        (
            "a.example.com/app:1",
            &["https://mirror.test/v2 sub/app:1", "!https://a.example.com/v2 app:1+push"][..],
        ),
        (
            "a.b.example.com:5000/app:1",
            &["https://mirror.test/v2 sub/app:1", "!https://a.b.example.com:5000/v2 app:1+push"],
        ),
        (
            "a.deep.example.com/app:1",
            &["https://deep.test/v2 app:1", "https://a.deep.example.com/v2 app:1=push"],
        ),
        ("own.example.com/app:1", &["https://own.example.com/v2 app:1+push"]),
        ("example.com/app:1", &["https://example.com/v2 app:1+push"]),
        ("aexample.com/app:1", &["https://aexample.com/v2 app:1+push"]),
        ("a.example.com.evil.test/app:1", &["https://a.example.com.evil.test/v2 app:1+push"]),
        ("evil.test/a.example.com/app:1", &["https://evil.test/v2 a.example.com/app:1+push"]),
    ] {
        check(&[file], name, expected);
    }
}

#[test]
fn mirrors_come_first_for_the_names_that_they_are_for() {
    let with = |registry: &str, [one, two, three]: [&str; 3]| {
        format!(
            "[[registry]]\nlocation = 'r.test'\n{registry}
             [[registry.mirror]]\nlocation = 'one.test/r'\n{one}
             [[registry.mirror]]\nlocation = 'two.test:5000'\ninsecure = true\n{two}
             [[registry.mirror]]\nlocation = 'localhost:5001/x/'\n{three}"
        )
    };
    let one = |object: &str| format!("https://one.test/v2 r/app:{object}");
    let two = |object: &str| format!("!https://two.test:5000/v2 app:{object}");
    let three = |object: &str| format!("http://localhost:5001/v2 x/app:{object}");
    let own = |object: &str| format!("https://r.test/v2 app:{object}+push");
    let (all, digest, tag) = (
        "pull-from-mirror = 'all'",
        "pull-from-mirror = 'digest-only'",
        "pull-from-mirror = 'tag-only'",
    );
    for (file, tagged, pinned) in [
        // In the order of the file, and the registry itself last.
        (with("", ["", "", ""]), "123r", "123r"),
        (with("", [all, "pull-from-mirror = ''", all]), "123r", "123r"),
        (with("mirror-by-digest-only = true", ["", "", ""]), "r", "123r"),
        (with("mirror-by-digest-only = false", [digest, tag, all]), "23r", "13r"),
        (with("", [digest, digest, digest]), "r", "123r"),
        (with("", [tag, tag, tag]), "123r", "r"),
    ] {
        for (name, object, expected) in
            [("r.test/app:1", "1", tagged), ("r.test/app@D", "@D", pinned)]
        {
            let expected: Vec<_> = expected
                .chars()
                .map(|who| match who {
                    '1' => one(object),
                    '2' => two(object),
                    '3' => three(object),
                    _ => own(object),
                })
                .collect();
            let expected: Vec<_> = expected.iter().map(String::as_str).collect();
            check(&[&file], name, &expected);
        }
    }
}

#[test]
fn what_is_blocked_is_refused_whatever_else_is_said() {
    let file = "
        [[registry]]
        location = 'r.test'
        [[registry.mirror]]
        location = 'bad.test/r'
        [[registry.mirror]]
        location = 'good.test/r'
        [[registry]]
        location = 'bad.test'
        blocked = true
        [[registry]]
        prefix = 'r.test/secret'
        location = 'r.test/secret'
        blocked = true
        [[registry]]
        prefix = '*.evil.test'
        blocked = true
    ";
    let files = Files::new(&[file]);
    for (name, refused) in [
        ("bad.test/app:1", true),
        ("r.test/secret:1", true),
        ("r.test/secret/app:1", true),
        ("a.evil.test:5000/app:1", true),
        ("r.test/secrets:1", false),
        ("evil.test/app:1", false),
    ] {
        match files.read(name) {
            Ok(_) => assert!(!refused, "{name}"),
            Err(error) => {
                assert!(refused, "{name}: {error}");
                assert_eq!(error.kind(), ErrorKind::Denied);
                assert!(error.to_string().contains("main.conf"), "{error}");
            }
        }
    }
    // Nor is a blocked place asked on the way.
    check(
        &[file],
        "r.test/app:1",
        &["https://good.test/v2 r/app:1", "https://r.test/v2 app:1+push"],
    );
    // A directory of hosts does not open what is blocked.
    let hosts = tempfile::tempdir().unwrap();
    fs_err::create_dir(hosts.path().join("bad.test")).unwrap();
    fs_err::write(hosts.path().join("bad.test/hosts.toml"), "server = 'https://x.test'").unwrap();
    let options = RegistryOptions { hosts_dirs: vec![hosts.path().to_owned()], ..files.options() };
    let blocked = Reference::parse("bad.test/app:1").unwrap();
    assert_eq!(options.hosts(&blocked).unwrap_err().kind(), ErrorKind::Denied);
}

#[test]
fn later_files_replace_what_earlier_ones_say() {
    let main = "
        unqualified-search-registries = ['a.test', 'b.test']
        short-name-mode = 'enforcing'
        [[registry]]
        location = 'r.test'
        insecure = true
        [[registry]]
        location = 's.test'
        insecure = true
        [aliases]
        'one' = 'r.test/one'
        'two' = 'r.test/two'
    ";
    let first = "
        unqualified-search-registries = ['c.test']
        [[registry]]
        prefix = 'r.test'
        location = 'other.test'
        [aliases]
        'one' = 'c.test/one'
    ";
    let second = "
        [[registry]]
        location = 't.test'
        insecure = true
        [aliases]
        'two' = ''
    ";
    let texts = [main, first, second];
    check(&texts, "r.test/app:1", &["https://other.test/v2 app:1", "https://r.test/v2 app:1=push"]);
    check(&texts, "s.test/app:1", &["!https://s.test/v2 app:1+push"]);
    check(&texts, "t.test/app:1", &["!https://t.test/v2 app:1+push"]);
    let files = Files::new(&texts);
    for (text, meant) in [
        ("one:1", &["c.test/one:1"][..]),
        ("two", &["c.test/two:latest"]),
        ("r.test/two", &["r.test/two:latest"]),
    ] {
        assert_eq!(files.meant(text), meant, "{text}");
    }
    assert_eq!(files.options().meant("two").unwrap().mode, ShortNameMode::Enforcing);
    // Of one prefix in one file, the first table counts; other files than *.conf do not.
    let twice = "[[registry]]\nprefix='r.test'\nlocation='x.test'\n
                 [[registry]]\nprefix='r.test'\nlocation='y.test'";
    check(&[twice], "r.test/a:1", &["https://x.test/v2 a:1", "https://r.test/v2 a:1=push"]);
    fs_err::write(files.0.path().join("d/3.txt"), "nonsense").unwrap();
    assert!(files.read("r.test/app:1").is_ok());
}

#[test]
fn short_names_have_aliases_or_are_looked_for() {
    let files = Files::new(&["
        unqualified-search-registries = ['a.test', 'docker.io', 'b.test:5000']
        [aliases]
        'fedora' = 'registry.test/fedora/fedora'
        'team/app' = 'r.test/app'
    "]);
    for (text, meant) in [
        ("fedora", &["registry.test/fedora/fedora:latest"][..]),
        ("fedora:39", &["registry.test/fedora/fedora:39"]),
        ("team/app:1", &["r.test/app:1"]),
        ("app", &["a.test/app:latest", "docker.io/library/app:latest", "b.test:5000/app:latest"]),
        ("x/app:1", &["a.test/x/app:1", "docker.io/x/app:1", "b.test:5000/x/app:1"]),
        ("c.test/fedora:1", &["c.test/fedora:1"]),
        ("localhost/fedora:1", &["localhost/fedora:1"]),
    ] {
        assert_eq!(files.meant(text), meant, "{text}");
    }
    let pinned = files.meant(&format!("fedora@{DIGEST}"));
    assert_eq!(pinned, [format!("registry.test/fedora/fedora@{DIGEST}")]);
    // Without a word about it, a short name is docker's.
    assert_eq!(Files::new(&[""]).meant("app"), ["docker.io/library/app:latest"]);
    for (text, mode) in [
        ("", ShortNameMode::Permissive),
        ("short-name-mode = ''", ShortNameMode::Permissive),
        ("short-name-mode = 'permissive'", ShortNameMode::Permissive),
        ("short-name-mode = 'enforcing'", ShortNameMode::Enforcing),
        ("short-name-mode = 'disabled'", ShortNameMode::Disabled),
    ] {
        let text = format!("unqualified-search-registries = ['a.test', 'b.test']\n{text}");
        let meant = Files::new(&[&text]).options().meant("app").unwrap();
        assert_eq!((meant.names.len(), meant.mode), (2, mode), "{text}");
    }
}

#[test]
fn what_is_malformed_or_unknown_is_refused_with_the_file() {
    let table = |text: &str| format!("[[registry]]\nlocation = 'r.test'\n{text}");
    for text in [
        table("insecure = 'yes'"),
        table("blocked = 1"),
        table("mirror-by-digest-only = 'true'"),
        table("mirror = ['m.test']"),
        table("block = true"),
        table("pull-from-mirror = 'all'"),
        table("[[registry.mirror]]\ninsecure = true"),
        table("[[registry.mirror]]\nlocation = 'm.test'\npull-from-mirror = 'sometimes'"),
        table("[[registry.mirror]]\nlocation = 'm.test'\nblocked = true"),
        table(
            "mirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'm.test'\npull-from-mirror = 'all'",
        ),
        table("insecure = true\n[[registry]]\nprefix = 'x.test'\nlocation = 'r.test'"),
        table("blocked = true\n[[registry]]\nprefix = 'x.test'\nlocation = 'r.test'"),
        "[[registry]]\nlocation = 'https://r.test'".to_owned(),
        "[[registry]]\ninsecure = true".to_owned(),
        "[[registry]]\nprefix = 'r.test'".to_owned(),
        "[[registry]]\nprefix = '*.r.test/x'\nlocation = 'm.test'".to_owned(),
        "[[registry]]\nprefix = '*.r.test:5000'".to_owned(),
        "[[registry]]\nprefix = 'r.*.test'\nlocation = 'm.test'".to_owned(),
        "[registry]\nlocation = 'r.test'".to_owned(),
        "unqualified-search-registries = 'r.test'".to_owned(),
        "unqualified-search-registries = ['r.test/x']".to_owned(),
        "short-name-mode = 'guess'".to_owned(),
        "[aliases]\n'app:1' = 'r.test/app'".to_owned(),
        "[aliases]\n'r.test/app' = 'r.test/app'".to_owned(),
        "[aliases]\n'localhost/app' = 'r.test/app'".to_owned(),
        "[aliases]\n'app' = 'r.test/app:1'".to_owned(),
        "[aliases]\n'app' = 'other'".to_owned(),
        "[aliases]\n'app' = 'a.test/b'\n'app' = 'a.test/c'".to_owned(),
        "unknown = 1".to_owned(),
        "[[registry".to_owned(),
    ] {
        let Err(error) = Files::new(&[&text]).read("r.test/app:1") else { panic!("{text}") };
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        assert!(error.to_string().contains("main.conf"), "{error}");
        // A file of the directory is none the laxer.
        assert!(Files::new(&["", &text]).read("r.test/app:1").is_err(), "{text}");
    }
    let old = Files::new(&["[registries.search]\nregistries = ['r.test']"]);
    let error = old.read("r.test/app:1").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("version 2"), "{error}");
    let empty = Files::new(&["[registries.search]\nregistries = []"]);
    assert!(empty.read("r.test/app:1").is_ok());
    // A location that is no host is found out when it is needed.
    let nowhere = Files::new(&["[[registry]]\nprefix = 'r.test'\nlocation = 'nowhere'"]);
    assert_eq!(nowhere.read("r.test/a:1").unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(nowhere.read("s.test/a:1").is_ok());
    // A file that was asked for must be there.
    let mut options = old.options();
    options.registries_conf.main = Some("/nowhere/registries.conf".into());
    let reference = Reference::parse("r.test/a:1").unwrap();
    assert!(options.hosts(&reference).is_ok());
    options.registries_conf.required = true;
    assert_eq!(options.hosts(&reference).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn of_a_registry_as_a_whole_only_wholes_are_mirrors() {
    let files = Files::new(&["
        [[registry]]
        location = 'r.test'
        [[registry.mirror]]
        location = 'part.test/of'
        [[registry.mirror]]
        location = 'whole.test'
    "]);
    let hosts = files.options().registry_hosts("r.test").unwrap();
    let shown: Vec<_> = hosts.hosts.iter().map(|host| hosts.address(host, false)).collect();
    assert_eq!(shown, ["https://whole.test/v2", "https://r.test/v2"]);
}

#[test]
fn of_both_families_a_hosts_toml_counts_and_certificates_come_from_each() {
    let files = Files::new(&["
        [[registry]]
        location = 'r.test'
        [[registry.mirror]]
        location = 'm.test'
    "]);
    let (hosts, certs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |dir: &tempfile::TempDir, path: &str, text: &str| {
        let path = dir.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    };
    let options = RegistryOptions {
        hosts_dirs: vec![hosts.path().to_owned()],
        certs_dirs: vec![certs.path().to_owned()],
        ..files.options()
    };
    let read = || options.hosts(&Reference::parse("r.test/app:1").unwrap()).unwrap();
    let addresses = || {
        let read = read();
        read.hosts.iter().map(|host| read.address(host, false)).collect::<Vec<_>>()
    };
    // Certificates alone say nothing about hosts, and each host has its own.
    write(&certs, "m.test/ca.crt", "");
    write(&certs, "m.test/me.cert", "");
    write(&certs, "m.test/me.key", "");
    write(&hosts, "r.test/docker.crt", "");
    assert_eq!(addresses(), ["https://m.test/v2", "https://r.test/v2"]);
    let mirror = &read().hosts[0];
    assert_eq!(mirror.ca_certs, [certs.path().join("m.test/ca.crt")]);
    assert_eq!(mirror.client_certs[0].key, certs.path().join("m.test/me.key"));
    assert_eq!(read().hosts[1].ca_certs, [hosts.path().join("r.test/docker.crt")]);
    assert!(read().source.unwrap().ends_with("main.conf"));
    // A hosts.toml, that of all registries too, counts before registries.conf.
    write(&hosts, "_default/hosts.toml", "[host.'https://d.test']");
    assert_eq!(addresses(), ["https://m.test/v2", "https://r.test/v2"]);
    write(&hosts, "r.test/hosts.toml", "[host.'https://h.test']");
    assert_eq!(addresses(), ["https://h.test/v2", "https://r.test/v2"]);
    let other = options.hosts(&Reference::parse("s.test/app:1").unwrap()).unwrap();
    assert_eq!(other.address(&other.hosts[0], false), "https://d.test/v2");
}
