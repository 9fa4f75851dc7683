//! The composition root: one store, its snapshotters and the remotes.

use std::path::PathBuf;
use std::sync::Arc;

use dist_core::{LeaseId, Namespace, Result, Snapshotter};
use dist_layer::Limits;
use dist_registry::RegistryOptions;
use dist_store::{
    ContentStore, Durability, ImageStore, OpenMode, Removal, Scope, Sharing, Store, StoreOptions,
};

use crate::{PolicyFile, Remotes};

/// What an [`Engine`] works on and within which limits.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The root directory, made where it is missing and `mode` allows it.
    pub root: PathBuf,
    /// How the root is opened.
    pub mode: OpenMode,
    /// The namespace of images, snapshots and labels.
    pub namespace: Namespace,
    /// The snapshotter's name; `None` takes the best one that works here.
    pub snapshotter: Option<String>,
    /// What a power cut may cost.
    pub durability: Durability,
    /// What a layer may cost.
    pub limits: Limits,
    /// Whether layers that are unpacked to images are kept as nothing else: see
    /// [`Engine::discards`].
    pub discard_blobs: bool,
    /// How registries are spoken to.
    pub registry: RegistryOptions,
    /// Which images may be used; all where there is none.
    pub policy: Option<PolicyFile>,
}

/// A store with everything that works on it. Many processes may have one on the same root.
///
/// Clones share all but the scope, see [`Engine::in_scope`].
#[derive(Clone)]
pub struct Engine {
    store: Store,
    scope: Scope,
    snapshotter: String,
    limits: Limits,
    discard_blobs: bool,
    sharing: Sharing,
    settles_later: bool,
    remotes: Arc<Remotes>,
}

impl Engine {
    /// Opens the root directory.
    ///
    /// # Errors
    /// `Storage` where the root cannot be used or has a newer format; `NotFound` where it does not
    /// exist and shall not be made.
    pub fn open(config: EngineConfig) -> Result<Self> {
        let options = StoreOptions {
            durability: config.durability,
            mode: config.mode,
            ..StoreOptions::default()
        };
        Ok(Self {
            store: Store::open(&config.root, options)?,
            scope: config.namespace.into(),
            snapshotter: config
                .snapshotter
                .unwrap_or_else(|| dist_snapshot::default_name().to_owned()),
            limits: config.limits,
            discard_blobs: config.discard_blobs,
            sharing: Sharing::default(),
            settles_later: false,
            remotes: Arc::new(Remotes::new(config.registry).with_policy(config.policy)),
        })
    }

    /// The same engine in another namespace, without a lease.
    #[must_use]
    pub fn in_namespace(&self, namespace: Namespace) -> Self {
        self.in_scope(namespace.into())
    }

    /// The same engine in another namespace; what it makes goes into the scope's lease.
    #[must_use]
    pub fn in_scope(&self, scope: Scope) -> Self {
        Self { scope, ..self.clone() }
    }

    /// The same engine; what it makes goes into a lease.
    #[must_use]
    pub fn leased(&self, lease: LeaseId) -> Self {
        self.in_scope(Scope { lease: Some(lease), ..self.scope.clone() })
    }

    /// The same engine, speaking to registries in another way. Connections and tokens of the one
    /// are not shared with the other.
    #[must_use]
    pub fn with_registry(&self, options: RegistryOptions) -> Self {
        Self { remotes: Arc::new(self.remotes.with_options(options)), ..self.clone() }
    }

    /// The same engine, unpacking with another snapshotter.
    #[must_use]
    pub fn with_snapshotter(&self, name: &str) -> Self {
        Self { snapshotter: name.to_owned(), ..self.clone() }
    }

    /// The same engine; see [`Engine::discards`].
    #[must_use]
    pub fn discarding(&self, discard_blobs: bool) -> Self {
        Self { discard_blobs, ..self.clone() }
    }

    /// The same engine; pulls and imports take of other namespaces no more than `sharing` allows.
    #[must_use]
    pub fn with_sharing(&self, sharing: Sharing) -> Self {
        Self { sharing, ..self.clone() }
    }

    /// The same engine; what it ingests is made durable by the registration at the end.
    #[must_use]
    pub(crate) fn settling_later(&self) -> Self {
        Self { settles_later: true, ..self.clone() }
    }

    /// The same engine; what it deletes leaves the disk when `removal` says.
    #[must_use]
    pub fn with_removal(&self, removal: Removal) -> Self {
        Self { store: self.store.removing(removal), ..self.clone() }
    }

    /// The store below the engine.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The content of the engine's namespace.
    #[must_use]
    pub fn content(&self) -> ContentStore {
        let content = self.store.content(&self.scope).sharing(self.sharing);
        if self.settles_later { content.settling_later() } else { content }
    }

    /// The images of the engine's namespace.
    #[must_use]
    pub fn images(&self) -> ImageStore {
        self.store.images(&self.scope)
    }

    /// The snapshotter that pulls unpack into.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none; `Storage`.
    pub fn snapshotter(&self) -> Result<Arc<dyn Snapshotter>> {
        dist_snapshot::open(&self.store, &self.scope, &self.snapshotter)
    }

    /// The name of that snapshotter.
    #[must_use]
    pub fn snapshotter_name(&self) -> &str {
        &self.snapshotter
    }

    /// The remotes.
    #[must_use]
    pub fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    /// Whether pulls and unpacking discard the blobs of layers that the snapshotter keeps whole:
    /// those of `erofs`, as soon as an unclean stop can't take the snapshot.
    #[must_use]
    pub fn discards(&self) -> bool {
        self.discard_blobs
    }

    /// The limits for layers.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The namespace the engine works in.
    #[must_use]
    pub fn namespace(&self) -> &Namespace {
        &self.scope.namespace
    }

    /// The namespace the engine works in, and the lease that keeps what it makes.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}
