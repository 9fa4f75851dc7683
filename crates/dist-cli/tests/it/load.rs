//! Two hundred clients at once, and what is there after them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dist_core::Digest;
use dist_grpc::api::containerd::services as api;
use dist_testutil::{timed, torture};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use api::content::v1::{InfoRequest, ListContentRequest, ReadContentRequest, WriteContentRequest};
use api::snapshots::v1::snapshots_client::SnapshotsClient;
use api::snapshots::v1::{
    CommitSnapshotRequest, ListSnapshotsRequest, PrepareSnapshotRequest, RemoveSnapshotRequest,
};

use crate::support::{dist, verify_store};
use crate::wire::{Server, commit, request, write};

const CLIENTS: u64 = 200;
const NS: &str = "load";
const LEASE: &str = "load";
/// What one message carries at most; a Go client of containerd 1.6 sends 32 KiB.
const MESSAGE: usize = 256 << 10;
const LARGEST: u64 = 1 << 20;
/// What the daemon may need at most with all clients at work.
const MEMORY_MIB: u64 = 384;

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// The bytes that belong to a number.
fn bytes(of: u64) -> Vec<u8> {
    let mut numbers = Numbers(of.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let length = 1 + numbers.below(LARGEST);
    (0..length.div_ceil(8))
        .flat_map(|_| numbers.next().to_le_bytes())
        .take(usize::try_from(length).expect("a length"))
        .collect()
}

/// What one client did that must still be there.
#[derive(Default)]
struct Done {
    blobs: BTreeMap<Digest, u64>,
    snapshots: BTreeSet<String>,
    calls: u64,
}

struct Client {
    server: Server,
    number: u64,
    numbers: Numbers,
    done: Done,
}

impl Client {
    async fn work(mut self, until: Instant) -> Done {
        let mut round = 0;
        while Instant::now() < until {
            round += 1;
            match self.numbers.below(4) {
                0 => self.write(round).await,
                1 => self.read().await,
                2 => self.info().await,
                _ => self.snapshot(round).await,
            }
            self.done.calls += 1;
        }
        self.done
    }

    /// Writes a blob of its own, or one of a few that all write.
    async fn write(&mut self, round: u64) {
        let shared = self.numbers.below(4) == 0;
        let number = if shared { self.numbers.below(20) } else { self.number * 1_000_000 + round };
        let data = bytes(number);
        let digest = Digest::sha256(&data);
        let mut writer = self.server.writer(NS, LEASE);
        let reference = format!("{}-{round}", self.number);
        let mut offset = 0;
        for part in data.chunks(MESSAGE) {
            let answer = writer.say(write(&reference, offset, part)).await;
            offset = answer.unwrap_or_else(|status| panic!("write: {status}")).offset;
        }
        let end = WriteContentRequest {
            offset,
            total: offset,
            expected: digest.to_string(),
            ..commit(&reference, b"")
        };
        match writer.say(end).await {
            Ok(_) => {}
            Err(status) if shared && status.code() == Code::AlreadyExists => {}
            Err(status) => panic!("commit: {status}"),
        }
        writer.close().await;
        self.done.blobs.insert(digest, data.len() as u64);
    }

    fn some(&mut self) -> Option<(Digest, u64)> {
        let count = self.done.blobs.len();
        let at = self.numbers.below(count.max(1) as u64);
        let at = usize::try_from(at).expect("an index");
        self.done.blobs.iter().nth(at).map(|(digest, size)| (*digest, *size))
    }

    async fn read(&mut self) {
        let Some((digest, size)) = self.some() else { return };
        let data =
            read(&self.server, &digest).await.unwrap_or_else(|status| panic!("read: {status}"));
        assert_eq!((Digest::sha256(&data), data.len() as u64), (digest, size));
    }

    async fn info(&mut self) {
        let Some((digest, size)) = self.some() else { return };
        let message = InfoRequest { digest: digest.to_string() };
        let answer = self.server.content().info(request(NS, "", message)).await;
        let answer = answer.unwrap_or_else(|status| panic!("info: {status}")).into_inner();
        assert_eq!(answer.info.map(|info| info.size), Some(size.cast_signed()));
    }

    /// Prepares, commits, and half of the time removes a snapshot on one of its own.
    async fn snapshot(&mut self, round: u64) {
        let mut client = SnapshotsClient::new(self.server.channel.clone());
        let snapshotter = "overlayfs".to_owned();
        let key = format!("{}-{round}-active", self.number);
        let name = format!("{}-{round}", self.number);
        let parent = self.done.snapshots.last().filter(|_| round.is_multiple_of(2)).cloned();
        let prepare = PrepareSnapshotRequest {
            snapshotter: snapshotter.clone(),
            key: key.clone(),
            parent: parent.unwrap_or_default(),
            ..Default::default()
        };
        client
            .prepare(request(NS, LEASE, prepare))
            .await
            .unwrap_or_else(|status| panic!("prepare: {status}"));
        if self.numbers.below(2) == 0 {
            let message = RemoveSnapshotRequest { snapshotter, key };
            client
                .remove(request(NS, LEASE, message))
                .await
                .unwrap_or_else(|status| panic!("remove: {status}"));
            return;
        }
        let message =
            CommitSnapshotRequest { snapshotter, name: name.clone(), key, ..Default::default() };
        client
            .commit(request(NS, LEASE, message))
            .await
            .unwrap_or_else(|status| panic!("commit: {status}"));
        self.done.snapshots.insert(name);
    }
}

async fn read(server: &Server, digest: &Digest) -> Result<Vec<u8>, Status> {
    let message = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
    let mut answers = server.content().read(request(NS, "", message)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend_from_slice(&answer.data);
    }
    Ok(all)
}

/// The most memory that a process has had, in MiB.
fn peak(process: u32) -> u64 {
    let status =
        fs_err::read_to_string(format!("/proc/{process}/status")).expect("read its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024
}

#[test]
fn two_hundred_clients_at_once_lose_nothing() {
    let _timed = timed("load");
    let dist = dist();
    let daemon = dist.daemon();
    let time = Duration::from_secs(if torture() { 60 } else { 5 });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("make a runtime").block_on(async {
        let first = Server::connect(daemon.address(), false).await;
        first.lease(NS, LEASE, &[]).await;
        let (address, until) = (Arc::new(daemon.address().to_owned()), Instant::now() + time);
        let mut clients = JoinSet::new();
        for number in 1..=CLIENTS {
            let address = Arc::clone(&address);
            clients.spawn(async move {
                let server = Server::connect(&address, false).await;
                let numbers = Numbers(number);
                Client { server, number, numbers, done: Done::default() }.work(until).await
            });
        }
        let mut all = Done::default();
        while let Some(done) = clients.join_next().await {
            let done = done.expect("a client without an error");
            all.blobs.extend(done.blobs);
            all.snapshots.extend(done.snapshots);
            all.calls += done.calls;
        }
        let peak = peak(daemon.id());
        eprintln!(
            "load: {} rounds, {} blobs, {} snapshots, {peak} MiB at most",
            all.calls,
            all.blobs.len(),
            all.snapshots.len()
        );
        assert!(peak <= MEMORY_MIB, "the daemon needed {peak} MiB");
        verify(&first, &all).await;
    });
    daemon.stop().ok();
    verify_store(&dist);
}

/// Compares all that was acknowledged with all that is there.
async fn verify(server: &Server, all: &Done) {
    let message = ListContentRequest::default();
    let stream = server.content().list(request(NS, "", message)).await.expect("list content");
    let mut stream = stream.into_inner();
    let mut there = BTreeMap::new();
    while let Some(block) = stream.message().await.expect("list content") {
        for info in block.info {
            there.insert(info.digest.parse().expect("a digest"), info.size.cast_unsigned());
        }
    }
    assert_eq!(there, all.blobs);
    for digest in all.blobs.keys() {
        let data = read(server, digest).await.expect("read a blob");
        assert_eq!(Digest::sha256(&data), *digest);
    }
    let message = ListSnapshotsRequest { snapshotter: "overlayfs".into(), ..Default::default() };
    let mut client = SnapshotsClient::new(server.channel.clone());
    let stream = client.list(request(NS, "", message)).await.expect("list snapshots");
    let (mut stream, mut there) = (stream.into_inner(), BTreeSet::new());
    while let Some(block) = stream.message().await.expect("list snapshots") {
        there.extend(block.info.into_iter().map(|info| info.name));
    }
    assert_eq!(there, all.snapshots);
}
