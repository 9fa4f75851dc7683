//! Policies at the one place where images come in: after a name was resolved, before anything else of
//! the image is fetched.
//!
//! The policy's file is read each time, so that it means what it says now. What an image had to meet
//! is noted with its name, [`POLICY_LABEL`]: who runs it later, under the same policy, need not ask
//! its registry again.

mod attached;
mod programs;
mod sign;

use std::path::{Path, PathBuf};

use dist_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Fetcher, Image, Labels, MAX_DEPTH, Reference,
    Resolved, Resolver as _, Result, ResultExt as _,
};
use dist_policy::{Judged, Policy, Rule, Subject, Transport};
use dist_registry::WebAddress;
use jiff::Timestamp;

use crate::Remotes;
use crate::archives::{DOCKER_ARCHIVE, OCI_ARCHIVE};
use crate::blocking::blocking;
use crate::plain::fetch_document;
use crate::remotes::OCI;

pub use programs::count_programs;
pub use sign::{SignForm, SignOptions, sign};

/// The label of an image that says what it met: a digest of the policy's rule, the name and the
/// image's digest.
pub const POLICY_LABEL: &str = "dist/policy";

/// Where a policy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its path; a name that ends in `.json` is one of containers' policies.
    pub path: PathBuf,
    /// Whether it has to be there: where it need not be, and is not, all is allowed.
    pub required: bool,
}

impl PolicyFile {
    /// Reads it.
    ///
    /// # Errors
    /// `Denied` for whatever is wrong with it.
    pub fn read(&self) -> Result<Option<Policy>> {
        // A link to nowhere is there.
        let there = fs_err::symlink_metadata(&self.path);
        let is_missing = there.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
        if is_missing && !self.required {
            return Ok(None);
        }
        Policy::read(&self.path).map(Some)
    }
}

/// What a policy says of an image that may be used.
#[derive(Clone, Debug, Default)]
pub struct Approval {
    /// The policy's file, and the scope whose rule it was; no scope for the default.
    pub by: Option<(PathBuf, Option<String>)>,
    /// By what it is met.
    pub reasons: Vec<String>,
    /// The value of [`POLICY_LABEL`].
    mark: Option<String>,
}

impl Approval {
    /// The labels that say so.
    pub(crate) fn labels(&self) -> Labels {
        self.mark.iter().map(|mark| (POLICY_LABEL.to_owned(), mark.clone())).collect()
    }
}

impl Remotes {
    /// Resolves the name of an image that is to be used.
    ///
    /// # Errors
    /// As [`Remotes::resolve`]; `Denied` where the policy forbids it.
    pub async fn admit(&self, name: &str) -> Result<Resolved> {
        self.check_possible(name).await?;
        let resolved = self.resolve(name).await?;
        self.check(&resolved.name, &resolved.target, None, None).await?;
        Ok(resolved)
    }

    /// Fails where the policy allows nothing of this name, or can't be read: then nobody need be
    /// asked.
    pub(crate) async fn check_possible(&self, name: &str) -> Result<()> {
        let name = self.canonical(name)?;
        if self.judged_as(&name).is_none() {
            return Ok(());
        }
        let Some((policy, path)) = self.read_policy().await? else { return Ok(()) };
        let (_, rule) = self.rule(&policy, &name);
        rule.check_possible().during(|| format!("use {name}: policy {}", path.display()))
    }

    async fn read_policy(&self) -> Result<Option<(Policy, PathBuf)>> {
        let Some(file) = self.policy().cloned() else { return Ok(None) };
        blocking(move || Ok(file.read()?.map(|policy| (policy, file.path)))).await
    }

    fn rule<'a>(&self, policy: &'a Policy, name: &str) -> (Option<String>, &'a Rule) {
        match self.subject(name) {
            Some(subject) => policy.rule(&subject),
            None => (None, policy.default_rule()),
        }
    }

    /// Asks the policy, if there is one, whether the image that `name` stands for may be used.
    /// Fetches nothing of it but signatures, and, for some of these, its manifest.
    ///
    /// # Errors
    /// `Denied`; those of the remote where signatures are to be had.
    pub async fn approve(&self, name: &str, target: &Descriptor) -> Result<Approval> {
        self.check(name, target, None, None).await
    }

    /// As [`Remotes::approve`], of an image that is in the store, whose content is at `content`: what it
    /// met when it came need not be looked at again.
    ///
    /// # Errors
    /// As [`Remotes::approve`].
    pub async fn approve_stored(&self, image: &Image, content: &dyn Fetcher) -> Result<Approval> {
        let known = image.labels.get(POLICY_LABEL).map(String::as_str);
        self.check(image.name.as_str(), &image.target, known, Some(content)).await
    }

    /// Fails for what is revoked, and for an index that names such a manifest, whatever the platform.
    async fn check_revoked(
        &self,
        policy: &Policy,
        (name, target): (&str, &Descriptor),
        content: Option<&dyn Fetcher>,
    ) -> Result<()> {
        policy.check_revoked(&target.digest)?;
        if !policy.revokes() || !target.media_type.is_index() {
            return Ok(());
        }
        let own = if content.is_none() { Some(self.fetcher(name)?) } else { None };
        let Some(content) = content.or(own.as_deref()) else { return Ok(()) };
        let mut level = vec![target.clone()];
        for _ in 0..MAX_DEPTH {
            let mut below = Vec::new();
            for desc in level.iter().filter(|desc| desc.media_type.is_index()) {
                let bytes = match fetch_document(content, desc).await {
                    // Of an index in a store, what is below others may not be there.
                    Err(error) if error.kind() == ErrorKind::NotFound => continue,
                    bytes => bytes?,
                };
                below.extend(Document::parse(&desc.media_type, &bytes)?.children());
            }
            for desc in &below {
                let what = || format!("use {}, which names it", target.digest);
                policy.check_revoked(&desc.digest).during(what)?;
            }
            level = below;
        }
        Ok(())
    }

    /// `known` is what an image's label says; `content` has it, where that is not the remote.
    pub(crate) async fn check(
        &self,
        name: &str,
        target: &Descriptor,
        known: Option<&str>,
        content: Option<&dyn Fetcher>,
    ) -> Result<Approval> {
        if self.judged_as(name).is_none() {
            return Ok(Approval::default());
        }
        let Some((policy, path)) = self.read_policy().await? else {
            return Ok(Approval::default());
        };
        let pinned = if name.contains('@') { String::new() } else { format!("@{}", target.digest) };
        let during = || format!("use {name}{pinned}: policy {}", path.display());
        // A rule for a digest is for that content, whatever stands under the name.
        if let Some(Subject::Registry(reference)) = self.subject(name)
            && reference.digest().is_some_and(|digest| *digest != target.digest)
        {
            let message = "its name is that of other content";
            return Err(Error::new(ErrorKind::Denied, message)).during(during);
        }
        self.check_revoked(&policy, (name, target), content).await.during(during)?;
        let (scope, rule) = self.rule(&policy, name);
        let mut approval = Approval {
            by: Some((path.clone(), scope)),
            mark: mark(&policy, rule, name, &target.digest),
            ..Approval::default()
        };
        if known.is_some() && approval.mark.as_deref() == known {
            return Ok(approval);
        }
        approval.reasons = self.judge(rule, name, target).await.during(during)?;
        if let Some(programs) = policy.programs() {
            let said = programs::ask(programs, name, target).await.during(during)?;
            approval.reasons.extend(said);
        }
        Ok(approval)
    }

    /// Finds out by which signatures an image meets a rule.
    ///
    /// # Errors
    /// `Denied` where it does not; those of the remote.
    pub async fn judge(&self, rule: &Rule, name: &str, target: &Descriptor) -> Result<Vec<String>> {
        let subject = self.subject(name).unwrap_or_else(|| Subject::unnamed(name));
        let found = attached::gather(self, name, target, rule.wants()).await?;
        let judged = Judged {
            subject: &subject,
            target,
            document: found.document.as_deref(),
            signatures: &found.signatures,
            now: Timestamp::now(),
        };
        rule.judge(&judged).map(|accepted| accepted.reasons)
    }

    /// What a policy calls an image; `None` for the name of an image in a store that is no reference:
    /// then its default counts.
    #[must_use]
    pub fn subject(&self, name: &str) -> Option<Subject> {
        let known = [OCI, OCI_ARCHIVE, DOCKER_ARCHIVE];
        let judged = self.judged_as(name)?;
        let name = judged.as_str();
        if let Ok(address) = WebAddress::parse(name) {
            return Some(Subject::at_address(address.url().clone()));
        }
        let Some((scheme, rest)) = dist_core::scheme(name, &known) else {
            return Reference::parse_familiar(name).ok().map(Subject::Registry);
        };
        let transport = match scheme {
            OCI => Transport::Layout,
            OCI_ARCHIVE => Transport::LayoutArchive,
            _ => Transport::DockerArchive,
        };
        let (path, tag) = match (transport, rest.rsplit_once('@')) {
            (Transport::Layout, Some((path, digest))) if !digest.contains('/') => (path, None),
            (Transport::Layout, _) => match rest.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
                _ => (rest, None),
            },
            _ => match rest.split_once(':') {
                Some((path, tag)) => (path, Some(tag)),
                None => (rest, None),
            },
        };
        Some(Subject::at(transport, Path::new(path), tag))
    }
}

/// What the label of an image says that meets `rule`; `None` where that asks for nothing.
fn mark(policy: &Policy, rule: &Rule, name: &str, digest: &Digest) -> Option<String> {
    let wants = rule.wants();
    if !wants.cosign && !wants.notation && policy.programs().is_none() {
        return None;
    }
    let asked = format!("{}\n{:?}\n{name}\n{digest}", rule.fingerprint(), policy.programs());
    Some(Digest::sha256(asked.as_bytes()).to_string())
}

/// Fails for what can be no reason to let an image through.
pub(crate) fn is_unreadable(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Corrupt
            | ErrorKind::NotFound
            | ErrorKind::ResourceExhausted
            | ErrorKind::Unsupported
            | ErrorKind::InvalidArgument
    )
}
