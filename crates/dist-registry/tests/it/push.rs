//! Content into a real registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Digest, ErrorKind, Provider, Pushed, Resolver as _, Result,
};
use dist_registry::RegistryResolver;
use dist_testutil::{
    Auth, Blob, Certificates, Fault, FaultProxy, Image, Registry, Rule, TokenServer, scratch,
};
use tempfile::TempDir;

use super::{client, descriptor, fetch, login, resolve};

const SIZE: usize = 1 << 20;

/// The blobs of a layout directory.
struct Blobs(PathBuf);

impl Provider for Blobs {
    fn open(&self, digest: &Digest) -> Result<dist_core::Blob> {
        let path = self.0.join("blobs/sha256").join(digest.hex());
        let file = std::fs::File::open(path).context(ErrorKind::NotFound, || "open".into())?;
        let size = file.metadata().context(ErrorKind::Storage, || "stat".into())?.len();
        Ok(dist_core::Blob::new(file, size))
    }
}

struct Source {
    image: Image,
    dir: TempDir,
}

impl Source {
    fn new(seed: u64) -> Self {
        let image = Image::random(seed, &[SIZE, 500]);
        let dir = scratch();
        image.write_layout(dir.path(), "1");
        Self { image, dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    async fn blob(&self, client: &RegistryResolver, name: &str, blob: &Blob) -> Result<Pushed> {
        self.one(client, name, &descriptor(blob), &[]).await
    }

    async fn one(
        &self,
        client: &RegistryResolver,
        name: &str,
        desc: &Descriptor,
        sources: &[String],
    ) -> Result<Pushed> {
        let pusher = client.pusher(name, &self.image.manifest.digest)?;
        let content = Arc::new(Blobs(self.path().to_owned()));
        pusher.push(desc, content, sources, Arc::new(())).await
    }

    async fn all(&self, client: &RegistryResolver, name: &str) -> Result<Vec<Pushed>> {
        let mut pushed = Vec::new();
        for blob in self.image.blobs.iter().chain([&self.image.manifest]) {
            pushed.push(self.blob(client, name, blob).await?);
        }
        Ok(pushed)
    }

    fn large(&self) -> &Blob {
        &self.image.blobs[1]
    }
}

#[tokio::test]
async fn what_is_pushed_can_be_fetched_and_is_not_sent_twice() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let source = Source::new(1);
    let name = proxy.reference("team/app:1");
    assert_eq!(source.all(&client(), &name).await.unwrap(), [Pushed::Uploaded; 4]);
    let resolved = resolve(&client(), &name).await.unwrap();
    assert_eq!(resolved.target, descriptor(&source.image.manifest));
    for blob in source.image.blobs.iter().chain([&source.image.manifest]) {
        assert_eq!(fetch(&client(), &name, &descriptor(blob), 0).await.unwrap(), blob.bytes);
    }
    proxy.reset();
    assert_eq!(source.all(&client(), &name).await.unwrap(), [Pushed::Existed; 4]);
    assert!(proxy.log().iter().all(|request| request.method == "HEAD"), "{:?}", proxy.log());
    // Another tag for the same manifest is new, and only the tag.
    let other = proxy.reference("team/app:2");
    let pushed = source.all(&client(), &other).await.unwrap();
    assert_eq!(pushed[..3], [Pushed::Existed; 3]);
    assert_eq!(pushed[3], Pushed::Uploaded);
}

#[tokio::test]
async fn a_tag_is_moved_and_a_digest_makes_no_tag() {
    let registry = Registry::start();
    let (first, second) = (Source::new(2), Source::new(3));
    let name = registry.reference("app:1");
    first.all(&client(), &name).await.unwrap();
    second.all(&client(), &name).await.unwrap();
    let resolved = resolve(&client(), &name).await.unwrap();
    assert_eq!(resolved.target.digest, second.image.manifest.digest);

    let pinned = registry.reference(&format!("other@{}", first.image.digest()));
    first.all(&client(), &pinned).await.unwrap();
    assert!(resolve(&client(), &pinned).await.is_ok());
    let error = resolve(&client(), &registry.reference("other:latest")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = second.all(&client(), &pinned).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error:?}");
}

#[tokio::test]
async fn content_of_another_repository_is_mounted() {
    let registry = Registry::start();
    let source = Source::new(4);
    let (first, second) = (registry.reference("first:1"), registry.reference("second:1"));
    source.all(&client(), &first).await.unwrap();
    let desc = descriptor(source.large());
    let from = ["second".to_owned(), "first".to_owned()];
    let pushed = source.one(&client(), &second, &desc, &from).await.unwrap();
    assert_eq!(pushed, Pushed::Mounted);
    assert_eq!(fetch(&client(), &second, &desc, 0).await.unwrap(), source.large().bytes);
    // A source that does not have it costs an upload, no failure.
    let third = registry.reference("third:1");
    let from = ["no-such".to_owned()];
    let pushed = source.one(&client(), &third, &desc, &from).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
}

#[tokio::test]
async fn content_that_is_only_there_need_not_be_here() {
    let registry = Registry::start();
    let source = Source::new(5);
    let name = registry.reference("app:1");
    source.all(&client(), &name).await.unwrap();
    std::fs::remove_dir_all(source.path().join("blobs")).unwrap();
    assert_eq!(source.all(&client(), &name).await.unwrap(), [Pushed::Existed; 4]);
    let error = source.all(&client(), &registry.reference("new:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(error.to_string().contains("push config sha256:"), "{error}");
}

#[tokio::test]
async fn broken_uploads_are_begun_anew() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    for (seed, fault, uploads) in [
        (10, Fault::Break(300_000), 2),
        (11, Fault::Refuse, 2),
        (12, Fault::Status(503, Vec::new()), 2),
        (13, Fault::Status(404, Vec::new()), 2),
        // The registry gets all of it and cannot say so: it is found there.
        (14, Fault::Break(u64::MAX), 1),
    ] {
        let source = Source::new(seed);
        let name = proxy.reference("app:1");
        proxy.reset();
        proxy.add(Rule::any("digest=", fault.clone()).times(1));
        let pushed = source.blob(&client(), &name, source.large()).await;
        let expected = if uploads == 1 { Pushed::Existed } else { Pushed::Uploaded };
        assert_eq!(pushed.unwrap(), expected, "{fault:?}");
        let puts = proxy.log().iter().filter(|request| request.method == "PUT").count();
        assert_eq!(puts, uploads, "{fault:?}");
        let fetched = fetch(&client(), &name, &descriptor(source.large()), 0).await.unwrap();
        assert_eq!(fetched, source.large().bytes, "{fault:?}");
    }
    proxy.reset();
    proxy.add(Rule::any("digest=", Fault::Break(1000)));
    let source = Source::new(20);
    let error =
        source.blob(&client(), &proxy.reference("app:1"), source.large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert_eq!(error.find::<dist_registry::Failure>().unwrap().attempts, 5);
}

#[tokio::test]
async fn content_that_rotted_is_not_taken_for_good() {
    let registry = Registry::start();
    let source = Source::new(6);
    let name = registry.reference("app:1");
    let path = source.path().join("blobs/sha256").join(source.large().digest.hex());
    let mut bytes = source.large().bytes.clone();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let error = source.blob(&client(), &name, source.large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    std::fs::write(&path, &bytes[1..]).unwrap();
    let error = source.blob(&client(), &name, source.large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    let manifest = &source.image.manifest;
    let path = source.path().join("blobs/sha256").join(manifest.digest.hex());
    let mut bytes = manifest.bytes.clone();
    bytes[0] = b' ';
    std::fs::write(path, bytes).unwrap();
    let error = source.blob(&client(), &name, manifest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
}

#[tokio::test]
async fn a_password_or_a_token_that_allows_it_is_needed() {
    let source = Source::new(7);
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let registry = Registry::with(dist_testutil::RegistryOptions { auth, ..Default::default() });
    let name = registry.reference("team/app:1");
    let good = RegistryResolver::new(login("user", "hunter2"));
    assert_eq!(source.all(&good, &name).await.unwrap(), [Pushed::Uploaded; 4]);
    let error = source.all(&client(), &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");

    let certificates = Certificates::new();
    let server = TokenServer::start(&certificates.authority_pair(), "user", "hunter2", 300, 300);
    let auth = server.auth();
    let registry = Registry::with(dist_testutil::RegistryOptions { auth, ..Default::default() });
    let name = registry.reference("team/app:1");
    assert_eq!(source.all(&good, &name).await.unwrap(), [Pushed::Uploaded; 4]);
    let desc = descriptor(source.large());
    let from = ["team/app".to_owned()];
    let other = registry.reference("team/other:1");
    assert_eq!(source.one(&good, &other, &desc, &from).await.unwrap(), Pushed::Mounted);
    let asked = format!("{:?}", server.requests());
    assert!(asked.contains("repository:team/app:pull,push"), "{asked}");
    assert!(asked.contains("repository:team/app:pull\""), "{asked}");
}

#[tokio::test]
async fn a_password_is_not_sent_to_where_an_upload_is_sent_on() {
    let source = Source::new(8);
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let registry = Registry::with(dist_testutil::RegistryOptions { auth, ..Default::default() });
    let (front, other) =
        (FaultProxy::start(registry.address()), FaultProxy::start(registry.address()));
    let place = format!("http://{}/v2/app/blobs/uploads/elsewhere", other.address());
    let found = Fault::Status(202, vec![("Location", place)]);
    front.add(Rule::any("/blobs/uploads/", found));
    let good = RegistryResolver::new(login("user", "hunter2"));
    let name = front.reference("app:1");
    // A small one: who refuses a large one closes while it is still sent, and its answer may be lost.
    let error = source.blob(&good, &name, &source.image.blobs[2]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(front.log().iter().any(|request| request.authorized));
    let sent = other.log();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|request| !request.authorized), "{sent:?}");
}

#[tokio::test]
async fn nothing_is_pushed_into_a_layout() {
    let layouts = dist_registry::LayoutResolver::new();
    let error = layouts.pusher("/tmp/x:1", &Digest::sha256(b"")).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
