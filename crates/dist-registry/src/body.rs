//! Bodies as they arrive: never silent for longer than the stall timeout, never slower than a
//! trickle.
//!
//! Only the time spent waiting for the network counts; a slow reader is nobody's fault. A body must
//! bring at least 1 KiB in every two stall timeouts of waiting. One of several of a host that has
//! brought something, and then nothing for five seconds while others did, is taken for broken.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use dist_core::{ErrorKind, Limit};
use http::Method;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use url::Url;

use crate::Budget;
use crate::download::PROGRESS;
use crate::failure::{Again, Failed};
use crate::heard::{Heard, SILENCE};

/// The least that must come in two stall timeouts.
const TRICKLE: u64 = 1 << 10;

/// How often a silent body looks whether others are silent too.
const LOOK: Duration = Duration::from_secs(1);

/// The rest of an answer after its header.
pub(crate) struct Body {
    response: reqwest::Response,
    method: Method,
    url: Url,
    stall: Duration,
    deadline: Option<Instant>,
    budget: Budget,
    /// Its place among all bodies.
    _place: Option<OwnedSemaphorePermit>,
    waited: Duration,
    came: u64,
    /// All that it brought.
    brought: u64,
    /// What is heard of its host; `None` where it is not compared with others.
    heard: Option<Heard>,
}

impl Body {
    pub(crate) fn new(
        response: reqwest::Response,
        method: Method,
        url: Url,
        stall: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        let (budget, waited, came, brought) = (Budget::default(), Duration::ZERO, 0, 0);
        Self {
            response,
            method,
            url,
            stall,
            deadline,
            budget,
            _place: None,
            waited,
            came,
            brought,
            heard: None,
        }
    }

    /// The same as one of several of a host, which need not be waited for while others come.
    pub(crate) fn among(mut self, heard: &Heard) -> Self {
        self.heard = Some(heard.clone());
        self
    }

    /// The same, which keeps to a budget.
    pub(crate) fn within(mut self, budget: Budget) -> Self {
        self.budget = budget;
        self
    }

    /// The same, which holds its place as long as it is open.
    pub(crate) fn holding(mut self, place: Option<OwnedSemaphorePermit>) -> Self {
        self._place = place;
        self
    }

    /// Waits for the next bytes; `None` is the end that the server meant.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Box<Failed>> {
        let began = Instant::now();
        let silent = began + self.stall;
        let until = self.deadline.map_or(silent, |deadline| deadline.min(silent));
        let chunk = match self.wait(began, until).await {
            Err(_) if Instant::now() < until => {
                let problem = format!(
                    "no data for {:.1} s, while other connections brought some",
                    began.elapsed().as_secs_f32()
                );
                return Err(self.failed(problem).again(Again::Once));
            }
            Err(_) if until < silent => return Err(self.failed("not finished in the time given")),
            Err(_) => {
                let problem = format!("no data for {:.1} s", self.stall.as_secs_f32());
                return Err(self.failed(problem).again(Again::Once));
            }
            Ok(Err(error)) => return Err(Failed::exchange(&self.method, &self.url, error)),
            Ok(Ok(chunk)) => chunk,
        };
        self.waited += began.elapsed();
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.came += length;
        self.brought += length;
        if let Some(heard) = &self.heard {
            heard.note();
        }
        if self.waited >= 2 * self.stall {
            if self.came < TRICKLE && chunk.is_some() {
                let problem =
                    format!("only {} bytes in {:.1} s", self.came, self.waited.as_secs_f32());
                return Err(self.failed(problem).again(Again::Once));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        if let Some(chunk) = &chunk {
            self.budget.take(chunk.len()).await;
        }
        Ok(chunk)
    }

    /// Waits for what comes next until `until`, or until it is clear that only this body is silent.
    async fn wait(
        &mut self,
        began: Instant,
        until: Instant,
    ) -> Result<reqwest::Result<Option<Bytes>>, Elapsed> {
        let mut coming = pin!(self.response.chunk());
        // Each failure of this kind follows some progress, so that they alone never end a download.
        let Some(heard) = self.heard.as_ref().filter(|_| self.brought >= PROGRESS) else {
            return tokio::time::timeout_at(until, coming).await;
        };
        let mut next = began + SILENCE;
        loop {
            match tokio::time::timeout_at(next.min(until), &mut coming).await {
                Err(_) if next < until && !heard.since(began) => next += LOOK,
                ended => return ended,
            }
        }
    }

    /// Reads all of it into memory, `limit` bytes at most.
    pub(crate) async fn collect(
        &mut self,
        name: &'static str,
        limit: u64,
    ) -> Result<Vec<u8>, Box<Failed>> {
        let too_large = |body: &Self| {
            let failed = body.failed("the answer is too large");
            Box::new(Failed { kind: ErrorKind::ResourceExhausted, ..*failed })
                .because(Limit { name, limit })
        };
        if self.response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(self));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(too_large(self));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Reads what is there of a text that explains a failure; whatever goes wrong ends it.
    pub(crate) async fn excerpt(&mut self) -> Vec<u8> {
        const ENOUGH: usize = 16 << 10;
        let mut bytes = Vec::new();
        while bytes.len() < ENOUGH
            && let Ok(Some(chunk)) = self.next().await
        {
            bytes.extend_from_slice(&chunk[..chunk.len().min(ENOUGH - bytes.len())]);
        }
        bytes
    }

    /// A failure in the middle of this body.
    pub(crate) fn failed(&self, problem: impl Into<String>) -> Box<Failed> {
        Failed::unavailable(&self.method, &self.url, problem)
    }
}
