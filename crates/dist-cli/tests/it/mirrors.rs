//! A registry and a mirror of it, each behind a proxy that notes what is asked of it.

use dist_testutil::{FaultProxy, Registry, Scratch, scratch};

/// Two registries, the proxies before them, and a directory for what is said about them.
pub(crate) struct Pair {
    pub(crate) registry: Registry,
    pub(crate) mirror: Registry,
    /// Before the registry.
    pub(crate) before: FaultProxy,
    /// Before the mirror.
    pub(crate) between: FaultProxy,
    pub(crate) dir: Scratch,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let (registry, mirror) = (Registry::start(), Registry::start());
        Self {
            before: FaultProxy::start(registry.address()),
            between: FaultProxy::start(mirror.address()),
            registry,
            mirror,
            dir: scratch(),
        }
    }

    /// Drops all rules, and forgets all requests.
    pub(crate) fn reset(&self) {
        self.before.reset();
        self.between.reset();
    }
}

/// The requests that a proxy saw.
pub(crate) fn asked(proxy: &FaultProxy) -> Vec<String> {
    proxy.log().into_iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}
