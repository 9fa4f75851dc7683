//! `dist copy`: an image from one remote into another.

use std::sync::Arc;

use dist::{CopyOptions, Operations, Platforms, StoredImages};
use dist_core::{
    Context as _, Error, ErrorKind, ImageName, Platform, Reference, Resolver as _, Result,
};

use dist_registry::WebAddress;

use super::sides::Sides;
use super::transfer;
use crate::config::Config;
use crate::progress::Reporter;
use crate::{output, reference, report, runtime};

/// What is no registry.
pub(super) const SCHEMES: &[&str] =
    &["oci", "oci-archive", "docker-archive", "dir", STORE, DAEMON, "http", "https"];

/// The images in the store.
pub(super) const STORE: &str = "store";
/// The images that the daemon at a socket has.
const DAEMON: &str = "daemon";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Images go through memory, not through the store. Into store: and daemon: they come as `dist pull`
brings them, without what refers to them, and are not unpacked. What the destination has is not
sent; within one registry blobs are taken over where they are. An index goes whole, and what refers
to the image goes along: signatures, attestations, lists of packages. With one --platform its manifest
is copied instead of the index, with several a smaller index, which has a digest of its own.
The last line on standard output is NAME@DIGEST of the destination.

Examples:
  dist copy redis:7 registry.example.com/mirror/redis:7
  dist copy --platform linux/amd64 --platform linux/arm64 alpine localhost:5000/alpine
  dist copy redis:7 oci:/srv/layout:7
  dist copy --platform linux/amd64 redis:7 docker-archive:-:redis:7 | docker load
  docker save app:1 | dist copy docker-archive:-:app:1 localhost:5000/app:1
  dist copy store:redis:7 dir:/srv/redis
  dist copy redis:7 store:
  dist copy oci-archive:redis.tar daemon:/run/containerd/containerd.sock:redis:7
  dist copy oci:build:v1 store:localhost/app:v1
  dist copy https://example.com/images/redis.tar localhost:5000/redis:7
  dist copy https://example.com/layout/#7 oci:/srv/layout:7
  dist copy --dest-creds robot --password-stdin oci:build:v1 ghcr.io/owner/app:v1 < token")]
pub(crate) struct Args {
    /// Image in a registry, oci:PATH[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME],
    /// dir:PATH, store:NAME, daemon:SOCKET:NAME or https://ADDRESS[#NAME]; - is standard input as
    /// FILE
    #[arg(value_name = "SOURCE")]
    source: String,

    /// Name for it in one of the first five, store:[NAME] or daemon:SOCKET:[NAME]; - is standard
    /// output as FILE
    #[arg(value_name = "DESTINATION")]
    destination: String,

    /// No progress
    #[arg(short, long)]
    quiet: bool,

    /// Only images for this platform; can be repeated
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Vec<Platform>,

    /// Leave what refers to the image: referrers and cosign's tags
    #[arg(long)]
    no_referrers: bool,

    #[command(flatten)]
    pub(crate) sides: Sides,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    for name in [&args.source, &args.destination] {
        if dist_core::scheme(name, SCHEMES).is_none() {
            reference::check(name)?;
        }
    }
    if dist_core::scheme(&args.destination, &WebAddress::SCHEMES).is_some() {
        return Err(transfer::usage("an address is only read from: name another destination"));
    }
    let has_users =
        |name| matches!(dist_core::scheme(name, SCHEMES), None | Some(("http" | "https", _)));
    args.sides.check(has_users(&args.source), has_users(&args.destination))?;
    let defaults = CopyOptions::default();
    let jobs = config.sending_jobs();
    let platforms = Platforms::from(args.platform.clone());
    let options =
        CopyOptions { platforms, referrers: defaults.referrers && !args.no_referrers, jobs };
    let (from, to) = remotes(config, args)?;
    let from = with_stores(config, from, &args.source)?;
    match dist_core::scheme(&args.destination, &[STORE, DAEMON]) {
        Some((STORE, name)) => {
            return into_store(config, args, (&from, &*config.fetching()?, name), &options);
        }
        Some((_, rest)) => {
            let (socket, name) = of_daemon(rest);
            return into_store(
                config,
                args,
                (&from, &*config.fetching_at(socket)?, name),
                &options,
            );
        }
        None => {}
    }
    let reporter = Reporter::start(config.progress_unless(args.quiet), &config.terminal);
    let to = to.as_ref().unwrap_or(&from);
    let name = source_name(config, args)?;
    let (source, destination) = ((&from, &*name), (to, &*args.destination));
    let copied = transfer::run(&reporter, |progress| async move {
        Ok((dist::copy(source, destination, &options, progress).await?, Vec::new()))
    })
    .map_err(|error| {
        if error.find::<dist::ReaderGone>().is_some() {
            return output::output_error(std::io::ErrorKind::BrokenPipe.into());
        }
        if error.kind() == ErrorKind::Unauthenticated {
            let hint = "log in with `dist login REGISTRY`, or give --src-creds or --dest-creds";
            return report::advise(error, hint);
        }
        let what = || format!("copy {} to {}", args.source, args.destination);
        let hint = match dist_core::scheme(&args.destination, &SCHEMES[1..3]) {
            Some(_) => "nothing of the archive is kept",
            None => "what is whole at the destination is not sent again; the tag was not set",
        };
        tell_part(transfer::if_stopped(error, what, hint), &from, &name, &args.platform)
    })?;
    if is_stream(&args.destination, "stdout") {
        return Ok(()); // the archive is there
    }
    transfer::print_pinned(&copied.name, &copied.target.digest)
}

/// Says what to do where a store has an image for some platforms alone.
pub(super) fn tell_part(
    error: Error,
    from: &dist::Remotes,
    name: &str,
    platforms: &[Platform],
) -> Error {
    let stored = dist_core::scheme(name, &[STORE, DAEMON]).is_some() && platforms.is_empty();
    if error.kind() != ErrorKind::NotFound || !stored || runtime::run(from.resolve(name)).is_err() {
        return error;
    }
    let hint = "the store may have the image for one platform alone: choose that with --platform";
    report::advise(error, hint)
}

fn source_name(config: &Config, args: &Args) -> Result<String> {
    match dist_core::scheme(&args.source, SCHEMES) {
        Some(_) => Ok(args.source.clone()),
        None => reference::one(config, &args.source),
    }
}

/// Copies to `place`, where a store or a daemon keeps images, under a name or the source's.
fn into_store(
    config: &Config,
    args: &Args,
    (from, place, name): (&dist::Remotes, &dyn Operations, &str),
    options: &CopyOptions,
) -> Result<()> {
    let source = source_name(config, args)?;
    let name = match (name, dist_core::scheme(&args.source, SCHEMES)) {
        ("", None) => source.as_str(),
        ("", Some((STORE, name))) => name,
        ("", Some((DAEMON, rest))) => of_daemon(rest).1,
        ("", Some(_)) => {
            let wanted = "name the image at the destination: store:NAME, daemon:SOCKET:NAME";
            return Err(transfer::usage(wanted));
        }
        (name, _) => name,
    };
    let image: ImageName = reference::parse(name)?
        .to_string()
        .parse()
        .context(ErrorKind::InvalidArgument, || format!("read name {name:?}"))?;
    let (source, to) = ((from, &*source), (place, &image));
    let what = format!("copy {} to {}", args.source, args.destination);
    let copied = transfer::into_store(config, args.quiet, &what, |progress| async move {
        Ok((dist::copy_into_store(source, to, options, progress).await?, Vec::new()))
    })?;
    transfer::print_pinned(&copied.name, &copied.target.digest)?;
    place.settle()
}

/// The socket and the image of `SOCKET:NAME`; the image may be left out.
fn of_daemon(rest: &str) -> (&str, &str) {
    rest.split_once(':').unwrap_or((rest, ""))
}

/// The remotes with the store that a name is about, if it is about one.
pub(super) fn with_stores(
    config: &Config,
    remotes: dist::Remotes,
    name: &str,
) -> Result<dist::Remotes> {
    let Some((scheme, rest)) = dist_core::scheme(name, &[STORE, DAEMON]) else {
        return Ok(remotes);
    };
    let (socket, image) = of_daemon(rest);
    if rest.is_empty() || (scheme == DAEMON && image.is_empty()) {
        let message = "name the image that is copied: store:NAME, daemon:SOCKET:NAME";
        return Err(transfer::usage(message));
    }
    if scheme == STORE {
        let host = config.host_that_is_there()?;
        let images = StoredImages::new(move |name| Ok((host.clone(), name.to_owned())));
        return Ok(remotes.with_scheme(STORE, Arc::new(images)));
    }
    let (host, before) = (config.host_at(socket)?, format!("{socket}:"));
    let images = StoredImages::new(move |rest| {
        Ok((host.clone(), rest.strip_prefix(&*before).unwrap_or(rest).to_owned()))
    });
    Ok(remotes.with_scheme(DAEMON, Arc::new(images.judged())))
}

/// Whether an archive is standard input or output, as `stream` says.
fn is_stream(name: &str, stream: &str) -> bool {
    let path = dist_core::scheme(name, &SCHEMES[1..3]).map(|(_, rest)| rest);
    path.and_then(|rest| rest.split(':').next())
        .is_some_and(|path| path == "-" || path.strip_prefix("/dev/") == Some(stream))
}

/// The remotes for the source, and those for the destination where they are others.
fn remotes(config: &Config, args: &Args) -> Result<(dist::Remotes, Option<dist::Remotes>)> {
    if config.reads_password() && is_stream(&args.source, "stdin") {
        return Err(transfer::usage("standard input can't hold an image and a password"));
    }
    if let Some((from, to)) = args.sides.remotes(config)? {
        return Ok((from.with_archives(), Some(to.with_archives())));
    }
    let host = |name: &str| match dist_core::scheme(name, SCHEMES) {
        Some(("http" | "https", rest)) => {
            Some(rest.trim_start_matches('/').split('/').next().unwrap_or_default().to_owned())
        }
        Some(_) => None,
        None => Reference::parse_familiar(name).ok().map(|name| name.hostname().to_owned()),
    };
    if let (Some(source), Some(destination)) = (host(&args.source), host(&args.destination))
        && config.has_user()
        && source != destination
    {
        return Err(transfer::usage(
            "say whose --user it is: --src-creds or --dest-creds, as there are two registries",
        ));
    }
    Ok((config.remotes()?.with_archives(), None))
}
