//! What a request carries: nothing, a form, a document, or a file that is read while it is sent.
//!
//! A request may be sent more than once (redirects, tokens that expired, connections that broke),
//! so a payload is something that bodies are made of, each from its first byte.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dist_core::{Context as _, Digest, ErrorKind, Event, Progress, Result};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, RequestBuilder};
use tokio::time::Instant;

/// How much is read from a file at once.
const CHUNK: u64 = 128 << 10;

/// What goes along with a request.
#[derive(Clone, Default)]
pub(crate) enum Payload {
    /// Nothing, and nothing that says so.
    #[default]
    Absent,
    /// Nothing, as a body of no bytes.
    Empty,
    /// A form with secrets in it.
    Form(String),
    /// A small document and its media type.
    Document(String, Bytes),
    /// A file.
    Upload(Upload),
}

impl Payload {
    /// Adds a body to a request.
    pub(crate) fn attach(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Absent => request,
            Self::Empty => request.header(CONTENT_LENGTH, 0),
            Self::Form(form) => {
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
            }
            Self::Document(media_type, bytes) => {
                request.header(CONTENT_TYPE, media_type).body(bytes.clone())
            }
            Self::Upload(upload) => request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, upload.size)
                .body(upload.body()),
        }
    }

    /// Until when silence is to be taken for work: `stall` after the last byte that was taken, and
    /// after the very last one as long as all of them took.
    pub(crate) fn patience(&self, stall: Duration) -> Option<Instant> {
        match self {
            Self::Upload(upload) => Some(upload.pulse().patience(stall)),
            _ => None,
        }
    }
}

/// A file on its way to a registry.
#[derive(Clone)]
pub(crate) struct Upload {
    pub(crate) file: Arc<File>,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) progress: Arc<dyn Progress>,
    pulse: Arc<Mutex<Pulse>>,
}

/// How an upload is getting on.
#[derive(Clone, Copy)]
struct Pulse {
    began: Instant,
    taken: Instant,
    whole: bool,
}

impl Pulse {
    fn patience(self, stall: Duration) -> Instant {
        let extra = if self.whole { self.taken - self.began } else { Duration::ZERO };
        self.taken + stall.max(extra)
    }
}

impl Upload {
    pub(crate) fn new(file: File, digest: Digest, size: u64, progress: Arc<dyn Progress>) -> Self {
        let now = Instant::now();
        let pulse = Pulse { began: now, taken: now, whole: false };
        Self { file: Arc::new(file), digest, size, progress, pulse: Arc::new(Mutex::new(pulse)) }
    }

    fn pulse(&self) -> Pulse {
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(&self) -> Body {
        let now = Instant::now();
        *self.pulse.lock().unwrap_or_else(PoisonError::into_inner) =
            Pulse { began: now, taken: now, whole: false };
        let upload = self.clone();
        Body::wrap_stream(futures_util::stream::try_unfold(0, move |at| {
            let upload = upload.clone();
            async move {
                upload.note(at);
                if at == upload.size {
                    return Ok(None);
                }
                let reader = upload.clone();
                let chunk = tokio::task::spawn_blocking(move || reader.read(at))
                    .await
                    .context(ErrorKind::Internal, || format!("read {}", upload.digest))??;
                let bytes = chunk.len() as u64;
                upload.progress.event(Event::Advanced { digest: upload.digest, bytes });
                Ok::<_, dist_core::Error>(Some((chunk, at + bytes)))
            }
        }))
    }

    /// Notes that everything before `at` was taken.
    fn note(&self, at: u64) {
        let mut pulse = self.pulse.lock().unwrap_or_else(PoisonError::into_inner);
        pulse.taken = Instant::now();
        pulse.whole = at == self.size;
    }

    fn read(&self, at: u64) -> Result<Bytes> {
        let length = usize::try_from(CHUNK.min(self.size - at)).unwrap_or(0);
        let mut bytes = vec![0; length];
        self.file
            .read_exact_at(&mut bytes, at)
            .context(ErrorKind::Storage, || format!("read {} at byte {at}", self.digest))?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_what_was_sent() {
        let began = Instant::now();
        let taken = began + Duration::from_secs(90);
        let stall = Duration::from_secs(30);
        let pulse = Pulse { began, taken, whole: false };
        assert_eq!(pulse.patience(stall), taken + stall);
        let pulse = Pulse { whole: true, ..pulse };
        assert_eq!(pulse.patience(stall), taken + Duration::from_secs(90));
    }
}
