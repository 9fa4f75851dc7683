//! `dist diff`: how two images differ.

use std::process::ExitCode;

use dist::{CompareOptions, Comparison, FieldChange, FileChange, FileStatus, Side, compare};
use dist_core::{Descriptor, Error, ErrorKind, Manifest, Platform, Result};
use dist_layer::{Node, NodeKind};
use serde::Serialize;
use serde_json::{Value, json};

use super::documents::with_layers_of;
use super::origin::{self, Origin};
use super::transfer;
use crate::config::Config;
use crate::output::{self, Format};
use crate::progress::Reporter;
use crate::table::printable;
use crate::units::binary_size;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Compares manifests, configs and files, from A to B. Layers that both begin with are not fetched; the
others are read once each, as streams, and nothing is kept. Files: A is added, D removed, M modified, with
what differs (type, mode, owner, size, content, target, device, xattrs; no times). < and > are written
by the layers of A or of B alone, where the shared layers, which were not read, may have something:
--whole reads these too, and then there are only A, D and M.
Exit code 0, also where they differ; with --exit-code 1 where they do.

With --format json: a, b (name, digest), equal, manifest and config (arrays of field, a, b), layers (shared,
moved, removed, added: digest, media_type, size), files (path, status, what, a, b; null where the images
have none).

Examples:
  dist diff redis:7.2 redis:7.4
  dist diff --name-only --whole app:1 app:2
  dist diff oci:build:new registry.example.com/team/app:1
  dist diff --platform linux/arm64 --no-files alpine:3.19 alpine:3.20
  dist diff --exit-code --quiet app:1 oci:rebuilt:1 > /dev/null && echo reproducible")]
pub(crate) struct Args {
    /// Image, as for `dist validate`
    #[arg(value_name = "A")]
    a: String,

    /// Image to compare it with
    #[arg(value_name = "B")]
    b: String,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Ask the registry even for what is in the store
    #[arg(long)]
    remote: bool,

    /// Read the layers that both have as well
    #[arg(long)]
    whole: bool,

    /// Print only the paths of files that differ
    #[arg(long, conflicts_with_all = ["format", "no_files"])]
    name_only: bool,

    /// Compare manifests and configs only; no layer is fetched
    #[arg(long, conflicts_with = "whole")]
    no_files: bool,

    /// Exit with 1 where they differ
    #[arg(long)]
    exit_code: bool,

    /// Form of the output
    #[arg(long, value_enum, default_value_t)]
    format: Format,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// One of the two.
struct Image {
    origin: Origin,
    desc: Descriptor,
    manifest: Manifest,
}

impl Image {
    async fn find(config: &Config, args: &Args, text: &str) -> Result<Self> {
        let origin = origin::find(config, text, args.remote).await?;
        let platform = config.pull_options(args.platform.as_ref()).platform;
        let is_image =
            |desc: &Descriptor| desc.media_type.is_manifest() || desc.media_type.is_index();
        let [target] = origin.targets.as_slice() else {
            let count = origin.targets.len();
            let message = format!("compare {text}: it holds {count} images, and one is compared");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        };
        if !is_image(target) {
            let message = format!("compare {text}: it is neither a manifest nor an index");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        let (desc, manifest) = origin.source.manifest(target, &platform).await?;
        Ok(Self { desc, manifest, origin })
    }

    fn side(&self) -> Side {
        Side { fetcher: self.origin.source.fetcher(), manifest: self.desc.clone() }
    }
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<ExitCode> {
    let jobs = config.pull_options(None).jobs;
    let (files, whole, limits) = (!args.no_files, args.whole, config.limits);
    let options = CompareOptions { files, whole, limits, jobs };
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let (a, b, found) = transfer::run(&reporter, |progress| async move {
        let a = Image::find(config, args, &args.a).await?;
        let b = Image::find(config, args, &args.b).await?;
        let shared =
            if whole { 0 } else { dist::shared_layers(&a.manifest.layers, &b.manifest.layers) };
        let wanted = |image: &Image| match files {
            true => image.manifest.layers[shared..].to_vec(),
            false => Vec::new(),
        };
        let (left, right) = (a.side(), b.side());
        let work = compare(&left, &right, &options, progress.clone());
        let work = with_layers_of(config, &b.origin.source, wanted(&b), progress.clone(), work);
        let work = Box::pin(work);
        let found = with_layers_of(config, &a.origin.source, wanted(&a), progress, work).await?;
        Ok(((a, b, found), Vec::new()))
    })?;
    print(args, (&a, &b), &found)?;
    Ok(if args.exit_code && !found.is_equal() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(args: &Args, images: (&Image, &Image), found: &Comparison) -> Result<()> {
    if args.format == Format::Json {
        let text = as_json(images, found);
        return output::print(|out| {
            serde_json::to_writer(&mut *out, &text)?;
            std::io::Write::write_all(out, b"\n")
        });
    }
    let files = found.files.as_deref().unwrap_or_default();
    if args.name_only {
        return output::lines(files.iter().map(|change| path(&change.path)));
    }
    output::lines(lines(images, found).into_iter())
}

fn lines((a, b): (&Image, &Image), found: &Comparison) -> Vec<String> {
    let mut lines = Vec::new();
    for (mark, image) in [("---", a), ("+++", b)] {
        lines.push(format!("{mark} {}", transfer::pinned(&image.origin.name, &image.desc.digest)));
    }
    fields("manifest", &found.manifest, &mut lines);
    let layers = &found.layers;
    if !(layers.moved.is_empty() && layers.removed.is_empty() && layers.added.is_empty()) {
        let size: u64 = layers.shared.iter().map(|layer| layer.size).sum();
        let count = layers.shared.len();
        lines.push(format!("layers: {count} shared from the start, {}", binary_size(size)));
        let marked = [("-", &layers.removed), ("+", &layers.added), ("=", &layers.moved)];
        for (mark, layers) in marked {
            for Descriptor { digest, size, media_type, .. } in layers {
                let (size, media_type) = (binary_size(*size), printable(media_type.as_str()));
                lines.push(format!("  {mark} {digest} {size} {media_type}"));
            }
        }
    }
    fields("config", &found.config, &mut lines);
    match &found.files {
        Some(files) if !files.is_empty() => {
            let of = |status: &[FileStatus]| {
                files.iter().filter(|change| status.contains(&change.status)).count()
            };
            let (added, removed) = (of(&[FileStatus::Added]), of(&[FileStatus::Removed]));
            let changed = of(&[FileStatus::Changed]);
            let written = of(&[FileStatus::WrittenByFirst, FileStatus::WrittenBySecond]);
            let written = match written {
                0 => String::new(),
                count => format!(", {count} written by one alone"),
            };
            lines.push(format!(
                "files: {added} added, {removed} removed, {changed} modified{written}"
            ));
            lines.extend(files.iter().map(file));
        }
        _ => {}
    }
    if found.is_equal() {
        lines.push("nothing differs".to_owned());
    }
    lines
}

fn fields(noun: &str, changes: &[FieldChange], lines: &mut Vec<String>) {
    if changes.is_empty() {
        return;
    }
    lines.push(format!("{noun}:"));
    let text = |value: &Value| {
        // Of a step of the history the command is what people look for.
        let command = value.get("created_by").filter(|_| value.is_object());
        printable(&command.unwrap_or(value).to_string())
    };
    lines.extend(changes.iter().map(|FieldChange { field, a, b }| {
        let field = printable(field);
        match (a, b) {
            (Some(a), Some(b)) => format!("  {field}: {} -> {}", text(a), text(b)),
            (Some(a), None) => format!("  - {field}: {}", text(a)),
            (None, Some(b)) => format!("  + {field}: {}", text(b)),
            (None, None) => format!("  {field}"),
        }
    }));
}

fn status(status: FileStatus) -> (&'static str, &'static str) {
    match status {
        FileStatus::Added => ("A", "added"),
        FileStatus::Removed => ("D", "removed"),
        FileStatus::Changed => ("M", "modified"),
        FileStatus::WrittenByFirst => ("<", "written_by_a"),
        FileStatus::WrittenBySecond => (">", "written_by_b"),
    }
}

fn path(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { printable(&String::from_utf8_lossy(path)) }
}

fn file(change: &FileChange) -> String {
    let (letter, _) = status(change.status);
    let detail = match (&change.a, &change.b) {
        (Some(a), Some(b)) => change.what.iter().map(|what| differs(what, a, b)).collect(),
        _ => change.what.iter().map(|what| (*what).to_owned()).collect::<Vec<_>>(),
    };
    let detail =
        if detail.is_empty() { String::new() } else { format!(" ({})", detail.join(", ")) };
    format!("  {letter} {}{detail}", path(&change.path))
}

fn differs(what: &str, a: &Node, b: &Node) -> String {
    match what {
        "type" => format!("{} -> {}", noun(a.kind), noun(b.kind)),
        "mode" => format!("mode {:04o} -> {:04o}", a.mode, b.mode),
        "owner" => format!("owner {}:{} -> {}:{}", a.uid, a.gid, b.uid, b.gid),
        "size" => format!("size {} -> {}", a.size, b.size),
        "target" => format!("target {} -> {}", path(&a.target), path(&b.target)),
        "device" => {
            format!("device {}:{} -> {}:{}", a.device.0, a.device.1, b.device.0, b.device.1)
        }
        what => what.to_owned(),
    }
}

fn noun(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::File => "file",
        NodeKind::Dir => "directory",
        NodeKind::Symlink => "symlink",
        NodeKind::Char => "character device",
        NodeKind::Block => "block device",
        NodeKind::Fifo => "fifo",
    }
}

#[derive(Serialize)]
struct NodeRow {
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    content: Option<String>,
    target: Option<String>,
    device: Option<String>,
    xattrs: Vec<String>,
}

fn row(node: &Node) -> NodeRow {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    NodeRow {
        kind: noun(node.kind),
        mode: format!("{:04o}", node.mode),
        uid: node.uid,
        gid: node.gid,
        size: node.size,
        content: node.content.map(|digest| digest.to_string()),
        target: (node.kind == NodeKind::Symlink).then(|| text(&node.target)),
        device: matches!(node.kind, NodeKind::Char | NodeKind::Block)
            .then(|| format!("{}:{}", node.device.0, node.device.1)),
        xattrs: node.xattrs.keys().map(|key| text(key)).collect(),
    }
}

fn as_json((a, b): (&Image, &Image), found: &Comparison) -> Value {
    let image = |image: &Image| json!({ "name": image.origin.name, "digest": image.desc.digest.to_string() });
    let fields = |changes: &[FieldChange]| -> Vec<Value> {
        let row =
            |change: &FieldChange| json!({ "field": change.field, "a": change.a, "b": change.b });
        changes.iter().map(row).collect()
    };
    let layers = |layers: &[Descriptor]| -> Vec<Value> {
        let row = |layer: &Descriptor| {
            let (digest, media_type) = (layer.digest.to_string(), layer.media_type.as_str());
            json!({ "digest": digest, "media_type": media_type, "size": layer.size })
        };
        layers.iter().map(row).collect()
    };
    let file = |change: &FileChange| {
        json!({
            "path": String::from_utf8_lossy(&change.path),
            "status": status(change.status).1,
            "what": change.what,
            "a": change.a.as_deref().map(row),
            "b": change.b.as_deref().map(row),
        })
    };
    let files = found.files.as_ref().map(|files| files.iter().map(file).collect::<Vec<_>>());
    json!({
        "a": image(a),
        "b": image(b),
        "equal": found.is_equal(),
        "manifest": fields(&found.manifest),
        "layers": {
            "shared": layers(&found.layers.shared),
            "moved": layers(&found.layers.moved),
            "removed": layers(&found.layers.removed),
            "added": layers(&found.layers.added),
        },
        "config": fields(&found.config),
        "files": files,
    })
}
