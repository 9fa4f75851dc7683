//! `containerd.services.streaming.v1`: clients open streams and name them; transfers use them.

use std::pin::Pin;
use std::task::{Context, Poll};

use dist_core::{Context as _, ErrorKind, Result};
use dist_store::Scope;
use futures_util::Stream as Items;
use prost_types::Any;
use tokio::sync::mpsc;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming as Incoming};

use crate::answer::reply;
use crate::api::containerd::services::streaming::v1::StreamInit;
use crate::api::containerd::services::streaming::v1::streaming_server::Streaming;
use crate::streams::{Registered, Stream};
use crate::translate::required;
use crate::{Daemon, context, typed};

/// Messages that may wait for the client.
const WAITING: usize = 16;

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    async fn open(&self, request: Request<Incoming<Any>>) -> Result<BoxStream<Any>> {
        let Scope { namespace, lease } = context::scope(request.metadata())?;
        let mut from = request.into_inner();
        let first = from
            .message()
            .await
            .context(ErrorKind::Cancelled, || "read the first message of a stream".to_owned())?;
        let init: StreamInit = typed::unpack(&required(first, "the first message")?)?;
        let (to, messages) = mpsc::channel(WAITING);
        to.try_send(Ok(typed::empty()))
            .context(ErrorKind::Internal, || "answer a stream's first message".to_owned())?;
        let stream = Stream::new(to, from);
        let registered = self.daemon.streams().register(namespace, &init.id, lease, stream)?;
        Ok(Box::pin(Answers { messages, _registered: registered }))
    }
}

#[tonic::async_trait]
impl Streaming for Service {
    async fn stream(
        &self,
        request: Request<Incoming<Any>>,
    ) -> Result<Response<BoxStream<Any>>, Status> {
        reply(self.open(request).await)
    }
}

/// What goes to the client; the stream has its name as long as somebody listens.
struct Answers {
    messages: mpsc::Receiver<Result<Any, Status>>,
    _registered: Registered,
}

impl Items for Answers {
    type Item = Result<Any, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(context)
    }
}
