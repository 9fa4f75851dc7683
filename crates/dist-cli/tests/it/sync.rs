//! Many tags of many repositories, and what a second run costs.

use std::time::Duration;

use dist_testutil::{
    Dist, Fault, FaultProxy, Gate, Image, Registry, Response, Rule, index_of, request, timed,
};
use serde_json::Value;

use crate::support::{dist, pulled, quick};

fn manifest(registry: &Registry, name: &str, object: &str) -> Response {
    let accept = [("Accept", "application/vnd.oci.image.manifest.v1+json")];
    request(registry.address(), "GET", &format!("/v2/{name}/manifests/{object}"), &accept, b"")
}

fn write(at: &Dist, text: &str) {
    fs_err::write(at.dir().join("sync.toml"), text).expect("write the file");
}

/// The outcome of each tag, by where it went.
fn outcomes(report: &Value) -> Vec<(String, String)> {
    let text = |tag: &Value, key: &str| tag[key].as_str().expect("a text").to_owned();
    let name = |tag: &Value| {
        let name = text(tag, "destination");
        name.split_once('/').map_or(name.clone(), |(_, rest)| rest.to_owned())
    };
    let tags = report["tags"].as_array().expect("tags");
    tags.iter().map(|tag| (name(tag), text(tag, "outcome"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

#[test]
fn a_second_run_with_nothing_new_asks_once_a_tag() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let tags = ["1.0.0", "1.1.0", "1.10.0", "2.0.0", "2.1.0-rc1", "latest"];
    let images: Vec<Image> = (0..).zip(tags).map(|(at, _)| Image::random(at, &[5000])).collect();
    for (tag, image) in tags.iter().zip(&images) {
        image.push(&there, "team/app", tag);
    }
    images[0].push(&there, "other", "blue");
    images[1].push(&there, "other", "green");
    let dist = quick();
    let (source, destination) = (from.reference("team/app"), to.reference("mirror"));
    let other = from.reference("other");
    write(
        &dist,
        &format!(
            "
        destination = {destination:?}
        [[repository]]
        source = {source:?}
        semver = '>=1.1'
        newest = 2
        [[repository]]
        source = {source:?}
        destination = '{destination}/named'
        tags = ['late*']
        [[repository]]
        source = {other:?}
        tags = ['blue']
    "
        ),
    );
    let dry = dist.ok(&["sync", "--dry-run", "sync.toml"]);
    assert_eq!(dry.text().lines().count(), 4, "{}", dry.text());
    assert_eq!(manifest(&here, "mirror/other", "blue").status, 404);

    let first = dist.ok(&["sync", "--report", "report.json", "sync.toml"]);
    assert_eq!(first.text().lines().count(), 4, "{}", first.text());
    let expected = format!("{destination}/team/app:2.0.0@{}", images[3].digest());
    assert_eq!(first.text().lines().next(), Some(&*expected));
    let report = fs_err::read(dist.dir().join("report.json")).expect("a report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(
        outcomes(&report),
        pairs(&[
            ("mirror/team/app:2.0.0", "copied"),
            ("mirror/team/app:1.10.0", "copied"),
            ("mirror/named:latest", "copied"),
            ("mirror/other:blue", "copied"),
        ])
    );
    for (name, tag, image) in [
        ("mirror/team/app", "2.0.0", &images[3]),
        ("mirror/team/app", "1.10.0", &images[2]),
        ("mirror/named", "latest", &images[5]),
        ("mirror/other", "blue", &images[0]),
    ] {
        assert_eq!(manifest(&here, name, tag).body, image.manifest.bytes, "{name}:{tag}");
    }

    from.reset();
    to.reset();
    let second = dist.ok(&["sync", "--report", "-", "sync.toml"]).says("4 tags: 4 unchanged");
    assert_eq!(second.json()["unchanged"], 4);
    assert_eq!(to.log().len(), 0, "{:?}", to.log());
    let heads = from.log().iter().filter(|r| r.method == "HEAD").count();
    let lists = from.log().iter().filter(|r| r.path.contains("/tags/list")).count();
    assert_eq!((heads, lists), (4, 2), "{:?}", from.log());
    assert!(from.log().len() <= 8, "{:?}", from.log());

    // What moves is copied, and nothing else.
    images[4].push(&there, "other", "blue");
    let third = dist.ok(&["sync", "sync.toml"]);
    assert_eq!(pulled(&third.text()), images[4].digest());
    assert_eq!(manifest(&here, "mirror/other", "blue").body, images[4].manifest.bytes);
}

#[test]
fn a_new_tag_of_what_is_there_was_copied_and_one_tag_has_one_form() {
    let _timed = timed("sync");
    let there = Registry::start();
    let image = Image::random(4, &[5000]);
    image.push(&there, "app", "1");
    let dist = quick();
    let source = there.reference("app");
    let one = format!("[[repository]]\nsource = {source:?}\ndestination = 'oci:layout'\n");
    write(&dist, &one);
    dist.ok(&["sync", "sync.toml"]).says("1 tag: 1 copied");
    image.push(&there, "app", "2");
    dist.ok(&["sync", "sync.toml"]).says("2 tags: 1 copied, 1 unchanged");
    dist.ok(&["sync", "--check", "sync.toml"]).says("2 tags: 2 unchanged");

    write(&dist, &one.repeat(2));
    dist.ok(&["sync", "sync.toml"]).says("2 tags: 2 unchanged");
    write(&dist, &format!("{one}{one}platforms = ['linux/amd64']\n"));
    dist.run(&["sync", "sync.toml"]).exit(11).says("goes there as well, in another form");

    let notes = dist.dir().join("notes");
    fs_err::write(&notes, "mine\n".repeat(100)).expect("a file");
    dist.run(&["sync", "--state", "notes", "sync.toml"]).exit(2).says("another file");
    assert_eq!(fs_err::metadata(&notes).expect("the file").len(), 500);
    write(&dist, &one);
    dist.run(&["sync", "--report", "none/report", "sync.toml"]).exit(8).says("none/report");
    for path in ["/dev/zero", "notes"] {
        dist.run(&["sync", path]).exit(2).says(path);
        dist.run(&["--config-file", path, "sync", "sync.toml"]).exit(2).says(path);
    }
    dist.run(&["sign", "--key", "/dev/zero", &there.reference("app:1")]).exit(2).says("/dev/zero");
}

#[test]
fn what_is_attached_goes_with_its_image_and_takes_nothing_away() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(4, &[5000]);
    image.push(&there, "app", "1");
    crate::copy::attach(&there, &image);
    let dist = quick();
    fs_err::write(dist.dir().join("notes"), "notes").expect("a file");
    let attach = |kind: &str, name: &str| dist.ok(&["attach", "--type", kind, name, "notes"]);
    let (source, to) = (there.reference("app"), here.reference("m"));
    let file = |more: &str| {
        write(&dist, &format!("[[repository]]\nsource = {source:?}\ndestination = {to:?}\n{more}"));
    };
    file("referrers = false\n");
    dist.ok(&["sync", "sync.toml"]).says("1 tag: 1 copied");
    assert_eq!(dist.ok(&["tags", "ls", &to]).text(), "1\n");
    attach("application/vnd.example.mine", &format!("{to}:1"));
    file("");
    dist.ok(&["sync", "sync.toml"]).says("1 tag: 1 copied");
    let found = dist.ok(&["referrers", &format!("{to}:1")]).text();
    let all = ["vnd.example.mine", "application/spdx+json", ".sig"];
    assert!(all.iter().all(|kind| found.contains(kind)), "{found}");
}

#[test]
fn a_tag_that_fails_stops_no_other() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let from = FaultProxy::start(there.address());
    let images: Vec<Image> = (10..13).map(|at| Image::random(at, &[5000])).collect();
    for (tag, image) in ["a", "b", "c"].iter().zip(&images) {
        image.push(&there, "app", tag);
    }
    from.add(Rule::get(format!("/blobs/{}", images[1].layer(0)), Fault::Flip(10)));
    let dist = quick();
    write(
        &dist,
        &format!(
            "
        destination = '{}'
        [[repository]]
        source = '{}'
        tags = ['a', 'b', 'c', 'none']
        [[repository]]
        source = '{}'
    ",
            here.reference("m"),
            from.reference("app"),
            from.reference("nothing")
        ),
    );
    let said = dist.run(&["sync", "--report", "-", "sync.toml"]).exit(11);
    let report = said.json();
    assert_eq!((&report["copied"], &report["failed"]), (&2.into(), &3.into()));
    let tags = report["tags"].as_array().expect("tags");
    let failed = tags.iter().find(|tag| tag["destination"].as_str().unwrap().ends_with(":b"));
    assert_eq!(failed.expect("the tag")["kind"], "corrupt");
    assert_eq!(manifest(&here, "m/app", "b").status, 404);
    assert_eq!(manifest(&here, "m/app", "c").body, images[2].manifest.bytes);
    let said = said.says("copy").says(":none").says("5 tags: 2 copied, 3 failed");
    assert!(!said.stderr.contains("panicked"));

    from.reset();
    write(
        &dist,
        &format!(
            "
        [[repository]]
        source = '{}'
        destination = '{}'
        tags = ['none']
    ",
            from.reference("app"),
            here.reference("m/app")
        ),
    );
    dist.run(&["sync", "sync.toml"]).exit(3);
}

#[test]
fn what_several_tags_hold_is_sent_once() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let image = Image::random(20, &[400_000, 300_000]);
    for name in ["one", "two", "three"] {
        image.push(&there, name, "1");
        image.push(&there, name, "2");
    }
    let dist = quick();
    let repository = |name| format!("[[repository]]\nsource = '{}'\n", from.reference(name));
    write(
        &dist,
        &format!(
            "destination = '{}'\nat_once = 6\n{}{}{}",
            to.reference("m"),
            repository("one"),
            repository("two"),
            repository("three")
        ),
    );
    dist.ok(&["sync", "sync.toml"]);
    for name in ["m/one", "m/two", "m/three"] {
        assert_eq!(manifest(&here, name, "2").body, image.manifest.bytes);
    }
    for blob in &image.blobs {
        let path = format!("/blobs/{}", blob.digest);
        let fetched =
            from.log().iter().filter(|r| r.method == "GET" && r.path.contains(&path)).count();
        assert_eq!(fetched, 1, "{}", blob.digest);
    }
}

#[test]
fn what_indexes_of_several_tags_name_is_put_once() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let to = FaultProxy::start(here.address());
    let index = index_of(&[
        ("amd64", None, Image::random(21, &[3000])),
        ("arm64", Some("v8"), Image::random(22, &[2000])),
    ]);
    let tags: Vec<String> = (0..8).map(|at| format!("1.{at}")).collect();
    tags.iter().for_each(|tag| index.push(&there, "app", tag));
    let dist = quick();
    write(
        &dist,
        &format!(
            "destination = '{}'\nat_once = 8\n[[repository]]\nsource = '{}'",
            to.reference("m"),
            there.reference("app")
        ),
    );
    // All are at it at once.
    to.add(Rule::any("/manifests/", Fault::Delay(Duration::from_millis(50))));
    dist.ok(&["sync", "sync.toml"]);
    let log = to.log();
    let puts =
        |object: &str| log.iter().filter(|r| r.method == "PUT" && r.path.ends_with(object)).count();
    for child in &index.children {
        assert_eq!(puts(&child.digest.to_string()), 1, "{log:?}");
    }
    for tag in &tags {
        assert_eq!(puts(&format!("/manifests/{tag}")), 1, "{log:?}");
        let accept = [("Accept", "application/vnd.oci.image.index.v1+json")];
        let path = format!("/v2/m/app/manifests/{tag}");
        let whole = request(here.address(), "GET", &path, &accept, b"").body;
        assert_eq!(whole, index.manifest.bytes, "{tag}");
    }
}

#[test]
fn after_a_kill_the_next_run_goes_on() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let images: Vec<Image> = (30..33).map(|at| Image::random(at, &[200_000, 1 << 20])).collect();
    for (tag, image) in ["a", "b", "c"].iter().zip(&images) {
        image.push(&there, "app", tag);
    }
    let gate = Gate::default();
    let held = images[2].layer(1);
    from.add(Rule::get(format!("/blobs/{held}"), Fault::Hold(1000, gate.clone())));
    let dist = dist();
    write(
        &dist,
        &format!(
            "
        destination = '{}'
        [[repository]]
        source = '{}'
        regex = '[a-c]'
    ",
            to.reference("m"),
            from.reference("app")
        ),
    );
    let running = dist.spawn(&["sync", "sync.toml"]);
    gate.wait_held(1);
    while manifest(&here, "m/app", "a").status != 200 || manifest(&here, "m/app", "b").status != 200
    {
        std::thread::yield_now();
    }
    // Two at once would do the same work twice.
    dist.run(&["sync", "sync.toml"]).exit(9).says("another");
    running.kill();
    gate.open();
    from.reset();
    to.reset();
    dist.ok(&["sync", "sync.toml"]).says("1 copied");
    assert_eq!(manifest(&here, "m/app", "c").body, images[2].manifest.bytes);
    let again = images[..2].iter().flat_map(|image| &image.blobs);
    for blob in again {
        let path = blob.digest.to_string();
        assert!(!from.log().iter().any(|r| r.path.contains(&path)), "{path} was fetched again");
    }
}

#[test]
fn what_the_destination_lost_comes_back_when_it_is_asked() {
    let _timed = timed("sync");
    let (there, here) = (Registry::start(), Registry::start());
    let image = Image::random(40, &[5000]);
    image.push(&there, "app", "1");
    let dist = quick();
    write(
        &dist,
        &format!(
            "
        [[repository]]
        source = '{}'
        destination = '{}'
        tags = ['1']
    ",
            there.reference("app"),
            here.reference("app")
        ),
    );
    dist.ok(&["sync", "sync.toml"]);
    dist.ok(&["tags", "rm", &here.reference("app:1")]);
    dist.ok(&["sync", "sync.toml"]).says("1 unchanged");
    assert_eq!(manifest(&here, "app", "1").status, 404);
    dist.ok(&["sync", "--check", "sync.toml"]).says("1 copied");
    assert_eq!(manifest(&here, "app", "1").body, image.manifest.bytes);
    dist.ok(&["sync", "--check", "sync.toml"]).says("1 unchanged");
    let state = dist.home().join(".local/state/dist/sync");
    assert_eq!(fs_err::read_dir(state).expect("the notes").count(), 1);
}

#[test]
fn a_file_with_a_mistake_is_refused_with_its_line() {
    let dist = quick();
    dist.run(&["sync", "none.toml"]).exit(3);
    write(&dist, "");
    dist.run(&["sync", "sync.toml"]).exit(2).says("[[repository]]");
    write(&dist, "[[repository]]\nsource = 'localhost:1/a'\ntag = ['x']\n");
    dist.run(&["sync", "sync.toml"]).exit(2).says("line 3");
    write(
        &dist,
        "[[repository]]\nsource = 'localhost:1/a'\ndestination = 'localhost:1/b'\nsemver = 'newer'",
    );
    dist.run(&["sync", "sync.toml"]).exit(2).says("range of versions");
    dist.run(&["--user", "a:b", "sync", "sync.toml"]).exit(2);
}
