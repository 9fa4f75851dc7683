//! Between the engine's types and the API's: errors, times, descriptors, mounts.

use std::collections::{BTreeMap, HashMap};
use std::io;

use dist_core::{
    Any, ContentMismatch, Context as _, DamagedStore, Descriptor, Error, ErrorKind, MediaType,
    Mount, Result,
};
use dist_run::ShimStatus;
use prost_types::Timestamp;
use rustix::io::Errno;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

use crate::api::containerd::types;
use crate::client::Reason;

/// The metadata of a failure that names the error's kind, which says more than the code does.
pub(crate) const KIND_HEADER: &str = "dist-error-kind";

/// The metadata of a failure that says why, for hints and exit codes.
pub(crate) const REASON_HEADER: &str = "dist-error-reason";

/// Turns an error into what the field's clients expect: a code, and a text that ends in its class;
/// and, in metadata that they pass over, into what this program's client wants to know.
pub(crate) fn status(error: &Error) -> Status {
    let (code, class) = if is_full(error) {
        code(ErrorKind::ResourceExhausted)
    } else if error.find::<ShimStatus>().is_some_and(|status| status.code() == UNKNOWN) {
        (Code::Unknown, "unknown")
    } else {
        code(error.kind())
    };
    let mut text = error.to_string();
    let mut last = text.clone();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        let more = cause.to_string();
        // What begins as what is above it goes on with it.
        match more.strip_prefix(&last).filter(|rest| rest.starts_with([':', ' '])) {
            Some(rest) => text.push_str(rest),
            None => {
                text.push_str(": ");
                text.push_str(&more);
            }
        }
        last = more;
        next = cause.source();
    }
    if !text.ends_with(class) {
        text.push_str(": ");
        text.push_str(class);
    }
    let mut metadata = MetadataMap::new();
    metadata.insert(KIND_HEADER, MetadataValue::from_static(error.kind().name()));
    for reason in reasons(error) {
        metadata.append(REASON_HEADER, MetadataValue::from_static(reason.name()));
    }
    Status::with_metadata(code, text, metadata)
}

/// What shims answer where a runtime fails: its words say more than any code.
const UNKNOWN: i32 = Code::Unknown as i32;

fn reasons(error: &Error) -> impl Iterator<Item = Reason> {
    [
        (is_full(error), Reason::FullDisk),
        (dist_store::is_database_damaged(error), Reason::DamagedDatabase),
        (error.find::<DamagedStore>().is_some(), Reason::DamagedStore),
        (error.find::<ContentMismatch>().is_some(), Reason::ContentMismatch),
    ]
    .into_iter()
    .filter_map(|(is_so, reason)| is_so.then_some(reason))
}

/// Whether it is for want of space on a disk.
fn is_full(error: &Error) -> bool {
    let full = |errno: Errno| matches!(errno, Errno::NOSPC | Errno::DQUOT);
    let by_system = || error.find::<io::Error>().and_then(Errno::from_io_error);
    error.kind() == ErrorKind::Storage
        && error.find::<Errno>().copied().or_else(by_system).is_some_and(full)
}

fn code(kind: ErrorKind) -> (Code, &'static str) {
    match kind {
        ErrorKind::NotFound => (Code::NotFound, "not found"),
        ErrorKind::AlreadyExists => (Code::AlreadyExists, "already exists"),
        ErrorKind::InvalidArgument | ErrorKind::UnsafeLayer => {
            (Code::InvalidArgument, "invalid argument")
        }
        ErrorKind::OutOfRange => (Code::OutOfRange, "out of range"),
        ErrorKind::FailedPrecondition => (Code::FailedPrecondition, "failed precondition"),
        ErrorKind::Unauthenticated => (Code::Unauthenticated, "unauthenticated"),
        ErrorKind::PermissionDenied | ErrorKind::Denied => {
            (Code::PermissionDenied, "permission denied")
        }
        ErrorKind::Unavailable | ErrorKind::Busy => (Code::Unavailable, "unavailable"),
        ErrorKind::Unsupported => (Code::Unimplemented, "not implemented"),
        ErrorKind::Corrupt => (Code::DataLoss, "data loss"),
        ErrorKind::ResourceExhausted => (Code::ResourceExhausted, "resource exhausted"),
        ErrorKind::Aborted => (Code::Aborted, "aborted"),
        ErrorKind::Cancelled => (Code::Cancelled, "context canceled"),
        _ => (Code::Internal, "internal"),
    }
}

/// Takes a sub-message that has to be there.
pub(crate) fn required<T>(value: Option<T>, name: &str) -> Result<T> {
    value.ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("{name} is required")))
}

/// Nanoseconds since the epoch as a time.
pub(crate) fn timestamp(nanoseconds: i64) -> Timestamp {
    const SECOND: i64 = 1_000_000_000;
    Timestamp {
        seconds: nanoseconds.div_euclid(SECOND),
        nanos: i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or(0),
    }
}

/// A time as nanoseconds since the epoch.
///
/// # Errors
/// `InvalidArgument` for a time that lies too far away.
pub(crate) fn nanoseconds(time: &Timestamp) -> Result<i64> {
    let nanoseconds = time.seconds.checked_mul(1_000_000_000);
    let nanoseconds = nanoseconds.and_then(|seconds| seconds.checked_add(time.nanos.into()));
    nanoseconds.ok_or_else(|| {
        let message = format!("read time of {} seconds since the epoch", time.seconds);
        Error::new(ErrorKind::InvalidArgument, message)
    })
}

/// Tells an error of `kind` as the field's clients know it: by the name of what it is about alone,
/// to which [`status`] adds the class.
pub(crate) fn worded<T>(
    result: Result<T>,
    kind: ErrorKind,
    name: impl FnOnce() -> String,
) -> Result<T> {
    result.map_err(|error| if error.kind() == kind { Error::new(kind, name()) } else { error })
}

/// A descriptor from the API.
pub(crate) fn descriptor(desc: types::Descriptor) -> Result<Descriptor> {
    let what = || format!("read descriptor {:?}", desc.digest);
    let digest = desc.digest.parse().context(ErrorKind::InvalidArgument, what)?;
    let size = u64::try_from(desc.size).context(ErrorKind::InvalidArgument, what)?;
    let mut read = Descriptor::new(MediaType::parse(&desc.media_type), digest, size);
    read.annotations = desc.annotations.into_iter().collect();
    Ok(read)
}

/// A descriptor for the API.
pub(crate) fn api_descriptor(desc: &Descriptor) -> types::Descriptor {
    types::Descriptor {
        media_type: desc.media_type.as_str().to_owned(),
        digest: desc.digest.to_string(),
        size: i64::try_from(desc.size).unwrap_or(i64::MAX),
        annotations: hash_map(&desc.annotations),
    }
}

/// A mount for the API.
pub(crate) fn api_mount(mount: &Mount) -> types::Mount {
    types::Mount {
        r#type: mount.fstype.clone(),
        source: mount.source.to_string_lossy().into_owned(),
        target: mount
            .target
            .as_ref()
            .map_or_else(String::new, |target| target.to_string_lossy().into_owned()),
        options: mount.options.clone(),
    }
}

/// A mount from the API.
pub(crate) fn mount(mount: types::Mount) -> Mount {
    Mount {
        fstype: mount.r#type,
        source: mount.source.into(),
        target: (!mount.target.is_empty()).then(|| mount.target.into()),
        options: mount.options,
    }
}

/// A value of any type from the API.
pub(crate) fn any(any: prost_types::Any) -> Any {
    Any { type_url: any.type_url, value: any.value }
}

/// A value of any type for the API.
pub(crate) fn api_any(any: Any) -> prost_types::Any {
    prost_types::Any { type_url: any.type_url, value: any.value }
}

/// Labels for the API.
pub(crate) fn hash_map(labels: &BTreeMap<String, String>) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}
