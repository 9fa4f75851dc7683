//! Clients for one server, and requests with headers.

use std::path::Path;

use dist_grpc::api::containerd::services as api;
use dist_grpc::{LEASE_HEADER, NAMESPACE_HEADER};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use api::content::v1::content_client::ContentClient;
use api::content::v1::{WriteAction, WriteContentRequest, WriteContentResponse};
use api::leases::v1::CreateRequest;
use api::leases::v1::leases_client::LeasesClient;

/// A connection to a server.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) channel: Channel,
    /// Whether it is containerd 1.6.20, which some calls end as a process.
    pub(crate) fragile: bool,
}

impl Server {
    pub(crate) async fn connect(socket: &Path, fragile: bool) -> Self {
        let address = format!("unix://{}", socket.display());
        let endpoint = Endpoint::try_from(address).expect("a socket's address");
        Self { channel: endpoint.connect().await.expect("connect"), fragile }
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    /// Makes a lease.
    pub(crate) async fn lease(&self, namespace: &str, id: &str, labels: &[(&str, &str)]) {
        let labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let message = CreateRequest { id: id.to_owned(), labels };
        let mut client = LeasesClient::new(self.channel.clone());
        client.create(request(namespace, "", message)).await.expect("create a lease");
    }

    /// Begins a write in a namespace, under a lease where one is given.
    pub(crate) fn writer(&self, namespace: &str, lease: &str) -> Writer {
        let (sender, receiver) = mpsc::channel(4);
        Writer {
            client: self.content(),
            request: Some(request(namespace, lease, ReceiverStream::new(receiver))),
            sender,
            answers: None,
        }
    }

    /// Writes and commits a blob, and gives its digest.
    pub(crate) async fn blob(&self, namespace: &str, lease: &str, data: &[u8]) -> String {
        let digest = dist_core::Digest::sha256(data).to_string();
        let mut writer = self.writer(namespace, lease);
        let answer = writer.say(commit(&format!("blob-{digest}"), data)).await;
        answer.expect("write a blob");
        digest
    }
}

/// A request with a namespace, where it is not empty, and a lease, where it is not empty.
pub(crate) fn request<T>(namespace: &str, lease: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    for (header, value) in [(NAMESPACE_HEADER, namespace), (LEASE_HEADER, lease)] {
        if !value.is_empty() {
            let value = value.parse().expect("a header's value");
            request.metadata_mut().insert(header, value);
        }
    }
    request
}

/// One write, message by message.
pub(crate) struct Writer {
    client: ContentClient<Channel>,
    request: Option<Request<ReceiverStream<WriteContentRequest>>>,
    sender: mpsc::Sender<WriteContentRequest>,
    answers: Option<Streaming<WriteContentResponse>>,
}

impl Writer {
    /// Sends a message and waits for what comes back; an end without an answer is `Cancelled`.
    pub(crate) async fn say(
        &mut self,
        message: WriteContentRequest,
    ) -> Result<WriteContentResponse, Status> {
        let ended = || Status::cancelled("the stream has ended");
        // A stream that the server has ended takes no message, but may have answers to be read.
        let _ = self.sender.send(message).await;
        if let Some(request) = self.request.take() {
            self.answers = Some(self.client.write(request).await?.into_inner());
        }
        let answers = self.answers.as_mut().ok_or_else(ended)?;
        answers.message().await?.ok_or_else(ended)
    }

    /// Ends the write and waits until the server has, too.
    pub(crate) async fn close(self) {
        let Self { sender, answers, .. } = self;
        drop(sender);
        if let Some(mut answers) = answers {
            while let Ok(Some(_)) = answers.message().await {}
        }
    }
}

/// A question for the state of a write.
pub(crate) fn stat(reference: &str) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Stat.into(),
        r#ref: reference.to_owned(),
        ..Default::default()
    }
}

/// Bytes at an offset.
pub(crate) fn write(reference: &str, offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Write.into(),
        offset,
        data: data.to_vec().into(),
        ..stat(reference)
    }
}

/// Bytes, and the end.
pub(crate) fn commit(reference: &str, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Commit.into(), ..write(reference, 0, data) }
}
