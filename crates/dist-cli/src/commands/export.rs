//! `dist export`: images of the store into an archive.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;

use dist::{ExportOptions, Exported, WholeFile};
use dist_core::{Cancel, Context as _, Error, ErrorKind, Platform, Result, ResultExt as _};
use dist_store::{Durability, OpenMode};

use super::push::{chosen, find};
use super::transfer;
use crate::config::Config;
use crate::output;
use crate::progress::Reporter;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The archive is an OCI layout with docker's manifest.json beside it: `docker load`, `podman load`,
`ctr images import` and `dist import` take it. The same images make the same bytes. Every byte is
verified on its way; layers that were discarded are made or fetched again. A FILE appears when it is
whole, in the place of one that was there.

Of an index, all is exported where all of its manifests are here, else what is for this machine.

Examples:
  dist export -o redis.tar redis:7
  dist export redis:7 alpine:3 | ssh node dist import
  dist export redis:7 | zstd > redis.tar.zst")]
pub(crate) struct Args {
    /// Where to; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// Images, as `dist images` shows them or as they were pulled
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,

    /// Platform whose image is taken from an index
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Every platform of an index
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,

    /// No manifest.json: docker before 25 can't load it
    #[arg(long)]
    oci_only: bool,

    /// No progress
    #[arg(short, long)]
    quiet: bool,

    /// Leave out layers whose distribution is restricted
    #[arg(long)]
    skip_non_distributable: bool,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let to_stdout = args.output.as_os_str() == "-";
    if to_stdout && io::stdout().is_terminal() {
        let message = "export to standard output: it is a terminal; give --output FILE";
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let engine = match config.is_remote() {
        true => None, // what a daemon has discarded is not made here
        false => Some(config.engine_in(OpenMode::Existing)?),
    };
    let content = config.host_that_is_there()?.contents();
    let mut images = Vec::new();
    for text in &args.images {
        let (host, name) = find(config, text, "export image")?;
        let target = host.images().get(&name)?.target;
        let platforms = chosen(&*host, &target, args.platform.as_ref(), args.all_platforms)?;
        images.push(Exported { name, target, platforms });
    }
    let options = ExportOptions {
        docker_manifest: !args.oci_only,
        nondistributable: !args.skip_non_distributable,
    };
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    transfer::run(&reporter, |progress| async {
        let restored = match &engine {
            Some(engine) => Some(dist::restore_images(engine, &images, progress).await?),
            None => None,
        };
        let (cancel, _guard) = Cancel::guarded();
        let file = (!to_stdout).then(|| args.output.clone());
        let durable = config.durability != Durability::None;
        let write = move || match file {
            None => dist::export(&*content, &images, &options, &mut Stdout(io::stdout()), &cancel),
            Some(path) => {
                let what = || format!("export to {}", path.display());
                let file = WholeFile::create(&path).during(what)?;
                let mut out = file.file().as_ref();
                dist::export(&*content, &images, &options, &mut out, &cancel)?;
                file.finish(durable).during(what)
            }
        };
        let written = tokio::task::spawn_blocking(write).await;
        // What was brought again goes again, also where the disk was full.
        let ended = match restored {
            Some(restored) => restored.end().await,
            None => Ok(()),
        };
        written.context(ErrorKind::Internal, || "export images".into())??;
        ended?;
        Ok(((), Vec::new()))
    })
    .map_err(|error| {
        let what = || "export images".to_owned();
        transfer::if_stopped(error, what, "nothing of it was kept")
    })
}

/// Standard output, whose reader may go away.
struct Stdout(io::Stdout);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(|error| output::output_error(error).into_io())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(|error| output::output_error(error).into_io())
    }
}
