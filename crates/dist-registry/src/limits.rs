//! How much a registry still gives, as Docker's says it.
//!
//! ```text
//! HEAD /v2/<repository>/manifests/<tag>
//! ratelimit-limit: 100;w=21600          pulls in so many seconds
//! ratelimit-remaining: 76;w=21600
//! docker-ratelimit-source: 192.0.2.1    who they are counted for: an address or an account
//! ```
//!
//! A `HEAD` is not counted as a pull.

use dist_core::{MediaType, Reference};
use http::{HeaderMap, Method};

use crate::escape;
use crate::failure::Failed;
use crate::registry::Ask;
use crate::route::Stop;

/// What a registry says about how much it gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The host that said it.
    pub host: String,
    /// How many pulls there may be in a window.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: Option<u64>,
    /// How long the window is, in seconds.
    pub window: Option<u64>,
    /// Who they are counted for.
    pub source: Option<String>,
}

/// Asks the host for what it says with a manifest.
pub(crate) async fn ask(stop: &Stop, reference: &Reference) -> Result<Limits, Box<Failed>> {
    let object = match reference.digest() {
        Some(digest) => digest.to_string(),
        None => reference.tag().unwrap_or("latest").to_owned(),
    };
    let accept = MediaType::accepted().map(|media_type| media_type.as_str().to_owned());
    let ask = Ask {
        accept: Some(accept.join(", ")),
        ..Ask::new(Method::HEAD, &stop.repository, format!("manifests/{object}"))
    };
    let answer = stop.registry.ask(&ask, &mut stop.registry.tries()).await?;
    Ok(Limits { host: stop.registry.name().to_owned(), ..read(answer.response.headers()) })
}

fn read(headers: &HeaderMap) -> Limits {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let limit = text("ratelimit-limit").map(quota);
    let remaining = text("ratelimit-remaining").map(quota);
    let window = [limit, remaining].into_iter().flatten().find_map(|(_, window)| window);
    Limits {
        host: String::new(),
        limit: limit.and_then(|(count, _)| count),
        remaining: remaining.and_then(|(count, _)| count),
        window,
        source: text("docker-ratelimit-source").map(escape::text),
    }
}

/// Reads `<count>;w=<seconds>`.
fn quota(text: &str) -> (Option<u64>, Option<u64>) {
    let mut parts = text.split(';').map(str::trim);
    let count = parts.next().and_then(|count| count.parse().ok());
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    (count, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas() {
        for (text, expected) in [
            ("100;w=21600", (Some(100), Some(21600))),
            ("100", (Some(100), None)),
            ("100, 100;w=60", (None, Some(60))),
            (" 5 ; x=1; w=2", (Some(5), Some(2))),
            ("many;w=long", (None, None)),
        ] {
            assert_eq!(quota(text), expected, "{text}");
        }
        assert_eq!(read(&HeaderMap::new()), Limits::default());
    }
}
