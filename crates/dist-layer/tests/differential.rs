//! Our reader against the `tar` crate's, on archives that its writer makes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/tree.rs"]
mod tree;

use std::path::Path;

use proptest::prelude::*;
use tree::{STACKED, apply, assert_same};

#[derive(Clone, Debug)]
enum What {
    File(Vec<u8>),
    Dir,
    Symlink(String),
    Link,
}

#[derive(Clone, Debug)]
struct Thing {
    name: String,
    what: What,
    mode: u32,
    mtime: u64,
    long: bool,
    xattr: Option<Vec<u8>>,
}

fn thing() -> impl Strategy<Value = Thing> {
    let what = prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..3000).prop_map(What::File),
        1 => Just(What::Dir),
        1 => "[a-z/.]{1,120}".prop_map(What::Symlink),
        1 => Just(What::Link),
    ];
    let xattr = prop::option::of(prop::collection::vec(any::<u8>(), 0..50));
    ("[a-z]{1,12}", what, 0u32..0o7777, 0u64..4_000_000_000, any::<bool>(), xattr).prop_map(
        |(name, what, mode, mtime, long, xattr)| Thing { name, what, mode, mtime, long, xattr },
    )
}

/// Writes each thing into a directory of its own, so that no two have one name.
fn write(things: &[Thing]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut last_file = None;
    for (number, thing) in things.iter().enumerate() {
        let filler = if thing.long { "x".repeat(150) } else { String::new() };
        let dir = format!("{number}{filler}");
        let path = format!("{dir}/{}", thing.name);
        let mut header = tar::Header::new_gnu();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(thing.mtime);
        header.set_mode(0o755);
        header.set_size(0);
        header.set_entry_type(tar::EntryType::Directory);
        builder.append_data(&mut header, &dir, &[][..]).unwrap();
        header.set_mode(thing.mode);
        if let (Some(value), What::File(_)) = (&thing.xattr, &thing.what) {
            let key = "SCHILY.xattr.user.test";
            builder.append_pax_extensions([(key, value.as_slice())]).unwrap();
        }
        match &thing.what {
            What::File(body) => {
                header.set_size(body.len() as u64);
                header.set_entry_type(tar::EntryType::Regular);
                builder.append_data(&mut header, &path, body.as_slice()).unwrap();
                last_file = Some(path);
            }
            What::Dir => builder.append_data(&mut header, &path, &[][..]).unwrap(),
            What::Symlink(to) => {
                header.set_entry_type(tar::EntryType::Symlink);
                builder.append_link(&mut header, &path, to).unwrap();
            }
            What::Link => {
                if let Some(target) = &last_file {
                    header.set_entry_type(tar::EntryType::Link);
                    builder.append_link(&mut header, &path, target).unwrap();
                }
            }
        }
    }
    builder.into_inner().unwrap()
}

fn reference(bytes: &[u8], dir: &Path) {
    let mut archive = tar::Archive::new(bytes);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.unpack(dir).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn same_tree_as_the_tar_crate(things in prop::collection::vec(thing(), 1..12)) {
        tree::require_root();
        let temp = tempfile::tempdir().unwrap();
        let (ours, theirs) = (temp.path().join("ours"), temp.path().join("theirs"));
        let bytes = write(&things);
        let applied = apply(STACKED, &bytes, &ours).unwrap();
        prop_assert_eq!(applied.diff_id.0, dist_core::Digest::sha256(&bytes));
        std::fs::create_dir(&theirs).unwrap();
        reference(&bytes, &theirs);
        let [mut ours, mut theirs] = [ours, theirs].map(|dir| tree::read(&dir));
        // What the other does not do: times of symlinks and of directories, whose entries it makes
        // after setting them; extended attributes; and modes of files that a link entry names
        // again.
        for tree in [&mut ours, &mut theirs] {
            tree.remove(Path::new(""));
            for node in tree.values_mut() {
                if node.kind == "dir" || node.kind.starts_with("symlink") {
                    node.mtime = (0, 0);
                }
            }
        }
        for (number, thing) in things.iter().enumerate() {
            if let (Some(value), What::File(_)) = (&thing.xattr, &thing.what) {
                let filler = if thing.long { "x".repeat(150) } else { String::new() };
                let path = Path::new(&format!("{number}{filler}")).join(&thing.name);
                let node = &ours[&path];
                prop_assert_eq!(node.xattrs.get(b"user.test".as_slice()), Some(value));
            }
        }
        for node in ours.values_mut() {
            node.xattrs.clear();
        }
        assert_same(&ours, &theirs);
    }

    #[test]
    fn archives_cut_short_are_refused(things in prop::collection::vec(thing(), 1..4), cut in any::<prop::sample::Index>()) {
        let temp = tempfile::tempdir().unwrap();
        let bytes = write(&things);
        let whole = bytes.len() - 1024;
        let length = cut.index(whole);
        let result = apply(STACKED, &bytes[..length], temp.path());
        // Between two entries the end of the stream is the end of the archive.
        if length % 512 != 0 {
            prop_assert!(result.is_err());
        }
    }
}
