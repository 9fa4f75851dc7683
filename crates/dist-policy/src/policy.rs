//! Policies: which images have to meet what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Context as _, Digest, Error, ErrorKind, Result, ResultExt as _};

use crate::{
    CertificateSubject, Identity, PublicKey, Subject, Transport, TrustStore, containers, file,
};

/// The most bytes of a policy.
const MOST_BYTES: u64 = 4 << 20;

/// A policy as it was read.
#[derive(Debug)]
pub struct Policy {
    pub(crate) default: Rule,
    pub(crate) scopes: BTreeMap<(Transport, String), Rule>,
    pub(crate) revoked: BTreeSet<Digest>,
    pub(crate) programs: Option<Programs>,
}

/// What an image has to meet, all of it.
#[derive(Debug)]
pub struct Rule(pub(crate) Vec<Requirement>);

/// One thing that an image has to meet.
#[derive(Debug)]
pub enum Requirement {
    /// Anything does.
    Accept,
    /// Nothing does.
    Reject,
    /// A signature by one of some keys.
    Cosign(Cosign),
    /// A signature by a certificate.
    Notation(Notation),
    /// Something that can't be verified here: no image meets it.
    Unsupported(&'static str),
}

/// A signature by one of some keys.
#[derive(Debug)]
pub struct Cosign {
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) identity: Identity,
}

/// A signature by a certificate for which somebody vouches.
#[derive(Debug)]
pub struct Notation {
    pub(crate) store: TrustStore,
    /// Whom it has to be for; anybody where there is nothing.
    pub(crate) identities: Option<Vec<CertificateSubject>>,
}

/// Programs that are asked about every image that is not rejected, as containerd's `bindir` plugin
/// calls them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The directory with the programs; all of them have to agree.
    pub directory: PathBuf,
    /// The most that are called; a directory with more is an error.
    pub most: usize,
    /// How long each may take.
    pub timeout: Duration,
}

/// The forms of signatures that a rule looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// cosign's.
    pub cosign: bool,
    /// notation's.
    pub notation: bool,
}

impl Policy {
    /// Reads a policy: our own, or, where the name ends in `.json`, one of containers'.
    ///
    /// # Errors
    /// `Denied` for whatever is wrong with it: what can't be read allows nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("read policy {}", path.display());
        let metadata = fs_err::metadata(path).context(ErrorKind::Denied, what)?;
        if metadata.len() > MOST_BYTES || !metadata.is_file() {
            let message = format!("{}: it is no file, or larger than 4 MiB", what());
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let text = fs_err::read_to_string(path).context(ErrorKind::Denied, what)?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let is_json = path.extension().is_some_and(|ending| ending == "json");
        let policy = if is_json {
            containers::parse(&text, directory)
        } else {
            file::parse(&text, directory)
        };
        policy.map_err(|error| Error::new(ErrorKind::Denied, what()).with_source(error))
    }

    /// The rule for an image, and the scope that has it; no scope where it is the default.
    #[must_use]
    pub fn rule(&self, subject: &Subject) -> (Option<String>, &Rule) {
        for scope in subject.scopes() {
            let key = (subject.transport(), scope);
            if let Some(rule) = self.scopes.get(&key) {
                return (Some(key.1), rule);
            }
        }
        (None, &self.default)
    }

    /// The rule for what no scope has.
    #[must_use]
    pub fn default_rule(&self) -> &Rule {
        &self.default
    }

    /// The programs that are asked.
    #[must_use]
    pub fn programs(&self) -> Option<&Programs> {
        self.programs.as_ref()
    }

    /// Every rule with its scope, the default first.
    pub fn rules(&self) -> impl Iterator<Item = (String, &Rule)> {
        let scoped = self.scopes.iter().map(|((transport, scope), rule)| {
            let scheme = transport.scheme().map(|scheme| format!("{scheme}:"));
            (format!("{}{scope}", scheme.unwrap_or_default()), rule)
        });
        std::iter::once(("default".to_owned(), &self.default)).chain(scoped)
    }
}

impl Rule {
    /// A rule that every image meets which one of `keys` signed.
    #[must_use]
    pub fn by_keys(keys: Vec<PublicKey>, identity: Identity) -> Self {
        Self(vec![Requirement::Cosign(Cosign { keys, identity })])
    }

    /// A rule that every image meets which somebody signed for whom an authority vouches.
    #[must_use]
    pub fn by_certificate(store: TrustStore, identities: Option<Vec<CertificateSubject>>) -> Self {
        Self(vec![Requirement::Notation(Notation { store, identities })])
    }

    /// A rule that asks for nothing.
    #[must_use]
    pub fn accept() -> Self {
        Self(vec![Requirement::Accept])
    }

    /// Fails where no image meets it, whatever its signatures.
    ///
    /// # Errors
    /// `Denied`.
    pub fn check_possible(&self) -> Result<()> {
        self.0.iter().try_for_each(Requirement::check_possible)
    }

    /// What has to be known to judge by it.
    #[must_use]
    pub fn wants(&self) -> Wants {
        let is_hopeless = |requirement: &Requirement| {
            matches!(requirement, Requirement::Reject | Requirement::Unsupported(_))
        };
        if self.0.iter().any(is_hopeless) {
            return Wants::default();
        }
        let has = |wanted: fn(&Requirement) -> bool| self.0.iter().any(wanted);
        Wants {
            cosign: has(|requirement| matches!(requirement, Requirement::Cosign(_))),
            notation: has(|requirement| matches!(requirement, Requirement::Notation(_))),
        }
    }

    /// A digest of all that it asks for: with another key it is another.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::sha256(format!("{:?}", self.0).as_bytes())
    }
}

impl Requirement {
    pub(crate) fn check_possible(&self) -> Result<()> {
        let message = match self {
            Self::Reject => "the policy rejects it".to_owned(),
            Self::Unsupported(what) => {
                format!("the policy asks for {what}, which can't be verified")
            }
            Self::Accept | Self::Cosign(_) | Self::Notation(_) => return Ok(()),
        };
        Err(Error::new(ErrorKind::Denied, message))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&all.join(", and "))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Reject => f.write_str("reject"),
            Self::Unsupported(what) => f.write_str(what),
            Self::Cosign(Cosign { keys, identity }) => {
                let names: Vec<_> = keys.iter().map(PublicKey::name).collect();
                write!(f, "a signature by {}", names.join(" or "))?;
                match identity {
                    Identity::Digest => Ok(()),
                    Identity::Exact => f.write_str(" that names the image"),
                    Identity::RepositoryDigestOrExact => f.write_str(" that names the image"),
                    Identity::Repository => f.write_str(" that names the repository"),
                    Identity::ExactReference(name) | Identity::ExactRepository(name) => {
                        write!(f, " that names {name}")
                    }
                    Identity::Remap { prefix, signed_prefix } => {
                        write!(f, " that names the image, with {signed_prefix} for {prefix}")
                    }
                }
            }
            Self::Notation(Notation { identities, .. }) => {
                f.write_str("a signature by a trusted certificate")?;
                for (at, name) in identities.iter().flatten().enumerate() {
                    write!(f, "{} {name}", if at == 0 { " for" } else { " or" })?;
                }
                Ok(())
            }
        }
    }
}

/// Reads the keys that a policy names; relative paths begin at its own directory.
pub(crate) fn read_key(directory: &Path, path: &Path) -> Result<PublicKey> {
    let path = directory.join(path);
    PublicKey::read(&path).during(|| "read a key of the policy".into())
}
