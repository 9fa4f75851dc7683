//! `Write` and `Abort`.

use std::collections::HashMap;
use std::time::Duration;

use dist_grpc::api::containerd::events::{ContentCreate, ContentDelete};
use dist_grpc::api::containerd::services::content::v1::{
    WriteAction, WriteContentRequest, WriteContentResponse,
};
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use prost::{Message as _, Name as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Response};

use super::{Client, EMPTY, Stream, commit, nanoseconds, now, sha256, stat};
use crate::snapshots::fails;
use crate::support::Served;

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
