//! What a caller may choose about talking to registries.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;

use crate::{Budget, ClientCert, CredentialSource, RegistriesFiles};

/// How registries are reached, how long they may take, and who is asking.
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// Whether every registry is spoken to in plain http. Without it http is tried on loopback
    /// only.
    pub plain_http: bool,
    /// Whether the registry's certificate is taken as it is. Other hosts that take part (token
    /// servers, targets of redirects) are verified all the same.
    pub insecure: bool,
    /// PEM files with certificates that are trusted beside the system's.
    pub ca_certs: Vec<PathBuf>,
    /// What a registry is shown where it asks who is there.
    pub client_certs: Vec<ClientCert>,
    /// Directories that say which hosts serve a registry, as containerd reads them. The first one
    /// with something about the registry counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// Directories with certificates alone, as docker and containers have them.
    pub certs_dirs: Vec<PathBuf>,
    /// containers' settings for registries.
    pub registries_conf: RegistriesFiles,
    /// How long a connection may take to be made, TLS included; never more than the stall timeout.
    pub connect_timeout: Duration,
    /// How long a registry may be silent, before an answer and within one.
    pub stall_timeout: Duration,
    /// How long one resolve or one fetch may take in all, its body included.
    pub total_timeout: Option<Duration>,
    /// How often something is tried before it fails, where trying again can help. At least 1.
    pub attempts: u32,
    /// How many connections to one registry may bring blobs at once, for blobs that come in parts.
    /// With 1 none does; the first connection of each blob is always made.
    pub connections: usize,
    /// What all connections may cost together, those of clones of these options included.
    pub budget: Budget,
    /// Where addresses of uploads are kept, so that what a killed process sent is gone on with; nothing
    /// is kept without one. Made where it is missing.
    pub uploads_dir: Option<PathBuf>,
    /// The pause before the second attempt; it doubles from there, up to 30 s, with jitter.
    pub retry_delay: Duration,
    /// Further headers of each request to a registry; a redirect to another host loses them, and
    /// token servers do not get them.
    pub headers: HeaderMap,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Where names and passwords come from.
    pub credentials: CredentialSource,
}

impl RegistryOptions {
    /// Checks what can be checked before anything is asked: the files with certificates, which
    /// are not read where only http is spoken, and that the directories of hosts are there.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file.
    pub fn check(&self) -> dist_core::Result<()> {
        if let Some(dir) = self.hosts_dirs.iter().find(|dir| !dir.is_dir()) {
            let message = format!("read hosts in {}: it is no directory", dir.display());
            return Err(dist_core::Error::new(dist_core::ErrorKind::InvalidArgument, message));
        }
        crate::tls::check_files(&self.ca_certs)
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            insecure: false,
            ca_certs: Vec::new(),
            client_certs: Vec::new(),
            hosts_dirs: Vec::new(),
            certs_dirs: Vec::new(),
            registries_conf: RegistriesFiles::default(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            total_timeout: None,
            attempts: 5,
            connections: 6,
            budget: Budget::default(),
            uploads_dir: None,
            retry_delay: Duration::from_millis(200),
            headers: HeaderMap::new(),
            user_agent: concat!("dist/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: CredentialSource::default(),
        }
    }
}
