//! `dist config`: what is in force.

use clap::Subcommand;
use dist_core::Result;
use serde::Serialize;
use serde_json::Value;

use crate::config::Config;
use crate::output::{self, Format};
use crate::table::Table;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist config show")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print every setting, its value and where the value comes from
    Show(Show),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: KEY as in dist.toml, VALUE, FROM: flag, the name of a variable, the path of the file, or
default. A value that is - has none: it depends on the machine, or the thing is off.
With --format json: key, value, from.

Examples:
  dist config show
  dist config show --format json | jq -r '.[] | select(.from != \"default\") | .key'")]
struct Show {
    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    value: &'a Value,
    from: &'a str,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let Command::Show(args) = &args.command;
    let rows = config.rows();
    if args.format == Format::Json {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| Row { key: row.key, value: &row.value, from: &row.from })
            .collect();
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["KEY", "VALUE", "FROM"]);
    for row in rows {
        let value = if row.value.is_null() { "-".into() } else { row.value.to_string() };
        table.row([row.key.into(), value, row.from.clone()]);
    }
    output::print(|out| table.print(out))
}
