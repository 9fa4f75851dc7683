//! `dist attach`: the streams of a container that was run with `--detach`.
//!
//! Its output lies in a file, which is followed from where it ends now; its input is a pipe that its
//! shim holds open, so that any number of people come and go.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dist_core::{
    Container, ContainerId, Context as _, Error, ErrorKind, Exit, Result, ResultExt as _,
};
use dist_run::{Containers, Observed, ProcessId, TaskClient};
use serde_json::Value;
use tokio::sync::oneshot;

use super::artifact;
use super::attended::{self, RawTerminal, WINDOW_CHANGED, tolerate};
use super::containers::named;
use super::logs::Written;
use super::run::{block_on, open};
use super::stop::settle;
use crate::config::Config;
use crate::signals::PassedOn;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints what the container writes from now on, until it has ended, and passes on standard input where
it was run with -i or -t. Signals are passed on. In a terminal Ctrl-P Ctrl-Q leaves it running. The
exit code is the container's, 0 where it was left, and 125 where there is nothing to attach to.

With --type it is another verb: FILEs become an artifact that refers to the image REF, listed by
`dist referrers`. What the registry's own list lacks goes under the tag sha256-<hex>. The last line on
standard output is REPOSITORY@DIGEST of the artifact.

Examples:
  dist run -d -it --name my-shell debian
  dist attach my-shell
  dist attach --no-stdin my-redis
  dist attach --type application/spdx+json localhost:5000/app:1 app.spdx.json:application/spdx+json")]
pub(crate) struct Args {
    /// Pass no input on
    #[arg(long)]
    no_stdin: bool,

    /// The keys that leave it running, as ctrl-a,d
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q", value_parser = parse_keys)]
    detach_keys: Keys,

    /// The container, or the image in a registry or oci:PATH[:TAG]
    #[arg(value_name = "ID|REF")]
    id: String,

    #[command(flatten)]
    artifact: artifact::Attach,
}

/// A sequence of bytes that keys make.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Keys(Vec<u8>);

pub(crate) fn run(config: &Config, args: &Args) -> Result<ExitCode> {
    if args.artifact.is_wanted() {
        return artifact::attach(config, &args.id, &args.artifact).map(|()| ExitCode::SUCCESS);
    }
    Ok(attempt(config, args).unwrap_or_else(|error| attended::not_started(&error)))
}

fn attempt(config: &Config, args: &Args) -> Result<ExitCode> {
    let containers = open(config)?;
    let id: ContainerId = args
        .id
        .parse()
        .context(ErrorKind::InvalidArgument, || format!("read container ID {:?}", args.id))?;
    let container = named(&containers, &id)?;
    let what = || format!("attach to container {}", args.id);
    let exit = block_on(attach(&containers, &container, args)).during(what)?;
    Ok(exit.map_or(ExitCode::SUCCESS, attended::exit_code))
}

/// Gives the end of the container; nothing where it was left.
async fn attach(
    containers: &Containers,
    container: &Container,
    args: &Args,
) -> Result<Option<Exit>> {
    let refuse = |why: &'static str| Err(Error::new(ErrorKind::FailedPrecondition, why));
    match containers.observe(container).await? {
        Observed::Running(_) | Observed::Paused(_) => (),
        Observed::Created | Observed::Exited(_) => return refuse("it does not run"),
    }
    let path = containers.output(&container.id);
    let Some(written) = Written::from_its_end(&path)? else {
        return refuse("it was not run with --detach");
    };
    let client = containers.connect(container).await?;
    let stdin = containers.stdin(&container.id).filter(|_| !args.no_stdin);
    let terminal = has_terminal(container);
    let raw = match &stdin {
        Some(_) if terminal && std::io::stdin().is_terminal() => Some(RawTerminal::take()?),
        _ => None,
    };
    if raw.is_some() {
        redraw(&client).await;
    }
    let left = pass_on(stdin, raw.is_some().then(|| args.detach_keys.clone()));
    let exit = watch(&client, &written, &path, left, raw.is_some()).await;
    drop(raw);
    let exit = exit?;
    if exit.is_some() {
        settle(containers, container, &client).await?;
        written.print()?;
    }
    Ok(exit)
}

/// Prints and passes signals on, until the container ends or is left.
async fn watch(
    client: &TaskClient,
    written: &Written,
    path: &Path,
    mut left: oneshot::Receiver<()>,
    raw: bool,
) -> Result<Option<Exit>> {
    let (failed, mut failure) = oneshot::channel();
    let (printing, path) = (written.clone(), path.to_owned());
    // It ends with this process.
    drop(std::thread::spawn(move || failed.send(printing.print_on(&path))));
    let mut signals = PassedOn::take_over()?;
    let ended = client.wait(ProcessId::First);
    let mut ended = std::pin::pin!(ended);
    let mut may_leave = true;
    loop {
        let signal = tokio::select! {
            exit = &mut ended => return exit.map(Some),
            end = &mut left, if may_leave => match end {
                Ok(()) => return Ok(None),
                Err(_) => {
                    may_leave = false;
                    continue;
                }
            },
            Ok(Err(error)) = &mut failure => return Err(error),
            signal = signals.next() => signal,
        };
        if signal != WINDOW_CHANGED {
            tolerate(client.kill(ProcessId::First, signal, false).await);
        } else if raw && let Some((width, height)) = RawTerminal::size() {
            tolerate(client.resize(ProcessId::First, width, height).await);
        }
    }
}

/// Gives it our size, by way of another one: a program that is told of a change draws itself anew.
async fn redraw(client: &TaskClient) {
    let Some((width, height)) = RawTerminal::size() else { return };
    for height in [height.saturating_add(1), height] {
        tolerate(client.resize(ProcessId::First, width, height).await);
    }
}

/// Whether the first process has a terminal.
fn has_terminal(container: &Container) -> bool {
    let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    let spec: Value = serde_json::from_slice(spec).unwrap_or_default();
    spec.pointer("/process/terminal").and_then(Value::as_bool).unwrap_or_default()
}

/// Passes our input on to a pipe, until its end or to the `keys`, of which the receiver hears.
fn pass_on(pipe: Option<PathBuf>, keys: Option<Keys>) -> oneshot::Receiver<()> {
    let (leave, left) = oneshot::channel();
    let Some(pipe) = pipe else { return left };
    let work = move || -> std::io::Result<bool> {
        // The shim reads it: that does not wait.
        let mut pipe = std::fs::File::options().write(true).open(pipe)?;
        let mut detach = Detach { keys: keys.map_or_else(Vec::new, |keys| keys.0), matched: 0 };
        let (mut input, mut buffer) = (std::io::stdin().lock(), vec![0; 16 << 10]);
        loop {
            let length = input.read(&mut buffer)?;
            if length == 0 {
                return Ok(false);
            }
            let (bytes, leaves) = detach.pass(&buffer[..length]);
            pipe.write_all(&bytes)?;
            if leaves {
                return Ok(true);
            }
        }
    };
    // Nobody waits for it: a terminal may never end.
    drop(std::thread::spawn(move || match work() {
        Ok(true) => drop(leave.send(())),
        Ok(false) => (),
        Err(error) => tracing::debug!(%error, "the container takes no more input"),
    }));
    left
}

/// Looks for the keys in what is typed.
struct Detach {
    keys: Vec<u8>,
    /// How many of them were typed last, and not passed on.
    matched: usize,
}

impl Detach {
    /// What is to be passed on of `input`, and whether all keys were typed.
    fn pass(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (input.to_vec(), false);
        }
        let mut bytes = Vec::with_capacity(input.len() + self.matched);
        for byte in input {
            if *byte != self.keys[self.matched] {
                bytes.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if *byte != self.keys[self.matched] {
                bytes.push(*byte);
                continue;
            }
            self.matched += 1;
            if self.matched == self.keys.len() {
                return (bytes, true);
            }
        }
        (bytes, false)
    }
}

fn parse_keys(text: &str) -> Result<Keys, String> {
    let key = |name: &str| match name.as_bytes() {
        [one] => Some(*one),
        [b'c', b't', b'r', b'l', b'-', key @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => {
            Some(key & 0x1f)
        }
        _ => None,
    };
    let keys: Option<Vec<u8>> = text.split(',').map(key).collect();
    keys.map(Keys).ok_or_else(|| "write keys as a or ctrl-a, with commas between them".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(parse_keys("ctrl-p,ctrl-q"), Ok(Keys(vec![0x10, 0x11])));
        assert_eq!(parse_keys("ctrl-a,d,ctrl-["), Ok(Keys(vec![1, b'd', 0x1b])));
        for text in ["", "ctrl-", "ctrl-A", "ab", "ctrl-p,"] {
            assert!(parse_keys(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_whole_sequence_is_passed_on() {
        let typed = |pieces: &[&str]| {
            let mut detach = Detach { keys: b"xyx!".to_vec(), matched: 0 };
            let mut passed = Vec::new();
            let mut left = false;
            for piece in pieces {
                let (bytes, leaves) = detach.pass(piece.as_bytes());
                passed.extend(bytes);
                left |= leaves;
            }
            (String::from_utf8(passed).unwrap(), left)
        };
        assert_eq!(typed(&["abc"]), ("abc".into(), false));
        assert_eq!(typed(&["axyx!"]), ("a".into(), true));
        assert_eq!(typed(&["x", "y", "x", "!"]), (String::new(), true));
        assert_eq!(typed(&["xy", "z"]), ("xyz".into(), false));
        assert_eq!(typed(&["xxyx!"]), ("x".into(), true));
        let mut none = Detach { keys: Vec::new(), matched: 0 };
        assert_eq!(none.pass(b"x"), (b"x".to_vec(), false));
    }
}
