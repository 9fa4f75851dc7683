//! Keys that are read.

use dist_core::ErrorKind;
use dist_policy::{PrivateKey, PublicKey};

use crate::openssl::Openssl;

#[test]
fn cosigns_encrypted_keys_are_opened_by_their_password() {
    let pem = include_bytes!("fixtures/cosign.key");
    let key = PrivateKey::from_pem(pem, || Ok(b"correct horse".to_vec())).expect("a key");
    let public = PublicKey::from_pem("pub", include_bytes!("fixtures/cosign.pub")).expect("a key");
    assert!(!key.is_other_than(&public));
    let wrong = PrivateKey::from_pem(pem, || Ok(b"wrong".to_vec())).expect_err("wrong password");
    assert_eq!(wrong.kind(), ErrorKind::InvalidArgument);
    assert!(wrong.to_string().contains("the password is another"), "{wrong}");
    let text = String::from_utf8_lossy(pem);
    let older = text.replace("ENCRYPTED SIGSTORE", "ENCRYPTED COSIGN");
    PrivateKey::from_pem(older.as_bytes(), || Ok(b"correct horse".to_vec())).expect("as before");
    assert!(!format!("{key:?}").contains(char::is_numeric), "it shows nothing");
}

#[test]
fn what_is_no_key_is_told() {
    let openssl = Openssl::new();
    openssl.pair("p256", "p256");
    openssl.pair("p521", "p521");
    openssl.pair("rsa", "rsa");
    openssl.run("pkey -in p256.key -traditional -out sec1.key");
    openssl.run("genrsa -out small.key 1024");
    for (name, words) in [
        ("p256.pub", "it is no private key"),
        ("sec1.key", "openssl pkcs8 -topk8"),
        ("p521.key", "none of ECDSA P-256"),
        ("small.key", "none of ECDSA P-256"),
    ] {
        let read = PrivateKey::from_pem(&openssl.read(name), || panic!("it has no password"));
        let error = read.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{name}");
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
    PrivateKey::from_pem(b"", || panic!("nothing")).expect_err("nothing");
    let two = [openssl.read("p256.pub"), openssl.read("rsa.pub")].concat();
    for (pem, words) in [
        (openssl.read("p521.pub"), "none of ECDSA"),
        (openssl.read("p256.key"), "it has no BEGIN PUBLIC KEY"),
        (two, "several keys"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec(), "read public"),
    ] {
        let error = PublicKey::from_pem("x", &pem).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
    }
    PublicKey::read(&openssl.path("none.pub")).expect_err("no file");
}
