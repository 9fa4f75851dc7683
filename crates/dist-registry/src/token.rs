//! Bearer tokens: fetched from the token server that a challenge names, kept until they expire.
//!
//! `GET realm?service=…&scope=…` with the password as Basic, or without any for a token that
//! anybody may have; an identity token is posted as an OAuth2 refresh token. The scopes asked for
//! are our own, never those of the challenge. See the distribution project's "Token
//! Authentication".

use std::time::Duration;

use dist_core::ErrorKind;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::credentials::Credentials;
use crate::failure::Failed;
use crate::payload::Payload;
use crate::transport::{Call, Transport};
use crate::{escape, hosts};

/// The most bytes that a token server's answer may have.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// How long a token lives whose server does not say it.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);

/// What a token is for: tokens are shared between equal keys only.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) account: Option<String>,
}

/// A token, ready to be sent.
#[derive(Clone)]
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    /// When it should no longer be used: a little before the server stops taking it.
    pub(crate) stale: Instant,
}

#[derive(serde::Deserialize)]
struct Wire {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
}

/// Reads the address of a token server and checks that it may be asked on the registry's behalf.
pub(crate) fn realm(text: &str, registry: &Url) -> Result<Url, Box<Failed>> {
    let refused = |problem: &str| {
        let problem = format!("the token server {:?} {problem}", escape::text(text));
        Err(Failed::new(ErrorKind::Unauthenticated, &Method::GET, registry, problem))
    };
    let Ok(url) = Url::parse(text) else { return refused("is no address") };
    match (registry.scheme(), url.scheme()) {
        (_, "https") | ("http", "http") => {}
        (_, "http") => return refused("does not speak https, and the registry does"),
        _ => return refused("is neither http nor https"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return refused("has a user in its address");
    }
    if hosts::is_link_local(&url) && url.host() != registry.host() {
        return refused("is at a link-local address");
    }
    Ok(url)
}

/// Fetches a token for `key`.
pub(crate) async fn fetch(
    transport: &Transport,
    registry: &Url,
    key: &Key,
    credentials: Option<&Credentials>,
    deadline: Option<Instant>,
) -> Result<Token, Box<Failed>> {
    let realm = realm(&key.realm, registry)?;
    let call = |method: Method, url: Url, payload, authorization| Call {
        method,
        url,
        headers: HeaderMap::new(),
        payload,
        own: HeaderMap::new(),
        authorization,
        home: registry.clone(),
        apart: false,
        deadline,
    };
    if let Some(identity) = credentials.and_then(Credentials::identity) {
        let form = refresh_form(key, identity);
        let posted = call(Method::POST, realm.clone(), Payload::Form(form), None);
        match read(transport, posted).await {
            // Servers without OAuth2 take the identity token as a password.
            Err(failed) if matches!(failed.failure.status, Some(400 | 401 | 404 | 405)) => {}
            token => return token,
        }
    }
    let mut url = realm;
    if let Some(service) = &key.service {
        url.query_pairs_mut().append_pair("service", service);
    }
    for scope in &key.scopes {
        url.query_pairs_mut().append_pair("scope", scope);
    }
    if let Some(account) = &key.account {
        url.query_pairs_mut().append_pair("account", account);
    }
    let authorization = credentials.and_then(Credentials::basic);
    read(transport, call(Method::GET, url, Payload::Absent, authorization)).await
}

fn refresh_form(key: &Key, identity: &str) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "refresh_token")
        .append_pair("refresh_token", identity)
        .append_pair("client_id", "dist");
    if let Some(service) = &key.service {
        form.append_pair("service", service);
    }
    if !key.scopes.is_empty() {
        form.append_pair("scope", &key.scopes.join(" "));
    }
    form.finish()
}

async fn read(transport: &Transport, call: Call) -> Result<Token, Box<Failed>> {
    let stall = transport.options().stall_timeout;
    let asked = Instant::now();
    let answer = transport.send(call).await?;
    if !answer.status().is_success() {
        let mut failed = crate::registry::refusal(answer, stall).await;
        if failed.kind == ErrorKind::NotFound {
            failed.kind = ErrorKind::Unauthenticated; // what is missing is the token server
        }
        return Err(failed);
    }
    let nothing = |source: Option<serde_json::Error>| {
        let failed = answer.failed(ErrorKind::Unauthenticated, "the token server gave no token");
        match source {
            Some(source) => failed.because(source),
            None => failed,
        }
    };
    let (unreadable, missing) = (nothing(None), nothing(None));
    let bytes = match answer.into_body(stall).collect("token-size", MAX_ANSWER_BYTES).await {
        Ok(bytes) => bytes,
        Err(mut failed) => {
            if failed.kind == ErrorKind::ResourceExhausted {
                failed.kind = ErrorKind::Unauthenticated;
            }
            return Err(failed);
        }
    };
    let wire: Wire = match serde_json::from_slice(&bytes) {
        Ok(wire) => wire,
        Err(error) => return Err(unreadable.because(error)),
    };
    let filled = |token: Option<String>| token.filter(|token| !token.is_empty());
    let header = filled(wire.token).or(filled(wire.access_token)).and_then(|token| {
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
        header.set_sensitive(true);
        Some(header)
    });
    let Some(header) = header else { return Err(missing) };
    let life = wire.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
    let life = life.min(Duration::from_secs(24 * 3600));
    let margin = (life / 10).min(Duration::from_secs(30));
    Ok(Token { header, stale: asked + life - margin })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn realms() {
        let http = Url::parse("http://127.0.0.1:5000/").unwrap();
        let https = Url::parse("https://r.example.com/").unwrap();
        assert!(realm("http://127.0.0.1:5001/token", &http).is_ok());
        assert!(realm("https://auth.example.com/token", &https).is_ok());
        assert!(realm("https://elsewhere.org/token", &https).is_ok()); // without credentials
        for text in [
            "http://r.example.com/token",
            "file:///etc/passwd",
            "https://u:p@r.example.com/",
            "https://169.254.169.254/token",
            "/token",
            "",
        ] {
            assert_eq!(realm(text, &https).unwrap_err().kind, ErrorKind::Unauthenticated, "{text}");
        }
        assert!(realm("http://169.254.169.254/token", &http).is_err());
    }
}
