//! Public keys, and what they say of signatures.

use dist_core::{Context as _, Digest, Error, ErrorKind, Result};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer};
use webpki::{RawPublicKeyEntity, ring};

/// How cosign signs, by the kind of key: with SHA-256 unless it was told otherwise.
static ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 5] = [
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::ED25519,
];

/// The least bytes of an RSA key: those of its modulus of 2048 bits.
const LEAST_OF_RSA: usize = 2048 / 8;

/// A public key: ECDSA over P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    spki: SubjectPublicKeyInfoDer<'static>,
}

impl PublicKey {
    /// Reads a key as PEM (`BEGIN PUBLIC KEY`); `name` is what messages call it.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no such key, or for several.
    pub fn from_pem(name: &str, pem: &[u8]) -> Result<Self> {
        let what = || format!("read public key {name}");
        let refuse = |why: &str| {
            Err(Error::new(ErrorKind::InvalidArgument, format!("read public key {name}: {why}")))
        };
        let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem);
        let Some(spki) = keys.next() else {
            return refuse("it has no BEGIN PUBLIC KEY");
        };
        let spki = spki.context(ErrorKind::InvalidArgument, what)?;
        if keys.next().is_some() {
            return refuse("it has several keys; write one a file");
        }
        let entity =
            RawPublicKeyEntity::try_from(&spki).context(ErrorKind::InvalidArgument, what)?;
        if ALGORITHMS.iter().all(|algorithm| is_for_others(&entity, *algorithm)) {
            return refuse("it is none of ECDSA P-256 or P-384, Ed25519 and RSA");
        }
        if !is_for_others(&entity, ring::RSA_PKCS1_2048_8192_SHA256) && spki.len() < LEAST_OF_RSA {
            return refuse("it is RSA of less than 2048 bits: no signature by it is believed");
        }
        Ok(Self { name: name.to_owned(), spki })
    }

    /// Reads a key from a file.
    ///
    /// # Errors
    /// As [`PublicKey::from_pem`]; `InvalidArgument` for a file that can't be read.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let name = path.display().to_string();
        let pem = dist_core::read_small(path, dist_core::MOST_OF_A_FILE)
            .context(ErrorKind::InvalidArgument, || format!("read public key {name}"))?;
        Self::from_pem(&name, &pem)
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest of the key itself.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::sha256(&self.spki)
    }

    /// Whether the key made `signature` over `message`.
    #[must_use]
    pub fn made(&self, message: &[u8], signature: &[u8]) -> bool {
        let Ok(entity) = RawPublicKeyEntity::try_from(&self.spki) else { return false };
        ALGORITHMS
            .iter()
            .any(|algorithm| entity.verify_signature(*algorithm, message, signature).is_ok())
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({}, {})", self.name, self.fingerprint())
    }
}

fn is_for_others(
    entity: &RawPublicKeyEntity<'_>,
    algorithm: &dyn SignatureVerificationAlgorithm,
) -> bool {
    use webpki::Error::UnsupportedSignatureAlgorithmForPublicKeyContext as Unsupported;
    matches!(entity.verify_signature(algorithm, b"", b""), Err(Unsupported(_)))
}
