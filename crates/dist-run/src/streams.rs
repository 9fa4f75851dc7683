//! Standard input, output and error of a process as named pipes, which the shim opens too.
//!
//! A pipe that nobody writes to is at its end for a reader. So its reader is opened together with a
//! writer that is closed once the shim has its own: then the end is the end of the process.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use dist_core::{Context as _, ErrorKind, Result};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use tokio::sync::{mpsc, oneshot};

use crate::Stdio;

/// The pipes of one process; removed when dropped.
#[derive(Debug)]
pub struct Streams {
    stdio: Stdio,
    paths: Vec<PathBuf>,
    readers: Vec<File>,
    guards: Vec<OwnedFd>,
}

/// What copies the output of a process until its end.
#[derive(Debug)]
pub struct Copying {
    threads: Vec<JoinHandle<()>>,
    streams: Streams,
    failures: mpsc::UnboundedReceiver<io::Error>,
}

impl Streams {
    /// Makes the pipes in `dir`, their names beginning with `name`; with a terminal there is none
    /// for errors.
    ///
    /// # Errors
    /// `Storage`.
    pub fn make(dir: &Path, name: &str, stdin: bool, terminal: bool) -> Result<Self> {
        let mut streams = Self {
            stdio: Stdio { terminal, ..Stdio::default() },
            paths: Vec::new(),
            readers: Vec::new(),
            guards: Vec::new(),
        };
        if stdin {
            streams.stdio.stdin = streams.pipe(dir, &format!("{name}-stdin"))?;
        }
        streams.stdio.stdout = streams.output(dir, &format!("{name}-stdout"))?;
        if !terminal {
            streams.stdio.stderr = streams.output(dir, &format!("{name}-stderr"))?;
        }
        Ok(streams)
    }

    /// What the shim is told.
    #[must_use]
    pub fn stdio(&self) -> &Stdio {
        &self.stdio
    }

    fn pipe(&mut self, dir: &Path, name: &str) -> Result<String> {
        let path = dir.join(name);
        let text = Self::named(&path)?;
        self.paths.push(path);
        Ok(text)
    }

    /// Makes one pipe, which stays; gives its path as a shim is told it.
    pub(crate) fn named(path: &Path) -> Result<String> {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .context(ErrorKind::Storage, || format!("make pipe {}", path.display()))?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn output(&mut self, dir: &Path, name: &str) -> Result<String> {
        let path = self.pipe(dir, name)?;
        let open = |flags| {
            let flags = flags | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(&path, flags, Mode::empty())
        };
        let open = || {
            let reader = open(OFlags::RDONLY)?;
            let guard = open(OFlags::WRONLY)?;
            rustix::fs::fcntl_setfl(&reader, OFlags::empty())?;
            Ok((reader, guard))
        };
        let (reader, guard) = open()
            .map_err(|errno: rustix::io::Errno| errno)
            .context(ErrorKind::Storage, || format!("open pipe {path}"))?;
        self.readers.push(reader.into());
        self.guards.push(guard);
        Ok(path)
    }

    /// Begins to copy: output to `outputs` in the order of stdout and stderr, and `input` to the
    /// process. When that is at its end the receiver hears of it.
    pub fn copy(
        mut self,
        outputs: Vec<Box<dyn Write + Send>>,
        input: Option<Box<dyn Read + Send>>,
    ) -> (Copying, oneshot::Receiver<()>) {
        let readers = std::mem::take(&mut self.readers);
        let (fail, failures) = mpsc::unbounded_channel();
        let threads = readers
            .into_iter()
            .zip(outputs)
            .map(|(from, to)| {
                let fail = fail.clone();
                std::thread::spawn(move || copy_output(from, to, &fail))
            })
            .collect();
        let (ended, end) = oneshot::channel();
        if let (Some(input), false) = (input, self.stdio.stdin.is_empty()) {
            let path = self.stdio.stdin.clone();
            // Nobody waits for it: a terminal may never end.
            drop(std::thread::spawn(move || {
                if let Err(error) = copy_input(input, &path) {
                    tracing::debug!(%error, "the process takes no more input");
                }
                let _ = ended.send(());
            }));
        }
        (Copying { threads, streams: self, failures }, end)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::debug!(%error, path = %path.display(), "a pipe was not removed");
            }
        }
    }
}

impl Copying {
    /// Says that the shim has opened the pipes, which it has once the process was started: when it
    /// closes them, that is the end.
    pub fn opened(&mut self) {
        self.streams.guards.clear();
    }

    /// Waits until an output can't be written to. What comes for it from then on is thrown away, so
    /// that the process gets to know of it only from the caller.
    pub async fn failed(&mut self) -> io::Error {
        match self.failures.recv().await {
            Some(error) => error,
            None => std::future::pending().await,
        }
    }

    /// Waits until all output has been copied, and tells what could not be written, as far as
    /// [`failed`](Self::failed) has not. Blocks until the last process that has it has ended.
    #[must_use]
    pub fn finish(mut self) -> Option<io::Error> {
        self.opened();
        for thread in self.threads {
            // One that panicked has said so.
            drop(thread.join());
        }
        self.failures.try_recv().ok()
    }
}

fn copy_output(
    mut from: File,
    mut to: Box<dyn Write + Send>,
    fail: &mpsc::UnboundedSender<io::Error>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut written = true;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) if written => {
                if let Err(error) = to.write_all(&buffer[..length]).and_then(|()| to.flush()) {
                    written = false;
                    // Where nobody listens, the process has ended.
                    drop(fail.send(error));
                }
            }
            // The shim holds the pipe open: a process could never end that waits for somebody to read.
            Ok(_) => (),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => {
                tracing::debug!(%error, "the output of a process can't be read");
                return;
            }
        }
    }
}

fn copy_input(mut from: Box<dyn Read + Send>, path: &str) -> io::Result<()> {
    let mut to = File::options().write(true).open(path)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(error) => return Err(error),
        }
    }
}
