//! What a request carries: nothing, a form, a document, or content that is read while it is sent.
//!
//! A request may be sent more than once (redirects, tokens that expired, connections that broke),
//! so a payload is something that bodies are made of, each from its first byte.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dist_core::{Error, Event, Progress};
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use reqwest::{Body, RequestBuilder};
use tokio::time::Instant;

use crate::Budget;
use crate::feed::Feed;

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
    /// Content of any size.
    Upload(Upload),
}

impl Payload {
    /// Adds a body to a request.
    pub(crate) fn attach(&self, request: RequestBuilder, budget: &Budget) -> RequestBuilder {
        match self {
            Self::Absent => request,
            Self::Empty => request.header(CONTENT_LENGTH, 0),
            Self::Form(form) => {
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone())
            }
            Self::Document(media_type, bytes) => {
                request.header(CONTENT_TYPE, media_type).body(bytes.clone())
            }
            Self::Upload(upload) => {
                let request = match upload.content_range() {
                    Some(range) => request.header(CONTENT_RANGE, range),
                    None => request,
                };
                request
                    .header(CONTENT_TYPE, "application/octet-stream")
                    .header(CONTENT_LENGTH, upload.range.end - upload.range.start)
                    .body(upload.body(budget))
            }
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

/// Content, or a part of it, on its way to a registry.
#[derive(Clone)]
pub(crate) struct Upload {
    feed: Arc<Feed>,
    range: Range<u64>,
    /// How long a body waits for an answer to the header before its first byte.
    hold: Duration,
    progress: Arc<dyn Progress>,
    pulse: Arc<Mutex<Pulse>>,
}

/// How an upload is getting on.
#[derive(Clone, Copy)]
struct Pulse {
    began: Instant,
    taken: Instant,
    whole: bool,
    /// Whether the next bytes have yet to come from where they are read.
    reading: bool,
}

impl Pulse {
    fn new() -> Self {
        let now = Instant::now();
        Self { began: now, taken: now, whole: false, reading: false }
    }

    fn patience(self, stall: Duration) -> Instant {
        if self.reading {
            return Instant::now() + stall;
        }
        let extra = if self.whole { self.taken - self.began } else { Duration::ZERO };
        self.taken + stall.max(extra)
    }
}

impl Upload {
    pub(crate) fn new(feed: Arc<Feed>, range: Range<u64>, progress: Arc<dyn Progress>) -> Self {
        let pulse = Arc::new(Mutex::new(Pulse::new()));
        Self { feed, range, hold: Duration::ZERO, progress, pulse }
    }

    /// The same, with a body that first waits whether the header is answered already. A server that
    /// refuses the header and closes is not heard by one who is sending.
    pub(crate) fn held(mut self, hold: Duration) -> Self {
        self.hold = hold;
        self
    }

    /// Which part it is, where it is not all (distribution-spec, "Pushing a blob in chunks").
    fn content_range(&self) -> Option<String> {
        let Range { start, end } = self.range;
        let whole = start == 0 && end == self.feed.desc().size;
        (!whole).then(|| format!("{start}-{}", end.saturating_sub(1)))
    }

    fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn body(&self, budget: &Budget) -> Body {
        *self.pulse() = Pulse::new();
        let (upload, budget) = (self.clone(), budget.clone());
        Body::wrap_stream(futures_util::stream::try_unfold(self.range.start, move |at| {
            let (upload, budget) = (upload.clone(), budget.clone());
            async move {
                if at == upload.range.start && !upload.hold.is_zero() {
                    tokio::time::sleep(upload.hold).await;
                }
                upload.note(at, true);
                if at == upload.range.end {
                    return Ok(None);
                }
                let chunk = upload.feed.next(at, upload.range.end).await;
                if let Ok(chunk) = &chunk {
                    budget.take(chunk.len()).await;
                }
                upload.note(at, false);
                let chunk = chunk.map_err(|error| {
                    upload.feed.fail(error);
                    Error::cancelled()
                })?;
                let (digest, bytes) = (upload.feed.desc().digest, chunk.len() as u64);
                upload.progress.event(Event::Advanced { digest, bytes });
                Ok::<_, Error>(Some((chunk, at + bytes)))
            }
        }))
    }

    /// Notes that everything before `at` was taken.
    fn note(&self, at: u64, reading: bool) {
        let whole = at == self.range.end;
        let mut pulse = self.pulse();
        *pulse = Pulse { taken: Instant::now(), whole, reading: reading && !whole, ..*pulse };
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
        let pulse = Pulse { began, taken, whole: false, reading: false };
        assert_eq!(pulse.patience(stall), taken + stall);
        let pulse = Pulse { whole: true, ..pulse };
        assert_eq!(pulse.patience(stall), taken + Duration::from_secs(90));
        let pulse = Pulse { began, taken: began, whole: false, reading: true };
        assert!(pulse.patience(stall) >= began + stall, "the registry does not wait for itself");
    }
}
