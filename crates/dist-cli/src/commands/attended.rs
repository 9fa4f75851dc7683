//! A process of a container that somebody waits for: its terminal, its streams, its signals, and
//! what is told of its end.

use std::io::{IsTerminal as _, Read, Write};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use dist_core::{Context as _, Error, ErrorKind, Exit, Result};
use dist_run::{Copying, ProcessId, Streams, TaskClient};
use rustix::termios::{OptionalActions, Termios};
use tokio::sync::oneshot;

use crate::report;
use crate::signals::PassedOn;

/// The exit code where the container could not be made or started.
const NOT_STARTED: u8 = 125;

/// `SIGWINCH`.
const WINDOW_CHANGED: u32 = 28;

/// Our terminal, as the process wants it: every key as it is, nothing shown of it. It becomes as
/// before when this is dropped.
pub(crate) struct RawTerminal(Termios);

impl RawTerminal {
    /// Makes standard input raw.
    pub(crate) fn take() -> Result<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            let message = "give the container a terminal: standard input is none";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let what = || "make the terminal raw".into();
        let before = rustix::termios::tcgetattr(&stdin).context(ErrorKind::Internal, what)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)
            .context(ErrorKind::Internal, what)?;
        Ok(Self(before))
    }

    /// Columns and rows.
    fn size() -> Option<(u16, u16)> {
        let size = rustix::termios::tcgetwinsize(std::io::stdin().as_fd()).ok()?;
        Some((size.ws_col, size.ws_row))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let stdin = std::io::stdin();
        if let Err(error) = rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &self.0) {
            tracing::warn!(%error, "the terminal stays as it is");
        }
    }
}

/// A process that was made and does not run yet, with its streams copied to ours.
pub(crate) struct Attended<'a> {
    client: &'a TaskClient,
    process: ProcessId<'a>,
    copying: Copying,
    input_ended: oneshot::Receiver<()>,
    terminal: bool,
}

impl<'a> Attended<'a> {
    /// Begins to copy.
    pub(crate) fn new(client: &'a TaskClient, process: ProcessId<'a>, streams: Streams) -> Self {
        let terminal = streams.stdio().terminal;
        let input: Box<dyn Read + Send> = Box::new(std::io::stdin());
        let outputs: Vec<Box<dyn Write + Send>> =
            vec![Box::new(std::io::stdout()), Box::new(std::io::stderr())];
        let (copying, input_ended) = streams.copy(outputs, Some(input));
        Self { client, process, copying, input_ended, terminal }
    }

    /// Starts the process. From now on signals are for it.
    pub(crate) async fn start(&mut self) -> Result<PassedOn> {
        let signals = PassedOn::take_over()?;
        self.resize().await;
        self.client.start(self.process).await?;
        self.copying.opened();
        Ok(signals)
    }

    /// Waits for the end of the process, passing on signals and sizes of the terminal.
    pub(crate) async fn wait(&mut self, mut signals: PassedOn) -> Result<Exit> {
        let (client, process) = (self.client, self.process);
        let ended = client.wait(process);
        let mut ended = std::pin::pin!(ended);
        let mut has_input = true;
        loop {
            let signal = tokio::select! {
                exit = &mut ended => return exit,
                end = &mut self.input_ended, if has_input => {
                    has_input = false;
                    if end.is_ok() && !self.terminal {
                        tolerate(client.close_stdin(process).await);
                    }
                    continue;
                }
                signal = signals.next() => signal,
            };
            if signal == WINDOW_CHANGED {
                self.resize().await;
            } else {
                tolerate(client.kill(process, signal, false).await);
            }
        }
    }

    async fn resize(&self) {
        if let (true, Some((width, height))) = (self.terminal, RawTerminal::size()) {
            tolerate(self.client.resize(self.process, width, height).await);
        }
    }

    /// Waits until all output is copied, which is when the process has been deleted.
    pub(crate) async fn finish(self) -> Result<()> {
        let copying = self.copying;
        let finished = tokio::task::spawn_blocking(|| copying.finish()).await;
        finished.context(ErrorKind::Internal, || "copy the output".into())
    }
}

/// What fails because the process has just ended is told by its end.
fn tolerate(result: Result<()>) {
    if let Err(error) = result {
        tracing::debug!(?error, "a process did not take what it was told");
    }
}

/// Our exit code for a process that ended.
pub(crate) fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::try_from(exit.status).unwrap_or(NOT_STARTED))
}

/// Tells of a container that could not be made or started, and says with which code that ends.
pub(crate) fn not_started(error: &Error) -> ExitCode {
    let told = report::report(error);
    // A signal has codes of its own.
    let code = if told > NOT_STARTED { told } else { refused(&report::one_line(error)) };
    ExitCode::from(code)
}

/// The exit code for what a runtime says: a command that is not there, one that can't be run, or
/// something else.
fn refused(told: &str) -> u8 {
    let command = told.contains("exec") || told.contains("executable file");
    let has = |texts: &[&str]| command && texts.iter().any(|text| told.contains(text));
    if has(&["executable file not found", "not found in $PATH", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "Permission denied", "is a directory", "exec format"]) {
        126
    } else {
        NOT_STARTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runtimes_say_why_a_command_is_not_run() {
        for (told, code) in [
            ("exec: \"x\": executable file not found in $PATH: unknown", 127),
            ("exec: \"/x\": stat /x: no such file or directory", 127),
            ("executable file `x` not found in $PATH: No such file or directory", 127),
            ("exec: \"/etc\": permission denied", 126),
            ("error mounting \"/x\": no such file or directory", 125),
            ("find image x: it is not in the store", 125),
        ] {
            assert_eq!(refused(told), code, "{told}");
        }
    }
}
