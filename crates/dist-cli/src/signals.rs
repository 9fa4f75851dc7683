//! Ctrl-C and SIGTERM: the first stops the work in order, the second stops the process. While no
//! work listens, the first stops the process. `--timeout` is as a first signal that comes by itself.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use dist_core::{Cancel, Context, Error, ErrorKind, Result};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::report;
use crate::units::exact_duration;

/// The cause of an error for work that a signal or the time stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// Ctrl-C, or SIGINT from elsewhere.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// The command took longer than it may.
    Timeout(Duration),
}

impl Stopped {
    /// The exit code that shells give to such an end.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
            Self::Timeout(_) => 5,
        }
    }

    /// The error for the work that it stopped.
    pub(crate) fn during(self, what: impl Into<Cow<'static, str>>) -> Error {
        let kind = match self {
            Self::Interrupt | Self::Terminate => ErrorKind::Cancelled,
            Self::Timeout(_) => ErrorKind::Unavailable,
        };
        Error::new(kind, what).with_source(self)
    }
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Interrupt => f.write_str("interrupted (SIGINT)"),
            Self::Terminate => f.write_str("asked to stop (SIGTERM)"),
            Self::Timeout(limit) => {
                write!(f, "not done within --timeout {}", exact_duration(*limit))
            }
        }
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

/// What is watched beside the signals.
struct Bounds {
    /// The words of the command, for what is said of its end.
    what: String,
    deadline: Option<(Instant, Duration)>,
    /// How long work that was told to stop may take to do so.
    patience: Option<Duration>,
}

static BOUNDS: OnceLock<Bounds> = OnceLock::new();

/// Bounds the command `what` from here on: it is stopped after `timeout`. Where it works through a
/// daemon, one that does not answer can't keep it from stopping.
pub(crate) fn bound(what: &str, timeout: Option<Duration>, is_remote: bool) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(1);
    if timeout.is_none() && !is_remote {
        return Ok(());
    }
    // What can't be told as a time never comes.
    let deadline = timeout.and_then(|limit| Some((Instant::now().checked_add(limit)?, limit)));
    let patience = is_remote.then_some(PATIENCE);
    BOUNDS.get_or_init(|| Bounds { what: what.to_owned(), deadline, patience });
    Signals::told().map(drop)
}

/// The words of the command, or others where it is not bounded.
pub(crate) fn what_or(others: &'static str) -> Cow<'static, str> {
    BOUNDS.get().map_or(others, |bounds| bounds.what.as_str()).into()
}

/// Whether signals belong to a container.
static PASSED_ON: AtomicBool = AtomicBool::new(false);

/// Signals that are for a container, from now on: no work of this process is stopped by them.
pub(crate) struct PassedOn(Vec<(u32, tokio::signal::unix::Signal)>);

impl PassedOn {
    /// Takes them over.
    pub(crate) fn take_over() -> Result<Self> {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::window_change(),
        ];
        let take = |kind: SignalKind| Ok((kind.as_raw_value().unsigned_abs(), signal(kind)?));
        let signals: io::Result<Vec<_>> = kinds.into_iter().map(take).collect();
        let signals = signals
            .context(ErrorKind::Internal, || "take over the signals of a container".into())?;
        PASSED_ON.store(true, Ordering::Release);
        Ok(Self(signals))
    }

    /// The number of the next one.
    pub(crate) async fn next(&mut self) -> u32 {
        std::future::poll_fn(|context| {
            for (number, signal) in &mut self.0 {
                if signal.poll_recv(context).is_ready() {
                    return Poll::Ready(*number);
                }
            }
            Poll::Pending
        })
        .await
    }
}

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
            .enable_all()
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
    let (deadline, patience) =
        BOUNDS.get().map_or((None, None), |bounds| (bounds.deadline, bounds.patience));
    let mut deadline = std::pin::pin!(reach(deadline));
    let stopped = loop {
        let stopped = tokio::select! {
            Some(()) = interrupt.recv() => Stopped::Interrupt,
            Some(()) = terminate.recv() => Stopped::Terminate,
            stopped = &mut deadline => stopped,
        };
        if !PASSED_ON.load(Ordering::Acquire) {
            break stopped;
        }
    };
    if told.stopped.receiver_count() == 0 {
        report::report(&stopped.during(what_or("finish")));
        std::process::exit(stopped.exit_code().into());
    }
    told.stopped.send_replace(Some(stopped));
    told.cancel.cancel();
    let over =
        patience.and_then(|patience| Some((Instant::now().checked_add(patience)?, patience)));
    let second = tokio::select! {
        Some(()) = interrupt.recv() => Stopped::Interrupt,
        Some(()) = terminate.recv() => Stopped::Terminate,
        _ = reach(over) => {
            report::report(&report::advise(stopped.during(what_or("stop")), DEAF));
            stopped
        }
    };
    std::process::exit(second.exit_code().into());
}

const DEAF: &str = "the daemon does not answer; what it was given is kept";

/// Returns at a time, or never.
async fn reach(at: Option<(Instant, Duration)>) -> Stopped {
    match at {
        Some((at, limit)) => {
            tokio::time::sleep_until(at).await;
            Stopped::Timeout(limit)
        }
        None => std::future::pending().await,
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
