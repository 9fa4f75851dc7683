//! The way to a registry: its hosts, ready to be asked.

use std::sync::{Arc, Mutex, PoisonError};

use dist_core::{Digest, Reference, Result};

use crate::failure::Failed;
use crate::host::{Capabilities, RegistryHost, RegistryHosts};
use crate::registry::Registry;
use crate::transport::Transport;

/// A host, ready to be asked.
#[derive(Clone)]
pub(crate) struct Stop {
    pub(crate) registry: Arc<Registry>,
    /// What the repository is called there; empty for the registry itself.
    pub(crate) repository: String,
    /// What else the name has there.
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<Digest>,
}

/// The hosts for one name, in the order in which they are asked.
pub(crate) struct Route {
    hosts: RegistryHosts,
    stops: Vec<Stop>,
}

/// All hosts that were ever asked, and by which settings.
#[derive(Default)]
pub(crate) struct Known(Mutex<Vec<(String, RegistryHost, Arc<Registry>)>>);

impl Known {
    /// What mirrors did.
    pub(crate) fn served(&self) -> Vec<Served> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let served = known.iter().filter(|(name, _, registry)| {
            registry.name() != name.as_str() && registry.served() > 0
        });
        let served = served.map(|(name, _, registry)| Served {
            registry: name.clone(),
            mirror: registry.name().to_owned(),
            answers: registry.served(),
        });
        served.collect()
    }

    /// The registry itself, as what is said of it says it is reached.
    pub(crate) fn own(
        &self,
        hosts: &RegistryHosts,
        shared: &Arc<Transport>,
    ) -> Result<Arc<Registry>> {
        let own = hosts.hosts.iter().find(|host| !hosts.is_mirror(host));
        self.find(hosts, &own.cloned().unwrap_or_default(), shared)
    }

    /// The host of files at `origin`: what is said of the registry of that name counts for it, where
    /// that is not about a mirror.
    pub(crate) fn of_files(
        &self,
        hosts: &RegistryHosts,
        origin: &url::Url,
        shared: &Arc<Transport>,
    ) -> Result<Stop> {
        let own = hosts.hosts.iter().find(|host| !hosts.is_mirror(host));
        let mut host = own.cloned().unwrap_or_default();
        host.place = None;
        host.address = Some(origin.clone());
        let registry = self.find(hosts, &host, shared)?;
        Ok(Stop { registry, repository: String::new(), tag: None, digest: None })
    }

    /// A host of the registry called `name`. What is known of it is kept as long as the files say
    /// the same of it.
    fn find(
        &self,
        hosts: &RegistryHosts,
        host: &RegistryHost,
        shared: &Arc<Transport>,
    ) -> Result<Arc<Registry>> {
        let mut host = host.clone();
        host.capabilities = Capabilities::NONE; // they do not make another host of it
        if let Some(place) = &mut host.place {
            place.reference = None;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.iter().find(|(name, old, _)| *name == hosts.registry && *old == host);
        if let Some((_, _, registry)) = same {
            return Ok(registry.clone());
        }
        let registry = Arc::new(make(hosts, &host, shared)?);
        known.push((hosts.registry.clone(), host, registry.clone()));
        Ok(registry)
    }
}

/// What a mirror did for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The registry's name.
    pub registry: String,
    /// The mirror's.
    pub mirror: String,
    /// How many names it resolved and how often content came from it.
    pub answers: u64,
}

/// Makes a host ready; connects to nothing.
fn make(hosts: &RegistryHosts, host: &RegistryHost, shared: &Arc<Transport>) -> Result<Registry> {
    if *host == (RegistryHost { capabilities: Capabilities::NONE, ..RegistryHost::default() }) {
        return Registry::new(&hosts.registry, shared.clone());
    }
    let mirror = hosts.is_mirror(host);
    let transport = Arc::new(Transport::new(shared.options().for_host(host, mirror)));
    if let Some(address) = host.address.as_ref().filter(|_| mirror) {
        let found = Registry::new(&authority(address), transport)?;
        return Ok(found.at(address).instead_of(&hosts.registry).before_another());
    }
    let name = host.place.as_ref().map_or(&hosts.registry, |place| &place.registry);
    let found = Registry::new(name, transport)?;
    let found = if mirror { found.before_another() } else { found };
    Ok(match &host.address {
        Some(address) => found.at(address),
        None if host.insecure_http => found.https_first(),
        None => found,
    })
}

impl Route {
    /// Makes the hosts for a name ready; connects to nothing. Without a reference they are for the
    /// registry itself.
    pub(crate) fn new(
        hosts: RegistryHosts,
        reference: Option<&Reference>,
        known: &Known,
        shared: &Arc<Transport>,
    ) -> Result<Self> {
        let stops = hosts.hosts.iter().map(|host| {
            let there = host.place.as_ref().and_then(|place| place.reference.as_ref());
            let name = there.or(reference);
            Ok(Stop {
                registry: known.find(&hosts, host, shared)?,
                repository: name.map_or_else(String::new, |name| name.repository().to_owned()),
                tag: name.and_then(Reference::tag).map(str::to_owned),
                digest: name.and_then(Reference::digest).copied(),
            })
        });
        let stops = stops.collect::<Result<_>>()?;
        Ok(Self { hosts, stops })
    }

    /// The hosts that tell which digest a tag stands for, and what there is.
    pub(crate) fn resolving(&self) -> Result<Vec<Stop>> {
        self.that("pull and resolve", |can| can.pull && can.resolve)
    }

    /// The hosts that have content by its digest.
    pub(crate) fn pulling(&self) -> Result<Vec<Stop>> {
        self.that("pull", |can| can.pull)
    }

    /// The hosts that tell what refers to a manifest.
    pub(crate) fn referring(&self) -> Vec<Stop> {
        self.that("referrers", |can| can.pull && can.referrers).unwrap_or_default()
    }

    /// The host that takes content.
    pub(crate) fn pushing(&self) -> Result<Stop> {
        self.that("push", |can| can.push).map(|mut stops| stops.swap_remove(0))
    }

    fn that(&self, capabilities: &str, able: impl Fn(Capabilities) -> bool) -> Result<Vec<Stop>> {
        let all = self.hosts.hosts.iter().zip(&self.stops);
        let found: Vec<_> =
            all.filter(|(host, _)| able(host.capabilities)).map(|(_, stop)| stop.clone()).collect();
        if found.is_empty() { Err(self.hosts.nobody(capabilities)) } else { Ok(found) }
    }
}

/// Hosts one after the other, until one has what is wanted.
pub(crate) struct Turns {
    left: std::vec::IntoIter<Stop>,
    /// Who is asked now.
    pub(crate) stop: Stop,
    /// What came of the ones before.
    failures: Vec<String>,
}

impl Turns {
    /// Begins with the first host that was not found to be down a short while ago; `None` where
    /// there are no hosts.
    pub(crate) fn new(mut stops: Vec<Stop>) -> Option<Self> {
        let up = stops.iter().position(|stop| !stop.registry.is_down());
        let mut left = stops.split_off(up.unwrap_or(stops.len().checked_sub(1)?));
        let stop = left.remove(0);
        Some(Self { left: left.into_iter(), stop, failures: Vec::new() })
    }

    /// Whether there is another host to ask.
    pub(crate) fn is_last(&self) -> bool {
        self.left.len() == 0
    }

    /// Goes on to the next host; where there is none, gives the failure back with what the others
    /// said.
    pub(crate) fn after(&mut self, failed: Box<Failed>) -> Result<(), Box<Failed>> {
        self.stop.registry.note(&failed);
        let Some(next) = self.left.next() else {
            return Err(self.failures.iter().fold(failed, |failed, said| failed.perhaps(said)));
        };
        let (host, next_host) = (self.stop.registry.name(), next.registry.name());
        tracing::debug!(host, failure = %failed.failure, next = next_host, "asking the next host");
        self.failures.push(format!(
            "; before, {}: {}",
            failed.failure.url,
            failed.failure.problem()
        ));
        self.stop = next;
        Ok(())
    }
}

pub(crate) fn authority(address: &url::Url) -> String {
    let host = address.host_str().unwrap_or_default();
    address.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
