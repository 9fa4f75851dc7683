//! `dist images`: the registered images.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use dist::{Host, Survey};
use dist_core::{DISCARDED, Digest, Image, Outline, Reference, Result};
use dist_store::Outlined;
use serde::Serialize;

use super::listing::Listing;
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::{Table, printable};
use crate::units::{binary_size, rfc3339};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Columns: REF, TYPE (the media type of what it names), DIGEST, SIZE of manifests, configs and layers
that are in the store, PLATFORM of those, COMPLETE: whether all blobs of these platforms are there;
`unpacked` where nothing is missing but layers that were discarded because snapshots hold them.
SIZE and PLATFORM are `-` where nothing is there any more.
With --format json: name, media_type, digest, size (bytes or null), platforms, complete (whether
all blobs of these platforms are there), discarded (how many layers snapshots stand for), created_at,
updated_at, labels.

Examples:
  dist images
  dist images -q
  dist image ls --format json | jq -r '.[].name'")]
pub(crate) struct Args {
    /// Only these, as they are shown or as they were pulled; `ls` may stand before them
    #[arg(value_name = "REF")]
    names: Vec<String>,

    #[command(flatten)]
    listing: Listing,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    media_type: &'a str,
    digest: String,
    size: Option<u64>,
    platforms: Vec<String>,
    complete: bool,
    discarded: usize,
    #[serde(skip)]
    unpacked: bool,
    created_at: String,
    updated_at: String,
    labels: &'a dist_core::Labels,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let Some(host) = config.host_to_read()? else { return print(args, Vec::new()) };
    let mut images = host.images().list()?;
    let wanted = wanted(&args.names);
    images.retain(|image| wanted.is_empty() || wanted.contains(image.name.as_str()));
    if args.listing.quiet {
        return output::lines(images.iter().map(|image| printable(image.name.as_str())));
    }
    let content = host.contents();
    let mut survey = Survey::new(&*content)?;
    print(args, rows(&images, &mut survey, &*host)?)?;
    let learnt = survey.take_learnt();
    // The process ends: it need not free each of many thousand texts before.
    std::mem::forget((survey, images));
    if learnt.is_empty() {
        return Ok(());
    }
    // Who writes has the store alone then, and leaves no log behind.
    drop((content, host));
    if let Err(error) = keep(config, &learnt) {
        tracing::debug!(?error, "what documents say is not kept for the next listing");
    }
    Ok(())
}

/// Keeps what documents say, where the store can be written.
fn keep(config: &Config, outlines: &[(Outlined, Arc<Outline>)]) -> Result<()> {
    let Some(host) = config.host_to_change()? else { return Ok(()) };
    host.contents().keep_outlines(outlines)
}

fn rows<'a>(images: &'a [Image], survey: &mut Survey<'_>, host: &dyn Host) -> Result<Vec<Row<'a>>> {
    let found: Vec<_> = images.iter().map(|image| Found::of(image, survey)).collect();
    let discarded = if found.iter().any(|found| !found.missing_layers.is_empty()) {
        discarded(host)?
    } else {
        HashSet::new()
    };
    let mut rows = Vec::with_capacity(images.len());
    for (image, found) in images.iter().zip(found) {
        let layers = &found.missing_layers;
        let discarded = layers.iter().filter(|digest| discarded.contains(digest)).count();
        rows.push(Row {
            name: image.name.as_str(),
            media_type: image.target.media_type.as_str(),
            digest: image.target.digest.to_string(),
            size: found.size,
            complete: !found.platforms.is_empty() && found.missing == 0 && layers.is_empty(),
            discarded,
            unpacked: found.missing == 0 && discarded > 0 && discarded == layers.len(),
            platforms: found.platforms,
            created_at: rfc3339(image.created_at),
            updated_at: rfc3339(image.updated_at),
            labels: &image.labels,
        });
    }
    Ok(rows)
}

/// The names that are asked for, as they were typed and in their full form.
fn wanted(typed: &[String]) -> HashSet<String> {
    let verb = typed.first().is_some_and(|word| word == "ls" || word == "list");
    let full = |name: &String| Reference::parse_familiar(name).ok().map(|name| name.to_string());
    let names = typed.iter().skip(usize::from(verb));
    names.flat_map(|name| [Some(name.clone()), full(name)]).flatten().collect()
}

fn print(args: &Args, rows: Vec<Row<'_>>) -> Result<()> {
    if args.listing.quiet {
        return Ok(()); // there is no store
    }
    if args.listing.format == Format::Json {
        return output::json_array(&rows);
    }
    let mut table = Table::new(&["REF", "TYPE", "DIGEST", "SIZE", "PLATFORM", "COMPLETE"]);
    for row in rows {
        let platforms = row.platforms.join(",");
        table.row([
            row.name.into(),
            row.media_type.into(),
            row.digest,
            row.size.map_or_else(|| "-".into(), binary_size),
            if platforms.is_empty() { "-".into() } else { platforms },
            match (row.complete, row.unpacked) {
                (true, _) => "yes".into(),
                (_, true) => "unpacked".into(),
                _ => "no".into(),
            },
        ]);
    }
    output::print(|out| table.print(out))
}

/// The layers that snapshots stand for.
fn discarded(host: &dyn Host) -> Result<HashSet<Digest>> {
    let mut found = HashSet::new();
    for snapshotter in host.snapshotters()? {
        snapshotter.walk(&mut |info| {
            let digests = info.labels.keys().filter_map(|key| key.strip_prefix(DISCARDED));
            found.extend(digests.filter_map(|digest| digest.parse::<Digest>().ok()));
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(found)
}

/// What of an image is in the store.
#[derive(Default)]
struct Found {
    /// The bytes of the blobs that are there, each counted once; `None` where nothing is.
    size: Option<u64>,
    /// How many documents are not.
    missing: usize,
    /// Layers that are not, each once.
    missing_layers: BTreeSet<Digest>,
    platforms: Vec<String>,
}

impl Found {
    fn of(image: &Image, survey: &mut Survey<'_>) -> Self {
        let mut found = Self::default();
        let manifests = survey.manifests(&image.target);
        let documents = manifests.iter().flat_map(|held| [held.manifest, held.config]);
        let documents = std::iter::once(image.target.digest).chain(documents);
        let layers = manifests.iter().flat_map(|held| &held.layers).copied();
        let mut blobs = Vec::new();
        for digest in documents {
            match survey.size(&digest) {
                Some(size) => blobs.push((digest, size)),
                None => found.missing += 1,
            }
        }
        for layer in layers {
            match survey.size(&layer) {
                Some(size) => blobs.push((layer, size)),
                None => drop(found.missing_layers.insert(layer)),
            }
        }
        blobs.sort_unstable_by(|(a, _), (b, _)| a.prefix().cmp(&b.prefix()).then_with(|| a.cmp(b)));
        blobs.dedup();
        found.size = (!blobs.is_empty()).then(|| blobs.iter().map(|(_, size)| size).sum());
        for held in manifests {
            let platform = held.platform.filter(|platform| !platform.architecture.is_empty());
            let platform = platform.map_or_else(|| "unknown".into(), |it| it.to_string());
            if !found.platforms.contains(&platform) {
                found.platforms.push(platform);
            }
        }
        found
    }
}
