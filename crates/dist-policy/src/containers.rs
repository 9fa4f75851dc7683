//! containers' policies, `policy.json`, as containers-policy.json(5) has them, read as strictly.
//!
//! | type | here |
//! | --- | --- |
//! | `insecureAcceptAnything`, `reject` | the same |
//! | `sigstoreSigned` with keys | cosign's signatures; nothing but a key may vouch |
//! | `sigstoreSigned` with Fulcio, PKI or Rekor, `signedBy`, `signedBaseLayer` | no image meets it |
//!
//! Transports that are not ours are read and concern no image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Context as _, Error, ErrorKind, Reference, Result, ResultExt as _};
use serde::Deserialize;
use serde_json::Value;

use crate::file::check_registry_scope;
use crate::policy::{Cosign, read_key};
use crate::{Identity, Policy, PublicKey, Requirement, Rule, Transport, strict};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Entry>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Entry>>>,
}

#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Entry {
    #[serde(rename = "insecureAcceptAnything")]
    Accept {},
    #[serde(rename = "reject")]
    Reject {},
    #[serde(rename = "signedBy", rename_all = "camelCase")]
    SignedBy {
        #[serde(rename = "keyType")]
        _key_type: String,
        #[serde(rename = "keyPath")]
        _key_path: Option<String>,
        #[serde(rename = "keyPaths")]
        _key_paths: Option<Vec<String>>,
        #[serde(rename = "keyData")]
        _key_data: Option<String>,
        #[serde(rename = "signedIdentity")]
        _signed_identity: Option<SignedIdentity>,
    },
    #[serde(rename = "signedBaseLayer")]
    SignedBaseLayer {
        #[serde(rename = "baseLayerIdentity")]
        _identity: SignedIdentity,
    },
    #[serde(rename = "sigstoreSigned", rename_all = "camelCase")]
    Sigstore(Box<Sigstore>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Sigstore {
    key_path: Option<PathBuf>,
    key_paths: Option<Vec<PathBuf>>,
    key_data: Option<String>,
    key_datas: Option<Vec<String>>,
    fulcio: Option<Value>,
    pki: Option<Value>,
    rekor_public_key_path: Option<Value>,
    rekor_public_key_paths: Option<Value>,
    rekor_public_key_data: Option<Value>,
    rekor_public_key_datas: Option<Value>,
    signed_identity: Option<SignedIdentity>,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
enum SignedIdentity {
    MatchExact {},
    MatchRepoDigestOrExact {},
    MatchRepository {},
    #[serde(rename_all = "camelCase")]
    ExactReference {
        docker_reference: String,
    },
    #[serde(rename_all = "camelCase")]
    ExactRepository {
        docker_repository: String,
    },
    #[serde(rename_all = "camelCase")]
    RemapIdentity {
        prefix: String,
        signed_prefix: String,
    },
}

/// Parses a policy; relative paths begin at `directory`.
pub(crate) fn parse(text: &str, directory: &Path) -> Result<Policy> {
    let file: File =
        strict::parse(text.as_bytes()).context(ErrorKind::InvalidArgument, || "parse it".into())?;
    let mut scopes = BTreeMap::new();
    for (name, entries) in file.transports {
        let transport = match name.as_str() {
            "docker" => Some(Transport::Registry),
            "oci" => Some(Transport::Layout),
            "oci-archive" => Some(Transport::LayoutArchive),
            "docker-archive" => Some(Transport::DockerArchive),
            _ => None,
        };
        for (scope, entries) in entries {
            let what = || format!("scope {scope:?} of transport {name:?}");
            let rule = rule(entries, directory).during(what)?;
            if transport == Some(Transport::Registry) && !scope.is_empty() {
                check_registry_scope(&scope).during(what)?;
            }
            scopes.extend(transport.map(|transport| ((transport, scope), rule)));
        }
    }
    Ok(Policy {
        default: rule(file.default, directory).during(|| "default".into())?,
        scopes,
        revoked: Default::default(),
        programs: None,
    })
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

fn rule(entries: Vec<Entry>, directory: &Path) -> Result<Rule> {
    if entries.is_empty() {
        return Err(invalid("it has no requirements"));
    }
    let read = |entry| match entry {
        Entry::Accept {} => Ok(Requirement::Accept),
        Entry::Reject {} => Ok(Requirement::Reject),
        Entry::SignedBy { .. } => Ok(Requirement::Unsupported("a GPG signature (signedBy)")),
        Entry::SignedBaseLayer { .. } => {
            Ok(Requirement::Unsupported("a signed base layer (signedBaseLayer)"))
        }
        Entry::Sigstore(entry) => sigstore(*entry, directory),
    };
    entries.into_iter().map(read).collect::<Result<_>>().map(Rule)
}

fn sigstore(entry: Sigstore, directory: &Path) -> Result<Requirement> {
    let identity = entry.signed_identity.map_or(Ok(Identity::RepositoryDigestOrExact), identity)?;
    let others = [
        entry.fulcio,
        entry.pki,
        entry.rekor_public_key_path,
        entry.rekor_public_key_paths,
        entry.rekor_public_key_data,
        entry.rekor_public_key_datas,
    ];
    let ways = [
        entry.key_path.is_some(),
        entry.key_paths.is_some(),
        entry.key_data.is_some(),
        entry.key_datas.is_some(),
        others[0].is_some(),
        others[1].is_some(),
    ];
    if ways.iter().filter(|way| **way).count() != 1 {
        return Err(invalid(
            "sigstoreSigned has exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki",
        ));
    }
    if others.iter().any(Option::is_some) {
        let what = "a Sigstore signature by Fulcio, a PKI or with an entry in Rekor";
        return Ok(Requirement::Unsupported(what));
    }
    let paths: Vec<PathBuf> =
        entry.key_path.into_iter().chain(entry.key_paths.unwrap_or_default()).collect();
    let data = entry.key_data.into_iter().chain(entry.key_datas.unwrap_or_default());
    let mut keys =
        paths.iter().map(|path| read_key(directory, path)).collect::<Result<Vec<_>>>()?;
    for text in data {
        let pem = STANDARD.decode(text);
        let pem = pem.context(ErrorKind::InvalidArgument, || "read keyData".into())?;
        keys.push(PublicKey::from_pem("keyData", &pem)?);
    }
    if keys.is_empty() {
        return Err(invalid("sigstoreSigned has no key"));
    }
    Ok(Requirement::Cosign(Cosign { keys, identity }))
}

fn identity(entry: SignedIdentity) -> Result<Identity> {
    let reference = |text: &str| {
        Reference::parse_familiar(text)
            .context(ErrorKind::InvalidArgument, || format!("read identity {text:?}"))
    };
    Ok(match entry {
        SignedIdentity::MatchExact {} => Identity::Exact,
        SignedIdentity::MatchRepoDigestOrExact {} => Identity::RepositoryDigestOrExact,
        SignedIdentity::MatchRepository {} => Identity::Repository,
        SignedIdentity::ExactReference { docker_reference: name } => {
            reference(&name)?;
            let last = name.rsplit('/').next().unwrap_or_default();
            if !last.contains([':', '@']) {
                return Err(invalid(format!("exactReference {name:?} has neither tag nor digest")));
            }
            Identity::ExactReference(name)
        }
        SignedIdentity::ExactRepository { docker_repository: name } => {
            Identity::ExactRepository(reference(&name)?.locator())
        }
        SignedIdentity::RemapIdentity { prefix, signed_prefix } => {
            check_registry_scope(&prefix)?;
            check_registry_scope(&signed_prefix)?;
            Identity::Remap { prefix, signed_prefix }
        }
    })
}
