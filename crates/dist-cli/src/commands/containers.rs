//! `dist ps` and `dist containers`: what containers there are.

use std::io::Write as _;

use clap::Subcommand;
use dist_core::{Container, ContainerId, Error, ErrorKind, Exit, Labels, Result};
use dist_run::{Containers, Observed};
use dist_store::OpenMode;
use serde::Serialize;
use serde_json::Value;

use super::listing::Listing;
use super::run::{block_on, open};
use super::several::each;
use crate::config::Config;
use crate::output::{self, Format};
use crate::report;
use crate::table::{Table, printable};
use crate::units::{age, between, now, rfc3339};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist containers ls
  dist containers inspect my-redis | jq .spec.process")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List containers, those that have ended too
    Ls(List),

    /// Remove containers with all that they have written
    Rm(Remove),

    /// Show what a container is and does
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: ID, IMAGE, STATE, PID, AGE. With --format json: id, image, state (created, running, paused,
exited), pid or null, exit_status or null, created_at, labels.

Examples:
  dist ps
  dist ps --all
  dist ps -q | xargs -r dist stop")]
pub(crate) struct Ps {
    /// List those that have ended or were not started, too
    #[arg(short, long)]
    all: bool,

    /// As for every command, but without its short form, which is `--all` here
    #[arg(long, value_name = "SOCKET", hide = true)]
    address: Option<String>,

    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
As `dist ps --all`.

Examples:
  dist containers ls -q | xargs -r dist containers rm --force")]
struct List {
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each id that it removed, as `dist rm`.

Examples:
  dist containers rm my-redis
  dist containers rm --force my-redis")]
struct Remove {
    /// Kill those that run
    #[arg(short, long)]
    force: bool,

    /// The containers
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContainerId>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one JSON object: id, image, state, pid, exit_status, exited_at, created_at, labels, runtime,
snapshotter, snapshot_key, bundle, network (what it joined, and the result of CNI's plugins, or
null), spec.

Examples:
  dist containers inspect my-redis | jq .spec.linux.resources")]
struct Inspect {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    image: &'a str,
    state: &'static str,
    pid: Option<u32>,
    exit_status: Option<u32>,
    created_at: String,
    labels: &'a Labels,
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    row: Row<'a>,
    exited_at: Option<String>,
    runtime: &'a str,
    snapshotter: &'a str,
    snapshot_key: &'a str,
    bundle: String,
    network: Option<Value>,
    spec: Option<Value>,
}

impl<'a> Row<'a> {
    fn of(container: &'a Container, observed: &Observed) -> Self {
        let (state, pid, exit_status) = match observed {
            Observed::Created => ("created", None, None),
            Observed::Running(pid) => ("running", Some(*pid), None),
            Observed::Paused(pid) => ("paused", Some(*pid), None),
            Observed::Exited(Exit { status, .. }) => ("exited", None, Some(*status)),
        };
        Self {
            id: container.id.as_str(),
            image: &container.image,
            state,
            pid,
            exit_status,
            created_at: rfc3339(container.created_at),
            labels: &container.labels,
        }
    }
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let containers = open(config)?;
    match &args.command {
        Command::Ls(args) => list(&containers, true, &args.listing),
        Command::Rm(args) => each(&args.ids, |id| remove(&containers, id, args.force)),
        Command::Inspect(args) => inspect(&containers, &args.id),
    }
}

/// `dist ps`.
pub(crate) fn ps(config: &Config, args: &Ps) -> Result<()> {
    list(&open(config)?, args.all, &args.listing)
}

fn list(containers: &Containers, all: bool, listing: &Listing) -> Result<()> {
    let rows = containers.rows().list()?;
    let mut found = Vec::new();
    for container in &rows {
        match block_on(containers.observe(container)) {
            Ok(observed) => found.push((container, observed)),
            // It went meanwhile, or nobody can tell: others are told of nevertheless.
            Err(error) => report::warn(&report::one_line(&error)),
        }
    }
    let runs = |observed: &Observed| matches!(observed, Observed::Running(_) | Observed::Paused(_));
    found.retain(|(_, observed)| all || runs(observed));
    if listing.quiet {
        return output::lines(found.iter().map(|(container, _)| &container.id));
    }
    if listing.format == Format::Json {
        let rows: Vec<_> =
            found.iter().map(|(container, observed)| Row::of(container, observed)).collect();
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["ID", "IMAGE", "STATE", "PID", "AGE"]);
    let now = now();
    for (container, observed) in &found {
        let row = Row::of(container, observed);
        let state = match row.exit_status {
            Some(status) => format!("exited ({status})"),
            None => row.state.to_owned(),
        };
        table.row([
            row.id.to_owned(),
            printable(row.image),
            state,
            row.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            age(between(container.created_at, now)),
        ]);
    }
    output::print(|out| table.print(out))
}

/// The container of an id.
pub(super) fn named(containers: &Containers, id: &ContainerId) -> Result<Container> {
    containers.rows().get(id).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("find container {id}: it is not there");
            report::advise(Error::new(ErrorKind::NotFound, message), "`dist ps --all` lists all")
        }
        _ => error,
    })
}

/// Why no container of an id was made: there is one, or something else.
pub(super) async fn not_made(containers: &Containers, id: &ContainerId, error: Error) -> Error {
    if error.kind() != ErrorKind::AlreadyExists {
        return error;
    }
    let Ok(container) = containers.rows().get(id) else { return error };
    let force = match containers.observe(&container).await {
        Ok(Observed::Running(_) | Observed::Paused(_)) => "--force ",
        _ => "",
    };
    let message = format!("make container {id}: it exists already");
    let hint = format!("`dist rm {force}{id}` removes that one");
    report::advise(Error::new(ErrorKind::AlreadyExists, message), hint)
}

/// Removes one container.
pub(super) fn remove(containers: &Containers, id: &ContainerId, force: bool) -> Result<()> {
    let container = named(containers, id)?;
    let observed = block_on(containers.observe(&container))?;
    if !force && matches!(observed, Observed::Running(_) | Observed::Paused(_)) {
        let message = format!("remove container {id}: it runs");
        let error = Error::new(ErrorKind::FailedPrecondition, message);
        return Err(report::advise(error, "stop it before, or give --force"));
    }
    block_on(containers.remove(&container))?;
    output::line(id.as_str())
}

/// The same for a container that `name` may name; says whether it does.
pub(super) fn inspect_if_there(config: &Config, name: &str) -> Result<bool> {
    let Ok(id) = name.parse::<ContainerId>() else { return Ok(false) };
    if config.is_remote() {
        return Ok(false);
    }
    let Some(store) = config.store_if_there(OpenMode::ReadOnly)? else { return Ok(false) };
    match store.containers(&config.namespace).get(&id) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(_) => inspect(&open(config)?, &id).map(|()| true),
    }
}

/// Prints all that is known of a container.
pub(super) fn inspect(containers: &Containers, id: &ContainerId) -> Result<()> {
    let container = named(containers, id)?;
    let observed = block_on(containers.observe(&container))?;
    let whole = Whole {
        row: Row::of(&container, &observed),
        exited_at: match observed {
            Observed::Exited(exit) => Some(rfc3339(exit.at)),
            _ => None,
        },
        runtime: &container.runtime,
        snapshotter: &container.snapshotter,
        snapshot_key: &container.snapshot_key,
        network: Containers::joined(&container),
        bundle: containers.bundle(id).to_string_lossy().into_owned(),
        spec: container.spec.as_ref().and_then(|spec| serde_json::from_slice(&spec.value).ok()),
    };
    output::print(|out| {
        serde_json::to_writer_pretty(&mut *out, &whole)?;
        writeln!(out)
    })
}
