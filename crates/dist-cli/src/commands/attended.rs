//! A process of a container that somebody waits for: its terminal, its streams, its signals, and
//! what is told of its end.

use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use dist_core::{Context as _, Error, ErrorKind, Exit, Result};
use dist_run::{Copying, ProcessId, Rootfs, Streams, TaskClient, heeds};
use rustix::termios::{OptionalActions, Termios};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::signals::PassedOn;
use crate::{output, report};

/// The exit code where the container could not be made or started.
const NOT_STARTED: u8 = 125;

/// `SIGWINCH`.
pub(super) const WINDOW_CHANGED: u32 = 28;

/// `SIGPIPE`.
pub(super) const READER_GONE: u32 = 13;

const SIGKILL: u32 = 9;

/// The status of a process that wrote where nobody reads, as shells tell it.
const UNREAD: u32 = 128 + READER_GONE;

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
    pub(super) fn size() -> Option<(u16, u16)> {
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
    ending: Ending,
    unwritten: Option<io::Error>,
}

/// How a process is ended whose output can't be written any more.
pub(crate) struct Ending {
    /// The signals that ask it to; the first that it heeds is sent.
    pub(crate) signals: Vec<u32>,
    /// How long it may take to end after that.
    pub(crate) patience: Duration,
}

impl<'a> Attended<'a> {
    /// Begins to copy.
    pub(crate) fn new(
        client: &'a TaskClient,
        process: ProcessId<'a>,
        streams: Streams,
        ending: Ending,
    ) -> Self {
        let terminal = streams.stdio().terminal;
        let input: Box<dyn Read + Send> = Box::new(std::io::stdin());
        let outputs: Vec<Box<dyn Write + Send>> =
            vec![Box::new(std::io::stdout()), Box::new(std::io::stderr())];
        let (copying, input_ended) = streams.copy(outputs, Some(input));
        Self { client, process, copying, input_ended, terminal, ending, unwritten: None }
    }

    /// Starts the process. From now on signals are for it.
    pub(crate) async fn start(&mut self) -> Result<PassedOn> {
        let signals = PassedOn::take_over()?;
        self.resize().await;
        self.client.start(self.process).await?;
        self.copying.opened();
        Ok(signals)
    }

    /// Waits for the end of the process, passing on signals and sizes of the terminal. One whose
    /// output can't be written any more is ended.
    pub(crate) async fn wait(&mut self, mut signals: PassedOn) -> Result<Exit> {
        let (client, process) = (self.client, self.process);
        let ended = client.wait(process);
        let mut ended = std::pin::pin!(ended);
        let mut has_input = true;
        let mut deadline = None;
        loop {
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let signal = tokio::select! {
                exit = &mut ended => return exit,
                end = &mut self.input_ended, if has_input => {
                    has_input = false;
                    if end.is_ok() && !self.terminal {
                        tolerate(client.close_stdin(process).await);
                    }
                    continue;
                }
                error = self.copying.failed(), if self.unwritten.is_none() => {
                    self.unwritten = Some(error);
                    deadline = self.ask_to_end().await;
                    continue;
                }
                () = late => {
                    deadline = None;
                    SIGKILL
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

    /// Tells the process to end, and until when it may; nothing where it was killed.
    async fn ask_to_end(&self) -> Option<Instant> {
        let signals = &self.ending.signals;
        let heeded = match self.client.state(self.process).await {
            Ok((_, pid)) => signals.iter().find(|signal| heeds(pid, **signal).unwrap_or_default()),
            Err(_) => None,
        };
        let signal = heeded.copied().unwrap_or(SIGKILL);
        tolerate(self.client.kill(self.process, signal, false).await);
        // A time that can't be told never comes.
        heeded.and_then(|_| Instant::now().checked_add(self.ending.patience))
    }

    async fn resize(&self) {
        if let (true, Some((width, height))) = (self.terminal, RawTerminal::size()) {
            tolerate(self.client.resize(self.process, width, height).await);
        }
    }

    /// Waits until all output is copied, which is when the process has been deleted. Gives how it
    /// ended, which is by `SIGPIPE` where it was ended because nobody reads that.
    ///
    /// # Errors
    /// `Storage` for output that was not written, but for the want of a reader.
    pub(crate) async fn finish(self, exit: Exit) -> Result<Exit> {
        let copying = self.copying;
        let late = tokio::task::spawn_blocking(|| copying.finish()).await;
        let late = late.context(ErrorKind::Internal, || "copy the output".into())?;
        let is_unread = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        match (self.unwritten, late) {
            (None, Some(error)) if is_unread(&error) => Ok(exit),
            (Some(error), _) if is_unread(&error) => Ok(Exit { status: UNREAD, ..exit }),
            (Some(error), _) | (None, Some(error)) => Err(output::output_error(error)),
            (None, None) => Ok(exit),
        }
    }
}

/// What fails because the process has just ended is told by its end.
pub(super) fn tolerate(result: Result<()>) {
    if let Err(error) = result {
        tracing::debug!(?error, "a process did not take what it was told");
    }
}

/// Our exit code for a process that ended.
pub(crate) fn exit_code(exit: Exit) -> ExitCode {
    ExitCode::from(u8::try_from(exit.status).unwrap_or(NOT_STARTED))
}

/// What a process ended with, whose root was `root`. Runtimes give a program that the kernel has
/// refused, after all else was done, an end as others have: that is an error here.
pub(crate) fn judge(exit: Exit, root: &Path, process: &Value) -> Result<Exit> {
    const BY_RUNTIME: u32 = 1;
    let Some(name) = process["args"][0].as_str().filter(|_| exit.status == BY_RUNTIME) else {
        return Ok(exit);
    };
    let env: Vec<&str> =
        process["env"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let cwd = process["cwd"].as_str().unwrap_or("/");
    let looked = Rootfs::open(root).and_then(|mut rootfs| rootfs.is_no_program(name, &env, cwd));
    match looked {
        Ok(true) => {
            let message = "exec format error: that is no program for this machine";
            Err(Error::new(ErrorKind::FailedPrecondition, message))
        }
        Ok(false) => Ok(exit),
        Err(error) => {
            tracing::debug!(?error, "a program was not looked at");
            Ok(exit)
        }
    }
}

/// Tells of a container that could not be made or started, and says with which code that ends.
pub(crate) fn not_started(error: &Error) -> ExitCode {
    let told = report::report(error);
    // A signal has codes of its own; that nobody reads what is told is no failure.
    let code =
        if told == 0 || told > NOT_STARTED { told } else { refused(&report::one_line(error)) };
    ExitCode::from(code)
}

/// The exit code for what a runtime says: a command that is not there, one that can't be run, or
/// something else.
fn refused(told: &str) -> u8 {
    let command = told.contains("exec") || told.contains("executable file");
    let has = |texts: &[&str]| command && texts.iter().any(|text| told.contains(text));
    // The directory that it should start in.
    if told.contains("chdir") {
        126
    } else if has(&["executable file not found", "not found in $PATH", "no such file or directory"])
    {
        127
    } else if has(&["permission denied", "Permission denied", "is a directory", "exec format"])
        || told.ends_with("open executable: Operation not permitted")
    {
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
            ("exec failed: chdir to cwd (\"/x\"): no such file or directory", 126),
            ("crun: chdir to `/x`: No such file or directory", 126),
            ("OCI runtime create failed: open executable: Permission denied", 126),
            ("OCI runtime create failed: open executable: Operation not permitted", 126),
            (
                "run \"/x\" in container c: exec format error: that is no program for this machine",
                126,
            ),
            ("error mounting \"/x\": no such file or directory", 125),
            ("find image x: it is not in the store", 125),
        ] {
            assert_eq!(refused(told), code, "{told}");
        }
    }
}
