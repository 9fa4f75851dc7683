//! Private keys that sign: plain PKCS #8, or encrypted as cosign writes them.
//!
//! ```text
//! -----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----     (COSIGN in older files)
//! base64 of {"kdf":{"name":"scrypt","params":{"N":..,"r":8,"p":1},"salt":..},
//!            "cipher":{"name":"nacl/secretbox","nonce":..},"ciphertext":..}
//! ```
//!
//! What is inside is PKCS #8 again.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Context as _, Error, ErrorKind, Result};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};

use crate::{secretbox, strict};

/// The most memory that deriving a key from a password may take.
const MOST_SCRYPT_BYTES: u64 = 256 << 20;

/// A private key: ECDSA over P-256, Ed25519 or RSA.
pub struct PrivateKey(Kind);

enum Kind {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// Reads a key as PEM; `password` is asked where it is encrypted.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such key, and for a wrong password; those of `password`.
    pub fn from_pem(pem: &[u8], password: impl FnOnce() -> Result<Vec<u8>>) -> Result<Self> {
        let (label, der) = section(pem).ok_or_else(|| invalid("it has no BEGIN PRIVATE KEY"))?;
        match label.as_str() {
            "PRIVATE KEY" => Self::from_pkcs8(&der),
            "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" => {
                Self::from_pkcs8(&decrypt(&der, &password()?)?)
            }
            "EC PRIVATE KEY" | "RSA PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => Err(invalid(
                "it is not plain PKCS #8; `openssl pkcs8 -topk8 -nocrypt -in FILE` makes it that",
            )),
            _ => Err(invalid("it is no private key")),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self> {
        let ecdsa = || {
            let random = SystemRandom::new();
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der, &random).map(Kind::P256)
        };
        let ed25519 = || Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Kind::Ed25519);
        let rsa = || RsaKeyPair::from_pkcs8(der).map(Kind::Rsa);
        let kind = ecdsa().or_else(|_| ed25519()).or_else(|_| rsa());
        kind.map(Self).map_err(|_| {
            invalid("it is none of ECDSA P-256 (with its public key), Ed25519 and RSA of 2048 bits")
        })
    }

    /// Signs a message: ECDSA and RSA (PKCS #1) with SHA-256, as cosign does.
    ///
    /// # Errors
    /// `Internal` where there are no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let failed = |_| Error::new(ErrorKind::Internal, "sign: no random numbers");
        match &self.0 {
            Kind::P256(pair) => {
                pair.sign(&random, message).map(|made| made.as_ref().to_vec()).map_err(failed)
            }
            Kind::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Kind::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }

    /// Whether this key made `signature` over `message`.
    #[must_use]
    pub fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        let (algorithm, public): (&dyn VerificationAlgorithm, &[u8]) = match &self.0 {
            Kind::P256(pair) => (&ECDSA_P256_SHA256_ASN1, pair.public_key().as_ref()),
            Kind::Ed25519(pair) => (&ED25519, pair.public_key().as_ref()),
            Kind::Rsa(pair) => (&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref()),
        };
        UnparsedPublicKey::new(algorithm, public).verify(message, signature).is_ok()
    }

    /// Whether somebody else than `key` is the other half: what is signed would not be verified.
    #[must_use]
    pub fn is_other_than(&self, key: &crate::PublicKey) -> bool {
        const PROBE: &[u8] = b"dist: is this the pair";
        self.sign(PROBE).is_ok_and(|signature| !key.made(PROBE, &signature))
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey(***)")
    }
}

fn invalid(why: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("read the private key: {why}"))
}

/// The first section of a PEM file: its label and its bytes.
fn section(pem: &[u8]) -> Option<(String, Vec<u8>)> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
    let body: String = body.split_whitespace().collect();
    Some((label.to_owned(), STANDARD.decode(body).ok()?))
}

#[derive(serde::Deserialize)]
struct Encrypted {
    kdf: Kdf,
    cipher: Cipher,
    ciphertext: String,
}

#[derive(serde::Deserialize)]
struct Kdf {
    name: String,
    params: Params,
    salt: String,
}

#[derive(serde::Deserialize)]
struct Params {
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
}

#[derive(serde::Deserialize)]
struct Cipher {
    name: String,
    nonce: String,
}

fn decrypt(json: &[u8], password: &[u8]) -> Result<Vec<u8>> {
    let Encrypted { kdf, cipher, ciphertext } = strict::parse(json)
        .context(ErrorKind::InvalidArgument, || "read the private key".into())?;
    if kdf.name != "scrypt" || cipher.name != "nacl/secretbox" {
        return Err(invalid("it is encrypted with something else than scrypt and nacl/secretbox"));
    }
    let bytes = |text: &str| STANDARD.decode(text).map_err(|_| invalid("its base64 is damaged"));
    let (salt, sealed) = (bytes(&kdf.salt)?, bytes(&ciphertext)?);
    let nonce: [u8; 24] =
        bytes(&cipher.nonce)?.try_into().map_err(|_| invalid("its nonce has not 24 bytes"))?;
    let Params { n, r, p } = kdf.params;
    let costs = n.saturating_mul(u64::from(r)).saturating_mul(128);
    if !n.is_power_of_two() || n < 2 || costs > MOST_SCRYPT_BYTES || p > 16 {
        return Err(invalid("its scrypt takes too much, or is none"));
    }
    let log_n = u8::try_from(n.trailing_zeros()).unwrap_or(u8::MAX);
    let params = scrypt::Params::new(log_n, r, p)
        .map_err(|_| invalid("its scrypt takes too much, or is none"))?;
    let mut key = [0; 32];
    scrypt::scrypt(password, &salt, &params, &mut key)
        .map_err(|_| invalid("its scrypt takes too much, or is none"))?;
    secretbox::open(&key, &nonce, &sealed).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "decrypt the private key: the password is another")
    })
}
