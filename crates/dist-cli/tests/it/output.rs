//! What goes where: results, progress, errors, exit codes.

use dist_testutil::{Image, Registry, timed};

use crate::support::{dist, pull, quick};

fn pulled_store() -> (dist_testutil::Dist, Image, String) {
    let (registry, image) = (Registry::start(), Image::random(81, &[2000, 1000]));
    image.push(&registry, "test/out", "1");
    let (dist, reference) = (dist(), registry.reference("test/out:1"));
    pull(&dist, &reference);
    (dist, image, reference)
}

#[test]
fn every_listing_speaks_json() {
    let _timed = timed("output");
    let (dist, image, reference) = pulled_store();
    for command in [&["images"][..], &["list"], &["active"], &["snapshots", "ls"]] {
        let mut args = command.to_vec();
        args.extend(["--format", "json"]);
        let value = dist.ok(&args).json();
        assert!(value.is_array(), "{command:?}: {value}");
        let rows = if command == ["active"] { 0 } else { 1 };
        assert!(value.as_array().expect("an array").len() >= rows, "{command:?}: {value}");
    }
    assert!(dist.ok(&["images", "--format", "json"]).text().contains(&reference));
    let inspected = dist.ok(&["inspect", "--format", "json", &reference]).text();
    assert!(inspected.contains(&image.layer(0)) && inspected.contains("amd64"), "{inspected}");
    let remote = quick().run(&["inspect", "--remote", &reference]);
    assert_eq!(remote.code, Some(5), "the registry is gone: {remote:?}");
}

#[test]
fn results_on_stdout_and_all_else_on_stderr() {
    let _timed = timed("output");
    let (registry, image) = (Registry::start(), Image::random(82, &[200_000]));
    image.push(&registry, "test/out", "1");
    let reference = registry.reference("test/out:1");
    let line = format!("{reference}@{}\n", image.digest());
    for flags in
        [&["--progress", "plain"][..], &["--progress", "json"], &["--progress", "none"], &["-q"]]
    {
        let dist = dist();
        let mut args = vec!["pull", &reference];
        args.extend(flags);
        let ran = dist.ok(&args);
        assert!(ran.text().ends_with(&line), "{flags:?}: {}", ran.text());
        match flags {
            ["--progress", "json"] => {
                for line in ran.stderr.lines() {
                    serde_json::from_str::<serde_json::Value>(line).expect("a JSON line");
                }
                assert!(ran.stderr.contains(&image.layer(0)), "{}", ran.stderr);
            }
            ["--progress", "plain"] => assert!(!ran.stderr.is_empty()),
            _ => assert_eq!(ran.stderr, "", "{flags:?}"),
        }
        assert!(!ran.stderr.contains('\u{1b}'), "{flags:?}: {}", ran.stderr);
    }
}

#[test]
fn no_escape_sequences_where_nobody_wants_them() {
    let _timed = timed("output");
    let (registry, image) = (Registry::start(), Image::random(83, &[300_000]));
    image.push(&registry, "test/out", "1");
    for (name, value, bars) in
        [("TERM", "xterm", true), ("TERM", "dumb", false), ("NO_COLOR", "1", false)]
    {
        let dist = dist()
            .env("TERM", "xterm")
            .env(name, value)
            .env("IMAGE", registry.reference("test/out:1"));
        // A terminal of its own, from script(1).
        let ran = dist.script("script -qec \"dist pull $IMAGE\" /dev/null | cat").ok();
        let text = ran.text();
        assert!(text.contains(&image.digest()), "{text}");
        let coloured = text.contains("\u{1b}[3") || text.contains("\u{1b}[38");
        assert!(!coloured || bars, "{name}={value}: {text:?}");
        if value == "dumb" {
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
}

#[test]
fn a_closed_pipe_is_no_error() {
    let _timed = timed("output");
    let (dist, image, _) = pulled_store();
    for command in ["list -q", "images", "--help", &format!("get {}", image.layer(0))] {
        let script = format!("set +o pipefail; dist {command} | true; exit ${{PIPESTATUS[0]}}");
        let ran = dist.script(&script);
        assert_eq!(ran.code, Some(0), "{command}: {ran:?}");
        assert_eq!(ran.stderr, "", "{command}");
        let ran = dist.script(&format!("exec >&-; dist {command}"));
        assert!(matches!(ran.code, Some(0 | 1 | 8)), "{command} with stdout closed: {ran:?}");
    }
    let ran = dist.script("dist list >/dev/full");
    assert_eq!(ran.code, Some(8), "{ran:?}");
}

#[test]
fn usage_is_checked_before_anything_is_done() {
    let _timed = timed("output");
    let dist = quick();
    for args in [
        &["no-such-command"][..],
        &["pull"],
        &["pull", "--no-such-flag", "x"],
        &["pull", "UPPER/x"],
        &["pull", ""],
        &["pull", "x:@"],
        &["pull", "a//b"],
        &["pull", "x:tag:tag"],
        &["pull", "x@sha256:123"],
        &["pull", "--platform", "linux/amd64/v8/x", "127.0.0.1:1/x"],
        &["--timeout", "-1s", "list"],
        &["--max-layer-size", "10GiBB", "list"],
        &["--durability", "some", "list"],
        &["--snapshotter", "btrfs", "pull", "127.0.0.1:1/x"],
        &["get", "sha256:xyz"],
        &["ingest"],
        &["rootfs", "unpack", "latest"],
    ] {
        dist.run(args).exit(2);
    }
    assert!(!dist.root().exists(), "usage errors made a store");
    let said = dist.run(&["pull", "lib/UPPER"]).exit(2).stderr;
    assert!(said.contains('^'), "no caret: {said}");
    dist.ok(&["--help"]);
    let help = dist.ok(&["--help"]).text();
    assert!(help.contains("130") && help.contains("storage"), "exit codes in --help: {help}");
}

#[test]
fn an_empty_store_is_listed_and_not_made() {
    let _timed = timed("output");
    let dist = dist();
    for args in [&["images"][..], &["list"], &["active"], &["snapshots", "ls"]] {
        dist.ok(args);
    }
    assert!(!dist.root().exists(), "a listing made a store");
    let version = dist.ok(&["version"]).text();
    assert!(version.starts_with("dist ") && version.contains("dist-rs"), "{version}");
    assert_eq!(dist.ok(&["-v"]).text(), version);
}
