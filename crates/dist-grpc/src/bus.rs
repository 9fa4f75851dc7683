//! Events: from whoever changes something to every subscriber, never waiting for one.
//!
//! Events of a subscriber that does not read wait in memory, up to [`QUEUE_BYTES`]. After that its
//! subscription ends with `ResourceExhausted`: an event is never left out in silence.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use dist_core::{Error, ErrorKind, Filter, Result};
use futures_util::stream::Stream;
use prost::{Message as _, Name};
use prost_types::Any;
use tokio::sync::mpsc;

use crate::api::containerd::services::events::v1::Envelope;
use crate::filters::Of;

/// What may wait for one subscriber: some hundred thousand events of the usual size.
pub(crate) const QUEUE_BYTES: usize = 32 << 20;

/// What an event takes in a queue beside its own bytes.
const OVERHEAD: usize = 64;

/// The subscribers.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    subscribers: Mutex<Subscribers>,
}

#[derive(Debug, Default)]
struct Subscribers {
    list: Vec<Subscriber>,
    is_closed: bool,
}

#[derive(Debug)]
struct Subscriber {
    filter: Filter,
    queue: mpsc::UnboundedSender<Result<Arc<Envelope>>>,
    /// Bytes in the queue.
    waiting: Arc<AtomicUsize>,
}

impl Subscriber {
    /// Queues an event; false where the subscription is over.
    fn send(&self, envelope: &Arc<Envelope>) -> bool {
        if !self.filter.matches(&Of(&**envelope)) {
            return !self.queue.is_closed();
        }
        let size = size(envelope);
        if self.waiting.fetch_add(size, Ordering::Relaxed) + size > QUEUE_BYTES {
            let message = "subscribe: more events wait to be read than are kept";
            let error = Error::new(ErrorKind::ResourceExhausted, message);
            // Where the subscriber is gone, nobody needs to hear it.
            drop(self.queue.send(Err(error)));
            return false;
        }
        self.queue.send(Ok(envelope.clone())).is_ok()
    }
}

fn size(envelope: &Envelope) -> usize {
    envelope.encoded_len() + OVERHEAD
}

impl Bus {
    /// Sends `event` to all subscribers, with the time of now.
    pub(crate) fn publish<M: Name>(&self, namespace: &str, topic: &str, event: &M) {
        // Go's clients know the messages by their bare names, without a host before them.
        let event = Any { type_url: M::full_name(), value: event.encode_to_vec() };
        self.forward(Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        });
    }

    /// Sends an envelope as it is.
    pub(crate) fn forward(&self, envelope: Envelope) {
        let envelope = Arc::new(envelope);
        self.lock().list.retain(|subscriber| subscriber.send(&envelope));
    }

    /// All that is sent from now on and that `filter` wants.
    pub(crate) fn subscribe(&self, filter: Filter) -> Subscription {
        let (sender, queue) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut subscribers = self.lock();
        if !subscribers.is_closed {
            let waiting = waiting.clone();
            subscribers.list.push(Subscriber { filter, queue: sender, waiting });
        }
        Subscription { queue, waiting }
    }

    /// How many subscriptions there are, those not counted whose client has gone.
    pub(crate) fn subscribers(&self) -> usize {
        let mut subscribers = self.lock();
        subscribers.list.retain(|subscriber| !subscriber.queue.is_closed());
        subscribers.list.len()
    }

    /// Ends all subscriptions, each after what waits for it, and takes no new ones.
    pub(crate) fn close(&self) {
        *self.lock() = Subscribers { list: Vec::new(), is_closed: true };
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Subscribers> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The events of one subscriber.
#[derive(Debug)]
pub(crate) struct Subscription {
    queue: mpsc::UnboundedReceiver<Result<Arc<Envelope>>>,
    waiting: Arc<AtomicUsize>,
}

impl Stream for Subscription {
    type Item = Result<Arc<Envelope>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = ready!(self.queue.poll_recv(cx));
        if let Some(Ok(envelope)) = &item {
            self.waiting.fetch_sub(size(envelope), Ordering::Relaxed);
        }
        Poll::Ready(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::containerd::events::ContentDelete;
    use futures_util::StreamExt as _;

    fn event(digest: String) -> ContentDelete {
        ContentDelete { digest }
    }

    #[tokio::test]
    async fn whoever_does_not_read_is_told_so_and_others_are_not_kept_waiting() {
        let bus = Bus::default();
        let (mut slow, mut fast) =
            (bus.subscribe(Filter::default()), bus.subscribe(Filter::default()));
        let large = event("x".repeat(1 << 20));
        let count = QUEUE_BYTES / (1 << 20);
        for _ in 0..count {
            bus.publish("default", "/content/delete", &large);
            assert!(fast.next().await.unwrap().is_ok());
        }
        assert_eq!(bus.subscribers(), 1, "the slow one is not sent to any more");
        let got: Vec<_> = std::iter::from_fn(|| slow.queue.try_recv().ok()).collect();
        assert_eq!(got.len(), count);
        let (last, before) = got.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok));
        assert_eq!(last.as_ref().unwrap_err().kind(), ErrorKind::ResourceExhausted);
        assert!(slow.next().await.is_none());
    }

    #[tokio::test]
    async fn filters_look_into_the_event() {
        let bus = Bus::default();
        let filters = [r#"topic=="/content/delete",event.digest==a"#.to_owned()];
        let mut events = bus.subscribe(Filter::parse(&filters).unwrap());
        bus.publish("default", "/content/delete", &event("b".into()));
        bus.publish("other", "/content/delete", &event("a".into()));
        bus.publish("default", "/images/delete", &event("a".into()));
        bus.close();
        let first = events.next().await.unwrap().unwrap();
        assert_eq!(first.namespace, "other");
        assert_eq!(first.event.as_ref().unwrap().type_url, "containerd.events.ContentDelete");
        assert!(events.next().await.is_none());
        assert!(bus.subscribe(Filter::default()).next().await.is_none(), "it is closed");
    }
}
