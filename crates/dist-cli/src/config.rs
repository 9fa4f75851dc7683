//! What is meant: flags, then the environment, then the config file, then defaults. The only place
//! that reads the environment.

mod environment;
mod file;
mod place;
mod resolve;
mod sections;
#[cfg(test)]
mod tests;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use dist::{CopyOptions, Engine, EngineConfig, PolicyFile, PullOptions, Remotes};
use dist_core::{Context, Error, ErrorKind, Namespace, Platform, Result};
use dist_grpc::GcSchedule;
use dist_layer::Limits;
use dist_registry::{Credentials, RegistryOptions};
use dist_store::{Durability, OpenMode, Sharing};

use crate::args::{Args, DurabilityArg, Global, MOST_JOBS};
use crate::commands::Command;
use crate::progress::Mode as ProgressMode;
use crate::report;
use crate::terminal::{self, Log, Terminal};
use crate::units::parse_duration;

use environment::Environment;
use file::File;
use place::LocalFlag;
use resolve::{Resolver, Sources};
use sections::{daemon, limits, policy, registry};

#[cfg(test)]
pub(crate) use file::parse_toml;
pub(crate) use file::read_toml;
pub(crate) use resolve::Row;

/// Everything a command needs to know.
#[derive(Debug)]
pub(crate) struct Config {
    root: Option<PathBuf>,
    /// The socket of the daemon to work through.
    address: Option<String>,
    /// The flags that only a root directory of this process can honour, as far as they were given.
    local_flags: Vec<LocalFlag>,
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// Standard error.
    pub(crate) terminal: Terminal,
    /// How long the command may take.
    pub(crate) timeout: Option<Duration>,
    /// What a layer may cost.
    pub(crate) limits: Limits,
    /// What `dist daemon` does.
    pub(crate) daemon: DaemonConfig,
    progress: ProgressMode,
    pub(crate) durability: Durability,
    snapshotter: Option<String>,
    discard_blobs: bool,
    /// Whether the command line asks for that.
    must_discard: bool,
    jobs: usize,
    /// The most blobs that are sent at once.
    sending_jobs: usize,
    user: Option<String>,
    password_stdin: bool,
    /// What `user` and the password are, once they were read.
    given: OnceLock<Credentials>,
    registry: RegistryOptions,
    policy: Option<PolicyFile>,
    environment: Environment,
    rows: Vec<Row>,
}

/// What the daemon does, as far as it is not the engine's.
#[derive(Debug)]
pub(crate) struct DaemonConfig {
    address: Option<PathBuf>,
    /// The socket for other daemons, if there shall be one.
    pub(crate) backend_address: Option<PathBuf>,
    /// The permissions of the sockets.
    pub(crate) mode: Mode,
    /// The owner of the sockets, by name or number.
    pub(crate) owner: Option<String>,
    /// The group of the sockets, by name or number.
    pub(crate) group: Option<String>,
    /// Who is answered beside root, the daemon's own user and the sockets' group.
    pub(crate) allow_users: Vec<String>,
    /// The groups whose members are.
    pub(crate) allow_groups: Vec<String>,
    /// Who may take what another namespace has.
    pub(crate) content_sharing: Sharing,
    /// Where metrics are served.
    pub(crate) metrics: Option<String>,
    /// When garbage is collected.
    pub(crate) gc: GcSchedule,
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size(u64);

/// Permissions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode(pub(crate) u32);

impl Config {
    /// Resolves what was typed with the environment of this process, and starts the log.
    pub(crate) fn resolve(args: &Args) -> Result<Self> {
        let environment = Environment::read();
        let dumb = environment.term.as_deref().is_some_and(|term| term == "dumb");
        let color = environment.no_color.is_none() && !dumb && terminal::is_terminal();
        let terminal = Terminal::new(dumb, color);
        let (config, log) =
            Self::new(args, environment, terminal, rustix::process::geteuid().is_root())?;
        terminal::install_log(&config.terminal, log, color);
        config.registry.check()?;
        Ok(config)
    }

    fn new(
        args: &Args,
        environment: Environment,
        terminal: Terminal,
        is_root: bool,
    ) -> Result<(Self, Log)> {
        let global = &args.global;
        let daemon_args = match &args.command {
            Command::Daemon(args) => Some(args),
            _ => None,
        };
        let names_user = global.network.user.is_some() || args.command.names_user();
        if global.network.password_stdin && !names_user {
            let message = "read a password: --password-stdin is for whom --user names";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (path, file) = read_file(global, &environment, is_root)?;
        let mut resolver = Resolver { file: path, ..Resolver::default() };
        let to = &mut resolver;
        let client_address = place::client_address(args, &environment)?;
        let root = Sources::new(global.root.clone(), file.root.map(|path| path.0))
            .or_variable("DIST_ROOT", environment.dist_root.clone().map(PathBuf::from));
        let root = to.take_optional("root", root, environment.default_root(is_root));
        let namespace =
            Sources::new(global.namespace.clone(), file.namespace.map(|namespace| namespace.0))
                .or_variable("CONTAINERD_NAMESPACE", namespace_variable(&environment)?);
        let namespace = to.take("namespace", namespace, Namespace::default());
        let snapshotter =
            Sources::new(global.snapshotter.clone(), file.snapshotter.map(|name| name.0.0));
        let snapshotter = to.take_optional("snapshotter", snapshotter, None);
        let durability = Sources::new(global.durability, file.durability.map(|value| value.0.0));
        let durability = to.take("durability", durability, DurabilityArg::default());
        let must_discard = discards(&args.command);
        let discard_blobs = Sources::new(must_discard.then_some(true), file.discard_blobs);
        let discard_blobs = to.take("discard_blobs", discard_blobs, false);
        let given_jobs = global.jobs.or(file.jobs.as_ref().map(|jobs| jobs.0));
        let jobs = Sources::new(global.jobs, file.jobs.map(|jobs| jobs.0));
        let usual_jobs = u16::try_from(PullOptions::default().jobs).unwrap_or(MOST_JOBS);
        let jobs = to.take("jobs", jobs, usual_jobs);
        let limits = limits(to, global, file.limits);
        let registry = registry(to, global, file.network, (&environment, is_root));
        let policy = policy(to, global, file.policy.map(|path| path.0), (&environment, is_root));
        let (daemon, log) =
            daemon(to, (global, daemon_args), file.daemon, environment.default_address(is_root))?;
        let within = |jobs: usize| registry.budget.bodies().map_or(jobs, |most| most.min(jobs));
        let config = Self {
            root,
            address: client_address,
            local_flags: place::local_flags(global, must_discard),
            namespace,
            terminal,
            timeout: global.network.timeout,
            limits,
            daemon,
            progress: global.progress,
            durability: match durability {
                DurabilityArg::None => Durability::None,
                DurabilityArg::Content => Durability::Content,
                DurabilityArg::Full => Durability::Full,
            },
            snapshotter,
            discard_blobs,
            must_discard,
            jobs: within(jobs.into()),
            sending_jobs: within(given_jobs.map_or(CopyOptions::default().jobs, usize::from)),
            user: global.network.user.clone().filter(|_| !args.command.runs_image()),
            password_stdin: global.network.password_stdin,
            given: OnceLock::new(),
            registry,
            policy,
            environment,
            rows: resolver.rows,
        };
        Ok((config, log))
    }

    /// Everything that is in force, and where it comes from.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The root directory.
    pub(crate) fn root(&self) -> Result<&Path> {
        self.root.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "find the root directory: give --root or DIST_ROOT where there is no HOME",
            )
        })
    }

    /// The engine on a store that is made where it is missing.
    pub(crate) fn engine(&self) -> Result<Engine> {
        self.engine_in(OpenMode::Create)
    }

    /// The engine.
    pub(crate) fn engine_in(&self, mode: OpenMode) -> Result<Engine> {
        self.refuse_address()?;
        let engine = Engine::open(EngineConfig {
            root: self.root()?.to_owned(),
            mode,
            namespace: self.namespace.clone(),
            snapshotter: self.snapshotter.clone(),
            durability: self.durability,
            limits: self.limits,
            discard_blobs: self.discard_blobs,
            registry: self.registry()?,
            policy: self.policy.clone(),
        })?;
        let snapshotter = engine.snapshotter_name();
        if self.must_discard && snapshotter != "erofs" {
            let message = format!(
                "discard blobs: {snapshotter} does not keep layers whole, erofs does (--snapshotter)"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(engine)
    }

    /// The remotes, for commands without a store.
    pub(crate) fn remotes(&self) -> Result<Remotes> {
        Ok(Remotes::new(self.registry()?).with_policy(self.policy.clone()))
    }

    fn registry(&self) -> Result<RegistryOptions> {
        let mut options = self.registry.clone();
        options.credentials.explicit = self.credentials()?;
        Ok(options)
    }

    /// How registries are spoken to, with what the files say about credentials.
    pub(crate) fn registry_without_credentials(&self) -> RegistryOptions {
        self.registry.clone()
    }

    /// Whether standard input holds a password.
    pub(crate) fn reads_password(&self) -> bool {
        self.password_stdin
    }

    /// The remotes for somebody else than `--user`: for `login`, as `--user` has it, where there is
    /// one, else for whom the files say.
    pub(crate) fn remotes_as(&self, login: Option<&str>) -> Result<Remotes> {
        let mut options = self.registry.clone();
        let piped = |login: &str| self.password_stdin && !login.contains(':');
        let login = login.map(|login| self.login(login, piped(login))).transpose()?;
        options.credentials.explicit = login;
        Ok(Remotes::new(options).with_policy(self.policy.clone()))
    }

    /// Which images may be used.
    pub(crate) fn policy(&self) -> Option<&PolicyFile> {
        self.policy.as_ref()
    }

    /// The password of a private key, as cosign looks for it.
    pub(crate) fn key_password(&self) -> Option<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        self.environment.cosign_password.clone().map(OsStringExt::into_vec)
    }

    /// Whether there is a `--user` for every registry.
    pub(crate) fn has_user(&self) -> bool {
        self.user.is_some()
    }

    /// The credentials that were given; the password is read or asked for now, once.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>> {
        let Some(user) = self.user.as_deref() else { return Ok(None) };
        if let Some(given) = self.given.get() {
            return Ok(Some(given.clone()));
        }
        let given = self.login(user, self.password_stdin)?;
        Ok(Some(self.given.get_or_init(|| given).clone()))
    }

    /// Who `user` is, with the password that standard input holds where it is `piped`.
    fn login(&self, user: &str, piped: bool) -> Result<Credentials> {
        let (user, password) = match user.split_once(':') {
            Some((user, _)) if piped => {
                let message = format!("give one password for {user}, not two");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            Some((user, password)) => {
                report::warn(
                    "other users of this machine can see a password in the arguments; \
                     --password-stdin hides it",
                );
                (user, password.to_owned())
            }
            None if piped => (user, password_from_stdin()?),
            None => {
                let ask = || rpassword::prompt_password(format!("Password for {user}: "));
                let password = ask().context(ErrorKind::InvalidArgument, || {
                    format!("ask for the password of {user}: give it with --password-stdin")
                })?;
                (user, password)
            }
        };
        Ok(Credentials::password(user, password))
    }

    /// Where the daemon listens.
    pub(crate) fn daemon_address(&self) -> Result<&Path> {
        self.daemon.address.as_deref().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "find a place for the socket: give --address where there is no XDG_RUNTIME_DIR",
            )
        })
    }

    /// The file that logins are kept in.
    pub(crate) fn credential_file(&self) -> Result<PathBuf> {
        self.environment.docker_config().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "find docker's config.json: set DOCKER_CONFIG where there is no HOME",
            )
        })
    }

    /// Where commands keep what they note for their next run.
    pub(crate) fn state_directory(&self) -> Option<PathBuf> {
        self.environment.state_directory()
    }

    /// Platform and number of jobs.
    pub(crate) fn pull_options(&self, platform: Option<&Platform>) -> PullOptions {
        let defaults = PullOptions::default();
        PullOptions { platform: platform.cloned().unwrap_or(defaults.platform), jobs: self.jobs }
    }

    /// How many blobs are sent at once, at most.
    pub(crate) fn sending_jobs(&self) -> usize {
        self.sending_jobs
    }

    /// The form of progress.
    pub(crate) fn progress_unless(&self, quiet: bool) -> ProgressMode {
        if quiet { ProgressMode::None } else { self.progress }
    }

    /// How long `fetch-object` may take: it has a variable of its own.
    pub(crate) fn fetch_timeout(&self) -> Result<Option<Duration>> {
        if self.timeout.is_some() {
            return Ok(self.timeout);
        }
        const NAME: &str = "CONTAINERD_FETCH_TIMEOUT";
        let Some(value) = &self.environment.containerd_fetch_timeout else { return Ok(None) };
        parse_duration(&value.to_string_lossy()).map(Some).map_err(|problem| {
            Error::new(ErrorKind::InvalidArgument, format!("read {NAME}: {problem}"))
        })
    }

    /// The flags of the user namespace that this process was started again in.
    pub(crate) fn entered(&self) -> Option<String> {
        self.environment.entered.as_ref().map(|flags| flags.to_string_lossy().into_owned())
    }

    /// The latest time that what is made may bear, in seconds since the epoch.
    pub(crate) fn source_date_epoch(&self) -> Result<Option<i64>> {
        let Some(value) = &self.environment.source_date_epoch else { return Ok(None) };
        let text = value.to_string_lossy();
        let what = || format!("read SOURCE_DATE_EPOCH {text:?}");
        text.parse().context(ErrorKind::InvalidArgument, what).map(Some)
    }

    /// Where programs are looked for.
    pub(crate) fn program_path() -> Option<std::ffi::OsString> {
        Environment::named("PATH")
    }

    /// The value of a variable of this process that goes into a container; `None` where it is not
    /// set.
    ///
    /// # Errors
    /// `InvalidArgument` for a value that is not UTF-8.
    pub(crate) fn variable(name: &str) -> Result<Option<String>> {
        let Some(value) = Environment::named(name) else { return Ok(None) };
        value.into_string().map(Some).map_err(|_| {
            let message = format!("pass variable {name}: its value is not UTF-8");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    }

    /// The snapshotter that was asked for.
    pub(crate) fn snapshotter_flag(&self) -> Option<&str> {
        self.snapshotter.as_deref()
    }
}

fn password_from_stdin() -> Result<String> {
    const MOST: u64 = 64 << 10;
    let mut password = String::new();
    std::io::stdin()
        .lock()
        .take(MOST)
        .read_to_string(&mut password)
        .context(ErrorKind::InvalidArgument, || "read the password from standard input".into())?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    let password = password.strip_suffix('\r').unwrap_or(password);
    if password.is_empty() {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            "read the password from standard input: it is empty",
        ));
    }
    Ok(password.to_owned())
}

/// Whether a command is to discard blobs.
fn discards(command: &Command) -> bool {
    match command {
        Command::Pull(args) => args.discard_blobs(),
        Command::Rootfs(args) => args.discard_blobs(),
        _ => false,
    }
}

/// The config file: one that was asked for must be there.
fn read_file(
    global: &Global,
    environment: &Environment,
    is_root: bool,
) -> Result<(Option<PathBuf>, File)> {
    let asked = global.config_file.clone().or(environment.dist_config.clone().map(PathBuf::from));
    if let Some(path) = asked {
        let file = File::read(&path)?;
        return Ok((Some(path), file));
    }
    let Some(path) = environment.default_file(is_root) else { return Ok((None, File::default())) };
    match File::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok((None, File::default())),
        // It is somebody else's where HOME is.
        Err(error) if is_forbidden(&error) => {
            report::warn(&format!("{}; going on without it", report::one_line(&error)));
            Ok((None, File::default()))
        }
        file => Ok((Some(path), file?)),
    }
}

fn is_forbidden(error: &Error) -> bool {
    let cause = error.find::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

fn namespace_variable(environment: &Environment) -> Result<Option<Namespace>> {
    let Some(value) = &environment.containerd_namespace else { return Ok(None) };
    let text = value.to_string_lossy();
    let what = || format!("read CONTAINERD_NAMESPACE={text}");
    text.parse().context(ErrorKind::InvalidArgument, what).map(Some)
}
