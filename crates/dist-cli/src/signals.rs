//! Ctrl-C and SIGTERM: the first stops the work in order, the second stops the process.

use std::fmt;

use dist_core::{Context, Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

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
    pub(crate) fn into_error(self) -> Error {
        Error::cancelled().with_source(self)
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

/// Knows whether a signal has come.
#[derive(Clone)]
pub(crate) struct Signals(watch::Receiver<Option<Stopped>>);

impl Signals {
    /// Takes the two signals over, on a thread of their own: it must answer while all others wait.
    pub(crate) fn take_over() -> Result<Self> {
        let (send, receive) = watch::channel(None);
        let (ready, taken) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .context(ErrorKind::Internal, || "start the signal thread".into())?;
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || runtime.block_on(watch_signals(&send, &ready)))
            .context(ErrorKind::Internal, || "start the signal thread".into())?;
        match taken.recv() {
            Ok(result) => result.map(|()| Self(receive)),
            Err(_) => Err(Error::new(ErrorKind::Internal, "start the signal thread")),
        }
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

#[expect(clippy::exit, reason = "the second signal must end the process whatever the others do")]
async fn watch_signals(
    send: &watch::Sender<Option<Stopped>>,
    ready: &std::sync::mpsc::Sender<Result<()>>,
) {
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
        if send.borrow().is_some() {
            std::process::exit(stopped.exit_code().into());
        }
        send.send_replace(Some(stopped));
    }
}
