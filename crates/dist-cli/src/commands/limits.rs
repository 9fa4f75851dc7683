//! `dist limits`: how many pulls a registry still gives.

use dist_core::Result;
use dist_registry::Limits;
use serde::Serialize;

use crate::config::Config;
use crate::output::{self, Format};
use crate::table::Table;
use crate::{reference, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Asks for the head of the manifest, which is not counted as a pull; mirrors are not asked. A registry that
does not count says nothing, and neither does Docker Hub to accounts without a limit. Columns: HOST, LIMIT
and LEFT in pulls, WINDOW in seconds, FOR: the address or the account that they are counted for.
With --format json: host, limit, remaining, window, source.

Examples:
  dist limits ratelimitpreview/test
  dist limits --user me --password-stdin redis < token")]
pub(crate) struct Args {
    /// Image in a registry
    #[arg(value_name = "REF")]
    name: String,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    host: String,
    limit: Option<u64>,
    remaining: Option<u64>,
    window: Option<u64>,
    source: Option<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    reference::parse(&args.name)?;
    let name = reference::one(config, &args.name)?;
    let remotes = config.remotes()?;
    let limits = runtime::run(remotes.registries().limits(&name))?;
    let Limits { host, limit, remaining, window, source } = limits;
    let row = Row { host, limit, remaining, window, source };
    if args.format == Format::Json {
        return output::json_array(&[row]);
    }
    let shown = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut table = Table::new(&["HOST", "LIMIT", "LEFT", "WINDOW", "FOR"]);
    let source = row.source.unwrap_or_else(|| "-".to_owned());
    table.row([row.host, shown(row.limit), shown(row.remaining), shown(row.window), source]);
    output::print(|out| table.print(out))
}
