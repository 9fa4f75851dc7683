//! Content that another namespace has, where namespaces are isolated; and digests of another kind.

use std::path::Path;

use dist_grpc::api::containerd::services as api;
use dist_testutil::{Containerd, timed};

use api::content::v1 as content;
use api::namespaces::v1::namespaces_client::NamespacesClient;
use api::namespaces::v1::{CreateNamespaceRequest, Namespace};

use super::metadata::map;
use super::{Difference, Log, compare};
use crate::daemon::config;
use crate::support::dist;
use crate::wire::{Server, commit, request, stat, write};

const LEASE: &str = "all";

const EMPTY: &str =
    "ok offset 0 digest sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

const DIFFERENT: &[(&str, &[Difference])] = &[
    (
        "namespaces can be shared from since containerd 2.0",
        &[(
            "from a shared namespace: opened",
            EMPTY,
            "ok offset 4 digest sha256:8bb596034beab707c5cf1c371512237d906fbc6e44e89981198209dcfcbb326f",
        )],
    ),
    (
        "this containerd knows sha256 alone",
        &[
            (
                "sha512: opened",
                EMPTY,
                "ok offset 0 digest sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
            ),
            (
                "sha512: written",
                "ok offset 6 digest sha256:a396244643b56de4a1642b5acae5947024650bb00b9785d9671046c247e71404",
                WRITTEN,
            ),
            ("sha512: committed", "FailedPrecondition: failed precondition", WRITTEN),
            (
                "sha512: other bytes",
                "FailedPrecondition: failed precondition",
                "AlreadyExists: already exists",
            ),
            ("sha512: info", "NotFound: not found", "ok 6"),
        ],
    ),
];

const WRITTEN: &str = "ok offset 6 digest sha512:1f9720f871674c18e5fecff61d92c1355cd4bfac25699fb7ddfe7717c9669b4d085193982402156122dfaa706885fd64741704649795c65b2a5bdec40347e28a";

/// Makes the calls to the server at `socket`.
fn all(socket: &Path) -> Log {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("make a runtime").block_on(async {
        let server = Server::connect(socket, false).await;
        let mut log = Log::default();
        isolated(&server, &mut log).await;
        other_digests(&server, &mut log).await;
        log
    })
}

fn state(answer: content::WriteContentResponse) -> String {
    format!("offset {} digest {}", answer.offset, answer.digest)
}

async fn isolated(server: &Server, log: &mut Log) {
    let shared = Namespace {
        name: "shared".into(),
        labels: map(&[("containerd.io/namespace.shareable", "true")]),
    };
    let message = CreateNamespaceRequest { namespace: Some(shared) };
    let mut namespaces = NamespacesClient::new(server.channel.clone());
    namespaces.create(request("shared", "", message)).await.expect("create a namespace");
    for namespace in ["closed", "shared", "other"] {
        server.lease(namespace, LEASE, &[]).await;
    }
    for from in ["closed", "shared"] {
        let data = &from.as_bytes()[..4];
        let digest = server.blob(from, LEASE, data).await;
        let call = |what: &str| format!("from a {from} namespace: {what}");
        let with = |message| content::WriteContentRequest {
            expected: digest.clone(),
            total: 4,
            ..message
        };
        let mut writer = server.writer("other", LEASE);
        log.note(&call("opened"), writer.say(with(stat(from))).await, state);
        writer.close().await;
        let mut writer = server.writer("other", LEASE);
        log.note(&call("whole at once"), writer.say(with(commit("nothing", b""))).await, state);
        writer.close().await;
        let mut writer = server.writer("other", LEASE);
        log.note(&call("its bytes"), writer.say(write(from, 0, data)).await, state);
        let end = content::WriteContentRequest { offset: 4, ..with(commit(from, b"")) };
        log.note(&call("committed"), writer.say(end).await, state);
        let info = content::InfoRequest { digest: digest.clone() };
        log.code(&call("is there"), server.content().info(request("other", "", info)).await);
    }
}

/// Newer containerds hash with what they are told to expect.
async fn other_digests(server: &Server, log: &mut Log) {
    const SHA512: &str = "sha512:1f9720f871674c18e5fecff61d92c1355cd4bfac25699fb7ddfe7717c9669b4d085193982402156122dfaa706885fd64741704649795c65b2a5bdec40347e28a";
    let with = |message| content::WriteContentRequest { expected: SHA512.into(), ..message };
    let mut writer = server.writer("closed", LEASE);
    log.note("sha512: opened", writer.say(with(stat("long"))).await, state);
    log.note("sha512: written", writer.say(write("long", 0, b"sha512")).await, state);
    let end = content::WriteContentRequest { offset: 6, ..with(commit("long", b"")) };
    log.note("sha512: committed", writer.say(end).await, state);
    let mut writer = server.writer("closed", LEASE);
    let wrong = with(commit("wrong", b"other bytes"));
    log.note("sha512: other bytes", writer.say(wrong).await, state);
    writer.close().await;
    let info = content::InfoRequest { digest: SHA512.into() };
    log.note("sha512: info", server.content().info(request("closed", "", info)).await, |answer| {
        answer.into_inner().info.map_or(0, |info| info.size).to_string()
    });
}

#[test]
fn isolated_namespaces_are_isolated_like_containerds() {
    let _timed = timed("differential");
    let policy =
        "[plugins.\"io.containerd.metadata.v1.bolt\"]\n  content_sharing_policy = \"isolated\"\n";
    let theirs = all(Containerd::with(policy).socket());
    let dist = dist();
    let file = config(&dist, "[daemon]\ncontent_sharing = \"isolated\"\n");
    let dist = dist.with(&["--config-file", &file]);
    let ours = all(dist.daemon().address());
    compare(theirs, ours, DIFFERENT);
}
