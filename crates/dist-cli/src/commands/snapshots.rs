//! `dist snapshots`: lists, mounts and removes snapshots.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use dist_core::{Error, ErrorKind, Labels, Result, SnapshotInfo, SnapshotKey, Snapshotter};
use dist_store::Store;
use serde::Serialize;

use super::list::labels;
use super::listing::Listing;
use super::several::each;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::{Table, printable};
use crate::units::{age, binary_size, rfc3339, since};
use crate::user_namespace;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls(Ls),

    /// Print the commands that mount an active snapshot or a view
    Mounts(Mounts),

    /// Remove snapshots that no other stands on
    #[command(aliases = ["remove", "delete", "del"])]
    Rm(Rm),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: KEY, PARENT, KIND (view, active, committed), SIZE on the disk without the parents, AGE,
LABELS.
With --format json: key, parent (or null), kind, size (bytes), inodes, created_at, updated_at,
labels.

Examples:
  dist snapshots ls
  dist snapshots ls --format json | jq -r '.[] | select(.kind != \"committed\") | .key'")]
struct Ls {
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  dist snapshots mounts my-key /mnt | sh")]
struct Mounts {
    /// The snapshot
    key: SnapshotKey,

    /// Where the commands mount it [default: KEY]
    target: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each key that it removed.

Examples:
  umount /mnt && dist snapshots rm my-key")]
struct Rm {
    /// The snapshots
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<SnapshotKey>,
}

#[derive(Serialize)]
struct Row<'a> {
    key: &'a str,
    parent: Option<&'a str>,
    kind: String,
    size: u64,
    inodes: u64,
    created_at: String,
    updated_at: String,
    labels: &'a Labels,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    match &args.command {
        Command::Ls(args) => ls(config, args),
        Command::Mounts(args) => {
            let snapshotter = open(config, config.store_to_read()?, &args.key)?;
            let mounts = snapshotter.mounts(&args.key)?;
            let target = args.target.clone().unwrap_or_else(|| args.key.as_str().into());
            output::lines(dist_snapshot::mount::commands(&mounts, &target).into_iter())
        }
        Command::Rm(args) => {
            user_namespace::enter(config)?;
            let store = config.store_to_change()?;
            each(&args.keys, |key| {
                open(config, store.clone(), key)?.remove(key)?;
                output::line(&printable(key.as_str()))
            })
        }
    }
}

fn open(config: &Config, store: Option<Store>, key: &SnapshotKey) -> Result<Arc<dyn Snapshotter>> {
    let store = store.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("find snapshot {key}: there is no store yet"))
    })?;
    dist_snapshot::open(&store, &config.namespace, config.snapshotter())
}

fn ls(config: &Config, args: &Ls) -> Result<()> {
    let mut found: Vec<SnapshotInfo> = Vec::new();
    let mut rows = Vec::new();
    if let Some(store) = config.store_to_read()? {
        let snapshotter = dist_snapshot::open(&store, &config.namespace, config.snapshotter())?;
        snapshotter.walk(&mut |info| {
            found.push(info);
            Ok(ControlFlow::Continue(()))
        })?;
        if args.listing.quiet {
            return output::lines(found.iter().map(|info| printable(info.key.as_str())));
        }
        for info in &found {
            let usage = match snapshotter.usage(&info.key) {
                Err(error) if error.kind() == ErrorKind::NotFound => continue, // removed meanwhile
                result => result?,
            };
            rows.push(Row {
                key: info.key.as_str(),
                parent: info.parent.as_ref().map(SnapshotKey::as_str),
                kind: info.kind.to_string(),
                size: usage.bytes,
                inodes: usage.inodes,
                created_at: rfc3339(info.created_at),
                updated_at: rfc3339(info.updated_at),
                labels: &info.labels,
            });
        }
    }
    if args.listing.format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["KEY", "PARENT", "KIND", "SIZE", "AGE", "LABELS"]);
    for (row, info) in rows.iter().zip(&found) {
        table.row([
            row.key.into(),
            row.parent.unwrap_or("-").into(),
            row.kind.clone(),
            binary_size(row.size),
            age(since(info.created_at)),
            labels(row.labels),
        ]);
    }
    output::print(|out| table.print(out))
}
