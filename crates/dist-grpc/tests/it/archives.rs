//! Images as archives, over streams, and exchanged with other tools.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use dist::{DigestNames, ExportOptions, Exported, ImportOptions, Naming, Platforms};
use dist_core::{Cancel, Digest, ErrorKind};
use dist_grpc::api::containerd::types::Platform;
use dist_grpc::api::containerd::types::transfer::{
    ImageExportStream, ImageImportStream, ImageReference, ImageStore, UnpackConfiguration,
};
use dist_testutil::{Containerd, Form, Image, Registry, index_of, run};
use tonic::Code;

use crate::streams::pack;
use crate::support::{Served, refused};
use crate::transfers::{drain, events, feed, told, transfer};

const NAME: &str = "example.com/team/app:1";

/// A daemon that has `image` under [`NAME`], whole.
async fn holding(image: &Image) -> Served {
    let registry = Registry::start();
    image.push(&registry, "team/app", "1");
    let served = Served::new("overlayfs");
    let names = vec![NAME.parse().unwrap()];
    let wanted = dist::Wanted { platforms: Platforms::All, names, ..dist::Wanted::default() };
    let reference = registry.reference("team/app:1");
    dist::pull_as(&served.engine, &reference, &wanted, 2, Arc::new(())).await.unwrap();
    served
}

fn exported(served: &Served) -> Vec<u8> {
    exported_for(served, &Platforms::default())
}

fn exported_for(served: &Served, platforms: &Platforms) -> Vec<u8> {
    let images = served.engine.images().list().unwrap();
    let one = |dist_core::Image { name, target, .. }| Exported {
        name,
        target,
        platforms: platforms.clone(),
    };
    let images: Vec<_> = images.into_iter().map(one).collect();
    let (mut bytes, options) = (Vec::new(), ExportOptions::default());
    dist::export(&served.engine.content(), &images, &options, &mut bytes, &Cancel::default())
        .unwrap();
    bytes
}

fn any_name() -> ImportOptions {
    let naming = Naming { prefix: "import".into(), foreign: true, digests: DigestNames::Never };
    ImportOptions { namings: vec![naming], ..ImportOptions::default() }
}

async fn import(served: &Served, bytes: &[u8]) -> dist_core::Result<Vec<dist_core::Image>> {
    import_as(served, bytes, &any_name()).await
}

async fn import_as(
    served: &Served,
    bytes: &[u8],
    options: &ImportOptions,
) -> dist_core::Result<Vec<dist_core::Image>> {
    let input = Box::new(std::io::Cursor::new(bytes.to_vec()));
    dist::import(&served.engine, input, options, Arc::new(())).await
}

fn collect(served: &Served) {
    dist::collect(served.engine.store(), Default::default(), &mut Default::default()).unwrap();
}

#[tokio::test]
async fn an_archive_comes_back_byte_by_byte() {
    let image = Image::varied_in(Form::Gzip);
    let other = Image::random(5, &[100_000]);
    let both = index_of(&[("amd64", None, image.clone()), ("arm64", None, other.clone())]);
    let served = holding(&both).await;
    let export = |id: &str| {
        let stream =
            ImageExportStream { stream: id.into(), all_platforms: true, ..Default::default() };
        (pack(&ImageStore { name: NAME.into(), ..Default::default() }), pack(&stream))
    };
    let drained = drain(&served, "out").await;
    let (from, to) = export("out");
    transfer(&served, from, to, "").await.unwrap();
    let bytes = drained.await.unwrap().unwrap();

    let second = Served::new("overlayfs");
    let told = told(&second, "progress").await;
    let fed = feed(&second, "in", bytes.clone()).await;
    let amd64 = Platform { os: "linux".into(), architecture: "amd64".into(), ..Default::default() };
    let prefix = ImageReference {
        name: "import".into(),
        is_prefix: true,
        allow_overwrite: true,
        ..Default::default()
    };
    let store = ImageStore {
        extra_references: vec![prefix],
        unpacks: vec![UnpackConfiguration { platform: Some(amd64), snapshotter: String::new() }],
        ..ImageStore::default()
    };
    let from = ImageImportStream { stream: "in".into(), ..Default::default() };
    transfer(&second, pack(&from), pack(&store), "progress").await.unwrap();
    fed.await.unwrap();
    let told = told.await.unwrap();
    assert_eq!(events(&told, NAME), ["saved"]);
    let whole: Vec<_> = told.iter().filter(|told| told.name.is_empty()).collect();
    assert_eq!(whole.first().unwrap().event, "Importing");
    assert_eq!(whole.last().unwrap().event, "Completed import");
    let images = second.engine.images().list().unwrap();
    assert_eq!((images[0].name.as_str(), images[0].target.digest), (NAME, both.manifest.digest));
    assert!(images[0].target.annotations.is_empty());
    second.engine.snapshotter().unwrap().stat(&image.chain_id().into()).unwrap();
    // Nothing but the image keeps its content, and it does.
    collect(&second);

    let drained = drain(&second, "out").await;
    let (again, to) = export("out");
    transfer(&second, again, to, "").await.unwrap();
    assert!(drained.await.unwrap().unwrap() == bytes);

    let drained = drain(&second, "none").await;
    let mut missing = ImageStore { name: "no-such".into(), ..Default::default() };
    let to = ImageExportStream { stream: "none".into(), ..Default::default() };
    refused(transfer(&second, pack(&missing), pack(&to), "").await, Code::NotFound);
    drop(drained);
    missing.unpacks = store.unpacks.clone();
    missing.unpacks[0].snapshotter = "stargz".into();
    refused(transfer(&second, pack(&from), pack(&missing), "").await, Code::InvalidArgument);
}

#[tokio::test]
async fn discarded_layers_are_brought_again_for_whoever_needs_them() {
    let served = Served::new("erofs");
    for (form, comes_from) in [(Form::Plain, None), (Form::Gzip, None), (Form::Zstd, Some(()))] {
        let (image, registry) = (Image::varied_in(form), Registry::start());
        image.push(&registry, "team/app", "1");
        let whole = exported(&holding(&image).await);
        let engine = served.engine.discarding(true);
        let reference = registry.reference("team/app:1");
        let names = vec![NAME.parse().unwrap()];
        let unpack = dist::Unpacking {
            platform: dist_core::Platform::host(),
            snapshotter: "erofs".to_owned(),
        };
        let wanted = dist::Wanted { names, unpacks: vec![unpack], ..dist::Wanted::default() };
        dist::pull_as(&engine, &reference, &wanted, 2, Arc::new(())).await.unwrap();
        let there = served.engine.content().list().unwrap().len();
        assert!(served.engine.content().info(&image.blobs[1].digest).is_err());

        // What is made of the tar again needs no registry.
        let registry = comes_from.map(|()| registry);
        let name: dist_core::ImageName = NAME.parse().unwrap();
        let target = engine.images().get(&name).unwrap().target;
        let images = vec![Exported { name, target, platforms: Platforms::default() }];
        let restored = dist::restore_images(&engine, &images, Arc::new(())).await.unwrap();
        assert!(!restored.is_empty());
        let mut bytes = Vec::new();
        let options = ExportOptions::default();
        dist::export(&engine.content(), &images, &options, &mut bytes, &Cancel::default()).unwrap();
        assert!(bytes == whole, "{form:?}");
        restored.end().await.unwrap();
        assert_eq!(served.engine.content().list().unwrap().len(), there, "{form:?}");

        let other = Registry::start();
        let options = dist::PushOptions { platforms: Platforms::default(), ..Default::default() };
        let (target, to) = (&images[0].target, other.reference("team/copy:1"));
        dist::push(&engine, target, &to, &options, Arc::new(())).await.unwrap();
        assert_eq!(served.engine.content().list().unwrap().len(), there, "{form:?}");
        let elsewhere = Served::new("overlayfs");
        dist::pull(&elsewhere.engine, &to, &Default::default(), Arc::new(())).await.unwrap();
        assert!(exported(&elsewhere).len() > 10_000);

        // Without the registry there is nothing left to do but to say so.
        drop(registry);
        let gone = Registry::start();
        let pushed =
            dist::push(&engine, target, &gone.reference("a/b:1"), &options, Arc::new(())).await;
        match comes_from {
            None => drop(pushed.unwrap()),
            Some(()) => {
                let said = pushed.unwrap_err().to_string();
                assert!(said.contains("discarded") && said.contains("dist fetch"), "{said}");
            }
        }
        served.engine.images().delete(&NAME.parse().unwrap(), None).unwrap();
        collect(&served);
    }
}

#[tokio::test]
async fn one_platform_of_an_index_is_a_whole_archive() {
    let (image, other) = (Image::random(1, &[5000]), Image::random(2, &[6000]));
    let both = index_of(&[("amd64", None, image.clone()), ("arm64", None, other.clone())]);
    let served = holding(&both).await;
    let platforms = Platforms::One("linux/arm64".parse().unwrap());
    let bytes = exported_for(&served, &platforms);
    let second = Served::new("overlayfs");
    let images = import(&second, &bytes).await.unwrap();
    assert_eq!(images[0].target.digest, both.manifest.digest);
    let content = second.engine.content();
    assert!(content.info(&other.blobs[1].digest).is_ok());
    assert!(content.info(&image.blobs[1].digest).is_err());
}

#[tokio::test]
async fn what_is_whole_is_kept_whatever_platform_was_meant() {
    let (image, other) = (Image::random(1, &[5000]), Image::random(2, &[6000]));
    let both = index_of(&[("amd64", None, image), ("arm64", None, other.clone())]);
    let one = index_of(&[("arm64", None, other.clone())]);
    for (index, wanted) in [(&both, "linux/amd64"), (&one, "linux/amd64"), (&both, "linux/s390x")] {
        let served = holding(index).await;
        let platforms = Platforms::One("linux/arm64".parse().unwrap());
        let bytes = exported_for(&served, &platforms);
        let second = Served::new("overlayfs");
        let platforms = Platforms::One(wanted.parse().unwrap());
        let options = ImportOptions { platforms, ..any_name() };
        import_as(&second, &bytes, &options).await.unwrap();
        collect(&second);
        let content = second.engine.content();
        for blob in other.blobs.iter().chain([&other.manifest]) {
            content.info(&blob.digest).unwrap_or_else(|error| panic!("{wanted}: {error:?}"));
        }
    }
}

#[tokio::test]
async fn a_name_for_all_images_takes_no_labels_from_them() {
    let image = Image::random(1, &[5000]);
    let served = holding(&image).await;
    let bytes = exported(&served);
    let second = Served::new("overlayfs");
    let unpack = dist::Unpacking {
        platform: dist_core::Platform::host(),
        snapshotter: "overlayfs".to_owned(),
    };
    let index_names = vec!["all".parse().unwrap()];
    let options = ImportOptions { index_names, unpacks: vec![unpack], ..ImportOptions::default() };
    import_as(&second, &bytes, &options).await.unwrap();
    collect(&second);
    second.engine.snapshotter().unwrap().stat(&image.chain_id().into()).unwrap();
}

/// An archive of which the first part is there at once and the rest when it is sent.
struct Stalled {
    first: std::io::Cursor<Vec<u8>>,
    asked: Option<tokio::sync::oneshot::Sender<()>>,
    rest: std::sync::mpsc::Receiver<Vec<u8>>,
}

impl std::io::Read for Stalled {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.first.read(buffer)?;
        if count > 0 || self.asked.is_none() {
            return Ok(count);
        }
        self.asked.take().unwrap().send(()).unwrap();
        self.first = std::io::Cursor::new(self.rest.recv().unwrap());
        self.first.read(buffer)
    }
}

#[tokio::test]
async fn an_import_does_not_wait_for_one_that_stalls() {
    let served = holding(&Image::random(1, &[3_000_000])).await;
    let bytes = exported(&served);
    let second = Served::new("overlayfs");
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let (send, receive) = std::sync::mpsc::channel();
    let first = std::io::Cursor::new(first.to_vec());
    let stalled = Stalled { first, asked: Some(asked), rest: receive };
    let engine = second.engine.clone();
    let stalled = tokio::spawn(async move {
        dist::import(&engine, Box::new(stalled), &any_name(), Arc::new(())).await
    });
    was_asked.await.unwrap();
    let most = std::time::Duration::from_secs(60);
    let imported = tokio::time::timeout(most, import(&second, &bytes)).await;
    send.send(rest.to_vec()).unwrap();
    assert_eq!(imported.expect("it waits").unwrap().len(), 1);
    assert_eq!(stalled.await.unwrap().unwrap().len(), 1);
}

#[tokio::test]
async fn a_digest_alone_brings_nothing_of_another_namespace() {
    let served = holding(&Image::random(1, &[5000])).await;
    let other = served.engine.in_namespace("other".parse().unwrap());
    let layer = Image::random(1, &[5000]).blobs[1].digest;
    let path = format!("blobs/sha256/{}", layer.hex());
    let size = served.engine.content().info(&layer).unwrap().size;
    let wrong = vec![b'x'; usize::try_from(size).unwrap()];
    // Also where it is there, the archive has to be what it says.
    for engine in [&other, &served.engine] {
        let archive = tar(&[(&path, &wrong)]);
        let input = Box::new(std::io::Cursor::new(archive));
        let error = dist::import(engine, input, &any_name(), Arc::new(())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(format!("{error:?}").contains("verify"), "{error:?}");
    }
    assert!(other.content().info(&layer).is_err());
}

/// A manifest and its digest, of a config and of layers that are manifests.
fn nested(config: &str, layers: &str) -> (Digest, Vec<u8>) {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let bytes = format!(
        r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":[{layers}]}}"#
    );
    (Digest::sha256(bytes.as_bytes()), bytes.into_bytes())
}

#[tokio::test]
async fn manifests_in_the_place_of_layers_are_refused() {
    let config = b"{}";
    let digest = Digest::sha256(config);
    let config_type = "application/vnd.oci.image.config.v1+json";
    let config_desc = format!(r#"{{"mediaType":"{config_type}","digest":"{digest}","size":2}}"#);
    let mut files = vec![(format!("blobs/sha256/{}", digest.hex()), config.to_vec())];
    let mut layers = String::new();
    for _ in 0..6 {
        let (digest, bytes) = nested(&config_desc, &layers);
        let desc = format!(
            r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{digest}","size":{}}}"#,
            bytes.len()
        );
        files.push((format!("blobs/sha256/{}", digest.hex()), bytes));
        layers = vec![desc; 100].join(",");
    }
    let first = &layers[..layers.find("},").unwrap() + 1];
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{first}]}}"#);
    files.push(("index.json".to_owned(), index.into_bytes()));
    files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let error = import(&Served::new("overlayfs"), &tar(&files)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(format!("{error:?}").contains("it holds a manifest"), "{error:?}");
}

#[tokio::test]
async fn other_tools_read_our_archives_and_we_read_theirs() {
    let image = Image::varied_in(Form::Gzip);
    let served = holding(&image).await;
    let dir = dist_testutil::scratch();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("ours.tar"), exported(&served)).unwrap();
    let place = |kind: &str, name: &str| format!("{kind}:{}", path(name).display());
    let skopeo = |from: &str, to: &str| {
        // Docker's form has no digests to preserve.
        let keep = if from.starts_with("oci") { "--preserve-digests" } else { "--quiet" };
        run("skopeo", &["copy", "--quiet", keep, "--insecure-policy", from, to].map(OsStr::new))
    };

    // OCI's form: the same manifest goes through skopeo and umoci.
    skopeo(&place("oci-archive", "ours.tar"), &place("oci", "layout:1"));
    let unpacked = path("bundle");
    run(
        "umoci",
        &[
            "unpack",
            "--image",
            &format!("{}:1", path("layout").display()),
            unpacked.to_str().unwrap(),
        ]
        .map(OsStr::new),
    );
    assert!(unpacked.join("rootfs/etc/new").exists());
    skopeo(&place("oci", "layout:1"), &place("oci-archive", "theirs.tar:example.com/x:2"));
    let second = Served::new("overlayfs");
    let images = import(&second, &std::fs::read(path("theirs.tar")).unwrap()).await.unwrap();
    assert_eq!(images[0].name.as_str(), "example.com/x:2");
    assert_eq!(images[0].target.digest, image.manifest.digest);

    // Docker's form, with layers inflated, and read back with other digests but the same trees.
    skopeo(
        &place("docker-archive", "ours.tar"),
        &place("docker-archive", "docker.tar:example.com/y:3"),
    );
    let images = import(&second, &std::fs::read(path("docker.tar")).unwrap()).await.unwrap();
    assert_eq!(images[0].name.as_str(), "example.com/y:3");
    let options = dist::PullOptions::default();
    let digest = images[0].target.digest;
    let (chain_id, _) =
        dist::unpack_manifest(&second.engine, &digest, &options, Arc::new(())).await.unwrap();
    assert_eq!(chain_id.unwrap(), image.chain_id());

    // containerd, both ways.
    let containerd = Containerd::start();
    let ctr = |arguments: &[&str]| containerd.ctr(arguments);
    ctr(&["images", "import", "--no-unpack", path("ours.tar").to_str().unwrap()]);
    assert!(ctr(&["images", "ls"]).contains(&format!("{NAME} ")));
    assert!(ctr(&["images", "ls"]).contains(&image.digest()));
    ctr(&["images", "export", path("ctr.tar").to_str().unwrap(), NAME]);
    let third = Served::new("overlayfs");
    let images = import(&third, &std::fs::read(path("ctr.tar")).unwrap()).await.unwrap();
    assert_eq!((images[0].name.as_str(), images[0].target.digest), (NAME, image.manifest.digest));
}

/// A tar of these files.
fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let dir = dist_testutil::scratch();
    let archive = dir.path().join("archive.tar");
    for (name, bytes) in files {
        let path = dir.path().join("tree").join(Path::new(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::File::create(path).unwrap().write_all(bytes).unwrap();
    }
    let tree = dir.path().join("tree");
    let names = files.iter().map(|(name, _)| *name);
    let fixed = [
        "--absolute-names",
        "--create",
        "--file",
        archive.to_str().unwrap(),
        "--directory",
        tree.to_str().unwrap(),
    ];
    run("tar", &fixed.into_iter().chain(names).map(OsStr::new).collect::<Vec<_>>());
    std::fs::read(archive).unwrap()
}

#[tokio::test]
async fn bad_archives_leave_no_image() {
    let image = Image::random(3, &[5000]);
    let served = holding(&image).await;
    let whole = exported(&served);
    let layout: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let digest = image.digest();
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{}","digest":"{digest}","size":{}}}]}}"#,
        image.manifest.media_type,
        image.manifest.bytes.len()
    );
    let hex = format!("blobs/sha256/{}", &digest[7..]);
    let manifest = (hex.as_str(), image.manifest.bytes.as_slice());
    let index = ("index.json", index.as_bytes());
    let large = vec![b' '; 5 << 20];
    for (bytes, kind, part) in [
        (Vec::new(), ErrorKind::Corrupt, "no bytes"),
        (b"hello".to_vec(), ErrorKind::Corrupt, ""),
        (whole[..whole.len() / 2].to_vec(), ErrorKind::Corrupt, "cut off"),
        (tar(&[("file", b"x")]), ErrorKind::Corrupt, "neither"),
        (tar(&[index, manifest]), ErrorKind::Corrupt, "oci-layout"),
        (
            tar(&[("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#), index, manifest]),
            ErrorKind::Corrupt,
            "oci-layout",
        ),
        (tar(&[("oci-layout", layout), index]), ErrorKind::Corrupt, "find manifest"),
        (tar(&[("oci-layout", layout), index, manifest]), ErrorKind::Corrupt, "find config"),
        (tar(&[("oci-layout", layout), index, (&hex, b"other")]), ErrorKind::Corrupt, "verify"),
        (tar(&[("blobs/sha256/../../x", b"x")]), ErrorKind::UnsafeLayer, ".."),
        (tar(&[("blobs/sha256/abc", b"x")]), ErrorKind::Corrupt, "no digest"),
        (tar(&[("index.json", &large)]), ErrorKind::ResourceExhausted, "5242880"),
        (tar(&[("manifest.json", b"[{}]")]), ErrorKind::Corrupt, "manifest.json"),
        (
            tar(&[("manifest.json", br#"[{"Config":"c.json","Layers":["../../etc/passwd"]}]"#)]),
            ErrorKind::Corrupt,
            "c.json",
        ),
    ] {
        let empty = Served::new("overlayfs");
        let error = import(&empty, &bytes).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{part}: {error:?}");
        assert!(format!("{error:?}").contains(part), "{part}: {error:?}");
        assert!(empty.engine.images().list().unwrap().is_empty());
    }
    let empty = Served::new("overlayfs");
    assert_eq!(import(&empty, &whole).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_archive_may_be_compressed_and_in_any_order() {
    let image = Image::random(4, &[5000, 10]);
    let served = holding(&image).await;
    let dir = dist_testutil::scratch();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("a.tar"), exported(&served)).unwrap();
    std::fs::create_dir(path("tree")).unwrap();
    run("tar", &["-xf", &path("a.tar"), "-C", &path("tree")].map(OsStr::new));
    let names = ["oci-layout", "manifest.json", "index.json", "blobs"];
    let pack = |file: &str, flag: &str| {
        let fixed = [flag, "-cf", &path(file), "-C", &path("tree")].map(ToOwned::to_owned);
        let all: Vec<_> =
            fixed.iter().map(OsStr::new).chain(names.iter().map(OsStr::new)).collect();
        run("tar", &all);
    };
    pack("gzip", "--gzip");
    pack("zstd", "--zstd");
    for name in ["gzip", "zstd"] {
        let empty = Served::new("overlayfs");
        let images = import(&empty, &std::fs::read(path(name)).unwrap()).await.unwrap();
        assert_eq!(images[0].target.digest, image.manifest.digest, "{name}");
    }
}
