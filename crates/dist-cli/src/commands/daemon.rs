//! `dist daemon`: the engine behind containerd's API.

use dist_core::{Context as _, Error, ErrorKind, Result};
use dist_grpc::server::{self, Access, Socket, SocketOptions, Sockets};
use dist_grpc::{About, Daemon};
use listenfd::ListenFd;
use rustix::process::{Resource, Rlimit};
use sd_notify::NotifyState;

use crate::config::Config;
use crate::runtime;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Listens on --address [default: /run/dist/dist.sock as root, else
$XDG_RUNTIME_DIR/dist/dist.sock]. CONTAINERD_ADDRESS is for clients; it has no say here.

Examples:
  dist daemon &
  ctr --address /run/dist/dist.sock images ls")]
pub(crate) struct Args {}

pub(crate) fn run(config: &Config, Args {}: &Args) -> Result<()> {
    let engine = config.daemon_engine()?;
    let root = engine.store().root().to_owned();
    // Held to the end: of two daemons each would collect what the other is about to use.
    let Some(_alone) = engine.store().try_lock("daemon")? else {
        let message = format!("serve {}: another daemon serves it", root.display());
        return Err(Error::new(ErrorKind::Busy, message));
    };
    raise_descriptors();
    let about = About {
        version: env!("DIST_VERSION").to_owned(),
        revision: env!("DIST_REVISION").to_owned(),
    };
    let sockets = sockets(config)?;
    let daemon = Daemon::new(engine, about);
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

/// The sockets that systemd passed, in the order of its unit, or those that are made now.
fn sockets(config: &Config) -> Result<Sockets> {
    let access = Access::new([rustix::process::geteuid().as_raw()], []);
    let mut passed = ListenFd::from_env();
    let mut passed = |index| -> Result<Option<Socket>> {
        let what = || "take over the sockets that were passed".into();
        let listener =
            passed.take_unix_listener(index).context(ErrorKind::InvalidArgument, what)?;
        listener.map(|listener| Socket::passed(listener, access.clone())).transpose()
    };
    let bind = |path| {
        let options = SocketOptions { path, mode: 0o660, owner: None, group: None };
        Socket::bind(&options, access.clone())
    };
    if let Some(api) = passed(0)? {
        return Ok(Sockets { api, backend: passed(1)? });
    }
    let path = config.daemon_address()?;
    let backend = bind(path.with_file_name("backend.sock"))?;
    Ok(Sockets { api: bind(path)?, backend: Some(backend) })
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
