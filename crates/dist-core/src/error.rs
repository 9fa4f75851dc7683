//! One error type for every crate border: a kind, a message and a cause.

use std::borrow::Cow;
use std::fmt;
use std::io;

use crate::Digest;

/// The result of every fallible operation at a crate border.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`].
///
/// Each kind maps to one gRPC code (but a full disk, `Storage`, to that of `ResourceExhausted`) and
/// to one exit code of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists and must not.
    AlreadyExists,
    /// The caller passed something that can never be right.
    InvalidArgument,
    /// An offset or range lies outside the content.
    OutOfRange,
    /// The state of the system forbids the operation (for instance a snapshot with children).
    FailedPrecondition,
    /// Credentials are missing or were not accepted.
    Unauthenticated,
    /// Credentials were accepted but do not allow the operation.
    PermissionDenied,
    /// A policy refuses the operation.
    Denied,
    /// A registry or network did not answer, or not as its protocol demands.
    Unavailable,
    /// Another process or thread holds what is needed.
    Busy,
    /// The content is well formed but of a kind that is not handled.
    Unsupported,
    /// Content does not have the digest, size or format it must have.
    Corrupt,
    /// A layer tries to reach outside its root.
    UnsafeLayer,
    /// A stated limit would be exceeded.
    ResourceExhausted,
    /// The disk or the store on it failed: space, I/O, permissions, corruption.
    Storage,
    /// A concurrent change made the operation void; it may be tried again.
    Aborted,
    /// The caller cancelled the operation.
    Cancelled,
    /// A defect in this program.
    Internal,
}

impl ErrorKind {
    /// All of them, in the order above.
    pub const ALL: [Self; 18] = [
        Self::NotFound,
        Self::AlreadyExists,
        Self::InvalidArgument,
        Self::OutOfRange,
        Self::FailedPrecondition,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::Denied,
        Self::Unavailable,
        Self::Busy,
        Self::Unsupported,
        Self::Corrupt,
        Self::UnsafeLayer,
        Self::ResourceExhausted,
        Self::Storage,
        Self::Aborted,
        Self::Cancelled,
        Self::Internal,
    ];

    /// The name that it has between processes, which never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotFound => "not-found",
            Self::AlreadyExists => "already-exists",
            Self::InvalidArgument => "invalid-argument",
            Self::OutOfRange => "out-of-range",
            Self::FailedPrecondition => "failed-precondition",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission-denied",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Unsupported => "unsupported",
            Self::Corrupt => "corrupt",
            Self::UnsafeLayer => "unsafe-layer",
            Self::ResourceExhausted => "resource-exhausted",
            Self::Storage => "storage",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
            Self::Internal => "internal",
        }
    }

    /// The kind of a [`name`](Self::name); `None` for one that this program does not know.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// An error with a kind, a message that says what was done to what, and its cause.
///
/// `Display` prints the message alone; the chain is reached by
/// [`std::error::Error::source`].
pub struct Error {
    kind: ErrorKind,
    message: Cow<'static, str>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// Makes an error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the error for work that was cancelled by its caller.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Finds the first error of type `T` in the chain, this one's causes only.
    #[must_use]
    pub fn find<T: std::error::Error + 'static>(&self) -> Option<&T> {
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<T>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }

    /// Carries this error through an interface that only knows [`io::Error`].
    ///
    /// [`Context::context`] on the resulting `io::Error` restores the kind.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        let mut next = std::error::Error::source(self);
        while let Some(error) = next {
            write!(f, ": {error}")?;
            next = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Turns a foreign error into an [`Error`] with a kind and a message.
pub trait Context<T> {
    /// Wraps the error; `message` says verb, object and value in lower case.
    ///
    /// An `io::Error` made by [`Error::into_io`] keeps the kind it carries;
    /// any other gets `kind`.
    ///
    /// # Errors
    /// The wrapped error, where `self` was one.
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E> Context<T> for std::result::Result<T, E>
where
    E: std::error::Error + Send + Sync + 'static,
{
    fn context(self, kind: ErrorKind, message: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| {
            let source: Box<dyn std::error::Error + Send + Sync> = Box::new(source);
            let source = match source.downcast::<io::Error>() {
                Ok(error) => match error.downcast::<Error>() {
                    Ok(inner) => {
                        let kind = inner.kind;
                        return Error::new(kind, message()).with_source(inner);
                    }
                    Err(error) => Box::new(error) as Box<dyn std::error::Error + Send + Sync>,
                },
                Err(source) => source,
            };
            Error { kind, message: message().into(), source: Some(source) }
        })
    }
}

/// Adds what was being done to an [`Error`] and keeps its kind.
pub trait ResultExt<T> {
    /// Wraps the error in one of the same kind.
    ///
    /// # Errors
    /// The wrapped error, where `self` was one.
    fn during(self, message: impl FnOnce() -> String) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn during(self, message: impl FnOnce() -> String) -> Self {
        self.map_err(|source| Error::new(source.kind, message()).with_source(source))
    }
}

/// The cause of an error of kind [`ErrorKind::ResourceExhausted`]: which limit, and how much.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the limit for {name} is {limit}")]
pub struct Limit {
    /// The limit's name, as in `layer-size`.
    pub name: &'static str,
    /// Its value in the unit the name implies (bytes, entries).
    pub limit: u64,
}

/// The cause of an error about what a store has recorded and lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is damaged")]
pub struct DamagedStore {
    /// What is wrong with content, where it is that.
    #[source]
    pub mismatch: Option<ContentMismatch>,
}

/// The cause of an error about content that is not what its descriptor says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentMismatch {
    /// The number of bytes differs.
    #[error("expected {expected} bytes, got {got}")]
    Size {
        /// Bytes that were promised.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The digest differs.
    #[error("expected digest {expected}, got {got}")]
    Digest {
        /// The digest that was promised.
        expected: Digest,
        /// The digest of the bytes that came.
        got: Digest,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_round_trip_keeps_kind() {
        let error = Error::new(ErrorKind::UnsafeLayer, "entry x").into_io();
        let back = Err::<(), _>(error).context(ErrorKind::Storage, || "read".into()).unwrap_err();
        assert_eq!(back.kind(), ErrorKind::UnsafeLayer);
        let plain = Err::<(), _>(io::Error::other("x"))
            .context(ErrorKind::Storage, || "read".into())
            .unwrap_err();
        assert_eq!(plain.kind(), ErrorKind::Storage);
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for (index, kind) in ErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, index, "{kind:?} is missing or out of order");
            assert_eq!(ErrorKind::named(kind.name()), Some(kind));
        }
        assert_eq!(ErrorKind::Internal as usize + 1, ErrorKind::ALL.len(), "the last of them");
        assert_eq!(ErrorKind::named("of-a-later-version"), None);
    }

    #[test]
    fn find_walks_the_chain() {
        let error = Error::new(ErrorKind::Corrupt, "a")
            .with_source(ContentMismatch::Size { expected: 1, got: 2 });
        let outer = Err::<(), _>(error).during(|| "b".into()).unwrap_err();
        assert!(outer.find::<ContentMismatch>().is_some());
        assert!(outer.find::<Limit>().is_none());
    }
}
