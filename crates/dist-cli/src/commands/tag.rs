//! `dist tag`: gives an image further names.

use dist_core::{Context as _, ErrorKind, ImageName, Result};

use super::push::find;
use super::several::each;
use crate::config::Config;
use crate::{output, reference, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
A name that stands for another image is moved, and that is told. Nothing is copied: both names stand
for the same content. Prints each name that it gave.

Examples:
  dist tag redis:7 localhost:5000/redis:7 && dist push localhost:5000/redis:7
  dist tag redis:7 redis:stable redis:latest")]
pub(crate) struct Args {
    /// Image, as `dist images` shows it or as it was pulled
    #[arg(value_name = "IMAGE")]
    image: String,

    /// Names that it gets
    #[arg(required = true, value_name = "REF")]
    names: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let names = args.names.iter().map(|text| reference::parse(text)).collect::<Result<Vec<_>>>()?;
    let (host, source) = find(config, &args.image, "tag image")?;
    let image = host.images().get(&source)?;
    drop(host);
    let images = config.host_to_make()?.images();
    each(&names, |reference| {
        let name: ImageName = reference
            .to_string()
            .parse()
            .context(ErrorKind::InvalidArgument, || format!("tag as {reference}"))?;
        dist::check_pinned(&name, &image.target)?;
        match images.get(&name) {
            Ok(before) if before.target.digest != image.target.digest => {
                report::hint(&format!("{name} was {} before", before.target.digest));
            }
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => (),
        }
        images.put(&name, &image.target, &image.labels)?;
        output::line(name.as_str())
    })
}
