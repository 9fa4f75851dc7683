//! The end of processes that are not our children.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How many seconds a process that was told to end may take to do so.
const PATIENCE: i64 = 5;

/// Waits for the end of a process that was told to end; says whether it has. Blocks.
pub(crate) fn wait(process: &OwnedFd) -> rustix::io::Result<bool> {
    let limit = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Err(Errno::INTR) => (),
            result => return result.map(|count| count > 0),
        }
    }
}
