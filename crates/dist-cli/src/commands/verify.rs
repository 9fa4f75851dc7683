//! `dist verify`: whether an image is signed, by some keys or as the policy wants it.

use std::path::PathBuf;

use dist_core::{Error, ErrorKind, Resolver as _, Result, ResultExt as _};
use dist_policy::{CertificateSubject, Identity, PublicKey, Rule, TrustStore};

use super::transfer;
use crate::config::Config;
use crate::{output, reference, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --key, one of the keys must have signed it, in either of cosign's forms; with --certificate, one
of the authorities must vouch for whoever signed it with notation. With neither, the policy decides.
Nobody but the image's registry is asked. The last line on standard output is NAME@DIGEST of what was
verified; the exit code is 10 where it is not signed so.

Examples:
  dist verify --key sign.pub registry.example.com/team/app:1
  dist verify --key sign.pub --identity repository registry.example.com/team/app:1
  dist verify --certificate ca.pem --signer 'C=US, O=Example' ghcr.io/owner/app:1
  dist verify oci:/srv/layout:1")]
pub(crate) struct Args {
    /// Public key in PEM; with several, any of them
    #[arg(long, value_name = "FILE", conflicts_with = "certificate")]
    key: Vec<PathBuf>,

    /// Under which name it was signed: digest (any), repository, exact, or a name
    #[arg(long, value_name = "HOW", requires = "key", default_value = "digest")]
    identity: String,

    /// Certificates of authorities, in PEM
    #[arg(long, value_name = "FILE")]
    certificate: Vec<PathBuf>,

    /// Whom the signer's certificate is for
    #[arg(long, value_name = "NAME", requires = "certificate")]
    signer: Vec<String>,

    /// Certificates that were revoked, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    revocations: Vec<PathBuf>,

    /// Image in a registry, oci:PATH[:TAG], or https://ADDRESS[#NAME]
    #[arg(value_name = "REF")]
    name: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    reference::check(&args.name)?;
    let rule = rule(args)?;
    if rule.is_none() && config.policy().is_none_or(|file| !file.required && !file.path.exists()) {
        let message = "there is no policy: give --key, --certificate or --policy";
        return Err(transfer::usage(message));
    }
    let remotes = config.remotes()?;
    let (resolved, reasons) = runtime::run(async {
        let resolved = remotes.resolve(&args.name).await?;
        let (name, target) = (&resolved.name, &resolved.target);
        let reasons = match &rule {
            Some(rule) => {
                let what = || format!("verify {name}@{}", target.digest);
                remotes.judge(rule, name, target).await.during(what)?
            }
            None => remotes.approve(name, target).await?.reasons,
        };
        Ok((resolved, reasons))
    })?;
    for reason in reasons {
        output::line(&crate::table::printable(&reason))?;
    }
    transfer::print_pinned(&resolved.name, &resolved.target.digest)
}

/// What the arguments ask for; nothing where they leave it to the policy.
fn rule(args: &Args) -> Result<Option<Rule>> {
    if !args.key.is_empty() {
        let keys = args.key.iter().map(|path| PublicKey::read(path)).collect::<Result<_>>()?;
        return Ok(Some(Rule::by_keys(keys, Identity::parse(&args.identity)?)));
    }
    if args.certificate.is_empty() {
        return Ok(None);
    }
    let store = TrustStore::read(&args.certificate, &args.revocations)?;
    let read = |name: &String| {
        CertificateSubject::parse(name).ok_or_else(|| {
            let message = format!("read signer {name:?}: it is no name as C=US, O=Example");
            Error::new(ErrorKind::InvalidArgument, message)
        })
    };
    let signers = args.signer.iter().map(read).collect::<Result<Vec<_>>>()?;
    Ok(Some(Rule::by_certificate(store, (!signers.is_empty()).then_some(signers))))
}
