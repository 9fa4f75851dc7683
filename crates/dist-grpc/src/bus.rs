//! Events: from whoever changes something to every subscriber, never waiting for one.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use prost::Name;
use prost_types::Any;
use tokio::sync::mpsc;

use crate::api::containerd::services::events::v1::Envelope;

/// The subscribers.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Envelope>>>,
}

impl Bus {
    /// Sends `event` to all subscribers, with the time of now.
    pub(crate) fn publish<M: Name>(&self, namespace: &str, topic: &str, event: &M) {
        // Go's clients know the messages by their bare names, without a host before them.
        let event = Any { type_url: M::full_name(), value: event.encode_to_vec() };
        self.forward(&Envelope {
            timestamp: Some(SystemTime::now().into()),
            namespace: namespace.to_owned(),
            topic: topic.to_owned(),
            event: Some(event),
        });
    }

    /// Sends an envelope as it is.
    pub(crate) fn forward(&self, envelope: &Envelope) {
        let mut subscribers = self.subscribers.lock().unwrap_or_else(PoisonError::into_inner);
        subscribers.retain(|subscriber| subscriber.send(envelope.clone()).is_ok());
    }

    /// All that is sent from now on.
    pub(crate) fn subscribe(&self) -> mpsc::UnboundedReceiver<Envelope> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        receiver
    }
}
