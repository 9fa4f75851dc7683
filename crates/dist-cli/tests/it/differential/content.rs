//! `content.v1`: the state machine of writes, reads at every edge, labels and filters.

use std::collections::HashMap;

use dist_grpc::api::containerd::services::content::v1 as api;
use prost_types::FieldMask;
use tonic::Status;

use super::Log;
use crate::wire::{Server, commit, request, stat, write};

const NS: &str = "differential-content";
/// All is under a lease, so that no collection between two calls takes any.
const LEASE: &str = "all";
const ABSENT: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

pub(crate) async fn calls(server: &Server, log: &mut Log) {
    for namespace in [NS, "differential-content-2", "differential-filters"] {
        server.lease(namespace, LEASE, &[]).await;
    }
    writes(server, log).await;
    failed_commits(server, log).await;
    rivals(server, log).await;
    reads(server, log).await;
    labels(server, log).await;
    filters(server, log).await;
    rest(server, log).await;
}

fn state(answer: api::WriteContentResponse) -> String {
    format!("offset {} total {} digest {}", answer.offset, answer.total, answer.digest)
}

fn sorted(labels: HashMap<String, String>) -> String {
    let mut labels: Vec<String> = labels
        .into_iter()
        .map(|(key, value)| {
            format!("{}={}", &key[..key.len().min(40)], &value[..value.len().min(40)])
        })
        .collect();
    labels.sort_unstable();
    labels.join(" ")
}

async fn writes(server: &Server, log: &mut Log) {
    let mut writer = server.writer(NS, LEASE);
    log.note("write: no ref", writer.say(stat("")).await, state);
    let mut writer = server.writer(NS, LEASE);
    log.note("write: stat", writer.say(stat("one")).await, state);
    log.note("write: five bytes", writer.say(write("one", 0, b"12345")).await, state);
    log.note("write: five more", writer.say(write("one", 5, b"67890")).await, state);
    log.note("write: without a ref after the first", writer.say(write("", 10, b"x")).await, state);
    log.note("write: stat in between", writer.say(stat("one")).await, state);
    log.note("write: another ref in between", writer.say(stat("two")).await, state);
    log.note("write: ahead of the end", writer.say(write("one", 99, b"x")).await, state);
    writer.close().await;
    let mut writer = server.writer(NS, LEASE);
    log.note("write: opened again", writer.say(stat("one")).await, state);
    log.note("write: nothing at 0 cuts all", writer.say(write("one", 0, b"")).await, state);
    log.note("write: after the cut", writer.say(write("one", 0, b"abc")).await, state);
    writer.close().await;
    let mut writer = server.writer(NS, LEASE);
    log.note("write: negative offset", writer.say(write("negative", -1, b"x")).await, state);
    writer.close().await;
    let abort = api::AbortRequest { r#ref: "negative".into() };
    log.code(
        "write: what a negative offset left",
        server.content().abort(request(NS, "", abort)).await,
    );
    let mut writer = server.writer(NS, LEASE);
    log.note("write: first message", writer.say(write("three", 0, b"abc")).await, state);
    log.note(
        "write: commit with data",
        writer.say(api::WriteContentRequest { offset: 3, ..commit("three", b"def") }).await,
        state,
    );
    log.note("write: after the commit", writer.say(stat("three")).await, state);
    let mut writer = server.writer(NS, LEASE);
    log.note("write: commit at once", writer.say(commit("four", b"at once")).await, state);
    let mut writer = server.writer(NS, LEASE);
    log.note("write: commit of nothing", writer.say(commit("five", b"")).await, state);
    let mut writer = server.writer(NS, LEASE);
    let expected = api::WriteContentRequest { expected: "sha256:beef".into(), ..stat("six") };
    log.note("write: malformed expected", writer.say(expected).await, state);
    writer.close().await;
    let mut writer = server.writer(NS, LEASE);
    let expected = api::WriteContentRequest {
        expected: dist_core::Digest::sha256(b"at once").to_string(),
        ..stat("seven")
    };
    log.note("write: expected is there", writer.say(expected).await, state);
    let mut writer = server.writer(NS, LEASE);
    let total = api::WriteContentRequest { total: 10, ..stat("eight") };
    log.note("write: a total", writer.say(total).await, state);
    log.note("write: more than the total", writer.say(write("eight", 0, &[7; 20])).await, state);
    writer.close().await;
    let mut writer = server.writer(NS, LEASE);
    let unknown = api::WriteContentRequest { action: 17, ..stat("nine") };
    log.note("write: unknown action", writer.say(unknown).await, state);
    writer.close().await;
}

async fn failed_commits(server: &Server, log: &mut Log) {
    for (name, message) in [
        ("wrong size", api::WriteContentRequest { total: 99, ..commit("failing", b"failed") }),
        (
            "wrong digest",
            api::WriteContentRequest { expected: ABSENT.into(), ..commit("failing", b"failed") },
        ),
        (
            "malformed digest",
            api::WriteContentRequest { expected: "beef".into(), ..commit("failing", b"failed") },
        ),
        (
            "label of 4097",
            api::WriteContentRequest {
                labels: [("k".to_owned(), "v".repeat(4096))].into(),
                ..commit("failing", b"failed")
            },
        ),
    ] {
        let mut writer = server.writer(NS, LEASE);
        log.note(&format!("commit: {name}"), writer.say(message).await, state);
        writer.close().await;
        let mut writer = server.writer(NS, LEASE);
        log.note(&format!("commit: after {name}"), writer.say(stat("failing")).await, state);
        writer.close().await;
    }
    let mut writer = server.writer(NS, LEASE);
    let right = api::WriteContentRequest {
        expected: dist_core::Digest::sha256(b"failed").to_string(),
        total: 6,
        ..commit("failing", b"failed")
    };
    log.note("commit: right at last", writer.say(right).await, state);
    let mut writer = server.writer(NS, LEASE);
    log.note("commit: the same bytes again", writer.say(commit("other", b"failed")).await, state);
    let answer = server
        .content()
        .status(request(NS, "", api::StatusRequest { r#ref: "other".into() }))
        .await;
    log.code("commit: the ingest after AlreadyExists", answer);
}

async fn rivals(server: &Server, log: &mut Log) {
    let (mut a, mut b) = (server.writer(NS, LEASE), server.writer(NS, LEASE));
    log.note("rivals: first", a.say(write("shared", 0, b"mine")).await, state);
    log.note("rivals: second on the ref", b.say(stat("shared")).await, state);
    let mut other = server.writer("differential-content-2", LEASE);
    log.note("rivals: the ref in another namespace", other.say(stat("shared")).await, state);
    other.close().await;
    a.close().await;
    let mut b = server.writer(NS, LEASE);
    log.note("rivals: when the first has gone", b.say(stat("shared")).await, state);
    b.close().await;
    let (mut a, mut b) = (server.writer(NS, LEASE), server.writer(NS, LEASE));
    log.note("rivals: a writes", a.say(write("same-a", 0, b"same")).await, state);
    log.note("rivals: b writes the same", b.say(write("same-b", 0, b"same")).await, state);
    let end = |name| api::WriteContentRequest { offset: 4, ..commit(name, b"") };
    log.note("rivals: a commits", a.say(end("same-a")).await, state);
    log.note("rivals: b commits the same", b.say(end("same-b")).await, state);
    let digest = dist_core::Digest::sha256(b"same").to_string();
    let mut shared = server.writer("differential-content-2", LEASE);
    let expected =
        api::WriteContentRequest { expected: digest.clone(), total: 4, ..stat("from-there") };
    log.note("sharing: opens whole", shared.say(expected).await, state);
    let end = api::WriteContentRequest { expected: digest.clone(), total: 4, ..end("from-there") };
    log.note("sharing: commits without bytes", shared.say(end).await, state);
    let there = api::InfoRequest { digest: digest.clone() };
    let info = server.content().info(request("differential-content-2", "", there)).await;
    log.code("sharing: is there", info);
    let nowhere = api::InfoRequest { digest };
    let info = server.content().info(request("differential-content-3", "", nowhere)).await;
    log.code("sharing: is nowhere else", info);
}

async fn read(server: &Server, digest: &str, offset: i64, size: i64) -> Result<String, Status> {
    let message = api::ReadContentRequest { digest: digest.to_owned(), offset, size };
    let mut answers = server.content().read(request(NS, "", message)).await?.into_inner();
    let mut all = Vec::new();
    while let Some(answer) = answers.message().await? {
        all.extend_from_slice(&answer.data);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

async fn reads(server: &Server, log: &mut Log) {
    let digest = server.blob(NS, LEASE, b"0123456789").await;
    let empty = dist_core::Digest::sha256(b"").to_string();
    for (offset, size) in [
        (0, 0),
        (0, 10),
        (0, 3),
        (0, 11),
        (0, -1),
        (3, 0),
        (3, 4),
        (3, 99),
        (9, 1),
        (10, 0),
        (10, 1),
        (11, 0),
        (11, 1),
        (-1, 0),
        (-1, 5),
        (-20, 5),
    ] {
        log.note(
            &format!("read: at {offset}, {size}"),
            read(server, &digest, offset, size).await,
            |data| data,
        );
    }
    for (offset, size) in [(0, 0), (0, 1), (1, 0)] {
        log.note(
            &format!("read: nothing at {offset}, {size}"),
            read(server, &empty, offset, size).await,
            |data| data,
        );
    }
    for bad in [ABSENT, "", "sha256:beef", "md5:d41d8cd98f00b204e9800998ecf8427e", "none"] {
        log.note(&format!("read: {bad:?}"), read(server, bad, 0, 0).await, |data| data);
        let info =
            server.content().info(request(NS, "", api::InfoRequest { digest: bad.into() })).await;
        log.code(&format!("info: {bad:?}"), info);
        let message = api::DeleteContentRequest { digest: bad.into() };
        log.code(
            &format!("delete: {bad:?}"),
            server.content().delete(request(NS, "", message)).await,
        );
    }
}

async fn labels(server: &Server, log: &mut Log) {
    let digest = server.blob(NS, LEASE, b"labelled").await;
    let update = async |mask: &[&str], labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let info = api::Info { digest: digest.clone(), labels, ..Default::default() };
        let paths: Vec<String> = mask.iter().map(|path| (*path).to_owned()).collect();
        let update_mask = (!paths.is_empty()).then_some(FieldMask { paths });
        let message = api::UpdateRequest { info: Some(info), update_mask };
        server.content().update(request(NS, "", message)).await
    };
    let told = |answer: tonic::Response<api::UpdateResponse>| {
        sorted(answer.into_inner().info.map(|info| info.labels).unwrap_or_default())
    };
    let long = "v".repeat(4095);
    log.note("labels: all", update(&[], &[("a", "1"), ("b.c/d", "2"), ("e\"f", "3")]).await, told);
    log.note(
        "labels: one of three",
        update(&["labels.b.c/d"], &[("b.c/d", "4"), ("x", "y")]).await,
        told,
    );
    log.note("labels: one is emptied", update(&["labels.a"], &[("a", "")]).await, told);
    log.note("labels: a quote in the key", update(&["labels.e\"f"], &[("e\"f", "5")]).await, told);
    log.note("labels: the mask names them all", update(&["labels"], &[("g", "6")]).await, told);
    log.note("labels: an absent one is removed", update(&["labels.none"], &[]).await, told);
    log.note("labels: size in the mask", update(&["size"], &[]).await, told);
    log.note("labels: unknown field in the mask", update(&["none"], &[]).await, told);
    log.note("labels: an empty key", update(&[], &[("", "v")]).await, told);
    log.note("labels: 4095", update(&[], &[("k", &long[1..])]).await, told);
    log.note("labels: 4096", update(&[], &[("k", &long)]).await, told);
    log.note("labels: 4097", update(&[], &[("kk", &long)]).await, told);
    log.note("labels: 4097 by a mask", update(&["labels.kk"], &[("kk", &long)]).await, told);
    log.note("labels: none left", update(&[], &[]).await, told);
    let nothing = api::UpdateRequest { info: None, update_mask: None };
    log.code("absent: content.Update", server.content().update(request(NS, "", nothing)).await);
    for bad in [ABSENT, "", "sha256:beef"] {
        let info = api::Info { digest: bad.into(), ..Default::default() };
        let message = api::UpdateRequest { info: Some(info), update_mask: None };
        log.code(
            &format!("labels: {bad:?}"),
            server.content().update(request(NS, "", message)).await,
        );
    }
}

async fn filters(server: &Server, log: &mut Log) {
    let namespace = "differential-filters";
    for (data, labels) in [
        ("one", vec![("a", "1"), ("containerd.io/x", "y")]),
        ("two", vec![("a", "2")]),
        ("three", vec![]),
    ] {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let message = api::WriteContentRequest { labels, ..commit(data, data.as_bytes()) };
        server.writer(namespace, LEASE).say(message).await.expect("write a blob");
    }
    let one = format!("digest=={}", dist_core::Digest::sha256(b"one"));
    for filters in [
        vec![],
        vec![""],
        vec!["", "digest==none"],
        vec![&*one],
        vec!["digest==sha256:0"],
        vec!["labels.a==1", "labels.a==2"],
        vec!["labels.a==1,labels.a==2"],
        vec!["labels.a"],
        vec!["labels.a!=1"],
        vec!["labels.none!=1"],
        vec!["labels.\"containerd.io/x\"==y"],
        vec!["labels.containerd.io/x==y"],
        vec!["labels.a~=^[12]$"],
        vec!["labels.a~=/1|2/"],
        vec!["labels.a~=[(["],
        vec!["digest=="],
        vec!["=="],
        vec!["digest=sha256"],
        vec!["none==1"],
        vec!["labels.a==\"1"],
        vec![","],
        vec!["labels.a==1,"],
        vec!["size==3"],
        vec!["labels"],
        vec!["labels.a==1 "],
    ] {
        let message = api::ListContentRequest {
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        let listed = async {
            let mut stream =
                server.content().list(request(namespace, "", message)).await?.into_inner();
            let mut found = Vec::new();
            while let Some(block) = stream.message().await? {
                found.extend(block.info.into_iter().map(|info| info.digest[7..15].to_owned()));
            }
            found.sort_unstable();
            Ok::<_, Status>(found.join(" "))
        };
        log.note(&format!("content.List {filters:?}"), listed.await, |found| found);
    }
    for filters in [vec![], vec![""], vec!["ref==one"], vec!["ref=="], vec!["ref!=none"]] {
        let message = api::ListStatusesRequest {
            filters: filters.iter().map(|&filter| filter.to_owned()).collect(),
        };
        let answer = server.content().list_statuses(request(NS, "", message)).await;
        log.note(&format!("content.ListStatuses {filters:?}"), answer, |answer| {
            let mut found: Vec<String> = answer
                .into_inner()
                .statuses
                .into_iter()
                .map(|status| format!("{}={}/{}", status.r#ref, status.offset, status.total))
                .collect();
            found.sort_unstable();
            found.join(" ")
        });
    }
}

async fn rest(server: &Server, log: &mut Log) {
    for reference in ["one", "none", ""] {
        let message = api::StatusRequest { r#ref: reference.to_owned() };
        let answer = server.content().status(request(NS, "", message)).await;
        log.note(&format!("content.Status {reference:?}"), answer, |answer| {
            answer.into_inner().status.map_or("nothing".to_owned(), |status| {
                format!("{} {}/{} {}", status.r#ref, status.offset, status.total, status.expected)
            })
        });
        let message = api::AbortRequest { r#ref: reference.to_owned() };
        log.code(
            &format!("content.Abort {reference:?}"),
            server.content().abort(request(NS, "", message)).await,
        );
    }
    let digest = server.blob(NS, LEASE, b"deleted").await;
    for time in ["once", "twice"] {
        let message = api::DeleteContentRequest { digest: digest.clone() };
        log.code(
            &format!("delete: {time}"),
            server.content().delete(request(NS, "", message)).await,
        );
    }
}
