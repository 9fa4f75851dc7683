//! Hosts that serve a registry: which, in which order, and what each may be asked for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Error, ErrorKind, Reference, Result};
use http::HeaderMap;
use url::Url;

use crate::registries_conf::{Mirror, Pulls, Registries, Table};
use crate::{RegistryOptions, host_dir, hosts};

/// What a host may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Content by its digest.
    pub pull: bool,
    /// Which digest a tag stands for, and what there is: a matter of trust.
    pub resolve: bool,
    /// To take content.
    pub push: bool,
    /// What refers to a manifest: a matter of trust, too.
    pub referrers: bool,
}

impl Capabilities {
    /// All of them.
    pub const ALL: Self = Self { pull: true, resolve: true, push: true, referrers: true };
    /// None of them.
    pub const NONE: Self = Self { pull: false, resolve: false, push: false, referrers: false };

    /// Their names.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        let all = [
            (self.pull, "pull"),
            (self.resolve, "resolve"),
            (self.push, "push"),
            (self.referrers, "referrers"),
        ];
        all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect()
    }
}

/// A client's certificate and its key, which may be in one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCert {
    /// The PEM file with the certificate.
    pub cert: PathBuf,
    /// The PEM file with the key.
    pub key: PathBuf,
}

/// Where something is that has another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The registry there.
    pub registry: String,
    /// What it is called there; `None` for a registry as a whole.
    pub reference: Option<Reference>,
}

/// A host that serves a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryHost {
    /// Its address with the path that repositories follow; `None` for the registry's own, which
    /// its name says.
    pub address: Option<Url>,
    /// What is to be asked for there, where that has another name. There is no address then.
    pub place: Option<Place>,
    /// What it may be asked for.
    pub capabilities: Capabilities,
    /// PEM files with certificates that are trusted there beside the others.
    pub ca_certs: Vec<PathBuf>,
    /// What it is shown where it asks who is there.
    pub client_certs: Vec<ClientCert>,
    /// Whether its certificate is taken as it is, where that is said.
    pub insecure: Option<bool>,
    /// Whether http is spoken with it where it does not speak https.
    pub insecure_http: bool,
    /// Headers for it alone.
    pub headers: HeaderMap,
    /// How long a connection to it may take to be made, where that is said.
    pub connect_timeout: Option<Duration>,
}

impl Default for RegistryHost {
    fn default() -> Self {
        Self {
            address: None,
            place: None,
            capabilities: Capabilities::ALL,
            ca_certs: Vec::new(),
            client_certs: Vec::new(),
            insecure: None,
            insecure_http: false,
            headers: HeaderMap::new(),
            connect_timeout: None,
        }
    }
}

/// The hosts that serve a registry, in the order in which they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryHosts {
    /// The registry's name, as references have it.
    pub registry: String,
    /// What says so: a file, or a directory with certificates.
    pub source: Option<PathBuf>,
    /// The hosts; at least one.
    pub hosts: Vec<RegistryHost>,
}

impl RegistryHosts {
    /// The address of a host of these, as it is asked first.
    #[must_use]
    pub fn address(&self, host: &RegistryHost, plain_http: bool) -> String {
        if let Some(address) = &host.address {
            return address.to_string();
        }
        let registry = self.registry_of(host);
        let wanted = plain_http && !self.is_mirror(host);
        let http = !host.insecure_http && (wanted || hosts::prefers_http(registry));
        let base = hosts::base(registry, if http { "http" } else { "https" });
        base.map_or_else(|_| registry.to_owned(), |base| format!("{base}v2"))
    }

    /// The scheme in which a host is asked where it does not speak that of [`Self::address`]; `None`
    /// where it is asked in no other.
    #[must_use]
    pub fn other_scheme(&self, host: &RegistryHost, plain_http: bool) -> Option<&'static str> {
        match host {
            RegistryHost { address: Some(_), .. } => None,
            RegistryHost { insecure_http: true, .. } => Some("http"),
            _ if plain_http && !self.is_mirror(host) => None,
            _ => hosts::prefers_http(self.registry_of(host)).then_some("https"),
        }
    }

    fn registry_of<'a>(&'a self, host: &'a RegistryHost) -> &'a str {
        host.place.as_ref().map_or(&self.registry, |place| &place.registry)
    }

    /// Whether a host is another than the registry itself.
    #[must_use]
    pub fn is_mirror(&self, host: &RegistryHost) -> bool {
        let elsewhere = host.place.as_ref().is_some_and(|place| place.registry != self.registry);
        elsewhere || host.address.as_ref().is_some_and(|url| !hosts::is_own(&self.registry, url))
    }

    /// The error for a registry that no host serves in this way.
    pub(crate) fn nobody(&self, capabilities: &str) -> Error {
        let registry = &self.registry;
        let source = self.source.as_deref().unwrap_or(Path::new("nothing")).display();
        let message = format!(
            "find a host for {registry}: {source} names none with the capability {capabilities}"
        );
        Error::new(ErrorKind::FailedPrecondition, message)
    }
}

impl RegistryOptions {
    /// The hosts that serve what `reference` is the name of; without a tag and a digest, its
    /// repository. What the first of the directories with a `hosts.toml` for the registry says
    /// counts, then the longest prefix in containers' `registries.conf`, then the registry itself.
    /// What `registries.conf` blocks is blocked in any case. Reads files.
    ///
    /// # Errors
    /// `Denied` for what is blocked; `InvalidArgument` for settings that are none, `Unsupported` for
    /// those that nobody knows: both name the file.
    pub fn hosts(&self, reference: &Reference) -> Result<RegistryHosts> {
        let name = match reference.digest() {
            Some(digest) => format!("{}@{digest}", reference.locator()),
            None => reference.to_string(),
        };
        self.hosts_of(reference.hostname(), &name)
    }

    /// As [`RegistryOptions::hosts`], of a registry as a whole.
    ///
    /// # Errors
    /// As [`RegistryOptions::hosts`].
    pub fn registry_hosts(&self, registry: &str) -> Result<RegistryHosts> {
        self.hosts_of(registry, registry)
    }

    fn hosts_of(&self, registry: &str, name: &str) -> Result<RegistryHosts> {
        let conf = Registries::read(&self.registries_conf)?;
        let table = conf.find(name);
        if let Some((table, _)) = table.filter(|(table, _)| table.blocked) {
            let source = table.source.display();
            let message = format!("use {name}: {source} blocks {}", table.prefix);
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let registry = registry.to_owned();
        for root in &self.hosts_dirs {
            if let Some((source, hosts)) = host_dir::read(root, &registry)? {
                return Ok(RegistryHosts { registry, source: Some(source), hosts });
            }
        }
        let Some((table, end)) = table else {
            let (own, source) = self.plain_host(&registry)?;
            return Ok(RegistryHosts { registry, source, hosts: vec![own] });
        };
        let hosts = self.hosts_by(&conf, (table, end), (&registry, name))?;
        Ok(RegistryHosts { registry, source: Some(table.source.clone()), hosts })
    }

    /// What a table says: its mirrors, then its location, then, for pushes, the registry itself.
    fn hosts_by(
        &self,
        conf: &Registries,
        (table, end): (&Table, usize),
        (registry, name): (&str, &str),
    ) -> Result<Vec<RegistryHost>> {
        let by_digest = name.contains('@');
        let here = |mirror: &&Mirror| match mirror.pulls {
            Pulls::All => true,
            Pulls::DigestOnly => by_digest,
            Pulls::TagOnly => !by_digest,
        };
        let mirrors = table.mirrors.iter().filter(here);
        let places = mirrors.map(|mirror| (mirror.location.as_str(), mirror.insecure));
        let main = table.location.as_deref().map(|location| (location, table.insecure));
        let mut hosts = Vec::new();
        for (location, insecure) in places.chain(main) {
            let text = format!("{location}{}", &name[end..]);
            let place = if text == name {
                None
            } else if !name.contains('/') {
                // Of a registry as a whole, only another as a whole is a mirror.
                if text.contains('/') {
                    continue;
                }
                Some(Place { registry: text.clone(), reference: None })
            } else {
                let reference = table.rewrite(location, name, end)?;
                let registry = reference.hostname().to_owned();
                Some(Place { registry, reference: Some(reference) })
            };
            // A place may be blocked, or insecure, by a table of its own.
            let own = conf.find(&text).map(|(table, _)| table);
            if own.is_some_and(|own| own.blocked) {
                continue;
            }
            let there = place.as_ref().map_or(registry, |place| &place.registry);
            let mut host = self.plain_host(there)?.0;
            host.insecure_http = insecure || own.is_some_and(|own| own.insecure);
            host.insecure = host.insecure_http.then_some(true);
            if place.is_some() {
                host.capabilities.push = false;
            }
            host.place = place;
            hosts.push(host);
        }
        if hosts.last().is_none_or(|host| !host.capabilities.push) {
            let (mut own, _) = self.plain_host(registry)?;
            own.insecure_http = table.insecure;
            own.insecure = table.insecure.then_some(true);
            if table.location.is_some() {
                own.capabilities = Capabilities { push: true, ..Capabilities::NONE };
            }
            hosts.push(own);
        }
        Ok(hosts)
    }

    /// A registry as its name says, with the certificates that lie in directories for it, and the
    /// directory.
    fn plain_host(&self, registry: &str) -> Result<(RegistryHost, Option<PathBuf>)> {
        for root in self.hosts_dirs.iter().chain(&self.certs_dirs) {
            if let Some((dir, host)) = host_dir::certificates(root, registry)? {
                return Ok((host, Some(dir)));
            }
        }
        Ok((RegistryHost::default(), None))
    }

    /// As they are for one host of a registry. A mirror gets neither the credentials nor the
    /// headers that were given for the registry itself, nor is it spoken to in http for that one's sake.
    pub(crate) fn for_host(&self, host: &RegistryHost, mirror: bool) -> Self {
        let mut options = self.clone();
        if mirror {
            options.headers = HeaderMap::new();
            options.credentials.explicit = None;
            options.plain_http = false;
        }
        options.insecure = host.insecure.unwrap_or(self.insecure);
        options.ca_certs.extend(host.ca_certs.iter().cloned());
        options.client_certs.clone_from(&host.client_certs);
        for (name, value) in &host.headers {
            options.headers.append(name, value.clone());
        }
        options.connect_timeout = host.connect_timeout.unwrap_or(self.connect_timeout);
        options
    }
}
