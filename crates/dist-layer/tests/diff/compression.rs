//! Layers as other programs read them, and compressed.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;

use dist_core::{Applier as _, Cancel, Compression, LayerForm};
use dist_layer::{ApplyOptions, Compressor, LayerApplier};
use rustix::fs::{AtFlags, CWD, Uid, XattrFlags};

use crate::tree::{self, assert_same, bind};
use crate::{Fixture, read};

#[test]
fn other_readers_read_it() {
    let fixture = Fixture::new();
    let root = fixture.path("b");
    let long = root.join("l".repeat(150)).join("m".repeat(150));
    std::fs::create_dir_all(long.parent().unwrap()).unwrap();
    std::fs::write(&long, b"long").unwrap();
    std::fs::hard_link(&long, root.join("other")).unwrap();
    symlink("t".repeat(200), root.join("link")).unwrap();
    rustix::fs::chownat(
        CWD,
        root.join("other"),
        Some(Uid::from_raw(3_000_000)),
        None,
        AtFlags::empty(),
    )
    .unwrap();
    rustix::fs::setxattr(root.join("other"), "user.x", b"a\0\n", XattrFlags::empty()).unwrap();
    std::fs::write(fixture.path("a").join("gone"), b"").unwrap();
    for compression in [Compression::None, Compression::Gzip] {
        let path = fixture.path("layer.tar");
        std::fs::write(&path, compressed(&fixture.diff().unwrap().0, compression)).unwrap();
        let unpacked = fixture.path("unpacked");
        std::fs::create_dir(&unpacked).unwrap();
        let run = |program: &str, args: &[&OsStr]| {
            let status = std::process::Command::new(program).args(args).output().unwrap();
            assert!(status.status.success(), "{program}: {status:?}");
            String::from_utf8(status.stdout).unwrap()
        };
        let flags: &[&OsStr] = &["--xattrs", "--xattrs-include=*", "-C"].map(OsStr::new);
        let files = [OsStr::new("-xf"), path.as_os_str()];
        run("tar", &[flags, &[unpacked.as_os_str()], &files[..]].concat());
        assert_eq!(std::fs::read(unpacked.join(".wh.gone")).unwrap(), b"");
        std::fs::remove_file(unpacked.join(".wh.gone")).unwrap();
        assert_same(&read(&unpacked), &read(&root));
        std::fs::remove_dir_all(&unpacked).unwrap();
        let script = "import sys, tarfile\nfor m in tarfile.open(sys.argv[1]): \
                      print(m.name[:9], m.linkname[:3], m.type.decode(), m.uid)";
        let listed = run("python3", &[OsStr::new("-c"), OsStr::new(script), path.as_os_str()]);
        let lines: Vec<&str> = listed.lines().collect();
        assert_eq!(
            lines,
            [
                ".wh.gone  0 0",
                "link ttt 2 0",
                "lllllllll  5 0",
                "lllllllll  0 3000000",
                "other lll 1 3000000"
            ]
        );
    }
}

fn compressed(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut compressor = Compressor::new(compression, Vec::new()).unwrap();
    std::io::Write::write_all(&mut compressor, bytes).unwrap();
    compressor.finish().unwrap()
}

#[test]
fn every_compression_is_the_same_twice_and_is_read_again() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path("b").join("file"), vec![7; 3_000_000]).unwrap();
    let (bytes, done) = fixture.diff().unwrap();
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let packed = compressed(&bytes, compression);
        assert_eq!(packed, compressed(&bytes, compression));
        assert_eq!(dist_layer::detect(&packed).unwrap(), compression);
        let applied = LayerApplier::new(ApplyOptions::new(LayerForm::Merged))
            .apply(
                &tree::descriptor(compression),
                &mut &packed[..],
                &[bind(&fixture.path("a"))],
                &Cancel::default(),
            )
            .unwrap();
        assert_eq!(applied.diff_id, done.diff_id);
    }
}
