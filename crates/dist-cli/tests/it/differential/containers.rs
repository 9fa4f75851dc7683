//! Containers: what is refused, what a mask changes, and what a filter finds.

use api::containers::v1::containers_client::ContainersClient;
use api::containers::v1::{self as containers, container::Runtime};
use dist_grpc::api::containerd::services as api;
use prost_types::Any;
use tonic::transport::Channel;

use super::Log;
use super::metadata::{map, mask, sorted};
use crate::wire::{Server, request};

const NS: &str = "containers";

const RUNC: &str = "io.containerd.runc.v2";

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    let mut client = ContainersClient::new(server.channel.clone());
    created(&mut client, log).await;
    updated(&mut client, log).await;
    listed(&mut client, log).await;
    for id in ["whole", "whole", "never", "", "a b"] {
        let message = containers::DeleteContainerRequest { id: id.into() };
        let answer = client.delete(request(NS, "", message)).await;
        log.code(&format!("containers.Delete {id:?}"), answer);
    }
    let message = containers::DeleteContainerRequest { id: "x".into() };
    log.code("containers.Delete in none", client.delete(request("none", "", message)).await);
    let message = containers::ListContainersRequest::default();
    log.code("containers.List without a namespace", client.list(message).await);
    for absent in [false, true].into_iter() {
        let container = (!absent).then(containers::Container::default);
        let what = if absent { "absent" } else { "empty" };
        let message = containers::CreateContainerRequest { container: container.clone() };
        let answer = client.create(request(NS, "", message)).await;
        log.code(&format!("{what}: containers.Create"), answer);
        let message = containers::UpdateContainerRequest { container, update_mask: None };
        let answer = client.update(request(NS, "", message)).await;
        log.code(&format!("{what}: containers.Update"), answer);
    }
}

fn any(text: &str) -> Any {
    Any { type_url: text.to_owned(), value: text.as_bytes().to_vec() }
}

/// A container with something in each field.
fn whole(id: &str) -> containers::Container {
    containers::Container {
        id: id.into(),
        labels: map(&[("a", "1"), ("b.c/d", "2"), ("empty", "")]),
        image: "an image".into(),
        runtime: Some(Runtime { name: RUNC.into(), options: Some(any("options")) }),
        spec: Some(any("\u{1}{\"spec\": 1}\n")),
        snapshotter: "native".into(),
        snapshot_key: "no such snapshot".into(),
        extensions: [("one".into(), any("e1")), ("two.x".into(), any("e2"))].into(),
        ..Default::default()
    }
}

/// Everything of a container but its times, which are told as whether it was changed.
fn facts(container: Option<containers::Container>) -> String {
    let extensions = container.as_ref().map(|container| container.extensions.clone());
    let mut extensions: Vec<String> = extensions
        .unwrap_or_default()
        .into_iter()
        .map(|(name, any)| format!("{name}={}:{}", any.type_url, any.value.len()))
        .collect();
    extensions.sort_unstable();
    format!("{} {extensions:?}", fields(container))
}

/// The same, without the extensions.
fn fields(container: Option<containers::Container>) -> String {
    let container = container.unwrap_or_default();
    let at = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos));
    let changed = at(container.created_at) < at(container.updated_at);
    let dated = container.created_at.is_some() && container.updated_at.is_some();
    let runtime = container.runtime.unwrap_or_default();
    let digest = |any: Option<Any>| {
        any.map(|any| (any.type_url, dist_core::Digest::sha256(&any.value).to_string()))
    };
    format!(
        "{} [{}] {:?} {} {:?} {:?} {:?} {:?} changed {changed} dated {dated}",
        container.id,
        sorted(container.labels),
        container.image,
        runtime.name,
        digest(runtime.options),
        digest(container.spec),
        container.snapshotter,
        container.snapshot_key,
    )
}

async fn created(client: &mut ContainersClient<Channel>, log: &mut Log) {
    let long = "v".repeat(4096);
    let base = || whole("x");
    let runtime = |name: &str, options| {
        Some(Runtime { name: name.into(), options: Option::<Any>::clone(options) })
    };
    for (what, container) in [
        ("whole", whole("whole")),
        ("again", whole("whole")),
        ("no id", whole("")),
        ("a bad id", whole("a b")),
        ("77 characters", whole(&"a".repeat(77))),
        ("a long label", containers::Container { labels: map(&[("k", &long)]), ..base() }),
        ("no runtime", containers::Container { runtime: None, ..base() }),
        ("no runtime's name", containers::Container { runtime: runtime("", &None), ..base() }),
        ("any runtime", containers::Container { runtime: runtime("mine", &None), ..whole("mine") }),
        ("no spec", containers::Container { spec: None, ..base() }),
        ("an empty spec", containers::Container { spec: Some(Any::default()), ..whole("empty") }),
        ("a key alone", containers::Container { snapshotter: String::new(), ..base() }),
        (
            "an unknown snapshotter",
            containers::Container { snapshotter: "none".into(), ..whole("unknown") },
        ),
        (
            "no snapshot",
            containers::Container {
                snapshotter: String::new(),
                snapshot_key: String::new(),
                ..whole("bare")
            },
        ),
        (
            "an extension without a name",
            containers::Container { extensions: [(String::new(), any("e"))].into(), ..base() },
        ),
    ] {
        let message = containers::CreateContainerRequest { container: Some(container) };
        let answer = client.create(request(NS, "", message)).await;
        let fact = |answer: tonic::Response<containers::CreateContainerResponse>| {
            facts(answer.into_inner().container)
        };
        log.note(&format!("containers.Create, {what}"), answer, fact);
    }
    for id in ["whole", "bare", "never", "", "a b"] {
        let message = containers::GetContainerRequest { id: id.into() };
        let answer = client.get(request(NS, "", message)).await;
        let fact = |answer: tonic::Response<containers::GetContainerResponse>| {
            facts(answer.into_inner().container)
        };
        log.note(&format!("containers.Get {id:?}"), answer, fact);
    }
    let message = containers::GetContainerRequest { id: "whole".into() };
    log.code("containers.Get elsewhere", client.get(request("elsewhere", "", message)).await);
}

async fn updated(client: &mut ContainersClient<Channel>, log: &mut Log) {
    let other = || containers::Container {
        labels: map(&[("a", "9"), ("new", "3")]),
        image: "another".into(),
        runtime: Some(Runtime { name: RUNC.into(), options: Some(any("other options")) }),
        spec: Some(any("other spec")),
        snapshot_key: "another".into(),
        extensions: [("two.x".into(), any("e9"))].into(),
        ..whole("whole")
    };
    for (what, container, paths) in [
        ("one label", other(), &["labels.a"][..]),
        ("a label that goes", other(), &["labels.b.c/d"]),
        ("one extension", other(), &["extensions.two.x"]),
        ("an extension that is not there", other(), &["extensions.three"]),
        ("image and key", other(), &["image", "snapshotkey"]),
        ("the key's other name", other(), &["snapshot_key"]),
        ("spec", other(), &["spec"]),
        ("no spec", containers::Container { spec: None, ..other() }, &["spec"]),
        ("runtime", other(), &["runtime"]),
        ("snapshotter", other(), &["snapshotter"]),
        ("id", other(), &["id"]),
        ("an empty path", other(), &[""]),
        ("labels and a label", other(), &["labels", "labels.b.c/d"]),
        (
            "one good, one bad",
            containers::Container { image: "no".into(), ..other() },
            &["image", "x"],
        ),
        (
            "another snapshotter",
            containers::Container { snapshotter: "overlayfs".into(), ..other() },
            &[],
        ),
        (
            "another runtime",
            containers::Container {
                runtime: Some(Runtime { name: "other".into(), options: None }),
                ..other()
            },
            &[],
        ),
        ("no runtime", containers::Container { runtime: None, ..other() }, &[]),
        ("without a mask", whole("whole"), &[]),
        ("never", containers::Container { id: "never".into(), ..other() }, &["image"]),
        ("no id", containers::Container { id: String::new(), ..other() }, &["image"]),
        ("extensions", other(), &["extensions"]),
    ] {
        let update_mask = mask(paths);
        let message =
            containers::UpdateContainerRequest { container: Some(container), update_mask };
        let answer = client.update(request(NS, "", message)).await;
        let fact = |answer: tonic::Response<containers::UpdateContainerResponse>| {
            facts(answer.into_inner().container)
        };
        log.note(&format!("containers.Update, {what}"), answer, fact);
        let message = containers::GetContainerRequest { id: "whole".into() };
        let answer = client.get(request(NS, "", message)).await;
        let fact = |answer: tonic::Response<containers::GetContainerResponse>| {
            fields(answer.into_inner().container)
        };
        log.note(&format!("what it is after: {what}"), answer, fact);
    }
    let message = containers::GetContainerRequest { id: "whole".into() };
    let answer = client.get(request(NS, "", message)).await;
    let count = |answer: tonic::Response<containers::GetContainerResponse>| {
        answer.into_inner().container.map_or(0, |container| container.extensions.len()).to_string()
    };
    log.note("extensions after they were replaced", answer, count);
}

async fn listed(client: &mut ContainersClient<Channel>, log: &mut Log) {
    for filter in [
        None,
        Some(""),
        Some("id==bare"),
        Some("id!=bare"),
        Some("id~=^b"),
        Some("runtime.name==mine"),
        Some("runtime==mine"),
        Some("runtime"),
        Some("image==another"),
        Some("image==third"),
        Some("labels.a==1"),
        Some("labels.\"b.c/d\""),
        Some("snapshotter==native"),
        Some("nonsense"),
        Some("id=="),
        Some("id==a,,"),
    ] {
        let filters: Vec<String> = filter.iter().map(|&filter| filter.to_owned()).collect();
        let message = containers::ListContainersRequest { filters };
        let answer = client.list(request(NS, "", message.clone())).await;
        let ids = |list: Vec<containers::Container>| {
            let ids: Vec<String> = list.into_iter().map(|container| container.id).collect();
            ids.join(" ")
        };
        let name = format!("containers.List {filter:?}");
        log.note(&name, answer, |answer| ids(answer.into_inner().containers));
        let streamed = async {
            let mut stream = client.list_stream(request(NS, "", message)).await?.into_inner();
            let mut list = Vec::new();
            while let Some(message) = stream.message().await? {
                list.extend(message.container);
            }
            Ok(list)
        };
        log.note(&format!("containers.ListStream {filter:?}"), streamed.await, ids);
    }
}
