//! The file of `dist sync`: its grammar. A key that nobody knows is an error.

use std::path::Path;

use dist::{CopyOptions, Platforms, SyncItem, TagFilter, TagRules};
use dist_core::{Context as _, Error, ErrorKind, Platform, Reference, Result, ResultExt as _};
use serde::Deserialize;

use crate::config::read_toml;
use crate::reference;

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    /// Where repositories go that do not say it themselves, each under its path.
    destination: Option<String>,
    /// How many tags are copied at once.
    at_once: Option<usize>,
    #[serde(default)]
    repository: Vec<Repository>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Repository {
    source: String,
    destination: Option<String>,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    exclude: Vec<String>,
    regex: Option<String>,
    semver: Option<String>,
    suffix: Option<String>,
    #[serde(default)]
    prereleases: bool,
    newest: Option<usize>,
    #[serde(default)]
    platforms: Vec<String>,
    referrers: Option<bool>,
}

/// Tags that are copied at once where nobody says how many.
const AT_ONCE: usize = 4;

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` with the line of what is wrong.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let what = || format!("read {}", path.display());
        let file: Self = read_toml(path)?;
        if file.repository.is_empty() {
            let message = format!("{}: it has no [[repository]]", what());
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(file)
    }

    /// How many tags are copied at once.
    pub(super) fn at_once(&self) -> usize {
        self.at_once.unwrap_or(AT_ONCE).clamp(1, 64)
    }

    /// What is to be copied, `jobs` blobs of a tag at once.
    pub(super) fn items(self, jobs: usize) -> Result<Vec<SyncItem>> {
        let common = self.destination;
        self.repository
            .into_iter()
            .map(|repository| {
                let source = repository.source.clone();
                repository
                    .item(common.as_deref(), jobs)
                    .during(|| format!("read repository {source:?}"))
            })
            .collect()
    }
}

impl Repository {
    fn item(self, common: Option<&str>, jobs: usize) -> Result<SyncItem> {
        let invalid = |message: &'static str| Error::new(ErrorKind::InvalidArgument, message);
        let source = repository(&self.source)?;
        let destination = match (self.destination, common) {
            (Some(own), _) => own,
            (None, Some(common)) => {
                format!("{}/{}", common.trim_end_matches('/'), source.repository())
            }
            (None, None) => return Err(invalid("say its destination, or one for all")),
        };
        if dist_core::scheme(&destination, reference::SCHEMES).is_none() {
            repository(&destination)?;
        }
        let platforms: Vec<Platform> = self
            .platforms
            .iter()
            .map(|text| {
                text.parse()
                    .context(ErrorKind::InvalidArgument, || format!("read platform {text:?}"))
            })
            .collect::<Result<_>>()?;
        let platforms = Platforms::from(platforms);
        let tags = TagFilter::new(TagRules {
            tags: self.tags,
            exclude: self.exclude,
            regex: self.regex,
            semver: self.semver,
            suffix: self.suffix,
            prereleases: self.prereleases,
            newest: self.newest,
        })?;
        let copy = CopyOptions { platforms, referrers: self.referrers.unwrap_or(true), jobs };
        Ok(SyncItem { source: source.locator(), destination, tags, copy })
    }
}

/// Reads a name that has neither tag nor digest.
fn repository(text: &str) -> Result<Reference> {
    let name = reference::parse(text)?;
    let typed = text.rsplit('/').next().unwrap_or_default();
    if name.digest().is_some() || typed.contains(':') {
        let message = format!("read repository {text:?}: it has a tag or a digest");
        return Err(Error::new(ErrorKind::InvalidArgument, message));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Result<Vec<SyncItem>> {
        let file: File = crate::config::parse_toml(text)
            .context(ErrorKind::InvalidArgument, || "read".to_owned())?;
        file.items(1)
    }

    #[test]
    fn places() {
        let text = r#"
            destination = "mirror.example.com/all/"
            [[repository]]
            source = "redis"
            tags = ["7"]
            [[repository]]
            source = "ghcr.io/a/b"
            destination = "oci:/srv/b"
            platforms = ["linux/amd64"]
            referrers = false
        "#;
        let items = items(text).unwrap();
        assert_eq!(items[0].source, "docker.io/library/redis");
        assert_eq!(items[0].destination, "mirror.example.com/all/library/redis");
        assert!(matches!(items[0].copy.platforms, Platforms::All) && items[0].copy.referrers);
        assert_eq!(items[1].destination, "oci:/srv/b");
        assert!(matches!(items[1].copy.platforms, Platforms::One(_)) && !items[1].copy.referrers);
    }

    #[test]
    fn mistakes() {
        for text in [
            "unknown = 1",
            "[[repository]]\nsource = \"a\"",
            "[[repository]]\nsource = \"a:1\"\ndestination = \"h.io/b\"",
            "[[repository]]\nsource = \"a\"\ndestination = \"h.io/b:1\"",
            "[[repository]]\nsource = \"A\"\ndestination = \"h.io/b\"",
            "[[repository]]\nsource = \"a\"\ndestination = \"h.io/b\"\nregex = \"(\"",
            "[[repository]]\nsource = \"a\"\ndestination = \"h.io/b\"\nplatforms = [\"\"]",
            "[[repository]]\nsource = \"a\"\ndestination = \"h.io/b\"\nnewest = -1",
        ] {
            let error = items(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
    }
}
