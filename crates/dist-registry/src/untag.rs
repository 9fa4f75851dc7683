//! Tags taken away, and no other tag of the same manifest.
//!
//! ```text
//! DELETE /v2/<repository>/manifests/<tag>       where the registry can do that
//! ```
//!
//! Many can't (docker-registry 2.8 among them): they delete manifests, by digest, with all of their
//! tags. There the tag is moved to a manifest that nothing else can have, and that one is deleted.
//! Whether the registry deletes at all is tried with another such manifest before. Distribution-spec,
//! "Deleting Tags".

use bytes::Bytes;
use dist_core::{Digest, ErrorKind, MediaType, Result};
use http::Method;
use serde_json::json;

use crate::failure::{Failed, Problem};
use crate::payload::Payload;
use crate::registry::{Access, Ask, Registry};
use crate::transport;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// The config of manifests that only stand in.
const EMPTY: &[u8] = b"{}";

/// Takes a tag away.
pub(crate) async fn untag(registry: &Registry, repository: &str, tag: &str) -> Result<(), Problem> {
    let untagging = Untagging { registry, repository };
    match untagging.delete(tag).await {
        Err(failed) if matches!(failed.failure.status, Some(400 | 405 | 501)) => {}
        deleted => return Ok(deleted?),
    }
    // Nothing there is nothing to delete, and nothing to put another in the place of.
    untagging.ask(Method::HEAD, format!("manifests/{tag}"), Payload::Absent).await?;
    untagging.put_config().await?;
    let (digest, manifest) = stand_in();
    untagging.put(&digest.to_string(), manifest).await?;
    untagging.delete(&digest.to_string()).await.map_err(|mut failed| {
        if failed.failure.status == Some(501) {
            failed.kind = ErrorKind::Unsupported;
        }
        failed
    })?;
    let (digest, manifest) = stand_in();
    untagging.put(tag, manifest).await?;
    Ok(untagging.delete(&digest.to_string()).await?)
}

/// A manifest of no layers that no other is like.
fn stand_in() -> (Digest, Bytes) {
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": CONFIG,
            "digest": Digest::sha256(EMPTY).to_string(),
            "size": EMPTY.len(),
        },
        "layers": [],
        "annotations": { "dist.untag": uuid::Uuid::new_v4().to_string() },
    });
    let bytes = manifest.to_string().into_bytes();
    (Digest::sha256(&bytes), bytes.into())
}

struct Untagging<'a> {
    registry: &'a Registry,
    repository: &'a str,
}

impl Untagging<'_> {
    async fn ask(
        &self,
        method: Method,
        rest: String,
        payload: Payload,
    ) -> Result<transport::Answer, Box<Failed>> {
        let mut ask = Ask::new(method, self.repository, rest);
        (ask.access, ask.payload) = (Access::Delete, payload);
        // docker-registry says of an index that is not asked for that there is nothing.
        let types = MediaType::accepted().map(|media_type| media_type.as_str().to_owned());
        ask.accept = Some(format!("{}, */*;q=0.5", types.join(", ")));
        self.registry.ask(&ask, &mut self.registry.tries()).await
    }

    async fn delete(&self, object: &str) -> Result<(), Box<Failed>> {
        self.ask(Method::DELETE, format!("manifests/{object}"), Payload::Absent).await.map(drop)
    }

    async fn put(&self, object: &str, manifest: Bytes) -> Result<(), Box<Failed>> {
        let payload = Payload::Document(MANIFEST.to_owned(), manifest);
        self.ask(Method::PUT, format!("manifests/{object}"), payload).await.map(drop)
    }

    async fn put_config(&self) -> Result<(), Box<Failed>> {
        let digest = Digest::sha256(EMPTY);
        let head = self.ask(Method::HEAD, format!("blobs/{digest}"), Payload::Absent).await;
        if head.is_ok() {
            return Ok(());
        }
        let opened = self.ask(Method::POST, "blobs/uploads/".to_owned(), Payload::Empty).await?;
        let Some(Ok(location)) = transport::location(&opened.response, &opened.url) else {
            let problem = "the registry does not say where to send the content";
            return Err(opened.failed(ErrorKind::Unavailable, problem));
        };
        let mut ask = Ask::new(Method::PUT, self.repository, String::new());
        ask.access = Access::Delete;
        ask.at = Some(location);
        ask.query.push(("digest", digest.to_string()));
        ask.payload =
            Payload::Document("application/octet-stream".to_owned(), Bytes::from_static(EMPTY));
        self.registry.ask(&ask, &mut self.registry.tries()).await.map(drop)
    }
}
