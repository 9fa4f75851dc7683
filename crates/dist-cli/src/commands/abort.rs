//! `dist abort`: throws ingests away.

use std::collections::BTreeMap;
use std::time::Duration;

use dist::Contents;
use dist_core::{Error, ErrorKind, IngestKey, Result};

use super::several::each;
use crate::config::Config;
use crate::output;
use crate::table::printable;
use crate::units::{parse_duration, since};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each ingest that it removed. One that a live process writes is busy (exit 9); with
--older-than such ones are passed over. A daemon can't tell: through it they are thrown away, too.

Examples:
  dist abort layer-sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1
  dist abort --older-than 24h")]
pub(crate) struct Args {
    /// References of ingests, as `dist active` shows them
    #[arg(required_unless_present = "older_than", value_name = "REF")]
    refs: Vec<IngestKey>,

    /// Only those that were not written to for this long; without REF all such
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    older_than: Option<Duration>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let Some(host) = config.host_to_change()? else {
        return each(&args.refs, |key| Err(missing(key, "there is no store yet")));
    };
    let content = host.contents();
    let Some(limit) = args.older_than else {
        return each(&args.refs, |key| abort(&*content, key));
    };
    let mut is_old = BTreeMap::new();
    for ingest in content.ingests()? {
        let old = ingest.active != Some(true) && since(ingest.updated_at) >= limit;
        is_old.insert(ingest.key, old);
    }
    let all: Vec<IngestKey> = is_old.keys().cloned().collect();
    each(if args.refs.is_empty() { &all } else { &args.refs }, |key| match is_old.get(key) {
        None => Err(missing(key, "there is none")),
        Some(false) => Ok(()),
        Some(true) => match abort(&*content, key) {
            // Somebody resumed it, or was faster.
            Err(error) if matches!(error.kind(), ErrorKind::Busy | ErrorKind::NotFound) => Ok(()),
            result => result,
        },
    })
}

fn abort(content: &dyn Contents, key: &IngestKey) -> Result<()> {
    content.abort(key)?;
    output::line(&printable(key.as_str()))
}

fn missing(key: &IngestKey, why: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("abort ingest {key}: {why}"))
}
