//! What is run: the usual images, broken ones, and plain directories.

use dist_testutil::{
    Entry, Form, Image, ImageOptions, Layer, Registry, index_of, require, run, timed,
};
use serde_json::{Value, json};

use crate::machine::Machine;

#[test]
fn images_that_people_use_run() {
    let _timed = timed("containers");
    let python = ["python3", "-c", "import numpy; print(numpy.ones(3).sum())"];
    let text = both_run("python-sci:1", &python);
    assert_eq!(text, "3.0\n");

    let script = "pwd; find node_modules -name package.json | wc -l; grep '\"name\"' package.json";
    let text = both_run("node-app:1", &["sh", "-c", script]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "/app");
    assert!(lines[1].trim().parse::<u32>().unwrap() > 500, "{text}");
    assert!(lines[2].contains("app"), "{text}");
}

/// What a command of an image prints, run without a daemon and by a client of one.
fn both_run(image: &str, args: &[&str]) -> String {
    require(&["ctr"]);
    let machine = Machine::new(image);
    let ours = machine.run(&["--rm"], args).ok().text();
    let daemon = machine.dist.daemon();
    let theirs = daemon.ctr(&[&["run", "--rm", &machine.image, "theirs"], args].concat()).ok();
    assert_eq!(theirs.text(), ours);
    machine.assert_clean(&["theirs"]);
    ours
}

/// Pushes an image that has `bin/sh` and a file that is no program.
pub(crate) fn push(registry: &Registry, busybox: &[u8], name: &str, settings: Value) -> String {
    let entries = [
        Entry::dir("bin"),
        Entry::file("bin/sh", busybox).mode(0o755),
        Entry::file("bin/text", "just text\n").mode(0o755),
        Entry::file("bin/locked", busybox).mode(0o644),
        Entry::dir("etc"),
        Entry::file("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
    ];
    let options = ImageOptions { settings: Some(settings), ..ImageOptions::default() };
    let image = Image::new(&[Layer::new(&entries, Form::Gzip)], &options);
    let name = format!("broken/{name}");
    image.push(registry, &name, "1");
    registry.reference(&format!("{name}:1"))
}

#[test]
fn a_broken_image_is_told_apart() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    machine.dist.ok(&["unpack", &machine.image, "busybox"]);
    let busybox = fs_err::read(machine.dist.dir().join("busybox/bin/busybox")).unwrap();
    let registry = Registry::start();
    for (name, settings, code, part) in [
        (
            "user",
            json!({"User": "ghost", "Cmd": ["sh"]}),
            125,
            "find user \"ghost\": the image has none",
        ),
        ("group", json!({"User": "root:ghosts", "Cmd": ["sh"]}), 125, "find group \"ghosts\""),
        ("missing", json!({"Entrypoint": ["/bin/server"]}), 127, "no such file"),
        ("unknown", json!({"Cmd": ["server"]}), 127, "executable file not found"),
        ("locked", json!({"Cmd": ["/bin/locked"]}), 126, "ermission denied"),
        // The runtime finds out when the container runs already.
        ("text", json!({"Cmd": ["/bin/text"]}), 126, "that is no program for this machine"),
        ("directory", json!({"Cmd": ["/etc"]}), 126, "ermission denied"),
        ("silent", json!({}), 125, "find the command: the image has none"),
        ("type", json!({"Cmd": "sh -c true"}), 125, "read how the image is run"),
        ("where", json!({"WorkingDir": "/bin/sh/x", "Cmd": ["sh"]}), 125, "a file is in the way"),
    ] {
        let reference = push(&registry, &busybox, name, settings);
        let ran = machine.dist.run(&["run", "--rm", "--name", name, &reference]);
        assert_eq!(ran.code, Some(code), "{name}: {}", ran.stderr);
        ran.says(part);
        machine.assert_clean(&[name]);
    }
    // The same where the program is not the image's, and in a container that runs.
    let programs = machine.dist.dir().join("programs");
    fs_err::create_dir(&programs).unwrap();
    for (name, mode) in [("text", "755"), ("locked", "644")] {
        fs_err::write(programs.join(name), "words\n").unwrap();
        run("chmod", &[mode.as_ref(), programs.join(name).as_os_str()]);
    }
    let volume = format!("{}:/programs", programs.display());
    machine.run(&["-d", "--name", "runs", "-v", &volume], &["busybox", "sleep", "1000"]).ok();
    for (program, code) in [
        ("/programs/text", 126),
        ("/programs/locked", 126),
        ("/programs", 126),
        ("/programs/none", 127),
        ("none", 127),
    ] {
        let ran = machine.run(&["--rm", "-v", &volume], &[program]);
        ran.exit(code).says(&format!("run \"{program}\" in container"));
        let ran = machine.dist.run(&["exec", "runs", program]);
        ran.exit(code).says(&format!("run \"{program}\" in container runs"));
    }
    // An end that looks like that is none of those.
    assert_eq!(machine.shell(&["--rm"], "exit 1").code, Some(1));
    machine.dist.ok(&["rm", "--force", "runs"]);
    // What is run in place of a broken command is run.
    let reference = push(&registry, &busybox, "fixed", json!({"User": "ghost", "Cmd": ["server"]}));
    let fixed = ["run", "--rm", "--user", "0", &reference, "sh", "-c", "echo $0"];
    assert_eq!(machine.dist.ok(&fixed).text(), "sh\n");
}

#[test]
fn a_platform_that_is_not_there_is_pulled() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    let dist = &machine.dist;
    dist.ok(&["unpack", &machine.image, "busybox"]);
    let busybox = fs_err::read(dist.dir().join("busybox/bin/busybox")).unwrap();
    // Both have programs of this machine, so that both can be run.
    let image = |architecture| {
        let entries = [Entry::dir("bin"), Entry::file("bin/sh", &busybox[..]).mode(0o755)];
        let settings = json!({"Cmd": ["sh", "-c", format!("echo {architecture}")]});
        let platform = Some((architecture, None));
        let options = ImageOptions { settings: Some(settings), platform, ..Default::default() };
        Image::new(&[Layer::new(&entries, Form::Gzip)], &options)
    };
    let registry = Registry::start();
    let two = [("amd64", None, image("amd64")), ("arm64", None, image("arm64"))];
    index_of(&two).push(&registry, "test/two", "1");
    let name = registry.reference("test/two:1");
    let on = |platform, flags: &[&str]| {
        dist.run(&[&["run", "--rm", "--platform", platform], flags, &[&name]].concat())
    };
    assert_eq!(on("linux/amd64", &[]).ok().text(), "amd64\n");
    let missing = on("linux/arm64", &["--pull", "never"]).exit(125);
    missing.says("for platform linux/arm64: it is not in the store").says("--pull missing");
    let spec = ["oci", "spec", "--pull", "never", "--platform", "linux/arm64", &name];
    dist.run(&spec).exit(3).says("for platform linux/arm64: it is not in the store");
    assert_eq!(on("linux/arm64", &[]).ok().text(), "arm64\n");
    assert_eq!(on("linux/arm64", &["--pull", "never"]).ok().text(), "arm64\n");
    assert_eq!(on("linux/amd64", &["--pull", "never"]).ok().text(), "amd64\n");
    // What the index has not, no registry is asked for.
    drop(registry);
    on("linux/s390x", &[]).exit(125).says("no image for platform linux/s390x in the index");
    machine.assert_clean(&[]);
}

#[test]
fn what_can_t_be_is_refused_in_our_words() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    for (flags, code, part) in [
        (&["--memory", "1"][..], 125, "limit its memory to 1 B: it can't start in that"),
        (&["--workdir", "rel"], 2, "it is no absolute path"),
        (&["--hostname", "a b"], 2, "a machine's name is of letters"),
        (&["--cpus", "-1"], 125, "limit processors to -1: from 0.01"),
        (&["--pids-limit", "0"], 125, "limit processes to 0: from 1 on goes"),
        (&["--stop-timeout", "x"], 2, "is no duration"),
    ] {
        machine.run(&[&["--rm"], flags].concat(), &["true"]).exit(code).says(part);
    }
    let ran =
        machine.shell(&["--rm", "--stop-timeout", "3", "--hostname", "h.x"], "echo $HOSTNAME");
    assert_eq!(ran.ok().text(), "h.x\n");
    let long = "x".repeat(76);
    let ran = machine.run(&["--rm", "--net", "none", "--name", &long], &["busybox", "hostname"]);
    assert_eq!(ran.ok().text(), format!("{}\n", &long[..64]));
    machine.shell(&["--name", "p"], "exit 0").ok();
    assert_eq!(machine.dist.ok(&["ps", "-q"]).text(), "");
    assert_eq!(machine.dist.ok(&["ps", "-aq"]).text(), "p\n");
    machine.dist.run(&["--address", "none.sock", "ps", "-a"]).exit(2).says("none.sock");
    machine.dist.run(&["ps", "--address", "none.sock"]).exit(2).says("none.sock");
    machine.dist.ok(&["rm", "p"]);
    machine.assert_clean(&["p"]);
}

#[test]
fn a_directory_is_run_and_keeps_what_is_written() {
    let _timed = timed("containers");
    let machine = Machine::busybox();
    machine.dist.ok(&["unpack", &machine.image, "tree"]);
    let run = |args: &[&str]| {
        let mut command = machine.dist.command(&["run"]);
        command.args(args);
        machine.dist.finish(command)
    };
    let script = "pwd; busybox touch /made; busybox hostname; exit 3";
    let flags = ["--rm", "--name", "d", "--net", "none", "-w", "/new"];
    let ran = run(&[&flags[..], &["--rootfs", "tree", "sh", "-c", script]].concat());
    assert_eq!((ran.code, ran.text().as_str()), (Some(3), "/new\nd\n"), "{}", ran.stderr);
    let tree = machine.dist.dir().join("tree");
    assert!(tree.join("made").exists() && tree.join("new").is_dir());
    machine.assert_clean(&["d"]);

    run(&["-d", "--name", "e", "--rootfs", "tree", "busybox", "sleep", "1000"]).ok();
    let told = machine.dist.ok(&["inspect", "e"]).json();
    assert_eq!(told["image"], json!(tree.canonicalize().unwrap()));
    assert_eq!(machine.dist.ok(&["exec", "e", "busybox", "ls", "/made"]).text(), "/made\n");
    // It needs nothing of the store, and nothing of the store goes with it.
    machine.dist.ok(&["gc"]);
    machine.dist.ok(&["rm", "--force", "e"]);
    assert!(tree.join("made").exists());
    run(&["--rm", "--rootfs", "tree"]).exit(125).says("find the command");
    run(&["--rm", "--rootfs", "nowhere", "sh"]).exit(125).says("find directory nowhere");
    machine.assert_clean(&["e"]);
}

#[test]
fn devices_are_there_for_what_was_asked() {
    let _timed = timed("containers");
    require(&["stat"]);
    let machine = Machine::busybox();
    let flags = ["--rm", "--device", "/dev/null:/dev/mine:rw", "--device", "/dev/kmsg:r"];
    let ran =
        machine.shell(&flags, "busybox stat -c '%F %t %T' /dev/mine /dev/kmsg; echo x >/dev/mine");
    assert_eq!(ran.ok().text(), "character special file 1 3\ncharacter special file 1 b\n");
    let mut oci = vec!["oci", "spec"];
    oci.extend(&flags[1..]);
    oci.push(&machine.image);
    let spec = machine.dist.ok(&oci).json();
    let rules = &spec["linux"]["resources"]["devices"];
    assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
    let kmsg = json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "r"});
    assert_eq!(rules[2], kmsg);
    machine.run(&["--rm", "--device", "/dev/nothing"], &["sh"]).exit(125).says("/dev/nothing");
    machine.run(&["--rm", "--device", "null"], &["sh"]).exit(125).says("read device \"null\"");
    let many = machine.shell(&["--rm", "--privileged"], "busybox ls /dev | busybox wc -l").ok();
    assert!(many.text().trim().parse::<u32>().unwrap() > 15, "{}", many.text());
    machine.assert_clean(&[]);
}
