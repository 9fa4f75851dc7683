//! `OCIRegistry`: which registry, how it is spoken to, and who is asked for passwords.

use std::fmt;
use std::path::PathBuf;

use dist_core::{Context as _, Error, ErrorKind, Namespace, Result};
use dist_registry::{CredentialProvider, CredentialSource, Credentials, RegistryOptions};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::Mutex;

use crate::Daemon;
use crate::api::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, HttpDebug, OciRegistry, RegistryResolver,
};
use crate::streams::Stream;
use crate::typed;

/// The options for what a client calls its registry.
///
/// # Errors
/// `NotFound` where the stream for credentials is not open; `Unsupported` for what the registry
/// client cannot do: nothing that was asked for is left out silently.
pub(super) fn options(
    daemon: &Daemon,
    namespace: &Namespace,
    registry: &OciRegistry,
) -> Result<RegistryOptions> {
    let mut options = daemon.engine().remotes().options().clone();
    let Some(resolver) = &registry.resolver else { return Ok(options) };
    match resolver.default_scheme.as_str() {
        "" => {}
        "http" => options.plain_http = true,
        "https" => options.plain_http = false,
        other => {
            let message = format!("use scheme {other:?}: registries speak http or https");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
    }
    if resolver.http_debug() != HttpDebug::Disabled {
        let message = "show the client what is said over http: this is not built";
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    options.headers = headers(resolver)?;
    if !resolver.host_dir.is_empty() {
        options.hosts_dirs = vec![PathBuf::from(&resolver.host_dir)];
    }
    if !resolver.auth_stream.is_empty() {
        let stream = daemon.streams().take(namespace, &resolver.auth_stream)?;
        let reference = registry.reference.clone();
        let provider = std::sync::Arc::new(Client { stream: Mutex::new(stream), reference });
        options.credentials =
            CredentialSource { provider: Some(provider), ..CredentialSource::default() };
    }
    Ok(options)
}

fn headers(resolver: &RegistryResolver) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &resolver.headers {
        let what = || format!("read header {name:?}");
        let name: HeaderName = name.parse().context(ErrorKind::InvalidArgument, what)?;
        let mut value: HeaderValue = value.parse().context(ErrorKind::InvalidArgument, what)?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

/// A client that answers questions for credentials over a stream.
struct Client {
    stream: Mutex<Stream>,
    reference: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("reference", &self.reference).finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl CredentialProvider for Client {
    async fn credentials(&self, registry: &str, _repository: &str) -> Result<Option<Credentials>> {
        let mut stream = self.stream.lock().await;
        // Clients know Docker's registry by the host that serves it.
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let question = AuthRequest {
            host: host.to_owned(),
            reference: self.reference.clone(),
            wwwauthenticate: Vec::new(),
        };
        stream.send(&question).await?;
        let Some(answer) = stream.receive().await? else {
            let message = format!("ask the client for credentials for {host}: it has none to give");
            return Err(Error::new(ErrorKind::Unauthenticated, message));
        };
        credentials(typed::unpack(&answer)?)
    }
}

/// What a client's answer amounts to; an answer without a secret is none.
fn credentials(answer: AuthResponse) -> Result<Option<Credentials>> {
    let kind = answer.auth_type();
    let AuthResponse { secret, username, .. } = answer;
    if secret.is_empty() && username.is_empty() {
        return Ok(None);
    }
    Ok(match kind {
        AuthType::None => None,
        AuthType::Credentials => Some(Credentials::password(username, secret)),
        AuthType::Refresh if secret.is_empty() => None,
        AuthType::Refresh => Some(Credentials::identity_token(username, secret)),
        AuthType::Header => {
            let header = secret.strip_prefix("Authorization:").unwrap_or(&secret).trim();
            let found = Credentials::header(header);
            Some(found.ok_or_else(|| {
                let message = "read the client's authorization header: it is malformed";
                Error::new(ErrorKind::InvalidArgument, message)
            })?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: AuthType, username: &str, secret: &str) -> Option<Credentials> {
        credentials(AuthResponse {
            auth_type: kind.into(),
            secret: secret.into(),
            username: username.into(),
            expire_at: None,
        })
        .unwrap()
    }

    #[test]
    fn answers_without_a_secret_are_anonymous() {
        assert_eq!(answer(AuthType::Refresh, "", ""), None);
        assert_eq!(answer(AuthType::Header, "", ""), None);
        assert_eq!(answer(AuthType::None, "u", "s"), None);
        let password = Credentials::password("u", "s");
        assert_eq!(answer(AuthType::Credentials, "u", "s"), Some(password));
        let token = Credentials::identity_token("", "s");
        assert_eq!(answer(AuthType::Refresh, "", "s"), Some(token));
        let header = Credentials::header("Bearer x");
        assert_eq!(answer(AuthType::Header, "", "Bearer x"), header);
        assert_eq!(answer(AuthType::Header, "", "Authorization: Bearer x"), header);
    }
}
