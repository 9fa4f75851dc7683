//! `dist inspect`: what an image is made of, in the store or in its registry, or what a container is.

use std::io::Write as _;

use dist_core::{
    Descriptor, Digest, Document, Error, ErrorKind, Manifest, Platform, Resolved, Resolver, Result,
    ResultExt,
};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::documents::Source;
use super::rmi::registered;
use super::{containers, origin};
use crate::config::Config;
use crate::output::{self, Format};
use crate::table::{Table, printable};
use crate::units::binary_size;
use crate::{report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
An image that is in the store is read from there, any other from its registry; nothing is kept.
With --format json: name, digest, media_type, size; platforms (of an index: platform, digest, size);
manifest (digest, size, config, layers) and config (as it is) of the chosen platform, which are
null where an index has nothing for it. --raw and --config print documents byte for byte.
A container with that name comes first, as by `dist containers inspect`, if nothing is asked that only
images have.

Examples:
  dist inspect redis:7
  dist inspect --remote --format json redis:7 | jq -r '.platforms[].platform'
  dist inspect --config redis:7 | jq .config.Cmd
  dist inspect --raw redis:7 | sha256sum")]
pub(crate) struct Args {
    /// Image in the store, a registry, or as `dist copy` names them (oci:, store:, daemon:, ...), the
    /// digest of a manifest in the store, or a container
    #[arg(value_name = "REF")]
    name: String,

    /// Print the manifest or index as it is; with --platform the manifest for that platform
    #[arg(long, conflicts_with_all = ["config", "format"])]
    raw: bool,

    /// Print the config as it is
    #[arg(long, conflicts_with = "format")]
    config: bool,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Ask the registry even if the image is in the store
    #[arg(long, conflicts_with = "local")]
    remote: bool,

    /// Look in the store only
    #[arg(long)]
    local: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl Args {
    /// Whether a container may be meant: nothing is asked that only images have.
    fn is_of_anything(&self) -> bool {
        !self.raw && !self.config && !self.remote && !self.local && self.platform.is_none()
    }
}

const ELSEWHERE: &str = "--remote asks the registry; `dist pull` brings back what the store lacks";

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    if args.is_of_anything() && containers::inspect_if_there(config, &args.name)? {
        return Ok(());
    }
    let found = origin::stored(config, &args.name, args.remote)?;
    let (resolved, source) = match found {
        Some(found) => found,
        None if args.local => {
            let message = format!("inspect {}: it is not in the store", args.name);
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        None => {
            let (remotes, name) = origin::elsewhere(config, &args.name)?;
            let work = async {
                let resolved = remotes.resolve(&name).await?;
                let source = Source::Remote(remotes.fetcher(&name)?);
                show(config, args, &resolved, &source).await
            };
            return runtime::run(work)?.print();
        }
    };
    runtime::run(show(config, args, &resolved, &source))
        .during(|| format!("inspect {}", args.name))
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => report::advise(error, ELSEWHERE),
            _ => error,
        })?
        .print()
}

/// Finds the image among the registered ones, or a manifest by its digest.
pub(super) fn find_local(config: &Config, text: &str) -> Result<Option<(Resolved, Source)>> {
    let Some(host) = config.host_to_read()? else { return Ok(None) };
    let content = host.contents();
    if let Ok(digest) = text.parse::<Digest>() {
        let target = dist::describe(&*content, &digest)?;
        return Ok(Some((Resolved { name: text.to_owned(), target }, Source::Local(content))));
    }
    let images = host.images();
    let Some(name) = registered(config, &*images, text)? else { return Ok(None) };
    let image = images.get(&name)?;
    let resolved = Resolved { name: image.name.to_string(), target: image.target };
    Ok(Some((resolved, Source::Local(content))))
}

/// What is printed.
enum Shown {
    Bytes(Vec<u8>),
    Summary(Box<Summary>),
    Json(Box<Summary>),
}

#[derive(Serialize)]
struct Summary {
    name: String,
    digest: Digest,
    media_type: String,
    size: u64,
    platforms: Vec<Entry>,
    manifest: Option<Parts>,
    config: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Entry {
    platform: Option<String>,
    digest: Digest,
    size: u64,
}

#[derive(Serialize)]
struct Parts {
    digest: Digest,
    size: u64,
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Serialize)]
struct Blob {
    digest: Digest,
    media_type: String,
    size: u64,
}

impl From<&Descriptor> for Blob {
    fn from(desc: &Descriptor) -> Self {
        Self { digest: desc.digest, media_type: desc.media_type.as_str().into(), size: desc.size }
    }
}

async fn show(config: &Config, args: &Args, resolved: &Resolved, source: &Source) -> Result<Shown> {
    let platform = config.pull_options(args.platform.as_ref()).platform;
    let target = &resolved.target;
    if args.raw && args.platform.is_none() {
        return source.read(target).await.map(Shown::Bytes);
    }
    if args.raw {
        let (desc, _) = source.manifest(target, &platform).await?;
        return source.read(&desc).await.map(Shown::Bytes);
    }
    if args.config {
        let (_, manifest) = source.manifest(target, &platform).await?;
        return source.read(&manifest.config).await.map(Shown::Bytes);
    }
    let platforms = match source.parse(target).await? {
        Document::Index(index) => index.manifests.iter().map(entry).collect(),
        Document::Manifest(_) => Vec::new(),
    };
    let found = match source.manifest(target, &platform).await {
        // The default platform need not be there; one that was asked for must.
        Err(error) if error.kind() == ErrorKind::NotFound && args.platform.is_none() => {
            report::warn(&format!("no manifest for {platform}: {}", report::one_line(&error)));
            None
        }
        result => Some(result?),
    };
    let bytes = match &found {
        Some((_, manifest)) if manifest.config.media_type.is_config() => {
            Some(source.read(&manifest.config).await?)
        }
        _ => None,
    };
    let summary = Box::new(Summary {
        name: resolved.name.clone(),
        digest: target.digest,
        media_type: target.media_type.as_str().into(),
        size: target.size,
        platforms,
        manifest: found.as_ref().map(|(desc, manifest)| parts(desc, manifest)),
        config: bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()),
    });
    Ok(if args.format == Format::Json { Shown::Json(summary) } else { Shown::Summary(summary) })
}

fn entry(desc: &Descriptor) -> Entry {
    Entry {
        platform: desc.platform.as_ref().map(ToString::to_string),
        digest: desc.digest,
        size: desc.size,
    }
}

fn parts(desc: &Descriptor, manifest: &Manifest) -> Parts {
    Parts {
        digest: desc.digest,
        size: desc.size,
        config: (&manifest.config).into(),
        layers: manifest.layers.iter().map(Blob::from).collect(),
    }
}

impl Shown {
    fn print(self) -> Result<()> {
        match self {
            Self::Bytes(bytes) => output::print(|out| out.write_all(&bytes)),
            Self::Json(summary) => output::print(|out| {
                serde_json::to_writer_pretty(&mut *out, &summary)?;
                writeln!(out)
            }),
            Self::Summary(summary) => summary.print(),
        }
    }
}

impl Summary {
    fn print(&self) -> Result<()> {
        output::print(|out| {
            writeln!(out, "Name:       {}", printable(&self.name))?;
            writeln!(out, "Digest:     {}", self.digest)?;
            writeln!(out, "Media type: {}", printable(&self.media_type))?;
            if !self.platforms.is_empty() {
                writeln!(out, "Platforms:")?;
                let mut table = Table::new(&["  PLATFORM", "DIGEST", "SIZE"]);
                for entry in &self.platforms {
                    let platform = entry.platform.as_deref().unwrap_or("-");
                    table.row([
                        format!("  {platform}"),
                        entry.digest.to_string(),
                        binary_size(entry.size),
                    ]);
                }
                table.print(out)?;
            }
            if let Some(manifest) = &self.manifest {
                writeln!(out, "Manifest:   {}", manifest.digest)?;
                writeln!(out, "Config:     {}", manifest.config.digest)?;
            }
            if let Some(config) = &self.config {
                for (name, value) in settings(config.get()) {
                    writeln!(out, "{name:<12}{}", printable(&value))?;
                }
            }
            let Some(manifest) = &self.manifest else { return Ok(()) };
            let total: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
            writeln!(out, "Layers:     {} ({})", manifest.layers.len(), binary_size(total))?;
            let mut table = Table::new(&["  DIGEST", "SIZE", "TYPE"]);
            for layer in &manifest.layers {
                table.row([
                    format!("  {}", layer.digest),
                    binary_size(layer.size),
                    layer.media_type.clone(),
                ]);
            }
            table.print(out)
        })
    }
}

/// The settings of a config that people ask for first; what is not set is left out.
fn settings(config: &str) -> Vec<(&'static str, String)> {
    let Ok(config) = serde_json::from_str::<Value>(config) else { return Vec::new() };
    let mut settings = Vec::new();
    let fields = [
        ("Created:", "/created"),
        ("User:", "/config/User"),
        ("WorkingDir:", "/config/WorkingDir"),
        ("Entrypoint:", "/config/Entrypoint"),
        ("Cmd:", "/config/Cmd"),
        ("Env:", "/config/Env"),
        ("Labels:", "/config/Labels"),
    ];
    let platform = ["/os", "/architecture", "/variant"]
        .iter()
        .filter_map(|field| config.pointer(field)?.as_str())
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("/");
    settings.push(("Platform:", platform));
    for (name, field) in fields {
        match config.pointer(field) {
            None | Some(Value::Null) => (),
            Some(Value::String(text)) if text.is_empty() => (),
            Some(Value::String(text)) => settings.push((name, text.clone())),
            Some(value) => settings.push((name, value.to_string())),
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_are_set() {
        let config = r#"{"os":"linux","architecture":"arm64","variant":"v8","created":"2024-01-01T00:00:00Z",
            "config":{"User":"","Cmd":["redis-server"],"Env":null}}"#;
        assert_eq!(
            settings(config),
            [
                ("Platform:", "linux/arm64/v8".to_owned()),
                ("Created:", "2024-01-01T00:00:00Z".to_owned()),
                ("Cmd:", "[\"redis-server\"]".to_owned()),
            ]
        );
        assert!(settings("[").is_empty());
    }
}
