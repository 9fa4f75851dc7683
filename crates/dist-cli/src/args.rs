//! What was typed: the grammar of the command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::error::{ContextKind, ContextValue};
use clap::{
    ArgAction, Args as ClapArgs, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum,
};
use dist_core::Namespace;
use tracing::level_filters::LevelFilter;

use crate::commands::Command;
use crate::progress::Mode;
use crate::report::{self, EXIT_CODES};
use crate::units::{parse_duration, parse_size, parse_some_time};

/// Name, package and version, as `--version` prints them after `dist`.
pub(crate) const VERSION: &str = concat!("github.com/dist-rs/dist ", env!("DIST_VERSION"));

/// Pull, keep and unpack container images, with or without a daemon.
#[derive(Debug, Parser)]
#[command(
    name = "dist",
    version = VERSION,
    disable_version_flag = true,
    arg_required_else_help = true,
    subcommand_required = true,
    infer_long_args = false,
    max_term_width = 100,
    after_help = EXIT_CODES
)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) command: Command,

    /// The words that name the command, as `snapshots ls`.
    #[arg(skip)]
    pub(crate) verb: String,

    /// Print name, package and version
    #[arg(short = 'v', visible_short_alias = 'V', long = "version", action = ArgAction::Version)]
    version: Option<bool>,
}

/// What every command knows.
#[derive(Debug, ClapArgs)]
pub(crate) struct Global {
    /// Config file [env: DIST_CONFIG] [default: /etc/dist/dist.toml as root, else
    /// $XDG_CONFIG_HOME/dist/dist.toml]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) config_file: Option<PathBuf>,

    /// Directory that holds everything [env: DIST_ROOT] [default: /var/lib/dist as root, else
    /// $XDG_DATA_HOME/dist]
    #[arg(long, global = true, value_name = "DIR", help_heading = STORE)]
    pub(crate) root: Option<PathBuf>,

    /// Work through the daemon that listens on this unix socket, not on a directory; of `daemon`,
    /// where it listens [env: CONTAINERD_ADDRESS, but for `daemon`]
    #[arg(short = 'a', long, global = true, value_name = "SOCKET", help_heading = STORE)]
    pub(crate) address: Option<String>,

    /// Namespace of images, snapshots and labels [env: CONTAINERD_NAMESPACE] [default: default]
    #[arg(short = 'n', long, global = true, value_name = "NAME", help_heading = STORE)]
    pub(crate) namespace: Option<Namespace>,

    /// What a power cut may cost [default: content]
    #[arg(long, global = true, value_enum, help_heading = STORE)]
    pub(crate) durability: Option<DurabilityArg>,

    /// Snapshotter: overlayfs, erofs or native [default: overlayfs where it works, else native]
    #[arg(long, global = true, value_name = "NAME", value_parser = SNAPSHOTTERS, hide_possible_values = true, help_heading = STORE)]
    pub(crate) snapshotter: Option<String>,

    /// Policy that says which images may be used: ours, or containers' where it ends in .json
    /// [env: DIST_POLICY] [default: /etc/dist/policy.toml; of an ordinary user who has one,
    /// $XDG_CONFIG_HOME/dist/policy.toml]
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true)]
    pub(crate) policy: Option<PathBuf>,

    /// Form of the progress on standard error
    #[arg(long, global = true, value_enum, default_value_t, help_heading = OUTPUT)]
    pub(crate) progress: Mode,

    /// What is logged to standard error: off, error, warn, info, debug or trace [default: warn; info
    /// for the daemon]
    #[arg(long, global = true, value_name = "LEVEL", help_heading = OUTPUT)]
    pub(crate) log_level: Option<LevelFilter>,

    /// The same as --log-level debug
    #[arg(long, global = true, help_heading = OUTPUT)]
    pub(crate) debug: bool,

    #[command(flatten)]
    pub(crate) network: Network,

    /// Most bytes a layer may have uncompressed [default: 64GiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, hide_short_help = true, help_heading = LIMITS)]
    pub(crate) max_layer_size: Option<u64>,

    /// Most memory a zstd layer may ask for [default: 8MiB]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, hide_short_help = true, help_heading = LIMITS)]
    pub(crate) max_zstd_window: Option<u64>,

    /// Blobs that are worked on at once, at most 64 [default: 3 or 4, by the number of cores; to send, up to 8 while more help]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_JOBS)), hide_short_help = true, help_heading = LIMITS)]
    pub(crate) jobs: Option<u16>,
}

/// How registries are spoken to.
#[derive(Debug, ClapArgs)]
pub(crate) struct Network {
    /// User for the registry; with a password only where nobody else sees the arguments
    #[arg(short = 'u', long, global = true, value_name = "NAME[:PASSWORD]", help_heading = NETWORK)]
    pub(crate) user: Option<String>,

    /// Read the password from standard input
    #[arg(long, global = true, help_heading = NETWORK)]
    pub(crate) password_stdin: bool,

    /// Speak http, not https, to the registry
    #[arg(long, global = true, help_heading = NETWORK)]
    pub(crate) plain_http: bool,

    /// Take any certificate of the registry
    #[arg(short = 'k', long, alias = "skip-verify", global = true, help_heading = NETWORK)]
    pub(crate) insecure: bool,

    /// Trust the certificates in this PEM file too; can be repeated
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, help_heading = NETWORK)]
    pub(crate) tls_ca_cert: Vec<PathBuf>,

    /// Directory with a hosts.toml for each registry; can be repeated, the first that knows the
    /// registry counts [default: /etc/containerd/certs.d, /etc/docker/certs.d, where they are]
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true, help_heading = NETWORK)]
    pub(crate) hosts_dir: Vec<PathBuf>,

    /// containers' registries.conf, instead of those in /etc/containers and the user's; '' for none
    /// [env: CONTAINERS_REGISTRIES_CONF]
    #[arg(long, global = true, value_name = "FILE", value_parser = OsStringValueParser::new().map(PathBuf::from), hide_short_help = true, help_heading = NETWORK)]
    pub(crate) registries_conf: Option<PathBuf>,

    /// How long connecting to the registry or the daemon may take [default: 10s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_some_time, hide_short_help = true, help_heading = NETWORK)]
    pub(crate) connect_timeout: Option<Duration>,

    /// How long the registry may send nothing [default: 30s]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_some_time, hide_short_help = true, help_heading = NETWORK)]
    pub(crate) stall_timeout: Option<Duration>,

    /// How long the command may take in all [env, for fetch-object: CONTAINERD_FETCH_TIMEOUT]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, help_heading = NETWORK)]
    pub(crate) timeout: Option<Duration>,

    /// How often a failed request is tried again [default: 4]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(..=i64::from(MOST_RETRIES)), hide_short_help = true, help_heading = NETWORK)]
    pub(crate) retries: Option<u16>,

    /// Most connections to one registry for blobs that come in parts, at most 64; 1 is one for each
    /// blob [default: 6]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_CONNECTIONS)), hide_short_help = true, help_heading = NETWORK)]
    pub(crate) connections: Option<u16>,

    /// Most bodies with content at once, to and from all hosts, at most 64 [default: any number]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_CONNECTIONS)), hide_short_help = true, help_heading = NETWORK)]
    pub(crate) max_connections: Option<u16>,

    /// Most bytes a second over all connections together, such as 10M; 0 is any number [default: any number]
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size, hide_short_help = true, help_heading = NETWORK)]
    pub(crate) limit_rate: Option<u64>,

    /// Pause before the first retry; it doubles from there [default: 200ms]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, hide_short_help = true, help_heading = NETWORK)]
    pub(crate) retry_delay: Option<Duration>,
}

/// Every snapshotter there is.
pub(crate) const SNAPSHOTTERS: [&str; 3] = ["overlayfs", "erofs", "native"];

/// The most jobs that may be asked for.
pub(crate) const MOST_JOBS: u16 = 64;

/// The most connections to one registry that may be asked for.
pub(crate) const MOST_CONNECTIONS: u16 = 64;

/// The most retries that may be asked for.
pub(crate) const MOST_RETRIES: u16 = 1000;

/// Characters of a wrong value that are said again.
const MOST_SHOWN: usize = 200;

const STORE: &str = "Store";
const OUTPUT: &str = "Output";
const NETWORK: &str = "Registry";
const LIMITS: &str = "Limits";

/// What a power cut may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum DurabilityArg {
    /// Anything but the database, which stays whole: no content is synced
    None,
    /// Work, never content: blobs and names are on the disk, trees are unpacked again where needed
    #[default]
    Content,
    /// Nothing: trees are on the disk as well
    Full,
}

/// The form of the daemon's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    #[default]
    Text,
    /// One JSON object a line
    Json,
}

fn read(line: Vec<OsString>) -> Result<Args, clap::Error> {
    let matches = Args::command().try_get_matches_from(line)?;
    let mut args =
        Args::from_arg_matches(&matches).map_err(|error| error.format(&mut Args::command()))?;
    let verbs = std::iter::successors(matches.subcommand(), |(_, rest)| rest.subcommand());
    args.verb = verbs.map(|(verb, _)| verb).collect::<Vec<_>>().join(" ");
    Ok(args)
}

/// As [`read`], where `bundle` with an image and a directory is short for `oci bundle`.
fn read_either(line: Vec<OsString>) -> Result<Args, clap::Error> {
    let first = match read(line.clone()) {
        Err(first) if is_other_bundle(first.kind()) => first,
        read => return read,
    };
    let word = |at: usize| line.get(at).and_then(|word| word.to_str()).unwrap_or_default();
    let is_short = |&place: &usize| {
        word(place) == "bundle"
            && word(place - 1) != "oci"
            && !["create", "add", "verify", "load"].contains(&word(place + 1))
    };
    let Some(place) = (1..line.len()).find(is_short) else { return Err(first) };
    let mut longer = line;
    longer.insert(place, "oci".into());
    read(longer).map_err(|error| if is_other_bundle(error.kind()) { first } else { error })
}

/// Whether an error is that of words which are no `bundle` of many images, or no command at all.
fn is_other_bundle(kind: clap::error::ErrorKind) -> bool {
    use clap::error::ErrorKind;
    matches!(kind, ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument)
}

/// Reads the command line. Usage errors and help are printed; the exit code is returned.
pub(crate) fn parse() -> Result<Args, u8> {
    read_either(std::env::args_os().collect()).map_err(|mut error| {
        if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue)
            && let Some((end, _)) = value.char_indices().nth(MOST_SHOWN)
        {
            let cut = format!("{}...", &value[..end]);
            error.insert(ContextKind::InvalidValue, ContextValue::String(cut));
        }
        let code = u8::try_from(error.exit_code()).unwrap_or(2);
        let text = error.render();
        let plain = text.to_string();
        let raw = plain.chars().any(|c| c.is_control() && c != '\n');
        if raw {
            // What was typed is in the message: it must not command the terminal.
            report::plain_text(&plain);
        } else {
            // Nobody can be told that printing failed.
            drop(error.print());
        }
        code
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn one_word_for_two_kinds_of_bundles() {
        let verb = |line: &str| {
            let words = format!("dist {line}");
            read_either(words.split_whitespace().map(Into::into).collect()).map(|args| args.verb)
        };
        for (line, expected) in [
            ("bundle redis:7 dir", "oci bundle"),
            ("bundle -e A=1 --user nobody busybox box sh -c x", "oci bundle"),
            ("oci bundle redis:7 dir", "oci bundle"),
            ("bundle create images.tar redis:7", "bundle create"),
            ("--root bundle bundle verify x", "bundle verify"),
        ] {
            assert_eq!(verb(line).unwrap(), expected, "{line}");
        }
        for line in [
            "bundle create --since",
            "bundle",
            "bundle redis:7",
            "nothing bundle",
            "bundle create x.tar redis:7 --x",
        ] {
            assert!(verb(line).is_err(), "{line}");
        }
    }

    #[test]
    fn every_command_has_examples() {
        fn look(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "dist {}: {help}", command.get_name());
            command.get_subcommands().for_each(look);
        }
        Args::command().get_subcommands().for_each(look);
    }

    #[test]
    fn global_flags_stand_before_and_behind() {
        for line in [["dist", "--timeout", "5s", "version"], ["dist", "version", "--timeout", "5s"]]
        {
            let args = Args::try_parse_from(line).unwrap();
            assert_eq!(args.global.network.timeout, Some(Duration::from_secs(5)));
        }
    }

    #[test]
    fn help_and_version() {
        for line in [["dist", "-v"], ["dist", "-V"], ["dist", "--version"], ["dist", "help"]] {
            assert_eq!(Args::try_parse_from(line).unwrap_err().exit_code(), 0, "{line:?}");
        }
    }

    #[test]
    fn usage_errors() {
        for line in [
            &["dist"][..],
            &["dist", "no-such-command"],
            &["dist", "version", "--timeout", "5"],
            &["dist", "version", "--namespace", "../x"],
            &["dist", "version", "--jobs", "0"],
            &["dist", "version", "--jobs", "65"],
        ] {
            assert_eq!(Args::try_parse_from(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
