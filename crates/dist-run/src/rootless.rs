//! Containers of an ordinary user, who is root in a user namespace with a mount namespace.
//!
//! Each container's shim stays in those of the `dist run` that started it; they end with the last
//! process in them. Shims listen in `/run/containerd`, which is a directory of the store there, so that
//! it is the same one for all commands about that store.

use std::io::ErrorKind as IoKind;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use dist_core::{ContainerId, Context as _, ErrorKind, Namespace, Result};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::containers::bundles;
use crate::{UserNamespace, pidfd, shim};

/// Where shims make their sockets.
const SHIMS: &str = "/run/containerd";

/// The file in a bundle in which a runtime records the first process.
const FIRST: &str = "init.pid";

/// The same directory in a store's root.
fn sockets(root: &Path) -> PathBuf {
    root.join("containers").join("run")
}

/// Lets shims and those who speak to them meet in the store at `root`. This process must be in a user
/// and a mount namespace of its own.
///
/// # Errors
/// `Storage`; `PermissionDenied`.
pub fn show_sockets(root: &Path) -> Result<()> {
    let dir = sockets(root);
    // The first shim would make it such that its owner can't enter.
    let inner = dir.join("s");
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&inner);
    made.context(ErrorKind::Storage, || format!("make directory {}", inner.display()))?;
    dist_snapshot::mount::show(&dir, SHIMS.as_ref())
}

/// The first process of a container of this user, if it runs in another user namespace.
#[must_use]
pub fn first_process(root: &Path, namespace: &Namespace, id: &ContainerId) -> Option<u32> {
    running(&bundles(root, namespace).join(id.as_str()))
}

/// Ends containers whose shims were killed. Who made their user namespaces can, and nobody in another
/// one, so it is done before this process enters one. One that can't be ended is logged.
pub fn end_orphans(root: &Path, namespace: &Namespace) {
    let entries = std::fs::read_dir(bundles(root, namespace)).into_iter().flatten().flatten();
    for bundle in entries.map(|entry| entry.path()) {
        let Some(pid) = running(&bundle).filter(|_| has_lost_shim(root, &bundle)) else { continue };
        if let Err(error) = end(pid, &bundle) {
            tracing::warn!(bundle = %bundle.display(), %error, "a container was not ended");
        }
    }
}

/// Records a process that only [`end_orphans`] can end, as the first one of the container.
///
/// # Errors
/// `Storage`.
pub(crate) fn leave(bundle: &Path, pid: Pid) -> Result<()> {
    let path = bundle.join(FIRST);
    std::fs::write(&path, pid.as_raw_nonzero().to_string())
        .context(ErrorKind::Storage, || format!("write {}", path.display()))
}

fn has_lost_shim(root: &Path, bundle: &Path) -> bool {
    let Ok(Some(address)) = shim::recorded(bundle) else { return false };
    let Ok(socket) = address.path().strip_prefix(SHIMS) else { return false };
    // A socket's whole path may be too long to connect to.
    let Ok(dir) = std::fs::File::open(sockets(root)) else { return false };
    let dir = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    match UnixStream::connect(dir.join(socket)) {
        Err(error) => matches!(error.kind(), IoKind::ConnectionRefused | IoKind::NotFound),
        Ok(_) => false,
    }
}

/// Kills a process and waits for its end, if it sees what a container has of this bundle.
fn end(pid: u32, bundle: &Path) -> rustix::io::Result<()> {
    let Some(raw) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = match pidfd_open(raw, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        process => process?,
    };
    // It is the process of the descriptor that is looked at: its id is not free before its end.
    let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    let names: Vec<_> = bundle.components().rev().take(4).map(|part| part.as_os_str()).collect();
    let part: PathBuf = names.iter().rev().collect();
    if !mounts.contains(&format!("/{}/etc/", part.display())) {
        return Ok(());
    }
    pidfd_send_signal(&process, Signal::KILL)?;
    pidfd::wait(&process).map(drop)
}

/// Whether the first process in a bundle runs where this process can't end it.
pub(crate) fn is_out_of_reach(bundle: &Path) -> bool {
    let of = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/user")).ok();
    UserNamespace::current().is_some()
        && running(bundle).is_some_and(|pid| of(&pid.to_string()) != of("self"))
}

/// The first process in a bundle, as the runtime has recorded it; not one of somebody else who has its
/// id now, as far as the owner of its user namespace tells.
fn running(bundle: &Path) -> Option<u32> {
    let pid = std::fs::read_to_string(bundle.join(FIRST)).ok()?.trim().parse::<u32>().ok()?;
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let has_ended = |line: &str| line.starts_with("State:\tZ") || line.starts_with("State:\tX");
    if read("status")?.lines().any(has_ended) {
        return None;
    }
    let map = read("uid_map")?;
    let user = rustix::process::geteuid().as_raw().to_string();
    let first: Vec<_> = map.lines().next()?.split_whitespace().collect();
    (first == ["0", &user, "1"]).then_some(pid)
}
