//! `dist sync`: many tags of many repositories into others.

mod file;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dist::{Remotes, SyncOptions, SyncOutcome, Synced, WholeFile};
use dist_core::{Context as _, Digest, Error, ErrorKind, Result, ResultExt as _};
use serde_json::{Value, json};

use self::file::File;
use super::several::{self, Partial};
use super::sides::Sides;
use super::transfer;
use crate::config::Config;
use crate::progress::Reporter;
use crate::{output, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
FILE is TOML (docs/sync.md):

  destination = \"registry.example.com/mirror\"
  [[repository]]
  source = \"docker.io/library/redis\"
  semver = \">=7, <8\"
  newest = 3

Tags are copied side by side, as `dist copy` does it; one that fails stops no other. What was copied
is noted, so that a tag that stands for the same at the source costs one request. A run that was
killed is gone on with by the next one. Prints NAME@DIGEST for each tag that was copied. Exit code
11: some tags failed, others did not.

Examples:
  dist sync mirror.toml
  dist sync --dry-run mirror.toml
  dist sync --report /var/log/mirror.json mirror.toml
  dist sync --report - mirror.toml | jq '.tags[] | select(.outcome == \"failed\")'")]
pub(crate) struct Args {
    /// What is copied, and where
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// No progress
    #[arg(short, long)]
    quiet: bool,

    /// Copy nothing; print what would be
    #[arg(long)]
    dry_run: bool,

    /// Ask the destination for what was copied before, too
    #[arg(long)]
    check: bool,

    /// Write what became of each tag there, as JSON; - is standard output
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,

    /// Where it is noted what was copied [default: a file for FILE in $XDG_STATE_HOME/dist/sync]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) sides: Sides,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let file = File::read(&args.file)?;
    let options = SyncOptions {
        at_once: file.at_once(),
        state: state_file(config, args)?,
        check: args.check,
        dry_run: args.dry_run,
    };
    let items = file
        .items(config.pull_options(None).jobs)
        .map_err(|error| read_error(&args.file, error))?;
    let remotes = remotes(config, args)?;
    let report_file = args.report.as_deref().filter(|path| *path != Path::new("-"));
    let report_file = report_file.map(open_report).transpose()?;
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let began = std::time::Instant::now();
    let synced = transfer::run(&reporter, |progress| async move {
        Ok((dist::sync(remotes, &items, &options, progress).await?, Vec::new()))
    })
    .map_err(|error| match error.kind() {
        ErrorKind::Busy => report::advise(error, "another `dist sync` is at work with this file"),
        _ => {
            let what = || format!("sync {}", args.file.display());
            let hint = "what was copied is noted; the same command goes on from there";
            transfer::if_stopped(error, what, hint)
        }
    })?;
    let text = report_text(&synced, began.elapsed().as_secs_f64())?;
    if let Some((path, file)) = report_file {
        let what = || format!("write report {}", path.display());
        (&**file.file()).write_all(text.as_bytes()).context(ErrorKind::Storage, what)?;
        file.finish(false).during(what)?;
    }
    if args.report.as_deref() == Some(Path::new("-")) {
        output::line(text.trim_end())?;
    } else {
        let lines =
            synced.iter().filter_map(|tag| Some((&tag.destination, changed(&tag.outcome)?)));
        output::lines(lines.map(|(name, digest)| transfer::pinned(name, digest)))?;
    }
    finish(synced, args.quiet)
}

/// What a tag stands for where it was not there before.
fn changed(outcome: &SyncOutcome) -> Option<&Digest> {
    match outcome {
        SyncOutcome::Copied { digest, .. } | SyncOutcome::Wanted { digest } => Some(digest),
        SyncOutcome::Unchanged { .. } | SyncOutcome::Failed(_) => None,
    }
}

/// Tells what failed, and how much did not.
fn finish(synced: Vec<Synced>, quiet: bool) -> Result<()> {
    let counts = Counts::of(&synced);
    let mut first = None;
    for tag in synced {
        if let SyncOutcome::Failed(error) = tag.outcome {
            report::report(&error);
            first.get_or_insert(error);
        }
    }
    if !quiet {
        report::note(&counts.text());
    }
    match first {
        None => Ok(()),
        Some(error) if counts.failed == counts.all() => Err(several::reported(error)),
        Some(error) => Err(Partial::of(error)),
    }
}

#[derive(Default)]
struct Counts {
    copied: usize,
    unchanged: usize,
    wanted: usize,
    failed: usize,
}

impl Counts {
    fn of(synced: &[Synced]) -> Self {
        let mut counts = Self::default();
        for tag in synced {
            *match tag.outcome {
                SyncOutcome::Copied { .. } => &mut counts.copied,
                SyncOutcome::Unchanged { .. } => &mut counts.unchanged,
                SyncOutcome::Wanted { .. } => &mut counts.wanted,
                SyncOutcome::Failed(_) => &mut counts.failed,
            } += 1;
        }
        counts
    }

    fn all(&self) -> usize {
        self.copied + self.unchanged + self.wanted + self.failed
    }

    fn text(&self) -> String {
        let tags = if self.all() == 1 { "tag" } else { "tags" };
        let mut text = format!("{} {tags}:", self.all());
        let parts = [
            (self.copied, "copied"),
            (self.wanted, "to copy"),
            (self.unchanged, "unchanged"),
            (self.failed, "failed"),
        ];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        text.push(' ');
        text.push_str(if parts.is_empty() { "nothing to do" } else { "" });
        text.push_str(&parts.join(", "));
        text
    }
}

/// Begins the report, so that nothing is copied where it can't be written.
fn open_report(path: &Path) -> Result<(&Path, WholeFile)> {
    let file = WholeFile::create(path).during(|| format!("write report {}", path.display()))?;
    Ok((path, file))
}

fn report_text(synced: &[Synced], seconds: f64) -> Result<String> {
    let counts = Counts::of(synced);
    let tags: Vec<Value> = synced.iter().map(entry).collect();
    let report = json!({
        "copied": counts.copied,
        "wanted": counts.wanted,
        "unchanged": counts.unchanged,
        "failed": counts.failed,
        "seconds": round(seconds),
        "tags": tags,
    });
    let text = serde_json::to_string_pretty(&report)
        .context(ErrorKind::Internal, || "make the report".into())?;
    Ok(text + "\n")
}

fn entry(tag: &Synced) -> Value {
    let mut entry = json!({
        "source": tag.source,
        "destination": tag.destination,
        "seconds": round(tag.took.as_secs_f64()),
    });
    let more = match &tag.outcome {
        SyncOutcome::Copied { digest, bytes, referrers } => {
            json!({ "outcome": "copied", "digest": digest, "bytes": bytes, "referrers": referrers })
        }
        SyncOutcome::Unchanged { digest } => json!({ "outcome": "unchanged", "digest": digest }),
        SyncOutcome::Wanted { digest } => json!({ "outcome": "wanted", "digest": digest }),
        SyncOutcome::Failed(error) => json!({
            "outcome": "failed",
            "kind": error.kind().name(),
            "error": report::one_line(error),
        }),
    };
    if let (Some(entry), Value::Object(more)) = (entry.as_object_mut(), more) {
        entry.extend(more);
    }
    entry
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The remotes for the sources and for the destinations.
fn remotes(config: &Config, args: &Args) -> Result<(Arc<Remotes>, Arc<Remotes>)> {
    if let Some((from, to)) = args.sides.remotes(config)? {
        return Ok((Arc::new(from), Arc::new(to)));
    }
    if config.has_user() {
        return Err(transfer::usage("say whose --user it is: --src-creds or --dest-creds"));
    }
    let both = Arc::new(config.remotes()?);
    Ok((Arc::clone(&both), both))
}

/// The file that tells what was copied; one for each FILE.
fn state_file(config: &Config, args: &Args) -> Result<Option<PathBuf>> {
    if args.state.is_some() {
        return Ok(args.state.clone());
    }
    let path = fs_err::canonicalize(&args.file)
        .context(ErrorKind::InvalidArgument, || format!("find {}", args.file.display()))?;
    let digest = Digest::sha256(path.as_os_str().as_encoded_bytes());
    let name = format!("{}.jsonl", &digest.hex()[..32]);
    Ok(config.state_directory().map(|dir| dir.join("sync").join(name)))
}

fn read_error(path: &Path, error: Error) -> Error {
    let message = format!("read {}", path.display());
    Error::new(error.kind(), message).with_source(error)
}
