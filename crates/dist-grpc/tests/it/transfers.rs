//! `transfer.v1`: what 2.x clients do for images, against a real registry.

use std::collections::HashMap;
use std::sync::Arc;

use dist_core::ErrorKind;
use dist_grpc::api::containerd::services::transfer::v1::transfer_client::TransferClient;
use dist_grpc::api::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use dist_grpc::api::containerd::types::Platform;
use dist_grpc::api::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, Data, ImageExportStream, ImageImportStream,
    ImageReference, ImageStore, OciRegistry, Progress, RegistryResolver, UnpackConfiguration,
    WindowUpdate,
};
use dist_testutil::{Auth, Fault, FaultProxy, Gate, Image, Registry, Rule, index_of};
use prost::{Message as _, Name};
use prost_types::Any;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use crate::streams::{Opened, pack};
use crate::support::{Served, refused, request};

pub(crate) async fn transfer(
    served: &Served,
    source: Any,
    destination: Any,
    progress: &str,
) -> Result<Response<()>, Status> {
    let options = TransferOptions { progress_stream: progress.into() };
    let message = TransferRequest {
        source: Some(source),
        destination: Some(destination),
        options: Some(options),
    };
    TransferClient::new(served.channel()).transfer(request(message)).await
}

fn registry(reference: &str, resolver: RegistryResolver) -> Any {
    pack(&OciRegistry { reference: reference.into(), resolver: Some(resolver) })
}

fn plain(reference: &str) -> Any {
    pack(&OciRegistry { reference: reference.into(), resolver: None })
}

fn amd64() -> Platform {
    Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() }
}

/// What `ctr images pull` sends.
fn store(name: &str) -> ImageStore {
    ImageStore {
        name: name.into(),
        platforms: vec![amd64()],
        all_metadata: true,
        unpacks: vec![UnpackConfiguration { platform: Some(amd64()), snapshotter: String::new() }],
        ..ImageStore::default()
    }
}

fn named(name: &str) -> ImageStore {
    ImageStore { name: name.into(), ..ImageStore::default() }
}

/// All that is told, in its order, until the stream ends.
pub(crate) async fn told(served: &Served, id: &str) -> JoinHandle<Vec<Progress>> {
    let mut opened = Opened::new(served, id).await;
    tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(message) = opened.from.message().await.unwrap() {
            assert_eq!(message.type_url, Progress::full_name());
            all.push(Progress::decode(message.value.as_slice()).unwrap());
        }
        all
    })
}

/// Answers every question for credentials with `answer`; tells whom it was asked for.
async fn doorman(served: &Served, id: &str, answer: AuthResponse) -> JoinHandle<Vec<AuthRequest>> {
    let mut opened = Opened::new(served, id).await;
    tokio::spawn(async move {
        let mut asked = Vec::new();
        while let Some(message) = opened.from.message().await.unwrap() {
            asked.push(AuthRequest::decode(message.value.as_slice()).unwrap());
            opened.send(&answer).await;
        }
        asked
    })
}

fn secret(kind: AuthType, username: &str, secret: &str) -> AuthResponse {
    AuthResponse {
        auth_type: kind.into(),
        secret: secret.into(),
        username: username.into(),
        expire_at: None,
    }
}

pub(crate) fn events(told: &[Progress], name: &str) -> Vec<String> {
    told.iter().filter(|told| told.name == name).map(|told| told.event.clone()).collect()
}

#[tokio::test]
async fn a_pull_unpacks_and_tells_a_tree() {
    let registry = Registry::start();
    let (image, other) = (Image::random(1, &[3_000_000, 500]), Image::random(9, &[700]));
    let both = index_of(&[("amd64", None, image.clone()), ("arm64", None, other.clone())]);
    both.push(&registry, "team/app", "1");
    let served = Served::new("overlayfs");
    let told = told(&served, "progress").await;
    let reference = registry.reference("team/app:1");
    let name = "example.com/mine:7";
    let mut to = store(name);
    to.labels = HashMap::from([("colour".to_owned(), "red".to_owned())]);
    to.extra_references.push(ImageReference { name: "further".into(), ..Default::default() });
    transfer(&served, plain(&reference), pack(&to), "progress").await.unwrap();

    let images = served.engine.images().list().unwrap();
    assert_eq!(
        images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(),
        [name, "further"]
    );
    assert!(images.iter().all(|image| image.target.digest == both.manifest.digest));
    assert_eq!(images[0].labels["colour"], "red");
    let snapshotter = served.engine.snapshotter().unwrap();
    snapshotter.stat(&image.chain_id().into()).unwrap();
    // Of the other platform the documents are there, and the layer is not.
    let there = |digest| served.engine.content().info(&digest).is_ok();
    assert!(there(other.manifest.digest) && there(other.blobs[0].digest));
    assert!(!there(other.blobs[1].digest));

    let told = told.await.unwrap();
    let whole: Vec<&str> =
        told.iter().filter(|told| told.name.is_empty()).map(|told| told.event.as_str()).collect();
    assert_eq!(
        whole,
        [
            format!("Resolving from OCI Registry ({reference})"),
            format!("Pulling from OCI Registry ({reference})"),
            format!("Completed pull from OCI Registry ({reference})"),
        ]
    );
    assert_eq!(events(&told, &reference), ["fetching image content"]);
    assert_eq!(events(&told, name), ["saved"]);
    let index = format!("index-{}", both.digest());
    let manifest = format!("manifest-{}", image.digest());
    let layer = format!("layer-{}", image.layer(0));
    assert_eq!(events(&told, &index), ["waiting", "complete"]);
    let of_layer = events(&told, &layer);
    assert_eq!((of_layer[0].as_str(), of_layer.last().unwrap().as_str()), ("waiting", "extracted"));
    assert!(of_layer.iter().any(|event| event == "complete"), "{of_layer:?}");
    let first = |name: &str| told.iter().find(|told| told.name == name).unwrap();
    assert_eq!(first(&index).parents, [reference]);
    assert_eq!(first(&manifest).parents, [index]);
    assert_eq!(first(&layer).parents, [manifest]);
    assert_eq!(first(&layer).total, i64::try_from(image.blobs[1].bytes.len()).unwrap());
    let desc = first(&layer).desc.clone().unwrap();
    assert_eq!(desc.digest, image.layer(0));
}

#[tokio::test]
async fn without_unpacking_the_layers_are_brought_and_nothing_is_unpacked() {
    let registry = Registry::start();
    let (image, other) = (Image::random(1, &[3000, 500]), Image::random(9, &[700]));
    let both = index_of(&[("amd64", None, image.clone()), ("arm64", None, other.clone())]);
    both.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    let mut one = named("one");
    one.platforms = vec![amd64()];
    let from = || plain(&registry.reference("app:1"));
    transfer(&served, from(), pack(&one), "").await.unwrap();
    let there = |digest| served.engine.content().info(&digest).is_ok();
    assert!(image.blobs.iter().all(|blob| there(blob.digest)));
    assert!(!there(other.manifest.digest));
    assert!(served.engine.snapshotter().unwrap().stat(&image.chain_id().into()).is_err());
    transfer(&served, from(), pack(&named("all")), "").await.unwrap();
    assert!(both.blobs.iter().all(|blob| there(blob.digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_read_at_the_end_leave_no_image() {
    let registry = Registry::start();
    let image = Image::random(1, &[300_000]);
    image.push(&registry, "app", "1");
    for (fetches, gone) in [(true, true), (true, false), (false, true), (false, false)] {
        let (proxy, gate) = (FaultProxy::start(registry.address()), Gate::default());
        proxy.add(Rule::get(image.layer(0), Fault::Hold(1000, gate.clone())));
        let served = Served::new("overlayfs");
        let (engine, reference) = (served.engine.clone(), proxy.reference("app:1"));
        let pulling = tokio::spawn(async move {
            if fetches {
                dist::fetch(&engine, &reference, &Default::default(), Arc::new(())).await.map(drop)
            } else {
                dist::pull(&engine, &reference, &Default::default(), Arc::new(())).await.map(drop)
            }
        });
        gate.wait_held(1);
        let content = served.engine.content();
        let kind = if gone {
            content.delete(&image.manifest.digest).unwrap();
            ErrorKind::NotFound
        } else {
            // Opening a socket fails, and not because it is not there.
            let path = content.path(&image.manifest.digest).unwrap();
            let short = served.path("s");
            drop(std::os::unix::net::UnixListener::bind(&short).unwrap());
            std::fs::rename(short, path).unwrap();
            ErrorKind::Storage
        };
        gate.open();
        let error = pulling.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), kind, "fetch {fetches}: {error:?}");
        assert!(served.engine.images().list().unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_before_anything_is_fetched() {
    let server = Registry::start();
    let image = Image::random(1, &[3000]);
    image.push(&server, "app", "1");
    let served = Served::new("overlayfs");
    let reference = server.reference("app:1");
    let hosts = served.path("hosts");
    std::fs::create_dir_all(hosts.join("_default")).unwrap();
    let host_dir = hosts.to_str().unwrap().to_owned();
    let mut odd = store("a");
    odd.unpacks[0].snapshotter = "stargz".into();
    let resolver = RegistryResolver::default;
    let scheme = |scheme: &str| RegistryResolver { default_scheme: scheme.into(), ..resolver() };
    for (from, to, code, part) in [
        (plain(&reference), pack(&odd), Code::InvalidArgument, "stargz"),
        (plain("app:1"), pack(&store("a")), Code::InvalidArgument, "reference"),
        (plain(&reference), pack(&named("")), Code::NotFound, "no name"),
        (registry(&reference, scheme("ftp")), pack(&store("a")), Code::InvalidArgument, "ftp"),
        (
            registry(&reference, RegistryResolver { host_dir, ..resolver() }),
            pack(&store("a")),
            Code::Unimplemented,
            "_default",
        ),
        (
            registry(&reference, RegistryResolver { http_debug: true, ..resolver() }),
            pack(&store("a")),
            Code::Unimplemented,
            "trace http",
        ),
        (
            registry(&reference, RegistryResolver { auth_stream: "nobody".into(), ..resolver() }),
            pack(&store("a")),
            Code::NotFound,
            "nobody",
        ),
        (plain(&reference), plain(&reference), Code::Unimplemented, "OCI Registry"),
        (pack(&Data::default()), pack(&store("a")), Code::Unimplemented, "transfer.Data"),
    ] {
        let text = refused(transfer(&served, from, to, "").await, code);
        assert!(text.contains(part), "{text}");
    }
    let text = refused(
        transfer(&served, plain(&reference), pack(&store("a")), "nowhere").await,
        Code::NotFound,
    );
    assert!(text.contains("nowhere"), "{text}");
    let message = TransferRequest { source: None, destination: None, options: None };
    refused(
        TransferClient::new(served.channel()).transfer(request(message)).await,
        Code::InvalidArgument,
    );
    let missing = plain(&server.reference("no-such:1"));
    refused(transfer(&served, missing, pack(&store("a")), "").await, Code::NotFound);
    assert!(served.engine.content().list().unwrap().is_empty());
    assert!(served.engine.images().list().unwrap().is_empty());
}

#[tokio::test]
async fn the_client_is_asked_for_credentials() {
    let image = Image::random(2, &[1000]);
    let open = Registry::start();
    image.push(&open, "team/app", "1");
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let storage = Some(open.storage().to_owned());
    let guarded =
        Registry::with(dist_testutil::RegistryOptions { storage, auth, ..Default::default() });
    let reference = guarded.reference("team/app:1");
    let served = Served::new("overlayfs");
    for (id, answer, good) in [
        ("password", secret(AuthType::Credentials, "user", "hunter2"), true),
        ("header", secret(AuthType::Header, "", "Basic dXNlcjpodW50ZXIy"), true),
        ("wrong", secret(AuthType::Credentials, "user", "wrong-secret"), false),
        // What `ctr` says when it has none.
        ("empty", secret(AuthType::Refresh, "", ""), false),
        ("none", secret(AuthType::None, "", ""), false),
    ] {
        let asked = doorman(&served, id, answer).await;
        let resolver = RegistryResolver { auth_stream: id.into(), ..Default::default() };
        let result = transfer(&served, registry(&reference, resolver), pack(&store(id)), "").await;
        let asked = asked.await.unwrap();
        assert_eq!(asked.len(), 1, "{id}");
        assert_eq!((&asked[0].host[..], &asked[0].reference), (guarded.address(), &reference));
        match result {
            Ok(_) => assert!(good, "{id}"),
            Err(status) => {
                assert!(!good, "{id}: {status:?}");
                assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
                assert!(!status.message().contains("secret"), "{status:?}");
            }
        }
    }
    // An open registry never asks, whatever the client would say.
    let asked = doorman(&served, "open", secret(AuthType::Refresh, "", "")).await;
    let resolver = RegistryResolver { auth_stream: "open".into(), ..Default::default() };
    let from = registry(&open.reference("team/app:1"), resolver);
    transfer(&served, from, pack(&store("open")), "").await.unwrap();
    assert!(asked.await.unwrap().is_empty());
}

#[tokio::test]
async fn a_push_brings_what_a_pull_brought() {
    let (first, second) = (Registry::start(), Registry::start());
    let image = Image::random(3, &[400_000, 500]);
    image.push(&first, "app", "1");
    let served = Served::new("overlayfs");
    transfer(&served, plain(&first.reference("app:1")), pack(&store("app")), "").await.unwrap();
    let told = told(&served, "progress").await;
    let to = second.reference("copy:2");
    transfer(&served, pack(&named("app")), plain(&to), "progress").await.unwrap();
    let told = told.await.unwrap();
    let name = format!("layer-{}", image.layer(0));
    let of_layer = events(&told, &name);
    assert_eq!((of_layer[0].as_str(), of_layer.last().unwrap().as_str()), ("waiting", "complete"));
    assert_eq!(events(&told, "app"), ["pushing content", "pushed content"]);
    let last = told.last().unwrap();
    assert_eq!(last.event, format!("Completed push to OCI Registry ({to})"));
    assert_eq!(last.desc.as_ref().unwrap().digest, image.digest());

    let elsewhere = Served::new("native");
    transfer(&elsewhere, plain(&to), pack(&store("back")), "").await.unwrap();
    let images = elsewhere.engine.images().list().unwrap();
    assert_eq!(images[0].target.digest, image.manifest.digest);

    refused(transfer(&served, pack(&named("none")), plain(&to), "").await, Code::NotFound);
}

#[tokio::test]
async fn a_tag_is_a_further_name() {
    let registry = Registry::start();
    let image = Image::random(4, &[500]);
    image.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    transfer(&served, plain(&registry.reference("app:1")), pack(&store("one")), "").await.unwrap();
    transfer(&served, pack(&named("one")), pack(&named("two")), "").await.unwrap();
    let mut both = named("two");
    both.extra_references = vec![ImageReference {
        name: "three".into(),
        add_digest: true,
        ..ImageReference::default()
    }];
    transfer(&served, pack(&named("one")), pack(&both), "").await.unwrap();
    let images = served.engine.images().list().unwrap();
    let pinned = format!("three@{}", image.digest());
    let names: Vec<_> = images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["one", &pinned, "two"]);
    assert!(images.iter().all(|found| found.target.digest == image.manifest.digest));
    let missing = transfer(&served, pack(&named("none")), pack(&named("four")), "").await;
    refused(missing, Code::NotFound);
    let error = served.engine.images().get(&"four".parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Sends `bytes` within the window that the daemon grants; the stream ends with them.
pub(crate) async fn feed(served: &Served, id: &str, bytes: Vec<u8>) -> JoinHandle<()> {
    let mut opened = Opened::new(served, id).await;
    tokio::spawn(async move {
        let (mut window, mut bytes) = (0, bytes.as_slice());
        while !bytes.is_empty() {
            while window == 0 {
                // A daemon that has had enough ends the stream.
                let Ok(Some(message)) = opened.from.message().await else { return };
                window += WindowUpdate::decode(message.value.as_slice()).unwrap().update;
            }
            let count = bytes.len().min(32 << 10).min(usize::try_from(window).unwrap());
            let (now, rest) = bytes.split_at(count);
            window -= i32::try_from(count).unwrap();
            opened.send(&Data { data: now.to_vec().into() }).await;
            bytes = rest;
        }
        let Opened { to, mut from } = opened;
        drop(to);
        while let Ok(Some(_)) = from.message().await {}
    })
}

/// Takes all bytes that come, granting a window as clients in Go do.
pub(crate) async fn drain(served: &Served, id: &str) -> JoinHandle<Result<Vec<u8>, Status>> {
    let mut opened = Opened::new(served, id).await;
    tokio::spawn(async move {
        let (mut window, mut bytes) = (0_i32, Vec::new());
        loop {
            if window < 64 << 10 {
                opened.send(&WindowUpdate { update: 64 << 10 }).await;
                window += 64 << 10;
            }
            let Some(message) = opened.from.message().await? else { return Ok(bytes) };
            let Data { data } = Data::decode(message.value.as_slice()).unwrap();
            assert!(!data.is_empty() && data.len() <= 32 << 10);
            window -= i32::try_from(data.len()).unwrap();
            assert!(window >= 0, "more than was granted");
            bytes.extend_from_slice(&data);
        }
    })
}

#[tokio::test]
async fn bytes_come_back_as_they_went() {
    let served = Served::new("overlayfs");
    for size in [0, 1, 32 << 10, (64 << 10) + 1, 3_000_001] {
        let bytes: Vec<u8> = (0..size).map(|at: usize| (at % 251) as u8).collect();
        let fed = feed(&served, "in", bytes.clone()).await;
        let drained = drain(&served, "out").await;
        let from = pack(&ImageImportStream { stream: "in".into(), ..Default::default() });
        let to = pack(&ImageExportStream { stream: "out".into(), ..Default::default() });
        transfer(&served, from, to, "").await.unwrap();
        assert!(drained.await.unwrap().unwrap() == bytes, "{size} bytes");
        fed.await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_breaks_off_or_sends_too_much_fails_the_transfer() {
    let served = Served::new("overlayfs");
    let ends = || {
        let from = ImageImportStream { stream: "in".into(), ..Default::default() };
        let to = ImageExportStream { stream: "out".into(), ..Default::default() };
        (pack(&from), pack(&to))
    };
    let opened = Opened::new(&served, "in").await;
    let drained = drain(&served, "out").await;
    opened.send(&Data { data: vec![0; 1 << 20].into() }).await;
    let (from, to) = ends();
    let failed = transfer(&served, from, to, "").await;
    refused(failed, Code::InvalidArgument);
    assert!(drained.await.unwrap().is_err(), "the half that came does not look whole");
    drop(opened);
}
