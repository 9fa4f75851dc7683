//! `dist run`: a container from an image, by the runtime of this machine.

use std::cell::Cell;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dist::Engine;
use dist_core::{
    Container, ContainerId, Context as _, Error, ErrorKind, Exit, Labels, Result, ResultExt as _,
};
use dist_run::{
    ATTACHED, AUTO_REMOVE, Cni, Containers, ImageSettings, Made, NewContainer, ProcessId, ROOTFS,
    Rootfs, STOP_SIGNAL, STOP_TIMEOUT, Streams, Tree, rootless,
};
use serde_json::Value;

use super::attended::{self, Attended, Ending, RawTerminal};
use super::containers::not_made;
use super::stop::{patience, stop_signal};
use super::stored::{Choice, Stored};
use super::wishes::{MOST_OF_HOSTNAME, Wishes};
use crate::config::Config;
use crate::units::parse_patience;
use crate::{output, runtime, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The exit code is the command's; 125 where it could not be started, 126 where it can't be run, 127
where there is none, and 128 and the signal's number where a signal ended it. Signals are passed on.
With -d the id is printed, and output goes to `dist logs`. Ordinary users run it in a user namespace:
networks are then host and none, and there are no limits.

Examples:
  dist run --rm busybox echo hello
  dist run --rm -it --net none debian
  dist run -d --name my-redis --memory 64MiB redis:7
  dist run --rm --rootfs ./tree sh
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
    #[arg(short, long)]
    detach: bool,

    /// Pass standard input on; with --detach that of `dist attach`
    #[arg(short, long)]
    interactive: bool,

    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,

    /// OCI runtime by name or path, or a shim's, as io.containerd.runsc.v1 [default: crun, else runc]
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,

    /// Label of the container
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = parse_label)]
    label: Vec<(String, String)>,

    /// How long `dist stop` lets it end by itself
    #[arg(long, value_name = "TIME", value_parser = parse_patience)]
    stop_timeout: Option<std::time::Duration>,

    /// REF is a directory that has a root file system; what is written there stays
    #[arg(long, conflicts_with_all = ["pull", "platform"])]
    rootfs: bool,

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

/// What is run: an image, or a directory.
struct Source {
    name: String,
    settings: ImageSettings,
    tree: Tree,
}

impl Source {
    fn find(config: &Config, engine: &Engine, args: &Args) -> Result<Self> {
        if args.rootfs {
            let what = || format!("find directory {}", args.image);
            let dir = fs_err::canonicalize(&args.image).context(ErrorKind::NotFound, what)?;
            let (name, settings) = (dir.to_string_lossy().into_owned(), ImageSettings::default());
            return Ok(Self { name, settings, tree: Tree::Directory(dir) });
        }
        let Stored { name, settings, chain_id } =
            Stored::find(config, engine, &args.image, &args.choice)?;
        Ok(Self { name, settings, tree: Tree::Image(chain_id) })
    }
}

fn attempt(config: &Config, args: &Args) -> Result<ExitCode> {
    user_namespace::refuse_unmountable(config)?;
    let containers = open(config)?;
    if args.tty && !args.detach && !std::io::stdin().is_terminal() {
        let message = "run with --tty: standard input is no terminal";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let runtime = containers.runtime(args.runtime.as_deref())?;
    if let (Some(name), Some(_)) = (args.wishes.named_network(), config.entered()) {
        let message = format!("join network {name}: that needs root; host and none do not");
        return Err(Error::new(ErrorKind::FailedPrecondition, message));
    }
    let network = args.wishes.named_network().map(|name| containers.network(name)).transpose()?;
    let image = Source::find(config, containers.engine(), args)?;
    let id = match &args.name {
        Some(id) => id.clone(),
        None => random_id()?,
    };
    let attached = if args.detach {
        None
    } else {
        match containers.attach(&id) {
            Ok(attached) => Some(attached),
            Err(error) => {
                return block_on(async { Err(not_made(&containers, &id, error).await) });
            }
        }
    };
    let new = NewContainer {
        id: id.clone(),
        image: image.name.clone(),
        tree: image.tree.clone(),
        settings: image.settings.clone(),
        runtime,
        labels: labels(args, &image),
        network,
    };
    let wishes = |rootfs: &mut Rootfs| {
        let mut options = args.wishes.options(&image.settings, &args.args, rootfs)?;
        options.terminal = args.tty;
        if options.hostname.is_none() && options.network != dist_run::Network::Host {
            // An id may be longer than the kernel takes.
            options.hostname = Some(id.as_str().chars().take(MOST_OF_HOSTNAME).collect());
        }
        Ok(options)
    };
    let started = Cell::new(false);
    let code = block_on(async {
        let made = match containers.create(new, wishes).await {
            Ok(made) => made,
            Err(error) => return Err(not_made(&containers, &id, error).await),
        };
        super::oci::tell_omitted(&made.converted.omitted);
        let container = made.container.clone();
        let ran = if args.detach {
            detached(&containers, made, args, &started).await.map(|()| ExitCode::SUCCESS)
        } else {
            attend(&containers, made, args, &started).await.map(attended::exit_code)
        };
        // One that ran may have written what somebody wants; one of --rm that ended is gone.
        if !started.get() || args.rm && !args.detach && ran.is_err() {
            containers.remove(&container).await?;
        }
        ran
    })?;
    drop(attached);
    Ok(code)
}

/// The containers of the store, after those have gone that nobody removed.
pub(super) fn open(config: &Config) -> Result<Containers> {
    open_with(config, None)
}

/// The same, with rights over the processes of one of them.
pub(super) fn open_with(config: &Config, id: Option<&ContainerId>) -> Result<Containers> {
    user_namespace::enter_with_containers(config, id)?;
    let mut cni = Cni::usual(Config::program_path());
    if let Some(dirs) = Config::variable("CNI_PATH")? {
        cni.plugin_dirs = std::env::split_paths(&dirs).collect();
    }
    if let Some(dir) = Config::variable("NETCONFPATH")? {
        cni.config_dir = dir.into();
    }
    let engine = config.engine()?;
    if config.entered().is_some() {
        rootless::show_sockets(engine.store().root())?;
    }
    let containers = Containers::new(engine, Config::program_path()).with_networks(cni);
    block_on(containers.sweep())?;
    Ok(containers)
}

/// Runs work that no signal stops in the middle.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime::run_unstopped(work)
}

fn labels(args: &Args, image: &Source) -> Labels {
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
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        set(STOP_TIMEOUT, seconds.to_string());
    }
    labels
}

async fn detached(
    containers: &Containers,
    made: Made,
    args: &Args,
    started: &Cell<bool>,
) -> Result<()> {
    let Made { container, converted, shim } = made;
    let stdio = containers.detached_stdio(&container.id, args.interactive || args.tty, args.tty)?;
    let during = || told(&converted.spec.process.args, &container);
    let begun = containers.begin(&container, shim, &stdio).await;
    let client = begun.map_err(|error| args.wishes.explain(error)).during(during)?;
    if let (true, Some((width, height))) = (args.tty, RawTerminal::size()) {
        attended::tolerate(client.resize(ProcessId::First, width, height).await);
    }
    let began = client.start(ProcessId::First).await;
    began.map_err(|error| args.wishes.explain(error)).during(during)?;
    started.set(true);
    output::line(container.id.as_str())
}

async fn attend(
    containers: &Containers,
    made: Made,
    args: &Args,
    started: &Cell<bool>,
) -> Result<Exit> {
    let Made { container, converted, shim } = made;
    let (container, process) = (&container, &converted.spec.process.args);
    let bundle = containers.bundle(&container.id);
    let streams = Streams::make(&bundle, "first", args.interactive || args.tty, args.tty)?;
    let stdio = streams.stdio().clone();
    let during = || told(process, container);
    let begun = containers.begin(container, shim, &stdio).await;
    let client = begun.map_err(|error| args.wishes.explain(error)).during(during)?;
    let raw = if args.tty { Some(RawTerminal::take()?) } else { None };
    let ending = Ending { signals: vec![stop_signal(container)], patience: patience(container) };
    let mut attended = Attended::new(&client, ProcessId::First, streams, ending);
    let began = attended.start().await;
    let signals = began.map_err(|error| args.wishes.explain(error)).during(during)?;
    started.set(true);
    let exit = attended.wait(signals).await;
    drop(raw);
    let exit = exit.during(|| format!("wait for container {}", container.id))?;
    let judged = judge(exit, container, &bundle).during(|| told(process, container));
    if args.rm {
        containers.dispose(container, &client).await?;
    } else {
        containers.end(container, &client, exit).await?;
    }
    let finished = attended.finish(exit).await.during(|| told(process, container));
    if !args.rm {
        client.shutdown().await?;
    }
    judged.and(finished)
}

/// What is done when something is started.
fn told(args: &[String], container: &Container) -> String {
    let command = args.first().map_or("", String::as_str);
    format!("run {command:?} in container {}", container.id)
}

/// As [`attended::judge`], for the first process, whose mounts are gone.
fn judge(exit: Exit, container: &Container, bundle: &Path) -> Result<Exit> {
    if exit.status == 0 {
        return Ok(exit);
    }
    let spec = container.spec.as_ref().map(|spec| spec.value.as_slice()).unwrap_or_default();
    let mut spec: Value = serde_json::from_slice(spec)
        .context(ErrorKind::Internal, || "read the container's spec".into())?;
    let mut root = bundle.join(ROOTFS);
    let command = PathBuf::from(spec["process"]["args"][0].as_str().unwrap_or_default());
    let below = |mount: &Value| {
        let inside = command.strip_prefix(mount["destination"].as_str()?).ok()?;
        let source = bundle.join(mount["source"].as_str()?);
        Some(if inside.as_os_str().is_empty() { source } else { source.join(inside) })
    };
    let mut mounts = spec["mounts"].as_array().into_iter().flatten().rev();
    if let Some(program) = mounts.find_map(below) {
        root = program.parent().unwrap_or(bundle).to_owned();
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        spec["process"]["args"][0] = format!("/{name}").into();
    }
    attended::judge(exit, &root, &spec["process"])
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
