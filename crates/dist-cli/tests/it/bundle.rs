//! Bundles and specs, taken by real runtimes.

use std::path::Path;

use dist_testutil::{
    Dist, Entry, Form, Image, ImageOptions, Layer, Ran, Registry, Tree, require, timed,
};
use serde_json::{Value, json};

use crate::support::{ONE_KIND_OF_CGROUPS, dist, pull};

/// Runs a bundle to its end.
fn run_bundle(dist: &Dist, runtime: &str, bundle: &Path) -> Ran {
    require(&[runtime]);
    let id = format!("dist-test-{}-{runtime}", std::process::id());
    let script = "cd /; PATH=$PATH:/usr/sbin
        exec \"$1\" --root \"$2\" run --bundle \"$3\" \"$4\"";
    let script = format!("{ONE_KIND_OF_CGROUPS}{script}");
    let mut command = dist.clean("unshare");
    command.args(["--mount", "sh", "-euc", &script]);
    command.arg("sh").arg(runtime).arg(dist.dir().join("state")).arg(bundle).arg(id);
    dist.finish(command)
}

#[test]
fn a_bundle_runs_as_it_is() {
    let _timed = timed("bundle");
    let (registry, dist) = (Registry::of_images(), dist());
    let redis = format!("localhost:{}/library/redis:7", registry.port());
    dist.ok(&["oci", "bundle", &redis, "redis", "--version"]);
    let moved = dist.dir().join("moved");
    fs_err::rename(dist.dir().join("redis"), &moved).expect("move the bundle");
    for runtime in ["crun", "runc"] {
        let ran = run_bundle(&dist, runtime, &moved).ok();
        assert!(ran.text().starts_with("Redis server v=7"), "{runtime}: {}", ran.text());
    }
    assert!(!dist.root().exists(), "the bundle came from the registry, and nothing was kept");
}

#[test]
fn what_a_process_sees() {
    let _timed = timed("bundle");
    let (registry, dist) = (Registry::of_images(), dist());
    let busybox = format!("localhost:{}/library/busybox:1", registry.port());
    fs_err::write(dist.dir().join("vars"), "# no\nFROM_FILE=f\nWHO=file\n").expect("write");
    fs_err::write(dist.dir().join("mine"), "mine").expect("write");
    let script = "pwd; id -u; id -g; echo $WHO $FROM_FILE $TOLD; hostname; cat /mine; cat /etc/hostname
        grep -c . /etc/resolv.conf >/dev/null || test ! -s /etc/resolv.conf
        touch /mine 2>/dev/null || echo read-only; cat /proc/self/status | grep -e NoNewPrivs -e CapBnd
        ls /sys/class/net; grep Seccomp: /proc/self/status; ls -A /sys/firmware | wc -l";
    for runtime in ["crun", "runc"] {
        let mut command =
            dist.command(&["oci", "bundle", "-e", "WHO=me", "-e", "TOLD", "--env-file", "vars"]);
        command
            .env("TOLD", "told")
            .args(["-v", "./mine:/mine:ro", "--workdir", "/srv/new/dir", "--user", "7:8"])
            .args(["--hostname", "box", "--net", "none", "--cap-drop", "all"])
            .args(["--cap-add", "chown", "--entrypoint", "sh", &busybox, runtime, "-c", script]);
        dist.finish(command).ok();
        let ran = run_bundle(&dist, runtime, &dist.dir().join(runtime)).ok();
        let text = ran.text();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert_eq!(
            lines[..9],
            [
                "/srv/new/dir",
                "7",
                "8",
                "me f told",
                "box",
                "minebox",
                "read-only",
                "CapBnd:\t0000000000000001",
                "NoNewPrivs:\t1"
            ],
            "{runtime}"
        );
        assert_eq!(lines[9..12], ["lo", "Seccomp:\t2", "0"], "{runtime}: {text}");
    }
}

/// Busybox's binary, for images that need a program.
fn busybox(dist: &Dist, images: &Registry) -> Vec<u8> {
    let reference = format!("localhost:{}/library/busybox:1", images.port());
    dist.ok(&["unpack", &reference, "busybox"]);
    fs_err::read(dist.dir().join("busybox/bin/busybox")).expect("read busybox")
}

/// Pushes an image with users of its own, and with symlinks that would lead out of it.
fn push_hostile(registry: &Registry, busybox: Vec<u8>) -> String {
    let settings = json!({
        "User": "app", "Entrypoint": ["/bin/sh", "-c"], "WorkingDir": "/work/here",
        "Cmd": ["id -u; id -g; id -G; pwd; ls -ldn /data; touch /data/x; cat /data/seed; echo $PATH"],
        "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGINT",
        "Labels": {"k": "v", "run.oci.hooks.stdout": "/x"},
    });
    let entries = [
        Entry::dir("etc"),
        Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n"),
        Entry::symlink("etc/group", "../../../../lib/group"),
        Entry::dir("lib"),
        Entry::file("lib/group", "app:x:1001:\nextra:x:2000:app\n"),
        Entry::symlink("work", "../../outside"),
        Entry::dir("data").mode(0o700).owner(1000, 1001),
        Entry::file("data/seed", "seed\n").owner(1000, 1001),
        Entry::dir("bin"),
        Entry::file("bin/sh", busybox).mode(0o755),
    ];
    let mut entries = entries.to_vec();
    entries.extend(
        ["cat", "id", "ls", "touch"].map(|name| Entry::symlink(&format!("bin/{name}"), "sh")),
    );
    let options = ImageOptions { settings: Some(settings), ..ImageOptions::default() };
    let image = Image::new(&[Layer::new(&entries, Form::Gzip)], &options);
    image.push(registry, "test/users", "1");
    registry.reference("test/users:1")
}

#[test]
fn an_image_is_run_as_it_says_and_nothing_leads_out_of_it() {
    let _timed = timed("bundle");
    let (images, registry, dist) = (Registry::of_images(), Registry::start(), dist());
    let reference = push_hostile(&registry, busybox(&dist, &images));
    let made = dist.ok(&["oci", "bundle", &reference, "made"]);
    assert!(made.stderr.contains("run.oci.hooks.stdout"), "{}", made.stderr);
    assert!(!dist.dir().join("outside").exists() && !dist.dir().join("made/outside").exists());
    let ran = run_bundle(&dist, "runc", &dist.dir().join("made")).ok();
    let text = ran.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..4], ["1000", "1001", "1001 2000", "/outside/here"], "{text}");
    assert!(lines[4].starts_with("drwx------") && lines[4].contains("1000     1001"), "{text}");
    assert_eq!(lines[5], "seed");
    assert_eq!(lines[6], "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    assert!(dist.dir().join("made/volumes/0/x").exists());
    assert!(!dist.dir().join("made/rootfs/data/x").exists());

    // The same from a store, after the registry is gone.
    pull(&dist, &reference);
    drop(registry);
    dist.ok(&["oci", "bundle", &reference, "stored"]);
    let config = |bundle: &str| fs_err::read(dist.dir().join(bundle).join("config.json")).unwrap();
    assert!(config("made") == config("stored"));
    assert_eq!(
        Tree::read(&dist.dir().join("made/rootfs/lib")),
        Tree::read(&dist.dir().join("stored/rootfs/lib"))
    );
    let spec = dist.ok(&["oci", "spec", "--pull", "never", &reference]).json();
    assert_eq!(spec, serde_json::from_slice::<Value>(&config("made")).unwrap());
    let annotations = &spec["annotations"];
    assert_eq!(annotations["org.opencontainers.image.exposedPorts"], "80/tcp");
    assert_eq!(annotations["org.opencontainers.image.stopSignal"], "SIGINT");
    assert_eq!(annotations["k"], "v");
    assert_eq!(spec["process"]["user"]["additionalGids"], json!([1001, 2000]));
    let kinds = dist.ok(&["snapshots", "ls", "--format", "json"]).json();
    assert!(kinds.as_array().unwrap().iter().all(|s| s["kind"] == "committed"), "{kinds}");
}

#[test]
fn what_can_not_be_a_bundle_leaves_nothing() {
    let _timed = timed("bundle");
    let (images, registry, dist) = (Registry::of_images(), Registry::start(), dist());
    let reference = push_hostile(&registry, busybox(&dist, &images));
    for (args, code, part) in [
        (&["--user", "nobody"][..], 1, "find user \"nobody\": the image has none"),
        (&["--user", "app:staff"], 1, "find group \"staff\""),
        (&["--entrypoint", ""], 2, "find the command"),
        (&["--workdir", "/bin/sh/x"], 1, "a file is in the way"),
        (&["--memory", "0"], 2, "limit memory"),
        (&["--cap-add", "FLY"], 2, "FLY"),
        (&["--volume", "/nowhere/at/all:/x"], 2, "/nowhere/at/all is not there"),
    ] {
        let mut all = vec!["oci", "bundle"];
        all.extend_from_slice(args);
        all.extend([reference.as_str(), "none"]);
        dist.run(&all).exit(code).says(part);
        assert!(!dist.dir().join("none").exists(), "{args:?} leaves a directory");
    }
    fs_err::create_dir(dist.dir().join("full")).unwrap();
    fs_err::write(dist.dir().join("full/x"), "x").unwrap();
    dist.run(&["oci", "bundle", &reference, "full"]).exit(2).says("it is not empty");
    assert!(dist.dir().join("full/x").exists());
    dist.run(&["oci", "spec", "--pull", "never", &reference]).exit(3).says("not in the store");
}
