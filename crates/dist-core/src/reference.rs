//! References to images in registries: `host[:port]/path[:tag][@digest]`.
//!
//! The grammar is that of the OCI distribution-spec ("Pulling manifests") with the domain part that
//! every client adds. Four views of one text: the *locator* (`host/path`), the *object*
//! (`tag@digest`, either may be absent), the *hostname* and the *digest*.

use std::fmt;

use crate::Digest;

/// A name in a registry, always valid.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: Box<str>,
    repository: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

/// Why a text is no [`Reference`], and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at byte {at})")]
pub struct ReferenceError {
    /// The offset in bytes of the first thing that is wrong.
    pub at: usize,
    /// What is wrong.
    pub problem: &'static str,
}

const LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;
const TAG_LIMIT: usize = 128;

fn err<T>(at: usize, problem: &'static str) -> Result<T, ReferenceError> {
    Err(ReferenceError { at, problem })
}

impl Reference {
    /// Parses a full reference; no default is added.
    ///
    /// # Errors
    /// Where the text does not match the grammar.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() > LIMIT {
            return err(LIMIT, "a reference may have at most 4096 bytes");
        }
        let Some(slash) = text.find('/') else {
            return err(
                text.len(),
                "a reference needs a host and a path: host/path[:tag][@digest]",
            );
        };
        let registry = &text[..slash];
        check_registry(registry)?;
        let rest = &text[slash + 1..];
        let (name, digest) = match rest.split_once('@') {
            None => (rest, None),
            Some((name, digest)) => {
                let at = slash + 1 + name.len() + 1;
                let digest = digest.parse().map_err(|_| ReferenceError {
                    at,
                    problem: "after @ comes a digest: sha256: and 64 hex digits, or sha512: and 128",
                })?;
                (name, Some(digest))
            }
        };
        let (path, tag) = match name.split_once(':') {
            None => (name, None),
            Some((path, tag)) => {
                check_tag(tag, slash + 1 + path.len() + 1)?;
                (path, Some(tag.into()))
            }
        };
        check_path(path, slash + 1)?;
        if slash + 1 + path.len() > NAME_LIMIT {
            return err(NAME_LIMIT, "host and path may have at most 255 bytes together");
        }
        Ok(Self { registry: registry.into(), repository: path.into(), tag, digest })
    }

    /// Parses what people write: `redis` is `docker.io/library/redis:latest`.
    ///
    /// The first path component is a host where it has a `.` or a `:` or is `localhost`; where
    /// there is none the host is `docker.io`, and a single-component path gets `library/`. Without
    /// tag and digest the tag is `latest`.
    ///
    /// # Errors
    /// Where the text does not match the grammar.
    pub fn parse_familiar(text: &str) -> Result<Self, ReferenceError> {
        let end = text.find('@').unwrap_or(text.len());
        let first = text[..end].find('/').map(|slash| &text[..slash]);
        let has_host =
            first.is_some_and(|first| first.contains(['.', ':', '[']) || first == "localhost");
        let prefix = match (has_host, first) {
            (true, _) => "",
            (false, Some(_)) => "docker.io/",
            (false, None) => "docker.io/library/",
        };
        let full = format!("{prefix}{text}");
        let mut reference = Self::parse(&full).map_err(|error| ReferenceError {
            at: error.at.saturating_sub(prefix.len()),
            ..error
        })?;
        if matches!(&*reference.registry, "index.docker.io" | "registry-1.docker.io") {
            reference.registry = "docker.io".into();
        }
        if &*reference.registry == "docker.io" && !reference.repository.contains('/') {
            reference.repository = format!("library/{}", reference.repository).into();
        }
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some("latest".into());
        }
        Ok(reference)
    }

    /// The registry: `host[:port]`.
    #[must_use]
    pub fn hostname(&self) -> &str {
        &self.registry
    }

    /// The path inside the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `host[:port]/path`.
    #[must_use]
    pub fn locator(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `tag`, `@digest`, `tag@digest`, or nothing.
    #[must_use]
    pub fn object(&self) -> String {
        let mut object = self.tag.as_deref().unwrap_or_default().to_owned();
        if let Some(digest) = &self.digest {
            object.push('@');
            object.push_str(&digest.to_string());
        }
        object
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same name pinned to `digest`, without its tag.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn check_registry(text: &str) -> Result<(), ReferenceError> {
    let (host, port, port_at) = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else {
            return err(text.len(), "an IPv6 host ends with ]");
        };
        if address.parse::<std::net::Ipv6Addr>().is_err() {
            return err(1, "between [ and ] stands an IPv6 address without a zone");
        }
        match after.strip_prefix(':') {
            Some(port) => ("", Some(port), text.len() - port.len()),
            None if after.is_empty() => ("", None, 0),
            None => return err(address.len() + 2, "after ] comes :port"),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port), host.len() + 1),
            None => (text, None, 0),
        }
    };
    if !text.starts_with('[') {
        let mut at = 0;
        for label in host.split('.') {
            if label.is_empty() {
                return err(at, "a host is made of names separated by single dots");
            }
            if let Some(bad) = label.find(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
                return err(at + bad, "a host may only hold letters, digits, '-' and '.'");
            }
            if label.starts_with('-') || label.ends_with('-') {
                return err(at, "a name in a host may not begin or end with '-'");
            }
            at += label.len() + 1;
        }
    }
    match port {
        None => Ok(()),
        Some(port)
            if port.len() <= 5
                && port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(())
        }
        Some(_) => err(port_at, "a port is a number from 1 to 65535"),
    }
}

fn check_path(path: &str, start: usize) -> Result<(), ReferenceError> {
    let mut at = start;
    for component in path.split('/') {
        check_component(component, at)?;
        at += component.len() + 1;
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn check_component(component: &str, start: usize) -> Result<(), ReferenceError> {
    if component.is_empty() {
        return err(start, "a path component may not be empty");
    }
    let mut separator_at = Some(0); // where the current run of separators began
    for (at, c) in component.char_indices() {
        match c {
            'a'..='z' | '0'..='9' => {
                if let Some(from) = separator_at
                    && from < at
                    && !matches!(&component[from..at], "." | "_" | "__")
                    && !component[from..at].bytes().all(|b| b == b'-')
                {
                    return err(
                        start + from,
                        "path separators are '.', '_', '__' or any number of '-'",
                    );
                }
                if separator_at == Some(0) && at > 0 {
                    return err(
                        start,
                        "a path component begins with a lower-case letter or a digit",
                    );
                }
                separator_at = None;
            }
            '.' | '_' | '-' => {
                if separator_at.is_none() {
                    separator_at = Some(at);
                } else if at == 0 {
                    return err(
                        start,
                        "a path component begins with a lower-case letter or a digit",
                    );
                }
            }
            'A'..='Z' => return err(start + at, "a path may not hold upper-case letters"),
            _ => return err(start + at, "a path may only hold a-z, 0-9, '.', '_', '-' and '/'"),
        }
    }
    if separator_at.is_some() {
        return err(
            start + component.len(),
            "a path component ends with a lower-case letter or a digit",
        );
    }
    Ok(())
}

fn check_tag(tag: &str, start: usize) -> Result<(), ReferenceError> {
    if tag.is_empty() {
        return err(start, "after : comes a tag");
    }
    for (at, c) in tag.char_indices() {
        let word = c.is_ascii_alphanumeric() || c == '_';
        if !(word || (at > 0 && matches!(c, '.' | '-'))) {
            return err(
                start + at,
                "a tag may only hold letters, digits, '_', and after its first character '.' and '-'",
            );
        }
    }
    if tag.len() > TAG_LIMIT {
        return err(start + TAG_LIMIT, "a tag may have at most 128 characters");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn familiar() {
        for (text, full) in [
            ("redis", "docker.io/library/redis:latest"),
            ("redis:7", "docker.io/library/redis:7"),
            ("library/redis", "docker.io/library/redis:latest"),
            ("user/app:1", "docker.io/user/app:1"),
            ("docker.io/redis", "docker.io/library/redis:latest"),
            ("index.docker.io/library/redis:7", "docker.io/library/redis:7"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/library/redis:7", "localhost:5000/library/redis:7"),
            ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("a--b/c__d.e", "docker.io/a--b/c__d.e:latest"),
            (&format!("redis@sha256:{HEX}"), &format!("docker.io/library/redis@sha256:{HEX}")),
            (&format!("redis:7@sha256:{HEX}"), &format!("docker.io/library/redis:7@sha256:{HEX}")),
        ] {
            assert_eq!(Reference::parse_familiar(text).unwrap().to_string(), full, "{text}");
        }
    }

    #[test]
    fn views() {
        let r = Reference::parse(&format!("h:1/a/b:t@sha256:{HEX}")).unwrap();
        assert_eq!((r.hostname(), r.repository(), r.tag()), ("h:1", "a/b", Some("t")));
        assert_eq!(r.locator(), "h:1/a/b");
        assert_eq!(r.object(), format!("t@sha256:{HEX}"));
        let r = Reference::parse(&format!("h/a@sha256:{HEX}")).unwrap();
        assert_eq!((r.tag(), r.object()), (None, format!("@sha256:{HEX}")));
        assert_eq!(Reference::parse("h/a").unwrap().object(), "");
    }

    #[test]
    fn hostile() {
        for (text, at) in [
            ("", 0),
            (" ", 0),
            ("UPPER/x", 0),
            ("x:@", 3),
            ("x@sha256:", 2),
            ("a//b", 2),
            ("../x", 0),
            ("x:tag:tag", 5),
            ("-rf", 0),
            ("x\ny", 1),
            ("r\u{435}dis", 1),
            ("user:pass@host/x", 10),
            ("h.io:0/x", 5),
            ("h.io:99999/x", 5),
            ("h.io./x", 5),
            ("[fe80::1%eth0]/x", 1),
            ("h.io/x:", 7),
            ("a-/b", 2),
            ("a..b/c", 2),
            ("h.io/x?q=1", 6),
            ("/x", 0),
        ] {
            assert_eq!(
                Reference::parse_familiar(text).map(|r| r.to_string()).unwrap_err().at,
                at,
                "{text:?}"
            );
        }
        assert!(Reference::parse_familiar(&"a".repeat(5000)).is_err());
        assert!(Reference::parse_familiar(&format!("a:{}", "t".repeat(129))).is_err());
        assert!(Reference::parse("redis").is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            if let Ok(r) = Reference::parse_familiar(&text) {
                prop_assert_eq!(Reference::parse(&r.to_string()).unwrap(), r);
            }
        }

        #[test]
        fn near_misses_never_panic(text in "[a-c.:/@_\\[\\]-]{0,24}(@sha256:[0-9a-f]{0,64})?") {
            for parse in [Reference::parse, Reference::parse_familiar] {
                match parse(&text) {
                    Ok(r) => prop_assert_eq!(Reference::parse(&r.to_string()).unwrap(), r),
                    Err(error) => prop_assert!(error.at <= text.len(), "{} > {}", error.at, text.len()),
                }
            }
        }

        #[test]
        fn round_trip(host in "[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,3}(:[1-9][0-9]{0,3})?", path in "[a-z0-9]{1,8}((\\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}(/[a-z0-9]{1,8}){0,3}", tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,30})?") {
            let text = format!("{host}/{path}{tag}");
            prop_assert_eq!(Reference::parse(&text).unwrap().to_string(), text);
        }
    }
}
