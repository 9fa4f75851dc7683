//! `dist.toml`: its grammar. Every key may be left out; one that nobody knows is an error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum as _;
use dist_core::{Context, Error, ErrorKind, Namespace, Result};
use dist_grpc::server::MetricsSocket;
use dist_store::Sharing;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use tracing::level_filters::LevelFilter;

use crate::args::{
    DurabilityArg, LogFormat, MOST_CONNECTIONS, MOST_JOBS, MOST_RETRIES, SNAPSHOTTERS,
};
use crate::report;
use crate::units::{parse_duration, parse_size};

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) root: Option<Absolute>,
    pub(super) namespace: Option<Text<Namespace>>,
    pub(super) snapshotter: Option<Text<SnapshotterName>>,
    pub(super) discard_blobs: Option<bool>,
    pub(super) durability: Option<Text<Durability>>,
    pub(super) jobs: Option<Number<1, { MOST_JOBS }>>,
    pub(super) policy: Option<Absolute>,
    pub(super) limits: Limits,
    pub(super) network: Network,
    pub(super) daemon: Daemon,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) max_layer_size: Option<Text<Size>>,
    pub(super) max_zstd_window: Option<Text<Size>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Network {
    pub(super) plain_http: Option<bool>,
    pub(super) insecure: Option<bool>,
    pub(super) tls_ca_cert: Option<Vec<Absolute>>,
    pub(super) hosts_dir: Option<Vec<Absolute>>,
    pub(super) registries_conf: Option<Text<OrNone>>,
    pub(super) connect_timeout: Option<Text<Time>>,
    pub(super) stall_timeout: Option<Text<Time>>,
    pub(super) retries: Option<Number<0, { MOST_RETRIES }>>,
    pub(super) connections: Option<Number<1, { MOST_CONNECTIONS }>>,
    pub(super) max_connections: Option<Number<1, { MOST_CONNECTIONS }>>,
    pub(super) limit_rate: Option<Text<Size>>,
    pub(super) retry_delay: Option<Text<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Daemon {
    pub(super) address: Option<Absolute>,
    pub(super) backend_address: Option<Text<Backend>>,
    pub(super) mode: Option<Text<Octal>>,
    pub(super) owner: Option<String>,
    pub(super) group: Option<String>,
    pub(super) allow_users: Option<Vec<String>>,
    pub(super) allow_groups: Option<Vec<String>>,
    pub(super) content_sharing: Option<Text<Sharing>>,
    pub(super) metrics: Option<Text<Metrics>>,
    pub(super) log_level: Option<Text<LevelFilter>>,
    pub(super) log_format: Option<Text<Format>>,
    pub(super) gc: Gc,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Gc {
    pub(super) pause_threshold: Option<Share>,
    pub(super) deletion_threshold: Option<u64>,
    pub(super) mutation_threshold: Option<u64>,
    pub(super) schedule_delay: Option<Text<Time>>,
    pub(super) startup_delay: Option<Text<Time>>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` with the line of what is wrong.
    pub(super) fn read(path: &Path) -> Result<Self> {
        read_toml(path)
    }
}

/// Reads a file of TOML.
///
/// # Errors
/// `NotFound`; `InvalidArgument` with the line of what is wrong.
pub(crate) fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let what = || format!("read {}", path.display());
    let text = dist_core::read_small_text(path).map_err(|error| {
        let missing = error.kind() == std::io::ErrorKind::NotFound;
        let kind = if missing { ErrorKind::NotFound } else { ErrorKind::InvalidArgument };
        Error::new(kind, what()).with_source(error)
    })?;
    parse_toml(&text).context(ErrorKind::InvalidArgument, what)
}

/// Reads TOML; what is wrong is told with its line.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str) -> std::result::Result<T, FileError> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        FileError(dist_core::on_line(text, at, error.message()))
    })
}

/// What is wrong with a file, and where.
#[derive(Debug)]
pub(crate) struct FileError(String);

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FileError {}

/// What is written as text and read as something else.
#[derive(Debug)]
pub(super) struct Text<T>(pub(super) T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A path that does not depend on where a command is started.
#[derive(Debug)]
pub(super) struct Absolute(pub(super) PathBuf);

impl<'de> Deserialize<'de> for Absolute {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = PathBuf::deserialize(deserializer)?;
        if path.is_absolute() {
            return Ok(Self(path));
        }
        Err(D::Error::custom(format!("{} is no absolute path", path.display())))
    }
}

/// A number up to a limit.
#[derive(Debug)]
pub(super) struct Number<const LEAST: u16, const MOST: u16>(pub(super) u16);

impl<'de, const LEAST: u16, const MOST: u16> Deserialize<'de> for Number<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        let fits = u16::try_from(number).ok().filter(|number| (LEAST..=MOST).contains(number));
        fits.map(Self)
            .ok_or_else(|| D::Error::custom(format!("{number} is not in {LEAST}..={MOST}")))
    }
}

/// A share of the time: 0 to 0.5.
#[derive(Debug)]
pub(super) struct Share(pub(super) f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = f64::deserialize(deserializer)?;
        if (0.0..=0.5).contains(&share) {
            return Ok(Self(share));
        }
        Err(D::Error::custom(format!("{share} is not in 0.0..=0.5")))
    }
}

macro_rules! text {
    ($($(#[$doc:meta])* $name:ident($inner:ty) = $parse:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub(super) struct $name(pub(super) $inner);

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let parse: fn(&str) -> Result<$inner, String> = $parse;
                parse(text).map(Self)
            }
        }
    )*};
}

text! {
    /// An absolute path, or nothing.
    OrNone(PathBuf) = |text| match PathBuf::from(text) {
        path if path.is_absolute() || text.is_empty() => Ok(path),
        path => Err(format!("{} is no absolute path", path.display())),
    };
    /// A number of bytes: `64GiB`.
    Size(u64) = parse_size;
    /// A duration: `10s`.
    Time(Duration) = parse_duration;
    /// What a power cut may cost.
    Durability(DurabilityArg) = |text| DurabilityArg::from_str(text, false);
    /// The form of the log.
    Format(LogFormat) = |text| LogFormat::from_str(text, false);
    /// Permissions: `0660`.
    Octal(u32) = |text| {
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777);
        mode.ok_or_else(|| format!("{text:?} are no permissions; write for instance \"0660\""))
    };
    /// A path, or nothing at all.
    Backend(Option<PathBuf>) = |text| match text {
        "" => Ok(None),
        path if path.starts_with('/') => Ok(Some(path.into())),
        path => Err(format!("{path} is no absolute path")),
    };
    /// Where metrics may be served.
    Metrics(String) = |text| match MetricsSocket::check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err(error) => Err(report::one_line(&error)),
    };
    /// One of the snapshotters.
    SnapshotterName(String) = |text| {
        let known = SNAPSHOTTERS.contains(&text).then(|| text.to_owned());
        known.ok_or_else(|| format!("{text:?} is no snapshotter; there are {SNAPSHOTTERS:?}"))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_says_nothing() {
        let file = parse_toml::<File>("").unwrap();
        assert!(file.root.is_none() && file.daemon.mode.is_none());
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, line, words) in [
            ("root = \"/x\"\nroots = \"/y\"", 2, "unknown field `roots`"),
            ("[daemon]\n\nadress = \"/x\"", 3, "unknown field `adress`"),
            ("[deamon]", 1, "unknown field `deamon`"),
            ("root = \"x\"", 1, "x is no absolute path"),
            ("\n\nnamespace = \"../x\"", 3, "a name has '.' only between letters"),
            ("jobs = 65", 1, "65 is not in 1..=64"),
            ("jobs = 0", 1, "0 is not in 1..=64"),
            ("jobs = -1", 1, "-1 is not in"),
            ("[limits]\nmax_layer_size = \"many\"", 2, "\"many\" is no size"),
            ("[network]\nstall_timeout = 3", 2, "expected a string"),
            ("[daemon]\nmode = \"0999\"", 2, "are no permissions"),
            ("[daemon]\nlog_format = \"xml\"", 2, "xml"),
            ("[daemon]\nmetrics = \"0.0.0.0:99\"", 2, "only a loopback address"),
            ("snapshotter = \"btrfs\"", 1, "is no snapshotter"),
            ("[daemon.gc]\npause_threshold = 0.9", 2, "0.9 is not in 0.0..=0.5"),
            ("root = \"/a\"\nroot = \"/b\"", 2, "duplicate key"),
            ("root = ", 1, ""),
        ] {
            let error = parse_toml::<File>(text).unwrap_err();
            let error = error.to_string();
            assert!(error.starts_with(&format!("line {line}: ")), "{text}: {error}");
            assert!(error.contains(words), "{text}: {error}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
