//! notation's signatures, made by openssl as its JWS envelope has them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dist_core::Digest;
use dist_policy::{CertificateSubject, Envelope, Rule, TrustStore};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::openssl::{Openssl, base64, judge, judge_at, refused, target};

const SCHEME: &str = "io.cncf.notary.signingScheme";
const TIME: &str = "io.cncf.notary.signingTime";
const EXPIRY: &str = "io.cncf.notary.expiry";

/// An authority, and certificates by it.
struct Signers(Openssl);

impl Signers {
    fn new() -> Self {
        let this = Self(Openssl::new());
        for name in ["ca", "other-ca"] {
            this.0.pair(name, "p256");
            let subject = format!("/C=DE/O=Test/CN={name}");
            this.0.run(&format!(
                "req -x509 -key {name}.key -out {name}.pem -days 30 -subj {subject}"
            ));
        }
        this
    }

    /// A certificate `name.pem` by `ca` for a new key.
    fn certificate(&self, name: &str, kind: &str, usage: &str, ca: &str) {
        self.0.pair(name, kind);
        let subject = format!("/C=US/ST=WA/O=Acme~Inc/CN={name}");
        self.0.run(&format!("req -new -key {name}.key -out {name}.csr -subj {subject}"));
        let extensions = format!("keyUsage=critical,digitalSignature\nextendedKeyUsage={usage}\n");
        self.0.write("extensions", extensions);
        self.0.run(&format!(
            "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 7 \
             -extfile extensions -out {name}.pem"
        ));
    }

    fn der(&self, name: &str) -> Vec<u8> {
        self.0.run(&format!("x509 -in {name}.pem -outform DER"))
    }

    fn rule(&self, authorities: &[&str], signers: Option<&str>) -> Rule {
        let paths: Vec<_> =
            authorities.iter().map(|name| self.0.path(&format!("{name}.pem"))).collect();
        let store = TrustStore::read(&paths, &[]).expect("a trust store");
        let signers = signers.map(|text| vec![CertificateSubject::parse(text).expect("a name")]);
        Rule::by_certificate(store, signers)
    }

    /// Signs in one of JWS's ways.
    fn sign(&self, key: &str, algorithm: &str, message: &str) -> Vec<u8> {
        self.0.write("message", message);
        let bits = &algorithm[2..];
        if algorithm.starts_with("PS") {
            return self.0.run(&format!(
                "dgst -sha{bits} -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest \
                 -sign {key}.key message"
            ));
        }
        let der = self.0.run(&format!("dgst -sha{bits} -sign {key}.key message"));
        let half = match bits {
            "256" => 32,
            "384" => 48,
            _ => 66,
        };
        let der = if der[1] == 0x81 { &der[1..] } else { &der[..] };
        // SEQUENCE { INTEGER, INTEGER }, each shorter than 128 bytes.
        let first = &der[4..4 + usize::from(der[3])];
        let rest = &der[4 + first.len()..];
        let second = &rest[2..2 + usize::from(rest[1])];
        let fixed = |number: &[u8]| {
            let digits: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
            [vec![0; half - digits.len()], digits].concat()
        };
        [fixed(first), fixed(second)].concat()
    }

    fn envelope(&self, made: &Made<'_>) -> Envelope {
        Envelope::Notation(self.jws(made).to_string().into_bytes())
    }

    fn jws(&self, made: &Made<'_>) -> Value {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let payload = encode(&made.payload);
        let protected = encode(&made.protected.to_string());
        let signature = self.sign(made.key, made.algorithm, &format!("{protected}.{payload}"));
        let chain: Vec<_> = made.chain.iter().map(|name| base64(self.der(name))).collect();
        json!({
            "payload": payload,
            "protected": protected,
            "header": { "x5c": chain, "io.cncf.notary.signingAgent": "test" },
            "signature": URL_SAFE_NO_PAD.encode(signature),
        })
    }
}

/// An envelope in the making.
struct Made<'a> {
    key: &'a str,
    algorithm: &'a str,
    chain: Vec<&'a str>,
    protected: Value,
    payload: String,
}

impl<'a> Made<'a> {
    fn by(key: &'a str, algorithm: &'a str) -> Self {
        let target = target();
        Self {
            key,
            algorithm,
            chain: vec![key, "ca"],
            protected: json!({
                "alg": algorithm,
                "cty": "application/vnd.cncf.notary.payload.v1+json",
                "crit": [SCHEME],
                SCHEME: "notary.x509",
                TIME: Timestamp::now().round(jiff::Unit::Second).expect("a time").to_string(),
            }),
            payload: json!({
                "targetArtifact": {
                    "mediaType": target.media_type.as_str(),
                    "digest": target.digest,
                    "size": target.size,
                },
            })
            .to_string(),
        }
    }

    fn with(mut self, name: &str, value: Value) -> Self {
        self.protected[name] = value;
        self
    }

    fn with_payload(mut self, pointer: &str, value: Value) -> Self {
        let mut payload: Value = serde_json::from_str(&self.payload).expect("JSON");
        *payload.pointer_mut(pointer).expect("a place in the payload") = value;
        self.payload = payload.to_string();
        self
    }
}

#[test]
fn every_algorithm_is_verified() {
    let signers = Signers::new();
    let rule = signers.rule(&["ca"], Some("C=US, ST=WA, O=Acme Inc"));
    for (kind, algorithms) in [
        ("p256", &["ES256"][..]),
        ("p384", &["ES384"]),
        ("p521", &["ES512"]),
        ("rsa", &["PS256", "PS384", "PS512"]),
    ] {
        signers.certificate(kind, kind, "codeSigning", "ca");
        for algorithm in algorithms {
            let accepted = judge(&rule, signers.envelope(&Made::by(kind, algorithm)));
            let accepted = accepted.expect(algorithm);
            assert!(accepted.reasons[0].contains(&format!("CN={kind}")), "{accepted:?}");
        }
    }
    // Each key with the algorithm of another.
    for (key, claimed, made) in [
        ("p256", "ES384", "ES384"),
        ("rsa", "ES256", "PS256"),
        ("p256", "PS256", "ES256"),
        ("p256", "ES512", "ES256"),
    ] {
        let envelope = signers.envelope(&Made::by(key, made).with("alg", json!(claimed)));
        judge(&rule, envelope).expect_err("another algorithm");
    }
    for name in ["none", "HS256", "RS256", "EdDSA"] {
        let envelope = signers.envelope(&Made::by("p256", "ES256").with("alg", json!(name)));
        refused(judge(&rule, envelope), &format!("its algorithm is {name}"));
    }
}

#[test]
fn somebody_has_to_vouch() {
    let signers = Signers::new();
    signers.certificate("leaf", "p256", "codeSigning", "ca");
    signers.certificate("server", "p256", "serverAuth", "ca");
    signers.certificate("stranger", "p256", "codeSigning", "other-ca");
    let good = || signers.envelope(&Made::by("leaf", "ES256"));
    let rule = signers.rule(&["ca"], None);
    judge(&rule, good()).expect("the good one");
    judge(&signers.rule(&["other-ca", "ca"], None), good()).expect("one of two");
    let no = "no trusted authority vouches";
    refused(judge(&signers.rule(&["other-ca"], None), good()), no);
    refused(judge(&rule, signers.envelope(&Made::by("server", "ES256"))), no);
    let mut made = Made::by("stranger", "ES256");
    refused(judge(&rule, signers.envelope(&made)), no);
    made.chain = vec!["stranger", "other-ca"];
    refused(judge(&rule, signers.envelope(&made)), no);
    // The certificate of somebody else, for whom the authority does vouch.
    made.chain = vec!["leaf", "ca"];
    refused(judge(&rule, signers.envelope(&made)), "another key made it");
    made.chain = vec![];
    refused(judge(&rule, signers.envelope(&made)), "its certificate chain can't be read");
    made.chain = ["stranger"; 11].to_vec();
    refused(judge(&rule, signers.envelope(&made)), "its certificate chain can't be read");
    for (name, is_it) in [("CN=leaf", true), ("CN=lea", false), ("O=Acme Inc, C=DE", false)] {
        let judged = judge(&signers.rule(&["ca"], Some(name)), good());
        assert_eq!(judged.is_ok(), is_it, "{name}: {judged:?}");
    }
    let now = Timestamp::now();
    let hours = |hours| SignedDuration::from_hours(hours);
    judge_at(&rule, good(), now + hours(6 * 24)).expect("still valid");
    refused(judge_at(&rule, good(), now + hours(8 * 24)), no);
    refused(judge_at(&rule, good(), now - hours(1)), "which is still to come");
    let earlier = Made::by("leaf", "ES256").with(TIME, json!((now - hours(24)).to_string()));
    refused(judge(&rule, signers.envelope(&earlier)), no);
}

#[test]
fn headers_and_payloads_have_to_be_right() {
    let signers = Signers::new();
    signers.certificate("leaf", "p256", "codeSigning", "ca");
    let rule = signers.rule(&["ca"], None);
    let made = || Made::by("leaf", "ES256");
    let later = (Timestamp::now() + SignedDuration::from_hours(1)).to_string();
    let before = (Timestamp::now() - SignedDuration::from_secs(1)).to_string();
    let expiring =
        |time: &str| made().with("crit", json!([SCHEME, EXPIRY])).with(EXPIRY, json!(time));
    judge(&rule, signers.envelope(&expiring(&later))).expect("not expired");
    let other = Digest::sha256(b"other");
    let plugin = "io.cncf.notary.verificationPlugin";
    for (made, words) in [
        (expiring(&before), "it expired at"),
        (made().with(EXPIRY, json!(later)), "its critical header"),
        (made().with("crit", json!([SCHEME, plugin])).with(plugin, json!("x")), plugin),
        (made().with("crit", json!([SCHEME, EXPIRY])), EXPIRY),
        (made().with("crit", json!([SCHEME, 3])), "its critical header 3"),
        (made().with("crit", json!([])), "its signing scheme"),
        (made().with("crit", Value::Null), "its signing scheme"),
        (made().with(SCHEME, json!("notary.x509.signingAuthority")), "its signing scheme"),
        (made().with("cty", json!("application/json")), "it says of itself"),
        (made().with("cty", Value::Null), "it has no cty"),
        (made().with("alg", Value::Null), "it has no alg"),
        (made().with(TIME, json!("yesterday")), "its time can't be read"),
        (made().with(TIME, json!(later)), "still to come"),
        (made().with_payload("/targetArtifact/digest", json!(other)), "it is for sha256:"),
        (made().with_payload("/targetArtifact/size", json!(1)), "something of 1 bytes"),
        (
            made().with_payload(
                "/targetArtifact/mediaType",
                json!("application/vnd.oci.image.index.v1+json"),
            ),
            "something of type",
        ),
        (made().with_payload("", json!({ "targetArtifact": {} })), "read its payload"),
        (made().with_payload("", json!([])), "read its payload"),
    ] {
        refused(judge(&rule, signers.envelope(&made)), words);
    }
    let jws = signers.jws(&made());
    let fake = URL_SAFE_NO_PAD.encode(made().with("x", json!(1)).protected.to_string());
    for (pointer, value, words) in [
        ("/payload", json!("e30"), "another key made it"),
        ("/protected", json!(fake), "another key made it"),
        ("/signature", json!(""), "length of the signature"),
        ("/signature", json!("="), "its base64"),
        ("/protected", json!("e30"), "it has no alg"),
        ("/header", json!({}), "read its envelope"),
    ] {
        let mut jws = jws.clone();
        *jws.pointer_mut(pointer).expect("a place in the envelope") = value;
        refused(judge(&rule, Envelope::Notation(jws.to_string().into_bytes())), words);
    }
    let twice = jws.to_string().replacen('{', "{\"payload\":\"e30\",", 1);
    for text in [twice.as_str(), "", "{}", "null"] {
        refused(judge(&rule, Envelope::Notation(text.into())), "read its envelope");
    }
}

#[test]
fn no_changed_byte_goes_through() {
    let signers = Signers::new();
    signers.certificate("leaf", "p256", "codeSigning", "ca");
    let rule = signers.rule(&["ca"], None);
    let made = Made::by("leaf", "ES256");
    let good = signers.jws(&made);
    judge(&rule, Envelope::Notation(good.to_string().into_bytes())).expect("the good one");
    for name in ["payload", "protected", "signature"] {
        let text = good[name].as_str().expect("text").to_owned();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let mut jws = good.clone();
            jws[name] = json!(String::from_utf8(changed).expect("text"));
            judge(&rule, Envelope::Notation(jws.to_string().into_bytes())).expect_err(name);
        }
    }
    let leaf = signers.der("leaf");
    for at in 0..leaf.len() {
        let mut changed = leaf.clone();
        changed[at] ^= 1;
        let mut jws = good.clone();
        jws["header"]["x5c"][0] = json!(base64(changed));
        judge(&rule, Envelope::Notation(jws.to_string().into_bytes())).expect_err("a leaf");
    }
}

#[test]
fn revoked_certificates_sign_nothing() {
    let signers = Signers::new();
    signers.certificate("leaf", "p256", "codeSigning", "ca");
    signers.certificate("thief", "p256", "codeSigning", "ca");
    let openssl = &signers.0;
    openssl.write("index", "");
    openssl.write("number", "01\n");
    let dir = openssl.dir().display();
    openssl.write(
        "config",
        format!(
            "[ca]\ndefault_ca=it\n[it]\ndatabase={dir}/index\ncrlnumber={dir}/number\n\
             default_md=sha256\ndefault_crl_days=5\ncrl_extensions=more\n\
             [more]\nauthorityKeyIdentifier=keyid\n"
        ),
    );
    let list = "ca -config config -keyfile ca.key -cert ca.pem -gencrl -out";
    openssl.run(&format!("{list} before.crl"));
    openssl.run("ca -config config -keyfile ca.key -cert ca.pem -revoke thief.pem");
    openssl.run(&format!("{list} after.crl"));
    let rule = |list: &str| {
        let store = TrustStore::read(&[openssl.path("ca.pem")], &[openssl.path(list)]);
        Rule::by_certificate(store.expect("a trust store"), None)
    };
    let by = |key| signers.envelope(&Made::by(key, "ES256"));
    judge(&rule("before.crl"), by("thief")).expect("not yet revoked");
    refused(judge(&rule("after.crl"), by("thief")), "no trusted authority vouches");
    judge(&rule("after.crl"), by("leaf")).expect("not revoked");
    let later = Timestamp::now() + SignedDuration::from_hours(6 * 24);
    refused(judge_at(&rule("after.crl"), by("leaf"), later), "no trusted authority vouches");
    for path in ["leaf.key", "none.pem"] {
        TrustStore::read(&[openssl.path(path)], &[]).expect_err(path);
        TrustStore::read(&[openssl.path("ca.pem")], &[openssl.path(path)]).expect_err(path);
    }
}
