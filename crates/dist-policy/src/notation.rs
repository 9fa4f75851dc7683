//! notation's signatures: a JWS envelope with a certificate.
//!
//! ```text
//! referrer   a manifest whose artifact type (or config's media type) is SIGNATURE_TYPE, with the
//!            envelope as its layer, of ENVELOPE_TYPE
//! envelope   {"payload":base64url,"protected":base64url,"header":{"x5c":[base64 of DER,..]},
//!             "signature":base64url}, signed over `protected.payload`
//! protected  {"alg":..,"cty":PAYLOAD_TYPE,"crit":[..],"io.cncf.notary.signingScheme":"notary.x509",
//!             "io.cncf.notary.signingTime":..,"io.cncf.notary.expiry":..}
//! payload    {"targetArtifact":{"mediaType":..,"digest":..,"size":..}}
//! ```
//!
//! notaryproject's signature specification, and its JWS signature envelope. Time stamps of an
//! authority are not looked at: a certificate has to be valid now.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use serde_json::{Map, Value};
use webpki::{EndEntityCert, ring};

use crate::judge::Refusal;
use crate::policy::Notation;
use crate::{Judged, certificates, long_curve, strict};

/// The artifact type of what refers with a signature.
pub const SIGNATURE_TYPE: &str = "application/vnd.cncf.notary.signature";

/// The media type of envelopes.
pub const ENVELOPE_TYPE: &str = "application/jose+json";

const PAYLOAD_TYPE: &str = "application/vnd.cncf.notary.payload.v1+json";

const SCHEME: &str = "io.cncf.notary.signingScheme";
const TIME: &str = "io.cncf.notary.signingTime";
const EXPIRY: &str = "io.cncf.notary.expiry";

/// How far clocks may differ.
const SKEW: SignedDuration = SignedDuration::from_mins(5);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Jws {
    payload: String,
    protected: String,
    header: Header,
    signature: String,
}

#[derive(serde::Deserialize)]
struct Header {
    x5c: Vec<String>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    target_artifact: Target,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Target {
    media_type: String,
    digest: String,
    size: u64,
}

/// Finds out whether somebody whom `wanted` trusts signed the image; gives whom.
pub(crate) fn verify(
    wanted: &Notation,
    judged: &Judged<'_>,
    bytes: &[u8],
) -> Result<String, Refusal> {
    let jws: Jws = strict::parse(bytes).map_err(Refusal::Envelope)?;
    let protected: Map<String, Value> =
        strict::parse(&decode(&jws.protected)?).map_err(Refusal::Envelope)?;
    let algorithm = algorithm(text(&protected, "alg")?)?;
    let signed_at = check_headers(&protected, judged.now)?;
    let chain: Vec<CertificateDer<'_>> = jws
        .header
        .x5c
        .iter()
        .map(|text| STANDARD.decode(text).map(CertificateDer::from))
        .collect::<Result<_, _>>()
        .map_err(|_| Refusal::Damaged("certificate chain"))?;
    let times = [unix(judged.now)?, unix(signed_at)?];
    wanted.store.vouches(&chain, &times)?;
    let leaf = chain.first().ok_or(Refusal::Damaged("certificate chain"))?;
    let signer = EndEntityCert::try_from(leaf).map_err(Refusal::Certificate)?;
    let signature = algorithm.signature(&decode(&jws.signature)?)?;
    let message = format!("{}.{}", jws.protected, jws.payload);
    signer
        .verify_signature(algorithm.verifier, message.as_bytes(), &signature)
        .map_err(|_| Refusal::OtherKey)?;
    let name = certificates::subject(leaf);
    wanted.check_signer(name.as_ref())?;
    let payload: Payload = strict::parse(&decode(&jws.payload)?).map_err(Refusal::Payload)?;
    let Target { media_type, digest, size } = payload.target_artifact;
    judged.is_about(&digest)?;
    if media_type != judged.target.media_type.as_str() {
        return Err(Refusal::OtherType(media_type));
    }
    if size != judged.target.size {
        return Err(Refusal::OtherSize(size));
    }
    Ok(name.map_or_else(|| "a certificate".to_owned(), |name| name.to_string()))
}

/// How a signature is made, and what it looks like.
struct Algorithm {
    verifier: &'static dyn SignatureVerificationAlgorithm,
    /// The bytes of each of the two numbers of an ECDSA signature.
    half: Option<usize>,
}

fn algorithm(name: &str) -> Result<Algorithm, Refusal> {
    let (verifier, half) = match name {
        "PS256" => (ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY, None),
        "PS384" => (ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY, None),
        "PS512" => (ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY, None),
        "ES256" => (ring::ECDSA_P256_SHA256, Some(32)),
        "ES384" => (ring::ECDSA_P384_SHA384, Some(48)),
        "ES512" => (long_curve::ECDSA_P521_SHA512, Some(long_curve::HALF)),
        other => return Err(Refusal::Algorithm(other.to_owned())),
    };
    Ok(Algorithm { verifier, half })
}

impl Algorithm {
    /// The signature as certificates have it: of ECDSA, two numbers in DER.
    fn signature(&self, raw: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Some(half) = self.half else { return Ok(raw.to_vec()) };
        if raw.len() != 2 * half {
            return Err(Refusal::Damaged("length of the signature"));
        }
        let (first, second) = raw.split_at(half);
        let numbers = [number(first), number(second)].concat();
        let length = u8::try_from(numbers.len()).unwrap_or(u8::MAX);
        let head: &[u8] = if length < 0x80 { &[0x30, length] } else { &[0x30, 0x81, length] };
        Ok([head, numbers.as_slice()].concat())
    }
}

/// A number in DER; it is no longer than 66 bytes.
fn number(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let bytes = bytes.get(zeros..).unwrap_or_default();
    let sign = bytes.first().is_none_or(|byte| *byte >= 0x80);
    let length = u8::try_from(bytes.len() + usize::from(sign)).unwrap_or(u8::MAX);
    let mut der = vec![2, length];
    der.extend(sign.then_some(0));
    der.extend_from_slice(bytes);
    der
}

/// Checks what was signed together with the payload; gives when that was.
fn check_headers(protected: &Map<String, Value>, now: Timestamp) -> Result<Timestamp, Refusal> {
    let content = text(protected, "cty")?;
    if content != PAYLOAD_TYPE {
        return Err(Refusal::Kind(content.to_owned()));
    }
    let critical = protected.get("crit").and_then(Value::as_array).map(Vec::as_slice);
    for header in critical.unwrap_or_default() {
        let known = header.as_str().filter(|name| [SCHEME, EXPIRY].contains(name));
        if !known.is_some_and(|name| protected.contains_key(name)) {
            return Err(Refusal::Critical(header.to_string()));
        }
    }
    let is_critical = |name: &str| critical.unwrap_or_default().iter().any(|it| it == name);
    let scheme = text(protected, SCHEME)?;
    if !is_critical(SCHEME) || scheme != "notary.x509" {
        return Err(Refusal::Scheme(scheme.to_owned()));
    }
    let signed_at = time(protected, TIME)?.ok_or(Refusal::Missing(TIME))?;
    if signed_at.duration_since(now) > SKEW {
        return Err(Refusal::Future(signed_at));
    }
    if let Some(expiry) = time(protected, EXPIRY)? {
        if !is_critical(EXPIRY) {
            return Err(Refusal::Critical(EXPIRY.to_owned()));
        }
        if expiry <= now {
            return Err(Refusal::Expired(expiry));
        }
    }
    Ok(signed_at)
}

fn text<'a>(protected: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, Refusal> {
    protected.get(name).and_then(Value::as_str).ok_or(Refusal::Missing(name))
}

fn time(protected: &Map<String, Value>, name: &'static str) -> Result<Option<Timestamp>, Refusal> {
    let Some(value) = protected.get(name) else { return Ok(None) };
    let time = value.as_str().and_then(|text| text.parse().ok());
    time.map(Some).ok_or(Refusal::Damaged("time"))
}

fn unix(time: Timestamp) -> Result<UnixTime, Refusal> {
    let seconds = u64::try_from(time.as_second()).map_err(|_| Refusal::Damaged("time"))?;
    Ok(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| Refusal::Damaged("base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(&[0, 0, 5]), [2, 1, 5]);
        assert_eq!(number(&[0x80, 1]), [2, 3, 0, 0x80, 1]);
        assert_eq!(number(&[0, 0]), [2, 1, 0]);
        let algorithm = algorithm("ES256").unwrap();
        assert_eq!(algorithm.signature(&[0xff; 64]).unwrap().len(), 2 + 2 * 35);
        algorithm.signature(&[1; 63]).unwrap_err();
    }

    #[test]
    fn no_other_algorithm() {
        for name in ["none", "HS256", "RS256", "ES256K", "EdDSA", "es256", ""] {
            assert!(matches!(super::algorithm(name), Err(Refusal::Algorithm(_))), "{name}");
        }
    }
}
