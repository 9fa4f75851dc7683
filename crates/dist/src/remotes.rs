//! Which resolver serves a name.
//!
//! A name begins with a scheme (`oci:path:tag`) or is one in a registry. Schemes are a table: whoever
//! has a kind of remote of his own implements [`Scheme`] and gives it to [`Remotes::with_scheme`].

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    Context as _, Digest, ErrorKind, Fetcher, Pusher, Reference, Resolved, Resolver, Result,
};
use dist_registry::{LayoutResolver, RegistryOptions, RegistryResolver, WebAddress};

use crate::PolicyFile;
use crate::addresses::Addresses;
use crate::archives::{Archives, DOCKER_ARCHIVE, OCI_ARCHIVE};
use crate::directories::{DIR, Directories};
use crate::servers::Servers;

/// A kind of remote whose names begin with a word of its own and `:`.
///
/// Names are given with the scheme, and resolved to names that have it. A remote that nothing can be
/// pushed to answers [`Resolver::pusher`] with `Unsupported`. docs/schemes.md says all that there is to
/// keep to; `examples/scheme.rs` has one that fetches and pushes by itself, this one asks another:
///
/// ```
/// use std::sync::Arc;
/// use dist_core::{Digest, Fetcher, Pusher, Resolved, Resolver, Result, Error, ErrorKind};
///
/// /// Names that another program has agreed on: `team:app` is a repository.
/// struct Team(dist::Remotes);
///
/// impl Team {
///     fn name(text: &str) -> String {
///         format!("registry.example.com/team/{}", text.trim_start_matches("team:"))
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl Resolver for Team {
///     async fn resolve(&self, name: &str) -> Result<Resolved> {
///         let found = self.0.resolve(&Self::name(name)).await?;
///         Ok(Resolved { name: name.to_owned(), ..found })
///     }
///     fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
///         self.0.fetcher(&Self::name(name))
///     }
///     fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
///         self.0.pusher(&Self::name(name), root)
///     }
/// }
///
/// #[async_trait::async_trait]
/// impl dist::Scheme for Team {
///     fn beside(&self, name: &str, tag: &str) -> Result<String> {
///         match name.rsplit_once(':') {
///             Some(("team", repository)) => Ok(format!("team:{repository}:{tag}")),
///             Some((repository, _)) => Ok(format!("{repository}:{tag}")),
///             None => Err(Error::new(ErrorKind::InvalidArgument, format!("read name {name:?}"))),
///         }
///     }
/// }
///
/// let plain = || dist::Remotes::new(Default::default());
/// let remotes = plain().with_scheme("team", Arc::new(Team(plain())));
/// assert_eq!(remotes.canonical("team:app").unwrap(), "team:app");
/// assert_eq!(remotes.canonical("redis").unwrap(), "docker.io/library/redis:latest");
/// ```
#[async_trait]
pub trait Scheme: Resolver {
    /// The name for `tag` in the place that `name` is in: what is attached to an image lies there.
    ///
    /// # Errors
    /// `InvalidArgument` for what can't be a name.
    fn beside(&self, name: &str, tag: &str) -> Result<String>;

    /// Whether there are tags beside `name`, so that what refers to an image has a place.
    fn has_tags(&self, name: &str) -> bool {
        let _ = name;
        true
    }

    /// The name by which a policy judges an image; `None` where it was judged when it came.
    fn judged_as(&self, name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    /// Keeps others from changing what is listed beside `name` until the file is dropped; nothing
    /// where that can't be had, as in registries.
    ///
    /// # Errors
    /// `Storage`.
    async fn hold(&self, name: &str) -> Result<Option<std::fs::File>> {
        let _ = name;
        Ok(None)
    }

    /// Ends what was written. Called when all of a copy is pushed.
    ///
    /// # Errors
    /// Those of writing.
    async fn finish(&self) -> Result<()> {
        Ok(())
    }
}

/// The scheme of OCI layout directories.
pub(crate) const OCI: &str = "oci";

/// All remotes: registries by reference, others by the scheme that a name begins with. OCI layout
/// directories, `oci:path[:tag]`, and addresses, `https://...`, are there always.
pub struct Remotes {
    options: RegistryOptions,
    registry: RegistryResolver,
    servers: Arc<Servers>,
    /// Which images may be used.
    policy: Option<PolicyFile>,
    schemes: BTreeMap<String, Arc<dyn Scheme>>,
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
        let policy = self.policy.clone();
        Self { policy, ..Self::among(Arc::clone(&self.servers), options) }
    }

    fn among(servers: Arc<Servers>, options: RegistryOptions) -> Self {
        let registry = RegistryResolver::new(options.clone());
        let addresses = Arc::new(Addresses::new(options.clone()));
        let schemes = BTreeMap::new();
        let mut remotes = Self { registry, options, servers, policy: None, schemes };
        for scheme in WebAddress::SCHEMES {
            remotes = remotes.with_scheme(scheme, addresses.clone());
        }
        remotes.with_scheme(OCI, Arc::new(Layouts(LayoutResolver::new())))
    }

    /// The same, with names that begin with `scheme` and `:`.
    #[must_use]
    pub fn with_scheme(mut self, scheme: &str, remote: Arc<dyn Scheme>) -> Self {
        self.schemes.insert(scheme.to_owned(), remote);
        self
    }

    /// The same, for images that a policy allows; all are where there is none.
    #[must_use]
    pub fn with_policy(self, policy: Option<PolicyFile>) -> Self {
        Self { policy, ..self }
    }

    /// Which images may be used.
    #[must_use]
    pub fn policy(&self) -> Option<&PolicyFile> {
        self.policy.as_ref()
    }

    /// The same, with archives by `oci-archive:path[:tag]` and `docker-archive:path[:name]`, and plain
    /// directories by `dir:path`, which [`crate::copy`] reads and writes.
    #[must_use]
    pub fn with_archives(self) -> Self {
        let archives = Arc::new(Archives::default());
        let shared = Arc::clone(&archives);
        self.with_scheme(OCI_ARCHIVE, shared)
            .with_scheme(DOCKER_ARCHIVE, archives)
            .with_scheme(DIR, Arc::new(Directories))
    }

    /// Ends what was written to remotes that have an end, as archives.
    pub(crate) async fn finish(&self) -> Result<()> {
        for scheme in self.schemes.values() {
            scheme.finish().await?;
        }
        Ok(())
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
        if self.scheme(name).is_some() {
            return Ok(name.to_owned());
        }
        Reference::parse_familiar(name)
            .map(|reference| reference.to_string())
            .context(ErrorKind::InvalidArgument, || format!("parse reference {name:?}"))
    }

    /// The registries.
    #[must_use]
    pub fn registries(&self) -> &RegistryResolver {
        &self.registry
    }

    /// The name for `tag` in the repository, or layout, that `name` is in.
    ///
    /// # Errors
    /// `InvalidArgument` for what can't be a name.
    pub(crate) fn beside(&self, name: &str, tag: &str) -> Result<String> {
        match self.of_scheme(name) {
            Some(scheme) => scheme.beside(name, tag),
            None => Reference::parse_familiar(name)
                .map(|reference| format!("{}:{tag}", reference.locator()))
                .context(ErrorKind::InvalidArgument, || format!("parse reference {name:?}")),
        }
    }

    /// The repository, or layout, that `name` is in: a name without its tag or digest.
    ///
    /// # Errors
    /// `InvalidArgument` for what can't be a name.
    pub fn place_of(&self, name: &str) -> Result<String> {
        let tagged = self.beside(name, "latest")?;
        Ok(tagged.strip_suffix(":latest").unwrap_or(&tagged).to_owned())
    }

    /// As [`Scheme::hold`], of any name.
    pub(crate) async fn hold(&self, name: &str) -> Result<Option<std::fs::File>> {
        match self.of_scheme(name) {
            Some(scheme) => scheme.hold(name).await,
            None => Ok(None),
        }
    }

    /// Whether there are tags beside `name`.
    pub(crate) fn has_tags(&self, name: &str) -> bool {
        self.of_scheme(name).is_none_or(|scheme| scheme.has_tags(name))
    }

    /// The scheme of a name that is none in a registry, and the rest of it.
    pub(crate) fn scheme<'a>(&self, name: &'a str) -> Option<(&'a str, &'a str)> {
        name.split_once(':').filter(|(scheme, _)| self.schemes.contains_key(*scheme))
    }

    /// As [`Scheme::judged_as`], of any name.
    pub(crate) fn judged_as(&self, name: &str) -> Option<String> {
        match self.scheme(name).and_then(|(scheme, _)| self.schemes.get(scheme)) {
            Some(scheme) => scheme.judged_as(name),
            None => Some(name.to_owned()),
        }
    }

    /// As [`Resolver::fetcher`], where what was pushed is seen at once.
    pub(crate) fn fetcher_of_pushed(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        match self.scheme(name) {
            Some(_) => self.fetcher(name),
            None => self.registry.fetcher_of_pushed(name),
        }
    }

    /// As [`Resolver::look_up`], where what was pushed is seen at once.
    pub(crate) async fn look_up_pushed(&self, name: &str) -> Result<Option<Resolved>> {
        match self.scheme(name) {
            Some(_) => self.look_up(name).await,
            None => self.registry.look_up_pushed(name).await,
        }
    }

    fn of_scheme(&self, name: &str) -> Option<&dyn Scheme> {
        let (scheme, _) = self.scheme(name)?;
        self.schemes.get(scheme).map(|scheme| &**scheme)
    }

    fn route(&self, name: &str) -> &dyn Resolver {
        match name.split_once(':').and_then(|(scheme, _)| self.schemes.get(scheme)) {
            Some(scheme) => &**scheme,
            None => &self.registry,
        }
    }
}

#[async_trait]
impl Resolver for Remotes {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let full = self.canonical(name)?;
        let resolved = self.route(name).resolve(name).await?;
        Ok(Resolved { name: full, ..resolved })
    }

    async fn look_up(&self, name: &str) -> Result<Option<Resolved>> {
        let full = self.canonical(name)?;
        let found = self.route(name).look_up(name).await?;
        Ok(found.map(|found| Resolved { name: full, ..found }))
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        self.route(name).fetcher(name)
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        self.route(name).pusher(name, root)
    }
}

/// Layout directories, by names with their scheme.
struct Layouts(LayoutResolver);

impl Layouts {
    fn rest(name: &str) -> &str {
        name.split_once(':').map_or(name, |(_, rest)| rest)
    }
}

#[async_trait]
impl Resolver for Layouts {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        self.0.resolve(Self::rest(name)).await
    }

    async fn look_up(&self, name: &str) -> Result<Option<Resolved>> {
        self.0.look_up(Self::rest(name)).await
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        self.0.fetcher(Self::rest(name))
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        self.0.pusher(Self::rest(name), root)
    }
}

#[async_trait]
impl Scheme for Layouts {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        LayoutResolver::beside(Self::rest(name), tag).map(|rest| format!("{OCI}:{rest}"))
    }

    async fn hold(&self, name: &str) -> Result<Option<std::fs::File>> {
        self.0.hold(Self::rest(name)).await
    }
}
