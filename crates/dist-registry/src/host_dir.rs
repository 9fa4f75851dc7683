//! `hosts.toml`: what a directory says about how registries are reached.
//!
//! ```text
//! DIR/<host>_<port>_/   or  DIR/<host>[:<port>]/  or  DIR/_default/
//!     hosts.toml              settings, as containerd reads them
//!     *.crt                   without hosts.toml: authorities to trust
//! ```
//!
//! The registry itself may be described: `server`, and one section `[host."URL"]` for it, with
//! `capabilities`, `ca`, `skip_verify` and `header`. Mirrors, client certificates and all else are
//! refused, since a part of what is written there could mean less safety than the whole.

use std::path::Path;

use dist_core::{Context, Error, ErrorKind, Result};
use http::{HeaderName, HeaderValue};
use toml::{Table, Value};
use url::Url;

use crate::{RegistryOptions, hosts};

/// The most bytes that `hosts.toml` may have.
const MAX_BYTES: u64 = 1 << 20;

/// What is to be done with a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Images come from it.
    Pull,
    /// Images go to it.
    Push,
}

impl RegistryOptions {
    /// Adds what the directory `root` says about the registry called `name`. Reads files.
    ///
    /// # Errors
    /// `InvalidArgument` for settings that are none; `Unsupported` for those that are not built, a
    /// mirror for instance; both name the file.
    pub fn with_host_dir(self, root: &Path, name: &str, purpose: Purpose) -> Result<Self> {
        let underlined = name.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
        let names = underlined.into_iter().chain([name.to_owned(), "_default".to_owned()]);
        let Some(dir) = names.map(|name| root.join(name)).find(|dir| dir.is_dir()) else {
            return Ok(self);
        };
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
            return with_certificates(self, &dir);
        }
        let table: Table = text.parse().context(ErrorKind::InvalidArgument, what)?;
        let mut reading = Reading { options: self, dir: &dir, name, pushes: true };
        reading.file(&table)?;
        if purpose == Purpose::Push && !reading.pushes {
            return Err(unsupported(&dir, "push to a registry without the capability push"));
        }
        Ok(reading.options)
    }
}

/// Trusts the authorities that lie in a directory.
fn with_certificates(mut options: RegistryOptions, dir: &Path) -> Result<RegistryOptions> {
    let what = || format!("read {}", dir.display());
    let mut authorities = Vec::new();
    for entry in fs_err::read_dir(dir).context(ErrorKind::InvalidArgument, what)? {
        let path = entry.context(ErrorKind::InvalidArgument, what)?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => authorities.push(path),
            Some("cert" | "key") => return Err(unsupported(dir, "show a client's certificate")),
            _ => {}
        }
    }
    authorities.sort();
    options.ca_certs.extend(authorities);
    Ok(options)
}

struct Reading<'a> {
    options: RegistryOptions,
    dir: &'a Path,
    /// The registry's name.
    name: &'a str,
    pushes: bool,
}

impl Reading<'_> {
    fn file(&mut self, table: &Table) -> Result<()> {
        for (key, value) in table {
            match (key.as_str(), value) {
                ("server", Value::String(server)) => self.server(server)?,
                ("host", Value::Table(_)) => {}
                _ => self.setting(key, value)?,
            }
        }
        let Some(Value::Table(sections)) = table.get("host") else { return Ok(()) };
        if sections.len() > 1 {
            return Err(unsupported(self.dir, "try several hosts"));
        }
        for (server, section) in sections {
            let Value::Table(section) = section else { return Err(self.invalid("host")) };
            self.server(server)?;
            section.iter().try_for_each(|(key, value)| self.setting(key, value))?;
        }
        Ok(())
    }

    /// Takes the scheme of an address that must be the registry's own.
    fn server(&mut self, server: &str) -> Result<()> {
        let whole =
            if server.contains("://") { server.to_owned() } else { format!("https://{server}") };
        let url: Url = whole.parse().context(ErrorKind::InvalidArgument, || {
            format!("read server {server:?} in {}", self.dir.display())
        })?;
        let scheme = url.scheme();
        if !matches!(scheme, "http" | "https") {
            return Err(self.invalid("server"));
        }
        let named = Url::parse(&format!("{scheme}://{}/", self.name)).ok();
        let own = hosts::base(self.name, scheme).ok();
        let is = |other: Option<Url>| other.is_some_and(|other| hosts::same_origin(&other, &url));
        if !(is(own) || is(named)) || !matches!(url.path(), "" | "/" | "/v2" | "/v2/") {
            let asked = format!("ask {server} for what {} has", self.name);
            return Err(unsupported(self.dir, &asked));
        }
        self.options.plain_http = scheme == "http";
        Ok(())
    }

    fn setting(&mut self, key: &str, value: &Value) -> Result<()> {
        match (key, value) {
            ("capabilities", value) => self.capabilities(&self.texts(key, value)?)?,
            ("ca", value) => {
                let files = self.texts(key, value)?;
                self.options.ca_certs.extend(files.iter().map(|file| self.dir.join(file)));
            }
            ("skip_verify", Value::Boolean(skip)) => self.options.insecure = *skip,
            ("header", Value::Table(header)) => {
                for (name, value) in header {
                    let values = self.texts(key, value)?;
                    self.header(name, &values)?;
                }
            }
            ("override_path", Value::Boolean(false)) => {}
            ("skip_verify" | "header", _) => return Err(self.invalid(key)),
            _ => return Err(unsupported(self.dir, &format!("use the setting {key:?}"))),
        }
        Ok(())
    }

    fn capabilities(&mut self, capabilities: &[String]) -> Result<()> {
        let known = ["pull", "resolve", "push", "referrers"];
        if capabilities.iter().any(|capability| !known.contains(&capability.as_str())) {
            return Err(self.invalid("capabilities"));
        }
        let has = |what: &str| capabilities.iter().any(|capability| capability == what);
        if !(has("pull") && has("resolve")) {
            return Err(unsupported(self.dir, "do without the capabilities pull and resolve"));
        }
        self.pushes = has("push");
        Ok(())
    }

    fn header(&mut self, name: &str, values: &[String]) -> Result<()> {
        let what = || format!("read header {name:?} in {}", self.dir.display());
        let name: HeaderName = name.parse().context(ErrorKind::InvalidArgument, what)?;
        for value in values {
            let mut value: HeaderValue = value.parse().context(ErrorKind::InvalidArgument, what)?;
            value.set_sensitive(true);
            self.options.headers.append(&name, value);
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

fn unsupported(dir: &Path, what: &str) -> Error {
    let message = format!("{what}, as {} says: this is not built", dir.display());
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str, purpose: Purpose) -> Result<RegistryOptions> {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join(name.replace(":5000", "_5000_"));
        fs_err::create_dir(&dir).unwrap();
        fs_err::write(dir.join("hosts.toml"), text).unwrap();
        RegistryOptions::default().with_host_dir(root.path(), name, purpose)
    }

    #[test]
    fn a_registry_is_described() {
        let text = r#"
            server = "https://r.test:5000"
            [host."http://r.test:5000"]
            capabilities = ["pull", "resolve"]
            ca = ["a.pem", "/b.pem"]
            skip_verify = true
            override_path = false
            [host."http://r.test:5000".header]
            x-one = "1"
            x-two = ["2", "3"]
        "#;
        let options = read("r.test:5000", text, Purpose::Pull).unwrap();
        assert!(options.plain_http && options.insecure);
        assert!(options.ca_certs[0].is_absolute() && options.ca_certs[0].ends_with("a.pem"));
        assert_eq!(options.ca_certs[1], Path::new("/b.pem"));
        let values: Vec<_> = options.headers.get_all("x-two").iter().collect();
        assert_eq!((values.len(), &options.headers["x-one"]), (2, &HeaderValue::from_static("1")));
        let error = read("r.test:5000", text, Purpose::Push).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        for server in ["https://registry-1.docker.io", "docker.io", "https://docker.io/v2"] {
            let text = format!("server = {server:?}");
            assert!(!read("docker.io", &text, Purpose::Push).unwrap().plain_http, "{server}");
        }
    }

    #[test]
    fn what_is_not_built_is_refused_and_so_is_nonsense() {
        for (text, kind) in [
            ("[host.\"https://mirror.test\"]", ErrorKind::Unsupported),
            ("[host.\"http://r.test\"]\n[host.\"https://r.test\"]", ErrorKind::Unsupported),
            ("server = \"https://mirror.test\"", ErrorKind::Unsupported),
            ("server = \"https://r.test/cache\"", ErrorKind::Unsupported),
            ("capabilities = [\"pull\"]", ErrorKind::Unsupported),
            ("client = \"/client.pem\"", ErrorKind::Unsupported),
            ("override_path = true", ErrorKind::Unsupported),
            ("dial_timeout = \"1s\"", ErrorKind::Unsupported),
            ("server = \"ftp://r.test\"", ErrorKind::InvalidArgument),
            ("capabilities = [\"fly\"]", ErrorKind::InvalidArgument),
            ("skip_verify = \"yes\"", ErrorKind::InvalidArgument),
            ("ca = 1", ErrorKind::InvalidArgument),
            ("header = { \"a b\" = \"c\" }", ErrorKind::InvalidArgument),
            ("server =", ErrorKind::InvalidArgument),
        ] {
            let error = read("r.test", text, Purpose::Pull).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}: {error}");
        }
    }

    #[test]
    fn certificates_lie_where_there_are_no_settings() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("_default");
        let open =
            || RegistryOptions::default().with_host_dir(root.path(), "r.test", Purpose::Pull);
        assert!(open().unwrap().ca_certs.is_empty());
        fs_err::create_dir(&dir).unwrap();
        fs_err::write(dir.join("a.crt"), "").unwrap();
        assert_eq!(open().unwrap().ca_certs, [dir.join("a.crt")]);
        fs_err::write(dir.join("b.key"), "").unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Unsupported);
    }
}
