//! One registry: its scheme, what it wants to see, and what its answers mean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dist_core::{Error, ErrorKind, Result};
use http::header::{ACCEPT, ACCEPT_ENCODING, RANGE};
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;
use url::Url;

use crate::auth::{Auth, Need};
use crate::failure::{Again, Failed};
use crate::payload::Payload;
use crate::retry::{self, RetryAfter, Tries};
use crate::transport::{Answer, Call, Transport};
use crate::{escape, hosts};

/// How many times a request may be sent with a token.
const MAX_TOKENS: u32 = 2;

/// A registry and everything that was learned about it.
pub(crate) struct Registry {
    name: String,
    transport: Arc<Transport>,
    auth: Auth,
    scheme: Mutex<Scheme>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// http is tried; nothing has shown yet that it is right.
    MaybeHttp,
    /// The caller wants http; nothing has shown yet that it is right.
    WantedHttp,
    Http,
    Https,
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
        })
    }

    /// The registry's name, as references have it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn tries(&self) -> Tries {
        Tries::new(self.transport.options())
    }

    pub(crate) fn stall(&self) -> Duration {
        self.transport.options().stall_timeout
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
        let https = scheme == Scheme::Https;
        let Ok(base) = hosts::base(&self.name, if https { "https" } else { "http" }) else {
            unreachable!("the name was checked when the registry was made")
        };
        let need = Need {
            transport: &self.transport,
            registry: &base,
            repository: &ask.repository,
            access: &ask.access,
            deadline,
        };
        let url = ask.url(&base);
        let ours = hosts::same_origin(&url, &base);
        let mut authorization = if ours { self.auth.known(&need).await? } else { None };
        let own = &self.transport.options().headers;
        let mut tokens = u32::from(authorization.is_some());
        loop {
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
            return Err(refusal(answer, self.stall()).await);
        }
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

    fn url(&self, base: &Url) -> Url {
        let mut url = self.at.clone().unwrap_or_else(|| {
            let mut url = base.clone();
            if self.repository.is_empty() {
                url.set_path("/v2/");
            } else {
                url.set_path(&format!("/v2/{}/{}", self.repository, self.rest));
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
    let body = answer.into_body(stall).excerpt().await;
    let wire = serde_json::from_slice::<Wire>(&body).ok();
    let first = wire.and_then(|wire| wire.errors.into_iter().next());
    let code = first.as_ref().map(|error| escape::text(&error.code)).filter(|c| !c.is_empty());
    let said = match &first {
        Some(error) => [escape::text(&error.code), escape::text(&error.message)].join(": "),
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
