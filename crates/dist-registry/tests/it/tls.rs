//! Certificates that are good, and those that are not.

use std::ffi::OsStr;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dist_core::{ErrorKind, Resolver as _};
use dist_registry::{RegistryOptions, RegistryResolver};
use dist_testutil::{Certificates, Image, Registry};
use futures_util::TryStreamExt as _;

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

/// Passes connections on to `upstream` and counts them; gives where it listens.
fn count_connections(upstream: String) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let (address, count) = (listener.local_addr().expect("an address").to_string(), Arc::default());
    let counter = Arc::clone(&count);
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            AtomicUsize::fetch_add(&counter, 1, Ordering::SeqCst);
            let server = TcpStream::connect(&upstream).expect("connect to the registry");
            for (mut from, mut to) in [
                (
                    client.try_clone().expect("clone a socket"),
                    server.try_clone().expect("clone a socket"),
                ),
                (server, client),
            ] {
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    (address, count)
}

#[tokio::test]
async fn a_part_has_a_connection_of_its_own_where_others_share_one() {
    let certificates = Certificates::new();
    let image = Image::random(10, &[3_000_000]);
    let (_open, registry) = serve(&certificates, "IP:127.0.0.1", &image);
    let (address, count) = count_connections(registry.address().to_owned());
    let connections = || AtomicUsize::load(&count, Ordering::SeqCst);
    let options = RegistryOptions { ca_certs: vec![certificates.authority()], ..options() };
    let client = RegistryResolver::new(options);
    let name = format!("{address}/x:1");
    let layer = &image.blobs[1];
    let desc = descriptor(layer);
    // It is found out here that https is spoken.
    assert_eq!(fetch(&client, &name, &desc, 0).await.unwrap(), layer.bytes);
    let before = connections();
    let fetcher = client.fetcher(&name).unwrap();
    let mut first = fetcher.fetch(&desc, 0).await.unwrap();
    let mut second = fetcher.fetch(&desc, 1000).await.unwrap();
    first.try_next().await.unwrap().unwrap();
    second.try_next().await.unwrap().unwrap();
    assert_eq!(connections(), before, "HTTP/2 is one connection");
    for (part, expected) in [(1000..2000, 1), (0..desc.size, 2), (2_999_000..2_999_001, 2)] {
        let mut stream = fetcher.fetch_part(&desc, part.clone()).await.unwrap();
        let (start, end) = (usize::try_from(part.start), usize::try_from(part.end));
        let mut bytes = stream.try_next().await.unwrap().unwrap().to_vec();
        if expected == 2 && part.start == 0 {
            // While one part comes, another has to have a connection as well.
            let other = fetcher.fetch_part(&desc, 5..6).await.unwrap();
            let other: Vec<_> = other.try_collect().await.unwrap();
            assert_eq!(other.concat(), layer.bytes[5..6]);
        }
        while let Some(chunk) = stream.try_next().await.unwrap() {
            bytes.extend_from_slice(&chunk);
        }
        assert_eq!(bytes, layer.bytes[start.unwrap()..end.unwrap()]);
        assert_eq!(connections() - before, expected, "{part:?}");
    }
    for wrong in [desc.size - 1..desc.size + 1, 7..7] {
        let error = fetcher.fetch_part(&desc, wrong).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
}
