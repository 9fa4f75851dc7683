//! `dist validate`: whether an image is what the specification demands.

use dist::{Flaw, Platforms, ValidateOptions, Validated};
use dist_core::{Error, ErrorKind, Platform, Result};
use dist_layer::Severity;
use serde::Serialize;

use super::documents::{Source, manifests, with_layers_of};
use super::{origin, transfer};
use crate::config::Config;
use crate::output::{self, Format};
use crate::progress::Reporter;
use crate::report;
use crate::table::printable;
use crate::units::binary_size;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Indexes, manifests and configs are read as the OCI image specification has them, every blob is read and
hashed, and layers are inflated and looked through, as streams: nothing is unpacked and nothing kept.
Prints a line for each thing: SEVERITY KIND DIGEST PLACE: what it is (part of the specification), and a
summary. An error breaks what is demanded, or keeps the image from being used; a warning breaks what is
recommended. Notes (setuid programs, devices, capabilities) are only counted, unless --notes asks for
them. Exit code 0 without errors, 6 with errors.

With --format json: severity (error, warning, note), kind, digest, place, problem, spec, cause (or null).

Examples:
  dist validate redis:7
  dist validate --platform linux/amd64 registry.example.com/team/app:1
  dist validate oci:build:v1
  docker save app:1 | dist validate docker-archive:-
  dist validate bundle:images.tar
  dist validate --format json app:1 | jq -r '.[] | select(.severity == \"error\") | .problem'")]
pub(crate) struct Args {
    /// Image in the store or a registry, a digest in the store, oci:PATH[:TAG], oci-archive:FILE[:TAG],
    /// docker-archive:FILE[:NAME], dir:PATH, store:NAME, daemon:SOCKET:NAME, bundle:FILE, or the
    /// address of a layout or an archive
    #[arg(value_name = "IMAGE")]
    name: String,

    /// Only the image for this platform; can be repeated [default: all]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,

    /// Ask the registry even if the image is in the store
    #[arg(long)]
    remote: bool,

    /// Print notes as well
    #[arg(long)]
    notes: bool,

    /// How the findings are printed
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    format: Format,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Row {
    severity: &'static str,
    kind: &'static str,
    digest: String,
    place: String,
    problem: String,
    spec: &'static str,
    cause: Option<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let platforms = Platforms::from(args.platform.clone());
    let jobs = config.pull_options(None).jobs;
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let (name, found) = transfer::run(&reporter, |progress| async move {
        let found = origin::find(config, &args.name, args.remote).await?;
        let (limits, left_out) = (config.limits, found.left_out);
        let options = ValidateOptions { platforms, limits, jobs, partial: found.partial, left_out };
        let layers = match &found.source {
            Source::Local(content) => found
                .targets
                .iter()
                .flat_map(|target| manifests(&**content, target))
                .flat_map(|(_, manifest)| manifest.layers)
                .collect(),
            Source::Remote(_) => Vec::new(),
        };
        let fetcher = found.source.fetcher();
        let work = dist::validate(fetcher, found.targets, &options, progress.clone());
        let done = with_layers_of(config, &found.source, layers, progress, work).await?;
        Ok(((found.name, done), Vec::new()))
    })?;
    print(args, &found)?;
    match found.count(Severity::Error) {
        0 => Ok(()),
        count => {
            let message = format!("validate {name}: {}", counted(count as u64, "error"));
            Err(Error::new(ErrorKind::Corrupt, message))
        }
    }
}

fn print(args: &Args, found: &Validated) -> Result<()> {
    let is_shown = |flaw: &&Flaw| args.notes || flaw.severity != Severity::Note;
    let rows: Vec<Row> = found.flaws.iter().filter(is_shown).map(row).collect();
    if args.format == Format::Json {
        return output::json_array(&rows);
    }
    output::lines(rows.iter().map(line))?;
    let counts =
        [(Severity::Error, "error"), (Severity::Warning, "warning"), (Severity::Note, "note")];
    let counts: Vec<String> = counts
        .iter()
        .map(|(severity, noun)| (found.count(*severity), noun))
        .filter(|(count, _)| *count > 0)
        .map(|(count, noun)| counted(count as u64, noun))
        .collect();
    let state = if counts.is_empty() { "nothing is wrong".to_owned() } else { counts.join(", ") };
    output::line(&format!(
        "{}, {}, {}: {state}",
        counted(found.documents, "document"),
        counted(found.blobs, "blob"),
        binary_size(found.bytes)
    ))
}

fn counted(count: u64, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

fn row(flaw: &Flaw) -> Row {
    Row {
        severity: match flaw.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        },
        kind: flaw.noun,
        digest: flaw.digest.to_string(),
        place: flaw.place.clone(),
        problem: flaw.what.clone(),
        spec: flaw.spec,
        cause: flaw.cause.as_ref().map(|error| report::one_line(error)),
    }
}

fn line(row: &Row) -> String {
    let Row { severity, kind, digest, place, problem, spec, cause } = row;
    let place = if place.is_empty() { String::new() } else { format!(" {place}") };
    let cause = cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default();
    printable(&format!("{severity} {kind} {digest}{place}: {problem}{cause} ({spec})"))
}
