use serde_json::{Value, json};

use super::*;

fn host() -> HostFacts {
    HostFacts {
        architecture: "amd64".into(),
        cgroup2: true,
        capabilities: Capability::up_to(40).collect(),
        most_files: 4096,
        user_namespace: None,
        cgroups: true,
        devices: Vec::new(),
    }
}

fn image() -> ImageSettings {
    let config = json!({
        "os": "linux", "architecture": "arm64", "variant": "v8", "os.version": "10",
        "os.features": ["a", "b"], "author": "me", "created": "2024-01-01T00:00:00Z",
        "config": {
            "User": "redis", "ExposedPorts": {"6379/tcp": {}, "53/udp": {}},
            "Env": ["A=1", "B=2"], "Entrypoint": ["redis-server"], "Cmd": ["--port", "1"],
            "Volumes": {"/data": {}, "/data/deep/er": {}, "/": {}}, "WorkingDir": "/var/lib/redis",
            "StopSignal": "SIGINT",
            "Labels": {"a": "b", "org.opencontainers.image.author": "you", "run.oci.hooks": "x"},
        },
    });
    ImageSettings::parse(config.to_string().as_bytes()).unwrap()
}

fn spec(options: &SpecOptions) -> Value {
    serde_json::to_value(convert(&image(), options, &host()).unwrap().spec).unwrap()
}

/// Destination and source of each mount of ours.
fn binds(spec: &Value) -> Vec<(&str, &str)> {
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let binds = mounts.filter(|mount| mount["type"] == "bind");
    binds.map(|m| (m["destination"].as_str().unwrap(), m["source"].as_str().unwrap())).collect()
}

#[test]
fn fields_are_taken_as_they_are() {
    let spec = spec(&SpecOptions::default());
    assert_eq!(spec["process"]["args"], json!(["redis-server", "--port", "1"]));
    assert_eq!(spec["process"]["cwd"], "/var/lib/redis");
    assert_eq!(spec["process"]["env"], json!([PATH, "A=1", "B=2"]));
    assert_eq!(spec["process"]["noNewPrivileges"], true);
    assert_eq!(spec["root"], json!({"path": "rootfs"}));
    let image = "org.opencontainers.image";
    assert_eq!(
        spec["annotations"],
        json!({
            "a": "b",
            format!("{image}.os"): "linux",
            format!("{image}.architecture"): "arm64",
            format!("{image}.variant"): "v8",
            format!("{image}.os.version"): "10",
            format!("{image}.os.features"): "a,b",
            format!("{image}.author"): "you",
            format!("{image}.created"): "2024-01-01T00:00:00Z",
            format!("{image}.stopSignal"): "SIGINT",
            format!("{image}.exposedPorts"): "53/udp,6379/tcp",
        })
    );
    let converted = convert(&self::image(), &SpecOptions::default(), &host()).unwrap();
    assert_eq!(converted.omitted, ["run.oci.hooks"]);
    assert_eq!(converted.volumes, ["/data", "/data/deep/er"]);
}

#[test]
fn commands() {
    let of = |entrypoint: Option<&[&str]>, args: &[&str], init: bool| {
        let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let options = SpecOptions {
            entrypoint: entrypoint.map(owned),
            args: owned(args),
            init: init.then(|| "/usr/bin/tini-static".into()),
            ..SpecOptions::default()
        };
        convert(&image(), &options, &host()).map(|converted| converted.spec.process.args.join(" "))
    };
    assert_eq!(of(None, &["-h"], false).unwrap(), "redis-server -h");
    assert_eq!(of(Some(&["sh"]), &[], false).unwrap(), "sh");
    assert_eq!(of(Some(&["sh"]), &["-c", "x"], false).unwrap(), "sh -c x");
    assert_eq!(of(Some(&[""]), &["ls"], false).unwrap(), "ls");
    assert_eq!(of(None, &[], true).unwrap(), "/sbin/docker-init -- redis-server --port 1");
    for init in [false, true] {
        assert_eq!(of(Some(&[""]), &[], init).unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn variables_of_the_caller_win_and_defaults_lose() {
    let options = SpecOptions {
        env: ["B=3", "C=4", "PATH=/bin", "HOME=/h"].map(Into::into).into(),
        terminal: true,
        hostname: Some("box".into()),
        ..SpecOptions::default()
    };
    let env = spec(&options)["process"]["env"].clone();
    let wanted = ["TERM=xterm", "HOSTNAME=box", "A=1", "B=3", "C=4", "PATH=/bin", "HOME=/h"]
        .map(Value::from);
    assert_eq!(env, json!(wanted));
}

#[test]
fn mounts_come_after_what_they_lie_in() {
    let options = SpecOptions {
        mounts: vec![
            Mount::bind("/srv", "/data/deep", true),
            Mount::bind("/my/hosts", "/etc/hosts", false),
        ],
        ..SpecOptions::default()
    };
    let spec = spec(&options);
    assert_eq!(
        binds(&spec),
        [
            ("/data", "volumes/0"),
            ("/etc/resolv.conf", "etc/resolv.conf"),
            ("/etc/hostname", "etc/hostname"),
            ("/data/deep", "/srv"),
            ("/etc/hosts", "/my/hosts"),
            ("/data/deep/er", "volumes/1"),
        ]
    );
}

#[test]
fn a_container_is_shut_in_unless_it_is_privileged() {
    let plain = spec(&SpecOptions::default());
    assert_eq!(plain["linux"]["resources"]["devices"], json!([{"allow": false, "access": "rwm"}]));
    assert!(plain["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    assert_eq!(plain["linux"]["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    assert_eq!(plain["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 14);
    let privileged = spec(&SpecOptions { privileged: true, ..SpecOptions::default() });
    assert_eq!(privileged["linux"]["resources"]["devices"][0]["allow"], true);
    assert_eq!(privileged["linux"]["seccomp"], Value::Null);
    assert_eq!(privileged["linux"]["maskedPaths"], Value::Null);
    assert_eq!(privileged["process"]["noNewPrivileges"], false);
    assert_eq!(privileged["process"]["capabilities"]["bounding"].as_array().unwrap().len(), 41);
}

#[test]
fn capabilities_are_added_and_dropped_but_never_invented() {
    let set = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let options = SpecOptions {
        cap_add: set(&["NET_ADMIN", "SYS_ADMIN"]),
        cap_drop: set(&["CHOWN"]),
        ..SpecOptions::default()
    };
    let mut host = host();
    host.capabilities.remove(&"SYS_ADMIN".parse().unwrap());
    let spec = convert(&image(), &options, &host).unwrap().spec;
    let names: Vec<_> = spec.process.capabilities.bounding.iter().map(|c| c.name()).collect();
    assert!(names.contains(&"NET_ADMIN") && names.len() == 14, "{names:?}");
    assert!(!names.contains(&"CHOWN") && !names.contains(&"SYS_ADMIN"));
}

#[test]
fn both_versions_of_cgroups() {
    let kinds = |spec: &Spec| spec.linux.namespaces.iter().map(|n| n.kind).collect::<Vec<_>>();
    let has = |spec: &Spec| spec.mounts.iter().any(|mount| mount.kind == "cgroup");
    let second = convert(&image(), &SpecOptions::default(), &host()).unwrap().spec;
    let first = HostFacts { cgroup2: false, ..host() };
    let options = SpecOptions { network: Network::None, ..SpecOptions::default() };
    let first = convert(&image(), &options, &first).unwrap().spec;
    assert_eq!(kinds(&second), ["pid", "ipc", "uts", "mount", "cgroup"]);
    assert_eq!(kinds(&first), ["pid", "ipc", "uts", "mount", "network"]);
    assert!(has(&second) && !has(&first));
}

#[test]
fn what_an_ordinary_user_can_have() {
    let one = crate::UserNamespace::parse("0 1000 1", "0 1000 1");
    let guest = HostFacts { cgroup2: false, user_namespace: one, cgroups: false, ..host() };
    let root = User::default();
    let plain = SpecOptions {
        user: root.clone(),
        cgroups_path: Some("/x".into()),
        privileged: true,
        ..SpecOptions::default()
    };
    let spec = convert(&image(), &plain, &guest).unwrap().spec;
    assert_eq!(spec.linux.cgroups_path, None);
    let of = |spec: &Spec, path: &str| {
        let mut at = spec.mounts.iter().filter(|mount| mount.destination == path);
        at.next().map(|mount| (mount.kind.clone(), mount.options.join(",")))
    };
    assert_eq!(of(&spec, "/sys").unwrap().0, "bind");
    assert_eq!(of(&spec, "/sys/fs/cgroup").unwrap().0, "tmpfs");
    assert!(!of(&spec, "/dev/pts").unwrap().1.contains("gid="));
    let alone = SpecOptions { network: Network::None, ..plain.clone() };
    let spec = convert(&image(), &alone, &guest).unwrap().spec;
    assert_eq!(of(&spec, "/sys").unwrap().0, "sysfs");
    assert_eq!(of(&spec, "/sys/fs/cgroup"), None);

    let resources = Resources { pids: Some(5), ..Resources::default() };
    let limited = SpecOptions { resources, ..plain.clone() };
    let other = SpecOptions { user: User { uid: 5, ..root }, ..plain };
    for (options, part) in [(limited, "can make no cgroups"), (other, "run as user 5")] {
        let error = convert(&image(), &options, &guest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn limits() {
    let of = |memory, cpus, pids| {
        let resources = Resources { memory, cpus, pids };
        let options = SpecOptions { resources, ..SpecOptions::default() };
        convert(&image(), &options, &host())
            .map(|converted| serde_json::to_value(converted.spec.linux.resources).unwrap())
    };
    let limits = of(Some(1 << 20), Some(0.5), Some(-1)).unwrap();
    assert_eq!(limits["memory"], json!({"limit": 1 << 20}));
    assert_eq!(limits["cpu"], json!({"quota": 50_000, "period": 100_000}));
    assert_eq!(limits["pids"], json!({"limit": -1}));
    for (memory, cpus, pids) in [
        (Some(0), None, None),
        (None, Some(0.0), None),
        (None, Some(f64::NAN), None),
        (None, Some(1e9), None),
        (None, None, Some(0)),
        (None, None, Some(-2)),
    ] {
        assert!(of(memory, cpus, pids).is_err(), "{memory:?} {cpus:?} {pids:?}");
    }
}

#[test]
fn paths_are_cleaned() {
    for (path, clean) in
        [("", "/"), ("a", "/a"), ("/a//b/./c/", "/a/b/c"), ("/a/../../b", "/b"), ("..", "/")]
    {
        assert_eq!(super::clean(path), clean);
    }
}
