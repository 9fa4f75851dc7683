//! One registry: its scheme, what it wants to see, and what its answers mean.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dist_core::{Error, ErrorKind, Result};
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use url::Url;

use crate::auth::{Auth, Need};
use crate::failure::{Again, Failed};
use crate::gate::Gate;
use crate::heard::Heard;
use crate::payload::Payload;
use crate::retry::{self, RetryAfter, Tries};
use crate::transport::{Answer, Call, Transport};
use crate::{escape, hosts};

/// How many times a request may be sent with a token.
const MAX_TOKENS: u32 = 2;
/// How long a host that did not answer is passed over, where there are others.
const DOWN: Duration = Duration::from_secs(60);

/// A registry and everything that was learned about it.
pub(crate) struct Registry {
    name: String,
    transport: Arc<Transport>,
    auth: Auth,
    scheme: Mutex<Scheme>,
    /// Where it is, where its name does not say that.
    address: Option<Url>,
    /// What comes before repositories in paths.
    path: String,
    /// The registry that it serves as a mirror.
    mirrors: Option<String>,
    /// Whether there is another host to ask.
    is_mirror: bool,
    /// How often what it answered was taken.
    served: AtomicU64,
    /// Until when it is passed over, where there are others.
    down: Mutex<Option<Instant>>,
    heard: Heard,
    gate: Gate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// http is tried; nothing has shown yet that it is right.
    MaybeHttp,
    /// The caller wants http; nothing has shown yet that it is right.
    WantedHttp,
    Http,
    Https,
    /// https is tried, and http where nobody speaks that.
    MaybeHttps,
}

/// What a request does to repositories: what a token for it must allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads.
    #[default]
    Pull,
    /// It writes.
    Push,
    /// It writes what it takes from another repository.
    Mount(String),
    /// It writes and deletes.
    Delete,
    /// It lists repositories.
    Catalog,
}

/// What is wanted of a registry.
#[derive(Clone, Default)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    /// The repository; empty for the registry itself.
    pub(crate) repository: String,
    /// What follows `/v2/<repository>/`.
    pub(crate) rest: String,
    pub(crate) accept: Option<String>,
    /// The byte to begin at, where it is not the first.
    pub(crate) from: u64,
    /// The byte to end before, where it is not all the rest.
    pub(crate) to: Option<u64>,
    /// Which version a part must be of.
    pub(crate) if_range: Option<String>,
    /// Whether it must not share a connection with other requests.
    pub(crate) apart: bool,
    /// What it does to the repository.
    pub(crate) access: Access,
    /// Names and values behind the `?`.
    pub(crate) query: Vec<(&'static str, String)>,
    /// An address that the registry gave, to be asked instead of one of our making.
    pub(crate) at: Option<Url>,
    /// What goes along.
    pub(crate) payload: Payload,
}

impl Registry {
    /// # Errors
    /// `InvalidArgument` where no address can be made of the name.
    pub(crate) fn new(name: &str, transport: Arc<Transport>) -> Result<Self> {
        hosts::base(name, "https").map_err(|error| {
            Error::new(ErrorKind::InvalidArgument, format!("read registry name {name:?}"))
                .with_source(error)
        })?;
        let scheme = if transport.options().plain_http {
            Scheme::WantedHttp
        } else if hosts::prefers_http(name) {
            Scheme::MaybeHttp
        } else {
            Scheme::Https
        };
        Ok(Self {
            name: name.to_owned(),
            transport,
            auth: Auth::new(name),
            scheme: Mutex::new(scheme),
            address: None,
            path: "/v2".to_owned(),
            mirrors: None,
            is_mirror: false,
            served: AtomicU64::new(0),
            down: Mutex::default(),
            heard: Heard::new(),
            gate: Gate::default(),
        })
    }

    /// The same at an address, whose path comes before repositories.
    pub(crate) fn at(mut self, address: &Url) -> Self {
        let scheme = if address.scheme() == "http" { Scheme::WantedHttp } else { Scheme::Https };
        self.scheme = Mutex::new(scheme);
        address.path().trim_end_matches('/').clone_into(&mut self.path);
        let mut base = address.clone();
        base.set_path("/");
        self.address = Some(base);
        self
    }

    /// The same, asked in https first and in http where it does not speak that.
    pub(crate) fn https_first(mut self) -> Self {
        self.scheme = Mutex::new(Scheme::MaybeHttps);
        self
    }

    /// The same, which has another host behind it.
    pub(crate) fn before_another(mut self) -> Self {
        self.is_mirror = true;
        self
    }

    /// The same as a mirror of the registry called `name`: it is told so with each request.
    pub(crate) fn instead_of(mut self, name: &str) -> Self {
        self.mirrors = Some(name.to_owned());
        self
    }

    /// Notes that a name, or content, is from there.
    pub(crate) fn note_served(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that was so.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Waits for a place among the bodies with content of all hosts.
    pub(crate) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.transport.options().budget.body().await
    }

    /// Whether it did not answer, or wanted to be left alone, a short while ago.
    pub(crate) fn is_down(&self) -> bool {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        down.is_some_and(|until| Instant::now() < until)
    }

    /// Remembers whether it answered.
    pub(crate) fn note(&self, failed: &Failed) {
        let wait = match failed.again {
            Again::After(wait) => Some(wait),
            _ => failed.is_silence().then_some(DOWN),
        };
        let down = wait.map(|wait| Instant::now() + wait);
        *self.down.lock().unwrap_or_else(PoisonError::into_inner) = down;
    }

    /// Its address, as far as that is known.
    pub(crate) fn base(&self) -> Url {
        self.base_in(self.scheme())
    }

    fn base_in(&self, scheme: Scheme) -> Url {
        if let Some(address) = &self.address {
            return address.clone();
        }
        let https = matches!(scheme, Scheme::Https | Scheme::MaybeHttps);
        let Ok(base) = hosts::base(&self.name, if https { "https" } else { "http" }) else {
            unreachable!("the name was checked when the registry was made")
        };
        base
    }

    /// The registry's name, as references have it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.transport.options())
    }

    /// The tries of what was tried somewhere else before.
    pub(crate) fn tries_after(&self, tries: &Tries) -> Tries {
        tries.elsewhere(self.transport.options())
    }

    /// Where addresses of uploads are kept.
    pub(crate) fn uploads_dir(&self) -> Option<&Path> {
        self.transport.options().uploads_dir.as_deref()
    }

    pub(crate) fn stall(&self) -> Duration {
        self.transport.options().stall_timeout
    }

    /// When it was heard last.
    pub(crate) fn heard(&self) -> &Heard {
        &self.heard
    }

    /// Asks until there is an answer with a good status, or trying again cannot help.
    pub(crate) async fn ask(&self, ask: &Ask, tries: &mut Tries) -> Result<Answer, Box<Failed>> {
        loop {
            match self.ask_once(ask, tries.deadline()).await {
                Ok(answer) => return Ok(answer),
                Err(failed) => tries.pause(failed).await?,
            }
        }
    }

    /// Asks once; finds out whether a registry on loopback speaks https after all.
    pub(crate) async fn ask_once(
        &self,
        ask: &Ask,
        deadline: Option<Instant>,
    ) -> Result<Answer, Box<Failed>> {
        let scheme = self.scheme();
        let answer = self.authorized(ask, scheme, deadline).await;
        if matches!(scheme, Scheme::Http | Scheme::Https) {
            return answer;
        }
        match answer {
            Err(failed) if failed.maybe_tls && scheme == Scheme::MaybeHttp => {
                self.probe_tls(failed, deadline).await?;
                self.authorized(ask, Scheme::Https, deadline).await
            }
            Err(failed) if scheme == Scheme::MaybeHttps && failed.failure.status.is_none() => {
                let answer = self.authorized(ask, Scheme::Http, deadline).await;
                match &answer {
                    Err(http) if http.failure.status.is_none() => Err(failed),
                    _ => {
                        self.set_scheme(Scheme::Http);
                        answer
                    }
                }
            }
            answer if scheme == Scheme::MaybeHttps => {
                self.set_scheme(Scheme::Https);
                answer
            }
            Err(failed) if failed.maybe_tls => Err(failed.perhaps(" (an https server, perhaps)")),
            answer => {
                if answer.as_ref().map_or_else(|failed| failed.failure.status.is_some(), |_| true) {
                    self.set_scheme(Scheme::Http);
                }
                answer
            }
        }
    }

    /// Asks for the registry's root in https; gives `failed` back where nobody speaks it.
    async fn probe_tls(
        &self,
        failed: Box<Failed>,
        deadline: Option<Instant>,
    ) -> Result<(), Box<Failed>> {
        let Ok(mut url) = hosts::base(&self.name, "https") else { return Err(failed) };
        url.set_path("/v2/");
        let probe = Call {
            method: Method::GET,
            url: url.clone(),
            headers: HeaderMap::new(),
            payload: Payload::Absent,
            own: HeaderMap::new(),
            authorization: None,
            home: url,
            apart: false,
            deadline,
        };
        match self.transport.send(probe).await {
            Ok(_) => {
                tracing::debug!(registry = self.name, "speaks https");
                self.set_scheme(Scheme::Https);
                Ok(())
            }
            // A certificate that is not trusted, or one to trust that cannot be read, is the news.
            Err(https) if https.tls || https.kind != ErrorKind::Unavailable => Err(https),
            Err(_) => Err(failed),
        }
    }

    async fn authorized(
        &self,
        ask: &Ask,
        scheme: Scheme,
        deadline: Option<Instant>,
    ) -> Result<Answer, Box<Failed>> {
        let base = self.base_in(scheme);
        let need = Need {
            transport: &self.transport,
            registry: &base,
            repository: &ask.repository,
            access: &ask.access,
            deadline,
        };
        let mut url = ask.url(&base, &self.path);
        let ours = hosts::same_origin(&url, &base);
        if let Some(registry) = self.mirrors.as_ref().filter(|_| ours)
            && !url.query_pairs().any(|(name, _)| name == "ns")
        {
            url.query_pairs_mut().append_pair("ns", registry);
        }
        let mut authorization = if ours { self.auth.known(&need).await? } else { None };
        let own = &self.transport.options().headers;
        let mut tokens = u32::from(authorization.is_some());
        loop {
            // Those that go on while something is sent must not wait for others.
            let alone = matches!(ask.payload, Payload::Upload(_));
            let pass = if alone { None } else { Some(self.gate.enter(self.is_patient()).await) };
            let answer = self
                .transport
                .send(Call {
                    method: ask.method.clone(),
                    url: url.clone(),
                    headers: ask.headers(),
                    payload: ask.payload.clone(),
                    own: if ours { own.clone() } else { HeaderMap::new() },
                    authorization: authorization.clone(),
                    home: base.clone(),
                    apart: ask.apart,
                    deadline,
                })
                .await?;
            drop(pass);
            if answer.status().as_u16() != 429 {
                self.gate.went_well();
            }
            if answer.status().is_success() {
                return Ok(answer);
            }
            if answer.status().as_u16() == 401 && ours && !answer.crossed && tokens < MAX_TOKENS {
                let headers = answer.response.headers();
                let next = self.auth.challenged(headers, &need, authorization.as_ref()).await?;
                if next.is_some() {
                    authorization = next;
                    tokens += 1;
                    continue;
                }
            }
            let failed = refusal(answer, self.stall()).await;
            if failed.failure.status == Some(429) {
                self.gate.too_many(match failed.again {
                    Again::After(wait) => Some(wait),
                    _ => None,
                });
            }
            return Err(failed);
        }
    }

    /// Whether what it asks to wait is waited: where there is another host, that one is asked.
    fn is_patient(&self) -> bool {
        !self.is_mirror
    }

    fn scheme(&self) -> Scheme {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_scheme(&self, scheme: Scheme) {
        *self.scheme.lock().unwrap_or_else(PoisonError::into_inner) = scheme;
    }
}

impl Ask {
    pub(crate) fn new(method: Method, repository: &str, rest: String) -> Self {
        Self { method, repository: repository.to_owned(), rest, ..Self::default() }
    }

    fn url(&self, base: &Url, path: &str) -> Url {
        let mut url = self.at.clone().unwrap_or_else(|| {
            let mut url = base.clone();
            if self.repository.is_empty() {
                url.set_path(&format!("{path}/{}", self.rest));
            } else {
                url.set_path(&format!("{path}/{}/{}", self.repository, self.rest));
            }
            url
        });
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        url
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = self.accept.as_deref().and_then(|text| text.try_into().ok()) {
            headers.insert(ACCEPT, accept);
        }
        let range = match self.to {
            Some(to) => Some(format!("bytes={}-{}", self.from, to.saturating_sub(1))),
            None => (self.from > 0).then(|| format!("bytes={}-", self.from)),
        };
        if let Some(Ok(range)) = range.map(HeaderValue::try_from) {
            headers.insert(RANGE, range);
        }
        if let Some(version) = self.if_range.as_deref().and_then(|text| text.try_into().ok()) {
            headers.insert(IF_RANGE, version);
        }
        headers
    }
}

#[derive(serde::Deserialize)]
struct Wire {
    errors: Vec<WireError>,
}

#[derive(serde::Deserialize)]
struct WireError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Makes a failure of an answer that is none of success: what the server says about it is read
/// (distribution-spec, "Error Codes"), shortened and escaped.
pub(crate) async fn refusal(answer: Answer, stall: Duration) -> Box<Failed> {
    let status = answer.status();
    let retry_after = match status.as_u16() {
        408 | 429 | 500..=599 => retry::retry_after(answer.response.headers()),
        _ => RetryAfter::Absent,
    };
    let (method, url) = (answer.method.clone(), answer.url.clone());
    let is_page = answer.header(CONTENT_TYPE).is_some_and(|kind| kind.contains("html"));
    let body = answer.into_body(stall).excerpt().await;
    let wire = serde_json::from_slice::<Wire>(&body).ok();
    let first = wire.and_then(|wire| wire.errors.into_iter().next());
    let code = first.as_ref().map(|error| escape::text(&error.code)).filter(|c| !c.is_empty());
    let said = match &first {
        Some(error) => [escape::text(&error.code), escape::text(&error.message)].join(": "),
        None if is_page => String::new(), // it says the status once more, for a browser
        None => escape::bytes(&body),
    };
    let mut failed = Failed::status(&method, &url, status, code, &said);
    failed.maybe_tls = status.as_u16() == 400; // how servers that expect TLS answer http
    match retry_after {
        RetryAfter::Wait(wait) if failed.again == Again::Later => {
            failed.again = Again::After(wait);
        }
        RetryAfter::TooLong(wait) => {
            let wait = retry::roughly(wait);
            let separator = if said.is_empty() { "" } else { ": " };
            let said = format!("the registry asks to wait {wait}{separator}{said}");
            let code = failed.failure.code;
            failed = Failed::status(&method, &url, status, code, &said).again(Again::Never);
        }
        RetryAfter::Wait(_) | RetryAfter::Absent => {}
    }
    failed
}
