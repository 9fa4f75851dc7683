//! cosign's first format.

use dist_core::Digest;
use dist_policy::{Envelope, Judged, PrivateKey, Signature, Subject, sign_simple};
use serde_json::{Value, json};

use crate::openssl::{Openssl, base64, judge, refused, target};

fn payload(name: &str) -> Value {
    json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": target().digest },
            "type": "cosign container image signature",
        },
        "optional": { "creator": "x", "timestamp": 3 },
    })
}

fn envelope(payload: &[u8], signature: &[u8]) -> Envelope {
    Envelope::Simple { payload: payload.to_vec(), signature: base64(signature) }
}

#[test]
fn every_kind_of_key_is_verified() {
    let openssl = Openssl::new();
    let text = payload("host.io/team/app").to_string();
    for kind in ["p256", "p384", "rsa"] {
        openssl.pair(kind, kind);
        let signature = openssl.sign(kind, text.as_bytes());
        let rule = openssl.by(kind, "repository");
        let accepted = judge(&rule, envelope(text.as_bytes(), &signature)).expect(kind);
        assert!(accepted.reasons[0].ends_with(&format!("by {kind}")), "{accepted:?}");
    }
    openssl.pair("ed", "ed25519");
    openssl.write("message", &text);
    let signature = openssl.run("pkeyutl -sign -inkey ed.key -rawin -in message");
    judge(&openssl.by("ed", "digest"), envelope(text.as_bytes(), &signature)).expect("ed25519");
    // One of several keys is enough; none is not.
    refused(
        judge(&openssl.by("rsa", "digest"), envelope(text.as_bytes(), &signature)),
        "another key made it",
    );
}

#[test]
fn what_is_wrong_with_a_payload_is_found() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let rule = openssl.by("key", "repository");
    let good = payload("host.io/team/app:1");
    let changed = |pointer: &str, value: Value| {
        let mut payload = good.clone();
        *payload.pointer_mut(pointer).expect("a place in the payload") = value;
        payload.to_string()
    };
    let twice = good.to_string().replacen('{', "{\"critical\":{},", 1);
    let unknown = good.to_string().replacen("\"image\":", "\"more\":1,\"image\":", 1);
    let other = Digest::sha256(b"other").to_string();
    for (payload, words) in [
        (changed("/critical/image/docker-manifest-digest", json!(other)), "it is for sha256:"),
        (changed("/critical/image/docker-manifest-digest", json!("")), "it is for"),
        (changed("/critical/type", json!("atomic container signature")), "it says of itself"),
        (
            changed("/critical/identity/docker-reference", json!("host.io/team/other:1")),
            "it names the image host.io/team/other:1",
        ),
        (changed("/critical/identity/docker-reference", json!("")), "it names the image"),
        (changed("/critical/image", json!({})), "missing field"),
        (twice, "key \"critical\" comes twice"),
        (unknown, "unknown field `more`"),
        (String::new(), "read its payload"),
        ("null".into(), "read its payload"),
        ("[".repeat(5000), "read its payload"),
    ] {
        let signature = openssl.sign("key", payload.as_bytes());
        refused(judge(&rule, envelope(payload.as_bytes(), &signature)), words);
    }
    let signature = openssl.sign("key", good.to_string().as_bytes());
    judge(&rule, envelope(good.to_string().as_bytes(), &signature)).expect("the good one");
    let tampered = payload("host.io/team/app:2").to_string();
    refused(judge(&rule, envelope(tampered.as_bytes(), &signature)), "another key made it");
    refused(judge(&rule, envelope(good.to_string().as_bytes(), b"")), "another key made it");
    let text = good.to_string().into_bytes();
    for signature in ["", "!", "AA=A"] {
        let signature = signature.to_owned();
        let damaged = Envelope::Simple { payload: text.clone(), signature };
        judge(&rule, damaged).expect_err("no base64, or nothing");
    }
    refused(judge(&rule, Envelope::Unreadable("manifest")), "its manifest can't be read");
    // A signature for one name is none for another, whoever asks.
    refused(
        judge(&openssl.by("key", "host.io/team/app:9"), envelope(&text, &signature)),
        "it names the image",
    );
}

#[test]
fn no_changed_byte_goes_through() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let rule = openssl.by("key", "digest");
    let text = payload("host.io/team/app:1").to_string().into_bytes();
    let signature = openssl.sign("key", &text);
    judge(&rule, envelope(&text, &signature)).expect("the good one");
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1;
        judge(&rule, envelope(&changed, &signature)).expect_err("another payload");
    }
    for at in 0..signature.len() {
        let mut changed = signature.clone();
        changed[at] ^= 1;
        judge(&rule, envelope(&text, &changed)).expect_err("another signature");
    }
}

#[test]
fn no_more_than_some_signatures_are_looked_at() {
    let openssl = Openssl::new();
    openssl.pair("key", "p256");
    let text = payload("host.io/team/app:1").to_string();
    let good = envelope(text.as_bytes(), &openssl.sign("key", text.as_bytes()));
    let bad = envelope(text.as_bytes(), b"bad");
    let signature = |envelope: &Envelope| Signature {
        digest: Digest::sha256(b"it"),
        envelope: envelope.clone(),
    };
    let mut signatures = vec![signature(&bad); 1000];
    signatures.push(signature(&good));
    let name = dist_core::Reference::parse("host.io/team/app:1").expect("a reference");
    let target = target();
    let mut judged = Judged {
        subject: &Subject::Registry(name),
        target: &target,
        document: None,
        signatures: &signatures,
        now: jiff::Timestamp::now(),
    };
    let rule = openssl.by("key", "repository");
    refused(rule.judge(&judged), "; and 28 more");
    let last = &signatures[1000 - 31..];
    judged.signatures = last;
    rule.judge(&judged).expect("the last of 32");
    judged.signatures = &[];
    refused(rule.judge(&judged), "there is no such signature");
}

#[test]
fn openssl_verifies_what_we_sign() {
    let openssl = Openssl::new();
    for kind in ["p256", "rsa", "ed25519"] {
        openssl.pair(kind, kind);
        let pem = openssl.read(&format!("{kind}.key"));
        let key = PrivateKey::from_pem(&pem, || panic!("it is not encrypted")).expect(kind);
        let name = "host.io/team/app:1";
        let (payload, signature) = sign_simple(&key, name, &target().digest).expect("sign");
        openssl.write("payload", &payload);
        openssl.write("text", &signature);
        openssl.run("base64 -d -A -in text -out signature");
        if kind == "ed25519" {
            openssl.run(
                "pkeyutl -verify -pubin -inkey ed25519.pub -rawin -in payload -sigfile signature",
            );
        } else {
            openssl.run(&format!("dgst -sha256 -verify {kind}.pub -signature signature payload"));
        }
        let rule = openssl.by(kind, "exact");
        judge(&rule, Envelope::Simple { payload, signature }).expect("we do as well");
    }
}
