//! Names in registries: which manifest a tag or a digest stands for.
//!
//! `HEAD /v2/<repository>/manifests/<tag or digest>` answers with the media type, the digest and
//! the size. Where the answer lacks one of them, or a server does not know `HEAD`, the manifest is
//! read and hashed. A digest that no manifest has is looked for among the blobs.

use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    ContentMismatch, Context, Descriptor, Digest, Error, ErrorKind, Fetcher, Hasher, Limit,
    MAX_DOCUMENT_BYTES, MediaType, Pusher, Reference, Resolved, Resolver, Result,
};
use http::Method;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};

use crate::credentials::registry_name;
use crate::failure::{Failed, Problem};
use crate::fetcher::RegistryFetcher;
use crate::pusher::RegistryPusher;
use crate::registry::{Ask, Registry};
use crate::retry::Tries;
use crate::route::{Known, Route, Served, Stop, Turns};
use crate::transport::{Answer, Transport};
use crate::{Limits, RegistryOptions, catalog, escape, limits, untag};

pub(crate) const DIGEST_HEADER: &str = "docker-content-digest";

/// Resolves names in registries: `host[:port]/path[:tag][@digest]`, or what people write for it
/// (`redis` is `docker.io/library/redis:latest`).
///
/// Connections, tokens and what registries were found to speak are shared by all names.
pub struct RegistryResolver {
    transport: Arc<Transport>,
    known: Known,
}

impl RegistryResolver {
    /// Makes a resolver; nothing is read or contacted yet.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        Self { transport: Arc::new(Transport::new(options)), known: Known::default() }
    }

    /// The hosts for a name. What the files say now counts.
    fn route(&self, reference: &Reference) -> Result<Route> {
        let hosts = self.transport.options().hosts(reference)?;
        Route::new(hosts, Some(reference), &self.known, &self.transport)
    }
}

impl RegistryResolver {
    /// Lists the tags of a repository, page by page as they come; those that the name has do not
    /// count.
    ///
    /// # Errors
    /// As [`Resolver::resolve`]; those of `take`, which end it.
    pub async fn tags(
        &self,
        repository: &str,
        take: &mut (dyn FnMut(Vec<String>) -> Result<()> + Send),
    ) -> Result<()> {
        let reference = parse(repository)?;
        let whole = Reference::parse(&reference.locator())
            .context(ErrorKind::Internal, || format!("read {}", reference.locator()))?;
        let listed = catalog::list_of(self.route(&whole)?.resolving()?, take).await;
        listed.map_err(|problem| {
            problem.into_error(|| format!("list the tags of {}", reference.locator()))
        })
    }

    /// As [`Resolver::fetcher`], from the host that pushes go to: a mirror may not have yet what was
    /// pushed.
    ///
    /// # Errors
    /// As [`Resolver::fetcher`].
    pub fn fetcher_of_pushed(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let reference = parse(name)?;
        let stop = self.route(&reference)?.pushing()?;
        let Some(fetcher) = RegistryFetcher::new(vec![stop.clone()], vec![stop], &reference) else {
            unreachable!("there is a host")
        };
        Ok(Arc::new(fetcher))
    }

    /// As [`Resolver::look_up`], at the host that pushes go to.
    ///
    /// # Errors
    /// As [`Resolver::look_up`].
    pub async fn look_up_pushed(&self, name: &str) -> Result<Option<Resolved>> {
        let reference = parse(name)?;
        look_up(vec![self.route(&reference)?.pushing()?], &reference).await
    }

    /// How much the registry of a name still gives. Mirrors are not asked.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    pub async fn limits(&self, name: &str) -> Result<Limits> {
        let reference = parse(name)?;
        let mut stops = self.route(&reference)?.resolving()?;
        let Some(stop) = stops.pop() else { unreachable!("a route has hosts") };
        let asked = limits::ask(&stop, &reference).await;
        asked.map_err(|failed| failed.into_error(format!("ask for the limits of {reference}")))
    }

    /// The mirrors that names were resolved by, or content came from, so far.
    #[must_use]
    pub fn mirrors(&self) -> Vec<Served> {
        self.known.served()
    }

    /// Lists the repositories of a registry, page by page as they come.
    ///
    /// # Errors
    /// As [`RegistryResolver::tags`]; many registries list none to anybody.
    pub async fn repositories(
        &self,
        registry: &str,
        take: &mut (dyn FnMut(Vec<String>) -> Result<()> + Send),
    ) -> Result<()> {
        let name = registry_name(registry);
        let hosts = self.transport.options().registry_hosts(&name)?;
        let route = Route::new(hosts, None, &self.known, &self.transport)?;
        let listed = catalog::list_of(route.resolving()?, take).await;
        listed.map_err(|problem| problem.into_error(|| format!("list the repositories of {name}")))
    }

    /// Takes a tag away; other tags of the same manifest stay, and so does the manifest where the
    /// registry keeps it.
    ///
    /// # Errors
    /// `InvalidArgument` for a name without a tag; `Unsupported` where the registry deletes nothing;
    /// as [`Resolver::resolve`].
    pub async fn untag(&self, name: &str) -> Result<()> {
        let reference = parse(name)?;
        let tag = match (reference.tag(), reference.digest()) {
            (Some(tag), None) => tag,
            _ => {
                let message = format!("remove tag {reference}: it names no tag alone");
                return Err(Error::new(ErrorKind::InvalidArgument, message));
            }
        };
        let stop = self.route(&reference)?.pushing()?;
        let removed = untag::untag(&stop.registry, &stop.repository, tag).await;
        removed.map_err(|problem| problem.into_error(|| format!("remove tag {reference}")))
    }
}

#[async_trait]
impl Resolver for RegistryResolver {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let reference = parse(name)?;
        let route = self.route(&reference)?;
        let by_digest = reference.digest().is_some();
        let stops = if by_digest { route.pulling()? } else { route.resolving()? };
        let what = || format!("resolve {reference}");
        let target = resolve(stops, &reference, false).await;
        let target = target.map_err(|problem| problem.into_error(what))?;
        Ok(Resolved { name: reference.to_string(), target })
    }

    async fn look_up(&self, name: &str) -> Result<Option<Resolved>> {
        let reference = parse(name)?;
        let stops = self.route(&reference)?.resolving()?;
        look_up(stops, &reference).await
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let reference = parse(name)?;
        let route = self.route(&reference)?;
        let (pulling, referring) = (route.pulling()?, route.referring());
        let Some(fetcher) = RegistryFetcher::new(pulling, referring, &reference) else {
            unreachable!("a route has hosts")
        };
        Ok(Arc::new(fetcher))
    }

    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>> {
        let reference = parse(name)?;
        let stop = self.route(&reference)?.pushing()?;
        Ok(Arc::new(RegistryPusher::new(stop.registry, &reference, root)?))
    }
}

fn parse(name: &str) -> Result<Reference> {
    Reference::parse_familiar(name)
        .context(ErrorKind::InvalidArgument, || format!("read reference {:?}", escape::text(name)))
}

async fn look_up(stops: Vec<Stop>, reference: &Reference) -> Result<Option<Resolved>> {
    let what = || format!("look for {reference}");
    match resolve(stops, reference, true).await {
        Ok(target) => Ok(Some(Resolved { name: reference.to_string(), target })),
        Err(Problem::Failed(failed)) if failed.kind == ErrorKind::NotFound => Ok(None),
        Err(Problem::Failed(failed)) => Err(failed.into_error(what())),
        Err(Problem::Other(error)) => Err(Error::new(error.kind(), what()).with_source(error)),
    }
}

/// Asks one host after the other; the last one as often as it takes.
async fn resolve(
    stops: Vec<Stop>,
    reference: &Reference,
    only_head: bool,
) -> Result<Descriptor, Problem> {
    let Some(mut turns) = Turns::new(stops) else { unreachable!("a route has hosts") };
    let mut tries = turns.stop.registry.tries();
    loop {
        let stop = turns.stop.clone();
        let mut resolving = Resolving { only_head, ..Resolving::new(&stop, tries) };
        if !turns.is_last() {
            resolving.tries.once();
        }
        match resolving.run().await {
            Ok(found) => {
                tracing::debug!(%reference, host = stop.registry.name(), "resolved");
                stop.registry.note_served();
                return Ok(found);
            }
            Err(Problem::Failed(failed)) => turns.after(failed)?,
            Err(problem) => return Err(problem),
        }
        tries = turns.stop.registry.tries_after(&resolving.tries);
    }
}

/// What the header of an answer says about the manifest.
struct Said {
    media_type: Option<MediaType>,
    digest: Option<Digest>,
    size: Option<u64>,
}

struct Resolving<'a> {
    registry: &'a Registry,
    repository: &'a str,
    /// The tag or the digest.
    object: String,
    wanted: Option<&'a Digest>,
    tried_blob: bool,
    /// Whether what `HEAD` does not find is not there, without asking why.
    only_head: bool,
    tries: Tries,
}

impl<'a> Resolving<'a> {
    fn new(stop: &'a Stop, tries: Tries) -> Self {
        let object = match &stop.digest {
            Some(digest) => digest.to_string(),
            None => stop.tag.as_deref().unwrap_or("latest").to_owned(),
        };
        Self {
            registry: &stop.registry,
            repository: &stop.repository,
            object,
            wanted: stop.digest.as_ref(),
            tried_blob: false,
            only_head: false,
            tries,
        }
    }

    async fn run(&mut self) -> Result<Descriptor, Problem> {
        let rest = format!("manifests/{}", self.object);
        let accept = MediaType::accepted().map(|media_type| media_type.as_str().to_owned());
        let accept = Some(format!("{}, */*;q=0.5", accept.join(", ")));
        let head = self.query(Method::HEAD, &rest, accept.clone());
        let answer = loop {
            let failed = match self.registry.ask_once(&head, self.tries.deadline()).await {
                Ok(answer) => break Ok(answer),
                Err(failed) => failed,
            };
            // Of a blob's digest docker-registry 2.8 says 500, others 404.
            if let Some(digest) = self.wanted
                && matches!(failed.failure.status, Some(404 | 500))
                && !std::mem::replace(&mut self.tried_blob, true)
                && let Ok(blob) = self.blob(*digest).await
            {
                return Ok(blob);
            }
            if let Err(failed) = self.tries.pause(failed).await {
                break Err(failed);
            }
        };
        match answer {
            Ok(answer) => {
                let said = self.said(&answer)?;
                if let Said { media_type: Some(media_type), digest: Some(digest), size: Some(size) } =
                    said
                    && self.wanted.is_none_or(|wanted| *wanted == digest)
                {
                    if size > MAX_DOCUMENT_BYTES {
                        return Err(too_large(&answer).into());
                    }
                    return Ok(Descriptor::new(media_type, digest, size));
                }
            }
            Err(failed) if self.only_head && failed.failure.status == Some(404) => {
                return Err(failed.into());
            }
            // A GET says more about it, and some servers know nothing else.
            Err(failed) if matches!(failed.failure.status, Some(400 | 403..=405 | 410 | 501)) => {}
            Err(failed) => return Err(failed.into()),
        }
        let get = self.query(Method::GET, &rest, accept);
        self.read_manifest(&get).await
    }

    /// Resolves by reading and hashing the manifest.
    async fn read_manifest(&mut self, get: &Ask) -> Result<Descriptor, Problem> {
        let (said, content_type, shown, bytes) = loop {
            let answer = self.registry.ask(get, &mut self.tries).await?;
            let said = self.said(&answer)?;
            let content_type = answer.header(CONTENT_TYPE).map(escape::text);
            let shown = answer.failed(ErrorKind::Unavailable, "the answer is no manifest");
            let mut body = answer.into_body(self.registry.stall());
            match body.collect("manifest-size", MAX_DOCUMENT_BYTES).await {
                Ok(bytes) => break (said, content_type, shown, bytes),
                Err(failed) => self.tries.pause(failed).await?,
            }
        };
        let Some(media_type) = said.media_type.or_else(|| sniff(&bytes)) else {
            let content_type = content_type.unwrap_or_else(|| "no media type".to_owned());
            let body = escape::bytes(&bytes);
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("{content_type}: {body}"),
            );
            return Err(shown.because(source).into());
        };
        check_supported(&media_type)?;
        for expected in [said.digest.as_ref(), self.wanted].into_iter().flatten() {
            let mut hasher = expected.hasher();
            hasher.update(&bytes);
            let got = hasher.finish();
            if got != *expected {
                return Err(mismatch(*expected, got).into());
            }
        }
        let digest = match self.wanted {
            Some(wanted) => *wanted,
            None => said.digest.unwrap_or_else(|| {
                let mut hasher = Hasher::sha256();
                hasher.update(&bytes);
                hasher.finish()
            }),
        };
        Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
    }

    async fn blob(&mut self, digest: Digest) -> Result<Descriptor, Problem> {
        let rest = format!("blobs/{digest}");
        let head = self.query(Method::HEAD, &rest, None);
        let answer = match self.registry.ask(&head, &mut self.tries).await {
            // Signed addresses of object stores may be good for GET alone; its body is not read.
            Err(failed) if matches!(failed.failure.status, Some(403 | 405 | 501)) => {
                let get = self.query(Method::GET, &rest, None);
                self.registry.ask(&get, &mut self.tries).await?
            }
            answer => answer?,
        };
        let size = answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        match size {
            Some(size) => {
                let media_type = MediaType::parse("application/octet-stream");
                Ok(Descriptor::new(media_type, digest, size))
            }
            None => {
                let problem = "the registry does not say how large the blob is";
                Err(answer.failed(ErrorKind::Unavailable, problem).into())
            }
        }
    }

    fn query(&self, method: Method, rest: &str, accept: Option<String>) -> Ask {
        Ask { accept, ..Ask::new(method, self.repository, rest.to_owned()) }
    }

    /// Reads the header of an answer, which must not contradict what was asked.
    fn said(&self, answer: &Answer) -> Result<Said, Problem> {
        if let Some(encoding) = answer.header(CONTENT_ENCODING)
            && !encoding.trim().eq_ignore_ascii_case("identity")
        {
            let problem = format!("the answer is encoded as {:?}", escape::text(encoding));
            return Err(answer.failed(ErrorKind::Corrupt, problem).into());
        }
        let digest = match answer.response.headers().get(DIGEST_HEADER) {
            None => None,
            Some(value) => {
                let text = String::from_utf8_lossy(value.as_bytes());
                Some(text.trim().parse::<Digest>().map_err(|error| {
                    let problem =
                        format!("the digest header {:?} is no digest", escape::text(&text));
                    answer.failed(ErrorKind::Corrupt, problem).because(error)
                })?)
            }
        };
        if let (Some(wanted), Some(digest)) = (self.wanted, &digest)
            && wanted.algorithm() == digest.algorithm()
            && wanted != digest
        {
            let problem = "the answer is other content than was asked for";
            let source = ContentMismatch::Digest { expected: *wanted, got: *digest };
            return Err(answer.failed(ErrorKind::Corrupt, problem).because(source).into());
        }
        let media_type = match answer.header(CONTENT_TYPE).map(MediaType::parse) {
            // Types that say nothing; the manifest itself will.
            Some(MediaType::Other(text)) if !is_json_type(&text) => None,
            media_type => media_type,
        };
        if let Some(media_type) = &media_type {
            check_supported(media_type)?;
        }
        let size = answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok());
        Ok(Said { media_type, digest, size: size.filter(|size| *size > 0) })
    }
}

/// Whether a media type that is not known here may be that of a manifest.
fn is_json_type(text: &str) -> bool {
    text.starts_with("application/") && text.ends_with("+json")
}

pub(crate) fn check_supported(media_type: &MediaType) -> Result<()> {
    if *media_type == MediaType::DockerSchema1 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            "Docker image manifest version 2, schema 1 is not supported; the image must be pushed again by a current tool",
        ));
    }
    Ok(())
}

fn mismatch(expected: Digest, got: Digest) -> Error {
    Error::new(ErrorKind::Corrupt, "the manifest is not what its digest says")
        .with_source(ContentMismatch::Digest { expected, got })
}

fn too_large(answer: &Answer) -> Box<Failed> {
    answer
        .failed(ErrorKind::ResourceExhausted, "the manifest is too large")
        .because(Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES })
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sniffed {
    schema_version: u64,
    #[serde(default)]
    media_type: Option<MediaType>,
    #[serde(default)]
    manifests: Option<serde::de::IgnoredAny>,
    #[serde(default)]
    layers: Option<serde::de::IgnoredAny>,
}

/// The media type of a document that came without one; its strict reading comes later.
pub(crate) fn sniff(bytes: &[u8]) -> Option<MediaType> {
    let sniffed: Sniffed = serde_json::from_slice(bytes).ok()?;
    match sniffed {
        Sniffed { schema_version: 1, .. } => Some(MediaType::DockerSchema1),
        Sniffed { media_type: Some(media_type), .. } => Some(media_type),
        Sniffed { manifests: Some(_), .. } => Some(MediaType::Index),
        Sniffed { layers: Some(_), .. } => Some(MediaType::Manifest),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sniffing() {
        for (text, media_type) in [
            (r#"{"schemaVersion":2,"layers":[],"config":{}}"#, Some(MediaType::Manifest)),
            (r#"{"schemaVersion":2,"manifests":[]}"#, Some(MediaType::Index)),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, Some(MediaType::DockerSchema1)),
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json"}"#,
                Some(MediaType::DockerManifest),
            ),
            (r#"{"schemaVersion":2}"#, None),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(sniff(text.as_bytes()), media_type, "{text}");
        }
    }

    #[test]
    fn names() {
        let resolver = RegistryResolver::new(RegistryOptions::default());
        assert!(resolver.fetcher("redis").is_ok());
        let error = resolver.fetcher("UPPER/x").err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    }
}
