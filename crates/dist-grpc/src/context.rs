//! What a request carries beside its message: the namespace and the lease.

use dist_core::{Context as _, Error, ErrorKind, Namespace, Result};
use tonic::metadata::MetadataMap;

/// The header that names the namespace.
pub const NAMESPACE_HEADER: &str = "containerd-namespace";

/// The header that names the lease which keeps what the request makes.
pub const LEASE_HEADER: &str = "containerd-lease";

/// The namespace of a request; of several values the first counts.
///
/// # Errors
/// `FailedPrecondition` where there is none; `InvalidArgument` for a malformed one.
pub(crate) fn namespace(metadata: &MetadataMap) -> Result<Namespace> {
    match header(metadata, NAMESPACE_HEADER) {
        None | Some("") => Err(Error::new(ErrorKind::FailedPrecondition, "namespace is required")),
        Some(name) => {
            name.parse().context(ErrorKind::InvalidArgument, || format!("read namespace {name:?}"))
        }
    }
}

/// The lease of a request, if it names one; of several values the first counts.
pub(crate) fn lease(metadata: &MetadataMap) -> Option<&str> {
    header(metadata, LEASE_HEADER).filter(|lease| !lease.is_empty())
}

fn header<'a>(metadata: &'a MetadataMap, name: &str) -> Option<&'a str> {
    metadata.get(name).and_then(|value| value.to_str().ok())
}
