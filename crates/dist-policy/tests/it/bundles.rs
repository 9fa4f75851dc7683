//! cosign's second format.

use dist_core::Digest;
use dist_policy::{BUNDLE_TYPE, Envelope, PrivateKey, sign_bundle};
use serde_json::{Value, json};

use crate::openssl::{DOCUMENT, Openssl, base64, judge, refused, target};

const IN_TOTO: &str = "application/vnd.in-toto+json";

fn statement() -> Value {
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "digest": { "sha256": target().digest.hex() } }],
        "predicateType": "https://sigstore.dev/cosign/sign/v1",
        "predicate": {},
    })
}

/// A bundle as cosign writes one without a log, signed by openssl.
fn bundle(openssl: &Openssl, payload_type: &str, payload: &str) -> Value {
    let signed =
        format!("DSSEv1 {} {payload_type} {} {payload}", payload_type.len(), payload.len());
    let signature = openssl.sign("key", signed.as_bytes());
    json!({
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": { "publicKey": { "hint": "abc" }, "tlogEntries": [] },
        "dsseEnvelope": {
            "payload": base64(payload),
            "payloadType": payload_type,
            "signatures": [{ "sig": base64(signature), "keyid": "" }],
        },
    })
}

fn envelope(bundle: &Value) -> Envelope {
    Envelope::Bundle(bundle.to_string().into_bytes())
}

#[test]
fn a_statement_of_ours_counts_and_others_do_not() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    openssl.pair("other", "p256");
    let rule = openssl.by("key", "digest");
    let good = bundle(&openssl, IN_TOTO, &statement().to_string());
    judge(&rule, envelope(&good)).expect("the good one");
    refused(judge(&openssl.by("other", "digest"), envelope(&good)), "another key made it");
    refused(judge(&openssl.by("key", "repository"), envelope(&good)), "does not name the image");

    let changed = |pointer: &str, value: Value| {
        let mut statement = statement();
        *statement.pointer_mut(pointer).expect("a place in the statement") = value;
        bundle(&openssl, IN_TOTO, &statement.to_string())
    };
    let other = Digest::sha256(b"other").hex();
    for (bundle, words) in [
        (changed("/subject/0/digest/sha256", json!(other)), "it is for"),
        (changed("/subject", json!([])), "it is for"),
        (changed("/_type", json!("x")), "it says of itself"),
        (changed("/predicateType", json!("https://slsa.dev/provenance/v1")), "it says of itself"),
        (bundle(&openssl, "text/plain", &statement().to_string()), "it says of itself"),
        (bundle(&openssl, IN_TOTO, "{}"), "read its payload"),
    ] {
        refused(judge(&rule, envelope(&bundle)), words);
    }
}

#[test]
fn what_is_wrong_with_a_bundle_is_found() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let rule = openssl.by("key", "digest");
    let good = bundle(&openssl, IN_TOTO, &statement().to_string());
    let signature = good["dsseEnvelope"]["signatures"][0].clone();
    let plain = openssl.sign("key", statement().to_string().as_bytes());
    for (pointer, value, words) in [
        ("/mediaType", json!("application/vnd.dev.sigstore.bundle+json;version=0.1"), "it says"),
        ("/verificationMaterial", json!({ "certificate": { "rawBytes": "" } }), "a certificate"),
        ("/verificationMaterial", json!({}), "a certificate"),
        ("/dsseEnvelope", Value::Null, "its content can't be read"),
        ("/dsseEnvelope/signatures", json!([]), "number of signatures"),
        ("/dsseEnvelope/signatures", json!([signature, signature]), "number of signatures"),
        ("/dsseEnvelope/signatures/0/sig", json!(base64(plain)), "another key made it"),
        ("/dsseEnvelope/payload", json!(base64("{}")), "another key made it"),
        ("/dsseEnvelope/payloadType", json!("text/plain"), "another key made it"),
    ] {
        let mut bundle = good.clone();
        *bundle.pointer_mut(pointer).expect("a place in the bundle") = value;
        refused(judge(&rule, envelope(&bundle)), words);
    }
    for text in ["", "{}", "[]", "{\"mediaType\":\"a\",\"mediaType\":\"b\"}"] {
        refused(judge(&rule, Envelope::Bundle(text.into())), "read its bundle");
    }
}

#[test]
fn a_signature_of_the_manifest_itself_counts() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let rule = openssl.by("key", "digest");
    let bundle = |document: &[u8], digest: &[u8]| {
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.3",
            "verificationMaterial": { "publicKey": { "hint": "" } },
            "messageSignature": {
                "messageDigest": {
                    "algorithm": "SHA2_256",
                    "digest": base64(Digest::sha256(digest).as_bytes()),
                },
                "signature": base64(openssl.sign("key", document)),
            },
        })
    };
    judge(&rule, envelope(&bundle(DOCUMENT, DOCUMENT))).expect("the good one");
    refused(judge(&rule, envelope(&bundle(b"other", b"other"))), "it is for");
    refused(judge(&rule, envelope(&bundle(b"other", DOCUMENT))), "another key made it");
    let mut weak = bundle(DOCUMENT, DOCUMENT);
    weak["messageSignature"]["messageDigest"]["algorithm"] = json!("SHA1");
    refused(judge(&rule, envelope(&weak)), "its algorithm is SHA1");
}

#[test]
fn ours_name_the_image() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let key = PrivateKey::from_pem(&openssl.read("key.key"), || panic!("not encrypted"));
    let (key, public) = (key.expect("a key"), openssl.public("key"));
    let made = |name: &str| {
        let bundle = sign_bundle(&key, Some(&public), name, &target().digest).expect("sign");
        Envelope::Bundle(bundle)
    };
    judge(&openssl.by("key", "exact"), made("host.io/team/app:1")).expect("the name");
    judge(&openssl.by("key", "repository"), made("host.io/team/app:2")).expect("the repository");
    refused(judge(&openssl.by("key", "exact"), made("host.io/team/app:2")), "it names the image");
}
