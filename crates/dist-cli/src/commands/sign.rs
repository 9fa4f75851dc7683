//! `dist sign`: a signature beside an image, as cosign makes them.

use std::path::PathBuf;

use clap::ValueEnum;
use dist::{SignForm, SignOptions};
use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};
use dist_policy::{PrivateKey, PublicKey};

use super::transfer;
use crate::config::Config;
use crate::{reference, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The key is plain PKCS #8 in PEM (ECDSA P-256, Ed25519 or RSA), or encrypted as cosign writes it; its
password is then in --passphrase-file or COSIGN_PASSWORD, or is asked for. Nothing is sent to any log.
The last line on standard output is NAME@DIGEST of what was signed.

Examples:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out sign.key
  openssl pkey -in sign.key -pubout -out sign.pub
  dist sign --key sign.key registry.example.com/team/app:1
  dist sign --key cosign.key --form bundle ghcr.io/owner/app@sha256:...")]
pub(crate) struct Args {
    /// Private key
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// Its public half: a signature that this would not verify is not made
    #[arg(long, value_name = "FILE")]
    public_key: Option<PathBuf>,

    /// File whose first line is the key's password
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,

    /// Where the signature goes
    #[arg(long, value_enum, default_value_t)]
    form: Form,

    /// What the signature calls the image [default: its name and tag]
    #[arg(long, value_name = "NAME")]
    identity: Option<String>,

    /// Image in a registry, or oci:PATH[:TAG]
    #[arg(value_name = "REF")]
    name: String,
}

/// The forms of signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Below the tag sha256-<hex>.sig, as podman, skopeo and every cosign read it
    #[default]
    Tag,
    /// A Sigstore bundle that refers to the image, as cosign 3 writes it
    Bundle,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    reference::check(&args.name)?;
    let read = |path: &PathBuf| {
        dist_core::read_small(path, dist_core::MOST_OF_A_FILE)
            .context(ErrorKind::InvalidArgument, || format!("read key {}", path.display()))
    };
    let key = PrivateKey::from_pem(&read(&args.key)?, || password(config, args))
        .during(|| format!("use key {}", args.key.display()))?;
    let public = args.public_key.as_ref().map(|path| PublicKey::read(path)).transpose()?;
    let options = SignOptions {
        form: match args.form {
            Form::Tag => SignForm::Tag,
            Form::Bundle => SignForm::Bundle,
        },
        identity: args.identity.clone(),
    };
    let remotes = config.remotes()?;
    let sign = dist::sign(&remotes, &args.name, &key, public.as_ref(), &options);
    let (resolved, _) = runtime::run(sign)?;
    transfer::print_pinned(&resolved.name, &resolved.target.digest)
}

fn password(config: &Config, args: &Args) -> Result<Vec<u8>> {
    if let Some(path) = &args.passphrase_file {
        let text = dist_core::read_small_text(path).context(ErrorKind::InvalidArgument, || {
            format!("read the key's password from {}", path.display())
        })?;
        return Ok(text.lines().next().unwrap_or_default().as_bytes().to_vec());
    }
    if let Some(password) = config.key_password() {
        return Ok(password);
    }
    let asked = rpassword::prompt_password(format!("Password for {}: ", args.key.display()));
    asked.map(String::into_bytes).map_err(|error| {
        let message = "ask for the key's password: give it with --passphrase-file";
        Error::new(ErrorKind::InvalidArgument, message).with_source(error)
    })
}
