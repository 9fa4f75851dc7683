//! Names and passwords: where they are kept, and how they are written there.
//!
//! Docker's `config.json` and podman's `auth.json` have one shape:
//!
//! ```json
//! {
//!   "auths": {
//!     "registry.example.com": { "auth": "<base64 of user:password>", "identitytoken": "…" },
//!     "registry.example.com/team": { "auth": "…" }
//!   },
//!   "credHelpers": { "registry.example.com": "name" },
//!   "credsStore": "name"
//! }
//! ```
//!
//! The most specific key wins: repository, its prefixes, then the host. `docker.io` is filed under
//! `https://index.docker.io/v1/`. A helper is the program `docker-credential-<name>`.

mod file;
mod helper;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::Result;
use http::HeaderValue;

use crate::RegistriesFiles;
use crate::registries_conf::Registries;

pub use file::{Stored, erase, store};

/// The user name that stands for "the secret is an identity token".
const TOKEN_USER: &str = "<token>";

/// A name and its password or identity token. Never printed, not by `Debug` either.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: String,
    secret: Secret,
}

#[derive(Clone, PartialEq, Eq)]
enum Secret {
    Password(String),
    Identity(String),
    Header(HeaderValue),
}

/// What credentials are made of, for whoever hands them on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Revealed<'a> {
    /// A name with a password.
    Password {
        /// The name.
        username: &'a str,
        /// The password.
        password: &'a str,
    },
    /// An identity token.
    Identity {
        /// The name it belongs to, or nothing.
        username: &'a str,
        /// The token.
        token: &'a str,
    },
    /// A whole `Authorization` header.
    Header(&'a str),
}

impl Credentials {
    /// The secret, to hand it on. It must not get into a log or a message.
    #[must_use]
    pub fn reveal(&self) -> Revealed<'_> {
        let username = &self.username;
        match &self.secret {
            Secret::Password(password) => Revealed::Password { username, password },
            Secret::Identity(token) => Revealed::Identity { username, token },
            // It was made from a text.
            Secret::Header(header) => Revealed::Header(header.to_str().unwrap_or_default()),
        }
    }

    /// A name with a password.
    #[must_use]
    pub fn password(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), secret: Secret::Password(password.into()) }
    }

    /// An identity token (an OAuth2 refresh token), with the name it belongs to or an empty one.
    #[must_use]
    pub fn identity_token(username: impl Into<String>, token: impl Into<String>) -> Self {
        Self { username: username.into(), secret: Secret::Identity(token.into()) }
    }

    /// A whole `Authorization` header, sent to the registry itself instead of any answer to its
    /// challenge; `None` where `text` cannot be one.
    #[must_use]
    pub fn header(text: &str) -> Option<Self> {
        let mut header = HeaderValue::try_from(text).ok()?;
        header.set_sensitive(true);
        Some(Self { username: String::new(), secret: Secret::Header(header) })
    }

    /// The name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    pub(crate) fn identity(&self) -> Option<&str> {
        match &self.secret {
            Secret::Identity(token) => Some(token),
            Secret::Password(_) | Secret::Header(_) => None,
        }
    }

    pub(crate) fn whole_header(&self) -> Option<&HeaderValue> {
        match &self.secret {
            Secret::Header(header) => Some(header),
            Secret::Password(_) | Secret::Identity(_) => None,
        }
    }

    /// What token servers call the account.
    pub(crate) fn account(&self) -> &str {
        if self.username.is_empty() { TOKEN_USER } else { &self.username }
    }

    fn secret(&self) -> &str {
        match &self.secret {
            Secret::Password(secret) | Secret::Identity(secret) => secret,
            Secret::Header(_) => "",
        }
    }

    /// The `Authorization` header of the Basic scheme.
    pub(crate) fn basic(&self) -> Option<HeaderValue> {
        let text = STANDARD.encode(format!("{}:{}", self.account(), self.secret()));
        let mut header = HeaderValue::try_from(format!("Basic {text}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Somebody who can be asked for credentials while a registry waits for them.
#[async_trait]
pub trait CredentialProvider: fmt::Debug + Send + Sync {
    /// The credentials for a repository of a registry; `None` where it is to be anonymous.
    ///
    /// # Errors
    /// Any; what needed them fails with it.
    async fn credentials(&self, registry: &str, repository: &str) -> Result<Option<Credentials>>;
}

/// Where to look for credentials.
#[derive(Clone, Debug)]
pub struct CredentialSource {
    /// Used for every registry, before anything else is looked at.
    pub explicit: Option<Credentials>,
    /// Asked then, and what it says is final: no file is looked at.
    pub provider: Option<Arc<dyn CredentialProvider>>,
    /// Files in the shape above, looked at in this order. Missing ones are skipped.
    pub files: Vec<PathBuf>,
    /// containers' settings for registries, which may name helpers to be asked instead of the
    /// files, or beside them.
    pub registries_conf: RegistriesFiles,
    /// How long a helper may take.
    pub helper_timeout: Duration,
}

/// Where credentials come from; nothing of it where they were given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The file that has them, or names the helper.
    pub file: Option<PathBuf>,
    /// The key in it.
    pub key: Option<String>,
    /// The helper that keeps them.
    pub helper: Option<String>,
}

/// What containers' settings call the files with credentials.
const FILES: &str = "containers-auth.json";

impl Default for CredentialSource {
    fn default() -> Self {
        Self {
            explicit: None,
            provider: None,
            files: Vec::new(),
            registries_conf: RegistriesFiles::default(),
            helper_timeout: Duration::from_secs(30),
        }
    }
}

impl CredentialSource {
    /// These credentials and nothing else.
    #[must_use]
    pub fn explicit(credentials: Credentials) -> Self {
        Self { explicit: Some(credentials), ..Self::default() }
    }

    /// Finds the credentials for a repository of a registry, `None` where there are none.
    ///
    /// # Errors
    /// `Storage` where a file cannot be read, `InvalidArgument` where it does not have the shape
    /// above, `Unauthenticated` where a helper fails; those of the provider.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Option<Credentials>> {
        Ok(self.find_with_origin(registry, repository).await?.map(|(found, _)| found))
    }

    /// As [`CredentialSource::find`], with where they come from.
    ///
    /// # Errors
    /// As [`CredentialSource::find`].
    pub async fn find_with_origin(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<(Credentials, Origin)>> {
        if let Some(given) = &self.explicit {
            return Ok(Some((given.clone(), Origin::default())));
        }
        if let Some(provider) = &self.provider {
            let found = provider.credentials(registry, repository).await?;
            return Ok(found.map(|found| (found, Origin::default())));
        }
        let mut helpers = Registries::read(&self.registries_conf)?.helpers;
        if helpers.is_empty() {
            helpers.push(FILES.to_owned());
        }
        for helper in helpers {
            if helper == FILES {
                if let Some(found) = self.find_in_files(registry, repository).await? {
                    return Ok(Some(found));
                }
                continue;
            }
            let program = helper::Helper::new(&helper, self.helper_timeout)?;
            if let Some(found) = program.get(server_key(registry)).await? {
                tracing::debug!(registry, helper, "found credentials");
                let helper = Some(helper);
                return Ok(Some((found, Origin { helper, ..Origin::default() })));
            }
        }
        Ok(None)
    }

    async fn find_in_files(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<(Credentials, Origin)>> {
        for path in &self.files {
            let Some(file) = file::File::read(path)? else { continue };
            if let Some(found) = file.find(registry, repository, self.helper_timeout).await? {
                tracing::debug!(registry, file = %path.display(), "found credentials");
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The registries, and parts of them, that the files have something about, in their order.
    ///
    /// # Errors
    /// As [`CredentialSource::find`].
    pub fn filed(&self) -> Result<Vec<String>> {
        let mut all: Vec<String> = Vec::new();
        for path in &self.files {
            let Some(file) = file::File::read(path)? else { continue };
            for key in file.keys() {
                if !all.contains(&key) {
                    all.push(key);
                }
            }
        }
        Ok(all)
    }
}

/// The name of the registry that `text` stands for: what references begin with.
///
/// A scheme, a path and Docker Hub's other names are taken away.
#[must_use]
pub fn registry_name(text: &str) -> String {
    let host = text.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    match host {
        "" | "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => "docker.io",
        host => host,
    }
    .to_owned()
}

/// The key under which a registry is filed, and its name to helpers.
fn server_key(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_secret() {
        for credentials in [
            Credentials::password("u", "hunter2"),
            Credentials::identity_token("", "hunter2"),
            Credentials::header("Bearer hunter2").unwrap(),
        ] {
            let source = CredentialSource::explicit(credentials.clone());
            assert!(
                !format!("{credentials:?} {source:?} {:?}", credentials.basic())
                    .contains("hunter2")
            );
        }
    }

    #[test]
    fn names() {
        for (text, name) in [
            ("docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("", "docker.io"),
            ("localhost:5000", "localhost:5000"),
            ("https://ghcr.io/", "ghcr.io"),
        ] {
            assert_eq!(registry_name(text), name);
        }
        assert_eq!(server_key("docker.io"), "https://index.docker.io/v1/");
    }
}
