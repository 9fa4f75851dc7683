//! `dist pull`: an image into the store, unpacked into snapshots and registered.

use std::time::Duration;

use dist_core::{Meter, Result, Stage, Timings, enter};

use super::transfer::{self, Keep, Transfer};
use crate::config::Config;
use crate::{reference, report, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Layers are unpacked while they arrive. Broken off, it goes on where it was when it is run again.
The last line on standard output is NAME@DIGEST. Mirrors that served it are named on standard error.

Without root it unpacks in a user namespace (with util-linux' unshare; owners are kept where
newuidmap and a range in /etc/subuid are there).

Examples:
  dist pull redis:7
  dist pull localhost:5000/library/redis:7
  dist pull --platform linux/arm64 alpine@sha256:...
  dist pull --snapshotter erofs --discard-blobs redis:7
  dist pull https://example.com/images/redis.tar
  dist pull --timings redis:7
  image=$(dist pull -q redis:7 | tail -n 1)")]
pub(crate) struct Args {
    /// Image in a registry, oci:PATH[:TAG], or https://ADDRESS[#NAME]
    #[arg(value_name = "REF")]
    name: String,

    /// Tell on standard error where the time went
    ///
    /// The seconds of all threads in each stage, less those that went on at the same time, are the
    /// total.
    #[arg(long)]
    timings: bool,

    #[command(flatten)]
    transfer: Transfer,

    #[command(flatten)]
    keep: Keep,
}

impl Args {
    /// Whether blobs of unpacked layers are to go.
    pub(crate) fn discard_blobs(&self) -> bool {
        self.keep.discard_blobs
    }
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let names = reference::meant(config, &args.name)?;
    if args.timings && config.is_remote() {
        return Err(transfer::usage(
            "--timings measures this process: it can't be told to a daemon",
        ));
    }
    if !config.is_remote() {
        user_namespace::enter_to_unpack(config)?;
    }
    let meter = args.timings.then(Meter::default);
    let running = meter.as_ref().map(|meter| meter.start(Stage::Other));
    let pulled = pull(config, args, &names);
    drop(running);
    // Where the time went matters as much where it was for nothing.
    if let Some(meter) = meter {
        report::plain_text(&table(&meter.finish()));
    }
    pulled
}

fn pull(config: &Config, args: &Args, names: &[String]) -> Result<()> {
    let puller = config.puller()?;
    let what = format!("pull {}", args.name);
    let options = config.pull_options(args.transfer.platform.as_ref());
    let puller_ref = &puller;
    let pulled = transfer::into_store(config, args.transfer.quiet, &what, |progress| async move {
        let pull = async |name: &str| puller_ref.pull(name, &options, progress.clone()).await;
        let mut pulled = reference::first_of(names, pull).await?;
        let warnings = std::mem::take(&mut pulled.warnings);
        Ok((pulled, warnings))
    })?;
    let image = pulled.image;
    transfer::print_pinned(image.name.as_str(), &image.target.digest)?;
    {
        let _sync = enter(Stage::Sync);
        puller.settle()?;
    }
    if !args.transfer.quiet {
        for served in &pulled.mirrors {
            report::note(&format!(
                "{} answered for {} ({} of its answers were used)",
                served.mirror, served.registry, served.answers
            ));
        }
    }
    Ok(())
}

fn table(timings: &Timings) -> String {
    let line = |what: &str, sign: &str, time: Duration| {
        let seconds = format!("{sign}{:.3}", time.as_secs_f64());
        format!("{what:<10} {seconds:>9} s\n")
    };
    let stages = timings.stages.iter().map(|(stage, time)| line(&stage.to_string(), "", *time));
    let mut text: String = stages.collect();
    text.push_str(&line("overlap", "-", timings.overlap));
    text.push_str(&line("total", "", timings.total));
    text
}
