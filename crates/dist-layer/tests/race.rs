//! Another process that moves names about while a layer is unpacked changes nothing outside.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/archive.rs"]
mod archive;
#[path = "support/tree.rs"]
mod tree;

use std::os::unix::fs::symlink as fs_symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use archive::{archive, dir, file, hard_link};
use dist_core::LayerForm;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use tree::{STACKED, apply, assert_same};

#[test]
fn swapped_directories_lead_nowhere() {
    let temp = tempfile::tempdir().unwrap();
    let outside = temp.path().join("outside");
    std::fs::create_dir_all(outside.join("sub")).unwrap();
    std::fs::write(outside.join("f"), "canary").unwrap();
    let link = temp.path().join("link");
    fs_symlink(&outside, &link).unwrap();
    let before = tree::read(&outside);

    let mut items = vec![dir("d").mode(0o777), dir("d/sub").mode(0o777)];
    for number in 0..40 {
        items.push(file("d/f", "evil").mode(0o666).owner(5, 5));
        items.push(file(format!("d/sub/{number}"), "evil"));
        items.push(hard_link("d/h", "d/f"));
        items.push(file("d/.wh.f", ""));
        items.push(file("d/sub/.wh..wh..opq", ""));
        items.push(dir(format!("d/x{number}/y")));
    }
    let layer = archive(&items);
    let done = AtomicBool::new(false);
    let target = temp.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Exchanges the directory and the symlink as fast as it can.
            while !done.load(Ordering::Relaxed) {
                let (from, to) = (target.join("d"), &link);
                let _ = renameat_with(CWD, &from, CWD, to, RenameFlags::EXCHANGE);
            }
        });
        for round in 0..16 {
            let form = if round % 2 == 0 { STACKED } else { LayerForm::Merged };
            let _ = apply(form, &layer, &target); // refused or not, as the names stand
        }
        done.store(true, Ordering::Relaxed);
    });
    // The names may have stopped either way round; what was outside is what it was.
    assert_same(&before, &tree::read(&outside));
}
