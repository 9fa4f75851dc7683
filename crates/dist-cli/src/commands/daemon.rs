//! `dist daemon`: the engine behind containerd's API.

use std::path::Path;
use std::time::Duration;

use dist_core::{Context as _, Error, ErrorKind, Result};
use dist_grpc::server::{self, Access, MetricsSocket, Socket, SocketOptions, Sockets};
use dist_grpc::{Daemon, DaemonOptions};
use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;

use crate::args::LogFormat;
use crate::config::{Config, DaemonConfig};
use crate::signals::Signals;
use crate::{report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Listens on --address [default: /run/dist/dist.sock as root, else $XDG_RUNTIME_DIR/dist/dist.sock].
CONTAINERD_ADDRESS is for clients and has no say here. The rest is set in dist.toml: see
docs/daemon.md.

Examples:
  dist daemon &
  ctr --address /run/dist/dist.sock images ls")]
pub(crate) struct Args {
    /// Serve metrics on this unix socket or loopback port [default: nowhere]
    #[arg(long, value_name = "PATH|IP:PORT")]
    pub(crate) metrics: Option<String>,

    /// Form of the log [default: text]
    #[arg(long, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
}

const ONE: &str = "stop that daemon, or name another --root";

const OTHER: &str = "stop what listens there, or name another address with --metrics";

const LISTENS: &str = "use it, stop it, or name another --address (and --root)";

const BACKEND: &str = "another daemon has its backend socket there: name another directory with \
                       --address, or another daemon.backend_address in dist.toml";

const NO_SOCKET: &str = "it is no socket, and left alone: remove it, or name another --address";

pub(crate) fn run(config: &Config) -> Result<()> {
    let access = access(&config.daemon)?;
    // What can't be right is found before a store is made.
    let place = config.daemon_address().ok().and_then(Path::parent);
    let made = place.filter(|dir| !dir.exists()).map(MadeDir);
    let sockets = sockets(config, &access)?;
    let engine = config.engine()?;
    let root = engine.store().root().to_owned();
    // Held to the end: of two daemons each would collect what the other is about to use.
    let Some(_alone) = engine.store().try_lock("daemon")? else {
        let message = format!("serve {}: another daemon serves it", root.display());
        return Err(report::advise(Error::new(ErrorKind::Busy, message), ONE));
    };
    raise_descriptors();
    let options = DaemonOptions {
        version: env!("DIST_VERSION").to_owned(),
        revision: env!("DIST_REVISION").to_owned(),
        content_sharing: config.daemon.content_sharing,
        gc: config.daemon.gc.clone(),
        programs: Config::program_path(),
    };
    let daemon = Daemon::new(engine, options);
    std::mem::forget(made); // it stays
    // From here on a signal ends it in order: who hears that it is ready may send one at once.
    let _signals = Signals::take_over()?;
    tell(&[NotifyState::Ready]);
    tracing::info!(root = %root.display(), version = env!("DIST_VERSION"), "serving");
    let result = runtime::serve(async |stop| {
        let stop = async {
            stop.await;
            tell(&[NotifyState::Stopping]);
        };
        server::serve(daemon, sockets, stop).await
    });
    tracing::info!("stopped");
    result
}

/// A directory for sockets that is removed, if it is empty, where the daemon does not start.
struct MadeDir<'a>(&'a Path);

impl Drop for MadeDir<'_> {
    fn drop(&mut self) {
        drop(fs_err::remove_dir(self.0)); // others may have begun to use it
    }
}

/// The sockets that systemd passed, in the order of its unit, or those that are made now.
fn sockets(config: &Config, access: &Access) -> Result<Sockets> {
    let mut passed = ListenFd::from_env();
    let mut passed = |index| -> Result<Option<Socket>> {
        let what = || "take over the sockets that were passed".into();
        let listener =
            passed.take_unix_listener(index).context(ErrorKind::InvalidArgument, what)?;
        listener.map(|listener| Socket::passed(listener, access.clone())).transpose()
    };
    let daemon = &config.daemon;
    let options = |path: &Path| -> Result<SocketOptions> {
        Ok(SocketOptions {
            path: path.to_owned(),
            mode: daemon.mode.0,
            owner: daemon.owner.as_deref().map(user).transpose()?,
            group: daemon.group.as_deref().map(group).transpose()?,
        })
    };
    let bind = |path: &Path| Socket::bind(&options(path)?, access.clone());
    let (api, backend) = match passed(0)? {
        Some(api) => (api, passed(1)?),
        None => {
            let address = config.daemon_address()?;
            if daemon.backend_address.as_deref() == Some(address) {
                let message = format!(
                    "listen on {}: clients and a containerd need two sockets, not one",
                    address.display()
                );
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            // The one that people know is tried first: its error says what is the matter.
            let api = patiently(|| bind(address)).map_err(|error| taken(error, address))?;
            let backend = daemon.backend_address.as_deref();
            let backend = backend.map(|address| patiently(|| bind(address))).transpose();
            (api, backend.map_err(|error| advise_if_busy(error, BACKEND))?)
        }
    };
    let metrics = daemon
        .metrics
        .as_deref()
        .map(|address| {
            let bound = MetricsSocket::bind(address, &options(Path::new(address))?, access.clone());
            bound.map_err(|error| advise_if_busy(error, OTHER))
        })
        .transpose()?;
    Ok(Sockets { api, backend, metrics })
}

/// Tries again for a second while a socket is taken: of a daemon that was just killed, a process
/// that it was about to start has it a moment longer.
fn patiently<T>(bind: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..20 {
        match bind() {
            Err(error) if error.kind() == ErrorKind::Busy => {
                std::thread::sleep(Duration::from_millis(50));
            }
            bound => return bound,
        }
    }
    bind()
}

/// Says what to do where the socket for clients can't be made.
fn taken(error: Error, address: &Path) -> Error {
    match error.kind() {
        ErrorKind::Busy => {
            let message = format!("a daemon already listens on {}", address.display());
            report::advise(Error::new(ErrorKind::Busy, message), LISTENS)
        }
        ErrorKind::FailedPrecondition => report::advise(error, NO_SOCKET),
        _ => error,
    }
}

fn advise_if_busy(error: Error, hint: &'static str) -> Error {
    if error.kind() == ErrorKind::Busy { report::advise(error, hint) } else { error }
}

/// Who is answered, beside root and the members of the sockets' group.
fn access(daemon: &DaemonConfig) -> Result<Access> {
    let mut users = vec![rustix::process::geteuid().as_raw()];
    for name in &daemon.allow_users {
        users.push(user(name)?);
    }
    let groups: Result<Vec<u32>> = daemon.allow_groups.iter().map(|name| group(name)).collect();
    Ok(Access::new(users, groups?))
}

/// The number of a user.
fn user(name: &str) -> Result<u32> {
    let known = || uzers::get_user_by_name(name).map(|user| user.uid());
    name.parse().ok().or_else(known).ok_or_else(|| unknown("user", name))
}

/// The number of a group.
fn group(name: &str) -> Result<u32> {
    let known = || uzers::get_group_by_name(name).map(|group| group.gid());
    name.parse().ok().or_else(known).ok_or_else(|| unknown("group", name))
}

fn unknown(kind: &str, name: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("find {kind} {name:?}: there is none"))
}

/// Lets as many connections and files be open as the system allows at all.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the number of open files");
    }
}

/// Tells the service manager, where there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
