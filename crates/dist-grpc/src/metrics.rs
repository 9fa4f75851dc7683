//! What is counted, in Prometheus' text format.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use dist_core::{Context as _, ErrorKind, Result};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

/// The counters of one daemon. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    requests: Family<Answered, Counter>,
    seconds: Family<Method, Histogram>,
    active: Gauge,
    received: Family<Method, Counter>,
    sent: Family<Method, Counter>,
    ingests: Gauge,
    subscribers: Gauge,
    collections: Family<Outcome, Counter>,
    collection_seconds: Counter<f64, AtomicU64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: Arc<str>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: Arc<str>,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> Self {
        let mut registry = Registry::with_prefix("dist");
        let version = version.to_owned();
        registry.register("build", "The program", Info::new([("version", version)]));
        let mut metrics = Self {
            registry: Arc::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| {
                // From half a millisecond to half an hour.
                Histogram::new(exponential_buckets(0.0005, 4.0, 12))
            }),
            active: Gauge::default(),
            received: Family::default(),
            sent: Family::default(),
            ingests: Gauge::default(),
            subscribers: Gauge::default(),
            collections: Family::default(),
            collection_seconds: Counter::default(),
        };
        metrics.register(&mut registry);
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        registry.register("requests", "Requests answered", self.requests.clone());
        let help = "How long requests took, streams to their end";
        registry.register_with_unit("request_duration", help, Unit::Seconds, self.seconds.clone());
        registry.register("active_requests", "Requests under way", self.active.clone());
        let help = "Bytes of messages received";
        registry.register_with_unit("received", help, Unit::Bytes, self.received.clone());
        let help = "Bytes of messages sent";
        registry.register_with_unit("sent", help, Unit::Bytes, self.sent.clone());
        registry.register("ingests", "Ingests that are not committed", self.ingests.clone());
        let help = "Subscriptions to events";
        registry.register("subscribers", help, self.subscribers.clone());
        registry.register("collections", "Garbage collections", self.collections.clone());
        let help = "How long garbage collections took in all";
        let seconds = self.collection_seconds.clone();
        registry.register_with_unit("collection_duration", help, Unit::Seconds, seconds);
    }

    pub(crate) fn request_begins(&self) {
        self.active.inc();
    }

    pub(crate) fn request_ends(&self, method: &Arc<str>, code: &'static str, took: Duration) {
        self.active.dec();
        let method = method.clone();
        self.seconds.get_or_create(&Method { method: method.clone() }).observe(took.as_secs_f64());
        self.requests.get_or_create(&Answered { method, code }).inc();
    }

    /// The counter of the bytes that clients send to a method.
    pub(crate) fn received(&self, method: &Arc<str>) -> Counter {
        self.received.get_or_create_owned(&Method { method: method.clone() })
    }

    /// The counter of the bytes that a method sends to clients.
    pub(crate) fn sent(&self, method: &Arc<str>) -> Counter {
        self.sent.get_or_create_owned(&Method { method: method.clone() })
    }

    pub(crate) fn collected(&self, took: Duration, result: &Result<()>) {
        let outcome = if result.is_ok() { "done" } else { "failed" };
        self.collections.get_or_create(&Outcome { outcome }).inc();
        self.collection_seconds.inc_by(took.as_secs_f64());
    }

    /// Writes all down, with what is not counted but looked up.
    ///
    /// # Errors
    /// `Internal`.
    pub(crate) fn text(&self, ingests: usize, subscribers: usize) -> Result<String> {
        self.ingests.set(i64::try_from(ingests).unwrap_or(i64::MAX));
        self.subscribers.set(i64::try_from(subscribers).unwrap_or(i64::MAX));
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .context(ErrorKind::Internal, || "write the metrics".into())?;
        Ok(text)
    }
}
