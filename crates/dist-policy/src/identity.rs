//! What an image is called, and under which name a signature may speak of it.

use std::path::{Path, PathBuf};

use dist_core::{Context as _, Digest, ErrorKind, Reference, Result};
use url::Url;

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A registry.
    Registry,
    /// An OCI layout directory.
    Layout,
    /// An OCI layout as an archive.
    LayoutArchive,
    /// An archive for docker.
    DockerArchive,
    /// A web server: a file or a directory by its address.
    Address,
}

impl Transport {
    /// The scheme before the names, which registries have not, and which scopes of addresses begin with.
    #[must_use]
    pub fn scheme(self) -> Option<&'static str> {
        match self {
            Self::Registry | Self::Address => None,
            Self::Layout => Some("oci"),
            Self::LayoutArchive => Some("oci-archive"),
            Self::DockerArchive => Some("docker-archive"),
        }
    }
}

/// An image as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// In a registry.
    Registry(Reference),
    /// In a directory or an archive.
    Path {
        /// What kind of.
        transport: Transport,
        /// Its absolute path.
        path: PathBuf,
        /// The tag in it.
        tag: Option<String>,
    },
    /// At an address, without query and fragment.
    Address(Url),
}

impl Subject {
    /// Where the name leads.
    #[must_use]
    pub fn transport(&self) -> Transport {
        match self {
            Self::Registry(_) => Transport::Registry,
            Self::Path { transport, .. } => *transport,
            Self::Address(_) => Transport::Address,
        }
    }

    /// The scopes that it is in, the narrowest first; the last, an empty one, has all of the
    /// transport.
    #[must_use]
    pub fn scopes(&self) -> Vec<String> {
        let mut scopes = Vec::new();
        match self {
            Self::Registry(reference) => {
                let locator = reference.locator();
                scopes.extend(reference.tag().map(|tag| format!("{locator}:{tag}")));
                scopes.extend(reference.digest().map(|digest| format!("{locator}@{digest}")));
                let mut rest = locator.as_str();
                loop {
                    scopes.push(rest.to_owned());
                    let Some((parent, _)) = rest.rsplit_once('/') else { break };
                    rest = parent;
                }
                let mut host = reference.hostname();
                while let Some((_, parent)) = host.split_once('.') {
                    scopes.push(format!("*.{parent}"));
                    host = parent;
                }
            }
            Self::Path { path, tag, .. } => {
                scopes.extend(tag.as_ref().map(|tag| format!("{}:{tag}", path.display())));
                scopes.extend(path.ancestors().map(|path| path.display().to_string()));
            }
            Self::Address(url) => {
                let origin = url.origin().ascii_serialization();
                let path = unescaped(url.path());
                let mut path = path.trim_end_matches('/');
                loop {
                    scopes.push(format!("{origin}{path}"));
                    let Some((parent, _)) = path.rsplit_once('/') else { break };
                    path = parent;
                }
                scopes.push(format!("{}:", url.scheme()));
            }
        }
        scopes.push(String::new());
        scopes
    }
}

/// Under which name a signature has to speak of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Under any, or none: the digest alone counts.
    Digest,
    /// Its tag or digest as it was asked for.
    Exact,
    /// That, or its repository where it was asked for by digest.
    RepositoryDigestOrExact,
    /// Its repository, whatever the tag.
    Repository,
    /// This tag or digest.
    ExactReference(String),
    /// This repository.
    ExactRepository(String),
    /// As [`Identity::RepositoryDigestOrExact`], of a name that begins otherwise.
    Remap {
        /// How the image's name begins.
        prefix: String,
        /// How the signed name begins instead.
        signed_prefix: String,
    },
}

impl Identity {
    /// Reads `digest`, `repository`, `exact`, or a name with a tag, a digest or neither.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no name either.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "digest" => Self::Digest,
            "repository" => Self::Repository,
            "exact" => Self::Exact,
            name => {
                let reference = Reference::parse(name)
                    .context(ErrorKind::InvalidArgument, || format!("read identity {name:?}"))?;
                match (reference.tag(), reference.digest()) {
                    (None, None) => Self::ExactRepository(name.to_owned()),
                    _ => Self::ExactReference(name.to_owned()),
                }
            }
        })
    }

    /// Whether a signature that calls the image `signed` is one for `subject`.
    #[must_use]
    pub fn allows(&self, subject: &Subject, signed: Option<&str>) -> bool {
        if *self == Self::Digest {
            return true;
        }
        let Some(signed) = signed.and_then(Name::parse) else { return false };
        match self {
            Self::Digest => true,
            Self::ExactReference(wanted) => {
                Name::parse(wanted).is_some_and(|wanted| signed.is_exactly(&wanted))
            }
            Self::ExactRepository(wanted) => {
                Name::parse(wanted).is_some_and(|wanted| signed.repository == wanted.repository)
            }
            Self::Exact => subject.name().is_some_and(|wanted| signed.is_exactly(&wanted)),
            Self::Repository => {
                subject.name().is_some_and(|wanted| signed.repository == wanted.repository)
            }
            Self::RepositoryDigestOrExact => {
                subject.name().is_some_and(|wanted| signed.is_or_has_digest(&wanted))
            }
            Self::Remap { prefix, signed_prefix } => {
                let Some(mut wanted) = subject.name() else { return false };
                if let Some(rest) = below(prefix, &wanted.repository) {
                    wanted.repository = format!("{signed_prefix}{rest}");
                }
                signed.is_or_has_digest(&wanted)
            }
        }
    }
}

/// What of `name` comes after a prefix that ends where a part of it does.
fn below<'a>(prefix: &str, name: &'a str) -> Option<&'a str> {
    let rest = name.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

impl Subject {
    fn name(&self) -> Option<Name> {
        match self {
            Self::Registry(reference) => Some(Name {
                repository: reference.locator(),
                tag: reference.tag().map(str::to_owned),
                digest: reference.digest().copied(),
            }),
            Self::Path { .. } | Self::Address(_) => None,
        }
    }
}

/// A name of an image that may have neither tag nor digest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Name {
    fn parse(text: &str) -> Option<Self> {
        let reference = Reference::parse_familiar(text).ok()?;
        let (name, _) = text.split_once('@').unwrap_or((text, ""));
        let last = name.rsplit('/').next().unwrap_or_default();
        Some(Self {
            repository: reference.locator(),
            tag: reference.tag().filter(|_| last.contains(':')).map(str::to_owned),
            digest: reference.digest().copied(),
        })
    }

    /// The same tag, or the same digest where the image was asked for by that alone.
    fn is_exactly(&self, wanted: &Self) -> bool {
        if self.repository != wanted.repository {
            return false;
        }
        match (&wanted.tag, &wanted.digest) {
            (Some(tag), _) => self.tag.as_ref() == Some(tag),
            (None, Some(digest)) => self.tag.is_none() && self.digest.as_ref() == Some(digest),
            (None, None) => false,
        }
    }

    fn is_or_has_digest(&self, wanted: &Self) -> bool {
        match (&wanted.tag, &wanted.digest) {
            (None, Some(_)) => self.repository == wanted.repository,
            _ => self.is_exactly(wanted),
        }
    }
}

/// A path of an address in which everything that need not be escaped is not (RFC 3986, 6.2.2.2): a rule is
/// for it however it is written.
fn unescaped(path: &str) -> String {
    let mut parts = path.split('%');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()).map(char::from) {
            Some(sign) if sign.is_ascii_alphanumeric() || "-._~".contains(sign) => plain.push(sign),
            Some(_) => {
                plain.extend(['%'].into_iter().chain(part[..2].to_ascii_uppercase().chars()))
            }
            None => plain.push('%'),
        }
        plain.push_str(if code.is_some() { &part[2..] } else { part });
    }
    plain
}

/// Makes a path absolute, without links, as far as it is there.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    fs_err::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}

impl Subject {
    /// An image whose name is no reference, and leads nowhere.
    #[must_use]
    pub fn unnamed(name: &str) -> Self {
        Self::Path { transport: Transport::DockerArchive, path: name.into(), tag: None }
    }

    /// An image at an address.
    #[must_use]
    pub fn at_address(mut url: Url) -> Self {
        url.set_query(None);
        url.set_fragment(None);
        Self::Address(url)
    }

    /// An image in a directory or an archive; the path is made absolute.
    #[must_use]
    pub fn at(transport: Transport, path: &Path, tag: Option<&str>) -> Self {
        Self::Path { transport, path: absolute(path), tag: tag.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(text: &str) -> Subject {
        Subject::Registry(Reference::parse_familiar(text).unwrap())
    }

    #[test]
    fn scopes_go_from_narrow_to_wide() {
        let scopes = subject("quay.io:1/team/app:2").scopes();
        let wanted =
            ["quay.io:1/team/app:2", "quay.io:1/team/app", "quay.io:1/team", "quay.io:1", "*.io:1"];
        assert_eq!(scopes[..5], wanted);
        assert_eq!(scopes[5..], [""]);
        let scopes = subject("a.b.example.com/x").scopes();
        assert!(scopes.contains(&"*.b.example.com".to_owned()), "{scopes:?}");
        assert!(scopes.contains(&"*.com".to_owned()), "{scopes:?}");
        let layout = Subject::at(Transport::Layout, Path::new("/no/such/dir"), Some("1"));
        let wanted = ["/no/such/dir:1", "/no/such/dir", "/no/such", "/no", "/", ""];
        assert_eq!(layout.scopes(), wanted);
        let address = |text: &str| Subject::at_address(text.parse().unwrap()).scopes();
        let wanted = ["https://h.io/a/b.tar", "https://h.io/a", "https://h.io", "https:", ""];
        assert_eq!(address("https://H.io:443/a/b.tar?token=1#7"), wanted);
        assert_eq!(address("https://h.io/x/../a/b.tar/"), wanted);
        assert_eq!(address("https://h.io/%61/b%2etar"), wanted);
        assert_eq!(address("https://h.io/a%2f%zz%")[0], "https://h.io/a%2F%zz%");
        assert_eq!(address("http://h.io:81/"), ["http://h.io:81", "http:", ""]);
    }

    #[test]
    fn identities() {
        let digest = Digest::sha256(b"x");
        let by_digest = format!("h.io/a/b@{digest}");
        let remap = |prefix: &str, signed: &str| Identity::Remap {
            prefix: prefix.into(),
            signed_prefix: signed.into(),
        };
        let exact = |text: &str| Identity::ExactReference(text.into());
        let repository = |text: &str| Identity::ExactRepository(text.into());
        use Identity::{Digest as Any, Exact, Repository, RepositoryDigestOrExact as Usual};
        for (identity, asked, signed, allowed) in [
            (Any, "h.io/a/b:1", None, true),
            (Repository, "h.io/a/b:1", None, false),
            (Repository, "h.io/a/b:1", Some("h.io/a/b"), true),
            (Repository, "h.io/a/b:1", Some("h.io/a/b:2"), true),
            (Repository, "h.io/a/b:1", Some("h.io/a/bb"), false),
            (Repository, "h.io/a/b:1", Some("h.io/a"), false),
            (Repository, "h.io/a/b:1", Some("not a name"), false),
            (Repository, "busybox", Some("docker.io/library/busybox:1"), true),
            (Exact, "h.io/a/b:1", Some("h.io/a/b:1"), true),
            (Exact, "h.io/a/b:1", Some("h.io/a/b:2"), false),
            (Exact, "h.io/a/b:1", Some("h.io/a/b"), false),
            (Exact, "h.io/a/b:latest", Some("h.io/a/b"), false),
            (Exact, &by_digest, Some("h.io/a/b:1"), false),
            (Exact, &by_digest, Some(&by_digest), true),
            (Usual, "h.io/a/b:1", Some("h.io/a/b:1"), true),
            (Usual, "h.io/a/b:1", Some("h.io/a/b:2"), false),
            (Usual, "h.io/a/b:1", Some("h.io/a/b"), false),
            (Usual, &by_digest, Some("h.io/a/b:1"), true),
            (Usual, &by_digest, Some("h.io/a/c:1"), false),
            (exact("q.io/z:9"), "h.io/a/b:1", Some("q.io/z:9"), true),
            (exact("q.io/z:9"), "h.io/a/b:1", Some("h.io/a/b:1"), false),
            (repository("q.io/z"), "h.io/a/b:1", Some("q.io/z:any"), true),
            (repository("q.io/z"), "h.io/a/b:1", Some("q.io/zz:any"), false),
            (remap("h.io/a", "q.io"), "h.io/a/b:1", Some("q.io/b:1"), true),
            (remap("h.io/a", "q.io"), "h.io/a/b:1", Some("h.io/a/b:1"), false),
            (remap("h.io/x", "q.io"), "h.io/a/b:1", Some("h.io/a/b:1"), true),
            (remap("h.io/a", "q.io"), "h.io/ab/c:1", Some("q.iob/c:1"), false),
        ] {
            let got = identity.allows(&subject(asked), signed);
            assert_eq!(got, allowed, "{identity:?}: {asked} signed as {signed:?}");
        }
        let layout = Subject::at(Transport::Layout, Path::new("/x"), None);
        assert!(!Repository.allows(&layout, Some("h.io/a/b:1")));
        assert!(exact("h.io/a/b:1").allows(&layout, Some("h.io/a/b:1")));
    }
}
