//! Bodies as they arrive: never silent for longer than the stall timeout, never slower than a
//! trickle.
//!
//! Only the time spent waiting for the network counts; a slow reader is nobody's fault. A body must
//! bring at least 1 KiB in every two stall timeouts of waiting.

use std::time::Duration;

use bytes::Bytes;
use dist_core::{ErrorKind, Limit};
use http::Method;
use tokio::time::Instant;
use url::Url;

use crate::failure::{Again, Failed};

/// The least that must come in two stall timeouts.
const TRICKLE: u64 = 1 << 10;

/// The rest of an answer after its header.
pub(crate) struct Body {
    response: reqwest::Response,
    method: Method,
    url: Url,
    stall: Duration,
    deadline: Option<Instant>,
    waited: Duration,
    came: u64,
}

impl Body {
    pub(crate) fn new(
        response: reqwest::Response,
        method: Method,
        url: Url,
        stall: Duration,
        deadline: Option<Instant>,
    ) -> Self {
        Self { response, method, url, stall, deadline, waited: Duration::ZERO, came: 0 }
    }

    /// Waits for the next bytes; `None` is the end that the server meant.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Box<Failed>> {
        let began = Instant::now();
        let silent = began + self.stall;
        let until = self.deadline.map_or(silent, |deadline| deadline.min(silent));
        let chunk = match tokio::time::timeout_at(until, self.response.chunk()).await {
            Err(_) if until < silent => return Err(self.failed("not finished in the time given")),
            Err(_) => {
                let problem = format!("no data for {:.1} s", self.stall.as_secs_f32());
                return Err(self.failed(problem).again(Again::Once));
            }
            Ok(Err(error)) => return Err(Failed::exchange(&self.method, &self.url, error)),
            Ok(Ok(chunk)) => chunk,
        };
        self.waited += began.elapsed();
        self.came += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.waited >= 2 * self.stall {
            if self.came < TRICKLE && chunk.is_some() {
                let problem =
                    format!("only {} bytes in {:.1} s", self.came, self.waited.as_secs_f32());
                return Err(self.failed(problem).again(Again::Once));
            }
            (self.waited, self.came) = (Duration::ZERO, 0);
        }
        Ok(chunk)
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
