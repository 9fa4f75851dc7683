//! What the client does itself through a daemon leaves what the same command leaves without one.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::process::Stdio;

use dist_testutil::{
    Certificates, Containerd, Dist, Fault, FaultProxy, Gate, Image, ImageOptions, Layer, Registry,
    Rule, Served, index_of, timed,
};
use serde_json::Value;

use crate::address::Through;
use crate::resume::{wait_active, wait_listed};
use crate::support::{dist, pulled, verify_store, view};

/// What a listing says, but for times.
pub(crate) fn rows(dist: &Dist, args: &[&str]) -> Value {
    let mut rows = dist.ok(&[args, &["--format", "json"]].concat()).json();
    for row in rows.as_array_mut().expect("an array") {
        let row = row.as_object_mut().expect("an object");
        row.retain(|key, _| key != "created_at" && key != "updated_at");
        if let Some(labels) = row.get_mut("labels").and_then(Value::as_object_mut) {
            labels.entry("containerd.io/gc.root").and_modify(|root| *root = Value::from("a time"));
        }
    }
    rows
}

/// All that commands leave: blobs with their labels, snapshots, images.
fn left(dist: &Dist) -> [Value; 3] {
    [&["list"][..], &["snapshots", "ls"], &["images"]].map(|args| rows(dist, args))
}

/// No lease is left, and labels keep everything.
#[track_caller]
fn verify_kept(dist: &Dist, daemon: &Served<'_>) {
    assert_eq!(daemon.ctr(&["leases", "ls", "-q"]).ok().text(), "");
    assert_eq!(dist.ok(&["gc"]).text(), "removed nothing, 0 B\n");
    verify_store(dist);
}

#[test]
fn a_fetch_through_a_daemon_leaves_what_a_fetch_leaves() {
    let _timed = timed("address");
    let registry = Registry::start();
    let amd = Image::varied();
    let arm = Image::new(
        &[Layer::random(31, 100_000)],
        &ImageOptions { platform: Some(("arm64", None)), ..ImageOptions::default() },
    );
    let index = index_of(&[("amd64", None, amd.clone()), ("arm64", None, arm)]);
    index.push(&registry, "test/index", "1");
    amd.push(&registry, "test/other", "1");
    let (reference, other) =
        (registry.reference("test/index:1"), registry.reference("test/other:1"));
    let (embedded, remote) = (dist(), dist());
    // Such a daemon collects when it is told to, and else in an hour.
    let file = remote.dir().join("rarely.toml");
    let gc = "[daemon.gc]\nschedule_delay = \"1h\"\nstartup_delay = \"1h\"\n";
    fs_err::write(&file, gc).expect("write the daemon's settings");
    let daemon = remote.daemon_with(&["--config-file", file.to_str().expect("a path in UTF-8")]);
    let through = Through::new(&remote, &daemon);
    let platform = ["--platform", "linux/amd64"];
    for (args, name) in [
        // One platform, then the same blobs from elsewhere, then what is missing.
        (&[&["fetch"], &platform[..], &[&reference]].concat()[..], &reference),
        (&["fetch", "--quiet", &other], &other),
        (&["fetch", "--all-platforms", &reference], &reference),
        (&["fetch", "--all-platforms", "--jobs", "1", "--retries", "2", &reference], &reference),
    ] {
        let ours = embedded.ok(args).text();
        assert_eq!(remote.ok(&through.args(args)).text(), ours, "{args:?}");
        assert!(ours.starts_with(name), "{ours}");
        assert_eq!(left(&remote), left(&embedded), "{args:?}");
        verify_kept(&remote, &daemon);
    }
    assert_eq!(left(&remote)[2], Value::Array(Vec::new()), "a fetch registers nothing");
    assert_eq!(left(&remote)[0].as_array().map(Vec::len), Some(index.blob_count()));

    // Unpacked, and what keeps the snapshots is the config's label.
    let unpack = ["rootfs", "unpack", "--platform", "linux/amd64", &index.digest()];
    let chain = embedded.ok(&unpack).text();
    assert_eq!(chain.trim(), amd.chain_id().0.to_string());
    for _ in 0..2 {
        assert_eq!(remote.ok(&through.args(&unpack)).text(), chain);
        assert_eq!(left(&remote), left(&embedded));
        verify_kept(&remote, &daemon);
    }
    // The root directory belongs to whoever made it, where no layer has one.
    let [ours, theirs] = [&embedded, &remote]
        .map(|dist| view(dist, &amd.digest()).without(|path| path.as_os_str().is_empty()));
    theirs.assert_same(&ours, "unpacked through a daemon and without");

    // Without the index and what was fetched by another name nothing is kept.
    remote.ok(&through.args(&["delete", &index.digest(), &amd.digest()]));
    assert_eq!(left(&remote)[0].as_array().map(Vec::len), Some(index.blob_count() - 2));
    let collected = remote.ok(&through.args(&["gc"])).text();
    assert!(collected.starts_with("removed what nothing keeps"), "{collected}");
    assert_eq!(left(&remote), [(); 3].map(|()| Value::Array(Vec::new())));
    assert_eq!(remote.ok(&["gc", "--dry-run"]).text(), "would remove nothing, 0 B\n");
    daemon.stop().ok();
}

#[test]
fn archives_and_bundles_go_through_a_daemon() {
    let _timed = timed("address");
    let registry = Registry::start();
    let (image, other) = (Image::varied(), Image::random(6, &[40_000]));
    image.push(&registry, "test/varied", "1");
    other.push(&registry, "test/other", "1");
    let names = [registry.reference("test/varied:1"), registry.reference("test/other:1")];
    let (embedded, remote) = (dist(), dist());
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    embedded.ok(&["bundle", "create", "-q", "b.tar", &names[0], &names[1]]);
    drop(registry);
    let at = |dist: &Dist, name: &str| dist.dir().join(name).display().to_string();
    let bundle = at(&embedded, "b.tar");
    let both = |args: &[&str]| {
        let ours = embedded.ok(args).text();
        assert_eq!(remote.ok(&through.args(args)).text(), ours, "{args:?}");
        embedded.ok(&["gc"]);
        remote.ok(&through.args(&["gc"]));
        assert_eq!(left(&remote), left(&embedded), "{args:?}");
    };
    both(&["bundle", "load", &bundle]);
    for (dist, file) in [(&embedded, "ours.tar"), (&remote, "theirs.tar")] {
        let export = ["export", "-o", file, &names[0], &names[1]];
        match file {
            "ours.tar" => dist.ok(&export),
            _ => dist.ok(&through.args(&export)),
        };
    }
    let archive = at(&embedded, "ours.tar");
    assert!(fs_err::read(&archive).unwrap() == fs_err::read(at(&remote, "theirs.tar")).unwrap());
    both(&["rmi", &names[0], &names[1]]);
    both(&["import", &archive]);
    both(&["import", "--no-unpack", &archive]);
    verify_kept(&remote, &daemon);
    let [ours, theirs] = [&embedded, &remote]
        .map(|dist| view(dist, &image.digest()).without(|path| path.as_os_str().is_empty()));
    theirs.assert_same(&ours, "imported through a daemon and without");
    // What breaks leaves nothing.
    let broken = embedded.dir().join("broken.tar");
    fs_err::write(&broken, &fs_err::read(&archive).unwrap()[..20_000]).unwrap();
    remote.run(&through.args(&["import", broken.to_str().unwrap()])).exit(6);
    assert_eq!(left(&remote), left(&embedded));
    daemon.stop().ok();
}

#[test]
fn containerd_takes_our_archives_through_its_socket() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let name = registry.reference("test/varied:1");
    dist.ok(&["pull", &name]);
    dist.ok(&["export", "-o", "a.tar", &name]);
    drop(registry);
    let containerd = Containerd::start();
    let socket = containerd.socket().to_str().expect("a path in UTF-8");
    dist.ok(&["--address", socket, "import", "a.tar"]);
    let checked = containerd.ctr(&["images", "check"]);
    assert!(checked.contains("complete (4/4)") && checked.contains("true"), "{checked}");
    assert_eq!(containerd.ctr(&["leases", "ls", "-q"]), "");
    dist.ok(&["--address", socket, "export", "-o", "b.tar", &name]);
    let [ours, theirs] = ["a.tar", "b.tar"].map(|file| fs_err::read(dist.dir().join(file)));
    assert!(ours.unwrap() == theirs.unwrap());
}

#[test]
fn objects_are_fetched_through_a_daemon() {
    let _timed = timed("address");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let repository = registry.reference("test/varied");
    let (embedded, remote) = (dist(), dist());
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let mut lines: Vec<String> =
        image.blobs.iter().map(|blob| format!("{}\n", blob.digest)).collect();
    lines.push("1\n".into());
    let input = lines.concat();
    let multi = ["multi-fetch", &repository];
    let sorted = |text: String| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let ours = sorted(embedded.feed(&multi, input.as_bytes()).ok().text());
    assert_eq!(ours.len(), image.blob_count());
    for _ in 0..2 {
        let theirs = remote.feed(&through.args(&multi), input.as_bytes()).ok().text();
        assert_eq!(sorted(theirs), ours);
        assert_eq!(left(&remote), left(&embedded));
        verify_kept(&remote, &daemon);
    }
    let absent = format!("sha256:{}\n", "0".repeat(64));
    remote.feed(&through.args(&multi), absent.as_bytes()).exit(3);
    daemon.stop().ok();
}

#[test]
fn a_fetch_that_was_broken_off_goes_on_through_a_daemon() {
    let _timed = timed("address");
    let registry = Registry::start();
    let image = Image::random(32, &[4_000_000, 3_000]);
    image.push(&registry, "test/resume", "1");
    let proxy = FaultProxy::start(registry.address());
    let gate = Gate::default();
    let part = format!("/blobs/{}", image.layer(0));
    proxy.add(Rule::get(part, Fault::Hold(3_000_000, gate.clone())).times(1));
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let reference = proxy.reference("test/resume:1");
    let running = remote.spawn(&through.args(&["fetch", &reference]));
    gate.wait_held(1);
    wait_active(&remote, 2_000_000);
    wait_listed(&remote, &image.layer(1));
    running.signal("INT");
    running.wait().exit(130);
    gate.open();
    // What came is kept by a lease that ends soon, for the next try.
    assert_eq!(daemon.ctr(&["leases", "ls", "-q"]).ok().text().lines().count(), 1);
    remote.ok(&through.args(&["gc"]));
    proxy.reset();
    assert_eq!(pulled(&remote.ok(&through.args(&["fetch", &reference])).text()), image.digest());
    let gets = proxy.blob_gets(&image.layer(0));
    assert_eq!(gets.len(), 1, "{gets:?}");
    assert!(gets[0].range.is_some() && gets[0].sent <= 2_250_000, "{gets:?}");
    assert_eq!(proxy.blob_gets(&image.layer(1)).len(), 0, "a blob that was there came again");
    verify_store(&remote);
    daemon.stop().ok();
}

#[test]
fn what_is_not_there_or_wrong_is_not_unpacked_through_a_daemon() {
    let _timed = timed("address");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let unpack = ["rootfs", "unpack", &image.digest()];
    remote.run(&through.args(&unpack)).exit(3).says("dist fetch REF");
    remote.ok(&through.args(&["fetch", &registry.reference("test/varied:1")]));
    remote.ok(&through.args(&["delete", &image.layer(1)]));
    remote.run(&through.args(&unpack)).exit(3).says(&image.layer(1));
    for line in remote.ok(&["snapshots", "ls", "--format", "json"]).json().as_array().expect("rows")
    {
        assert_eq!(line["kind"], "committed", "{line}");
    }
    daemon.stop().ok();
}

#[test]
fn flags_that_a_daemon_does_not_know_are_refused() {
    let _timed = timed("address");
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let digest = format!("sha256:{}", "0".repeat(64));
    let certificates = Certificates::new();
    let authority = certificates.authority();
    let authority = authority.to_str().expect("a path in UTF-8");
    let (pull, unpack) = (&["pull", "localhost:1/a"][..], &["rootfs", "unpack", &digest][..]);
    for (command, flags, key) in [
        (pull, &["--insecure"][..], "network.insecure"),
        (pull, &["--tls-ca-cert", authority], "network.tls_ca_cert"),
        (pull, &["--hosts-dir", "/etc"], "network.hosts_dir"),
        (pull, &["--registries-conf", ""], "network.registries_conf"),
        (pull, &["--limit-rate", "1M"], "network.limit_rate"),
        (pull, &["--max-connections", "1"], "network.max_connections"),
        (pull, &["--retries", "1"], "network.retries"),
        (pull, &["--retry-delay", "1s"], "network.retry_delay"),
        (pull, &["--stall-timeout", "1s"], "network.stall_timeout"),
        (pull, &["--jobs", "2"], "jobs"),
        (pull, &["--max-layer-size", "1GiB"], "limits.max_layer_size"),
        (unpack, &["--max-zstd-window", "8MiB"], "limits.max_zstd_window"),
        (unpack, &["--jobs", "2"], "jobs"),
        (&["fetch", "localhost:1/a"], &["--durability", "full"], "durability"),
        (&["list"], &["--durability", "none"], "durability"),
    ] {
        let refused = remote.run(&through.args(&[flags, command].concat())).exit(2);
        refused.says(&format!("use {} through the daemon", flags[0])).says(key);
    }
    // What the file says is what is usual here; it is not meant for a daemon.
    let file = remote.dir().join("usual.toml");
    fs_err::write(&file, "jobs = 2\n[network]\nretries = 0\ninsecure = true\n").expect("write");
    let file = file.to_str().expect("a path in UTF-8");
    remote.run(&through.args(&["--config-file", file, "pull", "localhost:1/a"])).exit(5);
    daemon.stop().ok();
}

#[test]
fn a_blob_that_breaks_off_is_an_error_with_its_reason() {
    let _timed = timed("address");
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    // More than the pipes and windows between the two hold.
    let data: Vec<u8> = (0..64_000_000_u32).map(|n| (n % 253) as u8).collect();
    let digest = dist_core::Digest::sha256(&data).to_string();
    remote.feed(&["ingest", "large", "--expected-digest", &digest], &data).ok();
    let mut command = remote.command(&through.args(&["get", &digest]));
    let mut get = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a get");
    let mut first = [0; 1000];
    get.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("read the first bytes");
    assert_eq!(first, data[..1000]);
    drop(daemon.kill());
    let rest = get.wait_with_output().expect("wait for the get");
    let said = String::from_utf8_lossy(&rest.stderr);
    assert_eq!(rest.status.code(), Some(5), "{said}");
    assert!(said.contains("the connection broke"), "{said}");
}

#[test]
fn a_second_writer_waits_for_the_first_and_active_does_not_guess() {
    let _timed = timed("address");
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let data = vec![7; 3_000_000];
    let digest = dist_core::Digest::sha256(&data).to_string();
    let ingest = through.args(&["ingest", "one", "--expected-digest", &digest]);
    let start = || {
        let mut command = remote.command(&ingest);
        command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start an ingest")
    };
    let mut first = start();
    let mut input = first.stdin.take().expect("a pipe");
    input.write_all(&data[..2_500_000]).expect("write the first part");
    wait_active(&remote, 2_000_000);
    let active =
        |args: &[&str]| remote.ok(&[args, &["active", "--format", "json"]].concat()).json();
    assert_eq!(active(&[])[0]["active"], true);
    assert_eq!(active(&through.args(&[]))[0]["active"], Value::Null);
    let table = remote.ok(&through.args(&["active"])).text();
    assert!(table.lines().nth(1).is_some_and(|line| line.ends_with("unknown")), "{table}");
    let second = start();
    input.write_all(&data[2_500_000..]).expect("write the rest");
    drop(input);
    for ingest in [first, second] {
        let ended = ingest.wait_with_output().expect("wait for an ingest");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    assert_eq!(remote.ok(&["list", "-q"]).text().trim(), digest);
    daemon.stop().ok();
}

#[test]
fn an_image_without_all_its_blobs_is_shown_as_such() {
    let _timed = timed("address");
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/varied", "1");
    let remote = dist();
    let daemon = remote.daemon();
    let through = Through::new(&remote, &daemon);
    let shown = || {
        let table = through.same(&["images"]);
        let json = through.same(&["images", "--format", "json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        let last = table.lines().nth(1).and_then(|line| line.split_whitespace().last());
        (last.expect("a row").to_owned(), json[0]["complete"].clone())
    };
    remote.ok(&through.args(&["pull", &registry.reference("test/varied:1")]));
    assert_eq!(shown(), ("yes".to_owned(), Value::Bool(true)));
    remote.ok(&through.args(&["delete", &image.layer(0)]));
    assert_eq!(shown(), ("no".to_owned(), Value::Bool(false)));
    remote.ok(&through.args(&["delete", &image.digest()]));
    assert_eq!(shown(), ("no".to_owned(), Value::Bool(false)));
    daemon.stop().ok();
}
