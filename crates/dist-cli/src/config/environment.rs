//! The environment, as far as it has a say.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use dist_registry::RegistriesFiles;

use crate::user_namespace;

/// The variables that count; an empty one is none.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) dist_root: Option<OsString>,
    pub(crate) dist_config: Option<OsString>,
    pub(crate) dist_policy: Option<OsString>,
    pub(crate) cosign_password: Option<OsString>,
    pub(crate) entered: Option<OsString>,
    pub(crate) containerd_address: Option<OsString>,
    pub(crate) containerd_namespace: Option<OsString>,
    pub(crate) containerd_fetch_timeout: Option<OsString>,
    pub(crate) docker_config: Option<OsString>,
    pub(crate) registry_auth_file: Option<OsString>,
    pub(crate) containers_registries_conf: Option<OsString>,
    pub(crate) registries_config_path: Option<OsString>,
    pub(crate) xdg_cache_home: Option<OsString>,
    pub(crate) xdg_data_home: Option<OsString>,
    pub(crate) xdg_config_home: Option<OsString>,
    pub(crate) xdg_state_home: Option<OsString>,
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
            dist_policy: var("DIST_POLICY"),
            // An empty password is one.
            cosign_password: std::env::var_os("COSIGN_PASSWORD"),
            entered: var(user_namespace::ENTERED),
            containerd_address: var("CONTAINERD_ADDRESS"),
            containerd_namespace: var("CONTAINERD_NAMESPACE"),
            containerd_fetch_timeout: var("CONTAINERD_FETCH_TIMEOUT"),
            docker_config: var("DOCKER_CONFIG"),
            registry_auth_file: var("REGISTRY_AUTH_FILE"),
            containers_registries_conf: var("CONTAINERS_REGISTRIES_CONF"),
            registries_config_path: var("REGISTRIES_CONFIG_PATH"),
            xdg_cache_home: var("XDG_CACHE_HOME"),
            xdg_data_home: var("XDG_DATA_HOME"),
            xdg_config_home: var("XDG_CONFIG_HOME"),
            xdg_state_home: var("XDG_STATE_HOME"),
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

    /// Whether root is meant, and not an ordinary user inside the namespace that we made for him.
    fn is_of_system(&self, is_root: bool) -> bool {
        is_root && self.entered.is_none()
    }

    /// The config file where none is asked for.
    pub(super) fn default_file(&self, is_root: bool) -> Option<PathBuf> {
        if self.is_of_system(is_root) {
            return Some("/etc/dist/dist.toml".into());
        }
        below(&self.xdg_config_home, "dist/dist.toml")
            .or_else(|| below(&self.home, ".config/dist/dist.toml"))
    }

    /// Where commands keep what they note for their next run.
    pub(super) fn state_directory(&self) -> Option<PathBuf> {
        below(&self.xdg_state_home, "dist").or_else(|| below(&self.home, ".local/state/dist"))
    }

    /// The policy where none is asked for.
    pub(super) fn default_policy(&self, is_root: bool) -> Option<PathBuf> {
        let own = self.default_file(is_root).map(|file| file.with_file_name("policy.toml"));
        let system = PathBuf::from("/etc/dist/policy.toml");
        // One that may be there, and can't be looked at, is not passed over.
        let is_there = |path: &PathBuf| match fs_err::symlink_metadata(path) {
            Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
            Ok(_) => true,
        };
        own.filter(is_there).or(Some(system))
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

    /// The directories that say which hosts serve a registry, as far as they are there: containerd's
    /// and docker's.
    pub(super) fn default_hosts_dirs(&self) -> Vec<PathBuf> {
        let own = ["containerd/certs.d", "docker/certs.d"].into_iter().filter_map(|dir| {
            below(&self.xdg_config_home, dir)
                .or_else(|| below(&self.home, &format!(".config/{dir}")))
        });
        let system = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        own.chain(system).filter(|dir| dir.is_dir()).collect()
    }

    /// The directories with certificates for registries, as containers' tools read them.
    pub(super) fn certs_dirs(&self) -> Vec<PathBuf> {
        let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
        self.containers("certs.d").into_iter().chain(system).filter(|dir| dir.is_dir()).collect()
    }

    /// What is read beside the `registries.conf` that `main` is, as containers' tools do: of a user
    /// who has one, nothing else than his.
    pub(super) fn beside_registries_conf(&self, main: &Path, is_root: bool) -> RegistriesFiles {
        let own = self.containers("registries.conf");
        let system =
            (own.as_deref() != Some(main)).then(|| "/etc/containers/registries.conf.d".into());
        let noted = "containers/short-name-aliases.conf";
        let noted = if self.is_of_system(is_root) {
            Some(PathBuf::from("/var/cache").join(noted))
        } else {
            below(&self.xdg_cache_home, noted)
                .or_else(|| below(&self.home, &format!(".cache/{noted}")))
        };
        RegistriesFiles {
            main: Some(main.to_owned()),
            drop_ins: system.into_iter().chain(self.containers("registries.conf.d")).collect(),
            noted,
            required: false,
        }
    }

    /// The variable that names a `registries.conf`, and the file.
    pub(super) fn registries_conf(&self) -> Option<(&'static str, PathBuf)> {
        [
            ("CONTAINERS_REGISTRIES_CONF", &self.containers_registries_conf),
            ("REGISTRIES_CONFIG_PATH", &self.registries_config_path),
        ]
        .into_iter()
        .find_map(|(name, path)| Some((name, PathBuf::from(path.as_ref()?))))
    }

    /// `registries.conf` where none is asked for.
    pub(super) fn default_registries_conf(&self) -> PathBuf {
        let own = self.containers("registries.conf").filter(|path| path.exists());
        own.unwrap_or_else(|| "/etc/containers/registries.conf".into())
    }

    fn containers(&self, file: &str) -> Option<PathBuf> {
        below(&self.xdg_config_home, &format!("containers/{file}"))
            .or_else(|| below(&self.home, &format!(".config/containers/{file}")))
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
