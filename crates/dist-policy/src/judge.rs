//! Signatures against what a policy asks for.

use std::fmt;

use dist_core::{Descriptor, Digest, Error, ErrorKind, Result};
use jiff::Timestamp;

use crate::policy::{Cosign, Notation, Requirement};
use crate::{Policy, Rule, Subject, bundle, notation, simple};

/// The most signatures of one image that are looked at.
pub const MOST_SIGNATURES: usize = 32;

/// A signature as it was found.
#[derive(Clone, Debug)]
pub struct Signature {
    /// The digest of what has it, for messages.
    pub digest: Digest,
    /// What it is.
    pub envelope: Envelope,
}

/// The forms of signatures.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// cosign's first: a payload, and its signature in base64.
    Simple {
        /// The payload.
        payload: Vec<u8>,
        /// The signature.
        signature: String,
    },
    /// A Sigstore bundle.
    Bundle(Vec<u8>),
    /// notation's JWS envelope.
    Notation(Vec<u8>),
    /// One that can't be read, with the reason.
    Unreadable(&'static str),
}

/// What is judged.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    /// The image as it was asked for.
    pub subject: &'a Subject,
    /// What its name stands for.
    pub target: &'a Descriptor,
    /// The manifest or index, where a bundle needs it.
    pub document: Option<&'a [u8]>,
    /// What claims to be a signature of it.
    pub signatures: &'a [Signature],
    /// The time.
    pub now: Timestamp,
}

/// Why an image may be used: by which signature each requirement is met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// A line for each requirement that asks for anything.
    pub reasons: Vec<String>,
}

/// Why a signature does not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // their messages say it
pub enum Refusal {
    #[error("another key made it, or it was changed")]
    OtherKey,
    #[error("it is for {0}")]
    OtherDigest(String),
    #[error("it is for something of type {0}")]
    OtherType(String),
    #[error("it is for something of {0} bytes")]
    OtherSize(u64),
    #[error("it names the image {0}")]
    OtherName(String),
    #[error("it does not name the image, and identity = \"digest\" is not set")]
    NoName,
    #[error("it says of itself that it is {0}")]
    Kind(String),
    #[error("a certificate vouches for its key, not the policy")]
    NotByKey,
    #[error("its algorithm is {0}")]
    Algorithm(String),
    #[error("its critical header {0} is not known, or not right")]
    Critical(String),
    #[error("its signing scheme is {0}, not a critical notary.x509")]
    Scheme(String),
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {0} can't be read")]
    Damaged(&'static str),
    #[error("it expired at {0}")]
    Expired(Timestamp),
    #[error("it was made at {0}, which is still to come")]
    Future(Timestamp),
    #[error("its certificate is for {0}")]
    OtherSigner(String),
    #[error("read its payload: {0}")]
    Payload(#[source] serde_json::Error),
    #[error("read its bundle: {0}")]
    Bundle(#[source] serde_json::Error),
    #[error("read its envelope: {0}")]
    Envelope(#[source] serde_json::Error),
    #[error("no trusted authority vouches for its certificate: {0}")]
    Certificate(#[source] webpki::Error),
}

/// Why no signature meets a requirement.
#[derive(Debug)]
pub struct Refusals(pub Vec<(Digest, Refusal)>);

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST_SHOWN: usize = 4;
        if self.0.is_empty() {
            return f.write_str("there is no such signature");
        }
        for (at, (digest, refusal)) in self.0.iter().take(MOST_SHOWN).enumerate() {
            let before = if at == 0 { "" } else { "; " };
            write!(f, "{before}signature {}: {refusal}", digest.short())?;
        }
        match self.0.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for Refusals {}

impl Judged<'_> {
    /// Fails where a signature is for another digest.
    pub(crate) fn is_about(&self, digest: &str) -> Result<(), Refusal> {
        if digest == self.target.digest.to_string() {
            return Ok(());
        }
        Err(Refusal::OtherDigest(digest.to_owned()))
    }
}

impl Cosign {
    /// The name of the key that made a signature.
    pub(crate) fn signer(&self, message: &[u8], signature: &[u8]) -> Result<String, Refusal> {
        let key = self.keys.iter().find(|key| key.made(message, signature));
        key.map(|key| key.name().to_owned()).ok_or(Refusal::OtherKey)
    }

    pub(crate) fn check_identity(
        &self,
        judged: &Judged<'_>,
        signed: Option<&str>,
    ) -> Result<(), Refusal> {
        if self.identity.allows(judged.subject, signed) {
            return Ok(());
        }
        Err(signed.map_or(Refusal::NoName, |name| Refusal::OtherName(name.to_owned())))
    }

    fn verify(&self, judged: &Judged<'_>, envelope: &Envelope) -> Option<Result<String, Refusal>> {
        match envelope {
            Envelope::Simple { payload, signature } => {
                Some(simple::verify(self, judged, payload, signature))
            }
            Envelope::Bundle(bytes) => Some(bundle::verify(self, judged, bytes)),
            Envelope::Unreadable(part) => Some(Err(Refusal::Damaged(part))),
            Envelope::Notation(_) => None,
        }
    }
}

impl Notation {
    pub(crate) fn check_signer(
        &self,
        name: Option<&crate::CertificateSubject>,
    ) -> Result<(), Refusal> {
        let Some(wanted) = &self.identities else { return Ok(()) };
        if name.is_some_and(|name| wanted.iter().any(|wanted| wanted.is_part_of(name))) {
            return Ok(());
        }
        let name = name.map_or_else(|| "somebody without a name".to_owned(), ToString::to_string);
        Err(Refusal::OtherSigner(name))
    }

    fn verify(&self, judged: &Judged<'_>, envelope: &Envelope) -> Option<Result<String, Refusal>> {
        match envelope {
            Envelope::Notation(bytes) => Some(notation::verify(self, judged, bytes)),
            Envelope::Unreadable(part) => Some(Err(Refusal::Damaged(part))),
            Envelope::Simple { .. } | Envelope::Bundle(_) => None,
        }
    }
}

impl Requirement {
    /// Finds out whether an image meets it; gives by what, where it asks for anything.
    fn judge(&self, judged: &Judged<'_>) -> Result<Option<String>> {
        let verify = |envelope: &Envelope| match self {
            Self::Cosign(wanted) => wanted.verify(judged, envelope),
            Self::Notation(wanted) => wanted.verify(judged, envelope),
            Self::Accept | Self::Reject | Self::Unsupported(_) => None,
        };
        self.check_possible()?;
        if matches!(self, Self::Accept) {
            return Ok(None);
        }
        let mut refusals = Vec::new();
        for signature in judged.signatures.iter().take(MOST_SIGNATURES) {
            match verify(&signature.envelope) {
                Some(Ok(by)) => {
                    return Ok(Some(format!("signature {} by {by}", signature.digest)));
                }
                Some(Err(refusal)) => refusals.push((signature.digest, refusal)),
                None => (),
            }
        }
        Err(denied(format!("{self} is missing")).with_source(Refusals(refusals)))
    }
}

impl Rule {
    /// Finds out whether an image meets all of it.
    ///
    /// # Errors
    /// `Denied`, with [`Refusals`] where signatures were looked at.
    pub fn judge(&self, judged: &Judged<'_>) -> Result<Accepted> {
        let mut accepted = Accepted::default();
        for requirement in &self.0 {
            accepted.reasons.extend(requirement.judge(judged)?);
        }
        Ok(accepted)
    }
}

impl Policy {
    /// Whether there is anything that nobody may use.
    #[must_use]
    pub fn revokes(&self) -> bool {
        !self.revoked.is_empty()
    }

    /// Fails where nobody may use what has this digest.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_revoked(&self, digest: &Digest) -> Result<()> {
        if self.revoked.contains(digest) {
            return Err(denied(format!("{digest} is revoked by the policy")));
        }
        Ok(())
    }
}

fn denied(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Denied, message)
}
