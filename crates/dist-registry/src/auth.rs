//! Authentication at one registry: what it asked for, and what it was told.
//!
//! A challenge is remembered, so that later requests bring what they need with them. Tokens are
//! fetched one at a time: whoever waits takes the one that the other got. A password goes to the
//! registry's own origin (Basic) or to its token server, where that is of the registry's site; a
//! token goes to the registry alone.

use std::collections::HashMap;

use dist_core::ErrorKind;
use http::{HeaderMap, HeaderValue};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::challenge::{self, Challenge};
use crate::credentials::Credentials;
use crate::failure::Failed;
use crate::hosts;
use crate::registry::Access;
use crate::token::{self, Key, Token};
use crate::transport::Transport;

/// What is known about one registry.
pub(crate) struct Auth {
    /// The registry's name, as in references.
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    credentials: HashMap<String, Option<Credentials>>,
    tokens: HashMap<Key, Token>,
}

/// Who needs authorization, and for what.
pub(crate) struct Need<'a> {
    pub(crate) transport: &'a Transport,
    /// The registry's base address.
    pub(crate) registry: &'a Url,
    /// The repository; empty for the registry itself.
    pub(crate) repository: &'a str,
    /// What is done to it.
    pub(crate) access: &'a Access,
    pub(crate) deadline: Option<Instant>,
}

impl Need<'_> {
    /// What a token must allow.
    fn scopes(&self) -> Vec<String> {
        let scope = |repository: &str, actions| format!("repository:{repository}:{actions}");
        match self.access {
            Access::Catalog => vec!["registry:catalog:*".to_owned()],
            _ if self.repository.is_empty() => Vec::new(),
            Access::Pull => vec![scope(self.repository, "pull")],
            Access::Push => vec![scope(self.repository, "pull,push")],
            Access::Delete => vec![scope(self.repository, "delete,pull,push")],
            Access::Mount(from) => vec![scope(self.repository, "pull,push"), scope(from, "pull")],
        }
    }
}

impl Auth {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), state: Mutex::default() }
    }

    /// What to send without being asked, by what was asked before.
    pub(crate) async fn known(&self, need: &Need<'_>) -> Result<Option<HeaderValue>, Box<Failed>> {
        let mut state = self.state.lock().await;
        let Some(challenge) = state.challenge.clone() else { return Ok(None) };
        self.answer(&mut state, challenge, need, None).await
    }

    /// What to send after a 401, where there is something that was not `refused` already.
    pub(crate) async fn challenged(
        &self,
        headers: &HeaderMap,
        need: &Need<'_>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Box<Failed>> {
        let Some(challenge) = challenge::pick(headers) else { return Ok(None) };
        let mut state = self.state.lock().await;
        state.challenge = Some(challenge.clone());
        self.answer(&mut state, challenge, need, refused).await
    }

    async fn answer(
        &self,
        state: &mut State,
        challenge: Challenge,
        need: &Need<'_>,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Box<Failed>> {
        let credentials = match state.credentials.get(need.repository) {
            Some(credentials) => credentials.clone(),
            None => {
                let source = &need.transport.options().credentials;
                let found = source.find(&self.name, need.repository).await.map_err(|error| {
                    let problem = "cannot look up credentials";
                    Failed::new(error.kind(), &http::Method::GET, need.registry, problem)
                        .because(error)
                })?;
                state.credentials.insert(need.repository.to_owned(), found.clone());
                found
            }
        };
        if let Some(header) = credentials.as_ref().and_then(Credentials::whole_header) {
            return Ok(Some(header.clone()).filter(|header| Some(header) != refused));
        }
        match challenge {
            Challenge::Basic => {
                let header = credentials.as_ref().and_then(Credentials::basic);
                Ok(header.filter(|header| Some(header) != refused))
            }
            Challenge::Bearer { realm, service } => {
                self.bearer(state, (realm, service), credentials, need, refused).await.map(Some)
            }
        }
    }

    async fn bearer(
        &self,
        state: &mut State,
        (realm, service): (String, Option<String>),
        credentials: Option<Credentials>,
        need: &Need<'_>,
        refused: Option<&HeaderValue>,
    ) -> Result<HeaderValue, Box<Failed>> {
        let address = token::realm(&realm, need.registry)?;
        if credentials.is_some() && !hosts::may_see_credentials(need.registry, &address) {
            let problem = format!(
                "there are credentials, but its token server {} is of another site and does not get them",
                address.host_str().unwrap_or_default()
            );
            return Err(Failed::new(
                ErrorKind::Unauthenticated,
                &http::Method::GET,
                need.registry,
                problem,
            ));
        }
        let key = Key {
            realm,
            service,
            scopes: need.scopes(),
            account: credentials.as_ref().map(|credentials| credentials.account().to_owned()),
        };
        if let Some(token) = state.tokens.get(&key)
            && Some(&token.header) != refused
            && Instant::now() < token.stale
        {
            return Ok(token.header.clone());
        }
        let token =
            token::fetch(need.transport, need.registry, &key, credentials.as_ref(), need.deadline)
                .await?;
        let header = token.header.clone();
        state.tokens.insert(key, token);
        Ok(header)
    }
}
