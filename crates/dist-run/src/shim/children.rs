//! Processes that a shim still has when there is nothing more for it to run: what was to become a
//! container's first one when its runtime was killed. Where there are cgroups they are found by them.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::pidfd;

/// How often it is looked again: a process that ends leaves those that it has itself to the shim.
const ROUNDS: usize = 100;

/// Kills all children of a shim, and theirs; gives those that can't be. Blocks.
pub(super) fn end(shim: u32) -> rustix::io::Result<Vec<Pid>> {
    for _ in 0..ROUNDS {
        let mut refused = Vec::new();
        let children = running(shim);
        for child in &children {
            let process = match pidfd_open(*child, PidfdFlags::empty()) {
                Err(Errno::SRCH) => continue,
                process => process?,
            };
            match pidfd_send_signal(&process, Signal::KILL) {
                Err(Errno::SRCH) => continue,
                Err(Errno::PERM) => refused.push(*child),
                sent => drop(sent.and_then(|()| pidfd::wait(&process))?),
            }
        }
        if refused.len() == children.len() {
            return Ok(refused);
        }
    }
    Ok(Vec::new())
}

/// Those that have not ended.
fn running(shim: u32) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{shim}/task")).into_iter().flatten().flatten();
    let lists =
        tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    let runs = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && !line.contains(['Z', 'X']))
    };
    pids.filter(runs).filter_map(Pid::from_raw).collect()
}
