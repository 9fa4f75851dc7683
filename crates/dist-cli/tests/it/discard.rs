//! Layers that are kept unpacked only, and what everybody says of their blobs.

use std::path::Path;
use std::time::Duration;

use dist_core::Digest;
use dist_testutil::{
    Dist, Entry, Fault, FaultProxy, Form, Image, ImageOptions, Layer, Registry, Rule, Tree,
    blobs_on_disk, scratch, timed, torture,
};

use crate::support::{chain_of, dist, pull, verify_store, view};

const PULL: [&str; 4] = ["pull", "--snapshotter", "erofs", "--discard-blobs"];

fn erofs() -> Dist {
    dist().with(&["--snapshotter", "erofs"])
}

fn listed(dist: &Dist) -> Vec<String> {
    let mut all: Vec<_> = dist.ok(&["list", "-q"]).text().lines().map(str::to_owned).collect();
    all.sort();
    all
}

/// The digests of an image's documents.
fn documents(image: &Image) -> Vec<String> {
    let mut all: Vec<_> =
        [&image.manifest, &image.blobs[0]].iter().map(|blob| blob.digest.to_string()).collect();
    all.sort();
    all
}

/// The last column of `dist images`, and what JSON says.
fn told(dist: &Dist) -> (String, bool, u64) {
    let text = dist.ok(&["images"]).text();
    let last = text.lines().last().and_then(|line| line.split_whitespace().last());
    let json = dist.ok(&["images", "--format", "json"]).json();
    let complete = json[0]["complete"].as_bool().expect("a boolean");
    let discarded = json[0]["discarded"].as_u64().expect("a number");
    (last.expect("a row").to_owned(), complete, discarded)
}

/// An image in a registry, and its tree.
fn image_in(registry: &Registry, form: Form) -> (Image, Tree) {
    let image = Image::varied_in(form);
    image.push(registry, "test/discard", "1");
    let dist = dist();
    pull(&dist, &registry.reference("test/discard:1"));
    (image.clone(), view(&dist, &image.digest()))
}

#[test]
fn layers_are_there_as_snapshots_only() {
    let _timed = timed("discard");
    for form in [Form::Plain, Form::Gzip, Form::Zstd] {
        let registry = Registry::start();
        let (image, tree) = image_in(&registry, form);
        let proxy = FaultProxy::start(registry.address());
        let reference = proxy.reference("test/discard:1");
        let dist = erofs();
        dist.ok(&["pull", "--discard-blobs", &reference]);
        assert_eq!(listed(&dist), documents(&image));
        assert_eq!(blobs_on_disk(dist.root()).len(), 2, "files of blobs are left");
        let layers = image.blobs.len() as u64 - 1;
        assert_eq!(told(&dist), ("unpacked".to_owned(), false, layers));
        verify_store(&dist);
        dist.run(&["get", &image.layer(0)]).exit(3);

        proxy.reset();
        dist.ok(&["pull", &reference]);
        let requests = proxy.log();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(listed(&dist), documents(&image));
        view(&dist, &image.digest()).assert_same(&tree, "of an image without its blobs");

        let collected = dist.ok(&["gc"]).text();
        assert!(
            collected.contains("removed nothing") || !collected.contains("sha256"),
            "{collected}"
        );
        assert!(
            dist.ok(&["fsck", "--deep"]).text().contains("no problem")
                || listed(&dist) == documents(&image)
        );
        view(&dist, &image.digest()).assert_same(&tree, "after a collection");

        dist.ok(&["fetch", &reference]);
        assert_eq!(told(&dist).0, "yes");
        // What was fetched by hand is kept like any other until it is asked for again.
        dist.ok(&["pull", &reference]);
        assert_eq!(told(&dist).0, "yes");
        dist.ok(&["pull", "--discard-blobs", &reference]);
        assert_eq!(told(&dist).0, "unpacked");
    }
}

#[test]
fn other_snapshotters_fetch_what_they_need() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, tree) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    let dist = dist();
    dist.ok(&[&PULL[..], &[&reference]].concat());
    assert_eq!(listed(&dist), documents(&image));
    dist.ok(&["pull", "--snapshotter", "overlayfs", &reference]);
    assert_eq!(told(&dist).0, "yes");
    view(&dist, &image.digest()).assert_same(&tree, "of overlayfs");
    dist.run(&["pull", "--snapshotter", "overlayfs", "--discard-blobs", &reference])
        .exit(2)
        .says("erofs");
    dist.run(&["--address", "/nowhere", "pull", "--discard-blobs", &reference])
        .exit(2)
        .says("discard_blobs");
}

#[test]
fn what_reads_layers_has_them_made_or_fetched_again() {
    let _timed = timed("discard");
    for form in [Form::Plain, Form::Gzip] {
        let registry = Registry::start();
        let (image, tree) = image_in(&registry, form);
        let reference = registry.reference("test/discard:1");
        let dist = erofs();
        dist.ok(&["pull", "--discard-blobs", &reference]);
        let file = tree.0.iter().find(|(_, node)| node.contents.is_some_and(|(size, _)| size > 0));
        let (path, node) = file.expect("a file with something in it");
        let path = path.to_str().expect("a path in UTF-8");
        let digest = |bytes: &[u8]| Some((bytes.len() as u64, Digest::sha256(bytes)));
        assert_eq!(digest(&dist.ok(&["cat", &reference, path]).stdout), node.contents);
        assert_eq!(listed(&dist), documents(&image));

        let bundle = scratch();
        let dir = bundle.path().to_str().expect("a path in UTF-8");
        dist.ok(&["oci", "bundle", &reference, dir, "true"]);
        let bytes = fs_err::read(bundle.path().join("rootfs").join(path)).expect("read a file");
        assert_eq!(digest(&bytes), node.contents);
        assert_eq!(listed(&dist), documents(&image));

        let overlayfs = ["run", "--rm", "--pull", "never", "--snapshotter", "overlayfs"];
        dist.run(&[&overlayfs[..], &[&reference, "/none"]].concat()).exit(125).says("not in the");
        let overlayfs = ["run", "--rm", "--snapshotter", "overlayfs"];
        dist.run(&[&overlayfs[..], &[&reference, "/none"]].concat()).exit(127);
        assert_eq!(listed(&dist), documents(&image));
    }
}

#[test]
fn a_setting_is_heeded_where_it_can_be() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, _) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    let dist = dist();
    let file = dist.dir().join("dist.toml");
    fs_err::write(&file, "snapshotter = \"erofs\"\ndiscard_blobs = true\n").expect("write");
    let dist = dist.env("DIST_CONFIG", &file);
    let shown = dist.ok(&["config", "show"]).text();
    let row = shown.lines().find(|line| line.starts_with("discard_blobs")).expect("a row");
    assert!(row.contains("true"), "{row}");
    dist.ok(&["pull", "--snapshotter", "overlayfs", &reference]);
    assert_eq!(told(&dist).0, "yes");
    dist.ok(&["pull", &reference]);
    assert_eq!(listed(&dist), documents(&image));
    // A daemon goes by the same setting.
    dist.ok(&["rmi", &reference]);
    dist.ok(&["gc"]);
    let served = dist.daemon();
    let address = served.address().to_str().expect("UTF-8").to_owned();
    dist.ok(&["--address", &address, "pull", &reference]);
    let ctr = |args: &[&str]| served.ctr(args).ok().text();
    assert_eq!(ctr(&["content", "ls", "-q"]).lines().count(), 2, "layers are kept");
    assert!(ctr(&["images", "check"]).contains("incomplete"));
    drop(served.stop());
    assert_eq!(listed(&dist), documents(&image));
}

#[test]
fn what_somebody_else_counts_on_stays() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (base, own) = (Layer::random(1, 50_000), Layer::random(2, 10_000));
    let shared = Image::new(&[base.clone(), Layer::random(3, 10_000)], &ImageOptions::default());
    let image = Image::new(&[base.clone(), own.clone()], &ImageOptions::default());
    shared.push(&registry, "test/shared", "1");
    image.push(&registry, "test/own", "1");
    let dist = erofs();
    dist.ok(&["pull", &registry.reference("test/shared:1")]);
    dist.ok(&["pull", "--discard-blobs", &registry.reference("test/own:1")]);
    let there = listed(&dist);
    assert!(there.contains(&base.blob.digest.to_string()), "another image has that layer");
    assert!(!there.contains(&own.blob.digest.to_string()));

    // By hand, so nobody else may take it.
    let dist = erofs();
    let digest = own.blob.digest.to_string();
    dist.feed(&["ingest", "by-hand", "--expected-digest", &digest], &own.blob.bytes);
    dist.ok(&["pull", "--discard-blobs", &registry.reference("test/own:1")]);
    let there = listed(&dist);
    assert!(there.contains(&digest) && !there.contains(&base.blob.digest.to_string()));

    // From nowhere that is known, so it could not come again; a plain tar always can.
    for (form, stays) in [(Form::Gzip, true), (Form::Plain, false)] {
        let layer = Layer::new(&[Entry::file("x", "x")], form);
        let image = Image::new(std::slice::from_ref(&layer), &ImageOptions::default());
        let dist = erofs();
        let layout = image.write_layout(&dist.dir().join("layout"), "1");
        dist.ok(&["pull", "--discard-blobs", &layout.reference("1")]);
        assert_eq!(listed(&dist).contains(&layer.blob.digest.to_string()), stays);
    }
}

#[test]
fn a_damaged_image_is_found_and_made_again() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, tree) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    let dist = erofs();
    dist.ok(&["pull", "--discard-blobs", &reference]);
    let damage = |from_end: bool| {
        for entry in fs_err::read_dir(dist.root().join("snapshots/erofs")).expect("list") {
            let path = entry.expect("list").path();
            let mut bytes = fs_err::read(&path).expect("read");
            let size = usize::try_from(u64::from_le_bytes(bytes[8..16].try_into().expect("8")));
            // The first inode's owner, or the first entry's name.
            let at = 4096 + if from_end { size.expect("small") + 32 + 24 } else { 0 };
            bytes[at] ^= 1;
            fs_err::write(&path, bytes).expect("write");
        }
    };
    // What was made of the tar is made of it again.
    damage(true);
    dist.run(&["fsck", "--deep"]).exit(8);
    dist.ok(&["fsck", "--deep", "--repair"]);
    dist.ok(&["fsck", "--deep"]);
    view(&dist, &image.digest()).assert_same(&tree, "made again");
    // The tar itself is nowhere else: its blob has to come first.
    damage(false);
    dist.run(&["fsck", "--deep", "--repair"]).exit(6).says("dist fetch");
    dist.ok(&["fetch", &reference]);
    dist.ok(&["fsck", "--deep", "--repair"]);
    dist.ok(&["fsck", "--deep"]);
    view(&dist, &image.digest()).assert_same(&tree, "made again of its blobs");
}

/// A part of an image is of no use to who needs all of it.
#[test]
fn what_was_brought_goes_again_where_the_rest_can_not_be_had() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let layer = |text: &str, form| Layer::new(&[Entry::file(text, text)], form);
    let first = layer("made again of its tar", Form::Plain);
    // They are brought in the order of their digests.
    let mut fetched = (0..).map(|n| layer(&format!("fetched {n}"), Form::Zstd));
    let fetched = fetched.find(|next| next.blob.digest > first.blob.digest);
    let layers = [first, fetched.expect("one of many")];
    let image = Image::new(&layers, &ImageOptions::default());
    image.push(&registry, "test/half", "1");
    let dist = erofs();
    let reference = registry.reference("test/half:1");
    dist.ok(&["pull", "--discard-blobs", &reference]);
    assert_eq!(listed(&dist), documents(&image));
    drop(registry);
    let ran = dist.run(&["export", "-o", "archive", &reference]);
    assert_ne!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(listed(&dist), documents(&image));
}

#[test]
fn what_was_brought_goes_again_where_it_could_not_be_written_or_sent() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let (image, _) = image_in(&registry, Form::Gzip);
    let (dist, reference) = (erofs(), registry.reference("test/discard:1"));
    dist.ok(&["pull", "--discard-blobs", &reference]);
    dist.run(&["export", "-o", "/dev/full", &reference]).exit(8);
    assert_eq!(listed(&dist), documents(&image), "export");
    proxy.add(Rule::any("/manifests/", Fault::Status(403, Vec::new())).by("PUT"));
    dist.run(&["push", &reference, &proxy.reference("test/other:1")]).exit(4);
    assert!(proxy.log().iter().any(|request| request.path.contains("/uploads/")));
    assert_eq!(listed(&dist), documents(&image), "push");
}

#[test]
fn several_processes_at_once() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, tree) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    for _ in 0..if torture() { 50 } else { 5 } {
        let dist = erofs();
        let discarding = ["pull", "--discard-blobs", &reference];
        let keeping = ["fetch", &reference];
        let running: Vec<_> = [&discarding[..], &keeping, &discarding, &keeping]
            .iter()
            .map(|args| dist.spawn(args))
            .collect();
        running.into_iter().for_each(|running| drop(running.wait().ok()));
        // Whoever fetched was told that all is there; a later pull may take it away again.
        verify_store(&dist);
        dist.ok(&["pull", "--discard-blobs", &reference]);
        assert_eq!(listed(&dist), documents(&image));
        view(&dist, &image.digest()).assert_same(&tree, "by several");
    }
}

#[test]
fn killed_at_any_moment() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, tree) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    let args = ["pull", "--discard-blobs", &reference];
    let took = erofs().ok(&args).took;
    let rounds: u32 = if torture() { 400 } else { 15 };
    for round in 0..rounds {
        let dist = erofs();
        // The moment is the stimulus here: an even spread over the pull and a bit past it.
        let moment =
            took * round / (rounds - 3) + Duration::from_micros(u64::from(round % 7) * 130);
        let running = dist.spawn(&args);
        std::thread::sleep(moment);
        running.kill();
        verify_store(&dist);
        dist.ok(&args);
        verify_store(&dist);
        assert_eq!(listed(&dist), documents(&image), "round {round}");
        assert_eq!(chain_of(&dist, &image.digest()), image.chain_id().0.to_string());
        if round % 5 == 0 || torture() {
            view(&dist, &image.digest()).assert_same(&tree, "after a kill");
        }
    }
}

/// What is not on the disk yet stands for nothing.
#[test]
fn nothing_is_discarded_that_a_power_cut_could_take() {
    let _timed = timed("discard");
    let registry = Registry::start();
    let (image, _) = image_in(&registry, Form::Gzip);
    let reference = registry.reference("test/discard:1");
    let dist = erofs();
    dist.ok(&["fetch", &reference]);
    // The blobs are on the disk, and nothing here syncs the snapshots.
    dist.ok(&["--durability", "none", "pull", "--discard-blobs", &reference]);
    assert_eq!(listed(&dist).len(), image.blobs.len() + 1);
    dist.ok(&["pull", "--discard-blobs", &reference]);
    assert_eq!(listed(&dist), documents(&image));
    assert!(Path::new(dist.root()).join("snapshots/erofs").is_dir());
}
