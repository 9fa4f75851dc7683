//! Content into registries.
//!
//! ```text
//! HEAD /v2/<repository>/blobs/<digest>                                is it there?
//! POST /v2/<repository>/blobs/uploads/?mount=<digest>&from=<other>    201: taken from there
//! POST /v2/<repository>/blobs/uploads/                                202: Location to send it to
//! PUT  <location>?digest=<digest>                                     all of it at once
//! GET  <location>                                                     how much came before it broke
//!
//! HEAD /v2/<repository>/manifests/<tag or digest>                     is it that one?
//! PUT  /v2/<repository>/manifests/<tag or digest>
//! ```
//!
//! What happens to a blob is in `upload.rs`. Distribution-spec, "Pushing".

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    ContentMismatch, Descriptor, Digest, Error, ErrorKind, Event, Fetcher, Limit,
    MAX_DOCUMENT_BYTES, Progress, Pushed, Pusher, Reference, Result,
};
use futures_util::StreamExt as _;
use http::Method;
use tokio::time::Instant;

use crate::escape;
use crate::failure::{Again, Failed, Problem};
use crate::payload::Payload;
use crate::registry::{Access, Ask, Registry};
use crate::resolver::DIGEST_HEADER;
use crate::retry::Tries;
use crate::transport::Answer;
use crate::upload::{Parts, Upload};

/// Pushes what belongs to one name.
pub(crate) struct RegistryPusher {
    pub(crate) registry: Arc<Registry>,
    pub(crate) repository: String,
    locator: String,
    root: Digest,
    tag: Option<String>,
    /// How much the registry takes in one request.
    pub(crate) parts: Parts,
}

impl RegistryPusher {
    /// # Errors
    /// `InvalidArgument` where the reference is pinned to something else than `root`.
    pub(crate) fn new(
        registry: Arc<Registry>,
        reference: &Reference,
        root: &Digest,
    ) -> Result<Self> {
        if let Some(pinned) = reference.digest()
            && pinned != root
        {
            let message = format!("push {root} to {reference}: that is the name of other content");
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self {
            registry,
            repository: reference.repository().to_owned(),
            locator: reference.locator(),
            root: *root,
            tag: reference.tag().map(str::to_owned),
            parts: Parts::default(),
        })
    }

    /// By what a manifest or an index is asked for: its tag, where it has one.
    fn object(&self, digest: &Digest) -> String {
        match &self.tag {
            Some(tag) if *digest == self.root => format!("manifests/{tag}"),
            _ => format!("manifests/{digest}"),
        }
    }

    /// Asks whether something is there; what is known of it then.
    pub(crate) async fn find(
        &self,
        desc: &Descriptor,
        deadline: Option<Instant>,
    ) -> Result<Option<Answer>, Problem> {
        let (digest, document) = (desc.digest, is_document(desc));
        let rest = if document { self.object(&digest) } else { format!("blobs/{digest}") };
        let by_tag = document && !rest.ends_with(&digest.to_string());
        let mut ask = self.ask(Method::HEAD, rest);
        ask.accept = Some(format!("{}, */*;q=0.5", desc.media_type));
        let answer = match self.registry.ask_once(&ask, deadline).await {
            Ok(answer) => answer,
            // A server that does not know the question gets it sent.
            Err(failed) if matches!(failed.failure.status, Some(404 | 405 | 501)) => {
                return Ok(None);
            }
            Err(failed) => return Err(failed.into()),
        };
        let there = answer.header(DIGEST_HEADER).and_then(|text| text.parse().ok());
        let same = there.map_or(!by_tag, |there: Digest| !document || there == digest);
        Ok(same.then_some(answer))
    }

    pub(crate) fn ask(&self, method: Method, rest: String) -> Ask {
        Ask { access: Access::Push, ..Ask::new(method, &self.repository, rest) }
    }

    fn error(&self, problem: Problem, what: String) -> Error {
        match problem {
            Problem::Other(error) => Error::new(error.kind(), what).with_source(error),
            Problem::Failed(failed) => failed.into_error(what),
        }
    }
}

fn is_document(desc: &Descriptor) -> bool {
    desc.media_type.is_manifest() || desc.media_type.is_index()
}

#[async_trait]
impl Pusher for RegistryPusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let what =
            || format!("push {} {} to {}", desc.media_type.noun(), desc.digest, self.locator);
        let source = sources.iter().find(|source| **source != self.repository);
        let mut tries = self.registry.tries();
        let mut upload = Upload::new(self, (desc, Arc::clone(&content)), source, &progress);
        loop {
            let tried = if is_document(desc) {
                self.document(desc, &*content, (&tries, &*progress)).await
            } else {
                upload.go(&mut tries).await
            };
            match tried {
                Ok(pushed) => {
                    progress.event(match pushed {
                        Pushed::Uploaded => Event::Committed { digest: desc.digest },
                        Pushed::Mounted | Pushed::Existed => Event::Existed { desc },
                    });
                    return Ok(pushed);
                }
                Err(Problem::Failed(failed)) => {
                    tries.pause(failed).await.map_err(|failed| failed.into_error(what()))?;
                }
                Err(problem) => return Err(self.error(problem, what())),
            }
        }
    }

    async fn has(&self, desc: &Descriptor) -> Result<bool> {
        let what =
            || format!("ask for {} {} in {}", desc.media_type.noun(), desc.digest, self.locator);
        let mut tries = self.registry.tries();
        loop {
            match self.find(desc, tries.deadline()).await {
                Ok(found) => return Ok(found.is_some()),
                Err(Problem::Failed(failed)) => {
                    tries.pause(failed).await.map_err(|failed| failed.into_error(what()))?;
                }
                Err(problem) => return Err(self.error(problem, what())),
            }
        }
    }
}

impl RegistryPusher {
    async fn document(
        &self,
        desc: &Descriptor,
        content: &dyn Fetcher,
        (tries, progress): (&Tries, &dyn Progress),
    ) -> Result<Pushed, Problem> {
        if self.find(desc, tries.deadline()).await?.is_some() {
            return Ok(Pushed::Existed);
        }
        let bytes = read(desc, content).await?;
        progress.event(Event::Started { desc, offset: 0 });
        let mut ask = self.ask(Method::PUT, self.object(&desc.digest));
        ask.payload = Payload::Document(desc.media_type.as_str().to_owned(), bytes);
        let answer = self.registry.ask_once(&ask, tries.deadline()).await.map_err(doubted)?;
        check(desc, &answer)?;
        progress.event(Event::Advanced { digest: desc.digest, bytes: desc.size });
        Ok(Pushed::Uploaded)
    }
}

/// Some other digest may be meant than that of the document, which was right here: docker-registry says the
/// same where the link of what an index names is being written by somebody else. Once more will tell.
fn doubted(mut failed: Box<Failed>) -> Box<Failed> {
    if failed.failure.code.as_deref() == Some("DIGEST_INVALID") {
        failed.kind = ErrorKind::Corrupt;
        failed.again = Again::Once;
    }
    failed
}

/// Reads a manifest or an index, which must be what its digest says.
async fn read(desc: &Descriptor, content: &dyn Fetcher) -> Result<Bytes> {
    if desc.size > MAX_DOCUMENT_BYTES {
        let source = Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
        let message = format!("read {}", desc.digest);
        return Err(Error::new(ErrorKind::ResourceExhausted, message).with_source(source));
    }
    let mut stream = content.fetch(desc, 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk?);
    }
    let mut hasher = desc.digest.hasher();
    hasher.update(&bytes);
    desc.verify(bytes.len() as u64, hasher.finish())?;
    Ok(bytes.into())
}

/// Checks what the registry says it got.
pub(crate) fn check(desc: &Descriptor, answer: &Answer) -> Result<(), Problem> {
    let expected = desc.digest;
    // An empty one says nothing.
    let told = answer.header(DIGEST_HEADER).filter(|text| !text.trim().is_empty());
    match told.map(|text| (text, text.trim().parse::<Digest>())) {
        Some((_, Ok(got))) if got.algorithm() == expected.algorithm() && got != expected => {
            let problem = "the registry took it for other content";
            let source = ContentMismatch::Digest { expected, got };
            Err(answer.failed(ErrorKind::Corrupt, problem).because(source).into())
        }
        Some((text, Err(error))) => {
            let problem = format!("the digest header {:?} is no digest", escape::text(text));
            Err(answer.failed(ErrorKind::Unavailable, problem).because(error).into())
        }
        _ => Ok(()),
    }
}
