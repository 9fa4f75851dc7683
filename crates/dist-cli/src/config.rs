//! What is meant: flags, then the environment, then defaults. The only place that reads the
//! environment.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dist::{Engine, EngineConfig, Host, Local, PullOptions, Remotes};
use dist_core::{Context, Error, ErrorKind, Namespace, Platform, Result};
use dist_grpc::client::Client;
use dist_layer::Limits;
use dist_registry::{CredentialSource, Credentials, RegistryOptions};
use dist_store::{ContentStore, Durability, OpenMode, Store, StoreOptions};
use tracing::level_filters::LevelFilter;

use crate::args::{DurabilityArg, Global, Network};
use crate::progress::Mode;
use crate::report;
use crate::terminal::{self, Terminal};
use crate::units::parse_duration;
use crate::user_namespace;

/// The environment, as far as it has a say.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) dist_root: Option<OsString>,
    pub(crate) entered: Option<OsString>,
    pub(crate) containerd_address: Option<OsString>,
    pub(crate) containerd_namespace: Option<OsString>,
    pub(crate) containerd_fetch_timeout: Option<OsString>,
    pub(crate) docker_config: Option<OsString>,
    pub(crate) registry_auth_file: Option<OsString>,
    pub(crate) xdg_data_home: Option<OsString>,
    pub(crate) xdg_config_home: Option<OsString>,
    pub(crate) xdg_runtime_dir: Option<OsString>,
    pub(crate) home: Option<OsString>,
    pub(crate) no_color: Option<OsString>,
    pub(crate) term: Option<OsString>,
}

impl Environment {
    /// Reads the environment; an empty variable is none.
    fn read() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            dist_root: var("DIST_ROOT"),
            entered: var(user_namespace::ENTERED),
            containerd_address: var("CONTAINERD_ADDRESS"),
            containerd_namespace: var("CONTAINERD_NAMESPACE"),
            containerd_fetch_timeout: var("CONTAINERD_FETCH_TIMEOUT"),
            docker_config: var("DOCKER_CONFIG"),
            registry_auth_file: var("REGISTRY_AUTH_FILE"),
            xdg_data_home: var("XDG_DATA_HOME"),
            xdg_config_home: var("XDG_CONFIG_HOME"),
            xdg_runtime_dir: var("XDG_RUNTIME_DIR"),
            home: var("HOME"),
            no_color: var("NO_COLOR"),
            term: var("TERM"),
        }
    }
}

/// Everything a command needs to know.
#[derive(Debug)]
pub(crate) struct Config {
    root: Option<PathBuf>,
    /// The socket of the daemon to work through.
    address: Option<String>,
    /// Where a daemon is told to listen: what the command line says, not the environment.
    listen: Option<PathBuf>,
    root_is_given: bool,
    /// The namespace.
    pub(crate) namespace: Namespace,
    /// Standard error.
    pub(crate) terminal: Terminal,
    /// How long the command may take.
    pub(crate) timeout: Option<Duration>,
    /// What a layer may cost.
    pub(crate) limits: Limits,
    progress: Mode,
    durability: Durability,
    snapshotter: Option<String>,
    jobs: Option<usize>,
    user: Option<String>,
    password_stdin: bool,
    registry: RegistryOptions,
    environment: Environment,
    is_root: bool,
}

impl Config {
    /// Resolves the flags with the environment of this process, and starts the log.
    pub(crate) fn resolve(global: &Global) -> Result<Self> {
        let environment = Environment::read();
        let dumb = environment.term.as_deref().is_some_and(|term| term == "dumb");
        let color = environment.no_color.is_none() && !dumb && terminal::is_terminal();
        let terminal = Terminal::new(dumb, color);
        let level = if global.debug { LevelFilter::DEBUG } else { global.log_level };
        terminal::install_log(&terminal, level, color);
        Self::new(global, environment, terminal, rustix::process::geteuid().is_root())
    }

    fn new(
        global: &Global,
        environment: Environment,
        terminal: Terminal,
        is_root: bool,
    ) -> Result<Self> {
        let defaults = Limits::default();
        let registry = registry(&global.network, &environment);
        registry.check()?;
        Ok(Self {
            root: root(global, &environment, is_root),
            address: address(global, &environment)?,
            listen: global.address.as_ref().map(PathBuf::from),
            root_is_given: global.root.is_some(),
            namespace: namespace(global, &environment)?,
            terminal,
            timeout: global.network.timeout,
            limits: Limits {
                layer_bytes: global.max_layer_size.unwrap_or(defaults.layer_bytes),
                zstd_window: global.max_zstd_window.unwrap_or(defaults.zstd_window),
                ..defaults
            },
            progress: global.progress,
            durability: match global.durability {
                DurabilityArg::None => Durability::None,
                DurabilityArg::Content => Durability::Content,
                DurabilityArg::Full => Durability::Full,
            },
            snapshotter: global.snapshotter.clone(),
            jobs: global.jobs.map(usize::from),
            user: global.network.user.clone(),
            password_stdin: global.network.password_stdin,
            registry,
            environment,
            is_root,
        })
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

    /// The content of a store that must be there.
    pub(crate) fn content_to_read(&self) -> Result<ContentStore> {
        Ok(self.store(OpenMode::ReadOnly)?.content(&self.namespace))
    }

    fn store(&self, mode: OpenMode) -> Result<Store> {
        self.refuse_address()?;
        let options = StoreOptions { durability: self.durability, mode, ..StoreOptions::default() };
        Store::open(self.root()?, options)
    }

    /// Where images are, for reading; `None` where no store has been made yet.
    pub(crate) fn host_to_read(&self) -> Result<Option<Arc<dyn Host>>> {
        found(self.host(OpenMode::ReadOnly))
    }

    /// Where images are, for changing what is there; `None` where no store has been made yet.
    pub(crate) fn host_to_change(&self) -> Result<Option<Arc<dyn Host>>> {
        found(self.host(OpenMode::Existing))
    }

    /// Where images are; a store is made where it is missing.
    pub(crate) fn host_to_make(&self) -> Result<Arc<dyn Host>> {
        self.host(OpenMode::Create)
    }

    /// Where images are, for reading; no store is an error.
    pub(crate) fn host_that_is_there(&self) -> Result<Arc<dyn Host>> {
        self.host(OpenMode::ReadOnly)
    }

    fn host(&self, mode: OpenMode) -> Result<Arc<dyn Host>> {
        match &self.address {
            Some(address) if self.root_is_given => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "work through the daemon at {address} and on a root directory: give one of --address and --root"
                ),
            )),
            Some(address) => {
                let timeout = self.registry.connect_timeout;
                Ok(Arc::new(Client::connect(address, timeout, self.namespace.clone())?))
            }
            None => Ok(Arc::new(Local::new(self.store(mode)?, self.namespace.clone()))),
        }
    }

    /// Fails where a daemon is meant: what follows works on a root directory itself.
    fn refuse_address(&self) -> Result<()> {
        match &self.address {
            None => Ok(()),
            Some(address) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "work through the daemon at {address}: this command needs a root directory \
                     (--root)"
                ),
            )),
        }
    }

    /// The engine on a store that is made where it is missing.
    pub(crate) fn engine(&self) -> Result<Engine> {
        self.engine_in(OpenMode::Create)
    }

    /// The engine.
    pub(crate) fn engine_in(&self, mode: OpenMode) -> Result<Engine> {
        self.refuse_address()?;
        self.engine_at_root(mode)
    }

    /// The engine that a daemon serves; --address says where.
    pub(crate) fn daemon_engine(&self) -> Result<Engine> {
        self.engine_at_root(OpenMode::Create)
    }

    fn engine_at_root(&self, mode: OpenMode) -> Result<Engine> {
        Engine::open(EngineConfig {
            root: self.root()?.to_owned(),
            mode,
            namespace: self.namespace.clone(),
            snapshotter: self.snapshotter.clone(),
            durability: self.durability,
            limits: self.limits,
            registry: self.registry()?,
        })
    }

    /// The remotes, for commands without a store.
    pub(crate) fn remotes(&self) -> Result<Remotes> {
        Ok(Remotes::new(self.registry()?))
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

    /// The credentials that were given; the password is read or asked for now.
    pub(crate) fn credentials(&self) -> Result<Option<Credentials>> {
        let Some(user) = &self.user else { return Ok(None) };
        let (user, password) = match user.split_once(':') {
            Some((user, _)) if self.password_stdin => {
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
            None if self.password_stdin => (user.as_str(), password_from_stdin()?),
            None => {
                let ask = || rpassword::prompt_password(format!("Password for {user}: "));
                let password = ask().context(ErrorKind::InvalidArgument, || {
                    format!("ask for the password of {user}: give it with --password-stdin")
                })?;
                (user.as_str(), password)
            }
        };
        Ok(Some(Credentials::password(user, password)))
    }

    /// Where the daemon listens.
    pub(crate) fn daemon_address(&self) -> Result<PathBuf> {
        if let Some(path) = &self.listen {
            return Ok(path.clone());
        }
        if self.is_root {
            return Ok("/run/dist/dist.sock".into());
        }
        let dir = self.environment.xdg_runtime_dir.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "find a place for the socket: give --address where there is no XDG_RUNTIME_DIR",
            )
        })?;
        Ok(PathBuf::from(dir).join("dist/dist.sock"))
    }

    /// The file that logins are kept in.
    pub(crate) fn credential_file(&self) -> Result<PathBuf> {
        docker_config(&self.environment).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "find docker's config.json: set DOCKER_CONFIG where there is no HOME",
            )
        })
    }

    /// Platform and number of jobs.
    pub(crate) fn pull_options(&self, platform: Option<&Platform>) -> PullOptions {
        let defaults = PullOptions::default();
        PullOptions {
            platform: platform.cloned().unwrap_or(defaults.platform),
            jobs: self.jobs.unwrap_or(defaults.jobs),
        }
    }

    /// The form of progress.
    pub(crate) fn progress_unless(&self, quiet: bool) -> Mode {
        if quiet { Mode::None } else { self.progress }
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

    /// The snapshotter that was asked for.
    pub(crate) fn snapshotter_flag(&self) -> Option<&str> {
        self.snapshotter.as_deref()
    }
}

/// Turns the error for a store that is not there into nothing.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
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

fn registry(network: &Network, environment: &Environment) -> RegistryOptions {
    let defaults = RegistryOptions::default();
    RegistryOptions {
        plain_http: network.plain_http,
        insecure: network.insecure,
        ca_certs: network.tls_ca_cert.clone(),
        connect_timeout: network.connect_timeout.unwrap_or(defaults.connect_timeout),
        stall_timeout: network.stall_timeout.unwrap_or(defaults.stall_timeout),
        attempts: network.retries.map_or(defaults.attempts, |retries| u32::from(retries) + 1),
        retry_delay: network.retry_delay.unwrap_or(defaults.retry_delay),
        user_agent: concat!("dist/", env!("CARGO_PKG_VERSION")).to_owned(),
        credentials: CredentialSource {
            files: credential_files(environment),
            ..CredentialSource::default()
        },
        ..defaults
    }
}

/// The files that credentials are looked for in, in this order.
fn credential_files(environment: &Environment) -> Vec<PathBuf> {
    let below = |dir: &Option<OsString>, file: &str| Some(PathBuf::from(dir.as_ref()?).join(file));
    [
        environment.registry_auth_file.as_ref().map(PathBuf::from),
        docker_config(environment),
        below(&environment.xdg_runtime_dir, "containers/auth.json"),
        below(&environment.xdg_config_home, "containers/auth.json")
            .or_else(|| below(&environment.home, ".config/containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn docker_config(environment: &Environment) -> Option<PathBuf> {
    match &environment.docker_config {
        Some(dir) => Some(PathBuf::from(dir).join("config.json")),
        None => Some(PathBuf::from(environment.home.as_ref()?).join(".docker/config.json")),
    }
}

fn root(global: &Global, environment: &Environment, is_root: bool) -> Option<PathBuf> {
    if let Some(root) = &global.root {
        return Some(root.clone());
    }
    if let Some(root) = &environment.dist_root {
        return Some(root.into());
    }
    if is_root {
        return Some("/var/lib/dist".into());
    }
    match &environment.xdg_data_home {
        Some(data) => Some(PathBuf::from(data).join("dist")),
        None => Some(PathBuf::from(environment.home.as_ref()?).join(".local/share/dist")),
    }
}

/// The daemon's socket. A root directory that was named on the command line is meant, whatever the
/// environment says.
fn address(global: &Global, environment: &Environment) -> Result<Option<String>> {
    if let Some(address) = &global.address {
        return Ok(Some(address.clone()));
    }
    match &environment.containerd_address {
        Some(address) if global.root.is_none() => {
            let text = address.to_str().ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "read CONTAINERD_ADDRESS: it is no text")
            })?;
            Ok(Some(text.to_owned()))
        }
        _ => Ok(None),
    }
}

fn namespace(global: &Global, environment: &Environment) -> Result<Namespace> {
    if let Some(namespace) = &global.namespace {
        return Ok(namespace.clone());
    }
    let Some(value) = &environment.containerd_namespace else { return Ok(Namespace::default()) };
    let text = value.to_string_lossy();
    text.parse().context(ErrorKind::InvalidArgument, || format!("read CONTAINERD_NAMESPACE={text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    fn resolve(line: &[&str], environment: Environment, is_root: bool) -> Result<Config> {
        let line = ["dist", "version"].iter().chain(line);
        let args = crate::args::Args::try_parse_from(line).unwrap();
        Config::new(&args.global, environment, Terminal::new(true, false), is_root)
    }

    #[test]
    fn flags_then_environment_then_defaults() {
        let full = || Environment {
            dist_root: Some("/env".into()),
            containerd_namespace: Some("k8s.io".into()),
            home: Some("/home/u".into()),
            ..Environment::default()
        };
        let config = resolve(&["--root", "/flag", "-n", "mine"], full(), false).unwrap();
        assert_eq!(config.root().unwrap(), Path::new("/flag"));
        assert_eq!(config.namespace.as_str(), "mine");
        let config = resolve(&[], full(), true).unwrap();
        assert_eq!(config.root().unwrap(), Path::new("/env"));
        assert_eq!(config.namespace.as_str(), "k8s.io");
        let home = Environment { home: Some("/home/u".into()), ..Environment::default() };
        let config = resolve(&[], home, false).unwrap();
        assert_eq!(config.root().unwrap(), Path::new("/home/u/.local/share/dist"));
        let config = resolve(&[], Environment::default(), true).unwrap();
        assert_eq!(config.root().unwrap(), Path::new("/var/lib/dist"));
        assert_eq!(config.namespace.as_str(), "default");
    }

    #[test]
    fn without_a_home_only_what_needs_the_root_fails() {
        let config = resolve(&[], Environment::default(), false).unwrap();
        assert_eq!(config.root().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn certificates_are_looked_at_whatever_is_spoken() {
        let files = tempfile::tempdir().unwrap();
        let empty = files.path().join("empty.pem");
        fs_err::write(&empty, "").unwrap();
        for path in [empty.to_str().unwrap(), "/nonexistent"] {
            let line = ["--plain-http", "--tls-ca-cert", path];
            let error = resolve(&line, Environment::default(), true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn a_bad_environment_is_a_usage_error() {
        let environment =
            Environment { containerd_namespace: Some("../x".into()), ..Environment::default() };
        let error = resolve(&[], environment, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
