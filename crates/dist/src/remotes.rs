//! Which resolver serves a name.

use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    Context as _, Digest, ErrorKind, Fetcher, Pusher, Reference, Resolved, Resolver, Result, scheme,
};
use dist_registry::{LayoutResolver, RegistryOptions, RegistryResolver};

use crate::servers::Servers;

/// The scheme of OCI layout directories.
pub(crate) const OCI: &str = "oci";

/// All remotes: registries by reference, OCI layout directories by `oci:path[:tag]`.
pub struct Remotes {
    options: RegistryOptions,
    registry: RegistryResolver,
    layout: LayoutResolver,
    servers: Arc<Servers>,
}

impl Remotes {
    /// Makes the remotes; connects to nothing.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        let servers = Arc::new(Servers::new(options.connections));
        Self::among(servers, options)
    }

    /// Makes the remotes for other options. What is known of servers is shared, and how many
    /// connections each gets.
    #[must_use]
    pub(crate) fn with_options(&self, options: RegistryOptions) -> Self {
        Self::among(Arc::clone(&self.servers), options)
    }

    fn among(servers: Arc<Servers>, options: RegistryOptions) -> Self {
        Self {
            registry: RegistryResolver::new(options.clone()),
            options,
            layout: LayoutResolver::new(),
            servers,
        }
    }

    /// What is known of the servers.
    pub(crate) fn servers(&self) -> &Servers {
        &self.servers
    }

    /// How registries are spoken to.
    #[must_use]
    pub fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// The full form of a name, as images are registered: `redis` is
    /// `docker.io/library/redis:latest`.
    ///
    /// # Errors
    /// `InvalidArgument` with a [`dist_core::ReferenceError`].
    pub fn canonical(&self, name: &str) -> Result<String> {
        if scheme(name, &[OCI]).is_some() {
            return Ok(name.to_owned());
        }
        Reference::parse_familiar(name)
            .map(|reference| reference.to_string())
            .context(ErrorKind::InvalidArgument, || format!("parse reference {name:?}"))
    }

    fn route<'a>(&self, name: &'a str) -> (&dyn Resolver, &'a str) {
        match scheme(name, &[OCI]) {
            Some((_, rest)) => (&self.layout, rest),
            None => (&self.registry, name),
        }
    }
}

#[async_trait]
impl Resolver for Remotes {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let full = self.canonical(name)?;
        let (resolver, name) = self.route(name);
        let resolved = resolver.resolve(name).await?;
        Ok(Resolved { name: full, ..resolved })
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let (resolver, name) = self.route(name);
        resolver.fetcher(name)
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        let (resolver, name) = self.route(name);
        resolver.pusher(name, root)
    }
}
