//! `streaming.v1`: streams that are opened and named.

use std::collections::HashMap;

use dist_grpc::LEASE_HEADER;
use dist_grpc::api::containerd::services::leases::v1::leases_client::LeasesClient;
use dist_grpc::api::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use dist_grpc::api::containerd::services::streaming::v1::StreamInit;
use dist_grpc::api::containerd::services::streaming::v1::streaming_client::StreamingClient;
use prost::Name;
use prost_types::Any;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::support::{Served, refused, request_in};

/// A stream that a client has opened.
pub(crate) struct Opened {
    pub(crate) to: mpsc::Sender<Any>,
    pub(crate) from: Streaming<Any>,
}

impl Opened {
    /// Opens the stream `id` in the namespace `default`.
    pub(crate) async fn new(served: &Served, id: &str) -> Self {
        open(served, "default", &pack(&StreamInit { id: id.into() })).await.unwrap()
    }

    pub(crate) async fn send<M: Name>(&self, message: &M) {
        self.to.send(pack(message)).await.unwrap();
    }
}

pub(crate) fn pack<M: Name>(message: &M) -> Any {
    Any { type_url: M::full_name(), value: message.encode_to_vec() }
}

async fn open(served: &Served, namespace: &str, first: &Any) -> Result<Opened, Status> {
    let (to, messages) = mpsc::channel(4);
    to.send(first.clone()).await.unwrap();
    let mut client = StreamingClient::new(served.channel());
    let request = request_in(namespace, ReceiverStream::new(messages));
    let mut from = client.stream(request).await?.into_inner();
    let answer = from.message().await?.unwrap();
    assert_eq!((answer.type_url.as_str(), answer.value.len()), ("google.protobuf.Empty", 0));
    Ok(Opened { to, from })
}

#[tokio::test]
async fn a_stream_has_its_name_until_its_client_is_gone() {
    let served = Served::collecting("overlayfs");
    let first = pack(&StreamInit { id: "one".into() });
    let mut opened = open(&served, "default", &first).await.unwrap();
    let again = open(&served, "default", &first).await;
    assert_eq!(again.err().unwrap().code(), Code::AlreadyExists);
    // Names are those of a namespace.
    let other = open(&served, "other", &first).await.unwrap();
    drop(other);
    // Nothing ends it but its client.
    drop(opened.to);
    let waited = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(waited, opened.from.message()).await.is_err());
    drop(opened.from);
    while let Err(status) = open(&served, "default", &first).await {
        assert_eq!(status.code(), Code::AlreadyExists);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_lease() {
    let served = Served::collecting("overlayfs");
    let mut leases = LeasesClient::new(served.channel());
    let (id, labels) = ("mine".to_owned(), HashMap::new());
    leases.create(request_in("default", CreateRequest { id, labels })).await.unwrap();
    let (to, messages) = mpsc::channel(4);
    to.send(pack(&StreamInit { id: "leased".into() })).await.unwrap();
    let mut request = request_in("default", ReceiverStream::new(messages));
    request.metadata_mut().insert(LEASE_HEADER, "mine".parse().unwrap());
    let mut client = StreamingClient::new(served.channel());
    let mut leased = client.stream(request).await.unwrap().into_inner();
    leased.message().await.unwrap().unwrap();
    let mut other = Opened::new(&served, "other").await;
    let delete = DeleteRequest { id: "mine".to_owned(), sync: false };
    leases.delete(request_in("default", delete)).await.unwrap();
    assert_eq!(leased.message().await.unwrap(), None);
    drop(other.to);
    let waited = std::time::Duration::from_millis(50);
    assert!(tokio::time::timeout(waited, other.from.message()).await.is_err());
}

#[tokio::test]
async fn a_stream_begins_with_its_name() {
    let served = Served::collecting("overlayfs");
    for first in [
        pack(&StreamInit { id: String::new() }),
        pack(&StreamInit { id: "x".repeat(5000) }),
        Any { type_url: "containerd.types.Mount".into(), value: Vec::new() },
        Any { type_url: StreamInit::full_name(), value: vec![0xff] },
    ] {
        let refused = open(&served, "default", &first).await.err().unwrap();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused:?}");
    }
    let mut client = StreamingClient::new(served.channel());
    let nothing = client.stream(request_in("default", tokio_stream::empty())).await;
    refused(nothing.map(|answer| answer.map(drop)), Code::InvalidArgument);
    let first = pack(&StreamInit { id: "one".into() });
    let no_namespace = client.stream(Request::new(tokio_stream::once(first))).await;
    refused(no_namespace.map(|answer| answer.map(drop)), Code::FailedPrecondition);
}
