//! `dist oci`: what a runtime is told of an image, and given.

use clap::Subcommand;
use dist_core::Result;
use dist_run::{HostFacts, Rootfs, convert};
use dist_store::SettleMode;

use super::bundle;
use super::stored::{Choice, Stored};
use super::wishes::Wishes;
use crate::config::Config;
use crate::{output, report, user_namespace};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  dist oci spec redis:7 | jq .process
  dist oci bundle redis:7 redis && crun run --bundle redis my-redis")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the runtime spec for an image
    Spec(Box<Spec>),

    /// Make a bundle that an OCI runtime takes as it is
    Bundle(Box<bundle::Runtime>),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints the config.json that `dist oci bundle` writes and `dist run` runs. The image is pulled where it
is not in the store: its users are looked up in its own files.

Examples:
  dist oci spec redis:7 | jq .process.args
  dist oci spec --memory 64MiB --net none busybox sleep 10")]
struct Spec {
    #[command(flatten)]
    choice: Choice,

    #[command(flatten)]
    wishes: Wishes,

    /// Image, in the store or in a registry
    #[arg(value_name = "REF")]
    name: String,

    /// Command and arguments, in place of the image's arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(config: &Config, args: &Args) -> Result<()> {
    let args = match &args.command {
        Command::Spec(args) => args,
        Command::Bundle(args) => return bundle::make_for_runtime(config, args),
    };
    args.wishes.refuse_named_network()?;
    user_namespace::enter(config)?;
    let engine = config.engine()?;
    let image = Stored::find(config, &engine, &args.name, &args.choice)?;
    let options = |rootfs: &mut Rootfs| args.wishes.options(&image.settings, &args.args, rootfs);
    let options = image.look(&engine, options)?;
    let converted = convert(&image.settings, &options, &HostFacts::read())?;
    tell_omitted(&converted.omitted);
    output::print(|out| {
        use std::io::Write as _;
        serde_json::to_writer_pretty(&mut *out, &converted.spec)?;
        writeln!(out)
    })?;
    engine.store().settle(SettleMode::Exit).map(drop)
}

/// Says which labels of an image a runtime is not told.
pub(super) fn tell_omitted(labels: &[String]) {
    if !labels.is_empty() {
        let labels = labels.join(", ");
        report::warn(&format!("labels of the image that would command the runtime: {labels}"));
    }
}
