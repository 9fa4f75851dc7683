//! Layers as images: written or refused, within bounds, and the tar comes back. Images are read
//! whatever is in them.
//!
//! The first byte picks compression and form. For an image of a layer that is then damaged, the
//! second says how many of the last bytes, by threes, are places counted from where it describes its
//! tree, and what is put there.
#![no_main]

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use dist_core::{Cancel, Compression, Descriptor, Digest, MediaType};
use dist_layer::{Cores, ErofsOptions, Limits, erofs_tar, inherit_erofs_dirs, write_erofs};
use libfuzzer_sys::fuzz_target;

fn file() -> File {
    tempfile::tempfile_in(Path::new("/dev/shm")).expect("a file")
}

fn dirs() -> Vec<Vec<u8>> {
    ["", "a", "a/b", "d", "etc"].iter().map(|dir| dir.as_bytes().to_vec()).collect()
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, rest)) = input.split_first() else { return };
    let whole = file();
    whole.write_all_at(rest, 0).expect("write");
    if choice & 0xc0 == 0xc0 {
        // Bytes that claim to be an image.
        let _ = inherit_erofs_dirs(&whole, &[whole.try_clone().expect("a file")], &dirs());
        let _ = erofs_tar(whole).map(|mut tar| tar.read_to_end(&mut Vec::new()));
        return;
    }
    let (layer, damage) = match rest.split_first() {
        Some((count, rest)) if choice & 0x20 != 0 => {
            rest.split_at(rest.len().saturating_sub(usize::from(*count) * 3))
        }
        _ => (rest, &[][..]),
    };
    let compression = match choice & 3 {
        0 => Compression::Gzip,
        1 => Compression::Zstd,
        _ => Compression::None,
    };
    let limits = Limits { layer_bytes: 4 << 20, file_bytes: 4 << 20, ..Limits::default() };
    let options = ErofsOptions { limits, user_xattr: choice & 4 != 0, cores: Cores::new(1) };
    let media_type = MediaType::Layer(compression);
    let desc = Descriptor::new(media_type, Digest::sha256(layer), layer.len() as u64);
    let image = file();
    let Ok(applied) = write_erofs(&desc, layer, &image, &options, &Cancel::default()) else { return };
    let taken = image.metadata().expect("the image").blocks() * 512;
    assert!(taken <= (1 << 20) + 128 * applied.size, "{taken} bytes for {}", applied.size);

    let mut tar = Vec::new();
    let read = erofs_tar(image.try_clone().expect("a file")).and_then(|mut it| it.read_to_end(&mut tar));
    assert_eq!(read.expect("the tar") as u64, applied.size);
    assert_eq!(Digest::sha256(&tar), applied.diff_id.0);
    if compression == Compression::None {
        assert!(tar == layer);
    }

    let below = file();
    write_erofs(&desc, layer, &below, &options, &Cancel::default()).expect("the same again");
    inherit_erofs_dirs(&image, &[below], &applied.implicit_dirs).expect("what was just written");

    let mut block = [0; 4];
    image.read_exact_at(&mut block, 1024 + 40).expect("the superblock");
    let meta = u64::from(u32::from_le_bytes(block)) * 512;
    for change in damage.chunks_exact(3) {
        let at = u64::from(u16::from_le_bytes([change[0], change[1]]));
        image.write_all_at(&change[2..], meta + at).expect("write");
    }
    let same = [image.try_clone().expect("a file")];
    let _ = inherit_erofs_dirs(&image, &same, &dirs());
});
