//! `dist rm`: containers, and blobs by their digests.

use dist_core::{ContainerId, Context as _, Digest, ErrorKind, Result};

use super::run::open;
use super::several::each;
use super::{containers, delete};
use crate::config::Config;
use crate::report;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each name that it removed. A digest is that of a blob, which goes as by `dist delete`; names of
images go by `dist rmi`.

Examples:
  dist rm my-redis
  dist rm --force my-redis my-job
  dist ps --all -q | xargs -r dist rm --force")]
pub(crate) struct Args {
    /// Kill containers that run
    #[arg(short, long)]
    force: bool,

    /// The containers
    #[arg(required = true, value_name = "ID")]
    names: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let (blobs, ids): (Vec<String>, Vec<String>) =
        args.names.iter().cloned().partition(|name| name.parse::<Digest>().is_ok());
    if ids.is_empty() {
        return delete::delete(config, &blobs);
    }
    let containers = open(config)?;
    let removed = each(&ids, |text| {
        let what = || format!("read container {text:?}");
        let id = text.parse::<ContainerId>().context(ErrorKind::InvalidArgument, what);
        let hint = "`dist rmi` removes names of images";
        let id = id.map_err(|error| report::advise(error, hint))?;
        containers::remove(&containers, &id, args.force)
    });
    if !blobs.is_empty() {
        delete::delete(config, &blobs)?;
    }
    removed
}
