//! `diff.v1`: layers of trees and trees of layers, also with containerd's.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist::DiffBlob;
use dist_core::{Cancel, Digest, ErrorKind, Expected, Labels, Provider as _, SnapshotKey};
use dist_grpc::api::containerd::services::content::v1::content_client::ContentClient;
use dist_grpc::api::containerd::services::content::v1::{
    ReadContentRequest, WriteAction, WriteContentRequest,
};
use dist_grpc::api::containerd::services::diff::v1::diff_client::DiffClient;
use dist_grpc::api::containerd::services::diff::v1::{ApplyRequest, DiffRequest};
use dist_grpc::api::containerd::types::{Descriptor, Mount};
use dist_store::Sharing;
use dist_testutil::{Containerd, Image, Registry, Tree};
use prost_types::Timestamp;
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{Served, connect, refused, request};

const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

fn bind(dir: &Path, access: &str) -> Mount {
    Mount {
        r#type: "bind".into(),
        source: dir.to_str().unwrap().into(),
        target: String::new(),
        options: vec![access.into(), "rbind".into()],
    }
}

fn overlay(upper: &Path, lower: &Path) -> Mount {
    let work = upper.with_extension("work");
    fs_err::create_dir_all(&work).unwrap();
    let options = [("upperdir", upper), ("lowerdir", lower), ("workdir", &work)];
    Mount {
        r#type: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: options.map(|(name, dir)| format!("{name}={}", dir.display())).to_vec(),
    }
}

/// Two trees with every kind of difference.
struct Trees {
    dir: dist_testutil::Scratch,
}

impl Trees {
    fn new() -> Self {
        let trees = Self { dir: dist_testutil::scratch() };
        for side in ["a", "b"] {
            let root = trees.path(side);
            fs_err::create_dir_all(root.join("kept/deep")).unwrap();
            fs_err::write(root.join("kept/deep/same"), b"same").unwrap();
            fs_err::write(root.join("kept/changed"), side).unwrap();
        }
        fs_err::create_dir(trees.path("a/gone")).unwrap();
        fs_err::write(trees.path("a/gone/inner"), b"x").unwrap();
        fs_err::write(trees.path("a/was-file"), b"x").unwrap();
        fs_err::create_dir(trees.path("b/was-file")).unwrap();
        fs_err::write(trees.path("b/was-file/new"), b"y").unwrap();
        fs_err::hard_link(trees.path("b/was-file/new"), trees.path("b/other")).unwrap();
        fs_err::os::unix::fs::symlink("../outside", trees.path("b/link")).unwrap();
        // Whole seconds, which is what containerd writes. Where times are the same to the
        // nanosecond, it does not look at contents.
        for (path, time) in [("a", "@1000"), ("b", "@1000"), ("b/kept/changed", "@2000")] {
            let path = trees.path(path);
            let touch = ["-exec", "touch", "-h", "-d", time, "{}", "+"].map(OsStr::new);
            dist_testutil::run("find", &[&[path.as_os_str()], &touch[..]].concat());
        }
        trees
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A fresh copy of the first tree.
    fn copy(&self, name: &str) -> PathBuf {
        let (from, to) = (self.path("a/."), self.path(name));
        fs_err::create_dir(&to).unwrap();
        dist_testutil::run("cp", &["-a".as_ref(), from.as_os_str(), to.as_os_str()]);
        to
    }

    fn request(&self, media_type: &str) -> DiffRequest {
        DiffRequest {
            left: vec![bind(&self.path("a"), "ro")],
            right: vec![bind(&self.path("b"), "ro")],
            media_type: media_type.into(),
            ..DiffRequest::default()
        }
    }
}

/// A tree but for its root's own time, which no layer holds.
fn tree(root: &Path) -> Tree {
    let mut tree = Tree::read(root);
    tree.0.get_mut(Path::new("")).unwrap().mtime = 0;
    tree
}

async fn diff(channel: Channel, message: DiffRequest) -> Descriptor {
    DiffClient::new(channel).diff(request(message)).await.unwrap().into_inner().diff.unwrap()
}

async fn apply(channel: Channel, diff: Descriptor, mount: Mount) -> Descriptor {
    let message = ApplyRequest {
        diff: Some(diff),
        mounts: vec![mount],
        sync_fs: true,
        ..ApplyRequest::default()
    };
    DiffClient::new(channel).apply(request(message)).await.unwrap().into_inner().applied.unwrap()
}

#[tokio::test]
async fn a_layer_of_two_trees_makes_the_one_into_the_other() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let expected = tree(&trees.path("b"));
    let mut diff_ids = Vec::new();
    for (at, media_type) in [PLAIN, GZIP, ZSTD, ""].into_iter().enumerate() {
        let layer = diff(served.channel(), trees.request(media_type)).await;
        assert_eq!(layer.media_type, if media_type.is_empty() { GZIP } else { media_type });
        let again = diff(served.channel(), trees.request(media_type)).await;
        assert_eq!(again, layer, "the same trees give the same bytes");

        let digest: Digest = layer.digest.parse().unwrap();
        let info = served.engine.content().info(&digest).unwrap();
        assert_eq!(info.size, layer.size.unsigned_abs());
        let uncompressed = info.labels.get("containerd.io/uncompressed");
        let copy = trees.copy(&format!("bind-{at}"));
        let applied = apply(served.channel(), layer.clone(), bind(&copy, "rw")).await;
        assert_eq!(applied.media_type, PLAIN);
        assert_eq!(uncompressed, (media_type != PLAIN).then_some(&applied.digest));
        expected.assert_same(&tree(&copy), media_type);
        diff_ids.push((applied.digest, applied.size));

        let upper = trees.path(&format!("upper-{at}"));
        fs_err::create_dir(&upper).unwrap();
        let stacked = overlay(&upper, &trees.path("a"));
        let applied = apply(served.channel(), layer.clone(), stacked.clone()).await;
        assert_eq!(diff_ids[0], (applied.digest, applied.size));
        let request = DiffRequest { right: vec![stacked], ..trees.request(media_type) };
        assert_eq!(diff(served.channel(), request).await, layer, "an overlay is what it shows");
    }
    assert!(diff_ids.iter().all(|it| *it == diff_ids[0]));
}

/// Clients that unpack layers at once prepare each without a parent, and ask for an overlay's marks
/// by an overlay that has nothing below.
#[tokio::test]
async fn a_layer_whose_parent_comes_later_keeps_its_marks() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let layer = diff(served.channel(), trees.request(PLAIN)).await;
    let upper = trees.path("alone");
    fs_err::create_dir(&upper).unwrap();
    let alone = Mount {
        r#type: "overlay".into(),
        source: "overlay".into(),
        target: String::new(),
        options: vec!["rw".into(), format!("upperdir={}", upper.display())],
    };
    apply(served.channel(), layer.clone(), alone).await;
    let stacked = overlay(&upper, &trees.path("a"));
    let request = DiffRequest { right: vec![stacked], ..trees.request(PLAIN) };
    assert_eq!(diff(served.channel(), request).await, layer);
}

/// As newer clients do where they may: all at once, and parents at the commits.
#[tokio::test]
async fn images_are_made_of_layers_in_any_order() {
    let (registry, image) = (Registry::start(), Image::varied());
    image.push(&registry, "test/any-order", "1");
    let served = Served::new("erofs");
    let wanted = dist::Wanted { platforms: dist::Platforms::default(), ..Default::default() };
    let reference = registry.reference("test/any-order:1");
    dist::pull_as(&served.engine, &reference, &wanted, 2, Arc::new(())).await.unwrap();
    let snapshotter = served.engine.snapshotter().unwrap();
    let labels = Labels::new();
    let key = |text: &str| text.parse::<SnapshotKey>().unwrap();
    let layers: Vec<_> = image.blobs[1..].iter().enumerate().collect();
    for (number, blob) in layers.iter().rev() {
        let mounts = snapshotter.prepare(&key(&format!("making {number}")), None, &labels).unwrap();
        let dir = mounts[0].writable_dir().unwrap();
        let desc = Descriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.to_string(),
            size: blob.bytes.len() as i64,
            ..Descriptor::default()
        };
        let applied = apply(served.channel(), desc.clone(), bind(&dir, "rw")).await;
        assert_eq!(applied.digest, image.diff_ids[*number].to_string());
        assert_eq!(fs_err::read_dir(&dir).unwrap().count(), 0, "files were made");
        // What is there cannot be seen, so a second layer could not be put on it.
        let message = ApplyRequest {
            diff: Some(desc),
            mounts: vec![bind(&dir, "rw")],
            ..ApplyRequest::default()
        };
        let again = DiffClient::new(served.channel()).apply(request(message)).await;
        refused(again, Code::FailedPrecondition);
        if *number == 1 {
            fs_err::write(dir.join("written"), "later").unwrap();
            let error =
                snapshotter.commit(&key("1"), &key("making 1"), None, &labels, None).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::FailedPrecondition);
            fs_err::remove_file(dir.join("written")).unwrap();
        }
    }
    for (number, _) in layers {
        let parent = number.checked_sub(1).map(|below| key(&below.to_string()));
        let (name, making) = (key(&number.to_string()), key(&format!("making {number}")));
        snapshotter.commit(&name, &making, parent.as_ref(), &labels, None).unwrap();
    }
    // As the older ones do: each on those below, by the mounts of both.
    for (number, blob) in image.blobs[1..].iter().enumerate() {
        let parent = number.checked_sub(1).map(|below| key(&format!("on {below}")));
        let (name, making) = (key(&format!("on {number}")), key("making"));
        let mounts = snapshotter.prepare(&making, parent.as_ref(), &labels).unwrap();
        let mount = Mount {
            r#type: mounts[0].fstype.clone(),
            source: mounts[0].source.display().to_string(),
            target: String::new(),
            options: mounts[0].options.clone(),
        };
        let desc = Descriptor {
            media_type: blob.media_type.clone(),
            digest: blob.digest.to_string(),
            size: blob.bytes.len() as i64,
            ..Descriptor::default()
        };
        apply(served.channel(), desc, mount).await;
        snapshotter.commit(&name, &making, None, &labels, None).unwrap();
    }
    let top = key(&(image.blobs.len() - 2).to_string());
    let seen = |engine: &dist::Engine, top: &SnapshotKey| {
        let (snapshotter, target) = (engine.snapshotter().unwrap(), dist_testutil::scratch());
        let mounts = snapshotter.view(&key("view"), Some(top), &Labels::new()).unwrap();
        dist_snapshot::mount::mount(&mounts, target.path()).unwrap();
        let tree = tree(target.path());
        dist_snapshot::mount::unmount(target.path()).unwrap();
        snapshotter.remove(&key("view")).unwrap();
        tree
    };
    let ours = seen(&served.engine, &top);
    let other = Served::new("overlayfs");
    dist::pull(&other.engine, &reference, &Default::default(), Arc::new(())).await.unwrap();
    let whole = seen(&other.engine, &image.chain_id().into());
    ours.assert_same(&whole, "unpacked layer by layer");
    let top = key(&format!("on {}", image.blobs.len() - 2));
    seen(&served.engine, &top).assert_same(&whole, "each on those below");
}

#[tokio::test]
async fn a_second_layer_on_the_same_overlay_hides_what_the_first_brought() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let (upper, empty) = (trees.path("upper"), trees.path("empty"));
    for dir in [&upper, &empty] {
        fs_err::create_dir(dir).unwrap();
    }
    let onto = overlay(&upper, &empty);
    for (left, right) in [("empty", "a"), ("a", "b")] {
        let request = DiffRequest {
            left: vec![bind(&trees.path(left), "ro")],
            right: vec![bind(&trees.path(right), "ro")],
            ..DiffRequest::default()
        };
        let layer = diff(served.channel(), request).await;
        apply(served.channel(), layer, onto.clone()).await;
    }
    let request = DiffRequest {
        left: vec![onto],
        right: vec![bind(&trees.path("b"), "ro")],
        media_type: PLAIN.into(),
        ..DiffRequest::default()
    };
    assert_eq!(diff(served.channel(), request).await.size, 1024, "no difference is left");
}

#[tokio::test]
async fn what_is_not_a_directory_is_mounted_where_nobody_sees_it() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let tmpfs = Mount { r#type: "tmpfs".into(), source: "tmpfs".into(), ..Mount::default() };
    let request = DiffRequest { right: vec![tmpfs], ..trees.request(PLAIN) };
    let layer = diff(served.channel(), request).await;
    let copy = trees.copy("copy");
    apply(served.channel(), layer, bind(&copy, "rw")).await;
    assert_eq!(fs_err::read_dir(&copy).unwrap().count(), 0);
}

#[tokio::test]
async fn nothing_at_all_has_a_layer_too() {
    let served = Served::new("overlayfs");
    let layer = diff(served.channel(), DiffRequest::default()).await;
    assert_eq!(layer.media_type, GZIP);
    let message = ApplyRequest { diff: Some(layer), ..ApplyRequest::default() };
    let applied = DiffClient::new(served.channel()).apply(request(message)).await.unwrap();
    let applied = applied.into_inner().applied.unwrap();
    assert_eq!(applied.digest, Digest::sha256(&[0; 1024]).to_string());
    assert_eq!(applied.size, 1024);
}

#[tokio::test]
async fn a_given_ref_is_truncated_and_labels_are_kept() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let key = "mine".parse().unwrap();
    let content = served.engine.content();
    let mut left = content.open_writer(&key, Expected::default(), Sharing::Shared).unwrap();
    left.write(b"left by somebody").unwrap();
    let held = DiffClient::new(served.channel())
        .diff(request(DiffRequest { r#ref: "mine".into(), ..trees.request(PLAIN) }))
        .await;
    assert_eq!(held.unwrap_err().code(), Code::Unavailable);
    drop(left);
    let labels = HashMap::from([("a".to_owned(), "b".to_owned())]);
    let message = DiffRequest { r#ref: "mine".into(), labels, ..trees.request(PLAIN) };
    let layer = diff(served.channel(), message).await;
    let digest: Digest = layer.digest.parse().unwrap();
    assert_eq!(content.info(&digest).unwrap().labels["a"], "b");
    assert!(content.ingests().unwrap().is_empty());
    content.verify(&digest, &dist_core::Cancel::default()).unwrap();
}

#[tokio::test]
async fn times_are_bounded_by_the_epoch_of_the_source() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let source_date_epoch = Some(Timestamp { seconds: 77, nanos: 0 });
    let message = DiffRequest { source_date_epoch, ..trees.request(PLAIN) };
    let layer = diff(served.channel(), message).await;
    let copy = trees.copy("copy");
    apply(served.channel(), layer, bind(&copy, "rw")).await;
    assert_eq!(tree(&copy).0[Path::new("other")].mtime, 77_000_000_000);
}

#[tokio::test]
async fn a_layer_that_cannot_be_committed_leaves_no_ingest_but_a_client_s_own() {
    let served = Served::new("overlayfs");
    let content = served.engine.content();
    for (key, left) in [(None, 0), (Some("mine".parse().unwrap()), 1)] {
        let labels = [("a".to_owned(), "b".repeat(5000))].into();
        let options = DiffBlob { key, labels, ..DiffBlob::default() };
        let made = dist::diff_blob(&content, &[], &[], &options, &Cancel::default());
        assert_eq!(made.unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(content.ingests().unwrap().len(), left);
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_said_in_its_class() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let mut client = DiffClient::new(served.channel());
    refused(client.apply(request(ApplyRequest::default())).await, Code::InvalidArgument);
    let layer = diff(served.channel(), trees.request(GZIP)).await;
    let target = fs_err::canonicalize(trees.copy("target")).unwrap();
    let ask = |diff: Descriptor, access: &str| {
        request(ApplyRequest {
            diff: Some(diff),
            mounts: vec![bind(&target, access)],
            ..ApplyRequest::default()
        })
    };
    let missing = Descriptor { digest: Digest::sha256(b"no").to_string(), ..layer.clone() };
    refused(client.apply(ask(missing, "rw")).await, Code::NotFound);
    let malformed = Descriptor { digest: "sha256:no".into(), ..layer.clone() };
    refused(client.apply(ask(malformed, "rw")).await, Code::InvalidArgument);
    let unknown = Descriptor { media_type: "text/plain".into(), ..layer.clone() };
    refused(client.apply(ask(unknown, "rw")).await, Code::Unimplemented);
    refused(client.apply(ask(layer, "ro")).await, Code::FailedPrecondition);
    refused(client.diff(request(trees.request("text/plain"))).await, Code::Unimplemented);
    let lost = DiffRequest { left: vec![bind(&trees.path("no"), "ro")], ..trees.request("") };
    refused(client.diff(request(lost)).await, Code::NotFound);
    assert_eq!(tree(&target).0, tree(&trees.path("a")).0, "nothing was done");
    assert!(served.engine.content().ingests().unwrap().is_empty());
}

#[tokio::test]
async fn a_layer_whose_type_names_another_compression_is_read_as_what_it_is() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let zstd = diff(served.channel(), trees.request(ZSTD)).await;
    let layer = Descriptor { media_type: GZIP.into(), ..zstd };
    let copy = trees.copy("copy");
    apply(served.channel(), layer, bind(&copy, "rw")).await;
    tree(&trees.path("b")).assert_same(&tree(&copy), "applied");
}

/// Keeps a blob whatever is collected.
fn root_label() -> HashMap<String, String> {
    HashMap::from([("containerd.io/gc.root".to_owned(), "test".to_owned())])
}

/// Stores a blob in containerd.
async fn store(channel: Channel, bytes: Vec<u8>) {
    let commit = WriteContentRequest {
        action: WriteAction::Commit.into(),
        r#ref: "layer".into(),
        total: bytes.len().try_into().unwrap(),
        expected: Digest::sha256(&bytes).to_string(),
        data: bytes.into(),
        labels: root_label(),
        ..WriteContentRequest::default()
    };
    let messages = request(tokio_stream::iter([commit]));
    let mut answers = ContentClient::new(channel).write(messages).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
}

async fn load(channel: Channel, digest: &str) -> Vec<u8> {
    let message = ReadContentRequest { digest: digest.into(), ..ReadContentRequest::default() };
    let mut blocks = ContentClient::new(channel).read(request(message)).await.unwrap().into_inner();
    let mut bytes = Vec::new();
    while let Some(block) = blocks.message().await.unwrap() {
        bytes.extend(block.data);
    }
    bytes
}

#[tokio::test]
async fn containerd_reads_our_layers_and_we_read_its() {
    let (served, trees) = (Served::new("overlayfs"), Trees::new());
    let containerd = Containerd::start();
    let theirs = connect(containerd.socket().to_owned());
    let expected = tree(&trees.path("b"));

    let layer = diff(served.channel(), trees.request(GZIP)).await;
    let digest: Digest = layer.digest.parse().unwrap();
    let path = served.engine.content().path(&digest).unwrap();
    store(theirs.clone(), fs_err::read(path).unwrap()).await;
    let copy = trees.copy("by-containerd");
    let applied = apply(theirs.clone(), layer.clone(), bind(&copy, "rw")).await;
    assert_eq!(applied, apply(served.channel(), layer, bind(&trees.copy("by-us"), "rw")).await);
    expected.assert_same(&tree(&copy), "our layer, unpacked by containerd");

    let message = DiffRequest { labels: root_label(), ..trees.request(GZIP) };
    let layer = diff(theirs.clone(), message).await;
    let bytes = load(theirs, &layer.digest).await;
    let content = served.engine.content();
    let mut writer = content
        .open_writer(&"theirs".parse().unwrap(), Expected::default(), Sharing::Shared)
        .unwrap();
    writer.write(&bytes).unwrap();
    writer.commit(Expected::default(), &dist_core::Labels::new()).unwrap();
    content.open(&layer.digest.parse().unwrap()).unwrap();
    let copy = trees.copy("of-containerd");
    apply(served.channel(), layer, bind(&copy, "rw")).await;
    expected.assert_same(&tree(&copy), "containerd's layer, unpacked by us");
}
