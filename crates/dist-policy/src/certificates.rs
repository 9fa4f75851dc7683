//! Certificates that sign, and the authorities that vouch for them.

use std::path::Path;

use dist_core::{Context as _, Digest, Error, ErrorKind, Result};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationCheckDepth, RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};

use crate::judge::Refusal;
use crate::{CertificateSubject, long_curve};

/// The extended key usage of certificates that sign code: 1.3.6.1.5.5.7.3.3.
const CODE_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 3];

/// The most certificates of a chain.
const MOST: usize = 10;

/// Authorities, and what they have taken back.
pub struct TrustStore {
    anchors: Vec<TrustAnchor<'static>>,
    revocations: Vec<CertRevocationList<'static>>,
    described: Vec<Digest>,
}

impl TrustStore {
    /// Reads certificates from PEM files, and lists of revoked ones. With such a list, one has to
    /// speak for each certificate of a chain, and may not have expired.
    ///
    /// # Errors
    /// `InvalidArgument` for a file that can't be read or has none.
    pub fn read<P: AsRef<Path>>(certificates: &[P], revocations: &[P]) -> Result<Self> {
        let (mut anchors, mut lists, mut described) = (Vec::new(), Vec::new(), Vec::new());
        for path in certificates {
            let (path, pem) = read(path.as_ref())?;
            let what = || format!("read certificates {path}");
            let before = anchors.len();
            for der in CertificateDer::pem_slice_iter(&pem) {
                let der = der.context(ErrorKind::InvalidArgument, what)?;
                let anchor =
                    anchor_from_trusted_cert(&der).context(ErrorKind::InvalidArgument, what)?;
                anchors.push(anchor.to_owned());
                described.push(Digest::sha256(&der));
            }
            if anchors.len() == before {
                return Err(none(&path, "CERTIFICATE"));
            }
        }
        for path in revocations {
            let (path, pem) = read(path.as_ref())?;
            let what = || format!("read list of revoked certificates {path}");
            let before = lists.len();
            for der in CertificateRevocationListDer::pem_slice_iter(&pem) {
                let der = der.context(ErrorKind::InvalidArgument, what)?;
                let list = OwnedCertRevocationList::from_der(&der);
                lists.push(list.context(ErrorKind::InvalidArgument, what)?.into());
                described.push(Digest::sha256(&der));
            }
            if lists.len() == before {
                return Err(none(&path, "X509 CRL"));
            }
        }
        Ok(Self { anchors, revocations: lists, described })
    }

    /// Finds out whether an authority vouches for the first certificate of `chain`, at all of
    /// `times`.
    pub(crate) fn vouches(
        &self,
        chain: &[CertificateDer<'_>],
        times: &[UnixTime],
    ) -> Result<(), Refusal> {
        let ([first, others @ ..], 1..=MOST) = (chain, chain.len()) else {
            return Err(Refusal::Damaged("certificate chain"));
        };
        let leaf = EndEntityCert::try_from(first).map_err(Refusal::Certificate)?;
        let lists: Vec<&CertRevocationList<'_>> = self.revocations.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|builder| {
            builder
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Deny)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        for time in times {
            leaf.verify_for_usage(
                &ALGORITHMS,
                &self.anchors,
                others,
                *time,
                KeyUsage::required_if_present(CODE_SIGNING),
                revocation,
                None,
            )
            .map_err(Refusal::Certificate)?;
        }
        Ok(())
    }
}

/// What certificates may be signed with.
static ALGORITHMS: [&dyn SignatureVerificationAlgorithm; 12] = {
    use webpki::ring;
    [
        long_curve::ECDSA_P521_SHA512,
        ring::ECDSA_P256_SHA256,
        ring::ECDSA_P256_SHA384,
        ring::ECDSA_P384_SHA256,
        ring::ECDSA_P384_SHA384,
        ring::ED25519,
        ring::RSA_PKCS1_2048_8192_SHA256,
        ring::RSA_PKCS1_2048_8192_SHA384,
        ring::RSA_PKCS1_2048_8192_SHA512,
        ring::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        ring::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
        ring::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
    ]
};

/// Whom a certificate is for.
pub(crate) fn subject(certificate: &CertificateDer<'_>) -> Option<CertificateSubject> {
    let certificate = EndEntityCert::try_from(certificate).ok()?;
    CertificateSubject::from_der(certificate.subject())
}

fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.display().to_string();
    let pem = dist_core::read_small(path, dist_core::MOST_OF_A_FILE)
        .context(ErrorKind::InvalidArgument, || format!("read {name}"))?;
    Ok((name, pem))
}

fn none(path: &str, label: &str) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("read {path}: it has no BEGIN {label}"))
}

impl std::fmt::Debug for TrustStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.described).finish()
    }
}
