//! Without root, without room, and told to stop.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dist_core::{Cancel, ErrorKind, LayerForm};

use crate::archive::{archive, device, dir, file};
use crate::tree::{self, STACKED, apply, chain, require_root};
use crate::{CAPABILITY, paths};

#[test]
fn an_ordinary_user_gets_warnings() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let target = temp.path().join("t");
    let layer = archive(&[
        dir("ro").mode(0o555).owner(1, 1),
        file("ro/x", "1").mode(0o400).owner(1, 1).pax("SCHILY.xattr.user.a", "1"),
        dir("np").mode(0),
        file("np/x", "1"),
        device("null", b'3', (1, 3)),
        file("cap", "").pax("SCHILY.xattr.security.capability", CAPABILITY),
    ]);
    let again = archive(&[file("ro/y", "1"), file(".wh.np", "")]);
    // Credentials belong to threads; this one stays an ordinary user and ends.
    let warnings = std::thread::spawn({
        let target = target.clone();
        move || {
            rustix::thread::set_thread_groups(&[]).unwrap();
            let nobody = rustix::fs::Gid::from_raw(65534);
            rustix::thread::set_thread_res_gid(nobody, nobody, nobody).unwrap();
            let nobody = rustix::fs::Uid::from_raw(65534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
            let first = apply(LayerForm::Merged, &layer, &target).unwrap().warnings;
            apply(LayerForm::Merged, &again, &target).unwrap();
            first
        }
    })
    .join()
    .unwrap();
    let mut warnings: Vec<_> = warnings.iter().map(|w| (w.what, w.count)).collect();
    warnings.sort_unstable();
    assert_eq!(
        warnings,
        [("device not created", 1), ("extended attribute not set", 1), ("owner not set", 5)]
    );
    let tree = tree::read(&target);
    assert_eq!(paths(&tree), ["", "cap", "ro", "ro/x", "ro/y"]);
    assert_eq!(tree[Path::new("ro")].mode, 0o555);
    assert_eq!(tree[Path::new("ro/x")].mode, 0o400);
}

#[test]
fn a_raised_flag_stops_it() {
    let temp = tempfile::tempdir().unwrap();
    let cancel = Cancel::default();
    cancel.cancel();
    let layer = archive(&[file("a", "1")]);
    let applier = dist_layer::LayerApplier::new(dist_layer::ApplyOptions::new(STACKED));
    let error = dist_core::Applier::apply(
        &applier,
        &tree::descriptor(dist_core::Compression::None),
        &mut &*layer,
        &[tree::bind(temp.path())],
        &cancel,
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Cancelled);
}

/// An ext4 on a loop device, as long as this lives.
struct Ext4(tempfile::TempDir);

impl Ext4 {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, at) = (dir.path().join("image"), dir.path().join("at"));
        std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        let run = |program: &str, args: &[&str], end: &[&std::path::Path]| {
            let ended = std::process::Command::new(program).args(args).args(end).status();
            assert!(ended.unwrap().success(), "{program}");
        };
        run("mkfs.ext4", &["-q", "-F"], &[&image]);
        run("mount", &["-o", "loop"], &[&image, &at]);
        Self(dir)
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(self.0.path().join("at"), flags).unwrap();
    }
}

#[test]
fn attributes_that_a_file_system_has_no_room_for_are_a_warning_but_capabilities_are_set() {
    require_root();
    let disk = Ext4::new();
    let mut many = file("many", "x");
    for at in 0..200 {
        many = many.pax(&format!("SCHILY.xattr.user.{at}"), "v".repeat(50));
    }
    let many = many.pax("SCHILY.xattr.security.capability", CAPABILITY);
    let large = file("large", "x").pax("SCHILY.xattr.user.a", "v".repeat(60_000));
    let target = disk.0.path().join("at/tree");
    let applied = apply(STACKED, &archive(&[many, large, file("next", "x")]), &target).unwrap();
    let warnings: Vec<_> = applied.warnings.iter().map(|warning| warning.what).collect();
    assert_eq!(warnings, ["extended attribute too large, not set"]);
    let tree = tree::read(&target);
    let xattrs = &tree[std::path::Path::new("many")].xattrs;
    assert_eq!(xattrs[b"security.capability".as_slice()], CAPABILITY);
    assert_eq!(applied.warnings[0].count, 200 - (xattrs.len() as u64 - 1) + 1);
    assert!(tree[std::path::Path::new("large")].xattrs.is_empty());
    assert!(tree.contains_key(std::path::Path::new("next")));
}

#[test]
fn a_full_disk_is_a_storage_error_with_its_path() {
    require_root();
    let temp = tempfile::tempdir().unwrap();
    let options = c"size=256k,nr_inodes=100";
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", flags, options).unwrap();
    let results = [
        apply(STACKED, &archive(&[file("big", vec![7; 1 << 20])]), &temp.path().join("a")),
        apply(
            STACKED,
            &archive(&(0..200).map(|n| file(format!("f{n}"), "")).collect::<Vec<_>>()),
            &temp.path().join("b"),
        ),
    ];
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    for (result, name) in results.into_iter().zip(["/a/big", "/b/f"]) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        let text = chain(&error);
        assert!(text.contains(name) && text.contains("No space left"), "{text}");
    }
}
