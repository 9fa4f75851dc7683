//! TLS: which certificates are trusted.
//!
//! The cryptography is ring's, passed to each client; no process-wide provider is installed.

use std::path::Path;
use std::sync::Arc;

use dist_core::{Context, Error, ErrorKind, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

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
pub(crate) fn config(trust: Trust, ca_certs: &[impl AsRef<Path>]) -> Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .context(ErrorKind::Internal, || "set up TLS".into())?;
    let mut config = match trust {
        Trust::None => builder.with_root_certificates(RootCertStore::empty()),
        Trust::Roots => builder.with_root_certificates(roots(ca_certs)?),
        Trust::Anything => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAll(provider)))
        }
    }
    .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(ca_certs: &[impl AsRef<Path>]) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::warn!(%error, "cannot read a system root certificate");
    }
    let (_, ignored) = store.add_parsable_certificates(system.certs);
    tracing::debug!(roots = store.len(), ignored, "loaded the system's root certificates");
    for path in ca_certs {
        let path = path.as_ref();
        let what = || format!("read certificates {}", path.display());
        let invalid = |problem| {
            Error::new(ErrorKind::InvalidArgument, what())
                .with_source(std::io::Error::new(std::io::ErrorKind::InvalidData, problem))
        };
        let meta = fs_err::metadata(path).context(ErrorKind::InvalidArgument, what)?;
        if !meta.is_file() || meta.len() > MAX_PEM_BYTES {
            return Err(invalid("it is no regular file of at most 16 MiB"));
        }
        let pem = fs_err::read(path).context(ErrorKind::InvalidArgument, what)?;
        let mut count = 0;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.context(ErrorKind::InvalidArgument, what)?;
            store.add(certificate).context(ErrorKind::InvalidArgument, what)?;
            count += 1;
        }
        if count == 0 {
            return Err(invalid("there is no PEM certificate in it"));
        }
    }
    Ok(store)
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
