//! What surrounds every request: who may ask, a log line, and that a panic ends this request only.

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::access::Peer;
use super::methods::Methods;
use crate::metrics::Metrics;

/// Puts itself around services.
#[derive(Clone)]
pub(super) struct Observe {
    shared: Arc<Shared>,
}

struct Shared {
    methods: Methods,
    metrics: Metrics,
    /// Raised when what still runs has to end.
    cut: CancellationToken,
    last_id: AtomicU64,
}

impl Observe {
    pub(super) fn new(methods: Methods, metrics: Metrics, cut: CancellationToken) -> Self {
        Self { shared: Arc::new(Shared { methods, metrics, cut, last_id: AtomicU64::new(0) }) }
    }
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, shared: self.shared.clone() }
    }
}

/// A service with [`Observe`] around it.
#[derive(Clone)]
pub(super) struct Observed<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Observed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let shared = &self.shared;
        let peer = request.extensions().get::<Peer>().cloned();
        let record = Record {
            id: shared.last_id.fetch_add(1, Ordering::Relaxed) + 1,
            method: shared.methods.name(request.uri().path()),
            peer: peer.as_ref().map_or_else(String::new, Peer::to_string),
            since: Instant::now(),
            metrics: shared.metrics.clone(),
            ended: false,
        };
        shared.metrics.request_begins();
        if !peer.is_some_and(|peer| peer.is_allowed()) {
            let text = format!("{} may not use this daemon: permission denied", record.peer);
            return answer(record, &Status::permission_denied(text));
        }
        if let Some((code, status)) = no_grpc(&request) {
            return answer_with(record, &status, code);
        }
        if let Err(status) = shared.methods.check(request.uri().path()) {
            return answer(record, &status);
        }
        let span = tracing::info_span!(
            "request",
            id = record.id,
            method = &*record.method,
            peer = record.peer
        );
        let received = shared.metrics.received(&record.method);
        let request = request.map(|body| Body::new(Counted { body, received }));
        let sent = shared.metrics.sent(&record.method);
        let (work, cut) = (self.inner.call(request), shared.cut.clone());
        let work = async move {
            let mut record = record;
            let response = tokio::select! {
                biased;
                result = AssertUnwindSafe(work).catch_unwind() => match result {
                    Ok(Ok(response)) => response,
                    Err(panic) => status_response(&panicked(&*panic)),
                },
                () = cut.cancelled() => status_response(&stopping()),
            };
            if let Some(status) = Status::from_header_map(response.headers()) {
                record.end(&status);
                return Ok(response);
            }
            let cut = Box::pin(cut.cancelled_owned());
            Ok(response.map(|body| Body::new(Watched { body, record, sent, cut: Some(cut) })))
        };
        work.instrument(span).boxed()
    }
}

fn answer(
    record: Record,
    status: &Status,
) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    answer_with(record, status, StatusCode::OK)
}

fn answer_with(
    mut record: Record,
    status: &Status,
    code: StatusCode,
) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
    record.end(status);
    let mut response = status_response(status);
    *response.status_mut() = code;
    std::future::ready(Ok(response)).boxed()
}

/// What is said to HTTP that is no gRPC, in the terms of both.
fn no_grpc(request: &Request<Body>) -> Option<(StatusCode, Status)> {
    let method = request.method();
    if method != Method::POST {
        let text = format!("gRPC is sent by POST, not by {method}: invalid argument");
        return Some((StatusCode::METHOD_NOT_ALLOWED, Status::invalid_argument(text)));
    }
    let kind = request.headers().get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let rest = kind.strip_prefix(b"application/grpc").map(<[u8]>::first);
    if matches!(rest, Some(None | Some(b'+' | b';'))) {
        return None;
    }
    let kind = String::from_utf8_lossy(kind);
    let text = format!("read content of type {kind:?}: it is no gRPC: invalid argument");
    Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, Status::invalid_argument(text)))
}

fn status_response(status: &Status) -> Response<Body> {
    status.clone().into_http()
}

fn stopping() -> Status {
    Status::unavailable("the daemon is stopping: unavailable")
}

fn panicked(panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("no text"), "a request panicked");
    Status::internal("the request met a defect of the daemon: internal")
}

/// The name of a code, as gRPC's documents have it.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// One request, for the log and the metrics.
struct Record {
    id: u64,
    method: Arc<str>,
    peer: String,
    since: Instant,
    metrics: Metrics,
    ended: bool,
}

impl Record {
    fn end(&mut self, status: &Status) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let (id, method, peer) = (self.id, &*self.method, &*self.peer);
        let took = self.since.elapsed();
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let code = name(status.code());
        self.metrics.request_ends(&self.method, code, took);
        let text = status.message();
        // Not in the request's span, which would say the same once more.
        match status.code() {
            Code::Ok => tracing::debug!(parent: None, id, method, code, ms, peer, "answered"),
            // What a runtime could not do is `Unknown`: no defect of ours.
            Code::Internal | Code::DataLoss | Code::ResourceExhausted => {
                tracing::error!(parent: None, id, method, code, ms, peer, text, "failed");
            }
            Code::PermissionDenied => {
                tracing::warn!(parent: None, id, method, code, ms, peer, text, "refused");
            }
            _ => tracing::debug!(parent: None, id, method, code, ms, peer, text, "answered"),
        }
    }
}

impl Drop for Record {
    /// A request that is dropped before its end was given up by its client.
    fn drop(&mut self) {
        self.end(&Status::cancelled("the client is gone"));
    }
}

/// A body whose end is told, and which ends with a status whatever happens in it.
struct Watched {
    body: Body,
    record: Record,
    sent: Counter,
    /// Taken when the body has ended.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Watched {
    fn end_with(&mut self, status: &Status) -> Frame<Bytes> {
        self.cut = None;
        self.record.end(status);
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (Code::Internal as i32).into());
        }
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(cut) = &mut this.cut else { return Poll::Ready(None) };
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Ok(this.end_with(&stopping()))));
        }
        let body = Pin::new(&mut this.body);
        match catch_unwind(AssertUnwindSafe(|| body.poll_frame(cx))) {
            Err(panic) => Poll::Ready(Some(Ok(this.end_with(&panicked(&*panic))))),
            Ok(poll) => {
                let frame = ready!(poll);
                match &frame {
                    Some(Ok(frame)) => {
                        this.sent.inc_by(length(frame));
                        if let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
                        {
                            this.cut = None;
                            this.record.end(&status);
                        }
                    }
                    Some(Err(status)) => this.record.end(status),
                    None => {
                        this.cut = None;
                        this.record.end(&Status::ok(""));
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The bytes of data in a frame.
fn length(frame: &Frame<Bytes>) -> u64 {
    frame.data_ref().map_or(0, |data| data.len() as u64)
}

/// The body of a request, counted.
struct Counted {
    body: Body,
    received: Counter,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            self.received.inc_by(length(frame));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
