//! `dist push`: an image of the store into a registry.

use dist::{Host, Platforms, PushOptions};
use dist_core::{Descriptor, Error, ErrorKind, Image, ImageName, Platform, Result};

use super::rmi::registered;
use super::transfer::{self, Transfer};
use crate::config::Config;
use crate::progress::Reporter;
use crate::{reference, report, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the registry has is not sent, what another repository of it is known to have is taken from
there, and the name is given last: it never stands for something that is not whole. Run again after
a failure, it sends what is missing. The last line on standard output is NAME@DIGEST.

Of an index, all is pushed where all of its manifests are here. `dist pull` brings the one for this
machine: then that manifest gets the name, and what was pushed has its digest.

Examples:
  dist push localhost:5000/app:1
  dist push redis:7 registry.example.com/mirror/redis:7
  dist fetch --all-platforms redis:7 && dist push --all-platforms redis:7 localhost:5000/redis:7")]
pub(crate) struct Args {
    /// Image, as `dist images` shows it or as it was pulled
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Name in a registry that it gets [default: its own]
    #[arg(value_name = "REF")]
    name: Option<String>,

    #[command(flatten)]
    transfer: Transfer,

    /// The whole index, also where the registry alone has parts of it
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    if let Some(name) = &args.name {
        reference::parse(name)?;
    }
    let (host, name) = find(config, &args.image, "push image")?;
    let image = host.images().get(&name)?;
    let to = args.name.as_deref().unwrap_or(name.as_str());
    let name = reference::parse(to)?.to_string();
    let asked = args.transfer.platform.as_ref();
    let mut platforms = chosen(&*host, &image.target, asked, args.all_platforms)?;
    let puller = config.puller()?;
    if asked.is_none() && matches!(platforms, Platforms::One(_)) && !config.is_remote() {
        let content = host.contents();
        if runtime::run(dist::has_rest(puller.remotes(), &name, &*content, &image.target))? {
            platforms = Platforms::All;
        }
    }
    let options = PushOptions { platforms, jobs: config.sending_jobs() };
    let mode = config.progress_unless(args.transfer.quiet);
    let reporter = Reporter::start_uploading(mode, &config.terminal);
    let pushed = transfer::run(&reporter, |progress| {
        let (puller, image, name, options) = (&puller, &image, &name, &options);
        async move { Ok((puller.push(image, name, options, progress).await?, Vec::new())) }
    })
    .map_err(|error| {
        let what = || format!("push {} to {name}", image.name);
        let hint = "what was sent is there; run it again to go on";
        match error.kind() {
            ErrorKind::NotFound if asked.is_some() || args.all_platforms => {
                let error = Error::new(ErrorKind::NotFound, what()).with_source(error);
                report::advise(
                    error,
                    "the store has not all of it: `dist fetch` brings other platforms",
                )
            }
            _ => transfer::if_stopped(error, what, hint),
        }
    })?;
    tell_part(&image, &pushed, &options.platforms, args.transfer.platform.is_some());
    transfer::print_pinned(&name, &pushed.digest)
}

/// Says where only a part of an image was pushed, and nobody asked for that.
fn tell_part(image: &Image, pushed: &Descriptor, platforms: &Platforms, asked: bool) {
    if let Platforms::One(platform) = platforms
        && !asked
        && pushed.digest != image.target.digest
    {
        report::hint(&format!(
            "only the manifest for {platform} was pushed: the store has not all of {}; \
             `dist fetch --all-platforms` brings the rest",
            image.target.digest
        ));
    }
}

/// Where an image is that must be registered, and its whole name.
pub(super) fn find(
    config: &Config,
    text: &str,
    doing: &str,
) -> Result<(std::sync::Arc<dyn Host>, ImageName)> {
    let host = config.host_to_read()?;
    let name = match &host {
        Some(host) => registered(config, &*host.images(), text)?,
        None => None,
    };
    host.zip(name).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("{doing} {text}: there is none of that name"))
    })
}

/// What of an index is meant: what was asked for, or as much as is there.
pub(super) fn chosen(
    host: &dyn Host,
    target: &Descriptor,
    platform: Option<&Platform>,
    all: bool,
) -> Result<Platforms> {
    match platform {
        Some(platform) => Ok(Platforms::One(platform.clone())),
        None if all => Ok(Platforms::All),
        None => dist::platforms_there(&*host.contents(), target),
    }
}
