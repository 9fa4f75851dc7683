//! What tasks use, as their shims measure it.

use std::borrow::Cow;
use std::time::SystemTime;

use dist_core::{ContainerId, ErrorKind, Fields, Filter, Result};
use dist_run::TaskNow;

use super::Space;
use crate::api::containerd::services::tasks::v1::MetricsResponse;
use crate::api::containerd::types::Metric;
use crate::translate::api_any;

/// A task, as filters see it.
struct Of<'a>(&'a ContainerId, &'a str);

impl Fields for Of<'_> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => Some(self.0.as_str().into()),
            ["namespace", ..] => Some(self.1.into()),
            _ => None,
        }
    }
}

/// What each task uses that a filter wants. One that has ended uses nothing.
pub(super) async fn all(space: &Space, filters: &[String]) -> Result<MetricsResponse> {
    let filter = Filter::parse(filters)?;
    let mut metrics = Vec::new();
    for container in space.all().await? {
        let id = &container.id;
        if !filter.matches(&Of(id, space.namespace.as_str())) {
            continue;
        }
        let timestamp = Some(SystemTime::now().into());
        let stats = match space.containers.task(&container).await {
            Ok(TaskNow::Known(client)) => client.stats().await,
            Ok(TaskNow::Recorded(_)) => continue,
            Err(error) => Err(error),
        };
        match stats {
            Ok(stats) => {
                metrics.push(Metric { timestamp, id: id.to_string(), data: Some(api_any(stats)) });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => (),
            Err(error) => tracing::warn!(%id, ?error, "a task is not measured"),
        }
    }
    Ok(MetricsResponse { metrics })
}
