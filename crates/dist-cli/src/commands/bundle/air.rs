//! `dist bundle create`, `add`, `verify` and `load`: many images in one file.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use dist::{BundleOptions, CopyOptions, DigestNames, ImportOptions, Naming, Platforms, ToBundle};
use dist_core::{Context as _, Digest, Error, ErrorKind, Labels, Platform, Result};

use crate::commands::copy::{STORE, tell_part, with_stores};
use crate::commands::transfer;
use crate::config::Config;
use crate::progress::Reporter;
use crate::units::binary_size;
use crate::{output, reference, report, runtime};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write images, and what refers to them, into a file
    Create(Create),

    /// Add images to such a file
    Add(Create),

    /// Check that such a file is whole
    Verify(Verify),

    /// Bring the images of such a file into a registry, or into the store
    Load(Load),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file is an OCI layout in a tar; each name in it is a whole one, as docker.io/library/redis:7.
Blobs that images share are there once. With --since, what a former bundle has is left out; loading
checks that it is there. A run that was broken off is gone on with, at the byte where it ended, by the
same command; the file has its name when it is whole. `add` writes the file anew, with what it has.
Prints NAME@DIGEST for each image.

Examples:
  dist bundle create images.tar redis:7 registry.example.com/app:2
  dist bundle create --platform linux/amd64 images.tar redis:7 store:localhost/app:v1
  dist bundle create --since images.tar more.tar redis:7.2
  dist bundle add images.tar busybox")]
pub(super) struct Create {
    /// The bundle
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Images in registries, or store:NAME for one in the store
    #[arg(required = true, value_name = "REF")]
    names: Vec<String>,

    /// A former bundle, whose blobs are left out; can be repeated
    #[arg(long, value_name = "BUNDLE")]
    since: Vec<PathBuf>,

    /// Only images for this platform; can be repeated
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,

    /// Leave what refers to the images: referrers and cosign's tags
    #[arg(long)]
    no_referrers: bool,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads all of it: each blob must be what it is called, and all that the names lead to must be there.
What was left out must be in one of the bundles that --since gives, where it gives any. Prints the
names of the images.

Examples:
  dist bundle verify images.tar
  dist bundle verify --since images.tar more.tar")]
pub(super) struct Verify {
    /// The bundle
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// A former bundle; can be repeated
    #[arg(long, value_name = "BUNDLE")]
    since: Vec<PathBuf>,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --to each image goes into that registry, under its own path and tag: docker.io/library/redis:7
becomes PLACE/library/redis:7, and what refers to it goes along. Without, all goes into the store, under the names that
the images have, and nothing is unpacked. What the bundle leaves out must be there. Prints NAME@DIGEST
for each image.

Examples:
  dist bundle load --to localhost:5000/mirror images.tar
  dist bundle load https://example.com/images.tar
  dist bundle load images.tar && dist run redis:7")]
pub(super) struct Load {
    /// The bundle, or its address, https://...
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Registry, or the beginning of a repository in one
    #[arg(long, value_name = "PLACE")]
    to: Option<String>,

    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// What helps where something is missing that a bundle leaves out.
const LEFT_OUT: &str = "the bundle was made with --since: load the former one first";

pub(super) fn run(config: &Config, command: &Command) -> Result<()> {
    match command {
        Command::Create(args) => create(config, args, false),
        Command::Add(args) => create(config, args, true),
        Command::Verify(args) => verify(config, args),
        Command::Load(args) => load(config, args),
    }
}

/// A name in a registry, or behind `store:` that of an image in the store.
fn to_bundle(source: &str) -> Result<ToBundle> {
    let name = dist_core::scheme(source, &[STORE]).map_or(source, |(_, name)| name);
    reference::parse(name)?;
    Ok(ToBundle { source: source.to_owned(), name: name.to_owned() })
}

fn create(config: &Config, args: &Create, add: bool) -> Result<()> {
    if args.file.as_os_str() == "-" {
        return Err(transfer::usage(
            "a bundle is a file that may be gone on with: name one, not -",
        ));
    }
    if is_among(&args.file, &args.since) {
        return Err(transfer::usage("a bundle that is left out of itself would hold nothing"));
    }
    let wanted = args.names.iter().map(|name| to_bundle(name)).collect::<Result<Vec<_>>>()?;
    let platforms = Platforms::from(args.platform.clone());
    let copy = CopyOptions { platforms, referrers: !args.no_referrers, ..CopyOptions::default() };
    let options = BundleOptions { copy, since: args.since.clone(), add };
    let stored = args.names.iter().find(|name| dist_core::scheme(name, &[STORE]).is_some());
    let remotes = match stored {
        Some(name) => with_stores(config, config.remotes()?, name)?,
        None => config.remotes()?,
    };
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let (file, wanted) = (&*args.file, &*wanted);
    let bundled = transfer::run(&reporter, |progress| async {
        Ok((dist::write_bundle(&remotes, file, wanted, &options, progress).await?, Vec::new()))
    })
    .map_err(|error| {
        let hint = "what was written is kept; the same command goes on from there";
        match error.kind() {
            ErrorKind::Unavailable => report::advise(error, hint),
            ErrorKind::Busy => report::advise(error, "another process writes this bundle"),
            _ => {
                let what = || format!("write bundle {}", file.display());
                let stored = stored.map_or("", |name| name.as_str());
                let error = transfer::if_stopped(error, what, hint);
                tell_part(error, &remotes, stored, &args.platform)
            }
        }
    })?;
    for image in &bundled.images {
        transfer::print_pinned(&image.name, &image.target.digest)?;
    }
    if !args.quiet {
        let left_out = match bundled.left_out {
            0 => String::new(),
            count => format!(", {count} left out"),
        };
        let (blobs, bytes) = (bundled.blobs, binary_size(bundled.bytes));
        report::note(&format!("{}: {blobs} blobs, {bytes}{left_out}", file.display()));
    }
    Ok(())
}

fn is_among(file: &Path, others: &[PathBuf]) -> bool {
    let file = fs_err::canonicalize(file).ok();
    file.is_some() && others.iter().any(|other| fs_err::canonicalize(other).ok() == file)
}

fn verify(config: &Config, args: &Verify) -> Result<()> {
    if is_among(&args.file, &args.since) {
        return Err(transfer::usage("a bundle is no former bundle of itself"));
    }
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let checked = transfer::run(&reporter, |progress| async {
        Ok((dist::verify_bundle(&args.file, &args.since, progress).await?, Vec::new()))
    })?;
    output::lines(checked.images.iter().map(|name| crate::table::printable(name)))?;
    if !args.quiet {
        let left_out = match (checked.left_out, args.since.is_empty()) {
            (0, _) => String::new(),
            (count, true) => format!(", {count} left out that a former bundle must have"),
            (count, false) => format!(", {count} left out that a former bundle has"),
        };
        let (blobs, bytes) = (checked.blobs, binary_size(checked.bytes));
        report::note(&format!("{}: {blobs} blobs, {bytes}, whole{left_out}", args.file.display()));
    }
    Ok(())
}

fn load(config: &Config, args: &Load) -> Result<()> {
    match &args.to {
        Some(place) => load_into_registry(config, args, place),
        None => load_into_store(config, args),
    }
}

fn load_into_registry(config: &Config, args: &Load, place: &str) -> Result<()> {
    // A registry alone is a place, and no reference.
    reference::parse(&format!("{}/x", place.trim_end_matches('/')))?;
    let remotes = config.remotes()?;
    let jobs = config.sending_jobs();
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let loaded = transfer::run(&reporter, |progress| async {
        let place = (&remotes, place);
        Ok((dist::load_bundle(&args.file, place, jobs, progress).await?, Vec::new()))
    })
    .map_err(|error| explain(&args.file, error))?;
    for image in &loaded.images {
        transfer::print_pinned(&image.name, &image.target.digest)?;
    }
    Ok(())
}

fn load_into_store(config: &Config, args: &Load) -> Result<()> {
    let place = config.fetching()?;
    let content = place.contents(Labels::new());
    let has = |digest: &Digest| match content.open(digest) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    let missing = runtime::run(dist::missing_of_bundle(&args.file, place.remotes(), &has))?;
    if let Some(first) = missing.first() {
        let message = format!(
            "load {}: {} blobs that it leaves out are not in the store, {first} among them",
            args.file.display(),
            missing.len()
        );
        return Err(report::advise(Error::new(ErrorKind::NotFound, message), LEFT_OUT));
    }
    let naming = Naming { prefix: String::new(), foreign: true, digests: DigestNames::Never };
    let options = ImportOptions {
        namings: vec![naming],
        platforms: Platforms::All,
        limits: config.limits,
        ..ImportOptions::default()
    };
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let images = transfer::run(&reporter, |progress| async {
        let input: Box<dyn Read + Send> = match reference::address(&args.file) {
            Some(address) => dist::read_address(place.remotes().options(), address).await?,
            None => {
                let file = fs_err::File::open(&args.file);
                let what = || format!("load {}", args.file.display());
                Box::new(file.context(ErrorKind::Storage, what)?)
            }
        };
        Ok((dist::import(&*place, input, &options, progress).await?, Vec::new()))
    })
    .map_err(|error| explain(&args.file, error))?;
    if images.is_empty() {
        let message = format!("load {}: no image in it has a whole name", args.file.display());
        let error = Error::new(ErrorKind::NotFound, message);
        return Err(report::advise(error, "`dist import` gives names to images that have none"));
    }
    for image in &images {
        transfer::print_pinned(image.name.as_str(), &image.target.digest)?;
    }
    Ok(())
}

fn explain(file: &Path, error: Error) -> Error {
    let what = || format!("load {}", file.display());
    match error.kind() {
        // A blob is not where the bundle takes it to be.
        ErrorKind::FailedPrecondition => {
            let error = Error::new(ErrorKind::NotFound, what()).with_source(error);
            report::advise(error, LEFT_OUT)
        }
        _ => transfer::if_stopped(error, what, "the same command sends what is not there"),
    }
}
