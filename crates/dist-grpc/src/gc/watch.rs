//! Notices that some process has written to the metadata, without asking again and again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

use dist_core::{Context as _, ErrorKind, Result};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

/// The log that every change of the database goes through.
const LOG: &[u8] = b"meta.db-wal";

/// A watch on the root directory of a store.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// `Storage` where the kernel has no watch to give.
    pub(super) fn new(root: &Path) -> Result<Self> {
        // An owned descriptor stays the same as long as it is registered; the new constructor, that
        // asks others to promise it, is not for crates without unsafe code.
        #[expect(deprecated, reason = "there is no other constructor that is safe")]
        let watch = || -> io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            inotify::add_watch(&fd, root, WatchFlags::MODIFY | WatchFlags::CREATE)?;
            AsyncFd::new(fd)
        };
        watch().context(ErrorKind::Storage, || format!("watch {}", root.display())).map(Self)
    }

    /// Waits until the metadata was written to, since the last time that this ended.
    pub(super) async fn written(&self) {
        loop {
            let Ok(mut ready) = self.0.readable().await else {
                return std::future::pending().await; // the runtime ends
            };
            let written = drain(ready.get_inner());
            ready.clear_ready();
            if written {
                return;
            }
        }
    }
}

/// Takes all events there are; says whether one was about the log.
fn drain(fd: &OwnedFd) -> bool {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut written = false;
    while let Ok(event) = reader.next() {
        // Too many at once come without a name.
        written |= event.file_name().is_none_or(|name| name.to_bytes() == LOG);
    }
    written
}
