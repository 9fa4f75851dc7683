//! The environment, as far as it has a say.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::user_namespace;

/// The variables that count; an empty one is none.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) dist_root: Option<OsString>,
    pub(crate) dist_config: Option<OsString>,
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
    pub(crate) source_date_epoch: Option<OsString>,
}

impl Environment {
    /// Reads the environment of this process.
    pub(super) fn read() -> Self {
        let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            dist_root: var("DIST_ROOT"),
            dist_config: var("DIST_CONFIG"),
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
            source_date_epoch: var("SOURCE_DATE_EPOCH"),
        }
    }

    /// A variable that a user names, for a container.
    pub(super) fn named(name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    /// The root directory where none is asked for.
    pub(super) fn default_root(&self, is_root: bool) -> Option<PathBuf> {
        if is_root {
            return Some("/var/lib/dist".into());
        }
        below(&self.xdg_data_home, "dist").or_else(|| below(&self.home, ".local/share/dist"))
    }

    /// The config file where none is asked for.
    pub(super) fn default_file(&self, is_root: bool) -> Option<PathBuf> {
        // Inside the namespace that we made for an ordinary user, root is still that user.
        if is_root && self.entered.is_none() {
            return Some("/etc/dist/dist.toml".into());
        }
        below(&self.xdg_config_home, "dist/dist.toml")
            .or_else(|| below(&self.home, ".config/dist/dist.toml"))
    }

    /// The daemon's socket where none is asked for.
    pub(super) fn default_address(&self, is_root: bool) -> Option<PathBuf> {
        if is_root {
            return Some("/run/dist/dist.sock".into());
        }
        below(&self.xdg_runtime_dir, "dist/dist.sock")
    }

    /// The files that credentials are looked for in, in this order.
    pub(super) fn credential_files(&self) -> Vec<PathBuf> {
        [
            self.registry_auth_file.as_ref().map(PathBuf::from),
            self.docker_config(),
            below(&self.xdg_runtime_dir, "containers/auth.json"),
            below(&self.xdg_config_home, "containers/auth.json")
                .or_else(|| below(&self.home, ".config/containers/auth.json")),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Docker's config file.
    pub(super) fn docker_config(&self) -> Option<PathBuf> {
        below(&self.docker_config, "config.json")
            .or_else(|| below(&self.home, ".docker/config.json"))
    }
}

fn below(dir: &Option<OsString>, file: &str) -> Option<PathBuf> {
    Some(PathBuf::from(dir.as_ref()?).join(file))
}
