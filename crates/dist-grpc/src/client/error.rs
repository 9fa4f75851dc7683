//! From what a daemon answers back to errors.

use std::error::Error as StdError;
use std::fmt;

use dist_core::{Error, ErrorKind};
use tonic::{Code, Status};

use crate::translate::{KIND_HEADER, REASON_HEADER};

/// The cause of an error that a daemon answered with: what it said besides.
#[derive(Debug)]
pub struct Answered {
    /// Why, as far as it named reasons.
    pub reasons: Vec<Reason>,
}

impl fmt::Display for Answered {
    /// Says nothing: the error above it has the words.
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl StdError for Answered {}

/// Why something failed at a daemon, where that tells what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The disk or a quota on it is full.
    FullDisk,
    /// The database of the store can't be read.
    DamagedDatabase,
    /// The store has recorded what is lost.
    DamagedStore,
    /// Content has another digest or size than it must have.
    ContentMismatch,
}

impl Reason {
    const ALL: [Self; 4] =
        [Self::FullDisk, Self::DamagedDatabase, Self::DamagedStore, Self::ContentMismatch];

    /// The name that it has between processes, which never changes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FullDisk => "full-disk",
            Self::DamagedDatabase => "damaged-database",
            Self::DamagedStore => "damaged-store",
            Self::ContentMismatch => "content-mismatch",
        }
    }

    /// The reason of a [`name`](Self::name).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// A status that was made on this side, as its causes tell it.
#[derive(Debug)]
struct Broken(Status);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.source() {
            Some(cause) => fmt::Display::fmt(cause, f),
            None => f.write_str(self.0.message()),
        }
    }
}

impl StdError for Broken {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()?.source()
    }
}

/// Turns what a daemon answered into an error: the kind that it named, or that
/// of its code; the text without its class.
pub(super) fn error(status: Status) -> Error {
    if status.source().is_some() {
        // It was made on this side, not sent.
        return Error::new(ErrorKind::Unavailable, "speak to the daemon: the connection broke")
            .with_source(Broken(status));
    }
    let (kind, class) = match status.code() {
        Code::NotFound => (ErrorKind::NotFound, "not found"),
        Code::AlreadyExists => (ErrorKind::AlreadyExists, "already exists"),
        Code::InvalidArgument => (ErrorKind::InvalidArgument, "invalid argument"),
        Code::OutOfRange => (ErrorKind::OutOfRange, "out of range"),
        Code::FailedPrecondition => (ErrorKind::FailedPrecondition, "failed precondition"),
        Code::Unauthenticated => (ErrorKind::Unauthenticated, "unauthenticated"),
        Code::PermissionDenied => (ErrorKind::PermissionDenied, "permission denied"),
        Code::Unavailable => (ErrorKind::Unavailable, "unavailable"),
        Code::Unimplemented => (ErrorKind::Unsupported, "not implemented"),
        Code::DataLoss => (ErrorKind::Corrupt, "data loss"),
        Code::ResourceExhausted => (ErrorKind::ResourceExhausted, "resource exhausted"),
        Code::Aborted => (ErrorKind::Aborted, "aborted"),
        Code::Cancelled => (ErrorKind::Cancelled, "context canceled"),
        Code::DeadlineExceeded => (ErrorKind::Unavailable, "deadline exceeded"),
        _ => (ErrorKind::Internal, "internal"),
    };
    let said =
        |name| status.metadata().get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let kind = said(KIND_HEADER).find_map(ErrorKind::named).unwrap_or(kind);
    let reasons = said(REASON_HEADER).filter_map(Reason::named).collect();
    let text = status.message();
    let text = match text.strip_suffix(class).and_then(|text| text.strip_suffix(": ")) {
        Some(bare) if status.code() != Code::NotFound || says_what_is_missing(bare) => bare,
        _ => text,
    };
    let text = if text.is_empty() { class } else { text };
    Error::new(kind, text.to_owned()).with_source(Answered { reasons })
}

/// Whether more is said than a name: containerd's words for an image that it has not are `image "x"` and
/// the class.
fn says_what_is_missing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["not ", "no ", "none", "n't "].iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate;
    use dist_core::{ContentMismatch, DamagedStore};

    #[test]
    fn errors_lose_their_class() {
        let error = error(Status::not_found("blob x is not there: not found"));
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::NotFound, "blob x is not there")
        );
        let text = |message| super::error(Status::not_found(message)).to_string();
        assert_eq!(text("image \"a:1\": not found"), "image \"a:1\": not found");
        assert_eq!(
            text("find x: there is none of that name: not found"),
            "find x: there is none of that name"
        );
        assert_eq!(text("x"), "x");
    }

    #[test]
    fn every_kind_comes_through_and_other_servers_have_codes() {
        for kind in ErrorKind::ALL {
            let through = error(translate::status(&Error::new(kind, "can't do x")));
            assert_eq!((through.kind(), through.to_string().as_str()), (kind, "can't do x"));
        }
        let mut later = translate::status(&Error::new(ErrorKind::UnsafeLayer, "x"));
        let name = tonic::metadata::MetadataValue::from_static("of-a-later-version");
        later.metadata_mut().insert(KIND_HEADER, name);
        assert_eq!(error(later).kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn reasons_come_through() {
        let full = || Error::new(ErrorKind::Storage, "x").with_source(rustix::io::Errno::NOSPC);
        let status = translate::status(&full());
        assert_eq!(status.code(), Code::ResourceExhausted);
        let through = error(status);
        assert_eq!(through.kind(), ErrorKind::Storage);
        assert_eq!(through.find::<Answered>().unwrap().reasons, [Reason::FullDisk]);
        let size = ContentMismatch::Size { expected: 1, got: 2 };
        let lost =
            Error::new(ErrorKind::NotFound, "x").with_source(DamagedStore { mismatch: Some(size) });
        let through = error(translate::status(&lost));
        let reasons = [Reason::DamagedStore, Reason::ContentMismatch];
        assert_eq!(through.find::<Answered>().unwrap().reasons, reasons);
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.name()), Some(reason));
        }
    }

    #[test]
    fn what_breaks_on_this_side_is_told_by_its_causes() {
        let inner = Error::new(ErrorKind::Internal, "transport")
            .with_source(std::io::Error::other("the pipe broke"));
        let broken = error(Status::from_error(Box::new(inner)));
        assert_eq!(broken.kind(), ErrorKind::Unavailable);
        let said = format!("{broken:?}");
        assert!(said.ends_with("the connection broke: transport: the pipe broke"), "{said}");
    }
}
