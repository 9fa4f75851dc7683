//! Our own policies, in TOML. A key that nobody knows is an error.
//!
//! ```toml
//! default = "reject"                        # or "accept"
//! revoked = ["sha256:..."]                  # nobody may use these any more
//!
//! [[rule]]
//! scope = "registry.example.com/team"       # or *.example.com, HOST/REPO:TAG, oci:/srv/layouts
//! require = "signed"                        # or "accept", "reject"
//! keys = ["team.pub"]                       # cosign: one of these signed it
//! identity = "repository"                   # or exact, digest, a name
//!
//! [[rule]]
//! scope = "ghcr.io"
//! certificates = ["ca.pem"]                 # notation: one of these vouches for the signer
//! signers = ["C=US, O=Example"]
//! revocations = ["ca.crl"]
//!
//! [programs]
//! directory = "/opt/verifiers"
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Context as _, Digest, Error, ErrorKind, Reference, Result, ResultExt as _};
use serde::Deserialize;
use url::Url;

use crate::policy::{Cosign, Notation, read_key};
use crate::{
    CertificateSubject, Identity, Policy, Programs, Requirement, Rule, Subject, Transport,
    TrustStore,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Word,
    #[serde(default)]
    revoked: BTreeSet<Digest>,
    #[serde(default)]
    rule: Vec<Entry>,
    programs: Option<ProgramsEntry>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Accept,
    Reject,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    scope: String,
    require: Option<RequireWord>,
    keys: Option<Vec<PathBuf>>,
    identity: Option<String>,
    signed_prefix: Option<String>,
    certificates: Option<Vec<PathBuf>>,
    signers: Option<Vec<String>>,
    revocations: Option<Vec<PathBuf>>,
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RequireWord {
    Accept,
    Reject,
    Signed,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgramsEntry {
    directory: PathBuf,
    most: Option<usize>,
    timeout: Option<String>,
}

/// How many programs are called, and how long each may take, as containerd has it.
const MOST_PROGRAMS: usize = 10;
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Parses a policy; relative paths begin at `directory`.
pub(crate) fn parse(text: &str, directory: &Path) -> Result<Policy> {
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Error::new(ErrorKind::InvalidArgument, dist_core::on_line(text, at, error.message()))
    })?;
    let mut scopes = BTreeMap::new();
    for entry in file.rule {
        let what = || format!("rule for {:?}", entry.scope);
        let key = scope(&entry.scope).during(what)?;
        if scopes.contains_key(&key) {
            return Err(invalid("there is another rule for it")).during(what);
        }
        let rule = rule(&entry, key.0, directory).during(what)?;
        scopes.insert(key, rule);
    }
    Ok(Policy {
        default: Rule(vec![match file.default {
            Word::Accept => Requirement::Accept,
            Word::Reject => Requirement::Reject,
        }]),
        scopes,
        revoked: file.revoked,
        programs: file.programs.map(|entry| programs(entry, directory)).transpose()?,
    })
}

fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidArgument, message)
}

/// Reads `host/repository` with a tag or without, `*.example.com`, a path with its scheme, or an address.
fn scope(text: &str) -> Result<(Transport, String)> {
    if let Some(("http" | "https", rest)) = text.split_once(':') {
        return Ok((Transport::Address, address_scope(text, rest)?));
    }
    for transport in [Transport::Layout, Transport::LayoutArchive, Transport::DockerArchive] {
        let prefix = transport.scheme().map(|scheme| format!("{scheme}:"));
        if let Some(path) = prefix.and_then(|prefix| text.strip_prefix(&prefix)) {
            if !path.is_empty() && !path.starts_with('/') {
                return Err(invalid("a path begins with /"));
            }
            let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
            return Ok((transport, path.to_owned()));
        }
    }
    if text.is_empty() {
        return Err(invalid("it is empty; `default` is for all images"));
    }
    check_registry_scope(text)?;
    let host = text.strip_prefix("*.").unwrap_or(text).split('/').next().unwrap_or_default();
    let is_host = text.starts_with("*.") || host.contains(['.', ':']) || host == "localhost";
    if !is_host || host.chars().any(|c| c.is_ascii_uppercase()) {
        let message = format!(
            "{text:?} begins with no host as names have it: docker.io/library/redis is the whole of redis"
        );
        return Err(invalid(message)); // no image would ever be in it
    }
    Ok((Transport::Registry, text.to_owned()))
}

/// The scope of an address as [`Subject::scopes`](crate::Subject::scopes) has it.
fn address_scope(text: &str, rest: &str) -> Result<String> {
    if rest.is_empty() {
        return Ok(text.to_owned());
    }
    let what = || format!("{text:?} is no address without user, query and fragment");
    let url: Url = text.parse().context(ErrorKind::InvalidArgument, what)?;
    let plain = url.username().is_empty() && url.password().is_none();
    if !plain || url.query().is_some() || url.fragment().is_some() || !rest.starts_with("//") {
        return Err(invalid(what()));
    }
    let scopes = Subject::at_address(url).scopes();
    scopes.into_iter().next().ok_or_else(|| invalid(what()))
}

/// Fails for what no image is in.
pub(crate) fn check_registry_scope(text: &str) -> Result<()> {
    let what = || format!("{text:?} is no host with or without a repository, nor *.HOST");
    if let Some(host) = text.strip_prefix("*.") {
        let fine = !host.is_empty() && !host.contains(['/', '*', '@']);
        return if fine { Ok(()) } else { Err(invalid(what())) };
    }
    let whole = if text.contains('/') { text.to_owned() } else { format!("{text}/x") };
    let parsed = Reference::parse(&whole);
    let reference = parsed.context(ErrorKind::InvalidArgument, what)?;
    if text.contains('/') && reference.to_string() != text {
        return Err(invalid(what()));
    }
    Ok(())
}

fn rule(entry: &Entry, transport: Transport, directory: &Path) -> Result<Rule> {
    let mut found = Vec::new();
    if let Some(keys) = &entry.keys {
        let keys = keys.iter().map(|path| read_key(directory, path)).collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Err(invalid("keys is empty"));
        }
        found.push(Requirement::Cosign(Cosign { keys, identity: identity(entry, transport)? }));
    } else if entry.identity.is_some() {
        return Err(invalid("identity is for keys, and there are none"));
    }
    if let Some(certificates) = &entry.certificates {
        let at = |paths: &[PathBuf]| -> Vec<PathBuf> {
            paths.iter().map(|path| directory.join(path)).collect()
        };
        let revocations = at(entry.revocations.as_deref().unwrap_or_default());
        if certificates.is_empty() {
            return Err(invalid("certificates is empty"));
        }
        let store = TrustStore::read(&at(certificates), &revocations)?;
        let identities = entry.signers.as_ref().map(|names| signers(names)).transpose()?;
        found.push(Requirement::Notation(Notation { store, identities }));
    } else if entry.signers.is_some() || entry.revocations.is_some() {
        return Err(invalid("signers and revocations are for certificates, and there are none"));
    }
    match (entry.require, found.is_empty()) {
        (Some(RequireWord::Accept), true) => found.push(Requirement::Accept),
        (Some(RequireWord::Reject), true) => found.push(Requirement::Reject),
        (Some(RequireWord::Signed) | None, true) => {
            return Err(invalid("it has neither keys nor certificates, and does not say require"));
        }
        (Some(RequireWord::Signed) | None, false) => (),
        (Some(_), false) => {
            return Err(invalid("keys and certificates are for require = \"signed\""));
        }
    }
    Ok(Rule(found))
}

fn signers(names: &[String]) -> Result<Vec<CertificateSubject>> {
    if names.is_empty() {
        return Err(invalid("signers is empty; without it anybody with a certificate may sign"));
    }
    let read = |name: &String| {
        CertificateSubject::parse(name)
            .ok_or_else(|| invalid(format!("{name:?} is no name as C=US, O=Example, CN=robot")))
    };
    names.iter().map(read).collect()
}

fn identity(entry: &Entry, transport: Transport) -> Result<Identity> {
    let text = entry.identity.as_deref();
    if let Some(signed_prefix) = &entry.signed_prefix {
        check_registry_scope(signed_prefix)?;
        if text.is_some() || transport != Transport::Registry {
            return Err(invalid("signed_prefix stands instead of identity, for registries"));
        }
        let prefix = entry.scope.clone();
        return Ok(Identity::Remap { prefix, signed_prefix: signed_prefix.clone() });
    }
    Ok(match text {
        // A directory has no name that anybody could have signed.
        None if transport != Transport::Registry => {
            return Err(invalid(
                "say under which name it was signed: identity = \"digest\" or a name",
            ));
        }
        None => Identity::Repository,
        Some(text) => Identity::parse(text)?,
    })
}

fn programs(entry: ProgramsEntry, base: &Path) -> Result<Programs> {
    let timeout = match &entry.timeout {
        None => PROGRAM_TIMEOUT,
        Some(text) => {
            let span: jiff::SignedDuration =
                text.parse().context(ErrorKind::InvalidArgument, || {
                    format!("read programs.timeout {text:?}")
                })?;
            Duration::try_from(span)
                .context(ErrorKind::InvalidArgument, || format!("read programs.timeout {text:?}"))?
        }
    };
    let most = entry.most.unwrap_or(MOST_PROGRAMS);
    Ok(Programs { directory: base.join(entry.directory), most, timeout })
}
