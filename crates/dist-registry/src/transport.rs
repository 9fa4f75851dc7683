//! One request and its answer: clients, timeouts and redirects.
//!
//! Redirects are followed by hand, ten at most. `Authorization` is sent to the origin (scheme, host
//! and port) that was asked first, and never again once a redirect has left it; there are no
//! cookies; https is not left for http; nobody is sent to a link-local address.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use dist_core::{Context, ErrorKind, Result};
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Client;
use reqwest::redirect::Policy;
use tokio::time::Instant;
use url::Url;

use crate::body::Body;
use crate::failure::{Again, Failed};
use crate::payload::Payload;
use crate::tls::{self, Trust};
use crate::{Budget, RegistryOptions, escape, hosts};

const MAX_REDIRECTS: u32 = 10;
/// The most bytes that the header of an answer may have.
const MAX_HEADER_BYTES: u32 = 64 << 10;

/// Sends requests. Clients are made when they are first needed: with TLS that reads the roots.
pub(crate) struct Transport {
    options: RegistryOptions,
    clients: Mutex<HashMap<(Trust, Route, Wire, bool), Client>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Route {
    Direct,
    ByProxy,
}

/// What is spoken where both sides can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Wire {
    /// HTTP/2, with requests that share a connection.
    Any,
    /// HTTP/1.1, with a connection for each request at a time.
    Http1,
}

/// A request.
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// What goes along.
    pub(crate) payload: Payload,
    /// For the origin of `url` alone, as `authorization`.
    pub(crate) own: HeaderMap,
    /// For the origin of `url` alone.
    pub(crate) authorization: Option<HeaderValue>,
    /// The registry on whose behalf it is made: what `insecure` is about.
    pub(crate) home: Url,
    /// Whether it must not share a connection with other requests.
    pub(crate) apart: bool,
    pub(crate) deadline: Option<Instant>,
}

/// The header of an answer, its body still to come.
pub(crate) struct Answer {
    pub(crate) response: reqwest::Response,
    pub(crate) method: Method,
    /// Who answered in the end.
    pub(crate) url: Url,
    /// Whether a redirect has left the origin that was asked.
    pub(crate) crossed: bool,
    /// Whether there was a redirect at all.
    pub(crate) redirected: bool,
    pub(crate) deadline: Option<Instant>,
    pub(crate) budget: Budget,
}

impl Transport {
    pub(crate) fn new(options: RegistryOptions) -> Self {
        Self { options, clients: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn options(&self) -> &RegistryOptions {
        &self.options
    }

    /// Sends a request and follows its redirects.
    pub(crate) async fn send(&self, call: Call) -> Result<Answer, Box<Failed>> {
        let Call { method, mut url, headers, payload, mut own, mut authorization, .. } = call;
        let Call { home, apart, deadline, .. } = call;
        let origin = url.clone();
        let mut crossed = false;
        for redirects in 0..=MAX_REDIRECTS {
            if hosts::is_link_local(&url) && url.host() != home.host() {
                let problem = "not contacted: link-local addresses are for the machine itself";
                return Err(Failed::unavailable(&method, &url, problem));
            }
            let client = self.client(&url, &home, apart).map_err(|error| {
                Failed::new(error.kind(), &method, &url, "cannot set up a client").because(error)
            })?;
            let mut request = client
                .request(method.clone(), url.clone())
                .headers(own.clone())
                .headers(headers.clone());
            if let Some(authorization) = &authorization {
                request = request.header(AUTHORIZATION, authorization);
            }
            request = payload.attach(request, &self.options.budget);
            let response = self.exchange(request, &payload, (&method, &url), deadline).await?;
            let next = match redirect(&response, &url) {
                None => {
                    let (redirected, budget) = (redirects > 0, self.options.budget.clone());
                    return Ok(Answer {
                        response,
                        method,
                        url,
                        crossed,
                        redirected,
                        deadline,
                        budget,
                    });
                }
                Some(next) => {
                    next.map_err(|problem| Failed::unavailable(&method, &url, problem))?
                }
            };
            if matches!(payload, Payload::Form(_)) {
                let problem = "credentials are not sent on to where it redirects";
                return Err(Failed::unavailable(&method, &url, problem));
            }
            if !hosts::same_origin(&origin, &next) {
                crossed = true;
                authorization = None;
                own = HeaderMap::new();
            }
            tracing::debug!(from = %escape::url(&url), to = %escape::url(&next), "redirected");
            url = next;
        }
        let problem = format!("redirected more than {MAX_REDIRECTS} times");
        Err(Failed::unavailable(&method, &url, problem))
    }

    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
        payload: &Payload,
        (method, url): (&Method, &Url),
        deadline: Option<Instant>,
    ) -> Result<reqwest::Response, Box<Failed>> {
        let stall = self.options.stall_timeout;
        let mut silent = Instant::now() + stall;
        let mut answer = std::pin::pin!(request.send());
        let (answer, until) = loop {
            let until = deadline.map_or(silent, |deadline| deadline.min(silent));
            let answer = tokio::time::timeout_at(until, &mut answer).await;
            match payload.patience(stall) {
                Some(later) if answer.is_err() && until == silent && later > silent => {
                    silent = later;
                }
                _ => break (answer, until),
            }
        };
        let response = match answer {
            Err(_) if until < silent => {
                let problem = "no answer in the time given";
                return Err(Failed::unavailable(method, url, problem));
            }
            Err(_) => {
                let problem = format!("no answer in {:.1} s", stall.as_secs_f32());
                return Err(Failed::unavailable(method, url, problem).again(Again::Once));
            }
            Ok(Err(error)) => return Err(Failed::exchange(method, url, error)),
            Ok(Ok(response)) => response,
        };
        let headers = response.headers().iter();
        let bytes: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
        // A challenge of any length is answered as the refusal that it is.
        if bytes > MAX_HEADER_BYTES as usize && response.status() != StatusCode::UNAUTHORIZED {
            let problem = "the header of the answer is too large";
            return Err(Failed::unavailable(method, url, problem));
        }
        Ok(response)
    }

    fn client(&self, url: &Url, home: &Url, apart: bool) -> Result<Client> {
        let trust = if url.scheme() != "https" {
            Trust::None
        } else if self.options.insecure && url.host() == home.host() {
            Trust::Anything
        } else {
            Trust::Roots
        };
        let route = if hosts::is_loopback(url) { Route::Direct } else { Route::ByProxy };
        // Without TLS it is HTTP/1.1 anyway.
        // Nobody else is shown a certificate.
        let shows = url.scheme() == "https" && url.host() == home.host();
        let shows = shows && !self.options.client_certs.is_empty();
        let wire = if apart && trust != Trust::None { Wire::Http1 } else { Wire::Any };
        let mut clients = self.clients.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = clients.get(&(trust, route, wire, shows)) {
            return Ok(client.clone());
        }
        let options = &self.options;
        let mut config =
            tls::config(trust, &options.ca_certs, if shows { &options.client_certs } else { &[] })?;
        if wire == Wire::Http1 {
            config.alpn_protocols.retain(|protocol| protocol != b"h2");
        }
        let mut builder = Client::builder()
            .tls_backend_preconfigured(config)
            .redirect(Policy::none())
            .dns_resolver(hosts::Lookup)
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(&options.user_agent)
            .connect_timeout(options.connect_timeout.min(options.stall_timeout))
            .pool_idle_timeout(Duration::from_secs(30))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .tcp_nodelay(true);
        if route == Route::Direct {
            builder = builder.no_proxy();
        }
        if wire == Wire::Http1 {
            builder = builder.http1_only();
        }
        let client = builder.build().context(ErrorKind::Internal, || "set up HTTP".into())?;
        clients.insert((trust, route, wire, shows), client.clone());
        Ok(client)
    }
}

impl Answer {
    /// A header's value, where it is plain text.
    pub(crate) fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// A failure that this answer amounts to.
    pub(crate) fn failed(&self, kind: ErrorKind, problem: impl Into<String>) -> Box<Failed> {
        let mut failed = Failed::new(kind, &self.method, &self.url, problem);
        failed.failure.status = Some(self.status().as_u16());
        failed
    }

    pub(crate) fn into_body(self, stall: Duration) -> Body {
        let body = Body::new(self.response, self.method, self.url, stall, self.deadline);
        body.within(self.budget)
    }
}

/// Where an answer redirects to, or why nobody will go there; `None` where it is no redirect.
fn redirect(response: &reqwest::Response, from: &Url) -> Option<Result<Url, &'static str>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    location(response, from)
}

/// Where the `Location` of an answer leads, or why nobody will go there; `None` without one.
pub(crate) fn location(
    response: &reqwest::Response,
    from: &Url,
) -> Option<Result<Url, &'static str>> {
    Some(target(response.headers().get(LOCATION)?.as_bytes(), from))
}

fn target(location: &[u8], from: &Url) -> Result<Url, &'static str> {
    let Some(text) = std::str::from_utf8(location)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()))
    else {
        return Err("it redirects to a malformed address");
    };
    let Ok(next) = from.join(text) else { return Err("it redirects to a malformed address") };
    match (from.scheme(), next.scheme()) {
        ("https", "http") => Err("it redirects from https to http"),
        (_, "http" | "https") if !next.username().is_empty() || next.password().is_some() => {
            Err("it redirects to an address with a user in it")
        }
        (_, "http" | "https") => Ok(next),
        _ => Err("it redirects to something that is neither http nor https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let from = Url::parse("https://h/v2/a/blobs/x").unwrap();
        let to = |text: &[u8]| target(text, &from).map(|url| url.to_string());
        assert_eq!(to(b"/y?a=b").as_deref(), Ok("https://h/y?a=b"));
        assert_eq!(to(b"https://o:1/y").as_deref(), Ok("https://o:1/y"));
        for bad in [
            &b""[..],
            b"http://h/y",
            b"file:///etc/passwd",
            b"/x\x0b\x00y",
            b"/x y",
            b"https://u:p@h/",
            b"https://[",
            b"\xff",
            b"data:,x",
        ] {
            assert!(to(bad).is_err(), "{bad:?}");
        }
    }
}
