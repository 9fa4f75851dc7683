use super::*;
use clap::Parser;

fn resolve(line: &[&str], environment: Environment, is_root: bool) -> Result<Config> {
    let line = ["dist", "version"].iter().chain(line);
    let args = Args::try_parse_from(line).unwrap();
    let files = Environment { dist_config: Some("/dev/null".into()), ..environment };
    let (config, _) = Config::new(&args, files, Terminal::new(true, false), is_root)?;
    config.registry.check().map(|()| config)
}

#[test]
fn flags_then_environment_then_defaults() {
    let full = || Environment {
        dist_root: Some("/env".into()),
        containerd_namespace: Some("k8s.io".into()),
        home: Some("/home/u".into()),
        ..Environment::default()
    };
    let config = resolve(&["--root", "/flag", "-n", "mine"], full(), false).unwrap();
    assert_eq!(config.root().unwrap(), Path::new("/flag"));
    assert_eq!(config.namespace.as_str(), "mine");
    let config = resolve(&[], full(), true).unwrap();
    assert_eq!(config.root().unwrap(), Path::new("/env"));
    assert_eq!(config.namespace.as_str(), "k8s.io");
    let home = Environment { home: Some("/home/u".into()), ..Environment::default() };
    let config = resolve(&[], home, false).unwrap();
    assert_eq!(config.root().unwrap(), Path::new("/home/u/.local/share/dist"));
    let config = resolve(&[], Environment::default(), true).unwrap();
    assert_eq!(config.root().unwrap(), Path::new("/var/lib/dist"));
    assert_eq!(config.namespace.as_str(), "default");
}

#[test]
fn without_a_home_only_what_needs_the_root_fails() {
    let config = resolve(&[], Environment::default(), false).unwrap();
    assert_eq!(config.root().unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[test]
fn certificates_are_looked_at_whatever_is_spoken() {
    let files = tempfile::tempdir().unwrap();
    let empty = files.path().join("empty.pem");
    fs_err::write(&empty, "").unwrap();
    for path in [empty.to_str().unwrap(), "/nonexistent"] {
        let line = ["--plain-http", "--tls-ca-cert", path];
        let error = resolve(&line, Environment::default(), true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains(path), "{error}");
    }
}

#[test]
fn a_bad_environment_is_a_usage_error() {
    let environment =
        Environment { containerd_namespace: Some("../x".into()), ..Environment::default() };
    let error = resolve(&[], environment, true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

/// What `dist config show` says of `key`: value and origin.
fn shown(config: &Config, key: &str) -> (String, String) {
    let row = config.rows().iter().find(|row| row.key == key);
    let row = row.unwrap_or_else(|| panic!("no {key}"));
    (row.value.to_string(), row.from.clone())
}

#[test]
fn each_source_is_beaten_by_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dist.toml");
    let text = r#"
        root = "/file"
        namespace = "file"
        durability = "full"
        [network]
        retries = 7
        stall_timeout = "3s"
        [daemon]
        address = "/file.sock"
        mode = "0600"
    "#;
    fs_err::write(&path, text).unwrap();
    let file = path.to_str().unwrap();
    let new = |line: &[&str], environment| {
        let line = ["dist", "--config-file", file].into_iter().chain(line.iter().copied());
        let args = Args::try_parse_from(line).unwrap();
        Config::new(&args, environment, Terminal::new(true, false), true).unwrap().0
    };
    let variables = || Environment {
        dist_root: Some("/variable".into()),
        containerd_address: Some("/variable.sock".into()),
        ..Environment::default()
    };
    let flags = ["--root", "/flag", "--retries", "1", "--address", "/flag.sock", "daemon"];
    for (line, environment, key, value, from) in [
        (&flags[..], variables(), "root", "\"/flag\"", "flag"),
        (&["version"], variables(), "root", "\"/variable\"", "DIST_ROOT"),
        (&["version"], Environment::default(), "root", "\"/file\"", file),
        (&["version"], variables(), "namespace", "\"file\"", file),
        (&["version"], variables(), "durability", "\"full\"", file),
        (&["version"], variables(), "network.stall_timeout", "\"3s\"", file),
        (&["version"], variables(), "network.connect_timeout", "\"10s\"", "default"),
        (&flags, variables(), "network.retries", "1", "flag"),
        (&["version"], variables(), "network.retries", "7", file),
        (&flags, variables(), "daemon.address", "\"/flag.sock\"", "flag"),
        (&flags, variables(), "daemon.backend_address", "\"/backend.sock\"", "default"),
        (&["daemon"], variables(), "daemon.address", "\"/file.sock\"", file),
        (&["daemon"], variables(), "daemon.mode", "\"0600\"", file),
        (&["daemon"], variables(), "daemon.group", "null", "default"),
        (&["--debug", "daemon"], variables(), "daemon.log_level", "\"debug\"", "flag"),
        (&["daemon"], variables(), "daemon.log_level", "\"info\"", "default"),
    ] {
        let config = new(line, environment);
        assert_eq!(shown(&config, key), (value.to_owned(), from.to_owned()), "{line:?} {key}");
    }
}

#[test]
fn a_file_that_was_asked_for_must_be_there() {
    let args = Args::try_parse_from(["dist", "--config-file", "/no/such", "version"]).unwrap();
    let new = |environment| Config::new(&args, environment, Terminal::new(true, false), true);
    let error = new(Environment::default()).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
}

#[test]
fn a_daemon_or_a_directory() {
    let both = ["--root", "/r", "--address", "/s"];
    let error = resolve(&both, Environment::default(), true).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    let variable =
        || Environment { containerd_address: Some("/s".into()), ..Environment::default() };
    assert_eq!(resolve(&[], variable(), true).unwrap().address.as_deref(), Some("/s"));
    assert_eq!(resolve(&["--root", "/r"], variable(), true).unwrap().address, None);
}
