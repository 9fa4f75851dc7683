//! What a caller may choose about talking to registries.

use std::path::PathBuf;
use std::time::Duration;

use http::HeaderMap;

use crate::CredentialSource;

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
    /// are not read where only http is spoken.
    ///
    /// # Errors
    /// `InvalidArgument` naming the file.
    pub fn check(&self) -> dist_core::Result<()> {
        crate::tls::check_files(&self.ca_certs)
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            plain_http: false,
            insecure: false,
            ca_certs: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_secs(30),
            total_timeout: None,
            attempts: 5,
            connections: 6,
            retry_delay: Duration::from_millis(200),
            headers: HeaderMap::new(),
            user_agent: concat!("dist/", env!("CARGO_PKG_VERSION")).to_owned(),
            credentials: CredentialSource::default(),
        }
    }
}
