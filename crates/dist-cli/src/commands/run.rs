//! `dist run`: a container from an image, by the runtime of this machine.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::process::ExitCode;

use dist_core::{
    Container, ContainerId, Context as _, Error, ErrorKind, Exit, Labels, Result, ResultExt as _,
};
use dist_run::{
    ATTACHED, AUTO_REMOVE, Containers, NewContainer, ProcessId, Rootfs, STOP_SIGNAL, STOP_TIMEOUT,
    Stdio, Streams,
};

use super::attended::{self, Attended, RawTerminal};
use super::stored::{Choice, Stored};
use super::wishes::Wishes;
use crate::config::Config;
use crate::units::parse_duration;
use crate::{output, report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is the command's; 125 where it could not be started, 126 where it can't be run, 127
where there is none, and 128 and the signal's number where a signal ended it. Signals are passed on.
With -d the id is printed, and output goes to `dist logs`.

Examples:
  dist run --rm busybox echo hello
  dist run --rm -it --net none debian
  dist run -d --name my-redis --memory 64MiB redis:7
  dist run --rm -v ./data:/data:ro -e LANG -w /data python python3 count.py")]
pub(crate) struct Args {
    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    wishes: Wishes,

    /// Id of the container [default: 12 random digits]
    #[arg(long, visible_alias = "id", value_name = "ID")]
    name: Option<ContainerId>,

    /// Remove it when it has ended
    #[arg(long)]
    rm: bool,

    /// Do not wait for its end
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// OCI runtime by name or path, or a shim's, as io.containerd.runsc.v1 [default: runc, else crun]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,

    /// Label of the container
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// How long `dist stop` lets it end by itself
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    stop_timeout: Option<std::time::Duration>,

    /// Image, in the store or in a registry
    #[arg(value_name = "REF")]
    image: String,

    /// Command and arguments, in place of the image's arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("a label needs a name".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<ExitCode> {
    Ok(attempt(config, args).unwrap_or_else(|error| attended::not_started(&error)))
}

fn attempt(config: &Config, args: &Args) -> Result<ExitCode> {
    let containers = open(config)?;
    if args.tty && !std::io::stdin().is_terminal() {
        let message = "run with --tty: standard input is no terminal";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let runtime = containers.runtime(args.runtime.as_deref())?;
    let engine = config.engine()?;
    let image = Stored::find(config, &engine, &args.image, &args.choice)?;
    let id = match &args.name {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let attached = if args.detach { None } else { Some(containers.attach(&id)?) };
    let new = NewContainer {
        id: id.clone(),
        image: image.name.clone(),
        chain_id: image.chain_id,
        settings: image.settings.clone(),
        runtime,
        labels: labels(args, &image),
    };
    let wishes = |rootfs: &mut Rootfs| {
        let mut options = args.wishes.options(&image.settings, &args.args, rootfs)?;
        options.terminal = args.tty;
        if options.hostname.is_none() && options.network != dist_run::Network::Host {
            options.hostname = Some(id.to_string());
        }
        Ok(options)
    };
    let (container, converted) =
        containers.create(new, wishes).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                report::advise(error, format!("`dist containers rm {id}` removes that one"))
            }
            _ => error,
        })?;
    super::oci::tell_omitted(&converted.omitted);
    let started = Cell::new(false);
    let code = block_on(async {
        let ran = if args.detach {
            detached(&containers, &container, &started).await.map(|()| ExitCode::SUCCESS)
        } else {
            attend(&containers, &container, args, &started).await.map(attended::exit_code)
        };
        // One that ran may have written what somebody wants.
        if !started.get() || args.rm && !args.detach {
            containers.remove(&container).await?;
        }
        ran
    })?;
    drop(attached);
    Ok(code)
}

/// The containers of the store, after those have gone that nobody removed.
pub(super) fn open(config: &Config) -> Result<Containers> {
    if !rustix::process::geteuid().is_root() {
        let message = "work with containers: that needs root";
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    let containers = Containers::new(config.engine()?, Config::program_path());
    block_on(containers.sweep())?;
    Ok(containers)
}

/// Runs work that no signal stops in the middle.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::run_unstopped(work)
}

fn labels(args: &Args, image: &Stored) -> Labels {
    let mut labels: Labels = args.label.iter().cloned().collect();
    let mut set = |name: &str, value: String| labels.insert(name.to_owned(), value);
    if args.rm {
        set(AUTO_REMOVE, "true".into());
    }
    if !args.detach {
        set(ATTACHED, "true".into());
    }
    let settings = image.settings.config.as_ref();
    if let Some(signal) = settings.and_then(|settings| settings.stop_signal.clone()) {
        set(STOP_SIGNAL, signal);
    }
    if let Some(timeout) = args.stop_timeout {
        set(STOP_TIMEOUT, timeout.as_secs().to_string());
    }
    labels
}

async fn detached(
    containers: &Containers,
    container: &Container,
    started: &Cell<bool>,
) -> Result<()> {
    let path = containers.output(&container.id);
    let uri = format!("file://{}", path.display());
    let stdio = Stdio { stdout: uri.clone(), stderr: uri, ..Stdio::default() };
    let during = || format!("start container {}", container.id);
    let client = containers.begin(container, &stdio).await.during(during)?;
    client.start(ProcessId::First).await.during(during)?;
    started.set(true);
    output::line(container.id.as_str())
}

async fn attend(
    containers: &Containers,
    container: &Container,
    args: &Args,
    started: &Cell<bool>,
) -> Result<Exit> {
    let bundle = containers.bundle(&container.id);
    let streams = Streams::make(&bundle, "first", args.interactive || args.tty, args.tty)?;
    let stdio = streams.stdio().clone();
    let during = || format!("start container {}", container.id);
    let client = containers.begin(container, &stdio).await.during(during)?;
    let raw = if args.tty { Some(RawTerminal::take()?) } else { None };
    let mut attended = Attended::new(&client, ProcessId::First, streams);
    let signals = attended.start().await.during(during)?;
    started.set(true);
    let exit = attended.wait(signals).await;
    drop(raw);
    let exit = exit.during(|| format!("wait for container {}", container.id))?;
    containers.end(container, &client, exit).await?;
    attended.finish().await?;
    client.shutdown().await?;
    Ok(exit)
}

fn random_id() -> Result<ContainerId> {
    let text = random_name()?;
    text.parse().context(ErrorKind::Internal, || format!("name a container {text:?}"))
}

/// Twelve random digits.
pub(super) fn random_name() -> Result<String> {
    let mut bytes = [0; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .context(ErrorKind::Internal, || "get random bytes".into())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
