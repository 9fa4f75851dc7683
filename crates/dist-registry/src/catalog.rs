//! What a registry lists: its repositories, and the tags of one.
//!
//! ```text
//! GET /v2/_catalog                    {"repositories":[...]}
//! GET /v2/<repository>/tags/list      {"tags":[...]}
//! Link: <address>; rel="next"         where there is more
//! ```
//!
//! Distribution-spec, "Listing Tags"; the catalog is an extension that not every registry has.

use dist_core::{ErrorKind, Limit, MAX_DOCUMENT_BYTES, Result};
use http::Method;
use http::header::LINK;
use url::Url;

use crate::failure::{Failed, Problem};
use crate::registry::{Access, Ask, Registry};
use crate::route::{Stop, Turns};
use crate::transport::Answer;

/// Pages of one list.
const MAX_PAGES: usize = 100_000;

#[derive(serde::Deserialize)]
struct Page {
    /// Of a repository without tags, some say nothing.
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

/// Reads a list of the first of several hosts that has one, page by page, and hands each to `take`.
pub(crate) async fn list_of(
    stops: Vec<Stop>,
    take: &mut (dyn FnMut(Vec<String>) -> Result<()> + Send),
) -> Result<(), Problem> {
    let Some(mut turns) = Turns::new(stops) else { return Ok(()) };
    let mut took = false;
    loop {
        let mut take = |page| {
            took = true;
            take(page)
        };
        let stop = &turns.stop;
        match list(&stop.registry, &stop.repository, &mut take).await {
            // Two hosts' lists never meet in one.
            Err(Problem::Failed(failed)) if !took => turns.after(failed)?,
            listed => return listed,
        }
    }
}

/// Reads a list page by page and hands each to `take`.
async fn list(
    registry: &Registry,
    repository: &str,
    take: &mut (dyn FnMut(Vec<String>) -> Result<()> + Send),
) -> Result<(), Problem> {
    let mut ask = match repository {
        "" => Ask { access: Access::Catalog, ..Ask::new(Method::GET, "", "_catalog".to_owned()) },
        _ => Ask::new(Method::GET, repository, "tags/list".to_owned()),
    };
    let mut tries = registry.tries();
    for _ in 0..MAX_PAGES {
        let answer = registry.ask(&ask, &mut tries).await?;
        let next = next(&answer)?;
        let shown = answer.failed(ErrorKind::Unavailable, "the answer is no list");
        let mut body = answer.into_body(registry.stall());
        let bytes = match body.collect("list-size", MAX_DOCUMENT_BYTES).await {
            Ok(bytes) => bytes,
            Err(failed) => {
                tries.pause(failed).await?;
                continue;
            }
        };
        // An array would do for the fields of a struct, too.
        let page = serde_json::from_slice::<serde_json::Map<_, _>>(&bytes)
            .and_then(|object| serde_json::from_value::<Page>(object.into()))
            .map_err(|error| shown.because(error))?;
        let names = if repository.is_empty() { page.repositories } else { page.tags };
        take(names.unwrap_or_default())?;
        tries.progressed();
        match next {
            // A page that leads to itself would be read for ever.
            Some(next) if ask.at.as_ref() != Some(&next) => ask.at = Some(next),
            _ => return Ok(()),
        }
    }
    let limit = Limit { name: "list-pages", limit: MAX_PAGES as u64 };
    let failed = Failed::new(
        ErrorKind::ResourceExhausted,
        &Method::GET,
        ask.at.as_ref().unwrap_or(&registry.base()),
        "the list does not end",
    );
    Err(failed.because(limit).into())
}

/// The address of the page that follows; only one of the same registry.
fn next(answer: &Answer) -> Result<Option<Url>, Box<Failed>> {
    let Some(link) = answer.header(LINK) else { return Ok(None) };
    let Some(target) = target(link) else { return Ok(None) };
    match answer.url.join(target) {
        Ok(next) if crate::hosts::same_origin(&next, &answer.url) => Ok(Some(next)),
        _ => {
            let problem = "the list goes on at an address of another server";
            Err(answer.failed(ErrorKind::Unavailable, problem))
        }
    }
}

/// What a `Link` header says is next (RFC 8288).
fn target(link: &str) -> Option<&str> {
    let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
    let is_next = |parameter: &str| {
        let Some((name, value)) = parameter.split_once('=') else { return false };
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    };
    parameters.split([';', ',']).any(is_next).then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        for (link, expected) in [
            (r#"</v2/_catalog?last=b&n=2>; rel="next""#, Some("/v2/_catalog?last=b&n=2")),
            ("<https://h/x>;rel=next", Some("https://h/x")),
            (r#"</x>; title="a"; REL="Next""#, Some("/x")),
            (r#"</x>; rel="prev""#, None),
            ("</x>", None),
            ("/x; rel=next", None),
            ("", None),
        ] {
            assert_eq!(target(link), expected, "{link}");
        }
    }
}
