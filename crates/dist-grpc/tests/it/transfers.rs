//! `transfer.v1`: what 2.x clients do for images, against a real registry.

use std::collections::HashMap;
use std::sync::Arc;

use dist_core::ErrorKind;
use dist_grpc::api::containerd::events::{ContentCreate, SnapshotCommit, SnapshotPrepare};
use dist_grpc::api::containerd::services::events::v1::SubscribeRequest;
use dist_grpc::api::containerd::services::events::v1::events_client::EventsClient;
use dist_grpc::api::containerd::services::transfer::v1::transfer_client::TransferClient;
use dist_grpc::api::containerd::services::transfer::v1::{TransferOptions, TransferRequest};
use dist_grpc::api::containerd::types::Platform;
use dist_grpc::api::containerd::types::transfer::{
    AuthRequest, AuthResponse, AuthType, Data, HttpDebug, ImageExportStream, ImageImportStream,
    ImageReference, ImageStore, OciRegistry, Progress, RegistryResolver, UnpackConfiguration,
    WindowUpdate,
};
use dist_testutil::{
    Auth, Certificates, Fault, FaultProxy, Gate, Image, Registry, RegistryOptions, Rule, index_of,
};
use prost::{Message as _, Name};
use prost_types::Any;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status};

use crate::streams::{Opened, pack};
use crate::support::{Served, refused, request, request_in};

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
    // A layer that is not wanted is not waited for.
    assert_eq!(events(&told, &format!("layer-{}", other.layer(0))), [""; 0]);
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

/// The field numbers of 2.x, which nothing else here would miss.
#[test]
fn transfers_are_spelled_as_clients_spell_them() {
    let export = ImageExportStream {
        platforms: vec![Platform { os_version: "1".into(), ..Platform::default() }],
        all_platforms: true,
        skip_compatibility_manifest: true,
        skip_non_distributable: true,
        ..ImageExportStream::default()
    };
    assert_eq!(export.encode_to_vec(), b"\x1a\x03\x22\x011\x20\x01\x28\x01\x30\x01");
    let resolver = RegistryResolver {
        host_dir: "d".into(),
        default_scheme: "s".into(),
        http_debug: HttpDebug::Trace.into(),
        logs_stream: "l".into(),
        ..RegistryResolver::default()
    };
    assert_eq!(resolver.encode_to_vec(), b"\x1a\x01d\x22\x01s\x28\x02\x32\x01l");
}

#[tokio::test]
async fn subscribers_hear_what_a_pull_brings() {
    let registry = Registry::start();
    let image = Image::random(1, &[3000, 500]);
    image.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    let mut client = EventsClient::new(served.channel());
    let mut stream = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    let from = || plain(&registry.reference("app:1"));
    transfer(&served, from(), pack(&store("app")), "").await.unwrap();
    // What is there already is not made again.
    transfer(&served, from(), pack(&store("app")), "").await.unwrap();
    let (mut created, mut snapshots, mut images) = (Vec::new(), Vec::new(), Vec::new());
    while images.len() < 2 {
        let envelope = stream.message().await.unwrap().unwrap();
        let value = envelope.event.unwrap().value;
        match envelope.topic.as_str() {
            "/content/create" => {
                let event = ContentCreate::decode(&*value).unwrap();
                created.push((event.digest, event.size));
            }
            "/snapshot/prepare" => {
                let event = SnapshotPrepare::decode(&*value).unwrap();
                snapshots.push((event.snapshotter, event.key, event.parent));
            }
            "/snapshot/commit" => {
                let event = SnapshotCommit::decode(&*value).unwrap();
                let prepared = snapshots.last_mut().unwrap();
                assert_eq!((&prepared.0, &prepared.1), (&event.snapshotter, &event.key));
                prepared.1 = event.name;
            }
            topic => images.push(topic.to_owned()),
        }
    }
    created.sort();
    let mut expected: Vec<_> = std::iter::once(&image.manifest)
        .chain(&image.blobs)
        .map(|blob| (blob.digest.to_string(), i64::try_from(blob.bytes.len()).unwrap()))
        .collect();
    expected.sort();
    assert_eq!(created, expected);
    let chain = dist_core::chain_ids(&image.diff_ids);
    let chain: Vec<String> = chain.iter().map(ToString::to_string).collect();
    let snapshot =
        |at: usize, parent: &str| ("overlayfs".to_owned(), chain[at].clone(), parent.to_owned());
    assert_eq!(snapshots, [snapshot(0, ""), snapshot(1, &chain[0])]);
    assert_eq!(images, ["/images/create", "/images/update"]);
}

#[tokio::test]
async fn subscribers_hear_what_is_new_to_a_namespace_though_another_one_has_it() {
    let registry = Registry::start();
    let image = Image::random(1, &[3000, 500]);
    image.push(&registry, "app", "1");
    let served = Served::new("overlayfs");
    let from = || plain(&registry.reference("app:1"));
    transfer(&served, from(), pack(&store("app")), "").await.unwrap();
    let mut client = EventsClient::new(served.channel());
    let mut stream = client.subscribe(SubscribeRequest::default()).await.unwrap().into_inner();
    let message = TransferRequest {
        source: Some(from()),
        destination: Some(pack(&named("app"))),
        options: None,
    };
    let message = request_in("other", message);
    TransferClient::new(served.channel()).transfer(message).await.unwrap();
    let mut created = Vec::new();
    loop {
        let envelope = stream.message().await.unwrap().unwrap();
        assert_eq!(envelope.namespace, "other");
        match envelope.topic.as_str() {
            "/content/create" => {
                let event = ContentCreate::decode(&*envelope.event.unwrap().value).unwrap();
                created.push(event.digest);
            }
            "/images/create" => break,
            _ => {}
        }
    }
    created.sort();
    let blobs = std::iter::once(&image.manifest).chain(&image.blobs);
    let mut expected: Vec<_> = blobs.map(|blob| blob.digest.to_string()).collect();
    expected.sort();
    assert_eq!(created, expected);
}

#[tokio::test]
async fn an_image_whose_layers_are_not_brought_is_not_unpacked() {
    let registry = Registry::start();
    let (image, other) = (Image::random(1, &[3000]), Image::random(9, &[700]));
    let both = index_of(&[("amd64", None, image.clone()), ("arm64", None, other.clone())]);
    both.push(&registry, "app", "1");
    for metadata in [true, false] {
        let served = Served::new("overlayfs");
        let arm64 = || Platform { architecture: "arm64".into(), ..amd64() };
        let mut to = store("app");
        to.all_metadata = metadata;
        to.unpacks.push(UnpackConfiguration { platform: Some(arm64()), ..Default::default() });
        transfer(&served, plain(&registry.reference("app:1")), pack(&to), "").await.unwrap();
        let snapshotter = served.engine.snapshotter().unwrap();
        snapshotter.stat(&image.chain_id().into()).unwrap();
        assert!(snapshotter.stat(&other.chain_id().into()).is_err());
        assert!(served.engine.content().info(&other.blobs[1].digest).is_err());
        // With its layers it is.
        to.platforms.push(arm64());
        transfer(&served, plain(&registry.reference("app:1")), pack(&to), "").await.unwrap();
        snapshotter.stat(&other.chain_id().into()).unwrap();
        dist::collect(served.engine.store(), Default::default(), &mut Default::default()).unwrap();
        snapshotter.stat(&other.chain_id().into()).unwrap();
        assert!(served.engine.content().info(&other.blobs[1].digest).is_ok());
    }
}

#[tokio::test]
async fn several_platforms_go_below_the_index_as_it_is() {
    let (first, second) = (Registry::start(), Registry::start());
    let images = [1, 2, 3].map(|seed| Image::random(seed, &[3000]));
    let index = index_of(&[
        ("amd64", None, images[0].clone()),
        ("arm64", None, images[1].clone()),
        ("s390x", None, images[2].clone()),
    ]);
    index.push(&first, "app", "1");
    let served = Served::new("overlayfs");
    let two = || vec![amd64(), Platform { architecture: "arm64".into(), ..amd64() }];
    let mut to = named("app");
    to.platforms = two();
    transfer(&served, plain(&first.reference("app:1")), pack(&to), "").await.unwrap();
    let mut from = named("app");
    // There is not all of it to push, and the registry wants all that an index names.
    let push = |from: &ImageStore, to: &str| {
        transfer(&served, pack(from), plain(&second.reference(to)), "")
    };
    push(&from, "app:1").await.unwrap_err();
    from.platforms = two();
    push(&from, "app:1").await.unwrap_err();
    images[2].push(&second, "app", "s390x");
    push(&from, "app:1").await.unwrap();
    let other = Served::new("overlayfs");
    transfer(&other, plain(&second.reference("app:1")), pack(&named("app")), "").await.unwrap();
    let got = other.engine.images().list().unwrap();
    assert_eq!(got[0].target.digest, index.manifest.digest);
    assert!(index.blobs.iter().all(|blob| other.engine.content().info(&blob.digest).is_ok()));
}

#[tokio::test]
async fn a_directory_of_hosts_says_how_a_registry_is_reached() {
    let (open, image) = (Registry::start(), Image::random(1, &[3000]));
    image.push(&open, "app", "1");
    let certificates = Certificates::new();
    let tls = Registry::with(RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some(certificates.server("good", "IP:127.0.0.1")),
        ..RegistryOptions::default()
    });
    let served = Served::new("overlayfs");
    let hosts = served.path("hosts");
    let dir = hosts.join(format!("127.0.0.1_{}_", tls.port()));
    std::fs::create_dir_all(&dir).unwrap();
    let host_dir = hosts.to_str().unwrap();
    let reference = tls.reference("app:1");
    let pull = || {
        let resolver = RegistryResolver { host_dir: host_dir.into(), ..Default::default() };
        transfer(&served, registry(&reference, resolver), pack(&store("app")), "")
    };
    let say = |text: &str| {
        let server = format!("server = \"https://{}\"\n{text}", tls.address());
        std::fs::write(dir.join("hosts.toml"), server).unwrap();
    };
    pull().await.unwrap_err();
    say("");
    pull().await.unwrap_err();
    say("skip_verify = true");
    pull().await.unwrap();
    say("ca = \"ca.pem\"");
    pull().await.unwrap_err();
    std::fs::copy(certificates.authority(), dir.join("ca.pem")).unwrap();
    pull().await.unwrap();
    std::fs::remove_file(dir.join("hosts.toml")).unwrap();
    pull().await.unwrap_err();
    std::fs::rename(dir.join("ca.pem"), dir.join("ca.crt")).unwrap();
    pull().await.unwrap();
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
    std::fs::write(hosts.join("_default/hosts.toml"), "stargz = true").unwrap();
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
            registry(
                &reference,
                RegistryResolver { http_debug: HttpDebug::Both.into(), ..resolver() },
            ),
            pack(&store("a")),
            Code::Unimplemented,
            "over http",
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
    // The last word has a name: at others clients draw nothing.
    assert_eq!(told.last().unwrap().name, "app");
    let last = told.iter().rfind(|told| told.name.is_empty()).unwrap();
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
    for size in [32 << 10, 1 << 20] {
        opened.send(&Data { data: vec![0; size].into() }).await;
    }
    let (from, to) = ends();
    let failed = transfer(&served, from, to, "").await;
    refused(failed, Code::InvalidArgument);
    assert!(drained.await.unwrap().is_err(), "the half that came does not look whole");
    drop(opened);
}
