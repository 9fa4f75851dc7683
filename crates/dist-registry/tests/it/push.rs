//! Content into a real registry.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Digest, ErrorKind, Provider, Pushed, Resolver as _, Result,
};
use dist_registry::{HeldContent, RegistryResolver};
use dist_testutil::{
    Auth, Blob, Certificates, Fault, FaultProxy, Image, Registry, Rule, TokenServer, scratch,
};

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
    dir: dist_testutil::Scratch,
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
        let content = Arc::new(HeldContent::new(Arc::new(Blobs(self.path().to_owned()))));
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
async fn an_upload_goes_on_where_the_registry_has_it() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let source = Source::new(30);
    let name = proxy.reference("app:1");
    proxy.add(Rule::any("digest=", Fault::Keep(300_000)).times(1));
    let pushed = source.blob(&client(), &name, source.large()).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    let whole = source.large().bytes.len() as u64;
    let puts: Vec<_> = proxy.log().iter().filter(|r| r.method == "PUT").map(|r| r.length).collect();
    assert_eq!(puts, [whole, whole - 300_000]);
    let fetched = fetch(&client(), &name, &descriptor(source.large()), 0).await.unwrap();
    assert_eq!(fetched, source.large().bytes);
}

#[tokio::test]
async fn a_body_that_is_too_large_goes_in_parts() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let image = Image::random(31, &[5 << 20]);
    let dir = scratch();
    image.write_layout(dir.path(), "1");
    let source = Source { image, dir };
    let name = proxy.reference("app:1");
    proxy.add(Rule::any("/blobs/uploads/", Fault::TooLarge(2 << 20)));
    let pushed = source.blob(&client(), &name, source.large()).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert!(proxy.log().iter().any(|request| request.method == "PATCH"), "{:?}", proxy.log());
    let fetched = fetch(&client(), &name, &descriptor(source.large()), 0).await.unwrap();
    assert_eq!(fetched, source.large().bytes);

    // Where even the smallest part is too much, that is the news.
    proxy.reset();
    proxy.add(Rule::any("/blobs/uploads/", Fault::TooLarge(1000)));
    let error = source.blob(&client(), &proxy.reference("b:1"), source.large()).await.unwrap_err();
    let failure = error.find::<dist_registry::Failure>().unwrap();
    assert_eq!(failure.status, Some(413), "{error:?}");
}

#[tokio::test]
async fn a_large_blob_goes_in_parts_or_whole_where_those_are_refused() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let image = Image::random(33, &[81 << 20]);
    let dir = scratch();
    image.write_layout(dir.path(), "1");
    let source = Source { image, dir };
    let bodies = || {
        let sent = |request: &dist_testutil::Request| request.length > 0;
        let log = proxy.log().into_iter().filter(sent);
        log.map(|request| (request.method, request.length)).collect::<Vec<_>>()
    };
    let (whole, part) = (source.large().bytes.len() as u64, 80 << 20);
    let parts = [("PATCH".to_owned(), part), ("PUT".to_owned(), whole - part)];
    let pushed = source.blob(&client(), &proxy.reference("app:1"), source.large()).await;
    assert_eq!(pushed.unwrap(), Pushed::Uploaded);
    assert_eq!(bodies(), parts);
    // The first part is refused, and then the second.
    for (name, passing) in [("b:1", 0), ("c:1", 1)] {
        proxy.reset();
        proxy.add(Rule::upload(Fault::Status(416, Vec::new())).after(passing).times(1));
        let pushed = source.blob(&client(), &proxy.reference(name), source.large()).await;
        assert_eq!(pushed.unwrap(), Pushed::Uploaded);
        assert_eq!(bodies().last(), Some(&("PUT".to_owned(), whole)), "{:?}", proxy.log());
    }
    let fetched = fetch(&client(), &proxy.reference("c:1"), &descriptor(source.large()), 0).await;
    assert!(fetched.unwrap() == source.large().bytes);
}

#[tokio::test]
async fn content_goes_through_from_another_registry_over_its_breaks() {
    let (there, here) = (Registry::start(), Registry::start());
    let (from, to) = (FaultProxy::start(there.address()), FaultProxy::start(here.address()));
    let source = Source::new(32);
    source.image.push(&there, "app", "1");
    let desc = descriptor(source.large());
    let client = client();
    from.add(Rule::get("/blobs/", Fault::Cut(300_000)).times(1));
    let name = to.reference("app:1");
    let pusher = client.pusher(&name, &source.image.manifest.digest).unwrap();
    let content = client.fetcher(&from.reference("app:1")).unwrap();
    let pushed = pusher.push(&desc, Arc::clone(&content), &[], Arc::new(())).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    let gets = from.blob_gets(&desc.digest.to_string());
    assert_eq!(gets.len(), 2, "{gets:?}");
    assert_eq!(gets[1].range.as_deref(), Some("bytes=300000-"));
    let puts = to.log().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(puts, 1, "{:?}", to.log());
    assert_eq!(fetch(&client, &name, &desc, 0).await.unwrap(), source.large().bytes);
    assert!(pusher.has(&desc).await.unwrap());

    // Wrong bytes have no end, and make no blob.
    let small = descriptor(&source.image.blobs[2]);
    from.add(Rule::get("/blobs/", Fault::Flip(100)));
    let error = pusher.push(&small, content, &[], Arc::new(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(!pusher.has(&small).await.unwrap());
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
    // A large one: who refuses it closes while it is still sent.
    let error = source.blob(&good, &name, source.large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(front.log().iter().any(|request| request.authorized));
    let sent = other.log();
    assert!(!sent.is_empty());
    assert!(sent.iter().all(|request| !request.authorized), "{sent:?}");
}

#[tokio::test]
async fn a_layout_takes_what_is_pushed_and_goes_on_with_a_part() {
    let registry = Registry::start();
    let proxy = FaultProxy::start(registry.address());
    let source = Source::new(40);
    source.image.push(&registry, "app", "1");
    let (client, layouts) = (client(), dist_registry::LayoutResolver::new());
    let content = client.fetcher(&proxy.reference("app:1")).unwrap();
    let dir = scratch();
    let path = dir.path().join("new/layout").display().to_string();
    let name = format!("{path}:v1");
    let pusher = layouts.pusher(&name, &source.image.manifest.digest).unwrap();
    let large = source.large();
    let blobs = std::path::Path::new(&path).join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let part = blobs.join(format!(".{}.part", large.digest.hex()));
    std::fs::write(&part, &large.bytes[..400_000]).unwrap();
    for blob in source.image.blobs.iter().chain([&source.image.manifest]) {
        let desc = descriptor(blob);
        let push = || pusher.push(&desc, Arc::clone(&content), &[], Arc::new(()));
        assert_eq!(push().await.unwrap(), Pushed::Uploaded);
        assert_eq!(push().await.unwrap(), Pushed::Existed);
        assert_eq!(std::fs::read(blobs.join(blob.digest.hex())).unwrap(), blob.bytes);
    }
    let gets = proxy.blob_gets(&large.digest.to_string());
    assert_eq!(gets[0].range.as_deref(), Some("bytes=400000-"), "{gets:?}");
    let resolved = layouts.resolve(&name).await.unwrap();
    assert_eq!(resolved.target.digest, source.image.manifest.digest);

    // A tag moves; a name without one is another entry.
    let Source { image: other, dir: kept } = Source::new(41);
    let desc = descriptor(&other.manifest);
    let content = Arc::new(HeldContent::new(Arc::new(Blobs(kept.path().to_owned()))));
    let pusher = layouts.pusher(&name, &desc.digest).unwrap();
    pusher.push(&desc, content, &[], Arc::new(())).await.unwrap();
    assert_eq!(layouts.resolve(&name).await.unwrap().target.digest, desc.digest);
    assert_eq!(layouts.resolve(&path).await.unwrap().target.digest, desc.digest);

    // A part of something else is no beginning, and what is wrong is not kept.
    let other = descriptor(&other.blobs[2]);
    std::fs::write(blobs.join(format!(".{}.part", other.digest.hex())), b"wrong").unwrap();
    let content = Arc::new(HeldContent::new(Arc::new(Blobs(kept.path().to_owned()))));
    let pushed = pusher.push(&other, content, &[], Arc::new(())).await.unwrap();
    assert_eq!(pushed, Pushed::Uploaded);
    std::fs::remove_file(blobs.join(large.digest.hex())).unwrap();
    proxy.add(Rule::get("/blobs/", Fault::Flip(9)));
    let content = client.fetcher(&proxy.reference("app:1")).unwrap();
    let error = pusher.push(&descriptor(large), content, &[], Arc::new(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(!blobs.join(large.digest.hex()).exists() && !part.exists());
}
