//! The network of a container that has one of its own: a namespace at a path in its bundle, which
//! plugins connect before anything runs and disconnect when the container goes. What it joined is an
//! extension of its row, there before the first plugin is called.

use std::path::PathBuf;
use std::process::Command;

use dist_core::{
    Any, Container, ContainerId, Context as _, Error, ErrorKind, Result, ResultExt as _,
};
use serde_json::Value;

use super::{Containers, unmount};
use crate::NetworkConfig;
use crate::cni::Joined;

/// The extension that says what a container joined, and its type.
const NETWORK: &str = "dist/network";

/// The network namespace in a bundle.
const NAMESPACE: &str = "netns";

impl Containers {
    /// Finds a network by its name.
    ///
    /// # Errors
    /// `InvalidArgument` where there is none, or it is not valid; `NotFound` for a plugin.
    pub fn network(&self, name: &str) -> Result<NetworkConfig> {
        self.cni.network(name)
    }

    /// What a container has joined: `name`, `cniVersion`, `plugins`, and the `result` of the plugins.
    #[must_use]
    pub fn joined(container: &Container) -> Option<Value> {
        container.extensions.get(NETWORK).and_then(|any| serde_json::from_slice(&any.value).ok())
    }

    pub(super) fn network_namespace(&self, id: &ContainerId) -> PathBuf {
        self.bundle(id).join(NAMESPACE)
    }

    /// Makes the network namespace of a container and lets it join.
    pub(super) fn join(&self, id: &ContainerId, config: &NetworkConfig) -> Result<Joined> {
        let what = || format!("join network {}", config.name);
        let path = self.network_namespace(id);
        std::fs::File::create(&path).context(ErrorKind::Storage, what)?;
        let mut keep = std::ffi::OsString::from("--net=");
        keep.push(&path);
        let made = Command::new("unshare").arg(keep).args(["--", "true"]).output();
        let made = made.context(ErrorKind::FailedPrecondition, || "run unshare".into());
        let made = made.during(what)?;
        if !made.status.success() {
            let said = String::from_utf8_lossy(&made.stderr).trim().to_owned();
            return Err(Error::new(ErrorKind::Internal, said)).during(what);
        }
        let mut joined = Joined { config: config.clone(), result: None };
        self.record_network(id, &joined)?;
        joined.result = Some(self.cni.add(config, id, &path)?);
        self.record_network(id, &joined)?;
        Ok(joined)
    }

    fn record_network(&self, id: &ContainerId, joined: &Joined) -> Result<()> {
        let value =
            serde_json::to_vec(joined).context(ErrorKind::Internal, || "write a network".into())?;
        let any = Any { type_url: NETWORK.to_owned(), value };
        let change = |container: &mut Container| {
            container.extensions.insert(NETWORK.to_owned(), any);
            Ok(())
        };
        self.rows().update(id, change).map(drop)
    }

    /// Lets a container leave its network, if it has joined one.
    pub(super) fn leave(&self, id: &ContainerId) -> Result<()> {
        let container = match self.rows().get(id) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            container => container?,
        };
        let Some(any) = container.extensions.get(NETWORK) else { return Ok(()) };
        let joined: Joined = serde_json::from_slice(&any.value)
            .context(ErrorKind::Storage, || format!("read the network of container {id}"))?;
        let path = self.network_namespace(id);
        let left = self.cni.delete(&joined, id, &path);
        left.during(|| format!("leave network {}", joined.config.name))?;
        unmount(&path)
    }
}
