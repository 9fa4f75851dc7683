//! cosign's first format: "simple signing" below a tag.
//!
//! ```text
//! tag sha256-<hex>.sig   a manifest; each layer is a payload of SIMPLE_TYPE, and its annotation
//!                        dev.cosignproject.cosign/signature is the signature in base64
//! payload                {"critical":{"identity":{"docker-reference":NAME},
//!                          "image":{"docker-manifest-digest":DIGEST},
//!                          "type":"cosign container image signature"},"optional":{..}}
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Digest, Result};
use serde_json::{Value, json};

use crate::judge::Refusal;
use crate::policy::Cosign;
use crate::{Judged, PrivateKey, strict};

/// The media type of payloads.
pub const SIMPLE_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

/// The annotation of a layer that has the signature.
pub const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";

const KIND: &str = "cosign container image signature";

/// The tag below which the signatures of `digest` lie.
#[must_use]
pub fn signature_tag(digest: &Digest) -> String {
    format!("{}-{}.sig", digest.algorithm(), digest.hex())
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload {
    critical: Critical,
    #[serde(default, rename = "optional")]
    _optional: Option<Value>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Critical {
    identity: IdentityPart,
    image: ImagePart,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityPart {
    #[serde(rename = "docker-reference")]
    name: String,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ImagePart {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

/// Finds out whether a key of `wanted` signed the image; gives the key's name.
pub(crate) fn verify(
    wanted: &Cosign,
    judged: &Judged<'_>,
    payload: &[u8],
    signature: &str,
) -> Result<String, Refusal> {
    let signature = STANDARD.decode(signature.trim()).map_err(|_| Refusal::Damaged("base64"))?;
    let key = wanted.signer(payload, &signature)?;
    let payload: Payload = strict::parse(payload).map_err(Refusal::Payload)?;
    let Critical { identity, image, kind } = payload.critical;
    if kind != KIND {
        return Err(Refusal::Kind(kind));
    }
    judged.is_about(&image.digest)?;
    wanted.check_identity(judged, Some(&identity.name))?;
    Ok(key)
}

/// Whether `key` made a signature in base64 over `payload`.
#[must_use]
pub fn is_signed_by(key: &PrivateKey, payload: &[u8], signature: &str) -> bool {
    STANDARD.decode(signature.trim()).is_ok_and(|signature| key.made(payload, &signature))
}

/// Makes a payload that calls the image `name`, and its signature in base64.
///
/// # Errors
/// Those of the key.
pub fn sign_simple(key: &PrivateKey, name: &str, digest: &Digest) -> Result<(Vec<u8>, String)> {
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": name },
            "image": { "docker-manifest-digest": digest },
            "type": KIND,
        },
        "optional": null,
    });
    let payload = payload.to_string().into_bytes();
    let signature = STANDARD.encode(key.sign(&payload)?);
    Ok((payload, signature))
}
