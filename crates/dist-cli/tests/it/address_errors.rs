//! Errors through a daemon have the exit codes and hints that they have without one.

use dist_testutil::{
    Blob, Dist, Entry, Fault, FaultProxy, Filesystem, Form, Gate, Image, ImageOptions, Layer,
    Registry, Rule, timed,
};

use crate::address::Through;
use crate::support::{chain_of, dist, pull, verify_store};

impl Through<'_> {
    /// Runs a command both ways and demands of both the code, and that they say all of `said`.
    #[track_caller]
    fn fails(&self, dist: &Dist, args: &[&str], code: i32, said: &[&str]) {
        for args in [args.to_vec(), self.args(args)] {
            let mut ran = dist.run(&args).exit(code);
            for said in said {
                ran = ran.says(said);
            }
        }
    }
}

fn blob_path(dist: &Dist, digest: &str) -> std::path::PathBuf {
    dist.root().join("content/blobs").join(digest.replace(':', "/"))
}

/// A layer with an entry above its root, which no library writes.
fn escape() -> Layer {
    let mut layer = Layer::new(&[Entry::file("aa/bb/out", "x")], Form::Plain);
    let mut bytes = layer.blob.bytes.to_vec();
    bytes[..6].copy_from_slice(b"../../");
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    layer.diff_id = dist_core::DiffId(dist_core::Digest::sha256(&bytes));
    layer.blob = Blob::new(&layer.blob.media_type, bytes);
    layer
}

#[test]
fn an_unsafe_layer_is_one_through_a_daemon() {
    let _timed = timed("address");
    let (registry, dist) = (Registry::start(), dist());
    let image = Image::new(&[escape()], &ImageOptions::default());
    image.push(&registry, "test/unsafe", "1");
    let reference = registry.reference("test/unsafe:1");
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    through.fails(&dist, &["pull", &reference], 7, &["do not use this image"]);
    // Here it is a transfer, there an apply.
    dist.ok(&["fetch", &reference]);
    through.fails(&dist, &["rootfs", "unpack", &image.digest()], 7, &["do not use this image"]);
    daemon.stop().ok();
}

#[test]
fn a_full_disk_is_one_through_a_daemon() {
    let _timed = timed("address");
    let (registry, image) = (Registry::start(), Image::random(96, &[40 << 20, 40 << 20]));
    image.push(&registry, "test/big", "1");
    let reference = registry.reference("test/big:1");
    let disk = Filesystem::ext4(64);
    let dist = dist().at(disk.path().join("root"));
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    for command in ["pull", "fetch"] {
        let ran = dist.run(&through.args(&[command, &reference])).exit(8).says("make room");
        // Whoever writes first when it is full, a blob's ingest or a file of the layer, tells it once.
        let told = ["write ingest", "write file"].map(|what| ran.stderr.matches(what).count());
        assert_eq!(told.iter().sum::<usize>(), 1, "{}", ran.stderr);
    }
    daemon.stop().ok();
}

#[test]
fn a_damaged_store_is_one_through_a_daemon() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/damaged", "1");
    let reference = registry.reference("test/damaged:1");
    pull(&dist, &reference);
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let repair = &["`dist fsck --repair`"][..];
    let (layer, manifest) = (image.layer(0), image.digest());
    let replace = |digest: &str, bytes: &[u8]| {
        let path = blob_path(&dist, digest);
        fs_err::remove_file(&path).expect("remove a blob");
        fs_err::write(path, bytes).expect("write another");
    };
    replace(&layer, b"short");
    through.fails(&dist, &["get", &layer], 6, repair);
    let whole = fs_err::read(blob_path(&dist, &manifest)).expect("read the manifest");
    replace(&manifest, b"{}");
    for args in [&["get", &manifest][..], &["inspect", "--local", &reference]] {
        through.fails(&dist, args, 6, repair);
    }
    fs_err::remove_file(blob_path(&dist, &manifest)).expect("remove the manifest");
    for args in [&["get", &manifest][..], &["inspect", "--local", &reference]] {
        through.fails(&dist, args, 3, repair);
    }
    fs_err::write(blob_path(&dist, &manifest), whole).expect("put it back");
    daemon.stop().ok();
}

#[test]
fn a_damaged_database_is_one_through_a_daemon() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/damaged", "1");
    pull(&dist, &registry.reference("test/damaged:1"));
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let script = "import sqlite3, sys\n\
                  db = sqlite3.connect(sys.argv[1], timeout=10)\n\
                  db.execute('pragma wal_checkpoint(truncate)')";
    let database = dist.root().join("meta.db");
    dist_testutil::run("python3", &["-c".as_ref(), script.as_ref(), database.as_os_str()]);
    let file = fs_err::OpenOptions::new().write(true).open(&database).expect("open it");
    std::os::unix::fs::FileExt::write_all_at(file.file(), &[0x5a; 6 * 4096], 4096)
        .expect("damage it");
    through.fails(&dist, &["images"], 8, &["`dist fsck` says more"]);
    drop(daemon.kill());
}

#[test]
fn a_lost_snapshot_is_made_again_through_a_daemon() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::varied());
    image.push(&registry, "test/lost", "1");
    pull(&dist, &registry.reference("test/lost:1"));
    let chain = chain_of(&dist, &image.digest());
    let lose = || {
        let mounts = dist.ok(&["rootfs", "prepare", "--view", &chain, "seen"]).text();
        dist.ok(&["snapshots", "rm", "seen"]);
        let below = mounts.split("lowerdir=").nth(1).expect("an overlay");
        let top = below.split([':', ',', '\'', ' ']).next().expect("a directory");
        fs_err::remove_dir_all(top).expect("remove it");
    };
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    lose();
    dist.ok(&through.args(&["rootfs", "prepare", &chain, "mine"]));
    dist.ok(&["snapshots", "rm", "mine"]);
    verify_store(&dist);
    // What stands on it may be in use.
    dist.ok(&["rootfs", "prepare", "--view", &chain, "held"]);
    lose();
    let said = ["the view snapshot held stands on it", "`dist fsck --repair`"];
    through.fails(&dist, &["rootfs", "prepare", &chain, "mine"], 1, &said);
    daemon.stop().ok();
}

#[test]
fn content_that_is_there_is_ingested_without_its_digest() {
    let _timed = timed("address");
    let dist = dist();
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    for _ in 0..2 {
        dist.feed(&through.args(&["ingest", "key"]), b"the same").ok();
        assert_eq!(through.same(&["list", "-q"]).lines().count(), 1);
        assert_eq!(through.same(&["active", "-q"]), "");
    }
    daemon.stop().ok();
}

#[test]
fn an_image_is_resolved_once_and_a_lost_daemon_is_told_in_words() {
    let _timed = timed("address");
    let (registry, dist, image) = (Registry::start(), dist(), Image::random(97, &[8_000_000]));
    image.push(&registry, "test/large", "1");
    let (proxy, gate) = (FaultProxy::start(registry.address()), Gate::default());
    let daemon = dist.daemon();
    let through = Through::new(&dist, &daemon);
    let small = Image::varied();
    small.push(&registry, "test/small", "1");
    let small = registry.reference("test/small:1");
    let ran = dist.ok(&through.args(&["--progress", "json", "pull", &small]));
    assert_eq!(ran.stderr.matches("\"event\":\"resolved\"").count(), 1, "{}", ran.stderr);
    proxy.add(Rule::get("/blobs/", Fault::Hold(100_000, gate.clone())));
    let running = dist.spawn(&through.args(&["pull", &proxy.reference("test/large:1")]));
    gate.wait_held(1);
    drop(daemon.kill());
    let ran = running.wait().exit(5).says("the connection broke: ");
    for dump in ["code:", "source:", "tonic::"] {
        assert!(!ran.stderr.contains(dump), "{}", ran.stderr);
    }
    gate.open();
}
