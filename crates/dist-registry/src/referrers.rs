//! What refers to a manifest.
//!
//! ```text
//! GET /v2/<repository>/referrers/<digest>   an index; `Link: <...>; rel="next"` where there is more
//! ```
//!
//! Distribution-spec, "Listing Referrers". A registry that does not know the question says 404; what
//! there may be then is under the tag `<algorithm>-<hex>`.

use dist_core::{
    Context as _, Descriptor, Digest, Error, ErrorKind, Limit, MAX_DOCUMENT_BYTES, MediaType,
    Referrer, Result, ResultExt as _,
};
use http::Method;
use http::header::LINK;
use serde_json::value::RawValue;
use url::Url;

use crate::failure::{Again, Failed};
use crate::hosts;
use crate::registry::{Ask, Registry};
use crate::transport::Answer;

/// The most pages that a list may have.
const MOST_PAGES: u32 = 1000;

/// The most bytes that all pages of a list may have together: some ten thousand entries.
const MOST_BYTES: u64 = 16 << 20;

/// Lists what refers to `subject`; `None` where the registry keeps no such lists.
pub(crate) async fn list(
    registry: &Registry,
    repository: &str,
    subject: &Digest,
) -> Result<Option<Vec<Referrer>>> {
    let what = || format!("list what refers to {subject}");
    let mut tries = registry.tries();
    let mut ask = Ask::new(Method::GET, repository, format!("referrers/{subject}"));
    ask.accept = Some(MediaType::Index.as_str().to_owned());
    let (mut found, mut size) = (Vec::new(), 0);
    for _ in 0..MOST_PAGES {
        let (next, bytes) = loop {
            let failed = match page(registry, &ask, &mut tries).await {
                Ok(Some(page)) => break page,
                Ok(None) => return Ok(None),
                Err(failed) => failed,
            };
            tries.pause(failed).await.map_err(|failed| failed.into_error(what()))?;
        };
        size += bytes.len() as u64;
        if size > MOST_BYTES {
            let source = Limit { name: "referrers-size", limit: MOST_BYTES };
            return Err(Error::new(ErrorKind::ResourceExhausted, what()).with_source(source));
        }
        found.extend(read_referrers(&bytes).during(what)?);
        match next {
            Some(next) => ask.at = Some(next),
            None => return Ok(Some(found)),
        }
    }
    let source = Limit { name: "referrers-pages", limit: u64::from(MOST_PAGES) };
    Err(Error::new(ErrorKind::ResourceExhausted, what()).with_source(source))
}

async fn page(
    registry: &Registry,
    ask: &Ask,
    tries: &mut crate::retry::Tries,
) -> Result<Option<(Option<Url>, Vec<u8>)>, Box<Failed>> {
    let answer = match registry.ask_once(ask, tries.deadline()).await {
        Ok(answer) => answer,
        Err(failed) if matches!(failed.failure.status, Some(400 | 404..=406 | 410 | 501)) => {
            return Ok(None);
        }
        Err(failed) => return Err(failed),
    };
    // A page for people, from a server that has no such place.
    if !answer.header(http::header::CONTENT_TYPE).is_some_and(|text| text.contains("json")) {
        return Ok(None);
    }
    let next = next(&answer)?;
    let mut body = answer.into_body(registry.stall());
    let bytes = body.collect("referrers-size", MAX_DOCUMENT_BYTES).await;
    bytes.map(|bytes| Some((next, bytes))).map_err(|mut failed| {
        if failed.kind == ErrorKind::Unavailable {
            failed.again = Again::Later;
        }
        failed
    })
}

/// Where the list goes on: at the same server, or nowhere.
fn next(answer: &Answer) -> Result<Option<Url>, Box<Failed>> {
    let Some(link) = answer.header(LINK) else { return Ok(None) };
    let Some((target, rest)) = link.trim().strip_prefix('<').and_then(|link| link.split_once('>'))
    else {
        return Ok(None);
    };
    if !rest.replace('"', "").contains("rel=next") {
        return Ok(None);
    }
    match answer.url.join(target) {
        Ok(next) if hosts::same_origin(&next, &answer.url) && next != answer.url => Ok(Some(next)),
        _ => {
            let problem = "the list goes on where nobody will go";
            Err(answer.failed(ErrorKind::Unavailable, problem))
        }
    }
}

/// Reads the entries of an index that lists referrers, with all that it says of them.
///
/// # Errors
/// `Corrupt`.
pub fn read_referrers(bytes: &[u8]) -> Result<Vec<Referrer>> {
    // Entries are read one by one: their texts take no more than they do on the wire.
    #[derive(serde::Deserialize)]
    struct Page<'a> {
        #[serde(default, borrow)]
        manifests: Vec<&'a RawValue>,
    }
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Entry {
        artifact_type: Option<String>,
    }
    let read = |value: &RawValue| {
        let Entry { artifact_type } = serde_json::from_str(value.get())?;
        let desc: Descriptor = serde_json::from_str(value.get())?;
        Ok(Referrer { desc, artifact_type })
    };
    let page = serde_json::from_slice::<Page>(bytes);
    let entries = page.and_then(|page| page.manifests.into_iter().map(read).collect());
    entries.context(ErrorKind::Corrupt, || "read the list of referrers".into())
}

/// Whether a tag is one of those under which something lies that refers to an image: an index of
/// referrers, or what cosign keeps.
#[must_use]
pub fn is_attachment_tag(tag: &str) -> bool {
    let Some((algorithm, rest)) = tag.split_once('-') else { return false };
    let hex = rest.split('.').next().unwrap_or_default();
    format!("{algorithm}:{hex}").parse::<Digest>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_of_attachments() {
        let hex = "a".repeat(64);
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig")] {
            assert!(is_attachment_tag(&tag), "{tag}");
        }
        for tag in ["1", "sha256-ab", "sha256", "v1-2.sig"] {
            assert!(!is_attachment_tag(tag), "{tag}");
        }
    }

    #[test]
    fn entries_keep_their_type_and_annotations() {
        let digest = Digest::sha256(b"x");
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "digest":"{digest}","size":1,"artifactType":"a/b","annotations":{{"k":"v"}}}}]}}"#
        );
        let found = read_referrers(text.as_bytes()).unwrap();
        assert_eq!(found[0].desc.digest, digest);
        assert_eq!(found[0].desc.annotations["k"], "v");
        assert_eq!(found[0].artifact_type.as_deref(), Some("a/b"));
        assert!(read_referrers(b"{}").unwrap().is_empty());
        assert!(read_referrers(b"<html>").is_err());
    }
}
