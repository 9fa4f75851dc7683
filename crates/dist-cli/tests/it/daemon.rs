//! `dist daemon` as a process: who may connect, how it starts and how it ends.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};

use dist_testutil::timed;

use crate::support::dist;

#[test]
fn ctr_reads_the_version_and_the_daemon_stops_in_order() {
    let _timed = timed("daemon");
    let dist = dist();
    let daemon = dist.daemon();
    let version = daemon.ctr(&["version"]).ok().text();
    let ours = dist.ok(&["version"]).text();
    let ours = ours.split_whitespace().last().expect("a version");
    assert!(version.contains(ours), "{version} has no {ours}");
    let (address, backend) = (daemon.address().to_owned(), daemon.backend());
    for path in [&address, &backend] {
        let there = fs_err::symlink_metadata(path).expect("stat the socket");
        assert!(there.file_type().is_socket());
        assert_eq!(there.permissions().mode() & 0o7777, 0o660, "{}", path.display());
        assert_eq!(there.uid(), rustix::process::geteuid().as_raw());
    }
    let dir = fs_err::metadata(address.parent().expect("a directory")).expect("stat");
    assert_eq!(dir.permissions().mode() & 0o7777, 0o711);
    daemon.stop().ok();
    assert!(!address.exists() && !backend.exists(), "the sockets are still there");
}
