//! `dist logout`: takes credentials out of docker's file.

use dist_core::{Error, ErrorKind, Result};
use dist_registry::credentials;

use crate::config::Config;
use crate::{output, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist logout ghcr.io")]
pub(crate) struct Args {
    /// The registry
    #[arg(default_value = "docker.io")]
    registry: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let file = config.credential_file()?;
    let options = config.registry_without_credentials();
    let timeout = options.credentials.helper_timeout;
    let work = credentials::erase(&file, &args.registry, timeout);
    if !runtime::run(work)? {
        let message =
            format!("log out of {}: {} has nothing for it", args.registry, file.display());
        return Err(Error::new(ErrorKind::NotFound, message));
    }
    output::line("logout succeeded")
}
