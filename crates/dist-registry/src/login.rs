//! Whether a registry takes some credentials.

use std::sync::Arc;

use dist_core::Result;
use http::Method;

use crate::RegistryOptions;
use crate::credentials::{CredentialSource, Credentials, registry_name};
use crate::registry::Ask;
use crate::route::Known;
use crate::transport::Transport;

/// Asks the registry called `registry` whether it takes `credentials`: `GET /v2/`, authenticated as
/// it demands. The credentials in `options` are not looked at.
///
/// A registry that demands nothing takes anything. Certificates and the like are those that files give
/// for it; its mirrors are not asked.
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
    let hosts = options.registry_hosts(&name)?;
    let registry = Known::default().own(&hosts, &Arc::new(Transport::new(options)))?;
    let ask = Ask::new(Method::GET, "", String::new());
    let answer = registry.ask(&ask, &mut registry.tries()).await;
    answer.map(|_| ()).map_err(|failed| failed.into_error(format!("log in to {name}")))
}
