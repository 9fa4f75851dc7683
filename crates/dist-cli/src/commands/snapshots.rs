//! `dist snapshots`: lists, mounts and removes snapshots.

mod diff;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use dist::Host;
use dist_core::{Error, ErrorKind, Labels, Result, SnapshotInfo, SnapshotKey, Snapshotter};
use serde::Serialize;

use super::list::labels;
use super::listing::Listing;
use super::several::each;
use crate::args::SNAPSHOTTERS;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::{Table, printable};
use crate::units::{age, binary_size, rfc3339, since};
use crate::user_namespace;

const OVERLAYFS: &str = SNAPSHOTTERS[0];

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist snapshots ls
  dist snapshots mounts my-key /mnt | sh
  dist snapshots rm my-key")]
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

    /// Write what a snapshot changes as a layer
    Diff(diff::Args),

    /// Remove snapshots that no other stands on
    #[command(aliases = ["remove", "delete", "del"])]
    Rm(Rm),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: KEY, PARENT, KIND (view, active, committed), SIZE on the disk without the parents, AGE,
SNAPSHOTTER, LABELS. Without --snapshotter those of all snapshotters are listed.
With --format json: key, parent (or null), kind, size (bytes), inodes, created_at, updated_at,
snapshotter, labels.

Examples:
  dist snapshots ls
  dist snapshots ls --format json | jq -r '.[] | select(.kind != \"committed\") | .key'")]
struct Ls {
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What an ordinary user unpacked is mounted in a user namespace; standard error says how to enter it.

Examples:
  dist snapshots mounts my-key /mnt | sh
  dist snapshots mounts my-key --target /mnt | sh")]
struct Mounts {
    /// The snapshot
    key: SnapshotKey,

    /// Where the commands mount it [default: KEY]
    #[arg(value_name = "TARGET", conflicts_with = "target")]
    positional_target: Option<PathBuf>,

    /// The same, as `rootfs prepare` has it
    #[arg(long, value_name = "DIR")]
    target: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each key that it removed. What is mounted must be unmounted first. Of several snapshots
those that stand on others are removed before them.

Examples:
  umount /mnt && dist snapshots rm my-key
  dist snapshots ls -q | xargs -r dist snapshots rm")]
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
    snapshotter: &'a str,
    labels: &'a Labels,
    #[serde(skip)]
    age: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    match &args.command {
        Command::Ls(args) => ls(config, args),
        Command::Mounts(args) => mounts(config, args),
        Command::Diff(args) => diff(config, args),
        Command::Rm(args) => rm(config, args),
    }
}

fn mounts(config: &Config, args: &Mounts) -> Result<()> {
    let snapshotter = find(config, config.host_to_read()?.as_deref(), &args.key)?;
    if snapshotter.name() == OVERLAYFS {
        // The options are those of the namespace that it is mounted in.
        user_namespace::enter_again(config)?;
    }
    let mounts = snapshotter.mounts(&args.key)?;
    let target = args.target.as_ref().or(args.positional_target.as_ref());
    let target = target.cloned().unwrap_or_else(|| args.key.as_str().into());
    output::lines(dist_snapshot::mount::commands(&mounts, &target).into_iter())?;
    user_namespace::tell_how(config)
}

fn diff(config: &Config, args: &diff::Args) -> Result<()> {
    user_namespace::enter_again(config)?;
    let host = config.host_to_change()?;
    diff::run(config, args, |key| find(config, host.as_deref(), key))
}

fn rm(config: &Config, args: &Rm) -> Result<()> {
    let host = config.host_to_change()?;
    let stacked = |key| {
        find(config, host.as_deref(), key).is_ok_and(|snapshotter| snapshotter.name() == OVERLAYFS)
    };
    if args.keys.iter().any(stacked) {
        user_namespace::enter_again(config)?;
    }
    each(&children_first(config, host.as_deref(), &args.keys)?, |key| {
        find(config, host.as_deref(), key)?.remove(key)?;
        output::line(&printable(key.as_str()))
    })
}

/// The keys in an order in which all can be removed: what stands on another goes before it.
fn children_first(
    config: &Config,
    host: Option<&dyn Host>,
    keys: &[SnapshotKey],
) -> Result<Vec<SnapshotKey>> {
    let mut parents = HashMap::new();
    if let (Some(host), true) = (host, keys.len() > 1) {
        for snapshotter in snapshotters(config, host)? {
            snapshotter.walk(&mut |info| {
                parents.entry(info.key).or_insert(info.parent);
                Ok(ControlFlow::Continue(()))
            })?;
        }
    }
    let depth = |key: &SnapshotKey| {
        std::iter::successors(Some(key), |key| parents.get(*key)?.as_ref()).count()
    };
    let mut ordered = keys.to_vec();
    ordered.sort_by_cached_key(|key| std::cmp::Reverse(depth(key)));
    Ok(ordered)
}

/// The snapshotter that was asked for, else all there are, the default one first.
fn snapshotters(config: &Config, host: &dyn Host) -> Result<Vec<Arc<dyn Snapshotter>>> {
    match config.snapshotter_flag() {
        Some(name) => Ok(vec![host.snapshotter(name)?]),
        None => host.snapshotters(),
    }
}

/// The snapshotter that has `key`.
fn find(
    config: &Config,
    host: Option<&dyn Host>,
    key: &SnapshotKey,
) -> Result<Arc<dyn Snapshotter>> {
    let missing = || Error::new(ErrorKind::NotFound, format!("find snapshot {key}: there is none"));
    for snapshotter in snapshotters(config, host.ok_or_else(missing)?)? {
        match snapshotter.stat(key) {
            Ok(_) => return Ok(snapshotter),
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Err(missing())
}

fn ls(config: &Config, args: &Ls) -> Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let mut found: Vec<(SnapshotInfo, Arc<dyn Snapshotter>)> = Vec::new();
    if let Some(host) = config.host_to_read()? {
        for snapshotter in snapshotters(config, &*host)? {
            snapshotter.walk(&mut |info| {
                found.push((info, Arc::clone(&snapshotter)));
                Ok(ControlFlow::Continue(()))
            })?;
        }
    }
    if args.listing.quiet {
        return output::lines(found.iter().map(|(info, _)| printable(info.key.as_str())));
    }
    let mut rows = Vec::new();
    for (info, snapshotter) in &found {
        let usage = match snapshotter.usage(&info.key) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue, // removed meanwhile
            Err(error) if !is_root && snapshotter.name() == OVERLAYFS => {
                // Files of other owners can be looked at where these owners exist.
                user_namespace::enter_again(config)?;
                return Err(error);
            }
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
            snapshotter: snapshotter.name(),
            labels: &info.labels,
            age: age(since(info.created_at)),
        });
    }
    if args.listing.format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["KEY", "PARENT", "KIND", "SIZE", "AGE", "SNAPSHOTTER", "LABELS"]);
    for row in rows {
        table.row([
            row.key.into(),
            row.parent.unwrap_or("-").into(),
            row.kind,
            binary_size(row.size),
            row.age,
            row.snapshotter.into(),
            labels(row.labels),
        ]);
    }
    output::print(|out| table.print(out))
}
