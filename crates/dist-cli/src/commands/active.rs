//! `dist active`: the ingests, live ones and left ones.

use dist_core::{IngestKey, Result};
use serde::Serialize;

use super::listing::Listing;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::Table;
use crate::units::{age, binary_size, rfc3339, since};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: REF, SIZE so far, TOTAL where known, AGE since the first writer began, ACTIVE: whether a
live process writes it now, which is unknown through a daemon. What no one writes can be resumed by
the command that began it, or thrown away by `dist abort`.
With --format json: ref, offset and total (bytes, total may be null), expected (digest or null),
started_at, updated_at, active (null where unknown).

Examples:
  dist active
  watch -n1 dist active")]
pub(crate) struct Args {
    /// Only these
    refs: Vec<IngestKey>,

    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct Row {
    r#ref: String,
    offset: u64,
    total: Option<u64>,
    expected: Option<String>,
    started_at: String,
    updated_at: String,
    active: Option<bool>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let mut ingests = match config.host_to_read()? {
        Some(host) => host.contents().ingests()?,
        None => Vec::new(),
    };
    ingests.retain(|ingest| args.refs.is_empty() || args.refs.contains(&ingest.key));
    if args.listing.quiet {
        return output::lines(
            ingests.iter().map(|ingest| crate::table::printable(ingest.key.as_str())),
        );
    }
    if args.listing.format == Format::Json {
        let rows: Vec<_> = ingests
            .iter()
            .map(|ingest| Row {
                r#ref: ingest.key.to_string(),
                offset: ingest.offset,
                total: ingest.total,
                expected: ingest.expected.map(|digest| digest.to_string()),
                started_at: rfc3339(ingest.started_at),
                updated_at: rfc3339(ingest.updated_at),
                active: ingest.active,
            })
            .collect();
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["REF", "SIZE", "TOTAL", "AGE", "ACTIVE"]);
    for ingest in &ingests {
        table.row([
            ingest.key.to_string(),
            binary_size(ingest.offset),
            ingest.total.map_or_else(|| "-".into(), binary_size),
            age(since(ingest.started_at)),
            match ingest.active {
                Some(true) => "yes".into(),
                Some(false) => "no".into(),
                None => "unknown".into(),
            },
        ]);
    }
    output::print(|out| table.print(out))
}
