//! Certificates: trusted, not trusted, for another name; https where http is spoken.

use dist_testutil::{Certificates, Image, Registry, RegistryOptions, timed};

use crate::support::{pull, quick, verify_image};

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    let _timed = timed("tls");
    let (open, image) = (Registry::start(), Image::random(1, &[20_000]));
    image.push(&open, "test/tls", "1");
    let certificates = Certificates::new();
    let serve = |stem: &str, names: &str| {
        Registry::with(RegistryOptions {
            storage: Some(open.storage().to_owned()),
            tls: Some(certificates.server(stem, names)),
            ..RegistryOptions::default()
        })
    };
    let good = serve("good", "DNS:localhost,IP:127.0.0.1");
    let other = serve("other", "DNS:elsewhere.example");
    let authority = certificates.authority();
    let authority = authority.to_str().expect("a path in UTF-8");
    let reference = good.reference("test/tls:1");

    quick().run(&["pull", &reference]).exit(5);
    let trusting = quick();
    trusting.ok(&["--tls-ca-cert", authority, "pull", &reference]);
    verify_image(&trusting, &reference, &image);
    let blind = quick();
    blind.ok(&["--insecure", "pull", &reference]);
    verify_image(&blind, &reference, &image);
    let by_file = quick().env("SSL_CERT_FILE", authority);
    pull(&by_file, &reference);
    verify_image(&by_file, &reference, &image);

    let named = other.reference("test/tls:1");
    quick().run(&["--tls-ca-cert", authority, "pull", &named]).exit(5);
    quick().ok(&["--insecure", "pull", &named]);
    let ran = quick().run(&["--tls-ca-cert", "/nonexistent", "pull", &named]);
    assert!(matches!(ran.code, Some(2 | 3 | 8)) && ran.stderr.contains("/nonexistent"), "{ran:?}");
}

#[test]
fn http_and_https_are_not_mixed_up() {
    let _timed = timed("tls");
    let (open, image) = (Registry::start(), Image::random(1, &[20_000]));
    image.push(&open, "test/tls", "1");
    let certificates = Certificates::new();
    let tls = Registry::with(RegistryOptions {
        storage: Some(open.storage().to_owned()),
        tls: Some(certificates.server("good", "DNS:localhost,IP:127.0.0.1")),
        ..RegistryOptions::default()
    });
    // http spoken to a port that wants https
    let said = quick().run(&["--plain-http", "pull", &tls.reference("test/tls:1")]).exit(5).stderr;
    assert!(said.to_lowercase().contains("http"), "{said}");
    // A name that is not loopback's gets no plain http, wherever it leads.
    let other = format!("127.0.0.1.nip.invalid:{}/test/tls:1", open.port());
    quick().run(&["pull", &other]).exit(5);
    quick().ok(&["--plain-http", "pull", &open.reference("test/tls:1")]);
}
