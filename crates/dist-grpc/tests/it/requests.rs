//! Requests that are no good as HTTP, as gRPC, or in their headers: each is answered, and whoever
//! is at work meanwhile, also over the same connection, is not hurt.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use dist_grpc::api::containerd::services as api;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body::{Body as _, Frame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tower::Service as _;

use api::content::v1::content_client::ContentClient;
use api::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use api::events::v1::events_client::EventsClient;
use api::events::v1::{Envelope, PublishRequest, SubscribeRequest};

use crate::hostile::{noise, paths};
use crate::support::{Served, request};

/// A body in one piece.
struct Whole(Option<Bytes>);

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// What came back.
struct Answer {
    http: StatusCode,
    /// `None` where nothing says how it ended.
    grpc: Option<Status>,
}

async fn send(channel: &mut Channel, request: Request<Body>) -> Result<Answer, String> {
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|error| format!("{error:?}"))?;
    let answer = channel.call(request).await.map_err(|error| format!("{error:?}"))?;
    let (head, mut body) = answer.into_parts();
    let mut grpc = Status::from_header_map(&head.headers);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| format!("{error:?}"))?;
        if let Some(trailers) = frame.trailers_ref() {
            grpc = grpc.or_else(|| Status::from_header_map(trailers));
        }
    }
    Ok(Answer { http: head.status, grpc })
}

/// A message with the prefix that gRPC puts before it, which may lie.
fn prefixed(flag: u8, length: u32, message: &[u8]) -> Bytes {
    [&[flag][..], &length.to_be_bytes(), message].concat().into()
}

/// Bodies of which none is one whole message with a right prefix, but for the first.
fn bodies() -> Vec<Bytes> {
    let mut bodies = vec![
        prefixed(0, 0, b""),
        Bytes::new(),
        Bytes::from_static(b"\0\0\0"),
        prefixed(0, 100, b"\x0a\x01x"),
        prefixed(0, u32::MAX, b"\x0a\x01x"),
        prefixed(0, (16 << 20) + 1, b"\x0a\x01x"),
        prefixed(1, 3, b"\x0a\x01x"),
        prefixed(7, 3, b"\x0a\x01x"),
        // A field that nobody knows, and one whose length is more than there is.
        prefixed(0, 6, b"\xfa\xff\x07\x01x\0"),
        prefixed(0, 4, b"\x0a\xff\xff\x7f"),
        // Groups within groups, which have no end.
        prefixed(0, 64, &[0x0b; 64]),
        [prefixed(0, 3, b"\x0a\x01x"), prefixed(0, 3, b"\x0a\x01x")].concat().into(),
        [prefixed(0, 3, b"\x0a\x01x"), Bytes::from_static(b"\0")].concat().into(),
    ];
    bodies.extend((1..=4).map(|seed| noise(seed * 104_729, 1 << (2 * seed))));
    bodies
}

/// Headers beside those that are right: what replaces them or comes to them.
fn heads() -> Vec<Vec<(&'static str, Vec<u8>)>> {
    let long = vec![b'a'; 4000];
    vec![
        vec![("containerd-namespace", b"default".to_vec())],
        vec![],
        vec![("containerd-namespace", Vec::new())],
        vec![("containerd-namespace", b"\xff\xfe".to_vec())],
        vec![("containerd-namespace", b"a..b".to_vec())],
        vec![("containerd-namespace", long.clone())],
        vec![
            ("containerd-namespace", b"default".to_vec()),
            ("containerd-namespace", b"\xff".to_vec()),
        ],
        vec![
            ("containerd-namespace", b"default".to_vec()),
            ("containerd-lease", b"\xc3(".to_vec()),
        ],
        vec![("containerd-namespace", b"default".to_vec()), ("containerd-lease", long)],
        vec![("containerd-namespace", b"default".to_vec()), ("grpc-timeout", b"soon".to_vec())],
        vec![
            ("containerd-namespace", b"default".to_vec()),
            ("grpc-timeout", b"99999999999999999999H".to_vec()),
        ],
        vec![
            ("containerd-namespace", b"default".to_vec()),
            ("grpc-encoding", b"none-such".to_vec()),
        ],
        vec![("containerd-namespace", b"default".to_vec()), ("grpc-encoding", b"\xff".to_vec())],
        vec![("containerd-namespace", b"default".to_vec()), ("x-bin", b"!!!".to_vec())],
    ]
}

fn request_of(path: &str, head: &[(&'static str, Vec<u8>)], body: Bytes) -> Request<Body> {
    let mut request = Request::post(path);
    let headers: &mut HeaderMap = request.headers_mut().unwrap();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("te", HeaderValue::from_static("trailers"));
    for (name, value) in head {
        headers.append(*name, HeaderValue::from_bytes(value).unwrap());
    }
    request.body(Body::new(Whole(Some(body)))).unwrap()
}

/// A write that goes on.
struct Writing {
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Writing {
    async fn begin(channel: Channel, key: &str) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: key.into(),
            data: Bytes::from_static(b"12345"),
            ..Default::default()
        };
        sender.send(first).await.unwrap();
        let asked = request(ReceiverStream::new(receiver));
        let mut answers = ContentClient::new(channel).write(asked).await.unwrap().into_inner();
        assert_eq!(answers.message().await.unwrap().unwrap().offset, 5);
        Self { sender, answers }
    }

    async fn end(mut self, last: &'static [u8]) {
        let end = WriteContentRequest {
            action: WriteAction::Commit.into(),
            offset: 5,
            data: Bytes::from_static(last),
            ..Default::default()
        };
        self.sender.send(end).await.unwrap();
        let answer = self.answers.message().await.unwrap().unwrap();
        let whole = [b"12345", last].concat();
        assert_eq!(answer.digest, dist_core::Digest::sha256(&whole).to_string());
    }
}

async fn subscribe(channel: Channel) -> Streaming<Envelope> {
    let filters = vec!["topic==\"/still/there\"".into()];
    let mut client = EventsClient::new(channel);
    client.subscribe(SubscribeRequest { filters }).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_sent_is_answered_and_nobody_else_is_hurt() {
    let served = Served::new("native");
    let (mut here, elsewhere) = (served.channel(), served.channel());
    let writing = [
        Writing::begin(here.clone(), "over the same connection").await,
        Writing::begin(elsewhere.clone(), "over another").await,
    ];
    let mut events = [subscribe(here.clone()).await, subscribe(elsewhere.clone()).await];
    let mut backend = served.backend();
    let good = &heads()[0];
    for path in paths() {
        let bodies = bodies();
        let requests = bodies.iter().map(|body| (good, body));
        let heads = heads();
        let requests = requests.chain(heads.iter().map(|head| (head, &bodies[0])));
        for (head, body) in requests {
            for channel in [&mut here, &mut backend] {
                let sent = request_of(&path, head, body.clone());
                let answer = send(channel, sent).await;
                let what = || format!("{path} {head:?} {body:?}");
                let answer = answer.unwrap_or_else(|error| panic!("{}: {error}", what()));
                let status = answer.grpc.unwrap_or_else(|| panic!("{}: no status", what()));
                assert_eq!(answer.http, StatusCode::OK, "{}", what());
                assert_ne!(status.code(), Code::Unknown, "{}: {status:?}", what());
                assert!(!status.message().contains("defect"), "{}: {status:?}", what());
            }
        }
    }
    let event = Some(prost_types::Any::default());
    let message = PublishRequest { topic: "/still/there".into(), event };
    EventsClient::new(elsewhere).publish(request(message)).await.unwrap();
    for events in &mut events {
        assert_eq!(events.message().await.unwrap().unwrap().topic, "/still/there");
    }
    for (writing, last) in writing.into_iter().zip([b"67890", b"other"]) {
        writing.end(last).await;
    }
    drop(events);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_that_is_no_grpc_is_told_so() {
    let served = Served::new("native");
    let mut channel = served.channel();
    let path = "/containerd.services.version.v1.Version/Version";
    for (method, kind, expected) in [
        ("POST", Some("application/grpc"), StatusCode::OK),
        ("POST", Some("application/grpc+proto"), StatusCode::OK),
        ("POST", Some("application/grpc;charset=utf-8"), StatusCode::OK),
        ("POST", None, StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", Some(""), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", Some("text/plain"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", Some("application/json"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("POST", Some("application/grpc-web"), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        ("GET", Some("application/grpc"), StatusCode::METHOD_NOT_ALLOWED),
        ("PUT", Some("application/grpc"), StatusCode::METHOD_NOT_ALLOWED),
        ("none-such", Some("application/grpc"), StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let mut request = request_of(path, &[], prefixed(0, 0, b""));
        *request.method_mut() = method.parse().unwrap();
        match kind {
            Some(kind) => drop(request.headers_mut().insert("content-type", kind.parse().unwrap())),
            None => drop(request.headers_mut().remove("content-type")),
        }
        let answer = send(&mut channel, request).await.unwrap();
        assert_eq!(answer.http, expected, "{method} {kind:?}");
        let code = if expected == StatusCode::OK { Code::Ok } else { Code::InvalidArgument };
        assert_eq!(answer.grpc.unwrap().code(), code, "{method} {kind:?}");
    }
    served.stop().await;
}
