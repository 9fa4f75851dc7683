//! One file a verb: its arguments, its help, and what it does.

mod abort;
mod active;
mod apply;
mod artifact;
mod attach;
mod attended;
mod auth;
mod bundle;
mod cat;
mod completions;
mod config;
mod containers;
mod copy;
mod daemon;
mod delete;
mod diff;
mod documents;
mod exec;
mod export;
mod fetch;
mod fetch_object;
mod fsck;
mod gc;
mod get;
mod hosts;
mod images;
mod import;
mod ingest;
mod inspect;
mod limits;
mod list;
mod listing;
mod login;
mod logout;
mod logs;
mod multi_fetch;
mod objects;
mod oci;
mod origin;
mod path;
mod policy;
mod pull;
mod push;
mod rm;
mod rmi;
mod rootfs;
mod run;
mod several;
mod sides;
mod sign;
mod snapshots;
mod stats;
mod stop;
mod stored;
mod sync;
mod tag;
mod tags;
mod transfer;
mod unpack;
mod validate;
mod verify;
mod version;
mod wishes;

use std::process::ExitCode;

use clap::Subcommand;
use dist_core::{Context, Digest, ErrorKind, Result};

use self::sides::Sides;
use crate::config::Config;
use crate::signals;

pub(crate) use daemon::Args as DaemonArgs;
pub(crate) use several::{Partial, Reported};
pub(crate) use transfer::Kept;

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch, unpack and register an image
    Pull(pull::Args),

    /// Send an image to a registry
    Push(push::Args),

    /// Copy an image between registries, layout directories and archives
    #[command(visible_alias = "cp")]
    Copy(copy::Args),

    /// Copy many tags of many repositories, as a file says
    Sync(sync::Args),

    /// Sign an image in a registry
    Sign(sign::Args),

    /// Verify the signatures of an image
    Verify(verify::Args),

    /// Show the policy, and what it says of an image
    Policy(policy::Args),

    /// Fetch everything that belongs to an image, without unpacking it
    Fetch(fetch::Args),

    /// Print the raw bytes of one object of a repository
    FetchObject(fetch_object::Args),

    /// Fetch objects of a repository, named on standard input, into the store
    MultiFetch(multi_fetch::Args),

    /// Unpack an image into a plain directory
    Unpack(unpack::Args),

    /// Run an image
    Run(Box<run::Args>),

    /// List the containers that run
    Ps(containers::Ps),

    /// Run another command in a container
    Exec(exec::Args),

    /// Have the streams of a container that was run with --detach, or attach files to an image
    Attach(attach::Args),

    /// Stop containers
    Stop(stop::Stop),

    /// Send a signal to containers
    Kill(stop::Kill),

    /// Let the processes of containers stand still
    Pause(stop::Pause),

    /// Let them go on
    Unpause(stop::Unpause),

    /// Wait until containers have ended
    Wait(stop::Wait),

    /// Remove containers
    Rm(rm::Args),

    /// Show what containers use
    Stats(stats::Args),

    /// Print what a container wrote
    Logs(logs::Args),

    /// List, inspect and remove containers
    #[command(alias = "container")]
    Containers(containers::Args),

    /// Carry many images, with what refers to them, in one file
    Bundle(bundle::Args),

    /// Make what an OCI runtime takes: the spec of an image, or a bundle
    Oci(oci::Args),

    /// Print a file of an image
    Cat(cat::Args),

    /// Show what an image is made of
    Inspect(inspect::Args),

    /// Show how two images differ
    Diff(diff::Args),

    /// Check an image against the specification, down to its layers' entries
    Validate(validate::Args),

    /// List what refers to an image
    Referrers(artifact::Referrers),

    /// List and remove the tags of a repository
    Tags(tags::Tags),

    /// List the repositories of a registry
    #[command(alias = "repos")]
    Repo(tags::Repo),

    /// Show how many pulls a registry still gives
    Limits(limits::Args),

    /// Show which hosts serve a registry
    Hosts(hosts::Args),

    /// List registered images
    #[command(visible_alias = "image")]
    Images(images::Args),

    /// Give an image further names
    Tag(tag::Args),

    /// Remove names of images
    Rmi(rmi::Args),

    /// Bring the images of an archive into the store
    Import(import::Args),

    /// Write images into an archive
    Export(export::Args),

    /// Unpack content into snapshots, and make them mountable
    Rootfs(rootfs::Args),

    /// List, mount and remove snapshots
    #[command(alias = "snapshot")]
    Snapshots(snapshots::Args),

    /// List the blobs in the store
    #[command(visible_alias = "ls")]
    List(list::Args),

    /// Print a blob
    Get(get::Args),

    /// Print where blobs lie
    Path(path::Args),

    /// Delete blobs
    #[command(aliases = ["del", "remove"])]
    Delete(delete::Args),

    /// Remove what nothing keeps any more
    Gc(gc::Args),

    /// Write standard input into the store
    Ingest(ingest::Args),

    /// List writes that are under way or were broken off
    Active(active::Args),

    /// Throw away writes that were broken off
    Abort(abort::Args),

    /// Apply a layer from standard input to a directory
    Apply(apply::Args),

    /// Serve containerd's API to ctr and other clients
    Daemon(daemon::Args),

    /// Look for damage in the store, and repair it
    Fsck(fsck::Args),

    /// Check credentials for a registry and keep them
    Login(login::Args),

    /// Forget the credentials for a registry
    Logout(logout::Args),

    /// Show which credentials there are, and where
    Auth(auth::Args),

    /// Show the settings in force
    Config(config::Args),

    /// Print shell completions
    Completions(completions::Args),

    /// Print name, package and version
    #[command(after_help = "Examples:\n  dist version")]
    Version,
}

impl Command {
    /// Whether `--user` is a user of an image, not one of a registry.
    pub(crate) fn runs_image(&self) -> bool {
        matches!(self, Self::Exec(_) | Self::Oci(_) | Self::Run(_))
    }

    /// The users of either side, where there are sides.
    fn sides(&self) -> Option<&Sides> {
        match self {
            Self::Copy(args) => Some(&args.sides),
            Self::Sync(args) => Some(&args.sides),
            _ => None,
        }
    }

    /// Whether it has users of its own, beside `--user`.
    pub(crate) fn names_user(&self) -> bool {
        self.sides().is_some_and(Sides::are_given)
    }
}

/// Does what was asked. `verb` is how the command was called.
pub(crate) fn run(config: &Config, verb: &str, command: Command) -> Result<ExitCode> {
    let timeout = match command {
        // They serve until they are told to stop.
        Command::Attach(_) | Command::Daemon(_) | Command::Run(_) | Command::Exec(_) => None,
        Command::FetchObject(_) => config.fetch_timeout()?,
        _ => config.timeout,
    };
    signals::bound(verb, timeout, config.is_remote())?;
    match command {
        Command::Run(args) => return run::run(config, &args),
        Command::Exec(args) => return exec::run(config, &args),
        Command::Diff(args) => return diff::run(config, &args),
        Command::Attach(args) => return attach::run(config, &args),
        Command::Ps(args) => containers::ps(config, &args),
        Command::Stop(args) => stop::stop(config, &args),
        Command::Kill(args) => stop::kill(config, &args),
        Command::Pause(args) => stop::pause(config, &args),
        Command::Unpause(args) => stop::unpause(config, &args),
        Command::Wait(args) => stop::wait(config, &args),
        Command::Rm(args) => rm::run(config, &args),
        Command::Stats(args) => stats::run(config, &args),
        Command::Logs(args) => logs::run(config, &args),
        Command::Containers(args) => containers::run(config, &args),
        Command::Pull(args) => pull::run(config, &args),
        Command::Push(args) => push::run(config, &args),

        Command::Copy(args) => copy::run(config, &args),
        Command::Sync(args) => sync::run(config, &args),
        Command::Sign(args) => sign::run(config, &args),
        Command::Verify(args) => verify::run(config, &args),
        Command::Policy(args) => policy::run(config, &args),
        Command::Fetch(args) => fetch::run(config, &args),
        Command::FetchObject(args) => fetch_object::run(config, &args),
        Command::MultiFetch(args) => multi_fetch::run(config, &args),
        Command::Unpack(args) => unpack::run(config, &args),
        Command::Bundle(args) => bundle::run(config, &args),
        Command::Oci(args) => oci::run(config, &args),
        Command::Inspect(args) => inspect::run(config, &args),
        Command::Images(args) => images::run(config, &args),
        Command::Tag(args) => tag::run(config, &args),
        Command::Validate(args) => validate::run(config, &args),
        Command::Referrers(args) => artifact::referrers(config, &args),
        Command::Tags(args) => tags::run(config, &args),
        Command::Repo(args) => tags::run_repo(config, &args),
        Command::Cat(args) => cat::run(config, &args),
        Command::Auth(args) => auth::run(config, &args),
        Command::Limits(args) => limits::run(config, &args),
        Command::Hosts(args) => hosts::run(config, &args),
        Command::Rmi(args) => rmi::run(config, &args),
        Command::Import(args) => import::run(config, &args),
        Command::Export(args) => export::run(config, &args),
        Command::Rootfs(args) => rootfs::run(config, &args),
        Command::Snapshots(args) => snapshots::run(config, &args),
        Command::List(args) => list::run(config, &args),
        Command::Get(args) => get::run(config, &args),
        Command::Path(args) => path::run(config, &args),
        Command::Delete(args) => delete::run(config, &args),
        Command::Gc(args) => gc::run(config, &args),
        Command::Ingest(args) => ingest::run(config, &args),
        Command::Active(args) => active::run(config, &args),
        Command::Abort(args) => abort::run(config, &args),
        Command::Apply(args) => apply::run(config, &args),
        Command::Daemon(_) => daemon::run(config),
        Command::Fsck(args) => fsck::run(config, &args),
        Command::Login(args) => login::run(config, &args),
        Command::Logout(args) => logout::run(config, &args),
        Command::Config(args) => config::run(config, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Version => version::run(),
    }
    .map(|()| ExitCode::SUCCESS)
}

/// Reads a digest where one bad one must not keep the others from being worked on.
fn parse_digest(text: &str) -> Result<Digest> {
    text.parse().context(ErrorKind::InvalidArgument, || format!("read digest {text:?}"))
}
