//! Trying again: how often, after which pause, and for how long at most.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use http::HeaderMap;
use http::header::RETRY_AFTER;
use tokio::time::Instant;

use crate::RegistryOptions;
use crate::failure::{Again, Failed};

/// The longest pause that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The longest pause of our own.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// The tries of one thing, from its first to its last.
pub(crate) struct Tries {
    builder: ExponentialBuilder,
    pauses: ExponentialBackoff,
    /// When the first one began.
    started: Instant,
    deadline: Option<Instant>,
    total: u32,
    since_progress: u32,
    silent: u32,
    limit: u32,
}

impl Tries {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        let builder = ExponentialBuilder::new()
            .with_min_delay(options.retry_delay)
            .with_max_delay(MAX_DELAY)
            .with_jitter()
            .without_max_times();
        let started = Instant::now();
        Self {
            builder,
            pauses: builder.build(),
            started,
            deadline: options.total_timeout.map(|timeout| started + timeout),
            total: 0,
            since_progress: 0,
            silent: 0,
            limit: options.attempts.max(1),
        }
    }

    /// The tries of the same thing somewhere else: they must be over at the same time.
    pub(crate) fn elsewhere(&self, options: &RegistryOptions) -> Self {
        Self { deadline: self.deadline, ..Self::new(options) }
    }

    /// Makes the first try the last.
    pub(crate) fn once(&mut self) {
        self.limit = 1;
    }

    /// When everything must be over.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Notes that what was tried got somewhere: failures and silences are counted anew.
    pub(crate) fn progressed(&mut self) {
        self.since_progress = 0;
        self.silent = 0;
        self.pauses = self.builder.build();
    }

    /// Waits until the next try, or gives the failure back where there is to be none.
    pub(crate) async fn pause(&mut self, mut failed: Box<Failed>) -> Result<(), Box<Failed>> {
        self.total += 1;
        self.since_progress += 1;
        failed.failure.attempts = self.total;
        failed.failure.elapsed = self.started.elapsed();
        if self.since_progress >= self.limit {
            return Err(failed);
        }
        let delay = match failed.again {
            Again::Never => return Err(failed),
            Again::Once => {
                self.silent += 1;
                if self.silent > 1 {
                    return Err(failed);
                }
                self.pauses.next()
            }
            Again::Later => self.pauses.next(),
            Again::After(delay) => Some(delay),
        }
        .unwrap_or(MAX_DELAY);
        if self.deadline.is_some_and(|deadline| Instant::now() + delay >= deadline) {
            return Err(failed);
        }
        tracing::debug!(failure = %failed.failure, ?delay, "trying again");
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// What a `Retry-After` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RetryAfter {
    /// Nothing that can be understood.
    Absent,
    /// A pause that is granted.
    Wait(Duration),
    /// One that is too long.
    TooLong(Duration),
}

/// Reads `Retry-After`: seconds or an HTTP date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> RetryAfter {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else {
        return RetryAfter::Absent;
    };
    let text = text.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Duration::from_secs(text.parse().unwrap_or(u64::MAX))
    } else if let Ok(at) = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text) {
        let seconds = at.as_second().saturating_sub(jiff::Timestamp::now().as_second());
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    } else {
        return RetryAfter::Absent;
    };
    if wait > MAX_RETRY_AFTER { RetryAfter::TooLong(wait) } else { RetryAfter::Wait(wait) }
}

/// A long time in words that are easy to grasp.
pub(crate) fn roughly(wait: Duration) -> String {
    let seconds = wait.as_secs();
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} minutes", seconds / 60),
        7200..=172_799 => format!("{} hours", seconds / 3600),
        172_800..=63_071_999 => format!("{} days", seconds / 86_400),
        _ => format!("{} years", seconds / 31_536_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_forms() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(read("1"), RetryAfter::Wait(Duration::from_secs(1)));
        assert_eq!(read("60"), RetryAfter::Wait(Duration::from_secs(60)));
        assert_eq!(read("61"), RetryAfter::TooLong(Duration::from_secs(61)));
        assert!(matches!(read("99999999999999999999999"), RetryAfter::TooLong(_)));
        for junk in ["-1, junk", "", "1.5", "soon"] {
            assert_eq!(read(junk), RetryAfter::Absent, "{junk}");
        }
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), RetryAfter::Wait(Duration::ZERO));
        assert!(matches!(read("Fri, 01 Jan 2100 00:00:00 GMT"), RetryAfter::TooLong(_)));
        assert_eq!(retry_after(&HeaderMap::new()), RetryAfter::Absent);
        assert_eq!(roughly(Duration::from_secs(999_999_999)), "31 years");
    }

    #[tokio::test]
    async fn tries_are_bounded() {
        let options = RegistryOptions {
            attempts: 3,
            retry_delay: Duration::from_millis(1),
            ..RegistryOptions::default()
        };
        let failed = || {
            let url = url::Url::parse("http://h/").unwrap();
            Failed::unavailable(&http::Method::GET, &url, "x")
        };
        let mut tries = Tries::new(&options);
        assert!(tries.pause(failed()).await.is_err());
        let mut tries = Tries::new(&options);
        assert!(tries.pause(failed().again(Again::Later)).await.is_ok());
        assert!(tries.pause(failed().again(Again::Later)).await.is_ok());
        tries.progressed();
        assert!(tries.pause(failed().again(Again::Once)).await.is_ok());
        tries.progressed();
        assert!(tries.pause(failed().again(Again::Once)).await.is_ok(), "bytes came in between");
        let last = tries.pause(failed().again(Again::Once)).await.unwrap_err();
        assert_eq!(last.failure.attempts, 5);
    }
}
