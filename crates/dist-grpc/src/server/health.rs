//! `grpc.health.v1`: all services are served from the first request to the stop, and none from then.

use futures_util::stream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The service on one socket.
pub(super) struct Service {
    names: &'static [&'static str],
    drain: CancellationToken,
}

impl Service {
    /// Tells of the services with these names, and of the server by the empty name.
    pub(super) fn new(names: &'static [&'static str], drain: CancellationToken) -> Self {
        Self { names, drain }
    }

    /// How a service is; `None` for one that is not there.
    fn status(&self, request: &HealthCheckRequest) -> Option<ServingStatus> {
        let name = request.service.as_str();
        let known = name.is_empty() || self.names.contains(&name);
        known.then(|| match self.drain.is_cancelled() {
            false => ServingStatus::Serving,
            true => ServingStatus::NotServing,
        })
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let request = request.get_ref();
        let status = self.status(request).ok_or_else(|| {
            Status::not_found(format!("service {:?} is not there: not found", request.service))
        })?;
        Ok(Response::new(answer(status)))
    }

    type WatchStream = BoxStream<HealthCheckResponse>;

    /// What is not there may come, so a watch of it goes on as any other; all end with the stop.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let now = self.status(request.get_ref());
        let drain = self.drain.clone();
        let later = stream::once(async move {
            drain.cancelled_owned().await;
            now.filter(|status| *status == ServingStatus::Serving)
                .map(|_| ServingStatus::NotServing)
        });
        let now = now.unwrap_or(ServingStatus::ServiceUnknown);
        let all = tokio_stream::once(Some(now)).chain(later);
        Ok(Response::new(Box::pin(
            all.filter_map(|status| status.map(|status| Ok(answer(status)))),
        )))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
