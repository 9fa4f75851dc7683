//! `content.v1` as clients use it.

mod writes;

use std::collections::HashMap;

use dist_core::{Digest, Labels, Resource};
use dist_grpc::LEASE_HEADER;
use dist_grpc::api::containerd::services::content::v1::content_client::ContentClient;
use dist_grpc::api::containerd::services::content::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
    ReadContentRequest, Status as Ingest, StatusRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::snapshots::fails;
use crate::support::{Served, request_in};

type Answer = Result<WriteContentResponse, Status>;

const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// The content of one namespace; none for the backend socket.
#[derive(Clone)]
struct Client {
    api: ContentClient<Channel>,
    namespace: Option<&'static str>,
    lease: Option<String>,
}

impl Client {
    fn new(served: &Served, namespace: &'static str) -> Self {
        Self { api: ContentClient::new(served.channel()), namespace: Some(namespace), lease: None }
    }

    fn raw(served: &Served) -> Self {
        Self { api: ContentClient::new(served.backend()), namespace: None, lease: None }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = match self.namespace {
            Some(namespace) => request_in(namespace, message),
            None => Request::new(message),
        };
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert(LEASE_HEADER, lease.parse().unwrap());
        }
        request
    }

    /// Begins a stream with its first message.
    async fn begin(
        &self,
        first: WriteContentRequest,
    ) -> Result<(Stream, WriteContentResponse), Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send(first).unwrap();
        let request = self.request(UnboundedReceiverStream::new(receiver));
        let answers = self.api.clone().write(request).await?.into_inner();
        let mut stream = Stream { sender, answers };
        let answer = stream.answer().await?;
        Ok((stream, answer))
    }

    /// Opens an ingest, as clients begin.
    async fn open(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<(Stream, WriteContentResponse), Status> {
        self.begin(WriteContentRequest { expected: expected.into(), ..stat(key) }).await
    }

    /// Writes a blob with one message.
    async fn put(&self, data: &[u8], labels: &[(&str, &str)]) -> String {
        let message = WriteContentRequest {
            action: WriteAction::Commit.into(),
            data: data.to_vec().into(),
            labels: map(labels),
            ..stat("put")
        };
        self.begin(message).await.unwrap().1.digest
    }

    async fn info(&self, digest: &str) -> Result<Info, Status> {
        let message = InfoRequest { digest: digest.into() };
        Ok(self.api.clone().info(self.request(message)).await?.into_inner().info.unwrap())
    }

    async fn update(
        &self,
        digest: &str,
        labels: &[(&str, &str)],
        paths: &[&str],
    ) -> Result<Info, Status> {
        let info = Info { digest: digest.into(), labels: map(labels), ..Info::default() };
        let mask = FieldMask { paths: paths.iter().map(|path| (*path).into()).collect() };
        let update_mask = (!paths.is_empty()).then_some(mask);
        let message = self.request(UpdateRequest { info: Some(info), update_mask });
        Ok(self.api.clone().update(message).await?.into_inner().info.unwrap())
    }

    /// What is read, and how long each of the parts was.
    async fn read(
        &self,
        digest: &str,
        offset: i64,
        size: i64,
    ) -> Result<(Vec<u8>, Vec<usize>), Status> {
        let message = ReadContentRequest { digest: digest.into(), offset, size };
        let mut parts = self.api.clone().read(self.request(message)).await?.into_inner();
        let (mut bytes, mut lengths) = (Vec::new(), Vec::new());
        while let Some(part) = parts.message().await? {
            assert_eq!(part.offset, offset.max(0) + i64::try_from(bytes.len()).unwrap());
            lengths.push(part.data.len());
            bytes.extend_from_slice(&part.data);
        }
        Ok((bytes, lengths))
    }

    /// The digests of a listing, and how many of them each of its messages had.
    async fn list(&self, filters: &[&str]) -> Result<(Vec<String>, Vec<usize>), Status> {
        let filters = filters.iter().map(|filter| (*filter).into()).collect();
        let message = self.request(ListContentRequest { filters });
        let mut stream = self.api.clone().list(message).await?.into_inner();
        let (mut digests, mut blocks) = (Vec::new(), Vec::new());
        while let Some(block) = stream.message().await? {
            blocks.push(block.info.len());
            digests.extend(block.info.into_iter().map(|info| info.digest));
        }
        Ok((digests, blocks))
    }

    async fn delete(&self, digest: &str) -> Result<Response<()>, Status> {
        let message = DeleteContentRequest { digest: digest.into() };
        self.api.clone().delete(self.request(message)).await
    }

    async fn status(&self, key: &str) -> Result<Ingest, Status> {
        let message = StatusRequest { r#ref: key.into() };
        Ok(self.api.clone().status(self.request(message)).await?.into_inner().status.unwrap())
    }

    async fn statuses(&self, filters: &[&str]) -> Result<Vec<String>, Status> {
        let filters = filters.iter().map(|filter| (*filter).into()).collect();
        let message = self.request(ListStatusesRequest { filters });
        let found = self.api.clone().list_statuses(message).await?.into_inner().statuses;
        Ok(found.into_iter().map(|status| status.r#ref).collect())
    }

    async fn abort(&self, key: &str) -> Result<Response<()>, Status> {
        let message = AbortRequest { r#ref: key.into() };
        self.api.clone().abort(self.request(message)).await
    }
}

/// A stream that writes. Dropped, it is reset as by a client that dies.
struct Stream {
    sender: mpsc::UnboundedSender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
}

impl Stream {
    async fn answer(&mut self) -> Answer {
        Ok(self.answers.message().await?.expect("an answer"))
    }

    async fn say(&mut self, message: WriteContentRequest) -> Answer {
        self.sender.send(message).unwrap();
        self.answer().await
    }

    async fn write(&mut self, offset: i64, data: &[u8]) -> Answer {
        let action = WriteAction::Write.into();
        let data = data.to_vec().into();
        self.say(WriteContentRequest { action, offset, data, ..WriteContentRequest::default() })
            .await
    }

    async fn commit(&mut self, offset: i64, total: i64, expected: &str) -> Answer {
        self.say(commit(offset, total, expected)).await
    }

    /// Closes as Go's clients do: nothing is sent any more, and nobody waits for the end.
    fn close(self) -> Streaming<WriteContentResponse> {
        self.answers
    }
}

fn stat(key: &str) -> WriteContentRequest {
    WriteContentRequest { r#ref: key.into(), ..WriteContentRequest::default() }
}

fn commit(offset: i64, total: i64, expected: &str) -> WriteContentRequest {
    WriteContentRequest {
        action: WriteAction::Commit.into(),
        offset,
        total,
        expected: expected.into(),
        ..WriteContentRequest::default()
    }
}

fn map(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Digest::sha256(bytes).to_string()
}

fn nanoseconds(time: Option<prost_types::Timestamp>) -> i128 {
    let time = time.unwrap();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

fn now() -> i128 {
    nanoseconds(Some(std::time::SystemTime::now().into()))
}

#[tokio::test]
async fn reads_come_in_parts_of_a_quarter_of_a_mebibyte() {
    const MIB: usize = 1 << 20;
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let bytes: Vec<u8> = (0..5 * MIB / 2 + 5).map(|n| (n % 251) as u8).collect();
    let digest = client.put(&bytes, &[]).await;
    let (whole, parts) = client.read(&digest, 0, 0).await.unwrap();
    assert!(whole == bytes);
    assert_eq!(parts, [vec![MIB / 4; 10], vec![5]].concat());
    let length = i64::try_from(bytes.len()).unwrap();
    for (offset, size, expected) in [
        (1, 5, 1..6),
        (1, 2 << 20, 1..(2 << 20) + 1),
        (length - 5, 5, bytes.len() - 5..bytes.len()),
        (length - 5, 500, bytes.len() - 5..bytes.len()),
        (length - 5, -1, bytes.len() - 5..bytes.len()),
        (length, 1, 0..0),
        (-5, 3, 0..3),
    ] {
        let (got, _) = client.read(&digest, offset, size).await.unwrap();
        assert!(got == bytes[expected], "{offset} {size}");
    }
    let message = fails(client.read(&digest, length + 1, 1).await, Code::OutOfRange);
    assert!(message.contains(&length.to_string()), "{message}");
    fails(client.read(&sha256(b"none"), 0, 0).await, Code::NotFound);
    fails(client.read("sha256:none", 0, 0).await, Code::InvalidArgument);
    fails(client.info("sha256:none").await, Code::InvalidArgument);
    fails(client.delete("").await.map(Response::into_inner), Code::InvalidArgument);
    fails(client.delete(&sha256(b"none")).await.map(Response::into_inner), Code::NotFound);
}

#[tokio::test]
async fn lists_are_filtered_and_come_in_blocks_of_a_hundred() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let mut digests = Vec::new();
    for n in 0..101_u32 {
        let label = if n % 2 == 0 { "even" } else { "odd" };
        digests.push(client.put(&n.to_be_bytes(), &[("a.b/c", label)]).await);
    }
    let first = digests[0].clone();
    digests.sort();
    let (listed, blocks) = client.list(&[]).await.unwrap();
    assert_eq!((&listed, &blocks[..]), (&digests, &[100, 1][..]));
    assert_eq!(client.list(&[""]).await.unwrap().0, digests);
    let (even, blocks) = client.list(&["labels.\"a.b/c\"==even"]).await.unwrap();
    assert_eq!((even.len(), &blocks[..]), (51, &[51][..]));
    assert_eq!(client.list(&[&format!("digest=={first}")]).await.unwrap().0, [first]);
    assert!(client.list(&["labels.x"]).await.unwrap().1.is_empty());
    fails(client.list(&["labels.\"x"]).await, Code::InvalidArgument);
    assert!(Client::new(&served, "b").list(&[]).await.unwrap().0.is_empty());

    for key in ["one", "two"] {
        drop(client.open(key, "").await.unwrap().0.close());
    }
    assert_eq!(client.statuses(&[""]).await.unwrap(), ["one", "two"]);
    assert_eq!(client.statuses(&["ref==two"]).await.unwrap(), ["two"]);
    fails(client.statuses(&["ref=="]).await, Code::InvalidArgument);
    assert!(Client::new(&served, "b").statuses(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn labels_are_replaced_or_changed_one_by_one() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let digest = client.put(b"hello", &[("a", "1"), ("b", "2")]).await;
    let created = client.info(&digest).await.unwrap();
    let before = now();
    // Without a mask all are replaced.
    let updated = client.update(&digest, &[("b", "3"), ("c.d/e", "4")], &[]).await.unwrap();
    assert_eq!(updated.labels, map(&[("b", "3"), ("c.d/e", "4")]));
    assert_eq!(updated.created_at, created.created_at);
    assert!((before..=now()).contains(&nanoseconds(updated.updated_at)));
    assert_eq!(client.info(&digest).await.unwrap(), updated);
    // With one, what it names.
    let paths = ["labels.b", "labels.c.d/e", "labels.f"];
    let labels = [("b", "5"), ("f", "6"), ("g", "7")];
    let updated = client.update(&digest, &labels, &paths).await.unwrap();
    assert_eq!(updated.labels, map(&[("b", "5"), ("f", "6")]));
    let labels = client.info(&digest).await.unwrap().labels;
    assert_eq!(labels, map(&[("b", "5"), ("f", "6")]));
    let updated = client.update(&digest, &[("h", "8")], &["labels"]).await.unwrap();
    assert_eq!(updated.labels, map(&[("h", "8")]));

    let long = "v".repeat(4096);
    for (digest, labels, paths, code) in [
        (&digest, ("k", "v"), &["size"][..], Code::InvalidArgument),
        (&digest, ("k", &*long), &[], Code::InvalidArgument),
        (&sha256(b"none"), ("k", "v"), &[], Code::NotFound),
        (&"none".to_owned(), ("k", "v"), &[], Code::InvalidArgument),
    ] {
        fails(client.update(digest, &[labels], paths).await, code);
    }
    let nothing = client.request(UpdateRequest::default());
    fails(client.api.clone().update(nothing).await.map(|_| ()), Code::InvalidArgument);
    assert_eq!(client.info(&digest).await.unwrap(), updated);
}

#[tokio::test]
async fn leases_hold_what_is_written_and_what_is_there() {
    let served = Served::new("native");
    let namespace = "a".parse().unwrap();
    let leases = served.engine.store().leases(&namespace);
    let lease = leases.create(None, &Labels::new()).unwrap().id;
    let client = Client { lease: Some(lease.to_string()), ..Client::new(&served, "a") };
    let (mut stream, _) = client.open("k", "").await.unwrap();
    stream.write(0, b"hello").await.unwrap();
    assert_eq!(leases.resources(&lease).unwrap(), [Resource::Ingest("k".parse().unwrap())]);
    let digest = stream.commit(5, 0, "").await.unwrap().digest;
    let held = [Resource::Content(digest.parse().unwrap())];
    assert_eq!(leases.resources(&lease).unwrap(), held);
    leases.remove(&lease, &held[0]).unwrap();
    fails(client.open("k", &digest).await.map(|_| ()), Code::AlreadyExists);
    assert_eq!(leases.resources(&lease).unwrap(), held);
    let other = Client { lease: Some("none".into()), ..client };
    let message = fails(other.open("k", "").await.map(|_| ()), Code::NotFound);
    assert!(message.contains("lease \"none\" does not exist"), "{message}");
}

#[tokio::test]
async fn messages_may_have_sixteen_mebibytes() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let bytes = vec![7; (16 << 20) - 200];
    let digest = client.put(&bytes, &[]).await;
    assert_eq!(client.info(&digest).await.unwrap().size, (16 << 20) - 200);
}

#[tokio::test]
async fn the_backend_has_content_of_its_own() {
    let served = Served::new("native");
    let (raw, client) = (Client::raw(&served), Client::new(&served, "a"));
    let digest = raw.put(b"hello", &[]).await;
    assert_eq!(raw.list(&[]).await.unwrap().0, std::slice::from_ref(&digest));
    assert!(client.list(&[]).await.unwrap().0.is_empty());
    let (mut stream, _) = raw.open("default/1/layer-sha256:abc", "").await.unwrap();
    stream.write(0, b"he").await.unwrap();
    drop(stream.close().message().await);
    assert_eq!(raw.statuses(&[]).await.unwrap(), ["default/1/layer-sha256:abc"]);
    assert!(client.statuses(&[]).await.unwrap().is_empty());
    raw.abort("default/1/layer-sha256:abc").await.unwrap();
    raw.delete(&digest).await.unwrap();
    assert!(raw.list(&[]).await.unwrap().0.is_empty());
}
