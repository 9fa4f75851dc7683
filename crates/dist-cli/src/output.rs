//! Standard output: results only, and a reader that has gone away is no error.

use std::io::{self, BufWriter, StdoutLock, Write};

use bytes::Bytes;
use clap::ValueEnum;
use dist_core::{Context, Error, ErrorKind, Result};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

/// How a listing is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// One JSON array, one element a line
    Json,
}

/// The cause of an error that only says that nobody reads the output any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReaderGone;

impl std::fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nobody reads it any more")
    }
}

impl std::error::Error for ReaderGone {}

/// The cause of an error for a standard output that does not take what is written.
#[derive(Debug)]
pub(crate) struct OutputFailed(io::Error);

impl std::fmt::Display for OutputFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for OutputFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Lets `write` write to standard output, then flushes it.
pub(crate) fn print(
    write: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).map_err(output_error)
}

/// Prints one line.
pub(crate) fn line(text: &str) -> Result<()> {
    print(|out| writeln!(out, "{text}"))
}

/// Prints one JSON array with an element a line.
pub(crate) fn json_array<T: Serialize>(items: &[T]) -> Result<()> {
    print(|out| {
        write!(out, "[")?;
        for (index, item) in items.iter().enumerate() {
            writeln!(out, "{}", if index == 0 { "" } else { "," })?;
            serde_json::to_writer(&mut *out, item)?;
        }
        writeln!(out, "{}]", if items.is_empty() { "" } else { "\n" })
    })
}

/// The error for a failed write to standard output.
pub(crate) fn output_error(error: io::Error) -> Error {
    let gone = error.kind() == io::ErrorKind::BrokenPipe;
    let result = Error::new(ErrorKind::Storage, "write to standard output");
    if gone { result.with_source(ReaderGone) } else { result.with_source(OutputFailed(error)) }
}

/// Prints one line for each item.
pub(crate) fn lines<T: std::fmt::Display>(items: impl Iterator<Item = T>) -> Result<()> {
    print(|out| {
        for item in items {
            writeln!(out, "{item}")?;
        }
        Ok(())
    })
}

/// Standard output for async work: a thread of its own writes, so that a reader that does not read
/// cannot keep a signal waiting.
pub(crate) struct Pipe {
    chunks: mpsc::Sender<Bytes>,
    ended: oneshot::Receiver<io::Result<()>>,
}

impl Pipe {
    /// Starts the thread.
    pub(crate) fn to_stdout() -> Result<Self> {
        let (chunks, mut receive) = mpsc::channel::<Bytes>(16);
        let (end, ended) = oneshot::channel();
        let write = move || {
            let mut out = io::stdout().lock();
            let mut write = || {
                while let Some(chunk) = receive.blocking_recv() {
                    out.write_all(&chunk)?;
                }
                out.flush()
            };
            // Where nobody waits for the end, the work was dropped.
            drop(end.send(write()));
        };
        std::thread::Builder::new()
            .name("stdout".into())
            .spawn(write)
            .context(ErrorKind::Internal, || "start a thread".into())?;
        Ok(Self { chunks, ended })
    }

    /// Hands one chunk over.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> Result<()> {
        if self.chunks.send(chunk).await.is_ok() {
            return Ok(());
        }
        Err(match (&mut self.ended).await {
            Ok(Err(error)) => output_error(error),
            _ => Error::new(ErrorKind::Internal, "write to standard output: its thread is gone"),
        })
    }

    /// Waits until all is written.
    pub(crate) async fn finish(self) -> Result<()> {
        drop(self.chunks);
        match self.ended.await {
            Ok(result) => result.map_err(output_error),
            Err(_) => {
                Err(Error::new(ErrorKind::Internal, "write to standard output: its thread is gone"))
            }
        }
    }
}
