use bytes::Bytes;
use futures_util::TryStreamExt;
use serde_json::{Value, json};

use super::*;
use crate::layout_index::REF_NAME;

struct Fixture {
    dir: tempfile::TempDir,
    manifest: Digest,
    layer: Digest,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Digest::sha256(bytes);
            fs_err::write(dir.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
            digest
        };
        let layer = put(b"layer");
        let manifest = put(br#"{"schemaVersion":2,"config":{},"layers":[]}"#);
        fs_err::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let fixture = Self { dir, manifest, layer };
        fixture.index(&[fixture.entry("t")]);
        fixture
    }

    fn entry(&self, name: &str) -> Value {
        json!({
            "mediaType": MediaType::Manifest, "digest": self.manifest, "size": 43,
            "annotations": { REF_NAME: name }
        })
    }

    fn index(&self, manifests: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        fs_err::write(self.dir.path().join("index.json"), index.to_string()).unwrap();
    }

    fn name(&self, rest: &str) -> String {
        format!("{}{rest}", self.dir.path().display())
    }

    async fn resolve(&self, rest: &str) -> Result<Descriptor> {
        LayoutResolver::new().resolve(&self.name(rest)).await.map(|resolved| resolved.target)
    }

    async fn fetch(&self, size: u64, offset: u64) -> Result<Vec<u8>> {
        let desc = Descriptor::new(MediaType::parse("a/b"), self.layer, size);
        let fetcher = LayoutResolver::new().fetcher(&self.name(":t")).unwrap();
        let chunks: Vec<Bytes> = fetcher.fetch(&desc, offset).await?.try_collect().await?;
        Ok(chunks.concat())
    }

    fn blob(&self) -> PathBuf {
        self.dir.path().join("blobs/sha256").join(self.layer.hex())
    }
}

#[test]
fn names() {
    let tag = |path: &str, tag: &str| Name { path: path.into(), object: Object::Tag(tag.into()) };
    let only = |path: &str| Name { path: path.into(), object: Object::Only };
    for (text, name) in [
        ("dir", only("dir")),
        ("dir:t", tag("dir", "t")),
        ("/a:b/c", only("/a:b/c")),
        ("/a:b/", only("/a:b/")),
        ("/a:b:c", tag("/a:b", "c")),
        ("a@b", only("a@b")),
    ] {
        assert_eq!(Name::parse(text).unwrap(), name, "{text}");
    }
    for text in ["", ":t", "dir:", "dir@sha256:zz", "@sha256:00", "a\0b"] {
        assert_eq!(Name::parse(text).unwrap_err().kind(), ErrorKind::InvalidArgument, "{text:?}");
    }
}

#[tokio::test]
async fn finds() {
    let fixture = Fixture::new();
    for rest in ["", ":t", &format!("@{}", fixture.manifest)] {
        assert_eq!(fixture.resolve(rest).await.unwrap().digest, fixture.manifest, "{rest}");
    }
    let layer = fixture.resolve(&format!("@{}", fixture.layer)).await.unwrap();
    assert_eq!((layer.size, layer.media_type.as_str()), (5, "application/octet-stream"));
    assert_eq!(fixture.resolve(":u").await.unwrap_err().kind(), ErrorKind::NotFound);
    let absent = format!("@{}", Digest::sha256(b"absent"));
    assert_eq!(fixture.resolve(&absent).await.unwrap_err().kind(), ErrorKind::NotFound);

    fixture.index(&[fixture.entry("t"), fixture.entry("t"), fixture.entry("\u{1b}[31m")]);
    assert!(fixture.resolve(":t").await.is_ok());
    let error = fixture.resolve(":u").await.unwrap_err();
    assert!(!format!("{error:?}").contains('\u{1b}'));
    let mut other = fixture.entry("t");
    other["digest"] = json!(fixture.layer);
    fixture.index(&[fixture.entry("t"), other]);
    let error = fixture.resolve(":t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let text = format!("{error:?}");
    assert!(text.contains(&fixture.manifest.hex()) && text.contains(&fixture.layer.hex()));
    assert_eq!(fixture.resolve("").await.unwrap_err().kind(), ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn fetches_exactly_what_is_described() {
    let fixture = Fixture::new();
    assert_eq!(fixture.fetch(5, 0).await.unwrap(), b"layer");
    assert_eq!(fixture.fetch(5, 3).await.unwrap(), b"er");
    assert_eq!(fixture.fetch(5, 5).await.unwrap(), b"");
    assert_eq!(fixture.fetch(5, 6).await.unwrap_err().kind(), ErrorKind::OutOfRange);
    for size in [4, 6, u64::MAX >> 1] {
        assert_eq!(fixture.fetch(size, 0).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn only_regular_files_are_read() {
    let fixture = Fixture::new();
    let blob = fixture.blob();
    let fifo = |path: &Path| {
        rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
    };
    fs_err::remove_file(&blob).unwrap();
    assert_eq!(fixture.fetch(5, 0).await.unwrap_err().kind(), ErrorKind::NotFound);
    std::os::unix::fs::symlink("/etc/hostname", &blob).unwrap();
    assert_eq!(fixture.fetch(5, 0).await.unwrap_err().kind(), ErrorKind::Corrupt);
    fs_err::remove_file(&blob).unwrap();
    fifo(&blob);
    assert_eq!(fixture.fetch(5, 0).await.unwrap_err().kind(), ErrorKind::Corrupt);
    fs_err::remove_file(&blob).unwrap();
    fs_err::create_dir(&blob).unwrap();
    assert_eq!(fixture.fetch(5, 0).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let blobs = fixture.dir.path().join("blobs");
    fs_err::rename(&blobs, fixture.dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", &blobs).unwrap();
    assert_eq!(fixture.fetch(5, 0).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let index = fixture.dir.path().join("index.json");
    for make in [fifo, |path: &Path| std::os::unix::fs::symlink("/dev/zero", path).unwrap()] {
        fs_err::remove_file(&index).unwrap();
        make(&index);
        assert_eq!(fixture.resolve(":t").await.unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn the_marker_must_be_right() {
    let fixture = Fixture::new();
    let marker = fixture.dir.path().join("oci-layout");
    fs_err::write(&marker, r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert_eq!(fixture.resolve(":t").await.unwrap_err().kind(), ErrorKind::Corrupt);
    fs_err::remove_file(&marker).unwrap();
    assert_eq!(fixture.resolve(":t").await.unwrap_err().kind(), ErrorKind::Corrupt);
    let error = LayoutResolver::new().resolve("/nowhere/at/all:t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    fs_err::write(&marker, "").unwrap();
    let file = marker.to_str().unwrap();
    let error = LayoutResolver::new().resolve(file).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "a file is no layout");
}
