//! `containerd.services.events.v1`: what happens in all namespaces.

use std::sync::Arc;

use dist_core::{Context as _, Error, ErrorKind, Filter, Namespace, Result, ResultExt as _};
use futures_util::StreamExt as _;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use crate::answer::reply;
use crate::api::containerd::services::events::v1::events_server::Events;
use crate::api::containerd::services::events::v1::{
    Envelope, ForwardRequest, PublishRequest, SubscribeRequest,
};
use crate::translate::{required, status};
use crate::{Daemon, context};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn publish(&self, request: Request<PublishRequest>) -> Result<()> {
        let namespace = context::namespace(request.metadata())?;
        let request = request.into_inner();
        check_topic(&request.topic)?;
        self.daemon.bus().forward(Envelope {
            timestamp: Some(std::time::SystemTime::now().into()),
            namespace: namespace.as_str().to_owned(),
            topic: request.topic,
            event: Some(required(request.event, "event")?),
        });
        Ok(())
    }

    fn forward(&self, request: ForwardRequest) -> Result<()> {
        let envelope = required(request.envelope, "envelope")?;
        let namespace = &envelope.namespace;
        let what = || format!("forward event of namespace {namespace:?}");
        namespace.parse::<Namespace>().context(ErrorKind::InvalidArgument, what)?;
        check_topic(&envelope.topic)?;
        required(envelope.timestamp.as_ref(), "timestamp")?;
        required(envelope.event.as_ref(), "event")?;
        self.daemon.bus().forward(envelope);
        Ok(())
    }
}

#[tonic::async_trait]
impl Events for Service {
    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<()>, Status> {
        reply(Self::publish(self, request))
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Result<Response<()>, Status> {
        reply(Self::forward(self, request.into_inner()))
    }

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<BoxStream<Envelope>>, Status> {
        let filter =
            Filter::parse(&request.into_inner().filters).map_err(|error| status(&error))?;
        let events = self.daemon.bus().subscribe(filter).map(|event| match event {
            Ok(envelope) => Ok(Arc::unwrap_or_clone(envelope)),
            Err(error) => Err(status(&error)),
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// Fails unless a topic is `/one` or `/several/parts`, each an identifier as namespaces are.
fn check_topic(topic: &str) -> Result<()> {
    let what = || format!("read topic {topic:?}");
    let parts = topic.strip_prefix('/').filter(|parts| !parts.is_empty()).ok_or_else(|| {
        Error::new(ErrorKind::InvalidArgument, "a topic starts with a slash and goes on")
    });
    for part in parts.during(what)?.split('/') {
        part.parse::<Namespace>().context(ErrorKind::InvalidArgument, what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics() {
        for good in ["/images", "/images/create", "/a/b-c/d_e/f.g"] {
            check_topic(good).unwrap();
        }
        for bad in ["", "/", "images/create", "/images/", "//images", "/a b", "/images/créé"] {
            let error = check_topic(bad).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{bad}");
        }
    }
}
