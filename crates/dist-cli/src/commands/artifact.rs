//! `dist referrers`, and `dist attach --type`: what refers to an image.

use std::collections::BTreeMap;
use std::path::PathBuf;

use dist::{Artifact, Attachment};
use dist_core::{Error, ErrorKind, Result};
use serde_json::{Value, json};

use super::{origin, transfer};
use crate::config::Config;
use crate::output::{self, Format};
use crate::progress::Reporter;
use crate::table::printable;
use crate::units::binary_size;
use crate::{reference, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A tree: what refers to the image, and what refers to that. It comes from the registry's own list, or
from the index under the tag sha256-<hex> where it has none; cosign's tags (.sig, .att, .sbom) come
last. Of an index it is what refers to the index itself.

Examples:
  dist referrers ghcr.io/owner/app:1
  dist referrers --type application/spdx+json --format json oci:build:v1")]
pub(crate) struct Referrers {
    /// Image in a registry, or as `dist copy` names them (oci:, store:, daemon:, ...)
    #[arg(value_name = "REF")]
    name: String,

    /// Only what is of this type, and what refers to it
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,

    /// Form of the listing
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Prints what refers to an image.
pub(crate) fn referrers(config: &Config, args: &Referrers) -> Result<()> {
    let (remotes, name) = origin::elsewhere(config, &args.name)?;
    let (resolved, mut found) = runtime::run(dist::referrers(&remotes, &name))?;
    if let Some(kind) = &args.kind {
        found = of_kind(found, kind);
    }
    if args.format == Format::Json {
        return output::json_array(&found.iter().map(entry).collect::<Vec<_>>());
    }
    transfer::print_pinned(&resolved.name, &resolved.target.digest)?;
    let mut lines = Vec::new();
    draw(&found, "", &mut lines);
    output::lines(lines.iter())
}

/// What is of a type, wherever in the tree.
fn of_kind(found: Vec<Attachment>, kind: &str) -> Vec<Attachment> {
    found
        .into_iter()
        .flat_map(|mut attachment| match attachment.artifact_type.as_deref() == Some(kind) {
            true => vec![attachment],
            false => of_kind(std::mem::take(&mut attachment.attachments), kind),
        })
        .collect()
}

fn draw(found: &[Attachment], before: &str, lines: &mut Vec<String>) {
    for (at, attachment) in found.iter().enumerate() {
        let (branch, below) =
            if at + 1 == found.len() { ("└── ", "    ") } else { ("├── ", "│   ") };
        let kind = match (&attachment.artifact_type, &attachment.tag) {
            (Some(kind), _) => printable(kind),
            (None, Some(tag)) => format!("tag {}", printable(tag)),
            (None, None) => printable(attachment.desc.media_type.as_str()),
        };
        let (digest, size) = (attachment.desc.digest, binary_size(attachment.desc.size));
        lines.push(format!("{before}{branch}{kind}  {digest}  ({size})"));
        draw(&attachment.attachments, &format!("{before}{below}"), lines);
    }
}

fn entry(attachment: &Attachment) -> Value {
    let mut entry = json!(attachment.desc);
    if let Some(entry) = entry.as_object_mut() {
        let mut add = |key: &str, value: &Option<String>| {
            value.iter().for_each(|value| drop(entry.insert(key.to_owned(), json!(value))));
        };
        add("artifactType", &attachment.artifact_type);
        add("tag", &attachment.tag);
        let below: Vec<Value> = attachment.attachments.iter().map(self::entry).collect();
        entry.insert("referrers".to_owned(), Value::Array(below));
    }
    entry
}

/// What makes `dist attach` one of files to an image.
#[derive(Debug, clap::Args)]
pub(crate) struct Attach {
    /// Attach files to the image REF, as an artifact of this type
    #[arg(long = "type", value_name = "TYPE", requires = "files")]
    kind: Option<String>,

    /// What else is said of the artifact; can be repeated
    #[arg(long, value_name = "KEY=VALUE", requires = "kind")]
    annotation: Vec<String>,

    /// No progress
    #[arg(short, long, requires = "kind")]
    quiet: bool,

    /// With --type: the files, each perhaps with its media type behind a `:`
    #[arg(value_name = "FILE[:MEDIA/TYPE]", requires = "kind")]
    files: Vec<String>,
}

impl Attach {
    /// Whether files are to be attached to an image.
    pub(crate) fn is_wanted(&self) -> bool {
        self.kind.is_some()
    }
}

/// Attaches files to an image.
pub(crate) fn attach(config: &Config, name: &str, args: &Attach) -> Result<()> {
    reference::check(name)?;
    let annotations = args
        .annotation
        .iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("read annotation {text:?}: it is no KEY=VALUE"),
            )),
        })
        .collect::<Result<BTreeMap<_, _>>>()?;
    let artifact = Artifact {
        artifact_type: args.kind.clone().unwrap_or_default(),
        files: args.files.iter().map(|text| file(text)).collect(),
        annotations,
    };
    let remotes = config.remotes()?;
    let reporter = Reporter::start_uploading(config.progress_unless(args.quiet), &config.terminal);
    let (resolved, manifest) = transfer::run(&reporter, |progress| async {
        Ok((dist::attach(&remotes, name, &artifact, progress).await?, Vec::new()))
    })
    .map_err(|error| {
        let hint = "nothing refers to the image that did not before";
        transfer::if_stopped(error, || format!("attach to {name}"), hint)
    })?;
    let place = remotes.place_of(&resolved.name)?;
    transfer::print_pinned(&place, &manifest.digest)
}

/// A path, and the media type behind it.
fn file(text: &str) -> (PathBuf, String) {
    match text.rsplit_once(':') {
        Some((path, kind)) if kind.matches('/').count() == 1 && !kind.starts_with('/') => {
            (path.into(), kind.to_owned())
        }
        _ => (text.into(), "application/octet-stream".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_may_have_types() {
        for (text, path, kind) in [
            ("a.json", "a.json", "application/octet-stream"),
            ("a.json:application/json", "a.json", "application/json"),
            ("a:b/c/d", "a:b/c/d", "application/octet-stream"),
            ("/a:/b", "/a:/b", "application/octet-stream"),
        ] {
            assert_eq!(file(text), (path.into(), kind.to_owned()), "{text}");
        }
    }
}
