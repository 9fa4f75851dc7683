//! Where a command works: on a root directory of this process, or through a daemon.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use dist::{Host, Local, Operations, Puller};
use dist_core::{Context as _, Error, ErrorKind, Result};
use dist_grpc::client::{Client, RemotePuller, socket_path};
use dist_store::{ContentStore, OpenMode, Store, StoreOptions};

use super::Config;
use super::environment::Environment;
use crate::args::{Args, Global};
use crate::commands::Command;
use crate::report;

/// What a flag is about that a daemon does by its own settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The store.
    Store,
    /// Speaking to registries, and how much of it at once.
    Registry,
    /// Unpacking layers.
    Layers,
    /// How much is done at once.
    Jobs,
}

/// A flag that was given, and the setting that counts instead where a daemon does the work.
#[derive(Debug)]
pub(super) struct LocalFlag {
    flag: &'static str,
    key: &'static str,
    part: Part,
}

/// The flags on the command line that a daemon can't be told of. The environment, the config file
/// and defaults say what is usual here, and are not meant for a daemon.
pub(super) fn local_flags(global: &Global, discard_blobs: bool) -> Vec<LocalFlag> {
    let network = &global.network;
    [
        (discard_blobs, "--discard-blobs", "discard_blobs", Part::Store),
        (global.durability.is_some(), "--durability", "durability", Part::Store),
        (global.jobs.is_some(), "--jobs", "jobs", Part::Jobs),
        (
            global.max_layer_size.is_some(),
            "--max-layer-size",
            "limits.max_layer_size",
            Part::Layers,
        ),
        (
            global.max_zstd_window.is_some(),
            "--max-zstd-window",
            "limits.max_zstd_window",
            Part::Layers,
        ),
        (global.policy.is_some(), "--policy", "policy", Part::Registry),
        (network.insecure, "--insecure", "network.insecure", Part::Registry),
        (!network.tls_ca_cert.is_empty(), "--tls-ca-cert", "network.tls_ca_cert", Part::Registry),
        (!network.hosts_dir.is_empty(), "--hosts-dir", "network.hosts_dir", Part::Registry),
        (
            network.registries_conf.is_some(),
            "--registries-conf",
            "network.registries_conf",
            Part::Registry,
        ),
        (
            network.stall_timeout.is_some(),
            "--stall-timeout",
            "network.stall_timeout",
            Part::Registry,
        ),
        (network.retries.is_some(), "--retries", "network.retries", Part::Registry),
        (network.connections.is_some(), "--connections", "network.connections", Part::Registry),
        (
            network.max_connections.is_some(),
            "--max-connections",
            "network.max_connections",
            Part::Registry,
        ),
        (network.limit_rate.is_some(), "--limit-rate", "network.limit_rate", Part::Registry),
        (network.retry_delay.is_some(), "--retry-delay", "network.retry_delay", Part::Registry),
    ]
    .into_iter()
    .filter(|(given, ..)| *given)
    .map(|(_, flag, key, part)| LocalFlag { flag, key, part })
    .collect()
}

impl Config {
    /// The content of a store that must be there.
    pub(crate) fn content_to_read(&self) -> Result<ContentStore> {
        Ok(self.store(OpenMode::ReadOnly)?.content(&self.namespace))
    }

    /// The store in the root directory; `None` where none has been made yet.
    pub(crate) fn store_if_there(&self, mode: OpenMode) -> Result<Option<Store>> {
        found(self.store(mode))
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
        match self.client(&[Part::Store])? {
            Some(client) => Ok(Arc::new(client)),
            None => Ok(Arc::new(Local::new(self.store(mode)?, self.namespace.clone()))),
        }
    }

    /// Where images are that the daemon at a socket has, whatever this command works on.
    pub(crate) fn host_at(&self, address: &str) -> Result<Arc<dyn Host>> {
        Ok(Arc::new(self.client_at(address)?))
    }

    /// Where this process fetches to that has the daemon at a socket keep it.
    pub(crate) fn fetching_at(&self, address: &str) -> Result<Arc<dyn Operations>> {
        Ok(Arc::new(RemotePuller::new(self.client_at(address)?, self.remotes()?, None)))
    }

    fn client_at(&self, address: &str) -> Result<Client> {
        let timeout = self.registry.connect_timeout;
        Client::connect(address, timeout, self.namespace.clone()).map_err(|error| {
            match error.kind() {
                ErrorKind::PermissionDenied => report::advise(error, who_may_connect(address)),
                _ => error,
            }
        })
    }

    /// The daemon, where one is meant. It does `parts` by its own settings.
    fn client(&self, parts: &[Part]) -> Result<Option<Client>> {
        let Some(address) = &self.address else { return Ok(None) };
        if let Some(given) = self.local_flags.iter().find(|flag| parts.contains(&flag.part)) {
            let LocalFlag { flag, key, .. } = given;
            let message = format!(
                "use {flag} through the daemon at {address}: the daemon goes by its own setting, \
                 {key} in its dist.toml"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        self.client_at(address).map(Some)
    }

    /// The daemon, where one is meant, for what it does by itself.
    pub(crate) fn daemon(&self) -> Result<Option<Client>> {
        self.client(&[Part::Store])
    }

    /// Whether a daemon is meant.
    pub(crate) fn is_remote(&self) -> bool {
        self.address.is_some()
    }

    /// What pulls: an engine of this process, or a daemon.
    pub(crate) fn puller(&self) -> Result<Arc<dyn Puller>> {
        self.operations(&[Part::Store, Part::Registry, Part::Layers, Part::Jobs])
    }

    /// Where this process fetches to.
    pub(crate) fn fetching(&self) -> Result<Arc<dyn Operations>> {
        Ok(self.operations(&[Part::Store])?)
    }

    /// Where images are unpacked.
    pub(crate) fn unpacking(&self) -> Result<Arc<dyn Operations>> {
        Ok(self.operations(&[Part::Store, Part::Layers, Part::Jobs])?)
    }

    fn operations(&self, parts: &[Part]) -> Result<Arc<dyn Puller>> {
        match self.client(parts)? {
            None => Ok(Arc::new(self.engine()?)),
            Some(client) => {
                let snapshotter = self.snapshotter.clone();
                Ok(Arc::new(RemotePuller::new(client, self.remotes()?, snapshotter)))
            }
        }
    }

    /// Fails where a daemon is meant: what follows works on a root directory itself.
    pub(super) fn refuse_address(&self) -> Result<()> {
        match &self.address {
            None => Ok(()),
            Some(address) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "work through the daemon at {address}: this works on a root directory alone; run \
                     it where the daemon runs, on the daemon's (--root), which both may use at once"
                ),
            )),
        }
    }
}

/// What a user can do whom a daemon does not answer.
fn who_may_connect(address: &str) -> String {
    let there = socket_path(address).and_then(|path| {
        fs_err::symlink_metadata(path).context(ErrorKind::Unavailable, || "stat the socket".into())
    });
    let rights = there.map_or_else(
        |_| "its directory can't be searched".to_owned(),
        |there| {
            let (mode, gid) = (there.mode() & 0o777, there.gid());
            let group = uzers::get_group_by_gid(gid);
            let group = group.map_or(gid.to_string(), |it| it.name().to_string_lossy().into());
            format!("it has mode {mode:04o} and group {group}")
        },
    );
    format!(
        "the socket lets in whom it belongs to: {rights}; join the group, or have mode, group, \
         allow_users or allow_groups of [daemon] in the daemon's dist.toml let you in"
    )
}

/// Turns the error for a store that is not there into nothing.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The daemon to work through. A root directory that was named on the command line is meant,
/// whatever the environment says; the daemon itself works on its root always.
pub(super) fn client_address(args: &Args, environment: &Environment) -> Result<Option<String>> {
    let Global { address, root, .. } = &args.global;
    if matches!(args.command, Command::Daemon(_)) {
        return Ok(None);
    }
    match (address, root, &environment.containerd_address) {
        (Some(_), Some(_), _) => {
            let message = "choose between --address and --root: one works through a daemon, \
                           the other on a directory";
            Err(Error::new(ErrorKind::InvalidArgument, message))
        }
        (Some(address), None, _) => Ok(Some(address.clone())),
        (None, None, Some(address)) => {
            let text = address.to_str().ok_or_else(|| {
                Error::new(ErrorKind::InvalidArgument, "read CONTAINERD_ADDRESS: it is no text")
            })?;
            Ok(Some(text.to_owned()))
        }
        (None, _, _) => Ok(None),
    }
}
