//! `WWW-Authenticate`: what a registry wants before it answers (RFC 9110, 11.6.1).
//!
//! ```text
//! Bearer realm="https://auth.example.com/token",service="example.com",scope="repository:a:pull"
//! Basic realm="registry"
//! ```
//!
//! The strict parser goes first. Registries in the field leave quotes away, so a lenient one has a
//! second look at what it refuses.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use http_auth::ChallengeParser;

/// The longest challenge that is read; real ones have some 200 bytes.
const MAX_BYTES: usize = 8 << 10;

/// One way to authenticate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User and password with each request.
    Basic,
    /// A token from the server at `realm`.
    Bearer {
        /// The token server's address, as written.
        realm: String,
        /// What the token server knows the registry as.
        service: Option<String>,
    },
}

/// Picks the challenge to answer: a bearer token before a password; `None` where there is none
/// that can be understood.
pub(crate) fn pick(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = None;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Some(text) = value.to_str().ok().filter(|text| text.len() <= MAX_BYTES) else {
            continue;
        };
        for (scheme, params) in strict(text).or_else(|| lenient(text)).unwrap_or_default() {
            let param = |name: &str| {
                params
                    .iter()
                    .find(|(key, _)| key.eq_ignore_ascii_case(name))
                    .map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = param("realm") {
                    return Some(Challenge::Bearer { realm, service: param("service") });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

type Parsed = Vec<(String, Vec<(String, String)>)>;

fn strict(text: &str) -> Option<Parsed> {
    ChallengeParser::new(text)
        .map(|challenge| {
            let challenge = challenge.ok()?;
            let params = challenge.params.iter();
            let params = params.map(|(key, value)| ((*key).to_owned(), value.to_unescaped()));
            Some((challenge.scheme.to_owned(), params.collect()))
        })
        .collect()
}

/// Words are split at commas and blanks outside quotes; a word without `=` opens a challenge.
fn lenient(text: &str) -> Option<Parsed> {
    let mut parsed: Parsed = Vec::new();
    for word in words(text)? {
        match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                parsed.last_mut()?.1.push((key.to_owned(), value.to_owned()));
            }
            _ => parsed.push((word, Vec::new())),
        }
    }
    Some(parsed)
}

/// `None` where a quote is not closed.
fn words(text: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' if quoted => words.last_mut()?.push(chars.next()?),
            ',' | ' ' | '\t' if !quoted => words.push(String::new()),
            c => words.last_mut()?.push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    (!quoted).then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        pick(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
    }

    #[test]
    fn forms() {
        let docker = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        assert_eq!(
            read(&[docker]),
            bearer("https://auth.docker.io/token", Some("registry.docker.io"))
        );
        assert_eq!(read(&[r#"Basic realm="x""#]), Some(Challenge::Basic));
        assert_eq!(read(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(
            read(&[r#"Basic realm="x", Bearer realm="https://a/t""#]),
            bearer("https://a/t", None)
        );
        assert_eq!(
            read(&[r#"Basic realm="x""#, r#"bearer REALM="https://a/t""#]),
            bearer("https://a/t", None)
        );
        assert_eq!(
            read(&["Bearer realm=https://a/t,service=a b"]),
            bearer("https://a/t", Some("a"))
        );
        assert_eq!(
            read(&["Bearer realm=https://a/t?x=1, service=\"s\", scope=repository:a:pull"]),
            bearer("https://a/t?x=1", Some("s"))
        );
    }

    #[test]
    fn junk() {
        let endless = format!("Bearer realm=\"{}", "a".repeat(1 << 16));
        for text in
            ["", "Bearer", "Bearer realm=\"https://a", "Negotiate", "=,=", "realm=\"x\"", &endless]
        {
            assert_eq!(read(&[text]), None, "{text:.40}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[ -~]{0,80}") {
            let _ = read(&[&text]);
        }

        #[test]
        fn lenient_reads_what_strict_reads(realm in "[a-z:/.?=&]{1,20}", service in "[a-z .,]{0,9}") {
            let text = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
            prop_assert_eq!(strict(&text), lenient(&text));
        }
    }
}
