//! Which images may be used: policies, and the signatures that they ask for.
//!
//! Everything here is a decision over bytes that others fetched: no network, no runtime. Only
//! policies and the keys that they name are read, from local files.
//!
//! | format | where a registry keeps it | module |
//! | --- | --- | --- |
//! | cosign, simple signing | tag `sha256-<hex>.sig` | `simple` |
//! | cosign, Sigstore bundle | referrer | `bundle` |
//! | notation, JWS | referrer | `notation` |

#![forbid(unsafe_code)]

mod bundle;
mod certificates;
mod containers;
mod distinguished;
mod file;
mod identity;
mod judge;
mod keys;
mod long_curve;
mod notation;
mod policy;
mod private_key;
mod secretbox;
mod simple;
mod strict;

pub use bundle::{BUNDLE_TYPE, sign_bundle};
pub use certificates::TrustStore;
pub use distinguished::Subject as CertificateSubject;
pub use identity::{Identity, Subject, Transport};
pub use judge::{Accepted, Envelope, Judged, MOST_SIGNATURES, Refusal, Refusals, Signature};
pub use keys::PublicKey;
pub use notation::{ENVELOPE_TYPE as NOTATION_ENVELOPE_TYPE, SIGNATURE_TYPE as NOTATION_TYPE};
pub use policy::{Policy, Programs, Requirement, Rule, Wants};
pub use private_key::PrivateKey;
pub use simple::{SIGNATURE_ANNOTATION, SIMPLE_TYPE, is_signed_by, sign_simple, signature_tag};

/// The most bytes of one signature, or of what it signs.
pub const MOST_BYTES: u64 = 1 << 20;
