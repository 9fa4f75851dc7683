//! The backend socket: raw content and snapshots for another daemon.
//!
//! A containerd that is told to keep its content or its snapshots here (`proxy_plugins`) has
//! namespaces, leases and collections of its own, and puts them into the names it sends. It
//! deletes what it does not need any more, with calls that carry no namespace, and would lose what
//! a collection of ours takes. So this is a realm of its own: no headers, every snapshotter name,
//! nothing shown to the clients of the other socket, nothing collected.

use dist_core::{Namespace, Result};
use dist_store::Scope;
use tonic::metadata::MetadataMap;

use crate::context;

/// Whose names a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    /// Clients': each request names its namespace, and a lease if it likes.
    Namespaced,
    /// Another daemon's: what the request's headers say does not count.
    Raw,
}

impl Realm {
    /// The namespace that a request works in, and its lease.
    ///
    /// # Errors
    /// As [`context::scope`]; none in the raw realm.
    pub(crate) fn scope(self, metadata: &MetadataMap) -> Result<Scope> {
        match self {
            Self::Namespaced => context::scope(metadata),
            Self::Raw => Ok(Namespace::raw("").into()),
        }
    }

    /// The namespace of the snapshots that a request works on, with the snapshotter it names, and
    /// its lease.
    ///
    /// # Errors
    /// As [`Realm::scope`].
    pub(crate) fn snapshots(self, metadata: &MetadataMap, snapshotter: &str) -> Result<Scope> {
        match self {
            Self::Namespaced => context::scope(metadata),
            Self::Raw => Ok(Namespace::raw(snapshotter).into()),
        }
    }
}
