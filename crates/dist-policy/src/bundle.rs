//! cosign's second format: a Sigstore bundle that refers to the image.
//!
//! ```text
//! referrer   a manifest whose artifactType is BUNDLE_TYPE, with the bundle as its layer
//! bundle     {"mediaType":BUNDLE_TYPE,"verificationMaterial":{"publicKey":{"hint":..},..},
//!             "dsseEnvelope":{"payload":base64,"payloadType":"application/vnd.in-toto+json",
//!                             "signatures":[{"sig":base64}]}}
//! statement  in-toto: {"_type":..,"subject":[{"digest":{"sha256":hex}}],"predicateType":SIGN,..}
//! ```
//!
//! A DSSE signature is over `DSSEv1 <length> <type> <length> <payload>`. In place of `dsseEnvelope`
//! there may be `messageSignature`, a signature over the image's manifest itself. What logs and
//! timestamp authorities add is not looked at: the key alone counts.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Digest, Result};
use serde_json::{Value, json};

use crate::judge::Refusal;
use crate::policy::Cosign;
use crate::{Judged, PrivateKey, PublicKey, strict};

/// The media type of bundles, and the artifact type of what refers with one.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// The same, as it was written first.
const BUNDLE_TYPE_BEFORE: &str = "application/vnd.dev.sigstore.bundle+json;version=0.3";

const IN_TOTO: &str = "application/vnd.in-toto+json";
const STATEMENTS: [&str; 2] =
    ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"];
const SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Option<Dsse>,
    message_signature: Option<Message>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Option<Value>,
    certificate: Option<Value>,
    x509_certificate_chain: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dsse {
    payload: String,
    payload_type: String,
    signatures: Vec<Signed>,
}

#[derive(serde::Deserialize)]
struct Signed {
    sig: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    message_digest: MessageDigest,
    signature: String,
}

#[derive(serde::Deserialize)]
struct MessageDigest {
    algorithm: String,
    digest: String,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<StatementSubject>,
    predicate_type: String,
}

#[derive(serde::Deserialize)]
struct StatementSubject {
    #[serde(default)]
    name: String,
    digest: BTreeMap<String, String>,
}

/// Finds out whether a key of `wanted` signed the image; gives the key's name.
pub(crate) fn verify(
    wanted: &Cosign,
    judged: &Judged<'_>,
    bytes: &[u8],
) -> Result<String, Refusal> {
    let bundle: Bundle = strict::parse(bytes).map_err(Refusal::Bundle)?;
    if ![BUNDLE_TYPE, BUNDLE_TYPE_BEFORE].contains(&bundle.media_type.as_str()) {
        return Err(Refusal::Kind(bundle.media_type));
    }
    let material = bundle.verification_material;
    let certified = material.certificate.is_some() || material.x509_certificate_chain.is_some();
    if certified || material.public_key.is_none() {
        return Err(Refusal::NotByKey);
    }
    match (bundle.dsse_envelope, bundle.message_signature) {
        (Some(envelope), None) => verify_statement(wanted, judged, &envelope),
        (None, Some(message)) => verify_message(wanted, judged, &message),
        _ => Err(Refusal::Damaged("content")),
    }
}

fn verify_statement(
    wanted: &Cosign,
    judged: &Judged<'_>,
    envelope: &Dsse,
) -> Result<String, Refusal> {
    let payload = decode(&envelope.payload)?;
    let [Signed { sig }] = envelope.signatures.as_slice() else {
        return Err(Refusal::Damaged("number of signatures"));
    };
    let signed = authenticated(&envelope.payload_type, &payload);
    let key = wanted.signer(&signed, &decode(sig)?)?;
    if envelope.payload_type != IN_TOTO {
        return Err(Refusal::Kind(envelope.payload_type.clone()));
    }
    let statement: Statement = strict::parse(&payload).map_err(Refusal::Payload)?;
    if !STATEMENTS.contains(&statement.kind.as_str()) {
        return Err(Refusal::Kind(statement.kind));
    }
    if statement.predicate_type != SIGN {
        return Err(Refusal::Kind(statement.predicate_type));
    }
    let about = |subject: &&StatementSubject| {
        let hex = subject.digest.get(judged.target.digest.algorithm());
        hex.is_some_and(|hex| *hex == judged.target.digest.hex())
    };
    let Some(subject) = statement.subject.iter().find(about) else {
        let other = statement.subject.first().and_then(|subject| subject.digest.values().next());
        return Err(Refusal::OtherDigest(other.cloned().unwrap_or_default()));
    };
    let name = Some(subject.name.as_str()).filter(|name| !name.is_empty());
    wanted.check_identity(judged, name)?;
    Ok(key)
}

fn verify_message(
    wanted: &Cosign,
    judged: &Judged<'_>,
    message: &Message,
) -> Result<String, Refusal> {
    if message.message_digest.algorithm != "SHA2_256" {
        return Err(Refusal::Algorithm(message.message_digest.algorithm.clone()));
    }
    let document = judged.document.ok_or(Refusal::Damaged("document"))?;
    let digest = Digest::sha256(document);
    if decode(&message.message_digest.digest)? != digest.as_bytes() {
        return Err(Refusal::OtherDigest(message.message_digest.digest.clone()));
    }
    let key = wanted.signer(document, &decode(&message.signature)?)?;
    judged.is_about(&digest.to_string())?;
    wanted.check_identity(judged, None)?;
    Ok(key)
}

fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    STANDARD.decode(text).map_err(|_| Refusal::Damaged("base64"))
}

/// What a DSSE signature is over.
fn authenticated(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// Makes a bundle that says of `digest` that it is signed, and calls it `name`.
///
/// # Errors
/// Those of the key.
pub fn sign_bundle(
    key: &PrivateKey,
    public: Option<&PublicKey>,
    name: &str,
    digest: &Digest,
) -> Result<Vec<u8>> {
    let statement = json!({
        "_type": STATEMENTS[0],
        "subject": [{ "name": name, "digest": { digest.algorithm(): digest.hex() } }],
        "predicateType": SIGN,
        "predicate": {},
    });
    let payload = statement.to_string().into_bytes();
    let signature = key.sign(&authenticated(IN_TOTO, &payload))?;
    let hint = public.map(|key| STANDARD.encode(key.fingerprint().as_bytes()));
    let bundle = json!({
        "mediaType": BUNDLE_TYPE,
        "verificationMaterial": { "publicKey": { "hint": hint.unwrap_or_default() } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(&payload),
            "payloadType": IN_TOTO,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
    });
    Ok(bundle.to_string().into_bytes())
}
