//! Layers: unpacked beneath a directory or refused; nothing beside it changes.
//!
//! The first byte picks compression and form, the rest is the layer.
#![no_main]

use std::path::Path;

use dist_core::{Applier as _, Cancel, Compression, Descriptor, Digest, LayerForm, MediaType, Mount};
use dist_layer::{ApplyOptions, Cores, LayerApplier, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((choice, layer)) = input.split_first() else { return };
    let compression = match choice & 3 {
        0 => Compression::Gzip,
        1 => Compression::Zstd,
        _ => Compression::None,
    };
    let form = match choice & 4 {
        0 => LayerForm::Merged,
        _ => LayerForm::Stacked { user_xattr: false },
    };
    let limits = Limits { layer_bytes: 4 << 20, file_bytes: 4 << 20, ..Limits::default() };
    let cores = Cores::new(if choice & 8 == 0 { 1 } else { 2 });
    let options = ApplyOptions { limits, cores, ..ApplyOptions::new(form) };
    let temp = tempfile::tempdir_in(Path::new("/dev/shm")).expect("a directory");
    let (target, canary) = (temp.path().join("target"), temp.path().join("canary"));
    std::fs::create_dir(&target).expect("a directory");
    std::fs::write(&canary, "canary").expect("a file");
    let before = std::fs::metadata(&canary).expect("the canary").permissions();
    let desc = Descriptor::new(MediaType::Layer(compression), Digest::sha256(layer), layer.len() as u64);
    let mount = Mount {
        fstype: "bind".into(),
        source: target,
        target: None,
        options: vec!["rw".into(), "rbind".into()],
    };
    let _ = LayerApplier::new(options).apply(&desc, &mut &layer[..], &[mount], &Cancel::default());
    assert_eq!(std::fs::read(&canary).expect("the canary"), b"canary");
    assert_eq!(std::fs::metadata(&canary).expect("the canary").permissions(), before);
    assert_eq!(std::fs::read_dir(temp.path()).expect("the directory").count(), 2);
});
