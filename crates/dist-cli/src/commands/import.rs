//! `dist import`: images of an archive into the store.

use std::io::{IsTerminal as _, Read};
use std::path::PathBuf;

use dist::{DigestNames, ImportOptions, Naming, Platforms, Unpacking};
use dist_core::{Context as _, Error, ErrorKind, Result, ResultExt as _};

use super::transfer::{self, Transfer};
use crate::config::Config;
use crate::progress::Reporter;
use crate::{reference, user_namespace};

/// What images are called whose archive says no more than a tag, or nothing.
const UNNAMED: &str = "localhost/import";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Takes what `dist export`, `docker save`, `podman save` and `skopeo copy` write: an OCI layout in a
tar, or docker's manifest.json, plain or compressed by gzip or zstd, in one pass. All is verified,
and nothing is registered unless all of it is good. Images keep the names that the archive gives
them; one with no more than a tag becomes BASE:TAG, one without a name BASE@DIGEST. Prints
NAME@DIGEST of each, one a line.

Examples:
  dist import redis.tar
  docker save app:1 | dist import
  dist import https://example.com/images/redis.tar.zst
  skopeo copy docker://redis:7 oci-archive:redis.tar:7 && dist import --base-name redis redis.tar")]
pub(crate) struct Args {
    /// The archive, or its address, https://...; `-` is standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,

    /// What comes before a tag, or a digest, of images whose archive has no whole name for them
    /// [default: localhost/import]
    #[arg(long, value_name = "REPOSITORY")]
    base_name: Option<String>,

    #[command(flatten)]
    transfer: Transfer,

    /// Every platform of an index that is in the archive
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,

    /// Unpack nothing
    #[arg(long)]
    no_unpack: bool,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let prefix = match &args.base_name {
        Some(name) => reference::parse(name)?.locator(),
        None => UNNAMED.to_owned(),
    };
    if !args.no_unpack {
        user_namespace::enter_to_unpack(config)?;
    }
    let input = Input::open(args)?;
    let place = config.unpacking()?;
    let platform = config.pull_options(args.transfer.platform.as_ref()).platform;
    let unpacks = match args.no_unpack {
        true => Vec::new(),
        false => {
            let (platform, snapshotter) = (platform.clone(), place.snapshotter_name()?);
            vec![Unpacking { platform, snapshotter }]
        }
    };
    let options = ImportOptions {
        namings: vec![Naming { prefix, foreign: true, digests: DigestNames::Unnamed }],
        platforms: match args.all_platforms {
            true => Platforms::All,
            false => Platforms::One(platform),
        },
        unpacks,
        limits: config.limits,
        ..ImportOptions::default()
    };
    let what = input.what();
    let (place, options, what) = (&*place, &options, &what);
    let work = |progress| async move {
        let input = match input {
            Input::Here(input, _) => input,
            Input::Address(address) => {
                dist::read_address(place.remotes().options(), &address).await?
            }
        };
        let images = dist::import(place, input, options, progress).await;
        Ok((images.during(|| what.clone())?, Vec::new()))
    };
    let reporter = Reporter::start(config.progress_unless(args.transfer.quiet), &config.terminal);
    let images = transfer::run(&reporter, work)
        .map_err(|error| transfer::if_stopped(error, || what.clone(), "no image was registered"))?;
    for image in &images {
        transfer::print_pinned(image.name.as_str(), &image.target.digest)?;
    }
    Ok(())
}

/// The archive.
enum Input {
    /// With its name.
    Here(Box<dyn Read + Send>, String),
    Address(String),
}

impl Input {
    fn open(args: &Args) -> Result<Self> {
        if let Some(address) = reference::address(&args.file) {
            return Ok(Self::Address(address.to_owned()));
        }
        if args.file.as_os_str() != "-" {
            let name = args.file.display().to_string();
            if args.file.is_dir() {
                let message = format!("import {name}: it is a directory, and no archive");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            let file = fs_err::File::open(&args.file);
            let file = file.context(ErrorKind::NotFound, || format!("import {name}"))?;
            return Ok(Self::Here(Box::new(file), name));
        }
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            let message =
                "import from standard input: it is a terminal; name a file, or pipe one in";
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self::Here(Box::new(stdin), "standard input".to_owned()))
    }

    /// What is done with it.
    fn what(&self) -> String {
        let (Self::Here(_, name) | Self::Address(name)) = self;
        format!("import {name}")
    }
}
