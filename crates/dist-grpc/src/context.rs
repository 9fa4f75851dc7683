//! What a request carries beside its message: the namespace and the lease.

use std::borrow::Cow;

use dist_core::{Context as _, Error, ErrorKind, Namespace, Result};
use dist_store::Scope;
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
    let name = header(metadata, NAMESPACE_HEADER).filter(|name| !name.is_empty());
    let required = || Error::new(ErrorKind::FailedPrecondition, "namespace is required");
    let name = name.ok_or_else(required)?;
    name.parse().context(ErrorKind::InvalidArgument, || format!("read namespace {name:?}"))
}

/// The namespace of a request, and the lease that keeps what it makes, if it names one.
///
/// # Errors
/// As [`namespace`]; `InvalidArgument` for a malformed lease. Whether there is such a lease is found
/// out by the first write.
pub(crate) fn scope(metadata: &MetadataMap) -> Result<Scope> {
    let lease = header(metadata, LEASE_HEADER).filter(|lease| !lease.is_empty());
    let lease = lease
        .map(|id| id.parse().context(ErrorKind::InvalidArgument, || format!("read lease {id:?}")))
        .transpose()?;
    Ok(Scope { namespace: namespace(metadata)?, lease })
}

/// What is no text is shown as such, for whoever parses it to refuse.
fn header<'a>(metadata: &'a MetadataMap, name: &str) -> Option<Cow<'a, str>> {
    metadata.get(name).map(|value| String::from_utf8_lossy(value.as_encoded_bytes()))
}
