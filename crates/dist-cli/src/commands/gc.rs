//! `dist gc`: removes what nothing keeps, and says what keeps the rest.

use std::borrow::Cow;
use std::io::Write as _;

use clap::Subcommand;
use dist_core::{Error, ErrorKind, ImageName, Resource, Result};
use dist_store::{
    Collected, Explanation, GcOptions, Leak, Object, OpenMode, Reason, Removed, Step, Store, Why,
};
use serde::Serialize;

use super::listing::Listing;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::{Table, printable};
use crate::units::{binary_size, rfc3339};
use crate::user_namespace;

#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Removes blobs, snapshots and broken-off writes that no image, no lease and no label keeps, leases and
images that have ended, what killed processes left behind, and what has been in quarantine for a week;
in all namespaces. Others may use the store meanwhile.

Columns: KIND (lease, image, snapshot, blob, ingest, file), NAME, SIZE that comes free, NAMESPACE,
WHY. The last line says how much it is in all. With --format json: kind, name, snapshotter (of a
snapshot), size (bytes), namespace (null for a file that belongs to none), why.

Examples:
  dist gc --dry-run
  dist gc
  dist gc --format json | jq '[.[].size] | add'
  dist gc why sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1"
)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Say what keeps a blob, a snapshot or an image
    Why(WhyArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the way from what is kept for its own sake to what was asked for, one step a line, each with
what keeps it. Exit code 3 means that nothing keeps it, or that it is not there.

Examples:
  dist gc why redis:7
  dist gc why sha256:4f4fb700ef54461cfa02571ae0db9a0dc1e0cdb5577484a6d75e68dc38e8acc1")]
struct WhyArgs {
    /// Digest of a blob, key of a snapshot, or name of an image
    #[arg(value_name = "WHAT")]
    what: String,

    /// Form of the answer
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Serialize)]
struct Row<'a> {
    kind: &'static str,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshotter: Option<&'a str>,
    size: u64,
    namespace: Option<&'a str>,
    why: String,
}

#[derive(Serialize)]
struct StepRow<'a> {
    kind: &'static str,
    name: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshotter: Option<&'a str>,
    why: String,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Why(args)) => why(config, args),
        None => collect(config, args),
    }
}

fn collect(config: &Config, args: &Args) -> Result<()> {
    let listing = &args.listing;
    let told = args.dry_run || listing.quiet || listing.format != Format::Table;
    if !told && let Some(daemon) = config.daemon()? {
        daemon.collect()?;
        return output::line("removed what nothing keeps; a daemon does not say what that was");
    }
    let mut collected = Collected::default();
    let mut failed = Ok(());
    let mode = if args.dry_run { OpenMode::ReadOnly } else { OpenMode::Existing };
    if let Some(store) = config.store_if_there(mode)? {
        if holds_layers(&store) {
            // Files of other owners can be removed and measured where these owners exist.
            user_namespace::enter_again(config)?;
        }
        failed = dist::collect(&store, GcOptions { dry_run: args.dry_run }, &mut collected);
    }
    if failed.is_err() && collected.removed.is_empty() && collected.leaked.is_empty() {
        return failed;
    }
    print(&collected, args)?;
    failed
}

/// Whether there are directories that belong to the users of a user namespace.
fn holds_layers(store: &Store) -> bool {
    let dir = store.root().join("snapshots/overlayfs");
    fs_err::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn print(collected: &Collected, args: &Args) -> Result<()> {
    let removed = collected.removed.iter().map(removed_row);
    let rows: Vec<_> = removed.chain(collected.leaked.iter().map(leak_row)).collect();
    if args.listing.quiet {
        return output::lines(rows.iter().map(|row| printable(&row.name)));
    }
    if args.listing.format == Format::Json {
        return output::json_array(&rows);
    }
    let total = total(&rows, args.dry_run);
    output::print(|out| {
        if !rows.is_empty() {
            let mut table = Table::new(&["KIND", "NAME", "SIZE", "NAMESPACE", "WHY"]);
            for row in &rows {
                table.row([
                    row.kind.into(),
                    row.name.as_ref().into(),
                    binary_size(row.size),
                    row.namespace.unwrap_or("-").into(),
                    row.why.clone(),
                ]);
            }
            table.print(out)?;
        }
        writeln!(out, "{total}")
    })
}

/// `removed 3 blobs and 2 snapshots, 12.4 MiB`.
fn total(rows: &[Row<'_>], dry_run: bool) -> String {
    let counts: Vec<String> = ["lease", "image", "snapshot", "blob", "ingest", "file"]
        .into_iter()
        .filter_map(|kind| match rows.iter().filter(|row| row.kind == kind).count() {
            0 => None,
            1 => Some(format!("1 {kind}")),
            count => Some(format!("{count} {kind}s")),
        })
        .collect();
    let what = match &counts[..] {
        [] => "nothing".into(),
        [one] => one.clone(),
        [all @ .., last] => format!("{} and {last}", all.join(", ")),
    };
    let done = if dry_run { "would remove" } else { "removed" };
    format!("{done} {what}, {}", binary_size(rows.iter().map(|row| row.size).sum()))
}

fn removed_row(removed: &Removed) -> Row<'_> {
    let (kind, name, snapshotter) = describe(&removed.object);
    let why = told(&removed.why);
    let namespace = Some(removed.namespace.as_str());
    Row { kind, name, snapshotter, size: removed.bytes, namespace, why }
}

fn leak_row(leak: &Leak) -> Row<'_> {
    let why = leak.ended.map_or_else(
        || "it belongs to nothing".into(),
        |at| format!("it was in quarantine until {}", rfc3339(at)),
    );
    let name = leak.path.to_string_lossy();
    Row { kind: "file", name, snapshotter: None, size: leak.bytes, namespace: None, why }
}

/// The kind of an object, its name, and its snapshotter.
fn describe(object: &Object) -> (&'static str, Cow<'_, str>, Option<&str>) {
    match object {
        Object::Lease(id) => ("lease", id.as_str().into(), None),
        Object::Container(id) => ("container", id.as_str().into(), None),
        Object::Resource(Resource::Content(digest)) => ("blob", digest.to_string().into(), None),
        Object::Resource(Resource::Ingest(key)) => ("ingest", key.as_str().into(), None),
        Object::Resource(Resource::Image(name)) => ("image", name.as_str().into(), None),
        Object::Resource(Resource::Snapshot { snapshotter, key }) => {
            ("snapshot", key.as_str().into(), Some(snapshotter))
        }
    }
}

fn told(why: &Why) -> String {
    match why {
        Why::Ended { at } => format!("it ended {}", rfc3339(*at)),
        Why::Unreferenced => "nothing refers to it".into(),
        Why::OnlyBy(object) => format!("only {object} refers to it"),
    }
}

fn why(config: &Config, args: &WhyArgs) -> Result<()> {
    let missing = || {
        let message = format!("find what keeps {}: it is not there", printable(&args.what));
        Error::new(ErrorKind::NotFound, message)
    };
    let store = config.store_if_there(OpenMode::ReadOnly)?.ok_or_else(missing)?;
    for resource in candidates(config, &store, &args.what)? {
        match store.explain(&config.namespace, &resource) {
            Ok(Explanation::Kept(path)) => return print_path(&path, args.format),
            Ok(Explanation::Dead(why)) => {
                let message = format!("nothing keeps {resource}: {}", told(&why));
                return Err(Error::new(ErrorKind::NotFound, message));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Err(missing())
}

/// What a text may mean: a chain ID looks like a digest, so the blob is looked for first.
fn candidates(config: &Config, store: &Store, text: &str) -> Result<Vec<Resource>> {
    let mut candidates = Vec::new();
    candidates.extend(text.parse().ok().map(Resource::Content));
    for name in dist_snapshot::NAMES {
        let key = text.parse().ok();
        candidates.extend(key.map(|key| Resource::Snapshot { snapshotter: name.into(), key }));
    }
    let image: Option<ImageName> =
        super::rmi::registered(config, &store.images(&config.namespace), text).or_else(
            |error| {
                // A text that can't be a name may still be another's.
                if error.kind() == ErrorKind::InvalidArgument { Ok(None) } else { Err(error) }
            },
        )?;
    candidates.extend(image.map(Resource::Image));
    Ok(candidates)
}

fn print_path(path: &[Step], format: Format) -> Result<()> {
    let rows: Vec<StepRow<'_>> = path
        .iter()
        .map(|step| {
            let (kind, name, snapshotter) = describe(&step.object);
            StepRow { kind, name, snapshotter, why: reason(&step.reason) }
        })
        .collect();
    if format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["KIND", "NAME", "WHY"]);
    for row in &rows {
        table.row([row.kind.into(), row.name.as_ref().into(), row.why.clone()]);
    }
    output::print(|out| table.print(out))
}

fn reason(reason: &Reason) -> String {
    let until = |expires: &Option<i64>| {
        expires.map_or_else(String::new, |at| format!(" until {}", rfc3339(at)))
    };
    match reason {
        Reason::Registered { expires } => format!("it is registered{}", until(expires)),
        Reason::Unexpired { expires } => format!("it lasts{}", until(expires)),
        Reason::InUse => "somebody works with it".into(),
        Reason::Labelled(label) => format!("its label {label}"),
        Reason::Container => "it is a container".into(),
        Reason::Rootfs => "the container runs on it".into(),
        Reason::Held => "the lease holds it".into(),
        Reason::Target => "the image is this".into(),
        Reason::Parent => "the snapshot stands on it".into(),
        Reason::Expected => "the ingest will be this".into(),
        Reason::Refers(label) => format!("by label {label}"),
        Reason::ReferredBy(label) => format!("its label {label} names what is above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_counts_kinds_and_bytes() {
        let row = |kind, size| Row {
            kind,
            name: "x".into(),
            snapshotter: None,
            size,
            namespace: None,
            why: String::new(),
        };
        for (rows, dry_run, expected) in [
            (vec![], false, "removed nothing, 0 B"),
            (vec![row("blob", 1024)], true, "would remove 1 blob, 1.0 KiB"),
            (
                vec![row("blob", 1), row("lease", 0), row("blob", 2), row("file", 3)],
                false,
                "removed 1 lease, 2 blobs and 1 file, 6 B",
            ),
        ] {
            assert_eq!(total(&rows, dry_run), expected);
        }
    }
}
