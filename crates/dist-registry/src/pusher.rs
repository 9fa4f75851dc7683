//! Content into registries.
//!
//! ```text
//! HEAD /v2/<repository>/blobs/<digest>                                is it there?
//! POST /v2/<repository>/blobs/uploads/?mount=<digest>&from=<other>    201: taken from there
//! POST /v2/<repository>/blobs/uploads/                                202: Location to send it to
//! PUT  <location>?digest=<digest>                                     all of it at once
//!
//! HEAD /v2/<repository>/manifests/<tag or digest>                     is it that one?
//! PUT  /v2/<repository>/manifests/<tag or digest>
//! ```
//!
//! An upload that breaks begins anew, with the question whether it is there: the registry may have
//! got all of it. Distribution-spec, "Pushing".

use std::io::Read as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use dist_core::{
    Blob, ContentMismatch, Context as _, Descriptor, Digest, Error, ErrorKind, Event,
    MAX_DOCUMENT_BYTES, Progress, Provider, Pushed, Pusher, Reference, Result,
};
use http::Method;
use url::Url;

use crate::escape;
use crate::failure::{Again, Problem};
use crate::payload::{Payload, Upload};
use crate::registry::{Access, Ask, Registry};
use crate::resolver::DIGEST_HEADER;
use crate::retry::Tries;
use crate::transport::{self, Answer};

/// Pushes what belongs to one name.
pub(crate) struct RegistryPusher {
    registry: Arc<Registry>,
    repository: String,
    locator: String,
    root: Digest,
    tag: Option<String>,
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
        })
    }
}

#[async_trait]
impl Pusher for RegistryPusher {
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Provider>,
        sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed> {
        let what =
            || format!("push {} {} to {}", desc.media_type.noun(), desc.digest, self.locator);
        let mut push = Push {
            pusher: self,
            desc,
            content,
            source: sources.iter().find(|source| **source != self.repository),
            progress,
            tries: self.registry.tries(),
        };
        let document = desc.media_type.is_manifest() || desc.media_type.is_index();
        loop {
            let tried = if document { push.document().await } else { push.blob().await };
            match tried {
                Ok(pushed) => {
                    push.progress.event(match pushed {
                        Pushed::Uploaded => Event::Committed { digest: desc.digest },
                        Pushed::Mounted | Pushed::Existed => Event::Existed { desc },
                    });
                    return Ok(pushed);
                }
                Err(Problem::Other(error)) => {
                    return Err(Error::new(error.kind(), what()).with_source(error));
                }
                Err(Problem::Failed(failed)) => {
                    push.tries.pause(failed).await.map_err(|failed| failed.into_error(what()))?;
                }
            }
        }
    }
}

/// What came of asking for a place to send a blob to.
enum Session {
    /// None is needed.
    Mounted,
    Opened(Url),
}

/// One descriptor on its way.
struct Push<'a> {
    pusher: &'a RegistryPusher,
    desc: &'a Descriptor,
    content: Arc<dyn Provider>,
    /// Another repository of the registry that may have it.
    source: Option<&'a String>,
    progress: Arc<dyn Progress>,
    tries: Tries,
}

impl Push<'_> {
    async fn blob(&self) -> Result<Pushed, Problem> {
        let digest = self.desc.digest;
        if self.exists(format!("blobs/{digest}")).await?.is_some() {
            return Ok(Pushed::Existed);
        }
        let location = match self.session().await? {
            Session::Mounted => return Ok(Pushed::Mounted),
            Session::Opened(location) => location,
        };
        let Blob { file, size, .. } = self.open().await?;
        self.progress.event(Event::Started { desc: self.desc, offset: 0 });
        let upload = Upload::new(file, digest, size, Arc::clone(&self.progress));
        let mut ask = self.ask(Method::PUT, String::new());
        ask.at = Some(location);
        ask.query.push(("digest", digest.to_string()));
        ask.payload = Payload::Upload(upload);
        match self.pusher.registry.ask_once(&ask, self.tries.deadline()).await {
            Ok(answer) => self.check(&answer)?,
            // The registry has forgotten the upload: it was restarted, or is several.
            Err(failed) if failed.failure.status == Some(404) => {
                return Err(failed.again(Again::Later).into());
            }
            Err(mut failed) => {
                if failed.failure.code.as_deref() == Some("DIGEST_INVALID") {
                    failed.kind = ErrorKind::Corrupt; // here or on the way: once more will tell
                    failed.again = Again::Once;
                }
                return Err(failed.into());
            }
        }
        Ok(Pushed::Uploaded)
    }

    async fn document(&self) -> Result<Pushed, Problem> {
        let digest = self.desc.digest;
        let object = match &self.pusher.tag {
            Some(tag) if digest == self.pusher.root => tag.clone(),
            _ => digest.to_string(),
        };
        let rest = format!("manifests/{object}");
        if let Some(answer) = self.exists(rest.clone()).await? {
            let there = answer.header(DIGEST_HEADER).and_then(|text| text.parse().ok());
            if there.map_or(object == digest.to_string(), |there: Digest| there == digest) {
                return Ok(Pushed::Existed);
            }
        }
        let bytes = self.read().await?;
        self.progress.event(Event::Started { desc: self.desc, offset: 0 });
        let mut ask = self.ask(Method::PUT, rest);
        ask.payload = Payload::Document(self.desc.media_type.as_str().to_owned(), bytes);
        let answer = self.pusher.registry.ask_once(&ask, self.tries.deadline()).await?;
        self.check(&answer)?;
        self.progress.event(Event::Advanced { digest, bytes: self.desc.size });
        Ok(Pushed::Uploaded)
    }

    /// Asks whether something is there; what is known of it then.
    async fn exists(&self, rest: String) -> Result<Option<Answer>, Problem> {
        let mut ask = self.ask(Method::HEAD, rest);
        ask.accept = Some(format!("{}, */*;q=0.5", self.desc.media_type));
        match self.pusher.registry.ask_once(&ask, self.tries.deadline()).await {
            Ok(answer) => Ok(Some(answer)),
            // A server that does not know the question gets it sent.
            Err(failed) if matches!(failed.failure.status, Some(404 | 405 | 501)) => Ok(None),
            Err(failed) => Err(failed.into()),
        }
    }

    async fn session(&self) -> Result<Session, Problem> {
        let mut ask = self.ask(Method::POST, "blobs/uploads/".to_owned());
        ask.payload = Payload::Empty;
        if let Some(source) = self.source {
            let mut mount = ask.clone();
            mount.access = Access::Mount(source.clone());
            mount.query.push(("mount", self.desc.digest.to_string()));
            mount.query.push(("from", source.clone()));
            match self.pusher.registry.ask_once(&mount, self.tries.deadline()).await {
                Ok(answer) => return self.opened(&answer),
                // Not from there, then: no such repository, or nothing for this user.
                Err(failed) if matches!(failed.failure.status, Some(400..=405)) => {}
                Err(failed) => return Err(failed.into()),
            }
        }
        let answer = self.pusher.registry.ask_once(&ask, self.tries.deadline()).await?;
        self.opened(&answer)
    }

    fn opened(&self, answer: &Answer) -> Result<Session, Problem> {
        if answer.status().as_u16() == 201 && self.source.is_some() {
            return Ok(Session::Mounted);
        }
        match transport::location(&answer.response, &answer.url) {
            Some(Ok(location)) => Ok(Session::Opened(location)),
            _ => {
                let problem = "the registry does not say where to send the content";
                Err(answer.failed(ErrorKind::Unavailable, problem).into())
            }
        }
    }

    /// Checks what the registry says it got.
    fn check(&self, answer: &Answer) -> Result<(), Problem> {
        let expected = self.desc.digest;
        match answer.header(DIGEST_HEADER).map(|text| (text, text.trim().parse::<Digest>())) {
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

    async fn open(&self) -> Result<Blob> {
        let (content, digest) = (Arc::clone(&self.content), self.desc.digest);
        let blob = tokio::task::spawn_blocking(move || content.open(&digest))
            .await
            .context(ErrorKind::Internal, || format!("open {digest}"))??;
        if blob.size != self.desc.size {
            let source = ContentMismatch::Size { expected: self.desc.size, got: blob.size };
            return Err(
                Error::new(ErrorKind::Corrupt, format!("open {digest}")).with_source(source)
            );
        }
        Ok(blob)
    }

    /// Reads a manifest or an index, which must be what its digest says.
    async fn read(&self) -> Result<Bytes> {
        let expected = self.desc.digest;
        let what = move || format!("read {expected}");
        let Blob { file, size, .. } = self.open().await?;
        if size > MAX_DOCUMENT_BYTES {
            let source = dist_core::Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
            return Err(Error::new(ErrorKind::ResourceExhausted, what()).with_source(source));
        }
        let bytes = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            file.take(size).read_to_end(&mut bytes).context(ErrorKind::Storage, what)?;
            Ok::<_, Error>(bytes)
        })
        .await
        .context(ErrorKind::Internal, what)??;
        let mut hasher = expected.hasher();
        hasher.update(&bytes);
        let got = hasher.finish();
        if got != expected {
            let source = ContentMismatch::Digest { expected, got };
            return Err(Error::new(ErrorKind::Corrupt, what()).with_source(source));
        }
        Ok(bytes.into())
    }

    fn ask(&self, method: Method, rest: String) -> Ask {
        Ask { access: Access::Push, ..Ask::new(method, &self.pusher.repository, rest) }
    }
}
