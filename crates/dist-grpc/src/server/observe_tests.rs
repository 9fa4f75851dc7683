use std::convert::Infallible;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body::Frame;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer as _, Service as _, service_fn};

use super::Observe;
use crate::metrics::Metrics;
use crate::server::access::Access;
use crate::server::methods::Methods;

/// A body that panics when it is read.
struct Bomb;

impl http_body::Body for Bomb {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Status>>> {
        panic!("in the answer")
    }
}

/// Asks a service that goes wrong, as a user who may or may not ask.
async fn ask(
    users: &[u32],
    respond: fn() -> Response<Body>,
    cut: CancellationToken,
) -> Response<Body> {
    let (stream, _other) = UnixStream::pair().unwrap();
    let peer = Access::new(users.iter().copied(), []).judge(stream.peer_cred().ok());
    let metrics = Metrics::new("1");
    let observe = Observe::new(Methods::new(&[]), metrics, cut);
    let mut service = observe
        .layer(service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(respond()) }));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/grpc.health.v1.Health/Check".parse().unwrap();
    *request.method_mut() = Method::POST;
    request.headers_mut().insert(CONTENT_TYPE, "application/grpc".parse().unwrap());
    request.extensions_mut().insert(peer);
    service.call(request).await.unwrap()
}

async fn trailers(response: Response<Body>) -> Status {
    let mut body = Box::pin(response.into_body());
    let frame = std::future::poll_fn(|cx| http_body::Body::poll_frame(body.as_mut(), cx)).await;
    let trailers = frame.unwrap().unwrap().into_trailers().unwrap();
    Status::from_header_map(&trailers).unwrap()
}

fn me() -> [u32; 1] {
    [rustix::process::geteuid().as_raw()]
}

#[tokio::test]
async fn a_panic_is_an_answer() {
    let response = ask(&me(), || panic!("in the method"), CancellationToken::new()).await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::Internal);
    assert!(!status.message().contains("in the method"), "{status:?}");
}

#[tokio::test]
async fn a_panic_in_a_stream_is_its_end() {
    let respond = || Response::new(Body::new(Bomb));
    let response = ask(&me(), respond, CancellationToken::new()).await;
    assert_eq!(trailers(response).await.code(), Code::Internal);
}

#[tokio::test]
async fn what_goes_on_after_the_end_is_cut() {
    let cut = CancellationToken::new();
    let response = ask(&me(), || Response::new(Body::new(Bomb)), cut.clone()).await;
    cut.cancel();
    assert_eq!(trailers(response).await.code(), Code::Unavailable);
}
