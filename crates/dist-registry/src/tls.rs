//! TLS: which certificates are trusted.
//!
//! The cryptography is ring's, passed to each client; no process-wide provider is installed.

use std::path::Path;
use std::sync::Arc;

use dist_core::{Context, Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore,
    SignatureScheme,
};

use crate::ClientCert;

/// The most bytes a file of trusted certificates may have.
const MAX_PEM_BYTES: u64 = 16 << 20;

/// How a server's certificate is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Trust {
    /// There is none: nothing but http is spoken.
    None,
    /// By the system's roots and the caller's.
    Roots,
    /// Not at all.
    Anything,
}

/// Makes the TLS settings of one client. Reads the roots only where they are needed.
pub(crate) fn config(
    trust: Trust,
    ca_certs: &[impl AsRef<Path>],
    shown: &[ClientCert],
) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context(ErrorKind::Internal, || "set up TLS".into())?;
    let mut config = match trust {
        Trust::None => builder.with_root_certificates(RootCertStore::empty()),
        Trust::Roots => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusted::new(&provider, ca_certs)?)),
        Trust::Anything => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAll(provider.clone()))),
    }
    .with_client_cert_resolver(Arc::new(Shown::read(shown, &provider)?));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The certificates that a server may be shown.
#[derive(Debug)]
struct Shown(Vec<Arc<CertifiedKey>>);

impl Shown {
    fn read(certs: &[ClientCert], provider: &CryptoProvider) -> Result<Self> {
        let read = |client: &ClientCert| {
            let what = || format!("read client certificate {}", client.cert.display());
            let chain = read_pem(&client.cert)?;
            let pem = read_bytes(&client.key)?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .context(ErrorKind::InvalidArgument, || {
                    format!("read key {}", client.key.display())
                })?;
            let key = CertifiedKey::from_der(chain, key, provider)
                .context(ErrorKind::InvalidArgument, what)?;
            Ok(Arc::new(key))
        };
        certs.iter().map(read).collect::<Result<_>>().map(Self)
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|key| key.key.choose_scheme(schemes).is_some()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Trusts what the roots have signed, and a root itself where a server shows it: the self-signed
/// certificate of a small registry is usually that of an authority.
#[derive(Debug)]
struct Trusted {
    roots: Vec<CertificateDer<'static>>,
    by_roots: Arc<WebPkiServerVerifier>,
}

impl Trusted {
    fn new(provider: &Arc<CryptoProvider>, ca_certs: &[impl AsRef<Path>]) -> Result<Self> {
        let mut roots = rustls_native_certs::load_native_certs();
        for error in &roots.errors {
            tracing::warn!(%error, "cannot read a system root certificate");
        }
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(roots.certs.iter().cloned());
        tracing::debug!(roots = store.len(), "loaded the system's root certificates");
        for path in ca_certs {
            roots.certs.extend(add_file(&mut store, path.as_ref())?);
        }
        if store.is_empty() {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "find root certificates: there are none on this system (package ca-certificates)",
            ));
        }
        let by_roots =
            WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                .build()
                .context(ErrorKind::Internal, || "set up TLS".into())?;
        Ok(Self { roots: roots.certs, by_roots })
    }
}

/// Checks that every file holds certificates, also where none of them is to be used.
pub(crate) fn check_files(ca_certs: &[impl AsRef<Path>]) -> Result<()> {
    let mut store = RootCertStore::empty();
    ca_certs.iter().try_for_each(|path| add_file(&mut store, path.as_ref()).map(drop))
}

/// Adds the certificates in a file and returns them.
fn add_file(store: &mut RootCertStore, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates = read_pem(path)?;
    for certificate in &certificates {
        store.add(certificate.clone()).context(ErrorKind::InvalidArgument, || {
            format!("read certificates {}", path.display())
        })?;
    }
    Ok(certificates)
}

fn read_pem(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("read certificates {}", path.display());
    let pem = read_bytes(path)?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .context(ErrorKind::InvalidArgument, what)?;
    if certificates.is_empty() {
        let message = format!("{}: there is no PEM certificate in it", what());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(certificates)
}

fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let what = || format!("read certificates {}", path.display());
    let meta = fs_err::metadata(path).context(ErrorKind::InvalidArgument, what)?;
    if !meta.is_file() || meta.len() > MAX_PEM_BYTES {
        let message = format!("{}: it is no regular file of at most 16 MiB", what());
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    fs_err::read(path).context(ErrorKind::InvalidArgument, what)
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.by_roots.verify_server_cert(end_entity, intermediates, server_name, ocsp, now) {
            // Said after the dates have been found right.
            Err(error) if is_authority(&error) && self.roots.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_roots.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_roots.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_roots.supported_verify_schemes()
    }
}

/// Whether a server's certificate was refused for being that of an authority.
pub(crate) fn is_authority(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) = error
    else {
        return false;
    };
    matches!(inner.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// Takes any certificate; signatures are still checked, so that the peer holds its key.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
