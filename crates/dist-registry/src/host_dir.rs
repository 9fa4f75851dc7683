//! `hosts.toml`: what a directory says about the hosts that serve a registry.
//!
//! ```text
//! DIR/<host>_<port>_/   or  DIR/<host>[:<port>]/  or  DIR/_default/
//!     hosts.toml              settings, as containerd reads them
//!     *.crt                   without hosts.toml: authorities to trust
//!     *.cert and *.key        and certificates to show, in pairs
//! ```
//!
//! Sections `[host."URL"]` are asked in the order of the file, and `server` after them, which is
//! the registry itself where it is not given. Settings before the first section are about that one.
//! A key that nobody knows is an error, since a part of what is written there could mean less
//! safety than the whole.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dist_core::{Context, Error, ErrorKind, Result};
use http::{HeaderName, HeaderValue};
use toml::{Table, Value};
use url::Url;

use crate::host::{Capabilities, ClientCert, RegistryHost};
use crate::hosts;
use crate::registries_conf::toml_problem;

/// The most bytes that `hosts.toml` may have.
const MAX_BYTES: u64 = 1 << 20;

/// The directory below `root` that is about the registry called `name`.
fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let underlined = name.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = underlined.into_iter().chain([name.to_owned(), "_default".to_owned()]);
    names.map(|name| root.join(name)).find(|dir| dir.is_dir())
}

/// Reads what a `hosts.toml` below `root` says about the registry called `name`, and which one;
/// `None` where there is none, or nothing in it.
pub(crate) fn read(root: &Path, name: &str) -> Result<Option<(PathBuf, Vec<RegistryHost>)>> {
    let Some(dir) = find(root, name) else { return Ok(None) };
    let path = dir.join("hosts.toml");
    let what = || format!("read {}", path.display());
    let text = match fs_err::metadata(&path) {
        Ok(meta) if !meta.is_file() || meta.len() > MAX_BYTES => {
            let message = format!("{}: it is no regular file of at most 1 MiB", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(_) => fs_err::read_to_string(&path).context(ErrorKind::InvalidArgument, what)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).context(ErrorKind::InvalidArgument, what),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let table: Table = toml::from_str(&text).map_err(|error| {
        let message = format!("{}: {}", what(), toml_problem(&text, &error));
        Error::new(ErrorKind::InvalidArgument, message)
    })?;
    let hosts = Reading { dir: &dir, name }.file(&table)?;
    Ok(Some((path, hosts)))
}

/// The registry called `name` itself, with the certificates that lie in a directory for it below
/// `root`, and the directory; `None` where none do.
pub(crate) fn certificates(root: &Path, name: &str) -> Result<Option<(PathBuf, RegistryHost)>> {
    let Some(dir) = find(root, name) else { return Ok(None) };
    let host = with_certificates(&dir)?;
    let some = !host.ca_certs.is_empty() || !host.client_certs.is_empty();
    Ok(some.then_some((dir, host)))
}

fn with_certificates(dir: &Path) -> Result<RegistryHost> {
    let what = || format!("read {}", dir.display());
    let mut host = RegistryHost::default();
    for entry in fs_err::read_dir(dir).context(ErrorKind::InvalidArgument, what)? {
        let path = entry.context(ErrorKind::InvalidArgument, what)?.path();
        let (other, is_cert) = match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => {
                host.ca_certs.push(path);
                continue;
            }
            Some("cert") => (path.with_extension("key"), true),
            Some("key") => (path.with_extension("cert"), false),
            _ => continue,
        };
        if !other.is_file() {
            let message = format!("{}: {} is not there", what(), other.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if is_cert {
            host.client_certs.push(ClientCert { cert: path, key: other });
        }
    }
    host.ca_certs.sort();
    host.client_certs.sort_by(|a, b| a.cert.cmp(&b.cert));
    Ok(host)
}

struct Reading<'a> {
    dir: &'a Path,
    /// The registry's name.
    name: &'a str,
}

impl Reading<'_> {
    fn file(&self, table: &Table) -> Result<Vec<RegistryHost>> {
        let (mut hosts, mut server, mut own, mut overrides) =
            (Vec::new(), None, RegistryHost::default(), false);
        for (key, value) in table {
            match (key.as_str(), value) {
                ("server", Value::String(address)) => server = Some(address),
                ("host", Value::Table(sections)) => {
                    for (address, section) in sections {
                        let Value::Table(section) = section else {
                            return Err(self.invalid("host"));
                        };
                        hosts.push(self.section(address, section)?);
                    }
                }
                ("server" | "host", _) => return Err(self.invalid(key)),
                _ => self.setting(&mut own, &mut overrides, (key, value))?,
            }
        }
        if let Some(server) = server.filter(|server| !server.is_empty()) {
            own.address = Some(self.address(server, overrides)?);
        }
        hosts.push(own);
        Ok(hosts)
    }

    fn section(&self, address: &str, section: &Table) -> Result<RegistryHost> {
        let (mut host, mut overrides) = (RegistryHost::default(), false);
        for (key, value) in section {
            self.setting(&mut host, &mut overrides, (key, value))?;
        }
        host.address = Some(self.address(address, overrides)?);
        Ok(host)
    }

    /// Reads an address; `/v2` follows its path where that does not replace it.
    fn address(&self, text: &str, overrides: bool) -> Result<Url> {
        let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let mut url: Url = whole.parse().context(ErrorKind::InvalidArgument, || {
            format!("read host {text:?} in {}", self.dir.join("hosts.toml").display())
        })?;
        let strange = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if !matches!(url.scheme(), "http" | "https") || strange {
            return Err(self.invalid(&format!("host {text:?}")));
        }
        let path = url.path().trim_end_matches('/').to_owned();
        let path = if overrides || path.ends_with("/v2") { path } else { format!("{path}/v2") };
        url.set_path(&path);
        if hosts::is_own(self.name, &url) {
            hosts::settle(&mut url);
        }
        Ok(url)
    }

    fn setting(
        &self,
        host: &mut RegistryHost,
        overrides: &mut bool,
        (key, value): (&str, &Value),
    ) -> Result<()> {
        match (key, value) {
            ("capabilities", value) => {
                host.capabilities = self.capabilities(&self.texts(key, value)?)?;
            }
            ("ca", value) => {
                let files = self.texts(key, value)?;
                host.ca_certs.extend(files.iter().map(|file| self.dir.join(file)));
            }
            ("client", value) => host.client_certs.extend(self.client(value)?),
            ("skip_verify", Value::Boolean(skip)) => host.insecure = Some(*skip),
            ("header", Value::Table(header)) => {
                for (name, value) in header {
                    let values = self.texts(key, value)?;
                    self.header(host, name, &values)?;
                }
            }
            ("override_path", Value::Boolean(replaces)) => *overrides = *replaces,
            ("dial_timeout", Value::String(text)) => {
                host.connect_timeout = Some(duration(text).ok_or_else(|| self.invalid(key))?);
            }
            ("skip_verify" | "header" | "override_path" | "dial_timeout", _) => {
                return Err(self.invalid(key));
            }
            _ => {
                let path = self.dir.join("hosts.toml");
                let message = format!("read {}: the setting {key:?} is not known", path.display());
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
        }
        Ok(())
    }

    fn capabilities(&self, capabilities: &[String]) -> Result<Capabilities> {
        let capabilities: Vec<_> =
            capabilities.iter().map(|capability| capability.to_ascii_lowercase()).collect();
        let known = ["pull", "resolve", "push", "referrers"];
        if capabilities.iter().any(|capability| !known.contains(&capability.as_str())) {
            let all = known.join(", ");
            let path = self.dir.join("hosts.toml");
            let message = format!("read capabilities in {}: there are {all}", path.display());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        if capabilities.is_empty() {
            return Ok(Capabilities::ALL);
        }
        let has = |what: &str| capabilities.iter().any(|capability| capability == what);
        Ok(Capabilities {
            pull: has("pull"),
            resolve: has("resolve"),
            push: has("push"),
            referrers: has("referrers"),
        })
    }

    /// A file with both certificate and key, several of them, or pairs of files.
    fn client(&self, value: &Value) -> Result<Vec<ClientCert>> {
        let malformed = || self.invalid("client");
        let pair = |cert: &str, key: &str| {
            let key = if key.is_empty() { cert } else { key };
            ClientCert { cert: self.dir.join(cert), key: self.dir.join(key) }
        };
        match value {
            Value::String(both) => Ok(vec![pair(both, "")]),
            Value::Array(values) => values
                .iter()
                .map(|value| match value {
                    Value::String(both) => Ok(pair(both, "")),
                    Value::Array(files) => match files.as_slice() {
                        [Value::String(both)] => Ok(pair(both, "")),
                        [Value::String(cert), Value::String(key)] => Ok(pair(cert, key)),
                        _ => Err(malformed()),
                    },
                    _ => Err(malformed()),
                })
                .collect(),
            _ => Err(malformed()),
        }
    }

    fn header(&self, host: &mut RegistryHost, name: &str, values: &[String]) -> Result<()> {
        let what = || format!("read header {name:?} in {}", self.dir.display());
        let name: HeaderName = name.parse().context(ErrorKind::InvalidArgument, what)?;
        for value in values {
            let mut value: HeaderValue = value.parse().context(ErrorKind::InvalidArgument, what)?;
            value.set_sensitive(true);
            host.headers.append(&name, value);
        }
        Ok(())
    }

    /// A text, or several.
    fn texts(&self, key: &str, value: &Value) -> Result<Vec<String>> {
        let texts = match value {
            Value::String(text) => Some(vec![text.clone()]),
            Value::Array(values) => {
                values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
            }
            _ => None,
        };
        texts.ok_or_else(|| self.invalid(key))
    }

    fn invalid(&self, key: &str) -> Error {
        let message = format!("read {key} in {}/hosts.toml: it is malformed", self.dir.display());
        Error::new(ErrorKind::InvalidArgument, message)
    }
}

/// Reads a duration as Go writes them: `1m30s`, `500ms`, `1.5s`.
fn duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|time| !time.is_zero())
}

#[cfg(test)]
#[path = "host_dir_tests.rs"]
mod tests;
