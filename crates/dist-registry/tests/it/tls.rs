//! Certificates that are good, and those that are not.

use std::ffi::OsStr;

use dist_core::ErrorKind;
use dist_registry::{RegistryOptions, RegistryResolver};
use dist_testutil::{Certificates, Image, Registry};

use super::{client, descriptor, fetch, options, resolve};

/// An open registry, and one with TLS over its content.
fn serve(certificates: &Certificates, names: &str, image: &Image) -> (Registry, Registry) {
    let open = Registry::start();
    image.push(&open, "x", "1");
    let secure = Registry::with(dist_testutil::RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some(certificates.server("server", names)),
        ..Default::default()
    });
    (open, secure)
}

#[tokio::test]
async fn loopback_may_speak_https() {
    let certificates = Certificates::new();
    let image = Image::random(9, &[300_000]);
    let (_open, registry) = serve(&certificates, "IP:127.0.0.1", &image);
    let name = registry.reference("x:1");

    let trusting = RegistryOptions { ca_certs: vec![certificates.authority()], ..options() };
    let insecure = RegistryOptions { insecure: true, ..options() };
    for options in [trusting, insecure] {
        let client = RegistryResolver::new(options);
        let resolved = resolve(&client, &name).await.unwrap();
        assert_eq!(resolved.target, descriptor(&image.manifest));
        let layer = &image.blobs[1];
        let rest = fetch(&client, &name, &descriptor(layer), 1000).await.unwrap();
        assert_eq!(rest, layer.bytes[1000..]);
    }
    let error = resolve(&client(), &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("issued by nobody"), "{error:?}");

    let plain = RegistryResolver::new(RegistryOptions { plain_http: true, ..options() });
    let error = resolve(&plain, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("https server, perhaps"), "{error:?}");
}

/// As `openssl req -x509` makes it: an authority's certificate, shown by the server itself.
#[tokio::test]
async fn a_self_signed_certificate_can_be_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("self.pem"), dir.path().join("self.key"));
    let (certificate_text, key_text) = (certificate.display(), key.display());
    let script = format!(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x \
         -addext subjectAltName=IP:127.0.0.1 -keyout {key_text} -out {certificate_text} 2>&1"
    );
    dist_testutil::run("sh", &["-c", &script].map(OsStr::new));
    let image = Image::random(12, &[10]);
    let open = Registry::start();
    image.push(&open, "x", "1");
    let registry = Registry::with(dist_testutil::RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some((certificate.clone(), key)),
        ..Default::default()
    });
    let name = registry.reference("x:1");
    let error = resolve(&client(), &name).await.unwrap_err();
    assert!(format!("{error:?}").contains("self-signed"), "{error:?}");
    let trusting = RegistryOptions { ca_certs: vec![certificate], ..options() };
    let client = RegistryResolver::new(trusting);
    assert!(resolve(&client, &name).await.is_ok());
    let other_name = format!("localhost:{}/x:1", registry.port());
    let error = resolve(&client, &other_name).await.unwrap_err();
    assert!(format!("{error:?}").contains("another name than localhost"), "{error:?}");
}

#[tokio::test]
async fn the_name_must_be_right() {
    let certificates = Certificates::new();
    let image = Image::random(10, &[10]);
    let (_open, registry) = serve(&certificates, "DNS:registry.example.com", &image);
    let trusting = RegistryOptions { ca_certs: vec![certificates.authority()], ..options() };
    let client = RegistryResolver::new(trusting);
    let error = resolve(&client, &registry.reference("x:1")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("another name than 127.0.0.1"), "{error:?}");
}

#[tokio::test]
async fn certificates_that_cannot_be_read_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    for text in [None, Some(""), Some("no certificate")] {
        if let Some(text) = text {
            fs_err::write(&path, text).unwrap();
        }
        let options = RegistryOptions { ca_certs: vec![path.clone()], ..options() };
        let client = RegistryResolver::new(options);
        let error = resolve(&client, "registry.invalid/x:1").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(format!("{error:?}").contains("ca.pem"), "{error:?}");
    }
}
