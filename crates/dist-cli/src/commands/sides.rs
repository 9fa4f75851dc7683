//! Who somebody is at either side of a copy.

use dist::Remotes;
use dist_core::Result;

use super::transfer::usage;
use crate::config::Config;

/// A user for each side.
#[derive(Debug, clap::Args)]
pub(crate) struct Sides {
    /// User at the source; --password-stdin gives the password of a side that has none
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    src_creds: Option<String>,

    /// User at the destination; the same
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    dest_creds: Option<String>,
}

impl Sides {
    /// Whether anybody is named.
    pub(crate) fn are_given(&self) -> bool {
        self.src_creds.is_some() || self.dest_creds.is_some()
    }

    /// Refuses a user of what is no registry.
    pub(super) fn check(&self, source: bool, destination: bool) -> Result<()> {
        match (&self.src_creds, &self.dest_creds) {
            (Some(_), _) if !source => Err(usage("--src-creds: the source is no registry")),
            (_, Some(_)) if !destination => {
                Err(usage("--dest-creds: the destination is no registry"))
            }
            _ => Ok(()),
        }
    }

    /// The remotes for the source and for the destination; `None` where nobody is named.
    pub(super) fn remotes(&self, config: &Config) -> Result<Option<(Remotes, Remotes)>> {
        if !self.are_given() {
            return Ok(None);
        }
        if config.has_user() {
            return Err(usage("--user is for both sides: leave it out beside the others"));
        }
        let given = || [&self.src_creds, &self.dest_creds].into_iter().flatten();
        let without = given().filter(|login| !login.contains(':')).count();
        if config.reads_password() && without != 1 {
            let message = match without {
                0 => "--password-stdin is for a side whose password is not given yet",
                _ => "standard input can hold one password: `dist login` keeps the other side's",
            };
            return Err(usage(message));
        }
        let source = config.remotes_as(self.src_creds.as_deref())?;
        Ok(Some((source, config.remotes_as(self.dest_creds.as_deref())?)))
    }
}
