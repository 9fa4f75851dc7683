//! Whether a registry takes some credentials.

use std::sync::Arc;

use dist_core::Result;
use http::Method;

use crate::RegistryOptions;
use crate::credentials::{CredentialSource, Credentials, registry_name};
use crate::registry::{Ask, Registry};
use crate::transport::Transport;

/// Asks the registry called `registry` whether it takes `credentials`: `GET /v2/`, authenticated as
/// it demands. The credentials in `options` are not looked at.
///
/// A registry that demands nothing takes anything.
///
/// # Errors
/// `Unauthenticated` where it does not take them, or where its token server is of another site and
/// did not get to see them; otherwise as [`dist_core::Resolver::resolve`].
pub async fn check_login(
    registry: &str,
    credentials: &Credentials,
    options: &RegistryOptions,
) -> Result<()> {
    let name = registry_name(registry);
    let options = RegistryOptions {
        credentials: CredentialSource::explicit(credentials.clone()),
        ..options.clone()
    };
    let registry = Registry::new(&name, Arc::new(Transport::new(options)))?;
    let ask = Ask::new(Method::GET, "", String::new());
    let answer = registry.ask(&ask, &mut registry.tries()).await;
    answer.map(|_| ()).map_err(|failed| failed.into_error(format!("log in to {name}")))
}
