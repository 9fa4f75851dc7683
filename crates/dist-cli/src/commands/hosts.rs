//! `dist hosts`: which hosts would serve a registry, and what says so.

use std::path::PathBuf;

use clap::Subcommand;
use dist_core::{Reference, Result};
use dist_registry::{RegistryHost, RegistryHosts};
use serde::Serialize;

use crate::config::Config;
use crate::output::{self, Format};
use crate::reference;
use crate::table::Table;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist hosts explain redis")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print which hosts are asked for a name, in their order, and which file says so
    Explain(Explain),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Nothing is asked of any host. Columns: HOST with the path that repositories follow, NAME: what is
asked for there, CAPABILITIES (a host without resolve does not say what a tag stands for),
CERTIFICATES that are trusted or shown there, INSECURE where its certificate is taken as it is, FROM:
the file, or default. A host on this machine is asked in http first, and in https where it speaks that. A name with a digest may have other hosts than one with a tag.
With --format json: host, otherwise (the scheme that is tried next, or null), name, mirror, capabilities,
ca, client, missing (of these files), insecure, headers (their names), dial_timeout (seconds), from.

Examples:
  dist hosts explain redis
  dist hosts explain --hosts-dir ./certs.d registry.example.com/team/app:1
  dist hosts explain --registries-conf ./registries.conf quay.io/team/app:1")]
struct Explain {
    /// Name in a registry
    #[arg(value_name = "REF")]
    name: String,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row {
    host: String,
    otherwise: Option<&'static str>,
    name: String,
    mirror: bool,
    capabilities: Vec<&'static str>,
    ca: Vec<String>,
    client: Vec<String>,
    missing: Vec<String>,
    insecure: bool,
    headers: Vec<String>,
    dial_timeout: Option<f64>,
    from: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let Command::Explain(args) = &args.command;
    reference::parse(&args.name)?;
    let reference = reference::parse(&reference::one(config, &args.name)?)?;
    let options = config.registry_without_credentials();
    let hosts = options.hosts(&reference)?;
    let row = |host| Row {
        name: name_at(host, &reference),
        ..row(&hosts, host, (options.plain_http, options.insecure))
    };
    let rows: Vec<_> = hosts.hosts.iter().map(row).collect();
    if args.format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table =
        Table::new(&["HOST", "NAME", "CAPABILITIES", "CERTIFICATES", "INSECURE", "FROM"]);
    for row in rows {
        let shown = |path: &String| {
            format!("{path}{}", if row.missing.contains(path) { " (not there)" } else { "" })
        };
        let certificates: Vec<_> = row.ca.iter().chain(&row.client).map(shown).collect();
        let otherwise = row.otherwise.map_or(String::new(), |scheme| format!(", else {scheme}"));
        table.row([
            row.host + &otherwise,
            row.name,
            or_dash(row.capabilities.join(",")),
            or_dash(certificates.join(",")),
            if row.insecure { "yes" } else { "no" }.to_owned(),
            row.from,
        ]);
    }
    output::print(|out| table.print(out))
}

fn row(hosts: &RegistryHosts, host: &RegistryHost, (plain_http, insecure): (bool, bool)) -> Row {
    let shown = |path: &PathBuf| path.display().to_string();
    let clients = || host.client_certs.iter();
    let keys = clients().map(|client| &client.key);
    let files = host.ca_certs.iter().chain(clients().map(|client| &client.cert)).chain(keys);
    Row {
        host: hosts.address(host, plain_http),
        otherwise: hosts.other_scheme(host, plain_http),
        name: String::new(),
        mirror: hosts.is_mirror(host),
        capabilities: host.capabilities.names(),
        ca: host.ca_certs.iter().map(shown).collect(),
        client: clients().map(|client| shown(&client.cert)).collect(),
        missing: files.filter(|path| !path.exists()).map(shown).collect(),
        insecure: host.insecure.unwrap_or(insecure),
        headers: host.headers.keys().map(|name| name.as_str().to_owned()).collect(),
        dial_timeout: host.connect_timeout.map(|time| time.as_secs_f64()),
        from: hosts.source.as_ref().map_or_else(|| "default".to_owned(), shown),
    }
}

/// What is asked for there.
fn name_at(host: &RegistryHost, reference: &Reference) -> String {
    let there = host.place.as_ref().and_then(|place| place.reference.as_ref());
    let name = there.unwrap_or(reference);
    let separator = if name.tag().is_some() { ":" } else { "" };
    format!("{}{separator}{}", name.repository(), name.object())
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}
