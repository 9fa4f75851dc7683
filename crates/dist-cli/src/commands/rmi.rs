//! `dist rmi`: removes names of images.

use dist::Images;
use dist_core::{Context, Error, ErrorKind, ImageName, Reference, Result};

use super::several::each;
use crate::config::Config;
use crate::{output, reference, report};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints each name that it removed. Only the name goes, at once: the store may be shared, and what the
image was made of may be needed by others. What nothing needs any more is removed by `dist gc`, or
by a daemon that serves the store, soon.

Examples:
  dist rmi redis:7
  dist images -q | xargs -r dist rmi")]
pub(crate) struct Args {
    /// Images, as `dist images` shows them or as they were pulled
    #[arg(required = true, value_name = "REF")]
    names: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let images = config.host_to_change()?.map(|host| host.images());
    let mut removed = 0;
    let result = each(&args.names, |text| {
        // Images may have any name; one that nothing has and that is no reference is a slip.
        let missing = || match Reference::parse_familiar(text) {
            Ok(_) => Error::new(ErrorKind::NotFound, format!("remove image {text}: there is none")),
            Err(error) => Error::new(ErrorKind::InvalidArgument, format!("remove image {text:?}"))
                .with_source(error),
        };
        let images = images.as_deref().ok_or_else(missing)?;
        let name = registered(config, images, text)?.ok_or_else(missing)?;
        images.delete(&name)?;
        removed += 1;
        output::line(name.as_str())
    });
    if removed > 0 && !config.is_remote() {
        report::hint("`dist gc` frees the space of what nothing needs any more");
    }
    result
}

/// The name under which an image is registered: as it was typed, what containers' settings say of a
/// short name, or its full form.
pub(super) fn registered(
    config: &Config,
    images: &dyn Images,
    text: &str,
) -> Result<Option<ImageName>> {
    let full = Reference::parse_familiar(text).ok().map(|reference| reference.to_string());
    let meant = match &full {
        Some(_) => reference::candidates(config, text)?.1,
        None => Vec::new(), // images may have any name
    };
    for text in [text.to_owned()].into_iter().chain(meant).chain(full) {
        let name: ImageName =
            text.parse().context(ErrorKind::InvalidArgument, || format!("read name {text:?}"))?;
        match images.get(&name) {
            Ok(image) => return Ok(Some(image.name)),
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}
