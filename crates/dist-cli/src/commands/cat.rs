//! `dist cat`: one file of an image, without the image.

use std::io::{self, Write as _};
use std::path::{Component, Path};
use std::sync::Arc;

use dist_core::{Context as _, Error, ErrorKind, Platform, Resolver as _, Result};

use super::documents::{Source, with_layers_of};
use super::origin;
use crate::config::Config;
use crate::{output, runtime};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Layers are read from the top one down until one has the file, and nothing is stored. An image that is
in the store is read from there, any other from its registry. Each layer that was read is verified
before the first byte is printed. Symlinks are followed within the image. Exit code 3 where there is
no such file.

Examples:
  dist cat redis:7 /etc/os-release
  dist cat --platform linux/arm64 alpine:3 bin/busybox > busybox
  dist cat https://example.com/images/redis.tar etc/os-release
  diff <(dist cat app:1 etc/app.conf) <(dist cat app:2 etc/app.conf)")]
pub(crate) struct Args {
    /// Image in the store, a registry, or as `dist copy` names them (oci:, store:, daemon:, ...), or the
    /// digest of a manifest in the store
    #[arg(value_name = "REF")]
    name: String,

    /// The file's path in the image
    #[arg(value_name = "PATH")]
    path: String,

    /// Platform whose image is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,

    /// Ask the registry even if the image is in the store
    #[arg(long)]
    remote: bool,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    if Path::new(&args.path).components().any(|part| part == Component::ParentDir) {
        let message = format!("find file {}: write the path in the image without ..", args.path);
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    let found = match origin::stored(config, &args.name, args.remote)? {
        Some(found) => Ok(found),
        None => Err(origin::elsewhere(config, &args.name)?),
    };
    let platform = config.pull_options(args.platform.as_ref()).platform;
    let mut file = runtime::run(async {
        let (resolved, source) = match found {
            Ok(found) => found,
            Err((remotes, name)) => {
                let resolved = remotes.admit(&name).await?;
                (resolved, Source::Remote(remotes.fetcher(&name)?))
            }
        };
        let (_, manifest) = source.manifest(&resolved.target, &platform).await?;
        let layers = manifest.layers;
        let file = dist::read_file(source.fetcher(), layers.clone(), &args.path, config.limits);
        with_layers_of(config, &source, layers, Arc::new(()), file).await
    })?;
    let mut out = io::stdout().lock();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = io::Read::read(&mut file, &mut buffer);
        let count = read.context(ErrorKind::Storage, || format!("read file {}", args.path))?;
        if count == 0 {
            return out.flush().map_err(output::output_error);
        }
        out.write_all(&buffer[..count]).map_err(output::output_error)?;
    }
}
