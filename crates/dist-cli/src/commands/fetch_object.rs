//! `dist fetch-object`: one object's raw bytes on standard output; no store.

use dist_core::{Descriptor, Fetcher, Platform, Resolver, Result, ResultExt};
use futures_util::StreamExt;

use super::objects::Object;
use crate::config::Config;
use crate::output::Pipe;
use crate::runtime;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
OBJECT is a tag or a digest; without it REF's own is meant. Hints are `mediatype:TYPE` and
`size:BYTES`; with `mediatype:` of a manifest, a tag that names an index gives the manifest for
--platform. What arrives is verified: manifests before the first byte is printed, blobs while they
are (a wrong one ends with exit 6). CONTAINERD_FETCH_TIMEOUT sets the default of --timeout.

Examples:
  dist fetch-object docker.io/library/redis 7 | jq .
  dist fetch-object redis:7 mediatype:application/vnd.oci.image.manifest.v1+json |
    jq -r '.layers[].digest' |
    xargs -P10 -I@ sh -c 'dist fetch-object redis @ | dist ingest --expected-digest @ @'")]
pub(crate) struct Args {
    /// Repository, or image, in a registry, oci:PATH, or https://ADDRESS[#NAME]
    #[arg(value_name = "REF")]
    repository: String,

    /// Tag or digest, then hints
    #[arg(value_name = "OBJECT|HINT")]
    object: Vec<String>,

    /// Platform whose manifest is taken from an index [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let object = Object::parse(&args.repository, args.object.iter().map(String::as_str))?;
    let remotes = config.remotes()?;
    let platform = config.pull_options(args.platform.as_ref()).platform;
    runtime::run(async {
        let desc = object.describe(&remotes, &platform).await?;
        let fetcher = remotes.fetcher(&object.name)?;
        let mut out = Pipe::to_stdout()?;
        if desc.media_type.is_manifest() || desc.media_type.is_index() {
            out.write(dist::fetch_document(&*fetcher, &desc).await?.into()).await?;
        } else {
            stream(&*fetcher, &desc, &mut out).await?;
        }
        out.finish().await
    })
    .map_err(|error| {
        let what = || format!("fetch object {}", object.name);
        super::transfer::if_stopped(error, what, "what was printed is not the whole object")
    })
}

/// Prints content that may be of any size and verifies it meanwhile.
async fn stream(fetcher: &dyn Fetcher, desc: &Descriptor, out: &mut Pipe) -> Result<()> {
    let during = || format!("fetch {}", desc.digest);
    let mut body = fetcher.fetch(desc, 0).await.during(during)?;
    let mut hasher = desc.digest.hasher();
    let mut size = 0;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.during(during)?;
        hasher.update(&chunk);
        size += chunk.len() as u64;
        out.write(chunk).await?;
    }
    desc.verify(size, hasher.finish())
}
