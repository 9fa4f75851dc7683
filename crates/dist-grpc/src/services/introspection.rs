//! `containerd.services.introspection.v1`: what this daemon is and what it is made of.

use std::os::linux::fs::MetadataExt as _;

use dist_core::{Context as _, Error, ErrorKind, Filter, Result};
use tonic::{Request, Response, Status};

use crate::answer::reply;
use crate::api::containerd::services::introspection::v1::introspection_server::Introspection;
use crate::api::containerd::services::introspection::v1::{
    PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use crate::daemon::blocking;
use crate::filters::Of;
use crate::{Daemon, plugins};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn plugins(&self, filters: &[String]) -> Result<PluginsResponse> {
        let filter = Filter::parse(filters)?;
        let mut plugins = plugins::all(self.daemon.engine().store().root());
        plugins.retain(|plugin| filter.matches(&Of(plugin)));
        Ok(PluginsResponse { plugins })
    }

    fn plugin_info(&self, request: &PluginInfoRequest) -> Result<PluginInfoResponse> {
        let (kind, id) = (&request.r#type, &request.id);
        let plugins = plugins::all(self.daemon.engine().store().root());
        let plugin = plugins.into_iter().find(|plugin| plugin.r#type == *kind && plugin.id == *id);
        let missing = || Error::new(ErrorKind::NotFound, format!("plugin {kind}.{id}"));
        // None of ours has more to tell, whatever the options ask for.
        Ok(PluginInfoResponse { plugin: Some(plugin.ok_or_else(missing)?), extra: None })
    }

    async fn server(&self) -> Result<ServerResponse> {
        let store = self.daemon.engine().store().clone();
        let uuid = blocking(move || store.identity()).await?;
        let namespace = std::fs::metadata("/proc/self/ns/pid")
            .context(ErrorKind::Internal, || "stat /proc/self/ns/pid".into())?;
        Ok(ServerResponse {
            uuid,
            pid: std::process::id().into(),
            pidns: namespace.st_ino(),
            deprecations: Vec::new(),
        })
    }
}

#[tonic::async_trait]
impl Introspection for Service {
    async fn plugins(
        &self,
        request: Request<PluginsRequest>,
    ) -> Result<Response<PluginsResponse>, Status> {
        reply(Self::plugins(self, &request.get_ref().filters))
    }

    async fn server(&self, _: Request<()>) -> Result<Response<ServerResponse>, Status> {
        reply(Self::server(self).await)
    }

    async fn plugin_info(
        &self,
        request: Request<PluginInfoRequest>,
    ) -> Result<Response<PluginInfoResponse>, Status> {
        reply(Self::plugin_info(self, request.get_ref()))
    }
}
