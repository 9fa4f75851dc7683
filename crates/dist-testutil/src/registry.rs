//! Debian's docker-registry (distribution 2.8) as a child process, on a port
//! the kernel picks, and a token server that signs what it believes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::process::{Daemon, Scratch, run, scratch};

/// How the registry asks who is there.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Nobody is asked.
    None,
    /// HTTP basic, one user.
    Basic {
        /// The user's name.
        user: String,
        /// The user's password.
        password: String,
    },
    /// Bearer tokens from the server at `realm`.
    Token {
        /// The token server's address.
        realm: String,
        /// The certificate whose key signs the tokens.
        certificate: PathBuf,
    },
}

/// What may differ between registries; the default is an empty, open one.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// Where the content lies; a fresh directory when not given.
    pub storage: Option<PathBuf>,
    /// Refuses every push.
    pub read_only: bool,
    /// Refuses to delete anything.
    pub keeps_all: bool,
    /// Who may pull.
    pub auth: Auth,
    /// Certificate and key; plain HTTP when not given.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The authority whose certificates clients have to show, with TLS.
    pub client_ca: Option<PathBuf>,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            storage: None,
            read_only: false,
            keeps_all: false,
            auth: Auth::None,
            tls: None,
            client_ca: None,
        }
    }
}

/// A running registry.
#[derive(Debug)]
pub struct Registry {
    address: String,
    storage: PathBuf,
    _daemon: Daemon,
    _dir: Scratch,
}

impl Registry {
    /// Starts an empty, open registry.
    ///
    /// # Panics
    /// When docker-registry is missing or does not start.
    pub fn start() -> Self {
        Self::with(RegistryOptions::default())
    }

    /// Serves the images of `tests/images/build-images`, read only.
    ///
    /// # Panics
    /// When they have not been built.
    pub fn of_images() -> Self {
        let dir = std::env::var_os("DIST_IMAGES").unwrap_or_else(|| "/var/tmp/dist-images".into());
        let dir = PathBuf::from(dir);
        assert!(
            dir.join("done").exists(),
            "no images in {}; run tests/images/build-images as root",
            dir.display()
        );
        Self::with(RegistryOptions {
            storage: Some(dir.join("registry")),
            read_only: true,
            ..RegistryOptions::default()
        })
    }

    /// Starts one as described.
    ///
    /// # Panics
    /// When docker-registry is missing or does not start.
    pub fn with(options: RegistryOptions) -> Self {
        let dir = scratch();
        let storage = options.storage.clone().unwrap_or_else(|| dir.path().join("registry"));
        let config = dir.path().join("config.yml");
        fs_err::write(&config, describe(&options, &storage, dir.path())).expect("write config");
        let (daemon, address) =
            Daemon::start("docker-registry", &[OsStr::new("serve"), config.as_os_str()], |line| {
                let (_, rest) = line.split_once("listening on ")?;
                Some(rest.trim_end_matches('"').split([',', ' ', '"']).next()?.to_owned())
            });
        Self { address, storage, _daemon: daemon, _dir: dir }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The port alone.
    pub fn port(&self) -> &str {
        self.address.rsplit(':').next().expect("a port")
    }

    /// Where its content lies, for another server over the same.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// `127.0.0.1:port/name`.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

fn describe(options: &RegistryOptions, storage: &Path, dir: &Path) -> String {
    let (read_only, delete) = (options.read_only, !options.keeps_all);
    let mut text = format!(
        "version: 0.1\n\
         log: {{level: info, accesslog: {{disabled: true}}}}\n\
         storage:\n  filesystem: {{rootdirectory: {}}}\n  delete: {{enabled: {delete}}}\n  \
         maintenance: {{readonly: {{enabled: {read_only}}}, uploadpurging: {{enabled: false}}}}\n\
         http:\n  addr: 127.0.0.1:0\n",
        storage.display()
    );
    if let Some((certificate, key)) = &options.tls {
        let _ = writeln!(
            text,
            "  tls: {{certificate: {}, key: {}, clientcas: {:?}}}",
            certificate.display(),
            key.display(),
            options.client_ca.as_slice()
        );
    }
    match &options.auth {
        Auth::None => {}
        Auth::Basic { user, password } => {
            let file = dir.join("htpasswd");
            let hash = run("htpasswd", &["-nbB", user, password].map(OsStr::new));
            fs_err::write(&file, hash.trim()).expect("write htpasswd");
            let _ = writeln!(text, "auth: {{htpasswd: {{realm: test, path: {}}}}}", file.display());
        }
        Auth::Token { realm, certificate } => {
            let _ = writeln!(
                text,
                "auth: {{token: {{realm: \"{realm}\", service: test-registry, issuer: test-issuer, \
                 rootcertbundle: {}}}}}",
                certificate.display()
            );
        }
    }
    text
}

/// A token server: `tests/support/token_server.py`.
#[derive(Debug)]
pub struct TokenServer {
    address: String,
    certificate: PathBuf,
    log: PathBuf,
    _daemon: Daemon,
    _dir: Scratch,
}

impl TokenServer {
    /// Starts one that knows `user` and `password` and signs with `pair`.
    /// `seconds` is how long the registry takes a token for good, `claimed` what
    /// the client is told.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(
        pair: &(PathBuf, PathBuf),
        user: &str,
        password: &str,
        seconds: u32,
        claimed: u32,
    ) -> Self {
        let dir = scratch();
        let log = dir.path().join("log");
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/token_server.py");
        let numbers = [seconds.to_string(), claimed.to_string()];
        let login = format!("{user}:{password}");
        let (daemon, address) = Daemon::start(
            "python3",
            &[
                OsStr::new("-u"),
                script.as_os_str(),
                OsStr::new("--cert"),
                pair.0.as_os_str(),
                OsStr::new("--key"),
                pair.1.as_os_str(),
                OsStr::new("--login"),
                OsStr::new(&login),
                OsStr::new("--valid"),
                OsStr::new(&numbers[0]),
                OsStr::new("--claim"),
                OsStr::new(&numbers[1]),
                OsStr::new("--log"),
                log.as_os_str(),
            ],
            |line| line.strip_prefix("listening on ").map(str::to_owned),
        );
        Self { address, certificate: pair.0.clone(), log, _daemon: daemon, _dir: dir }
    }

    /// What a registry needs to trust this server.
    pub fn auth(&self) -> Auth {
        Auth::Token {
            realm: format!("http://{}/token", self.address),
            certificate: self.certificate.clone(),
        }
    }

    /// One line per token asked for: method, account, scopes, outcome.
    ///
    /// # Panics
    /// When the log cannot be read.
    pub fn requests(&self) -> Vec<serde_json::Value> {
        let text = fs_err::read_to_string(&self.log).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

/// A registry with the referrers API: a docker-registry, which has none, behind a server that lists what
/// refers to what. No package of Debian 12 offers one.
#[derive(Debug)]
pub struct ReferrersRegistry {
    address: String,
    _daemon: Daemon,
}

impl ReferrersRegistry {
    /// Starts it in front of `upstream`.
    ///
    /// # Panics
    /// When it does not start.
    pub fn start(upstream: &Registry) -> Self {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/support/referrers_registry.py");
        let upstream = OsStr::new(upstream.address());
        let args = [OsStr::new("-u"), script.as_os_str(), OsStr::new("--upstream"), upstream];
        let (daemon, address) = Daemon::start("python3", &args, |line| {
            line.strip_prefix("listening on ").map(str::to_owned)
        });
        Self { address, _daemon: daemon }
    }

    /// The name of something in it.
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}
