//! What went wrong in one exchange with a server, and whether trying again can help.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use dist_core::{Error, ErrorKind};
use http::{Method, StatusCode};
use rustls::{CertificateError, Error as TlsError};
use url::Url;

use crate::{escape, tls};

type Source = Box<dyn StdError + Send + Sync>;

/// An exchange with a registry, a token server or the target of a redirect that failed.
///
/// It is the cause of every error of this crate that came over the network; find it with
/// [`dist_core::Error::find`]. Its texts are escaped and hold no secrets.
#[derive(Debug)]
pub struct Failure {
    /// What was asked: `GET`, `HEAD` or `POST`.
    pub method: Method,
    /// Of whom: the address without user, password and query.
    pub url: String,
    /// The status of the answer, where there was one.
    pub status: Option<u16>,
    /// The registry's own error code (`MANIFEST_UNKNOWN`, `DENIED`), where it gave one.
    pub code: Option<String>,
    /// How often it was tried.
    pub attempts: u32,
    /// How long that took.
    pub elapsed: Duration,
    problem: String,
    source: Option<Source>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.attempts == 1 { "" } else { "s" };
        write!(
            f,
            "{} {}: {} ({} attempt{plural}, {:.1} s)",
            self.method,
            self.url,
            self.problem,
            self.attempts,
            self.elapsed.as_secs_f64()
        )
    }
}

impl Failure {
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

/// Whether, and how, the same thing may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// It would fail again.
    Never,
    /// The server was silent: once more, since every try costs a whole timeout.
    Once,
    /// After a pause of our choice.
    Later,
    /// After the pause that the server asks for.
    After(Duration),
}

/// A [`Failure`] that may still be retried.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) kind: ErrorKind,
    pub(crate) again: Again,
    /// Whether a server that speaks TLS would have caused this to an http request.
    pub(crate) maybe_tls: bool,
    /// Whether the server spoke TLS, and that is what failed.
    pub(crate) tls: bool,
    pub(crate) failure: Failure,
}

/// Why something with several steps failed: in an exchange, or beside them.
pub(crate) enum Problem {
    Failed(Box<Failed>),
    Other(Error),
}

impl Problem {
    /// The error for what failed; `what` says what was done, and on what.
    pub(crate) fn into_error(self, what: impl FnOnce() -> String) -> Error {
        match self {
            Self::Failed(failed) => failed.into_error(what()),
            Self::Other(error) => Error::new(error.kind(), what()).with_source(error),
        }
    }
}

impl From<Box<Failed>> for Problem {
    fn from(failed: Box<Failed>) -> Self {
        Self::Failed(failed)
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Failed {
    pub(crate) fn new(
        kind: ErrorKind,
        method: &Method,
        url: &Url,
        problem: impl Into<String>,
    ) -> Box<Self> {
        Box::new(Self {
            kind,
            again: Again::Never,
            maybe_tls: false,
            tls: false,
            failure: Failure {
                method: method.clone(),
                url: escape::url(url),
                status: None,
                code: None,
                attempts: 1,
                elapsed: Duration::ZERO,
                problem: problem.into(),
                source: None,
            },
        })
    }

    pub(crate) fn unavailable(method: &Method, url: &Url, problem: impl Into<String>) -> Box<Self> {
        Self::new(ErrorKind::Unavailable, method, url, problem)
    }

    pub(crate) fn again(mut self: Box<Self>, again: Again) -> Box<Self> {
        self.again = again;
        self
    }

    pub(crate) fn because(mut self: Box<Self>, source: impl Into<Source>) -> Box<Self> {
        self.failure.source = Some(source.into());
        self
    }

    /// Whether nobody answered.
    pub(crate) fn is_silence(&self) -> bool {
        self.failure.status.is_none() && self.kind == ErrorKind::Unavailable
    }

    /// Adds what may be behind it.
    pub(crate) fn perhaps(mut self: Box<Self>, hint: &str) -> Box<Self> {
        self.failure.problem.push_str(hint);
        self
    }

    /// The failure that a status stands for; `problem` is what the body says.
    pub(crate) fn status(
        method: &Method,
        url: &Url,
        status: StatusCode,
        code: Option<String>,
        body: &str,
    ) -> Box<Self> {
        let kind = match status.as_u16() {
            401 => ErrorKind::Unauthenticated,
            403 => ErrorKind::PermissionDenied,
            404 | 410 => ErrorKind::NotFound,
            // It only reads, or can't delete.
            405 if method != Method::GET && method != Method::HEAD => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        let separator = if body.is_empty() { "" } else { ": " };
        let mut failed = Self::new(kind, method, url, format!("{status}{separator}{body}"));
        failed.failure.status = Some(status.as_u16());
        failed.failure.code = code;
        failed.again = match status.as_u16() {
            408 | 429 | 500 | 502..=504 | 506..=599 => Again::Later,
            _ => Again::Never,
        };
        failed
    }

    /// The failure of an exchange that ended before the answer's header, or in its body.
    pub(crate) fn exchange(method: &Method, url: &Url, error: reqwest::Error) -> Box<Self> {
        let error = error.without_url();
        if let Some(tls) = find(&error, |error| error.downcast_ref::<TlsError>()) {
            return Self::tls(method, url, tls.clone());
        }
        let os = find(&error, |error| error.downcast_ref::<io::Error>())
            .and_then(io::Error::raw_os_error);
        let http = find(&error, |error| error.downcast_ref::<hyper::Error>());
        let lookup = lookup_problem(&error);
        let in_lookup = lookup.is_some();
        let (problem, again, maybe_tls) = if let Some(problem) = lookup {
            // Only a resolver that could not be asked may answer otherwise the next time.
            let again = if problem.contains("emporary") { Again::Later } else { Again::Never };
            (format!("host name not found: {problem}"), again, false)
        } else if error.is_timeout() {
            ("no connection in time".to_owned(), Again::Later, false)
        } else if error.is_connect() {
            ("cannot connect".to_owned(), Again::Later, url.port().is_none())
        } else if http.is_some_and(|http| http.is_parse() && http.to_string().contains("too large"))
        {
            ("the header of the answer is too large".to_owned(), Again::Never, false)
        } else if http.is_some_and(hyper::Error::is_parse) {
            ("the answer is not HTTP".to_owned(), Again::Never, true)
        } else if http.is_some_and(|http| http.is_incomplete_message() || http.is_closed()) {
            ("the connection was closed in the middle".to_owned(), Again::Later, true)
        } else {
            ("the connection broke".to_owned(), Again::Later, true)
        };
        let mut failed = Self::unavailable(method, url, problem).again(again);
        failed.maybe_tls = maybe_tls;
        match os {
            Some(code) => failed.because(io::Error::from_raw_os_error(code)),
            None if in_lookup || http.is_some() || !error.is_connect() => failed,
            None => failed.because(error),
        }
    }

    fn tls(method: &Method, url: &Url, error: TlsError) -> Box<Self> {
        use CertificateError as C;
        let host = url.host_str().unwrap_or_default();
        let problem = match &error {
            TlsError::InvalidCertificate(certificate) => match certificate {
                C::Expired | C::ExpiredContext { .. } => {
                    "TLS: the certificate has expired, or this machine's clock is ahead".to_owned()
                }
                C::NotValidYet | C::NotValidYetContext { .. } => {
                    "TLS: the certificate is not valid yet, or this machine's clock is behind"
                        .to_owned()
                }
                C::UnknownIssuer => {
                    "TLS: the certificate was issued by nobody who is trusted here".to_owned()
                }
                C::NotValidForName | C::NotValidForNameContext { .. } => {
                    format!("TLS: the certificate is for another name than {host}")
                }
                C::Revoked => "TLS: the certificate was revoked".to_owned(),
                _ if tls::is_authority(&error) => {
                    "TLS: the certificate is self-signed, and nobody trusts it here".to_owned()
                }
                _ => "TLS: the certificate is not valid".to_owned(),
            },
            TlsError::InvalidMessage(_) => {
                "TLS: the server does not speak https (it may be a plain http server)".to_owned()
            }
            TlsError::AlertReceived(_) | TlsError::PeerIncompatible(_) => {
                "TLS: there is no protocol version or cipher that both sides speak".to_owned()
            }
            _ => "TLS: the handshake failed".to_owned(),
        };
        let spoken = !matches!(error, TlsError::InvalidMessage(_));
        let mut failed = Self::unavailable(method, url, problem).because(error);
        failed.tls = spoken;
        failed
    }

    /// Ends all trying: the error for doing `what`.
    #[expect(clippy::boxed_local, reason = "it is passed around boxed, since it is large")]
    pub(crate) fn into_error(self: Box<Self>, what: String) -> Error {
        Error::new(self.kind, what).with_source(self.failure)
    }
}

/// Finds the first error in a chain for which `pick` answers; what an `io::Error` carries counts.
fn find<'a, T>(
    error: &'a (dyn StdError + 'static),
    pick: impl Fn(&'a (dyn StdError + 'static)) -> Option<&'a T>,
) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = pick(error) {
            return Some(found);
        }
        next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// What the name lookup says, where that is what failed.
fn lookup_problem(error: &(dyn StdError + 'static)) -> Option<String> {
    let mut in_lookup = false;
    let mut next = Some(error);
    let mut last = None;
    while let Some(error) = next {
        let text = error.to_string();
        in_lookup |= text.starts_with("dns error");
        last = Some(text);
        next = error.source();
    }
    let text = last.filter(|_| in_lookup)?;
    Some(escape::text(text.rsplit(": ").next().unwrap_or(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_kinds() {
        let url = Url::parse("https://u:p@h/v2/?x=y").unwrap();
        for (status, kind, again) in [
            (401, ErrorKind::Unauthenticated, Again::Never),
            (403, ErrorKind::PermissionDenied, Again::Never),
            (404, ErrorKind::NotFound, Again::Never),
            (429, ErrorKind::Unavailable, Again::Later),
            (500, ErrorKind::Unavailable, Again::Later),
            (501, ErrorKind::Unavailable, Again::Never),
            (600, ErrorKind::Unavailable, Again::Never),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            let failed = Failed::status(&Method::GET, &url, status, None, "");
            assert_eq!((failed.kind, failed.again), (kind, again), "{status}");
            assert!(failed.failure.to_string().starts_with("GET https://h/v2/: "));
        }
    }
}
