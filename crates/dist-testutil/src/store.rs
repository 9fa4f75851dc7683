//! A store judged from outside, by what any file tool and SQLite can see.
//!
//! `ROOT/content/blobs/<algorithm>/<hex>` holds what the name says, read only;
//! `ROOT/meta.db` is a sound database.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dist_core::{Digest, Hasher};

use crate::process::run;

/// Every blob file with its size, sorted by digest.
///
/// # Panics
/// When a name is no digest or a directory cannot be read.
pub fn blobs_on_disk(root: &Path) -> Vec<(Digest, u64)> {
    let mut found = Vec::new();
    let Ok(algorithms) = fs_err::read_dir(root.join("content/blobs")) else { return found };
    for algorithm in algorithms {
        let algorithm = algorithm.expect("read the blob directory");
        for blob in fs_err::read_dir(algorithm.path()).expect("read a blob directory") {
            let blob = blob.expect("read a blob directory");
            let name = format!(
                "{}:{}",
                algorithm.file_name().to_string_lossy(),
                blob.file_name().to_string_lossy()
            );
            let digest = name.parse().unwrap_or_else(|_| panic!("no digest: {name}"));
            found.push((digest, blob.metadata().expect("stat a blob").len()));
        }
    }
    found.sort_unstable();
    found
}

/// Hashes every blob and compares with its name; gives how many there are.
///
/// # Panics
/// When one is not what its name says.
#[track_caller]
pub fn verify_blobs(root: &Path) -> usize {
    let blobs = blobs_on_disk(root);
    for (digest, _) in &blobs {
        let path = root.join("content/blobs").join(digest.algorithm()).join(digest.hex());
        let mut file = fs_err::File::open(&path).expect("open a blob");
        let mode = file.metadata().expect("stat a blob").permissions().mode() & 0o777;
        assert_eq!(mode & 0o222, 0, "{digest} is writable ({mode:o})");
        let mut hasher: Hasher = digest.hasher();
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = file.read(&mut buffer).expect("read a blob");
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
        assert_eq!(hasher.finish(), *digest, "the blob {} is not what it says", path.display());
    }
    blobs.len()
}

/// Asks SQLite whether the database is sound. A store that was never made is.
///
/// # Panics
/// When it is not.
#[track_caller]
pub fn verify_database(root: &Path) {
    let database = root.join("meta.db");
    if !database.exists() {
        return;
    }
    let script = "import sqlite3, sys\n\
                  rows = sqlite3.connect(sys.argv[1], timeout=10).execute('pragma integrity_check').fetchall()\n\
                  sys.exit(0 if rows == [('ok',)] else str(rows))";
    run("python3", &[OsStr::new("-c"), OsStr::new(script), database.as_os_str()]);
}
