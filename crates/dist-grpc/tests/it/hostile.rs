//! Bytes that no client sends: whatever comes, it is answered, and so is the next request.

use bytes::{Buf as _, BufMut as _, Bytes};
use dist_grpc::api::DESCRIPTORS;
use dist_grpc::api::containerd::services::version::v1::version_client::VersionClient;
use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Status};

use crate::support::{Served, request};

/// Sends and receives messages as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The paths of all methods but those that wait for what never comes.
pub(crate) fn paths() -> Vec<String> {
    let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap();
    let mut paths = vec!["/grpc.health.v1.Health/Check".to_owned(), "/no.such/Method".to_owned()];
    for file in &set.file {
        for service in &file.service {
            for method in service.method.iter().filter(|method| method.name() != "Subscribe") {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

/// Reproducible noise.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Messages of which some are well formed and none makes sense.
fn messages() -> Vec<Bytes> {
    // Every field of the numbers 1 to 8 as an empty message, as a text, and as a number.
    let fields = |wire: u8, value: &'static [u8]| -> Bytes {
        (1..=8_u8).flat_map(|field| [&[field << 3 | wire], value].concat()).collect()
    };
    let mut messages = vec![
        Bytes::new(),
        fields(2, b"\0"),
        fields(2, b"\x01x"),
        fields(2, b"\x01\xff"),
        fields(0, b"\x01"),
        fields(0, b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        Bytes::from(vec![0x0b; 4096]),
        Bytes::from([&[0x0a; 1][..], &[0xff; 8], &[0x7f]].concat()),
    ];
    messages.extend((1..=16).map(|seed| noise(seed * 7919, 1 << (seed % 11))));
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_are_answered() {
    let served = Served::new("native");
    for channel in [served.channel(), served.backend()] {
        for path in paths() {
            for message in messages() {
                let mut client = Grpc::new(channel.clone());
                client.ready().await.unwrap();
                let path = PathAndQuery::try_from(path.clone()).unwrap();
                let sent = request(stream::iter([message.clone(), message.clone()]));
                let answer = client.streaming(sent, path.clone(), Raw).await;
                let status = match answer {
                    Err(status) => status,
                    Ok(answer) => {
                        let mut answer = answer.into_inner();
                        loop {
                            match answer.message().await {
                                Ok(Some(_)) => {}
                                Ok(None) => break Status::ok(""),
                                Err(status) => break status,
                            }
                        }
                    }
                };
                let text = status.message();
                assert!(!text.contains("defect"), "{path} {message:?}: {status:?}");
                assert!(status.code() != Code::Unknown, "{path} {message:?}: {status:?}");
            }
        }
    }
    VersionClient::new(served.channel()).version(()).await.unwrap();
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_noise_hurt_nobody() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let served = Served::new("native");
    let mut other = VersionClient::new(served.channel());
    for seed in 1..200 {
        let mut stream = UnixStream::connect(served.path("socket")).await.unwrap();
        let mut bytes = Vec::new();
        if seed % 2 == 0 {
            bytes.extend_from_slice(PREFACE);
        }
        bytes.extend_from_slice(&noise(seed, 2000));
        // The server may hang up before all is written.
        let _ = stream.write_all(&bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        other.version(()).await.unwrap();
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_named() {
    let served = Served::new("native");
    for (path, text) in [
        ("/no.such/Method", "unknown service no.such"),
        (
            "/containerd.services.version.v1.Version/Nothing",
            "unknown method Nothing for service containerd.services.version.v1.Version",
        ),
        (
            "/containerd.services.sandbox.v1.Store/List",
            "unknown service containerd.services.sandbox.v1.Store",
        ),
    ] {
        let mut client = Grpc::new(served.channel());
        client.ready().await.unwrap();
        let answer = client.unary(request(Bytes::new()), path.parse().unwrap(), Raw).await;
        let status = answer.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, text));
    }
}
