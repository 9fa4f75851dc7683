//! `dist fsck`: looks for what is lost or damaged in the store, and repairs it.

use std::sync::Arc;

use dist::{FsckOptions, Fscked, Outcome};
use dist_core::{Error, ErrorKind, Progress, Result};
use dist_store::{Finding, OpenMode, Problem, Subject};
use serde::Serialize;

use super::several::Failures;
use super::transfer;
use crate::config::Config;
use crate::output::{self, Format};
use crate::progress::Reporter;
use crate::table::printable;
use crate::units::binary_size;
use crate::{report, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at the whole store, all namespaces: the database, that every blob and snapshot that has a row
is on the disk with the right size, and what lies there and belongs to nothing. --deep reads all of
it: blobs are compared with their digests, snapshots with what their layers unpack to. Other commands
may use the store meanwhile.

--repair fetches damaged blobs again, from the repositories that they came from, gives damaged
snapshots new files, unpacks what images name and is missing, and removes leftovers; what has no
place in a store goes to its directory quarantine. A snapshot that a mount uses, be it through one
that stands on it, is left as it is: unmount that before.

Prints a line for each thing: PROBLEM, what it is with, and what was done. Leftovers of a crash take
space and are no damage. Exit code 0 where nothing is damaged (any more), 8 where something is; where
it could not be repaired, the code of the first failure, as 5 for the network and 9 for a mount.

With --format json: problem, damage, namespace (or null), subject, detail, repaired, error (or null).

Examples:
  dist fsck
  dist fsck --deep --repair
  dist fsck --format json | jq -r '.[] | select(.damage) | .subject'")]
pub(crate) struct Args {
    /// Read and compare all contents
    #[arg(long)]
    deep: bool,

    /// Repair what is found
    #[arg(long)]
    repair: bool,

    /// How the findings are printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Row {
    problem: String,
    damage: bool,
    namespace: Option<String>,
    subject: String,
    detail: String,
    repaired: bool,
    error: Option<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    user_namespace::enter(config)?;
    look(config, args).map_or_else(|error| damaged_database(args, error), conclude)
}

fn look(config: &Config, args: &Args) -> Result<Fscked> {
    let engine = config.engine_in(OpenMode::Existing)?;
    let options = FsckOptions { deep: args.deep, repair: args.repair };
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let found = transfer::run(&reporter, |progress: Arc<dyn Progress>| {
        let engine = &engine;
        async move { Ok((dist::fsck(engine, options, progress).await?, Vec::new())) }
    })?;
    print(args, &found)?;
    Ok(found)
}

/// Tells of a database that is too damaged to be read.
fn damaged_database(args: &Args, error: Error) -> Result<()> {
    if !dist_store::is_database_damaged(&error) {
        return Err(error);
    }
    let detail = report::one_line(&error);
    let finding = Finding { problem: Problem::Database, subject: Subject::Database, detail };
    let row = row(&finding, &Outcome::Found);
    if args.format == Format::Json {
        output::json_array(&[row])?;
    } else {
        output::line(&line(&row))?;
    }
    let error = Error::new(ErrorKind::Storage, "check the store: its database is damaged");
    Err(report::advise(error, RESTORE))
}

const RESTORE: &str = "restore a copy of meta.db (without meta.db-wal and meta.db-shm of the damaged \
                       one), then run `dist fsck --repair`; where there is none, move the store \
                       away and pull again";

fn print(args: &Args, found: &Fscked) -> Result<()> {
    let rows: Vec<Row> =
        found.findings.iter().map(|(finding, outcome)| row(finding, outcome)).collect();
    if args.format == Format::Json {
        return output::json_array(&rows);
    }
    output::lines(rows.iter().map(line))?;
    let damaged = rows.iter().filter(|row| row.damage && !row.repaired).count();
    let repaired = rows.iter().filter(|row| row.repaired).count();
    let state = match (damaged, rows.iter().any(|row| !row.damage && !row.repaired)) {
        (0, false) => "nothing is wrong".to_owned(),
        (0, true) => "nothing is damaged".to_owned(),
        (count, _) => format!("{count} damaged"),
    };
    let state = match repaired {
        0 => state,
        count if damaged == 0 => format!("{count} repaired, now {state}"),
        count => format!("{count} repaired, {state}"),
    };
    output::line(&format!(
        "{} of {}, {}: {state}",
        counted(found.blobs, "blob"),
        binary_size(found.bytes),
        counted(found.snapshots, "snapshot")
    ))
}

fn line(row: &Row) -> String {
    let done = match (row.repaired, &row.error) {
        (true, _) => ": repaired",
        (false, Some(_)) => ": not repaired",
        (false, None) => "",
    };
    let detail = if row.detail.is_empty() { String::new() } else { format!(" ({})", row.detail) };
    printable(&format!("{} {}{detail}{done}", row.problem, row.subject))
}

fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn row(finding: &Finding, outcome: &Outcome) -> Row {
    let (namespace, subject) = match &finding.subject {
        Subject::Database => (None, "meta.db".to_owned()),
        Subject::Blob(digest) => (None, digest.to_string()),
        Subject::Path(path) => (None, path.display().to_string()),
        Subject::Snapshot(row) => {
            (Some(row.namespace.to_string()), format!("{}/{}", row.snapshotter, row.key))
        }
        Subject::Missing { namespace, snapshotter, key } => {
            (Some(namespace.to_string()), format!("{snapshotter}/{key}"))
        }
    };
    Row {
        problem: finding.problem.to_string(),
        damage: finding.problem.is_damage(),
        namespace,
        subject,
        detail: finding.detail.clone(),
        repaired: matches!(outcome, Outcome::Repaired),
        error: match outcome {
            Outcome::Failed(error) => Some(report::one_line(error)),
            Outcome::Found | Outcome::Repaired => None,
        },
    }
}

const IN_USE: &str = "unmount what uses it, then run `dist fsck --repair` again";

/// Fails where damage is left: with what kept it from being repaired, where that was tried.
fn conclude(found: Fscked) -> Result<()> {
    let mut failures = Failures::default();
    let mut damaged = 0;
    for (finding, outcome) in found.findings {
        match outcome {
            Outcome::Failed(error) if error.kind() == ErrorKind::Busy => {
                failures.add(report::advise(error, IN_USE))?;
            }
            Outcome::Failed(error) => failures.add(error)?,
            Outcome::Found if finding.problem.is_damage() => damaged += 1,
            Outcome::Found | Outcome::Repaired => (),
        }
    }
    failures.result()?;
    if damaged > 0 {
        let message = format!("check the store: {damaged} damaged, run `dist fsck --repair`");
        return Err(Error::new(ErrorKind::Storage, message));
    }
    Ok(())
}
