//! Files with credentials: read, looked through, and written so that what is not understood stays.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dist_core::{Context, Error, ErrorKind, Result};
use serde_json::{Map, Value, json};

use super::helper::Helper;
use super::{Credentials, Origin, registry_name, server_key};

const MAX_BYTES: u64 = 4 << 20;

/// A file with credentials, as JSON.
pub(super) struct File {
    path: PathBuf,
    root: Map<String, Value>,
}

/// Where [`store`] put the credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Into the file itself, as good as in clear text.
    File,
    /// Into the keeping of the credential helper of this name.
    Helper(String),
}

/// Files the credentials for `registry`: with the helper that `path` names for it, else in `path`
/// itself. The file is made (mode 0600) where it is missing, and replaced in one step.
///
/// # Errors
/// As [`super::CredentialSource::find`].
pub async fn store(
    path: &Path,
    registry: &str,
    credentials: &Credentials,
    helper_timeout: Duration,
) -> Result<Stored> {
    let name = registry_name(registry);
    let mut file = File::read(path)?.unwrap_or_else(|| File::empty(path));
    let helper = file.helper(&name).map(str::to_owned);
    let (entry, stored) = match helper {
        Some(helper) => {
            Helper::new(&helper, helper_timeout)?.store(server_key(&name), credentials).await?;
            (json!({}), Stored::Helper(helper))
        }
        None => {
            let entry = match credentials.identity() {
                Some(token) => {
                    let auth = STANDARD.encode(format!("{}:", credentials.account()));
                    json!({ "auth": auth, "identitytoken": token })
                }
                None => {
                    let pair = format!("{}:{}", credentials.username(), credentials.secret());
                    json!({ "auth": STANDARD.encode(pair) })
                }
            };
            (entry, Stored::File)
        }
    };
    file.remove(&name)?;
    file.auths_mut()?.insert(server_key(&name).to_owned(), entry);
    file.write()?;
    Ok(stored)
}

/// Takes the credentials for `registry` out of `path` and of the helper that it names; returns
/// whether there were any.
///
/// # Errors
/// As [`super::CredentialSource::find`].
pub async fn erase(path: &Path, registry: &str, helper_timeout: Duration) -> Result<bool> {
    let name = registry_name(registry);
    let Some(mut file) = File::read(path)? else { return Ok(false) };
    let mut erased = false;
    if let Some(helper) = file.helper(&name) {
        erased |= Helper::new(helper, helper_timeout)?.erase(server_key(&name)).await?;
    }
    if file.remove(&name)? {
        file.write()?;
        erased = true;
    }
    Ok(erased)
}

impl File {
    fn empty(path: &Path) -> Self {
        Self { path: path.to_owned(), root: Map::new() }
    }

    /// Reads a file; `None` where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let what = || format!("read credentials {}", path.display());
        let invalid = |problem: &'static str| {
            Error::new(ErrorKind::InvalidArgument, format!("{}: {problem}", what()))
        };
        let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = match OpenOptions::new().read(true).custom_flags(nonblock).open(path) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::new(ErrorKind::Storage, what()).with_source(error)),
        };
        let meta = file.metadata().context(ErrorKind::Storage, what)?;
        if !meta.is_file() {
            return Err(invalid("it is no regular file"));
        }
        if meta.mode() & 0o077 != 0 {
            tracing::warn!(file = %path.display(), mode = format_args!("{:o}", meta.mode() & 0o777),
                "other users may read these credentials; chmod 600 prevents it");
        }
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).context(ErrorKind::Storage, what)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(invalid("it has more than 4 MiB"));
        }
        let root = if bytes.trim_ascii().is_empty() {
            Map::new()
        } else {
            // The parser's own words could quote a secret; only the place is passed on.
            serde_json::from_slice(&bytes).map_err(|error| {
                Error::new(
                    ErrorKind::InvalidArgument,
                    format!(
                        "{}: no JSON object (line {}, column {})",
                        what(),
                        error.line(),
                        error.column()
                    ),
                )
            })?
        };
        Ok(Some(Self { path: path.to_owned(), root }))
    }

    pub(super) async fn find(
        &self,
        registry: &str,
        repository: &str,
        helper_timeout: Duration,
    ) -> Result<Option<(Credentials, Origin)>> {
        let origin = |key: Option<&str>, helper: Option<&str>| Origin {
            file: Some(self.path.clone()),
            key: key.map(str::to_owned),
            helper: helper.map(str::to_owned),
        };
        let ask = async |name: &str| {
            let found = Helper::new(name, helper_timeout)?.get(server_key(registry)).await?;
            Ok::<_, Error>(found.map(|found| (found, origin(None, Some(name)))))
        };
        if let Some(helper) = self.own_helper(registry)
            && let Some(found) = ask(helper).await?
        {
            return Ok(Some(found));
        }
        for key in keys(registry, repository) {
            for (filed, entry) in self.auths().filter(|(filed, _)| normal(filed) == key) {
                if let Some(found) = self.entry(entry, &key)? {
                    return Ok(Some((found, origin(Some(filed), None))));
                }
            }
        }
        match self.root.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty()) {
            Some(helper) => ask(helper).await,
            None => Ok(None),
        }
    }

    /// Reads one entry of `auths`; an empty one says that a helper has it.
    fn entry(&self, entry: &Value, key: &str) -> Result<Option<Credentials>> {
        let text =
            |name: &str| entry.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let invalid = || {
            Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "read credentials {}: the auth of {key} is not base64 of user:password",
                    self.path.display()
                ),
            )
        };
        let pair = match text("auth") {
            None => None,
            Some(auth) => {
                let bytes = STANDARD.decode(auth.trim()).map_err(|_| invalid())?;
                let pair = String::from_utf8(bytes).map_err(|_| invalid())?;
                let (user, password) = pair.split_once(':').ok_or_else(invalid)?;
                Some((user.to_owned(), password.trim_end_matches('\0').to_owned()))
            }
        };
        let pair = pair.or_else(|| Some((text("username")?.into(), text("password")?.into())));
        Ok(match (text("identitytoken"), pair) {
            (Some(token), pair) => {
                let user = pair.map(|(user, _)| user).unwrap_or_default();
                Some(Credentials::identity_token(user, token))
            }
            (None, pair) => pair.map(|(user, password)| Credentials::password(user, password)),
        })
    }

    /// What there is something about: registries, and paths below them.
    pub(super) fn keys(&self) -> Vec<String> {
        let helpers = self.root.get("credHelpers").and_then(Value::as_object);
        let own = helpers.into_iter().flatten().map(|(key, _)| normal(key));
        self.auths().map(|(key, _)| normal(key)).chain(own).collect()
    }

    fn auths(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.root.get("auths").and_then(Value::as_object).into_iter().flatten()
    }

    fn auths_mut(&mut self) -> Result<&mut Map<String, Value>> {
        let invalid = Error::new(
            ErrorKind::InvalidArgument,
            format!("read credentials {}: auths is no object", self.path.display()),
        );
        let auths = self.root.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        auths.as_object_mut().ok_or(invalid)
    }

    /// The helper for this registry alone.
    fn own_helper(&self, registry: &str) -> Option<&str> {
        let helpers = self.root.get("credHelpers")?.as_object()?;
        let (_, helper) = helpers.iter().find(|(key, _)| normal(key) == registry)?;
        helper.as_str().filter(|name| !name.is_empty())
    }

    /// The helper for this registry, or for all.
    fn helper(&self, registry: &str) -> Option<&str> {
        self.own_helper(registry).or_else(|| {
            self.root.get("credsStore").and_then(Value::as_str).filter(|name| !name.is_empty())
        })
    }

    /// Removes every entry for the registry itself.
    fn remove(&mut self, registry: &str) -> Result<bool> {
        if !self.root.contains_key("auths") {
            return Ok(false);
        }
        let auths = self.auths_mut()?;
        let before = auths.len();
        auths.retain(|key, _| normal(key) != registry);
        Ok(auths.len() < before)
    }

    /// Replaces the file in one step.
    fn write(&self) -> Result<()> {
        // Where the file is a link, what it leads to is replaced, and the link stays.
        let path = fs_err::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let what = || format!("write credentials {}", path.display());
        let parent = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .context(ErrorKind::Storage, what)?;
        }
        let mut text = serde_json::to_vec_pretty(&self.root).context(ErrorKind::Internal, what)?;
        text.push(b'\n');
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = parent.join(format!(".{name}.{}", std::process::id()));
        let written = write_new(&temporary, &text)
            .and_then(|()| std::fs::rename(&temporary, &path))
            .and_then(|()| std::fs::File::open(parent)?.sync_all());
        if written.is_err() {
            let _ = std::fs::remove_file(&temporary); // it may never have been made
        }
        written.context(ErrorKind::Storage, what)
    }
}

fn write_new(path: &Path, text: &[u8]) -> std::io::Result<()> {
    // One of an earlier process with this number would be in the way.
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// The keys under which a repository's credentials may be filed, most specific first.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = repository;
    while !path.is_empty() {
        keys.push(format!("{registry}/{path}"));
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    keys.push(registry.to_owned());
    keys
}

/// A key as it was filed, in the form of [`keys`].
fn normal(filed: &str) -> String {
    let bare = filed.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare.split_once('/') {
        None => registry_name(bare),
        Some((host, path)) => format!("{}/{path}", registry_name(host)),
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
