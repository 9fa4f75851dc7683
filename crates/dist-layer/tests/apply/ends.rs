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
