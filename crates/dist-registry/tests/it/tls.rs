//! Certificates that are good, and those that are not.

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
