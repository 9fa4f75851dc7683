//! Eight pulls on a disk that loses its power at every flush.

use std::ffi::OsStr;

use dist_testutil::{Image, ImageOptions, Layer, Registry, require, scratch, timed, torture};

use crate::support::{dist, project, script};

/// Two rigs at once race for loop devices.
static RIG: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn rig(modes: &[&str], flags: &[&str]) {
    let _one = RIG.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    require(&["qemu-storage-daemon", "losetup", "mkfs.ext4", "unshare"]);
    let dir = scratch();
    let registry = Registry::start();
    let base = Layer::random(100, 30_000);
    let mut images: Vec<Image> = (101..108)
        .map(|seed| {
            let layers = [base.clone(), Layer::random(seed, 20_000)];
            Image::new(&layers, &ImageOptions::default())
        })
        .collect();
    images.push(Image::varied());
    let plain = dist();
    let mut list = Vec::new();
    for (at, image) in images.iter().enumerate() {
        let name = format!("test/power-{at}");
        image.push(&registry, &name, "1");
        let reference = registry.reference(&format!("{name}:1"));
        let tree = dir.path().join(format!("tree-{at}"));
        plain.ok(&["unpack", &reference, tree.to_str().expect("UTF-8")]);
        let blobs: serde_json::Map<String, serde_json::Value> = image
            .blobs
            .iter()
            .chain([&image.manifest])
            .map(|blob| (blob.digest.to_string(), blob.bytes.len().into()))
            .collect();
        list.push(serde_json::json!({
            "name": format!("power-{at}"),
            "reference": reference,
            "digest": image.digest(),
            "blobs": blobs,
            "tree": tree,
        }));
    }
    let file = dir.path().join("images.json");
    fs_err::write(&file, serde_json::to_string(&list).expect("JSON")).expect("write the list");
    let runner = project().join("tests/adversarial/power_cut.py");
    for mode in modes {
        let work = dir.path().join(mode);
        fs_err::create_dir(&work).expect("make a directory");
        let mut args = vec![
            runner.as_os_str(),
            OsStr::new("run"),
            OsStr::new("--dist"),
            OsStr::new(env!("CARGO_BIN_EXE_dist")),
            OsStr::new("--images"),
            file.as_os_str(),
            OsStr::new("--work"),
            work.as_os_str(),
            OsStr::new("--mode"),
            OsStr::new(mode),
        ];
        args.extend(flags.iter().map(OsStr::new));
        let said = script("python3", &args);
        assert!(said.contains(" 0 bad"), "{said}");
        assert!(!said.contains("\n0 points"), "{said}");
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let _timed = timed("power cut");
    if torture() {
        rig(&["durable", "prefix", "random"], &[]);
    } else {
        rig(&["durable"], &[]);
    }
}

#[test]
fn with_full_durability_too() {
    let _timed = timed("power cut");
    let full = ["--flag=--durability", "--flag=full"];
    if torture() {
        rig(&["durable", "random"], &full);
    } else {
        rig(&["durable"], &[full[0], full[1], "--every=60"]);
    }
}
