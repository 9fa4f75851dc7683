//! The end of processes that are not our children.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a process that was told to end may take to do so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Waits for the end of a process that was told to end; says whether it has. Blocks.
pub(crate) fn wait(process: &OwnedFd) -> rustix::io::Result<bool> {
    wait_within(process, PATIENCE)
}

/// Waits for the end of a process; says whether that came in time. Blocks.
pub(crate) fn wait_within(process: &OwnedFd, limit: Duration) -> rustix::io::Result<bool> {
    let limit = Timespec::try_from(limit).map_err(|_| Errno::INVAL)?;
    loop {
        match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&limit)) {
            Err(Errno::INTR) => (),
            result => return result.map(|count| count > 0),
        }
    }
}
