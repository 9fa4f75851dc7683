//! What a runtime that was killed leaves among the cgroups: those of one container, with whatever is
//! still in them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Context as _, ErrorKind, Result};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::pidfd;

const ROOT: &str = "/sys/fs/cgroup";

/// Removes the cgroups at `path`, of all controllers, and ends what is in them. Nobody else may use
/// that path. Blocks.
///
/// # Errors
/// `Storage`.
pub(crate) fn remove(path: &str) -> Result<()> {
    for dir in all(path) {
        remove_dir(&dir)
            .context(ErrorKind::Storage, || format!("remove cgroup {}", dir.display()))?;
    }
    Ok(())
}

/// Removes the cgroups at `path`, of all controllers, if nothing is in them, for which it waits a
/// little: others may use that path. Blocks.
pub(crate) fn remove_empty(path: &str) {
    const TRIES: u32 = 20;
    const PAUSE: Duration = Duration::from_millis(25);
    for dir in all(path) {
        for _ in 0..TRIES {
            match std::fs::remove_dir(&dir) {
                // What was killed has not left it yet.
                Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                    std::thread::sleep(PAUSE);
                }
                _ => break,
            }
        }
    }
}

/// Lets the kernel wait now for what it waits for when a process goes to another cgroup, which a
/// runtime is about to let one do: a grace period of all processors, 10 to 20 ms, after which it is
/// prepared for a while. Nothing is changed: this process goes to where it is. Blocks.
pub(crate) fn hasten() {
    let known = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in known.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let controllers = controllers.strip_prefix("name=").unwrap_or(controllers);
        let dir = Path::new(ROOT).join(controllers).join(path.trim_start_matches('/'));
        if is_cgroup(&dir) && std::fs::write(dir.join("cgroup.procs"), "0").is_ok() {
            return;
        }
    }
}

/// The cgroups that there are at `path`.
fn all(path: &str) -> Vec<PathBuf> {
    let path = path.trim_start_matches('/');
    let mut roots = vec![PathBuf::from(ROOT)];
    let entries = std::fs::read_dir(ROOT).into_iter().flatten().flatten();
    roots.extend(entries.map(|entry| entry.path()));
    let dirs = roots.into_iter().map(|root| root.join(path));
    dirs.filter(|dir| is_cgroup(dir)).collect()
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
