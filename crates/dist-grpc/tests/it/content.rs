//! `content.v1` as clients use it.

use std::collections::HashMap;
use std::time::Duration;

use dist_core::{Digest, Labels, Resource};
use dist_grpc::LEASE_HEADER;
use dist_grpc::api::containerd::events::{ContentCreate, ContentDelete};
use dist_grpc::api::containerd::services::content::v1::content_client::ContentClient;
use dist_grpc::api::containerd::services::content::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
    ReadContentRequest, Status as Ingest, StatusRequest, UpdateRequest, WriteAction,
    WriteContentRequest, WriteContentResponse,
};
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use prost::{Message as _, Name as _};
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
async fn a_blob_is_written_step_by_step() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let mut events = EventsClient::new(served.channel())
        .subscribe(SubscribeRequest::default())
        .await
        .unwrap()
        .into_inner();
    let before = now();
    let first = WriteContentRequest { total: 11, expected: sha256(b"hello world"), ..stat("k") };
    let (mut stream, answer) = client.begin(first).await.unwrap();
    let opened = now();
    assert_eq!((answer.action(), answer.offset, answer.total), (WriteAction::Stat, 0, 11));
    assert_eq!(answer.digest, EMPTY);
    for time in [answer.started_at, answer.updated_at] {
        assert!((before..=opened).contains(&nanoseconds(time)));
    }
    let started_at = answer.started_at;

    let answer = stream.write(0, b"hello ").await.unwrap();
    assert_eq!((answer.action(), answer.offset, answer.total), (WriteAction::Write, 6, 11));
    assert_eq!((answer.digest, answer.started_at), (sha256(b"hello "), started_at));
    assert!((opened..=now()).contains(&nanoseconds(answer.updated_at)));
    let status = client.status("k").await.unwrap();
    assert_eq!((status.offset, status.total, &status.expected), (6, 11, &sha256(b"hello world")));
    assert_eq!((status.started_at, status.updated_at), (started_at, answer.updated_at));

    // A stream that is closed and one that follows at once: the second finds what the first left.
    let mut rest = stream.close();
    let again = client.open("k", "").await.unwrap();
    assert_eq!((again.1.offset, &again.1.digest), (6, &sha256(b"hello ")));
    assert_eq!((again.1.started_at, again.1.updated_at), (started_at, answer.updated_at));
    assert_eq!(rest.message().await.unwrap().unwrap().offset, 6); // the last answer once more
    assert!(rest.message().await.unwrap().is_none());

    let mut stream = again.0;
    stream.write(6, b"world").await.unwrap();
    let before = now();
    let labels = HashMap::from([("x".to_owned(), "1".to_owned())]);
    let message = WriteContentRequest { labels: labels.clone(), ..commit(11, 11, "") };
    let answer = stream.say(message).await.unwrap();
    assert_eq!((answer.action(), answer.offset), (WriteAction::Commit, 11));
    assert_eq!(answer.digest, sha256(b"hello world"));
    assert_eq!(stream.answer().await.unwrap(), answer);
    assert!(stream.answers.message().await.unwrap().is_none());
    let info = client.info(&answer.digest).await.unwrap();
    assert_eq!((info.size, info.labels), (11, labels));
    assert!((before..=now()).contains(&nanoseconds(info.created_at)));
    assert_eq!(info.created_at, info.updated_at);
    assert_eq!(client.read(&answer.digest, 0, 0).await.unwrap().0, b"hello world");
    fails(client.status("k").await, Code::NotFound);

    client.delete(&answer.digest).await.unwrap();
    fails(client.info(&answer.digest).await, Code::NotFound);
    let mut event = async || {
        let envelope = events.message().await.unwrap().unwrap();
        assert_eq!(envelope.namespace, "a");
        (envelope.topic, envelope.event.unwrap())
    };
    let (topic, any) = event().await;
    assert_eq!((topic.as_str(), any.type_url), ("/content/create", ContentCreate::full_name()));
    let expected = ContentCreate { digest: answer.digest.clone(), size: 11 };
    assert_eq!(ContentCreate::decode(&*any.value).unwrap(), expected);
    let (topic, any) = event().await;
    assert_eq!((topic.as_str(), any.type_url), ("/content/delete", ContentDelete::full_name()));
    let expected = ContentDelete { digest: answer.digest };
    assert_eq!(ContentDelete::decode(&*any.value).unwrap(), expected);
}

#[tokio::test]
async fn each_way_a_stream_can_begin() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    fails(client.open("", "").await.map(|_| ()), Code::InvalidArgument);
    fails(client.open(&"k".repeat(4097), "").await.map(|_| ()), Code::InvalidArgument);
    // One message does it all.
    let digest = client.put(b"hello", &[]).await;
    assert_eq!(digest, sha256(b"hello"));
    let write = WriteContentRequest {
        action: WriteAction::Write.into(),
        data: b"he".to_vec().into(),
        ..stat("k")
    };
    assert_eq!(client.begin(write).await.unwrap().1.offset, 2);
    // A digest that is none is only refused at the end.
    let (mut stream, _) = client.open("malformed", "sha256:no").await.unwrap();
    stream.write(0, b"x").await.unwrap();
    fails(stream.commit(1, 0, "").await, Code::FailedPrecondition);
    assert_eq!(client.open("malformed", "").await.unwrap().1.offset, 1);
    // What is there is not opened.
    fails(client.open("other", &digest).await.map(|_| ()), Code::AlreadyExists);
    fails(client.status("other").await, Code::NotFound);
    // Nothing is opened without a namespace, or by a message that is none.
    let nowhere = Client { namespace: None, ..client.clone() };
    fails(nowhere.open("k", "").await.map(|_| ()), Code::FailedPrecondition);
    let unknown = WriteContentRequest { action: 7, ..stat("unknown") };
    fails(client.begin(unknown).await.map(|_| ()), Code::InvalidArgument);
    client.open("unknown", "").await.unwrap();
    // A stream without any message.
    let (sender, receiver) = mpsc::unbounded_channel();
    drop(sender);
    let request = client.request(UnboundedReceiverStream::new(receiver));
    let mut answers = client.api.clone().write(request).await.unwrap().into_inner();
    fails(answers.message().await, Code::InvalidArgument);
}

#[tokio::test]
async fn offsets_say_where_a_write_belongs() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    for (wrong, at) in [(3, 0), (4, 5), (6, 5), (-1, 5)] {
        let (mut stream, answer) = client.open("k", "").await.unwrap();
        assert_eq!(answer.offset, at);
        let message = fails(stream.write(wrong, b"x").await, Code::OutOfRange);
        assert!(message.contains(&format!("current offset {at}")), "{message}");
        // The stream is over, what was written stays.
        let (mut stream, answer) = client.open("k", "").await.unwrap();
        assert_eq!(answer.offset, at);
        if at == 0 {
            stream.write(0, b"hello").await.unwrap();
        }
        drop(stream.close().message().await);
    }
    // Offset 0 starts over, even without data.
    let (mut stream, _) = client.open("k", "").await.unwrap();
    let answer = stream.write(0, b"").await.unwrap();
    assert_eq!((answer.offset, answer.digest.as_str()), (0, EMPTY));
    assert_eq!(stream.write(0, b"jello").await.unwrap().offset, 5);
    assert_eq!(stream.write(0, b"cello").await.unwrap().digest, sha256(b"cello"));
    // So does a commit; that of nothing is as good as any.
    let answer = stream.commit(0, 0, "").await.unwrap();
    assert_eq!((answer.offset, answer.digest.as_str()), (0, EMPTY));
    assert_eq!(client.info(EMPTY).await.unwrap().size, 0);
    assert_eq!(client.read(EMPTY, 0, 0).await.unwrap().0, b"");
}

#[tokio::test]
async fn a_refused_commit_keeps_the_ingest_and_frees_the_key() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let other = client.put(b"other", &[]).await;
    let (mut stream, _) = client.open("k", "").await.unwrap();
    stream.write(0, b"hello!").await.unwrap();
    let mut labelled = commit(6, 0, "");
    labelled.labels.insert("k".into(), "v".repeat(4096));
    let refused = [
        (commit(6, 5, ""), Code::FailedPrecondition),
        (commit(6, 0, &sha256(b"hello?")), Code::FailedPrecondition),
        (commit(6, 0, "sha512:abc"), Code::FailedPrecondition),
        (labelled, Code::InvalidArgument),
        (commit(5, 0, ""), Code::OutOfRange),
    ];
    for (message, code) in refused {
        fails(stream.say(message).await, code);
        let answer;
        (stream, answer) = client.open("k", "").await.unwrap();
        assert_eq!(answer.offset, 6);
    }
    // A label of 4096 bytes is none too many.
    let mut labelled = commit(6, 6, &sha256(b"hello!"));
    labelled.labels.insert("k".into(), "v".repeat(4095));
    stream.say(labelled).await.unwrap();

    // What is there by then ends the ingest, whether its digest is named or not.
    for (data, expected) in [(&b"other"[..], ""), (b"other", &other), (b"anything", &other)] {
        let (mut stream, _) = client.open("k", "").await.unwrap();
        stream.write(0, data).await.unwrap();
        let length = i64::try_from(data.len()).unwrap();
        fails(stream.commit(length, length, expected).await, Code::AlreadyExists);
        fails(client.status("k").await, Code::NotFound);
    }
}

#[tokio::test]
async fn a_key_has_one_stream_at_a_time() {
    let served = Served::new("native");
    let (client, other) = (Client::new(&served, "a"), Client::new(&served, "b"));
    let (stream, _) = client.open("k", "").await.unwrap();
    fails(client.open("k", "").await.map(|_| ()), Code::Unavailable);
    other.open("k", "").await.unwrap();
    drop(stream.close());
    // Nobody who opens what its client has closed is turned away.
    for _ in 0..100 {
        let (mut stream, answer) = client.open("k", "").await.unwrap();
        stream.write(answer.offset, b"x").await.unwrap();
        drop(stream.sender);
        std::mem::forget(stream.answers); // closed, but not reset
    }
    assert_eq!(client.status("k").await.unwrap().offset, 100);
}

/// Opens a key whose holder went away without a word, as soon as that is known.
async fn reopen(client: &Client, key: &str) -> (Stream, WriteContentResponse) {
    let reopen = async {
        loop {
            match client.open(key, "").await {
                Err(status) if status.code() == Code::Unavailable => (),
                opened => break opened.unwrap(),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reopen).await.expect("the key is free")
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_its_ingest_at_its_offset() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let (mut stream, _) = client.open("k", "").await.unwrap();
    stream.write(0, b"hello").await.unwrap();
    drop(stream); // reset
    assert_eq!(reopen(&client, "k").await.1.offset, 5);

    // The connection breaks.
    let broken = Client::new(&served, "a");
    let (mut stream, _) = broken.open("broken", "").await.unwrap();
    stream.write(0, b"hello").await.unwrap();
    drop((stream, broken));
    assert_eq!(reopen(&client, "broken").await.1.offset, 5);

    // A commit that nobody waits for is done all the same.
    let (mut stream, _) = client.open("k", "").await.unwrap();
    stream.write(0, b"committed").await.unwrap();
    stream.sender.send(commit(9, 9, "")).unwrap();
    drop(stream.sender);
    drop(stream.answers.message().await);
    reopen(&client, "k").await;
    assert_eq!(client.info(&sha256(b"committed")).await.unwrap().size, 9);
}

#[tokio::test]
async fn abort_ends_the_stream_that_writes() {
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    fails(client.abort("k").await.map(Response::into_inner), Code::NotFound);
    let (mut stream, _) = client.open("k", "").await.unwrap();
    stream.write(0, b"hello").await.unwrap();
    client.abort("k").await.unwrap();
    fails(stream.answer().await, Code::Aborted);
    fails(client.status("k").await, Code::NotFound);
    // Close and abort, as clients clean up.
    for _ in 0..50 {
        let (mut stream, answer) = client.open("k", "").await.unwrap();
        assert_eq!(answer.offset, 0);
        stream.write(0, b"hello").await.unwrap();
        drop(stream.sender);
        std::mem::forget(stream.answers);
        client.abort("k").await.unwrap();
    }
    assert!(client.statuses(&[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_another_namespace_has_is_committed_without_its_bytes() {
    let served = Served::new("native");
    let (a, b) = (Client::new(&served, "a"), Client::new(&served, "b"));
    let digest = a.put(b"hello", &[("x", "1")]).await;
    fails(b.info(&digest).await, Code::NotFound);
    fails(b.read(&digest, 0, 0).await, Code::NotFound);
    let (mut stream, answer) = b.open("k", &digest).await.unwrap();
    assert_eq!((answer.offset, &answer.digest), (5, &digest));
    let answer = stream.commit(5, 5, &digest).await.unwrap();
    assert_eq!((answer.offset, &answer.digest), (5, &digest));
    assert!(b.info(&digest).await.unwrap().labels.is_empty());
    a.delete(&digest).await.unwrap();
    assert_eq!(b.read(&digest, 0, 0).await.unwrap().0, b"hello");

    let (mut stream, _) = a.open("k", &digest).await.unwrap();
    let answer = stream.write(5, b" world").await.unwrap();
    assert_eq!((answer.offset, answer.digest), (11, sha256(b"hello world")));
    stream.commit(11, 11, &sha256(b"hello world")).await.unwrap();
    assert_eq!(a.read(&sha256(b"hello world"), 0, 0).await.unwrap().0, b"hello world");
    assert_eq!(b.read(&digest, 0, 0).await.unwrap().0, b"hello");
}

#[tokio::test]
async fn reads_come_in_parts_of_a_mebibyte() {
    const MIB: usize = 1 << 20;
    let served = Served::new("native");
    let client = Client::new(&served, "a");
    let bytes: Vec<u8> = (0..5 * MIB / 2).map(|n| (n % 251) as u8).collect();
    let digest = client.put(&bytes, &[]).await;
    let (whole, parts) = client.read(&digest, 0, 0).await.unwrap();
    assert!(whole == bytes);
    assert_eq!(parts, [MIB, MIB, MIB / 2]);
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
