//! containerd's documentation of hosts.toml as tables: files, a registry, and who is asked for what.

use super::*;
use crate::RegistryOptions;
use crate::host::RegistryHosts;

struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Writes a file below the root.
    fn write(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
        self
    }

    fn hosts(&self, name: &str) -> Result<RegistryHosts> {
        let hosts_dirs = vec![self.0.path().to_owned()];
        RegistryOptions { hosts_dirs, ..RegistryOptions::default() }.registry_hosts(name)
    }
}

fn read_text(name: &str, text: &str) -> Result<RegistryHosts> {
    let dir = name.replace(":5000", "_5000_");
    Root::new().write(&format!("{dir}/hosts.toml"), text).hosts(name)
}

fn addresses(hosts: &RegistryHosts) -> Vec<String> {
    hosts.hosts.iter().map(|host| hosts.address(host, false)).collect()
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_comes_last() {
    for (name, text, expected) in [
        ("r.test", "", &["https://r.test/v2"][..]),
        ("docker.io", "", &["https://registry-1.docker.io/v2"]),
        ("localhost:5000", "skip_verify = true", &["http://localhost:5000/v2"]),
        (
            "r.test",
            "server = 'https://up.test'\n[host.'https://z.test']\n[host.'http://a.test:1']\n[host.'m.test']",
            &["https://z.test/v2", "http://a.test:1/v2", "https://m.test/v2", "https://up.test/v2"],
        ),
        ("r.test", "[host.'https://z.test']", &["https://z.test/v2", "https://r.test/v2"]),
        // A path gets /v2 unless it has it, or replaces it.
        (
            "r.test",
            "[host.'https://a.test/cache/']\n[host.'https://b.test/x/v2']\n[host.'https://c.test/api/docker']\noverride_path = true",
            &[
                "https://a.test/cache/v2",
                "https://b.test/x/v2",
                "https://c.test/api/docker",
                "https://r.test/v2",
            ],
        ),
        // Docker's registry has another name than its host.
        ("docker.io", "server = 'https://docker.io'", &["https://registry-1.docker.io/v2"]),
        ("r.test", "server = ''", &["https://r.test/v2"]),
    ] {
        assert_eq!(addresses(&read_text(name, text).unwrap()), expected, "{text}");
    }
}

#[test]
fn every_setting_is_about_its_own_host() {
    let text = r#"
        server = "https://r.test:5000"
        ca = "own.pem"
        skip_verify = false
        [host."http://mirror.test"]
        capabilities = ["pull"]
        ca = ["a.pem", "/b.pem"]
        client = [["/c.cert", "c.key"], ["both.pem", ""]]
        skip_verify = true
        dial_timeout = "1m1.5s"
        [host."http://mirror.test".header]
        x-one = "1"
        x-two = ["2", "3"]
        [host."https://other.test"]
        client = ["one.pem", "two.pem"]
        capabilities = ["push", "referrers"]
        [host."https://third.test"]
        client = "one.pem"
        capabilities = []
    "#;
    let read = read_text("r.test:5000", text).unwrap();
    let dir = read.source.as_deref().unwrap().parent().unwrap();
    assert!(dir.ends_with("r.test_5000_"));
    let cert = |cert: &str, key: &str| ClientCert { cert: dir.join(cert), key: dir.join(key) };
    let [mirror, other, third, own] = read.hosts.as_slice() else { panic!("{read:?}") };
    assert_eq!(mirror.capabilities.names(), ["pull"]);
    assert_eq!(mirror.ca_certs, [dir.join("a.pem"), "/b.pem".into()]);
    assert_eq!(mirror.client_certs, [cert("/c.cert", "c.key"), cert("both.pem", "both.pem")]);
    assert_eq!(mirror.insecure, Some(true));
    assert_eq!(mirror.connect_timeout, Some(Duration::from_millis(61_500)));
    assert_eq!(mirror.headers.get_all("x-two").iter().count(), 2);
    assert_eq!(mirror.headers["x-one"], HeaderValue::from_static("1"));
    assert_eq!(other.client_certs.len(), 2);
    assert_eq!(other.capabilities.names(), ["push", "referrers"]);
    assert_eq!(third.client_certs, [cert("one.pem", "one.pem")]);
    assert_eq!(third.capabilities, Capabilities::ALL);
    assert_eq!((own.insecure, &own.ca_certs), (Some(false), &vec![dir.join("own.pem")]));
    assert!(own.headers.is_empty() && own.capabilities == Capabilities::ALL);
    assert!(read.is_mirror(mirror) && read.is_mirror(other) && !read.is_mirror(own));
}

#[test]
fn what_nobody_knows_is_refused_and_so_is_nonsense() {
    for (text, kind) in [
        ("stargz = true", ErrorKind::Unsupported),
        ("[host.'https://a.test']\nlocation = 'b'", ErrorKind::Unsupported),
        ("server = 'ftp://r.test'", ErrorKind::InvalidArgument),
        ("server = 'https://u:p@r.test'", ErrorKind::InvalidArgument),
        ("server = 1", ErrorKind::InvalidArgument),
        ("host = 'https://r.test'", ErrorKind::InvalidArgument),
        ("[host.'https://']", ErrorKind::InvalidArgument),
        ("capabilities = ['fly']", ErrorKind::InvalidArgument),
        ("skip_verify = 'yes'", ErrorKind::InvalidArgument),
        ("override_path = 1", ErrorKind::InvalidArgument),
        ("ca = 1", ErrorKind::InvalidArgument),
        ("client = [['a', 'b', 'c']]", ErrorKind::InvalidArgument),
        ("dial_timeout = 'soon'", ErrorKind::InvalidArgument),
        ("dial_timeout = '10'", ErrorKind::InvalidArgument),
        ("dial_timeout = '0s'", ErrorKind::InvalidArgument),
        ("header = { 'a b' = 'c' }", ErrorKind::InvalidArgument),
        ("server =", ErrorKind::InvalidArgument),
    ] {
        let error = read_text("r.test", text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
    }
}

#[test]
fn the_most_exact_directory_counts() {
    let root = Root::new();
    let insecure = |name: &str| root.hosts(name).unwrap().hosts[0].insecure;
    assert_eq!(insecure("r.test:5000"), None);
    root.write("_default/hosts.toml", "skip_verify = true");
    assert_eq!(insecure("r.test:5000"), Some(true));
    assert_eq!(insecure("docker.io"), Some(true));
    root.write("r.test:5000/hosts.toml", "skip_verify = false");
    assert_eq!(insecure("r.test:5000"), Some(false));
    root.write("r.test_5000_/hosts.toml", "ca = 'x'");
    assert_eq!(insecure("r.test:5000"), None);
    assert_eq!(insecure("r.test"), Some(true));
}

#[test]
fn certificates_lie_where_there_are_no_settings() {
    let root = Root::new();
    root.write("_default/a.crt", "").write("_default/notes.txt", "");
    let read = root.hosts("r.test").unwrap();
    assert_eq!(read.hosts[0].ca_certs, [root.0.path().join("_default/a.crt")]);
    assert_eq!(read.source, Some(root.0.path().join("_default")));
    root.write("_default/b.key", "");
    assert_eq!(root.hosts("r.test").unwrap_err().kind(), ErrorKind::InvalidArgument);
    root.write("_default/b.cert", "");
    assert_eq!(root.hosts("r.test").unwrap().hosts[0].client_certs.len(), 1);
}

/// The hosts that are asked for something, in their order: `pull` is content by digest, `resolve` a tag
/// or a list, `push` what is sent or deleted, `referrers` what refers to an image.
fn asked(text: &str, operation: &str) -> Vec<String> {
    let known = crate::route::Known::default();
    let transport = std::sync::Arc::new(crate::transport::Transport::new(Default::default()));
    let reference = dist_core::Reference::parse("r.test/app:1").unwrap();
    let hosts = read_text("r.test", text).unwrap();
    let route = crate::route::Route::new(hosts, Some(&reference), &known, &transport).unwrap();
    let stops = match operation {
        "pull" => route.pulling(),
        "resolve" => route.resolving(),
        "push" => route.pushing().map(|stop| vec![stop]),
        _ => Ok(route.referring()),
    };
    match stops {
        Ok(stops) => stops.iter().map(|stop| stop.registry.name().to_owned()).collect(),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition, "{text}");
            vec!["refused".to_owned()]
        }
    }
}

#[test]
fn each_host_is_asked_for_what_it_is_capable_of() {
    let two = |first: &str, second: &str, server: &str| {
        format!("{server}\n[host.'https://a.test']\n{first}\n[host.'http://b.test:5000']\n{second}")
    };
    let can = |what: &str| format!("capabilities = [{what}]");
    let (all, a, b, r) = ("", "a.test", "b.test:5000", "r.test");
    for (text, pull, resolve, push, referrers) in [
        // Without a file's word, the registry alone.
        (String::new(), &[r][..], &[r][..], &[r][..], &[r][..]),
        // In the order of the file; without capabilities, for everything.
        (two(all, all, ""), &[a, b, r], &[a, b, r], &[a], &[a, b, r]),
        (two(&can(""), all, ""), &[a, b, r], &[a, b, r], &[a], &[a, b, r]),
        (two(&can("'pull', 'resolve'"), &can("'PULL'"), ""), &[a, b, r], &[a, r], &[r], &[r]),
        // A host that only resolves has nothing to resolve to.
        (two(&can("'resolve'"), &can("'push'"), ""), &[r], &[r], &[b], &[r]),
        (two(&can("'pull', 'referrers'"), all, ""), &[a, b, r], &[b, r], &[b], &[a, b, r]),
        // What stands before the first section is about the server.
        (
            two(
                &can("'pull'"),
                &can("'pull'"),
                "server = 'https://r.test'\ncapabilities = ['push']",
            ),
            &[a, b],
            &["refused"],
            &[r],
            &[],
        ),
        (
            two(&can("'pull', 'resolve'"), &can("'pull'"), "server = 'https://up.test'"),
            &[a, b, "up.test"],
            &[a, "up.test"],
            &["up.test"],
            &["up.test"],
        ),
        ("capabilities = ['pull', 'resolve']".to_owned(), &[r], &[r], &["refused"], &[]),
    ] {
        assert_eq!(asked(&text, "pull"), pull, "pull: {text}");
        assert_eq!(asked(&text, "resolve"), resolve, "resolve: {text}");
        assert_eq!(asked(&text, "push"), push, "push: {text}");
        assert_eq!(asked(&text, "referrers"), referrers, "referrers: {text}");
    }
}
