//! Files that another thread fills.
//!
//! Where making files is what everything else waits for, small plain ones are only created in their
//! order; their bytes and times follow on a second thread, a batch of files at a time. What a name
//! stands for is never that thread's business: it works on open files alone.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use dist_core::{Error, ErrorKind, Meter, Result, ResultExt as _, Stage, Usage, enter};
use rustix::io::Errno;

use super::{count, set_times};
use crate::beneath::failed;
use crate::name::escape;
use crate::tar::{Entry, Time};

/// Bodies larger than this are worth no copy.
pub(super) const LARGEST: usize = 32 << 10;

/// How much a batch is, and how many there are: half a MiB at most.
const BATCH_FILES: usize = 16;
const BATCH_BYTES: usize = 128 << 10;
const BATCHES: usize = 4;

/// Files on their way to the second thread.
pub(super) struct Filling {
    batch: Batch,
    full: Option<SyncSender<Batch>>,
    used: Receiver<Batch>,
    thread: Option<JoinHandle<Result<Usage>>>,
    failed: bool,
}

#[derive(Default)]
struct Batch {
    /// Paths and bodies, one behind the other.
    bytes: Vec<u8>,
    files: Vec<Created>,
}

/// A file that has neither bytes nor times yet.
struct Created {
    fd: OwnedFd,
    path_end: usize,
    body_end: usize,
    mtime: Time,
    offset: u64,
}

impl Filling {
    /// Starts the thread; `root` is what messages name before a path. `None` where that can't be.
    pub(super) fn start(root: &Path) -> Option<Self> {
        let root = root.as_os_str().as_bytes().to_owned();
        let (full_in, full_out) = sync_channel::<Batch>(BATCHES);
        let (used_in, used_out) = sync_channel(BATCHES);
        for _ in 1..BATCHES {
            // The channel has room for all of them and its other end is here: it cannot fail.
            let _ = used_in.try_send(Batch::default());
        }
        let meter = Meter::of_this_thread();
        let work = move || {
            let _running = meter.map(|(meter, _)| meter.start(Stage::Wait));
            let mut usage = Usage::default();
            while let Ok(mut batch) = full_out.recv() {
                let _untar = enter(Stage::Untar);
                batch.fill(&root, &mut usage)?;
                // Nobody takes it any more at the end.
                let _ = used_in.try_send(batch);
            }
            Ok(usage)
        };
        let thread = std::thread::Builder::new().name("files".into()).spawn(work);
        let thread = thread.inspect_err(|error| tracing::debug!(%error, "start a thread")).ok()?;
        let (full, thread) = (Some(full_in), Some(thread));
        Some(Self { batch: Batch::default(), full, used: used_out, thread, failed: false })
    }

    /// Has `fd` get `body` and the times of `entry`, which is at `path`.
    pub(super) fn add(&mut self, fd: OwnedFd, path: [&[u8]; 2], body: &[u8], entry: &Entry) {
        let Batch { bytes, files } = &mut self.batch;
        let [dir, name] = path;
        bytes.extend_from_slice(dir);
        if !dir.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        let path_end = bytes.len();
        bytes.extend_from_slice(body);
        let (mtime, offset) = (entry.mtime, entry.offset);
        files.push(Created { fd, path_end, body_end: bytes.len(), mtime, offset });
        if files.len() >= BATCH_FILES || bytes.len() >= BATCH_BYTES {
            self.send();
        }
    }

    /// Whether a file could not be filled: [`Filling::finish`] says why.
    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }

    fn send(&mut self) {
        // Both fail only once the thread is gone.
        let Ok(next) = self.used.recv() else {
            self.failed = true;
            return;
        };
        let batch = std::mem::replace(&mut self.batch, next);
        self.failed = self.full.as_ref().is_none_or(|full| full.send(batch).is_err());
    }

    /// Waits until all files are whole; returns what they take.
    ///
    /// # Errors
    /// `Storage` where a file could not be written.
    pub(super) fn finish(mut self) -> Result<Usage> {
        if !self.batch.files.is_empty() && !self.failed {
            self.send();
        }
        self.full = None;
        let gone = || Error::new(ErrorKind::Internal, "fill files: the thread is gone");
        let thread = self.thread.take().ok_or_else(gone)?;
        thread.join().map_err(|_| gone())?
    }
}

impl Drop for Filling {
    /// Whoever gives up must not find files that still grow.
    fn drop(&mut self) {
        self.full = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Batch {
    fn fill(&mut self, root: &[u8], usage: &mut Usage) -> Result<()> {
        let mut start = 0;
        for file in self.files.drain(..) {
            let path = &self.bytes[start..file.path_end];
            let body = &self.bytes[file.path_end..file.body_end];
            start = file.body_end;
            file.fill(body, &|| escape(&[root, b"/", path].concat()), usage)
                .during(|| format!("unpack entry {} at byte {}", escape(path), file.offset))?;
        }
        self.bytes.clear();
        Ok(())
    }
}

impl Created {
    fn fill(&self, mut body: &[u8], shown: &dyn Fn() -> String, usage: &mut Usage) -> Result<()> {
        while !body.is_empty() {
            let count = retry(|| rustix::io::write(&self.fd, body))
                .map_err(|errno| failed(errno, format!("write file {}", shown())))?;
            body = &body[count..];
        }
        set_times(&self.fd, self.mtime, shown)?;
        let stat = rustix::fs::fstat(&self.fd)
            .map_err(|errno| failed(errno, format!("examine {}", shown())))?;
        count(usage, &stat);
        Ok(())
    }
}

pub(super) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn files_get_their_bytes_and_times() {
        let dir = tempfile::tempdir().unwrap();
        let mut filling = Filling::start(Path::new("root")).unwrap();
        let mtime = Time { seconds: 7, nanos: 5 };
        for i in 0..3 * BATCH_FILES + 1 {
            let name = format!("{i}");
            let fd = File::create(dir.path().join(&name)).unwrap().into();
            let entry = Entry { mtime, ..Entry::default() };
            filling.add(fd, [b"", name.as_bytes()], &vec![b'x'; i * 300], &entry);
        }
        assert!(!filling.has_failed());
        let usage = filling.finish().unwrap();
        assert_eq!(usage.inodes, 3 * BATCH_FILES as u64 + 1);
        for i in 0..3 * BATCH_FILES + 1 {
            let path = dir.path().join(format!("{i}"));
            assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; i * 300]);
            let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
            assert_eq!(modified, std::time::UNIX_EPOCH + std::time::Duration::new(7, 5));
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_told_and_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        File::create(&path).unwrap();
        let mut filling = Filling::start(Path::new("root")).unwrap();
        let entry = Entry { offset: 512, ..Entry::default() };
        while !filling.has_failed() {
            let unwritable = File::open(&path).unwrap().into();
            filling.add(unwritable, [b"a", b"b"], b"body", &entry);
        }
        let error = filling.finish().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Storage);
        let chain = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert_eq!(chain, r#"unpack entry "a/b" at byte 512: write file "root/a/b""#);
    }
}
