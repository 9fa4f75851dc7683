//! containers' `registries.conf`, version 2, as podman, skopeo and buildah read it
//! (containers-registries.conf(5)).
//!
//! ```text
//! registries.conf            $HOME/.config/containers/, else /etc/containers/
//! registries.conf.d/*.conf   after it, in the order of their names
//! ```
//!
//! A later file replaces `[[registry]]` tables with the same prefix, single aliases, and each of the
//! other settings as a whole. A key that nobody knows and a value of another type are errors: what
//! is written there could mean less safety without it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use dist_core::{Context, Error, ErrorKind, Reference, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The most bytes that one file may have.
const MAX_BYTES: u64 = 4 << 20;

/// Where containers' settings for registries are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistriesFiles {
    /// `registries.conf`.
    pub main: Option<PathBuf>,
    /// Whether it must be there.
    pub required: bool,
    /// Directories with more; their files `*.conf` are read after it.
    pub drop_ins: Vec<PathBuf>,
    /// Aliases that other tools noted down; they count before all others.
    pub noted: Option<PathBuf>,
}

/// What is to be done with a short name that may mean several images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortNameMode {
    /// Somebody must say which; without a terminal nobody can.
    Enforcing,
    /// As that, but without a terminal each is tried.
    #[default]
    Permissive,
    /// Each is tried.
    Disabled,
}

/// What all the files say together.
#[derive(Debug, Default)]
pub(crate) struct Registries {
    /// By their prefixes.
    tables: BTreeMap<String, Table>,
    /// Where names without a registry are looked for, and the file that says so.
    pub(crate) search: (Vec<String>, Option<PathBuf>),
    pub(crate) mode: ShortNameMode,
    /// What short names stand for, and the file that says so.
    aliases: BTreeMap<String, (String, PathBuf)>,
    /// Helpers for credentials, in their order.
    pub(crate) helpers: Vec<String>,
}

/// What counts for names with one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    pub(crate) prefix: String,
    /// Where such names lead; nowhere else where there is none.
    pub(crate) location: Option<String>,
    pub(crate) insecure: bool,
    pub(crate) blocked: bool,
    pub(crate) mirrors: Vec<Mirror>,
    /// The file.
    pub(crate) source: PathBuf,
}

#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    pub(crate) location: String,
    pub(crate) insecure: bool,
    pub(crate) pulls: Pulls,
}

/// For which names a mirror is there.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Pulls {
    #[default]
    #[serde(alias = "")]
    All,
    DigestOnly,
    TagOnly,
}

impl Registries {
    /// Reads all files; one that is not there says nothing.
    pub(crate) fn read(files: &RegistriesFiles) -> Result<Self> {
        let mut all = Self::default();
        if let Some(main) = &files.main {
            let there = all.add(main)?;
            if !there && files.required {
                let message = format!("read {}: it is not there", main.display());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        }
        for dir in &files.drop_ins {
            for path in drop_ins(dir)? {
                all.add(&path)?;
            }
        }
        if let Some(noted) = &files.noted {
            all.add(noted)?;
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<bool> {
        let what = || format!("read {}", path.display());
        let text = match fs_err::metadata(path) {
            Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => {
                let message = format!("{}: it is no regular file of at most 4 MiB", what());
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
            Ok(_) => fs_err::read_to_string(path).context(ErrorKind::InvalidArgument, what)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).context(ErrorKind::InvalidArgument, what),
        };
        let file: File = toml::from_str(&text).map_err(|error| {
            let message = format!("{}: {}", what(), toml_problem(&text, &error));
            Error::new(ErrorKind::InvalidArgument, message)
        })?;
        let problem = |(kind, problem): (ErrorKind, String)| {
            Error::new(kind, format!("{}: {problem}", what()))
        };
        self.take(file, path).map_err(problem)?;
        Ok(true)
    }

    fn take(&mut self, file: File, path: &Path) -> Result<(), (ErrorKind, String)> {
        let invalid = |problem: String| (ErrorKind::InvalidArgument, problem);
        if file.registries.is_some_and(|old| old.says_something()) {
            let problem = "it is of version 1 ([registries.search], [registries.insecure], \
                 [registries.block]); version 2 has unqualified-search-registries and [[registry]]";
            return Err((ErrorKind::Unsupported, problem.to_owned()));
        }
        let mut tables: Vec<Table> = Vec::new();
        for wire in file.registry {
            let table = wire.check(path).map_err(invalid)?;
            let place = |table: &Table| table.location.clone().unwrap_or(table.prefix.clone());
            let twin = tables.iter().find(|other| place(other) == place(&table));
            if let Some(twin) = twin.filter(|twin| twin.insecure != table.insecure) {
                return Err(invalid(format!("{} is both insecure and not", place(twin))));
            }
            if let Some(twin) = twin.filter(|twin| twin.blocked != table.blocked) {
                return Err(invalid(format!("{} is both blocked and not", place(twin))));
            }
            tables.push(table);
        }
        // Of one prefix in one file, the first table counts.
        for table in tables.into_iter().rev() {
            self.tables.insert(table.prefix.clone(), table);
        }
        if let Some(search) = file.unqualified_search_registries {
            let search = search.iter().map(|registry| check_host(registry));
            let search = search.collect::<Result<_, _>>().map_err(invalid)?;
            self.search = (search, Some(path.to_owned()));
        }
        match file.short_name_mode.as_deref() {
            None | Some("") => {}
            Some("enforcing") => self.mode = ShortNameMode::Enforcing,
            Some("permissive") => self.mode = ShortNameMode::Permissive,
            Some("disabled") => self.mode = ShortNameMode::Disabled,
            Some(mode) => return Err(invalid(format!("nobody knows short-name-mode {mode:?}"))),
        }
        if let Some(helpers) = file.credential_helpers {
            self.helpers = helpers;
        }
        for (name, full) in file.aliases {
            check_alias(&name, &full).map_err(invalid)?;
            if full.is_empty() {
                self.aliases.remove(&name);
            } else {
                self.aliases.insert(name, (full, path.to_owned()));
            }
        }
        Ok(())
    }

    /// The table with the longest prefix of `name`, and how much of it that is.
    pub(crate) fn find(&self, name: &str) -> Option<(&Table, usize)> {
        let matches = self.tables.values().filter_map(|table| {
            let end = matched(&table.prefix, name)?;
            let exact = !table.prefix.starts_with("*.");
            Some(((end, exact, table.prefix.len()), table))
        });
        matches.max_by_key(|(key, _)| *key).map(|((end, ..), table)| (table, end))
    }

    /// What a short name without tag and digest stands for, and the file that says so.
    pub(crate) fn alias(&self, name: &str) -> Option<&(String, PathBuf)> {
        self.aliases.get(name)
    }
}

/// How much of `name` a prefix stands for, where it is one: `host[:port]`, a path below that, with a
/// tag or a digest, or `*.domain` for all hosts below a domain.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let host = name.find('/').unwrap_or(name.len());
    if let Some(domain) = prefix.strip_prefix('*') {
        let bare = name[..host].rsplit_once(':').map_or(&name[..host], |(bare, _)| bare);
        return (bare.len() > domain.len() && bare.ends_with(domain)).then_some(host);
    }
    let rest = name.strip_prefix(prefix)?;
    let follows = match rest.chars().next() {
        None | Some('/') => true,
        // Behind a host it would be a port, which makes another host of it.
        Some(':' | '@') => prefix.len() > host,
        Some(_) => false,
    };
    follows.then_some(prefix.len())
}

impl Table {
    /// The reference `name` with `location` for the first `end` bytes of it.
    pub(crate) fn rewrite(&self, location: &str, name: &str, end: usize) -> Result<Reference> {
        let text = format!("{location}{}", &name[end..]);
        let what = || format!("read {text:?} by {}", self.source.display());
        let reference = Reference::parse(&text).context(ErrorKind::InvalidArgument, what)?;
        let host = reference.hostname();
        if !host.contains(['.', ':', '[']) && host != "localhost" {
            let message = format!("{}: {host} is no host", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(reference)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct File {
    registry: Vec<WireTable>,
    unqualified_search_registries: Option<Vec<String>>,
    short_name_mode: Option<String>,
    credential_helpers: Option<Vec<String>>,
    aliases: BTreeMap<String, String>,
    /// For a kind of storage that is not here.
    #[serde(rename = "additional-layer-store-auth-helper")]
    _layer_store: Option<IgnoredAny>,
    /// Version 1.
    registries: Option<Old>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct WireTable {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<WireMirror>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct WireMirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<Pulls>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Old {
    search: OldList,
    insecure: OldList,
    block: OldList,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OldList {
    registries: Vec<String>,
}

impl Old {
    fn says_something(&self) -> bool {
        [&self.search, &self.insecure, &self.block].iter().any(|list| !list.registries.is_empty())
    }
}

impl WireTable {
    fn check(self, source: &Path) -> Result<Table, String> {
        let location = check_location(&self.location)?;
        let prefix = check_location(&self.prefix)?;
        let (prefix, location) = match (prefix, location) {
            (None, None) => return Err("a registry has neither prefix nor location".to_owned()),
            (None, Some(location)) => (location.clone(), Some(location)),
            (Some(prefix), None) if !prefix.starts_with("*.") => {
                return Err(format!("prefix {prefix:?} has no location"));
            }
            (Some(prefix), location) => (prefix, location),
        };
        let rest = prefix.strip_prefix("*.").unwrap_or(&prefix);
        if rest.contains('*') || (rest.len() < prefix.len() && rest.contains(['/', ':', '@'])) {
            return Err(format!("prefix {prefix:?}: a * stands before a domain alone, *.domain"));
        }
        let mirrors = self.mirror.into_iter().map(|mirror| {
            let Some(location) = check_location(&mirror.location)? else {
                return Err(format!("a mirror of {prefix} has no location"));
            };
            if self.mirror_by_digest_only && mirror.pull_from_mirror.is_some() {
                return Err(format!(
                    "{prefix} has mirror-by-digest-only, and its mirror {location} has pull-from-mirror"
                ));
            }
            let pulls = match mirror.pull_from_mirror {
                _ if self.mirror_by_digest_only => Pulls::DigestOnly,
                pulls => pulls.unwrap_or_default(),
            };
            Ok(Mirror { location, insecure: mirror.insecure, pulls })
        });
        let mirrors = mirrors.collect::<Result<_, _>>()?;
        let (insecure, blocked) = (self.insecure, self.blocked);
        Ok(Table { prefix, location, insecure, blocked, mirrors, source: source.to_owned() })
    }
}

/// A prefix or a location; `None` where nothing is said.
fn check_location(text: &str) -> Result<Option<String>, String> {
    if text.contains("://") {
        return Err(format!("{text:?} has a scheme, which does not belong there"));
    }
    let text = text.trim_end_matches('/');
    Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

/// `host[:port]`.
fn check_host(text: &str) -> Result<String, String> {
    match check_location(text)? {
        Some(host) if Reference::parse(&format!("{host}/x")).is_ok() && !host.contains('/') => {
            Ok(host)
        }
        _ => Err(format!("unqualified-search-registries has {text:?}, which is no registry")),
    }
}

fn check_alias(name: &str, full: &str) -> Result<(), String> {
    let short = is_short(name) && !name.contains([':', '@']);
    if !short || Reference::parse(&format!("x.test/{name}")).is_err() {
        return Err(format!("alias {name:?} is no name without registry, tag and digest"));
    }
    match Reference::parse(full) {
        _ if full.is_empty() => Ok(()),
        Ok(reference)
            if reference.tag().is_none() && reference.digest().is_none() && !is_short(full) =>
        {
            Ok(())
        }
        _ => Err(format!(
            "alias {name:?}: {full:?} is no name with a registry, without tag and digest"
        )),
    }
}

/// Whether a name does not say a registry.
pub(crate) fn is_short(name: &str) -> bool {
    let end = name.find('@').unwrap_or(name.len());
    let first = name[..end].find('/').map(|slash| &name[..slash]);
    !first.is_some_and(|first| first.contains(['.', ':', '[']) || first == "localhost")
}

/// The files of a directory that are read, in their order.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>> {
    let what = || format!("read {}", dir.display());
    let entries = match fs_err::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(ErrorKind::InvalidArgument, what),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context(ErrorKind::InvalidArgument, what)?.path();
        if path.extension().is_some_and(|extension| extension == "conf") && !path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// What is wrong with a file, with the number of the line.
pub(crate) fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let at = error.span().map_or(0, |span| span.start);
    dist_core::on_line(text, at, error.message())
}

#[cfg(test)]
#[path = "registries_conf_tests.rs"]
mod tests;
