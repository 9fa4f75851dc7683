//! The one place that turns an error into words, hints and an exit code.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io::{self, Write};

use dist::ReferrersUnknown;
use dist_core::{ContentMismatch, DamagedStore, Error, ErrorKind, Limit};
use dist_grpc::client::{Answered, Reason};
use dist_registry::Failure;
use dist_store::{DamagedDatabase, is_database_damaged};
use rustix::io::Errno;

use crate::commands::{Kept, Partial, Reported};
use crate::output::{OutputFailed, ReaderGone};
use crate::reference::BadReference;
use crate::signals::Stopped;
use crate::table::printable;
use crate::units::binary_size;
use crate::user_namespace::NoUserNamespace;

/// Exit codes as `--help` lists them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done (also where the reader of the output has gone away)
    1  another error
    2  wrong usage: a flag, a reference, a digest, a platform
    3  not found: an image, a tag, a blob, a snapshot, a platform in an index
    4  credentials are missing, were not accepted, or do not allow it
    5  the registry or the network did not answer, or not as the protocol demands
    6  invalid content: a digest or size that differs, a format, a limit exceeded; what is not supported
    7  an unsafe layer was refused
    8  storage: no space, no permission, I/O error, a damaged store
    9  busy: another process holds it
   10  a policy forbids it
   11  sync: some tags were copied, others were not
  125  run, exec: the container could not be made or started
  126  run, exec: the command can't be run
  127  run, exec: the command is not there
  130  stopped by SIGINT (Ctrl-C)
  143  stopped by SIGTERM";

/// The cause of an error about which there is something to do that only its maker knows.
#[derive(Debug)]
struct Advice {
    error: Error,
    hint: Cow<'static, str>,
}

impl fmt::Display for Advice {
    /// Says nothing: the error above it has the words.
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

impl StdError for Advice {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        StdError::source(&self.error)
    }
}

/// Adds a hint to an error.
pub(crate) fn advise(error: Error, hint: impl Into<Cow<'static, str>>) -> Error {
    Error::new(error.kind(), error.to_string()).with_source(Advice { error, hint: hint.into() })
}

/// Prints the error and returns the exit code.
pub(crate) fn report(error: &Error) -> u8 {
    if find::<ReaderGone>(error).is_some() {
        return 0;
    }
    if find::<Reported>(error).is_some() {
        return exit_code(error);
    }
    // What SQLite says of a damaged file is for `dist fsck`.
    let line = line(error, |cause| cause.is::<DamagedDatabase>());
    let mut text = format!("dist: {line}\n");
    if let Some(bad) = find::<BadReference>(error) {
        text.push_str(&bad.caret());
    }
    for hint in hints(error) {
        text.push_str("hint: ");
        text.push_str(&printable(&hint));
        text.push('\n');
    }
    write(&text);
    exit_code(error)
}

/// Prints something a person should know that is no error.
pub(crate) fn warn(message: &str) {
    write(&format!("dist: warning: {}\n", printable(message)));
}

/// Prints what was done.
pub(crate) fn note(message: &str) {
    write(&format!("{}\n", printable(message)));
}

/// Prints what there is to do next.
pub(crate) fn hint(message: &str) {
    write(&format!("hint: {}\n", printable(message)));
}

/// Prints several lines with everything escaped that is not their text.
pub(crate) fn plain_text(text: &str) {
    let lines: Vec<String> = text.lines().map(printable).collect();
    write(&format!("{}\n", lines.join("\n")));
}

/// Where standard error is gone, nobody can be told.
fn write(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}

/// The error and its causes in one line, safe for a terminal.
pub(crate) fn one_line(error: &dyn StdError) -> String {
    line(error, |_| false)
}

/// The error and its causes, down to the one after which all is told.
fn line(error: &dyn StdError, is_told: impl Fn(&(dyn StdError + 'static)) -> bool) -> String {
    let mut line = printable(&error.to_string());
    let mut last = line.clone();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = printable(&cause.to_string());
        // Some libraries print their cause in their own message.
        if !text.is_empty() && !line.ends_with(&text) {
            // A daemon begins with what is said of the call to it.
            match text.strip_prefix(&last).filter(|more| more.starts_with([':', ' '])) {
                Some(more) => line.push_str(more),
                None => {
                    line.push_str(": ");
                    line.push_str(&text);
                }
            }
            last = text;
        }
        if is_told(cause) {
            break;
        }
        next = cause.source();
    }
    line
}

/// Whether an error ends everything: nobody listens any more, or a signal has come.
pub(crate) fn is_over(error: &Error) -> bool {
    find::<ReaderGone>(error).is_some() || find::<Stopped>(error).is_some()
}

/// The exit code for an error.
pub(crate) fn exit_code(error: &Error) -> u8 {
    if let Some(stopped) = find::<Stopped>(error) {
        return stopped.exit_code();
    }
    if find::<Partial>(error).is_some() {
        return 11;
    }
    if find::<ContentMismatch>(error).is_some() || has_reason(error, Reason::ContentMismatch) {
        return 6;
    }
    match error.kind() {
        ErrorKind::InvalidArgument => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => 4,
        ErrorKind::Unavailable => 5,
        ErrorKind::Corrupt | ErrorKind::Unsupported | ErrorKind::ResourceExhausted => 6,
        ErrorKind::UnsafeLayer => 7,
        ErrorKind::Storage => 8,
        ErrorKind::Busy => 9,
        ErrorKind::Denied => 10,
        _ => 1,
    }
}

/// The first error of type `T` in the chain, also inside an `io::Error` that carries one.
fn find<T: StdError + 'static>(error: &Error) -> Option<&T> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Whether a daemon named the reason.
fn has_reason(error: &Error, reason: Reason) -> bool {
    find::<Answered>(error).is_some_and(|answered| answered.reasons.contains(&reason))
}

/// What there is to do about it.
fn hints(error: &Error) -> Vec<String> {
    let kept = find::<Kept>(error);
    let mut hints = Vec::new();
    hints.extend(find::<Advice>(error).map(|advice| advice.hint.to_string()));
    if find::<Stopped>(error).is_some() {
        if kept.is_some() {
            hints.push("what was fetched is kept; run the same command again to continue".into());
        }
        return hints;
    }
    if let Some(limit) = find::<Limit>(error)
        && let Some(flag) = limit_flag(limit.name)
    {
        hints.push(format!("if you trust the image, raise the limit with {flag}"));
    }
    if find::<ReferrersUnknown>(error).is_some() && error.kind() == ErrorKind::Unavailable {
        hints.push(
            "--no-referrers leaves out what refers to the image (in a file of sync: referrers = false)"
                .into(),
        );
    }
    if find::<NoUserNamespace>(error).is_some_and(|error| error.unpacks) {
        hints
            .push("`dist fetch` and `dist unpack` need none; nor does --snapshotter native".into());
    }
    if has_reason(error, Reason::FullDisk) {
        hints.push("make room where the daemon keeps its root directory".into());
    }
    if is_database_damaged(error) || has_reason(error, Reason::DamagedDatabase) {
        hints.push("`dist fsck` says more, and what to do".into());
    }
    if find::<DamagedStore>(error).is_some() || has_reason(error, Reason::DamagedStore) {
        hints.push("`dist fsck --repair` brings back what is lost, or says why it can't".into());
    }
    hints.extend(tls_hint(error).map(Into::into));
    let status = find::<Failure>(error).and_then(|failure| failure.status);
    if status == Some(405) && error.kind() == ErrorKind::Unsupported && hints.is_empty() {
        hints.push("the registry is set up to be read, and takes nothing".into());
    }
    // What is printed goes where the caller sent it: no other root would help there.
    // Nor does it where more is known of the reason.
    if find::<OutputFailed>(error).is_none() && find::<Advice>(error).is_none() {
        hints.extend(errno(error).and_then(|errno| errno_hint(errno, kept)));
    }
    match error.kind() {
        ErrorKind::Unauthenticated if find::<Advice>(error).is_none() => hints
            .push("log in with `dist login REGISTRY`, or give --user and --password-stdin".into()),
        ErrorKind::PermissionDenied if hints.is_empty() => {
            hints.push("the account may not do this, or there is none; try `dist login`".into());
        }
        ErrorKind::Unavailable if kept.is_some() => hints
            .push("what was fetched is kept; the same command continues where it broke off".into()),
        ErrorKind::UnsafeLayer => {
            hints.push("nothing outside the target was touched; do not use this image".into())
        }
        ErrorKind::Busy if hints.is_empty() => {
            hints.push("another process is at work on it; try again when it is done".into());
        }
        _ => (),
    }
    hints
}

fn tls_hint(error: &Error) -> Option<&'static str> {
    use rustls::{CertificateError, Error as Tls};
    match find::<Tls>(error)? {
        Tls::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some("trust its authority with --tls-ca-cert FILE, or any certificate with --insecure")
        }
        Tls::InvalidMessage(_) => Some("for a server that speaks only http there is --plain-http"),
        _ => None,
    }
}

/// The flag that sets a limit.
fn limit_flag(name: &str) -> Option<&'static str> {
    match name {
        "layer-size" => Some("--max-layer-size"),
        "zstd-window" => Some("--max-zstd-window"),
        _ => None,
    }
}

/// The first error number in the chain.
fn errno(error: &Error) -> Option<Errno> {
    find::<Errno>(error).copied().or_else(|| {
        let error = find::<io::Error>(error)?;
        // Space that was counted and found too small has no number.
        let full = error.kind() == io::ErrorKind::StorageFull;
        Errno::from_io_error(error).or(full.then_some(Errno::NOSPC))
    })
}

fn errno_hint(errno: Errno, kept: Option<&Kept>) -> Option<String> {
    Some(match errno {
        Errno::NOSPC | Errno::DQUOT => match kept {
            Some(Kept { missing: 0, .. }) => {
                "make room, or use another --root: all is fetched, and \
                 what is unpacked needs more; it is kept and the same command continues"
                    .into()
            }
            Some(Kept { missing, .. }) => format!(
                "make room, or use another --root: {} are still to be fetched, and what is \
                 unpacked needs more; what was fetched is kept and the same command continues",
                binary_size(*missing)
            ),
            None => "make room there, or write elsewhere (a store: --root)".into(),
        },
        Errno::ACCESS | Errno::PERM => {
            "this user may not do that there; a store is for its owner, and may be elsewhere (--root)"
                .into()
        }
        Errno::ROFS => "the file system is read-only; write elsewhere (a store: --root)".into(),
        Errno::MFILE | Errno::NFILE => "raise the number of open files (ulimit -n)".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use dist_core::{Context, Digest, ResultExt};

    #[test]
    fn codes() {
        for (kind, code) in [
            (ErrorKind::NotFound, 3),
            (ErrorKind::AlreadyExists, 1),
            (ErrorKind::InvalidArgument, 2),
            (ErrorKind::OutOfRange, 1),
            (ErrorKind::FailedPrecondition, 1),
            (ErrorKind::Unauthenticated, 4),
            (ErrorKind::PermissionDenied, 4),
            (ErrorKind::Denied, 10),
            (ErrorKind::Unavailable, 5),
            (ErrorKind::Busy, 9),
            (ErrorKind::Unsupported, 6),
            (ErrorKind::Corrupt, 6),
            (ErrorKind::UnsafeLayer, 7),
            (ErrorKind::ResourceExhausted, 6),
            (ErrorKind::Storage, 8),
            (ErrorKind::Aborted, 1),
            (ErrorKind::Cancelled, 1),
            (ErrorKind::Internal, 1),
        ] {
            assert_eq!(exit_code(&Error::new(kind, "x")), code, "{kind:?}");
        }
        assert_eq!(exit_code(&Stopped::Interrupt.during("x")), 130);
        assert_eq!(exit_code(&Stopped::Terminate.during("x")), 143);
    }

    #[test]
    fn a_mismatch_is_invalid_content_whatever_the_kind() {
        let got = Digest::sha256(b"x");
        let error = Error::new(ErrorKind::FailedPrecondition, "commit ingest k")
            .with_source(ContentMismatch::Digest { expected: Digest::sha256(b""), got });
        let error = Err::<(), _>(error).during(|| "fetch layer".into()).unwrap_err();
        assert_eq!(exit_code(&error), 6);
        let line = one_line(&error);
        assert!(line.starts_with("fetch layer: commit ingest k: expected digest sha256:e3b0"));
        assert!(line.ends_with(&got.to_string()));
    }

    #[test]
    fn one_line_is_one_line() {
        let error =
            Error::new(ErrorKind::Corrupt, "entry a\nb").with_source(io::Error::other("\x1b[2J"));
        assert_eq!(one_line(&error), "entry a\\nb: \\u{1b}[2J");
        let twice =
            Error::new(ErrorKind::Internal, "outer: inner").with_source(io::Error::other("inner"));
        assert_eq!(one_line(&twice), "outer: inner");
        let told = Error::new(ErrorKind::Internal, "write x")
            .with_source(io::Error::other("write x: no space"));
        assert_eq!(one_line(&told), "write x: no space");
        let told = Error::new(ErrorKind::Internal, "write x")
            .with_source(io::Error::other("write x to y: no space"));
        assert_eq!(one_line(&told), "write x to y: no space");
    }

    #[test]
    fn a_closed_output_is_success_and_a_closed_connection_is_not() {
        let pipe = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(report(&crate::output::output_error(pipe())), 0);
        let network = Err::<(), _>(pipe())
            .context(ErrorKind::Unavailable, || "send request".into())
            .unwrap_err();
        assert_eq!(exit_code(&network), 5);
    }

    #[test]
    fn hints_name_what_to_do() {
        let full = Err::<(), _>(io::Error::from_raw_os_error(28))
            .context(ErrorKind::Storage, || "write blob".into())
            .unwrap_err();
        assert!(hints(&full)[0].starts_with("make room"));
        let counted = Error::new(ErrorKind::Storage, "9 bytes are needed, 1 is free")
            .with_source(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(hints(&counted), hints(&full));
        let output = crate::output::output_error(io::Error::from_raw_os_error(28));
        assert!(hints(&output).is_empty());
        assert_eq!(exit_code(&output), 8);
        assert_eq!(
            one_line(&output),
            "write to standard output: No space left on device (os error 28)"
        );
        assert_eq!(hints(&advise(Error::new(ErrorKind::Internal, "x"), "do y")), ["do y"]);
        let carried = Error::new(ErrorKind::Storage, "x").with_source(io::Error::other(
            Error::new(ErrorKind::Storage, "y").with_source(Errno::NOSPC),
        ));
        assert!(hints(&carried)[0].starts_with("make room"), "through an io::Error");
        let limit = Error::new(ErrorKind::ResourceExhausted, "unpack layer")
            .with_source(Limit { name: "layer-size", limit: 1 });
        assert!(hints(&limit)[0].contains("--max-layer-size"));
    }
}
