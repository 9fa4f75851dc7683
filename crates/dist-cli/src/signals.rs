//! Ctrl-C and SIGTERM: the first stops the work in order, the second stops the process. While no
//! work listens, the first stops the process.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::sync::OnceLock;

use bytes::{Buf as _, Bytes};
use dist_core::{Cancel, Context, Error, ErrorKind, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::report;

/// The cause of an error for work that a signal stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Ctrl-C, or SIGINT from elsewhere.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

impl Stopped {
    /// The exit code that shells give to such an end.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }

    /// The error for the work that it stopped.
    pub(crate) fn during(self, what: impl Into<Cow<'static, str>>) -> Error {
        Error::new(ErrorKind::Cancelled, what).with_source(self)
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "interrupted (SIGINT)",
            Self::Terminate => "asked to stop (SIGTERM)",
        })
    }
}

impl std::error::Error for Stopped {}

/// Where the signal thread tells that the first signal has come.
struct Told {
    stopped: watch::Sender<Option<Stopped>>,
    cancel: Cancel,
}

/// There is one signal thread for the whole process.
static TOLD: OnceLock<Told> = OnceLock::new();

/// Knows whether a signal has come. While one lives, the first signal is only told.
pub(crate) struct Signals(watch::Receiver<Option<Stopped>>);

impl Signals {
    /// Takes the two signals over, on a thread of their own: it must answer while all others wait.
    pub(crate) fn take_over() -> Result<Self> {
        Self::told().map(|told| Self(told.stopped.subscribe()))
    }

    fn told() -> Result<&'static Told> {
        let what = || "start the signal thread".into();
        if let Some(told) = TOLD.get() {
            return Ok(told);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context(ErrorKind::Internal, what)?;
        let told = TOLD
            .get_or_init(|| Told { stopped: watch::Sender::new(None), cancel: Cancel::default() });
        let (ready, taken) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(watch_signals(told, &ready)))
            .context(ErrorKind::Internal, what)?;
        taken.recv().context(ErrorKind::Internal, what)??;
        Ok(told)
    }

    /// Returns once the first signal has come.
    pub(crate) async fn stopped(&mut self) -> Stopped {
        loop {
            if let Some(stopped) = *self.0.borrow_and_update() {
                return stopped;
            }
            if self.0.changed().await.is_err() {
                // The signal thread is gone, so no signal will be told.
                std::future::pending::<()>().await;
            }
        }
    }
}

#[expect(clippy::exit, reason = "such a signal must end the process whatever the others do")]
async fn watch_signals(told: &Told, ready: &std::sync::mpsc::Sender<Result<()>>) {
    let take = |kind, name| {
        signal(kind).context(ErrorKind::Internal, || format!("take over signal {name}"))
    };
    let (mut interrupt, mut terminate) =
        match (take(SignalKind::interrupt(), "SIGINT"), take(SignalKind::terminate(), "SIGTERM")) {
            (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
            (Err(error), _) | (_, Err(error)) => {
                drop(ready.send(Err(error)));
                return;
            }
        };
    drop(ready.send(Ok(())));
    loop {
        let stopped = tokio::select! {
            Some(()) = interrupt.recv() => Stopped::Interrupt,
            Some(()) = terminate.recv() => Stopped::Terminate,
            else => return,
        };
        let first = told.stopped.borrow().is_none();
        if first && told.stopped.receiver_count() > 0 {
            told.stopped.send_replace(Some(stopped));
            told.cancel.cancel();
            continue;
        }
        if first {
            report::report(&stopped.during("finish"));
        }
        std::process::exit(stopped.exit_code().into());
    }
}

/// Standard input for work that a signal shall stop: a read that waits ends with the signal.
///
/// A thread of its own reads, from the first read on.
pub(crate) struct Stdin {
    told: &'static Told,
    signals: Signals,
    runtime: Runtime,
    chunks: Option<mpsc::Receiver<io::Result<Bytes>>>,
    chunk: Bytes,
}

impl Stdin {
    /// Takes the signals over as long as it lives.
    pub(crate) fn open() -> Result<Self> {
        let signals = Signals::take_over()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .context(ErrorKind::Internal, || "open standard input".into())?;
        let told = Signals::told()?;
        Ok(Self { told, signals, runtime, chunks: None, chunk: Bytes::new() })
    }

    /// The flag for work that does not read.
    pub(crate) fn cancel(&self) -> Cancel {
        self.told.cancel.clone()
    }

    /// The signal that has come.
    pub(crate) fn stopped(&self) -> Option<Stopped> {
        *self.told.stopped.borrow()
    }

    fn next_chunk(&mut self) -> io::Result<Bytes> {
        let chunks = match &mut self.chunks {
            Some(chunks) => chunks,
            none => none.insert(read_stdin()?),
        };
        let signals = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                stopped = signals.stopped() => Err(stopped.during("read standard input").into_io()),
                chunk = chunks.recv() => chunk.unwrap_or(Ok(Bytes::new())),
            }
        })
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() {
            self.chunk = self.next_chunk()?;
        }
        let length = buffer.len().min(self.chunk.len());
        self.chunk.split_to(length).copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

/// Starts the thread, which ends with the input, its first error, or when nobody listens.
fn read_stdin() -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    const CHUNK: usize = 64 << 10; // what a pipe holds
    let (send, receive) = mpsc::channel(8);
    let read = move || {
        let mut input = io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK];
            let result = match input.read(&mut chunk) {
                Ok(0) => return,
                Ok(length) => {
                    chunk.truncate(length);
                    Ok(chunk.into())
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = result.is_err();
            if send.blocking_send(result).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new().name("stdin".into()).spawn(read)?;
    Ok(receive)
}
