//! `dist images`: the registered images.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::ControlFlow;

use dist::{Contents, Host};
use dist_core::{DISCARDED, Digest, ErrorKind, Image, ImageConfig, ImageName, Result};
use serde::Serialize;

use super::documents::manifests;
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
    /// `ls`, where you like to say so
    #[arg(value_parser = ["ls", "list"], hide = true)]
    ls: Option<String>,

    /// Only these
    #[arg(value_name = "REF")]
    names: Vec<ImageName>,

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
    let Some(host) = config.host_to_read()? else { return print(args, &[], None) };
    let host = &*host;
    let mut images = host.images().list()?;
    images.retain(|image| args.names.is_empty() || args.names.contains(&image.name));
    print(args, &images, Some(host))
}

fn print(args: &Args, images: &[Image], host: Option<&dyn Host>) -> Result<()> {
    if args.listing.quiet {
        return output::lines(images.iter().map(|image| printable(image.name.as_str())));
    }
    let mut rows = Vec::new();
    let content = host.map(Host::contents);
    let found = images.iter().map(|image| match &content {
        Some(content) => measure(&**content, image),
        None => Ok(Found::default()),
    });
    let found = found.collect::<Result<Vec<_>>>()?;
    let discarded = match host {
        Some(host) if found.iter().any(|found| !found.missing_layers.is_empty()) => {
            discarded(host)?
        }
        _ => HashSet::new(),
    };
    for (image, found) in images.iter().zip(found) {
        let layers = &found.missing_layers;
        let discarded = layers.iter().filter(|digest| discarded.contains(digest)).count();
        rows.push(Row {
            name: image.name.as_str(),
            media_type: image.target.media_type.as_str(),
            digest: image.target.digest.to_string(),
            size: (!found.blobs.is_empty()).then(|| found.blobs.values().sum()),
            complete: !found.platforms.is_empty() && found.missing == 0 && layers.is_empty(),
            discarded,
            unpacked: found.missing == 0 && discarded > 0 && discarded == layers.len(),
            platforms: found.platforms,
            created_at: rfc3339(image.created_at),
            updated_at: rfc3339(image.updated_at),
            labels: &image.labels,
        });
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
    /// Blobs that are there, each once.
    blobs: BTreeMap<Digest, u64>,
    /// How many documents are not.
    missing: usize,
    /// Layers that are not, each once.
    missing_layers: BTreeSet<Digest>,
    platforms: Vec<String>,
}

fn measure(content: &dyn Contents, image: &Image) -> Result<Found> {
    let mut found = Found::default();
    found.count(content, &image.target.digest)?;
    for (desc, manifest) in manifests(content, &image.target) {
        found.count(content, &desc.digest)?;
        let has_config = found.count(content, &manifest.config.digest)?;
        for layer in &manifest.layers {
            if !found.has(content, &layer.digest)? {
                found.missing_layers.insert(layer.digest);
            }
        }
        let config = has_config.then(|| dist::read_document(content, &manifest.config));
        let platform = match config {
            Some(Ok(bytes)) => ImageConfig::parse(&bytes).ok().map(|config| config.platform),
            _ => desc.platform,
        };
        let platform = platform.map_or_else(|| "unknown".into(), |platform| platform.to_string());
        if !found.platforms.contains(&platform) {
            found.platforms.push(platform);
        }
    }
    Ok(found)
}

impl Found {
    /// Counts a document, and says whether it is there.
    fn count(&mut self, content: &dyn Contents, digest: &Digest) -> Result<bool> {
        let there = self.has(content, digest)?;
        self.missing += usize::from(!there);
        Ok(there)
    }

    /// Counts a blob where it is there, and says whether it is.
    fn has(&mut self, content: &dyn Contents, digest: &Digest) -> Result<bool> {
        if self.blobs.contains_key(digest) {
            return Ok(true);
        }
        match content.info(digest) {
            Ok(info) => {
                self.blobs.insert(*digest, info.size);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
