//! `dist list`: the committed blobs of the namespace.

use std::fmt;

use dist_core::{Labels, Result};
use serde::Serialize;

use super::listing::Listing;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::Table;
use crate::units::{age, between, binary_size, now, rfc3339};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: DIGEST, SIZE, AGE since the commit, LABELS.
With --format json: digest, size (bytes), created_at, updated_at, labels.

Examples:
  dist list
  dist list -q | xargs -r dist delete
  dist list --format json | jq '[.[].size] | add'")]
pub(crate) struct Args {
    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct Row<'a> {
    digest: String,
    size: u64,
    created_at: String,
    updated_at: String,
    labels: &'a Labels,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let blobs = match config.host_to_read()? {
        Some(host) => host.contents().list()?,
        None => Vec::new(),
    };
    if args.listing.quiet {
        return output::lines(blobs.iter().map(|blob| blob.digest));
    }
    if args.listing.format == Format::Json {
        let rows: Vec<_> = blobs
            .iter()
            .map(|blob| Row {
                digest: blob.digest.to_string(),
                size: blob.size,
                created_at: rfc3339(blob.created_at),
                updated_at: rfc3339(blob.updated_at),
                labels: &blob.labels,
            })
            .collect();
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["DIGEST", "SIZE", "AGE", "LABELS"]);
    let now = now();
    for blob in &blobs {
        table.row_of([
            &blob.digest,
            &binary_size(blob.size),
            &age(between(blob.created_at, now)),
            &Joined(&blob.labels),
        ]);
    }
    // The process ends: it need not free each of many thousand labels before.
    std::mem::forget(blobs);
    output::print(|out| table.print(out))
}

/// Labels as `a=1,b=2`, or `-` where there are none.
struct Joined<'a>(&'a Labels);

impl fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = self.0.iter();
        let Some((name, value)) = labels.next() else { return f.write_str("-") };
        for text in [name, "=", value] {
            f.write_str(text)?;
        }
        for (name, value) in labels {
            for text in [",", name, "=", value] {
                f.write_str(text)?;
            }
        }
        Ok(())
    }
}

/// `a=1,b=2`, or `-` where there are none.
pub(crate) fn labels(labels: &Labels) -> String {
    Joined(labels).to_string()
}
