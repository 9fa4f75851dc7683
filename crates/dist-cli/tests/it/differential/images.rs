//! `images.v1`: what can be registered, how it changes, and what is found.

use dist_grpc::api::containerd::services::images::v1 as images;
use dist_grpc::api::containerd::services::images::v1::images_client::ImagesClient;

use super::Log;
use super::metadata::{NS, TYPE, digest, image, map, mask, sorted};
use crate::wire::{Server, request};

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    creates(server, log).await;
    updates(server, log).await;
    reads_and_deletes(server, log).await;
}

async fn creates(server: &Server, log: &mut Log) {
    let mut client = ImagesClient::new(server.channel.clone());
    let digest = digest();
    for (call, image) in [
        ("first", Some(image("name", &digest, 6, TYPE))),
        ("again", Some(image("name", &digest, 6, TYPE))),
        ("no name", Some(image("", &digest, 6, TYPE))),
        ("odd name", Some(image("a b \u{e4}", &digest, 6, TYPE))),
        ("no digest", Some(image("x", "", 6, TYPE))),
        ("bad digest", Some(image("x", "sha256:beef", 6, TYPE))),
        ("size 0", Some(image("x", &digest, 0, TYPE))),
        ("negative size", Some(image("x", &digest, -1, TYPE))),
        ("no media type", Some(image("x", &digest, 6, ""))),
        ("no target", Some(images::Image { name: "x".into(), ..Default::default() })),
        (
            "long label",
            Some(images::Image {
                labels: map(&[("k", &"v".repeat(4096))]),
                ..image("x", &digest, 6, TYPE)
            }),
        ),
    ] {
        let message = images::CreateImageRequest { image, ..Default::default() };
        let answer = client.create(request(NS, "", message)).await;
        log.code(&format!("images.Create: {call}"), answer);
    }
    let message = images::CreateImageRequest::default();
    log.code("absent: images.Create", client.create(request(NS, "", message)).await);
}

async fn updates(server: &Server, log: &mut Log) {
    let mut client = ImagesClient::new(server.channel.clone());
    let digest = digest();
    let labelled = |labels| images::Image { labels, ..image("name", &digest, 6, TYPE) };
    let other = dist_core::Digest::sha256(b"other").to_string();
    for (call, image, paths) in [
        ("labels", labelled(map(&[("a", "1"), ("b", "2")])), &["labels"][..]),
        ("one label", labelled(map(&[("a", "3"), ("c", "4")])), &["labels.a"]),
        ("a label is emptied", labelled(map(&[("a", "")])), &["labels.a"]),
        (
            "labels without a target",
            images::Image { name: "name".into(), labels: map(&[("d", "5")]), ..Default::default() },
            &["labels.d"],
        ),
        ("another target", image("name", &other, 5, TYPE), &["target"]),
        ("a bad target", image("name", "sha256:beef", 5, TYPE), &["target"]),
        ("the name", image("name", &digest, 6, TYPE), &["name"]),
        ("an unknown field", image("name", &digest, 6, TYPE), &["none"]),
        ("everything", labelled(map(&[("e", "6")])), &[]),
        ("absent image", image("none", &digest, 6, TYPE), &[]),
        ("no name", image("", &digest, 6, TYPE), &[]),
        ("4097", labelled(map(&[("k", &"v".repeat(4096))])), &["labels.k"]),
    ] {
        let message = images::UpdateImageRequest {
            image: Some(image),
            update_mask: mask(paths),
            ..Default::default()
        };
        let answer = client.update(request(NS, "", message)).await;
        log.note(&format!("images.Update: {call}"), answer, |answer| {
            answer.into_inner().image.map_or("nothing".to_owned(), |image| {
                format!(
                    "{} {}",
                    image.target.map(|t| t.digest).unwrap_or_default(),
                    sorted(image.labels)
                )
            })
        });
    }
    let message = images::UpdateImageRequest::default();
    log.code("absent: images.Update", client.update(request(NS, "", message)).await);
}

async fn reads_and_deletes(server: &Server, log: &mut Log) {
    let mut client = ImagesClient::new(server.channel.clone());
    let other = dist_core::Digest::sha256(b"other").to_string();
    for name in ["name", "none", ""] {
        let message = images::GetImageRequest { name: name.into() };
        let answer = client.get(request(NS, "", message)).await;
        log.note(&format!("images.Get {name:?}"), answer, |answer| {
            sorted(answer.into_inner().image.map(|image| image.labels).unwrap_or_default())
        });
    }
    for filters in [
        &[][..],
        &[""],
        &["name==name"],
        &["name~=^n"],
        &["target.mediatype==application/vnd.oci.image.manifest.v1+json"],
        &["target.digest!=x"],
        &["labels.e==6"],
        &["labels.none!=6"],
        &["name~=("],
        &["name=="],
        &["name"],
        &["annotations.x"],
    ] {
        let filters: Vec<String> = filters.iter().map(|filter| (*filter).to_owned()).collect();
        let call = format!("images.List {filters:?}");
        let answer = client.list(request(NS, "", images::ListImagesRequest { filters })).await;
        log.note(&call, answer, |answer| {
            let all = answer.into_inner().images.into_iter().map(|image| image.name);
            all.collect::<Vec<_>>().join("|")
        });
    }
    for (name, target, sync) in [
        ("none", "", false),
        ("", "", false),
        ("name", "other", false),
        ("name", "", true),
        ("name", "", true),
    ] {
        let target = (!target.is_empty()).then(|| image("", &other, 5, TYPE).target).flatten();
        let call = format!("images.Delete {name:?}, target {}", target.is_some());
        let message = images::DeleteImageRequest { name: name.into(), sync, target };
        log.code(&call, client.delete(request(NS, "", message)).await);
    }
}
