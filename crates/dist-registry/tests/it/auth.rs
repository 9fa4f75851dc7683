//! Registries that ask who is there.

use std::sync::Arc;
use std::time::Duration;

use dist_core::ErrorKind;
use dist_registry::credentials::{self, Stored};
use dist_registry::{
    CredentialProvider, CredentialSource, Credentials, RegistryOptions, RegistryResolver,
    check_login,
};
use dist_testutil::{Auth, Certificates, Image, Registry, TokenServer};

use super::{client, descriptor, fetch, login, options, resolve};

/// The content of an open registry behind one that asks.
fn guarded(image: &Image, auth: Auth) -> (Registry, Registry) {
    let open = Registry::start();
    image.push(&open, "team/app", "1");
    let storage = Some(open.storage().to_owned());
    let guarded = dist_testutil::RegistryOptions { storage, auth, ..Default::default() };
    (open, Registry::with(guarded))
}

#[tokio::test]
async fn basic() {
    let image = Image::random(5, &[1000]);
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let (_open, registry) = guarded(&image, auth);
    let name = registry.reference("team/app:1");

    let good = RegistryResolver::new(login("user", "hunter2"));
    assert_eq!(resolve(&good, &name).await.unwrap().target, descriptor(&image.manifest));
    let layer = &image.blobs[1];
    assert_eq!(fetch(&good, &name, &descriptor(layer), 0).await.unwrap(), layer.bytes);

    for bad in [client(), RegistryResolver::new(login("user", "wrong-secret"))] {
        let error = resolve(&bad, &name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
        assert!(!format!("{error:?}").contains("secret"));
    }
    let address = registry.address();
    let good = Credentials::password("user", "hunter2");
    check_login(address, &good, &options()).await.unwrap();
    let bad = Credentials::password("user", "wrong-secret");
    let error = check_login(address, &bad, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn credentials_from_a_file() {
    let image = Image::random(6, &[10]);
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let (_open, registry) = guarded(&image, auth);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config.json");
    let stored = credentials::store(
        &path,
        registry.address(),
        &Credentials::password("user", "hunter2"),
        Duration::from_secs(5),
    )
    .await;
    assert_eq!(stored.unwrap(), Stored::File);
    let source = CredentialSource { files: vec![path], ..CredentialSource::default() };
    let client = RegistryResolver::new(RegistryOptions { credentials: source, ..options() });
    assert!(resolve(&client, &registry.reference("team/app:1")).await.is_ok());
}

#[tokio::test]
async fn tokens() {
    let image = Image::random(7, &[1000, 2000, 3000]);
    let certificates = Certificates::new();
    let server = TokenServer::start(&certificates.authority_pair(), "user", "hunter2", 300, 300);
    let (_open, registry) = guarded(&image, server.auth());
    let name = registry.reference("team/app:1");
    let client = Arc::new(RegistryResolver::new(login("user", "hunter2")));
    let resolved = resolve(&client, &name).await.unwrap();
    assert_eq!(resolved.target, descriptor(&image.manifest));
    let fetches = image.blobs.iter().map(|blob| {
        let (client, name) = (client.clone(), name.clone());
        async move { fetch(&client, &name, &descriptor(blob), 0).await.unwrap() == blob.bytes }
    });
    assert!(futures_util::future::join_all(fetches).await.into_iter().all(|same| same));
    let requests = server.requests();
    assert_eq!(requests.len(), 1, "one token serves them all: {requests:?}");
    assert!(requests[0].to_string().contains("repository:team/app:pull"));
    assert!(!requests[0].to_string().contains("push"));

    let wrong = RegistryResolver::new(login("user", "wrong-secret"));
    let error = resolve(&wrong, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    assert!(!format!("{error:?}").contains("secret"));
    let address = registry.address();
    let good = Credentials::password("user", "hunter2");
    check_login(address, &good, &options()).await.unwrap();
    let bad = Credentials::password("user", "wrong-secret");
    let error = check_login(address, &bad, &options()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn a_token_is_renewed_before_and_after_it_expires() {
    let image = Image::random(8, &[1000]);
    let certificates = Certificates::new();
    let pair = certificates.authority_pair();
    // The first server is honest about one second, the second claims five minutes.
    for claimed in [1, 300] {
        let server = TokenServer::start(&pair, "user", "hunter2", 1, claimed);
        let (_open, registry) = guarded(&image, server.auth());
        let name = registry.reference("team/app:1");
        let client = RegistryResolver::new(login("user", "hunter2"));
        resolve(&client, &name).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await; // the token's life
        let layer = &image.blobs[1];
        assert_eq!(fetch(&client, &name, &descriptor(layer), 0).await.unwrap(), layer.bytes);
        assert!(server.requests().len() >= 2, "claimed {claimed}");
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged() {
    let image = Image::random(11, &[1000]);
    let certificates = Certificates::new();
    let server = TokenServer::start(&certificates.authority_pair(), "user", "hunter2", 300, 300);
    let Auth::Token { realm, .. } = server.auth() else { panic!("a token server") };
    let address = realm.trim_start_matches("http://").trim_end_matches("/token");
    let form = b"grant_type=password&username=user&password=hunter2";
    let answer = dist_testutil::request(address, "POST", "/token", &[], form);
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let identity = answer["refresh_token"].as_str().unwrap();

    let (_open, registry) = guarded(&image, server.auth());
    let name = registry.reference("team/app:1");
    for (token, good) in [(identity, true), ("refresh-wrong", false)] {
        let credentials = CredentialSource::explicit(Credentials::identity_token("", token));
        let client = RegistryResolver::new(RegistryOptions { credentials, ..options() });
        assert_eq!(resolve(&client, &name).await.is_ok(), good);
    }
}

/// Knows one password and counts who asks for it.
#[derive(Debug, Default)]
struct Doorman(std::sync::Mutex<Vec<String>>);

#[async_trait::async_trait]
impl CredentialProvider for Doorman {
    async fn credentials(
        &self,
        registry: &str,
        repository: &str,
    ) -> dist_core::Result<Option<Credentials>> {
        self.0.lock().expect("no panic").push(format!("{registry}/{repository}"));
        Ok((repository == "team/app").then(|| Credentials::password("user", "hunter2")))
    }
}

#[tokio::test]
async fn somebody_is_asked_once_and_a_whole_header_is_sent_as_it_is() {
    let image = Image::random(12, &[1000]);
    let auth = Auth::Basic { user: "user".into(), password: "hunter2".into() };
    let (_open, registry) = guarded(&image, auth);
    let name = registry.reference("team/app:1");
    let doorman = Arc::new(Doorman::default());
    let provider: Arc<dyn CredentialProvider> = doorman.clone();
    let credentials = CredentialSource { provider: Some(provider), ..CredentialSource::default() };
    let client = RegistryResolver::new(RegistryOptions { credentials, ..options() });
    resolve(&client, &name).await.unwrap();
    fetch(&client, &name, &descriptor(&image.blobs[0]), 0).await.unwrap();
    assert_eq!(*doorman.0.lock().unwrap(), [registry.reference("team/app")]);
    let error = resolve(&client, &registry.reference("other:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");

    for (header, good) in [("Basic dXNlcjpodW50ZXIy", true), ("Basic eDp5", false)] {
        let whole = CredentialSource::explicit(Credentials::header(header).unwrap());
        let client = RegistryResolver::new(RegistryOptions { credentials: whole, ..options() });
        assert_eq!(resolve(&client, &name).await.is_ok(), good, "{header}");
        let headers = [(http::header::AUTHORIZATION, header.try_into().unwrap())];
        let headers = headers.into_iter().collect();
        let client = RegistryResolver::new(RegistryOptions { headers, ..options() });
        assert_eq!(resolve(&client, &name).await.is_ok(), good, "{header}");
    }
    assert!(Credentials::header("no\nheader").is_none());
}
