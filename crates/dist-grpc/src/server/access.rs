//! Who is answered: the kernel says who connected, beside the permissions of the socket.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

use tokio::net::unix::UCred;

/// The users and groups that are answered. Root always is.
#[derive(Clone, Debug, Default)]
pub struct Access {
    uids: BTreeSet<u32>,
    gids: BTreeSet<u32>,
}

impl Access {
    /// Answers these users, and the members of these groups.
    #[must_use]
    pub fn new(uids: impl IntoIterator<Item = u32>, gids: impl IntoIterator<Item = u32>) -> Self {
        Self { uids: uids.into_iter().collect(), gids: gids.into_iter().collect() }
    }

    pub(super) fn add_group(&mut self, gid: u32) {
        self.gids.insert(gid);
    }

    /// Judges the process at the other end.
    pub(super) fn judge(&self, peer: Option<UCred>) -> Peer {
        let Some(peer) = peer else { return Peer(None) };
        let (uid, gid, pid) = (peer.uid(), peer.gid(), peer.pid());
        let allowed = uid == 0
            || self.uids.contains(&uid)
            || self.gids.contains(&gid)
            || pid.is_some_and(|pid| {
                supplementary_groups(pid, uid).iter().any(|gid| self.gids.contains(gid))
            });
        Peer(Some(Arc::new(Process { uid, gid, pid, allowed })))
    }
}

/// The other end of a connection; `None` where the kernel did not say who it is.
#[derive(Clone, Debug)]
pub(super) struct Peer(Option<Arc<Process>>);

#[derive(Debug)]
struct Process {
    uid: u32,
    gid: u32,
    pid: Option<i32>,
    allowed: bool,
}

impl Peer {
    pub(super) fn is_allowed(&self) -> bool {
        self.0.as_ref().is_some_and(|process| process.allowed)
    }
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(process) = &self.0 else { return f.write_str("unknown") };
        write!(f, "uid {} gid {} pid ", process.uid, process.gid)?;
        match process.pid {
            Some(pid) => write!(f, "{pid}"),
            None => f.write_str("unknown"),
        }
    }
}

/// The groups of a process beside its first, as `/proc` has them.
///
/// The process may have ended since it connected and another may have its id by now. That one must
/// be of the same user, so nobody gets more than another process of his has.
fn supplementary_groups(pid: i32, uid: u32) -> Vec<u32> {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return Vec::new() };
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace().filter_map(|n| n.parse().ok()).collect()
    };
    // Real, effective, saved, file system: the kernel gave us the effective one.
    if numbers("Uid:").get(1) == Some(&uid) { numbers("Groups:") } else { Vec::new() }
}
