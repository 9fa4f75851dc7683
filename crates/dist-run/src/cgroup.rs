//! What a runtime that was killed leaves among the cgroups: those of one container, with whatever is
//! still in them.

use std::path::{Path, PathBuf};

use dist_core::{Context as _, ErrorKind, Result};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::pidfd;

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroups at `path`, of all controllers, and ends what is in them. Nobody else may use
/// that path. Blocks.
///
/// # Errors
/// `Storage`.
pub(crate) fn remove(path: &str) -> Result<()> {
    let path = path.trim_start_matches('/');
    let mut roots = vec![PathBuf::from(ROOT)];
    let entries = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    roots.extend(entries.map(|entry| entry.path()));
    for dir in roots.into_iter().map(|root| root.join(path)) {
        if is_cgroup(&dir) {
            remove_dir(&dir)
                .context(ErrorKind::Storage, || format!("remove cgroup {}", dir.display()))?;
        }
    }
    Ok(())
}

/// Whether a directory is a cgroup, and not what somebody made where none was mounted.
fn is_cgroup(dir: &Path) -> bool {
    const CGROUP: u64 = 0x27_e0eb;
    const CGROUP2: u64 = 0x6367_7270;
    rustix::fs::statfs(dir)
        .is_ok_and(|stat| u64::try_from(stat.f_type).is_ok_and(|t| t == CGROUP || t == CGROUP2))
}

fn remove_dir(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_dir(&entry.path())?;
        }
    }
    let is_gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(procs) => procs.lines().for_each(end),
        Err(error) if is_gone(&error) => (),
        Err(error) => return Err(error),
    }
    match std::fs::remove_dir(dir) {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

/// Kills a process and waits for its end. One that has ended meanwhile is fine.
fn end(pid: &str) {
    let pid = pid.parse().ok().and_then(Pid::from_raw);
    let Some(process) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    let ended = pidfd_send_signal(&process, Signal::KILL).and_then(|()| pidfd::wait(&process));
    if let Err(error) = ended {
        tracing::debug!(%error, "a process of a container that was killed");
    }
}
