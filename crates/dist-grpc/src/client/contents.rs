//! Content over `containerd.services.content.v1`.

use dist::Contents;
use dist_core::{
    Blob, Cancel, Context as _, Digest, ErrorKind, Expected, Info, Ingest, IngestKey, IngestStatus,
    Ingester, Provider, Result,
};

use super::read::{nanoseconds, pipe};
use super::{Client, MESSAGE_LIMIT, error, write};
use crate::api::containerd::services::content::v1::content_client::ContentClient;
use crate::api::containerd::services::content::v1::{
    self as api, AbortRequest, DeleteContentRequest, InfoRequest, ListContentRequest,
    ListStatusesRequest, ReadContentRequest,
};
use crate::translate;

#[derive(Clone)]
pub(super) struct RemoteContents {
    pub(super) client: Client,
}

impl RemoteContents {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(super) fn service(&self) -> ContentClient<tonic::transport::Channel> {
        ContentClient::new(self.client.channel.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }
}

impl Provider for RemoteContents {
    fn open(&self, digest: &Digest) -> Result<Blob> {
        let info = self.info(digest)?;
        let request = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
        let (request, mut service) = (self.client.request(request), self.service());
        let answer = self
            .client
            .wait(async move { service.read(request).await.map_err(|status| error(&status)) })?;
        pipe(&self.client, *digest, info.size, answer.into_inner())
    }
}

impl Ingester for RemoteContents {
    fn ingest(&self, key: &IngestKey, expected: Expected, cancel: &Cancel) -> Result<Ingest> {
        write::open(self, key, expected, cancel)
    }
}

impl Contents for RemoteContents {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let request = self.client.request(InfoRequest { digest: digest.to_string() });
        let mut service = self.service();
        let answer = self
            .client
            .wait(async move { service.info(request).await.map_err(|status| error(&status)) })?;
        info(translate::required(answer.into_inner().info, "info")?)
    }

    fn list(&self) -> Result<Vec<Info>> {
        let request = self.client.request(ListContentRequest::default());
        let mut service = self.service();
        let mut found = self.client.wait(async move {
            let mut answer =
                service.list(request).await.map_err(|status| error(&status))?.into_inner();
            let mut found = Vec::new();
            while let Some(block) = answer.message().await.map_err(|status| error(&status))? {
                found.extend(block.info.into_iter().map(info));
            }
            found.into_iter().collect::<Result<Vec<_>>>()
        })?;
        found.sort_by_key(|info| info.digest);
        Ok(found)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let request = self.client.request(DeleteContentRequest { digest: digest.to_string() });
        let mut service = self.service();
        self.client
            .wait(async move { service.delete(request).await.map_err(|status| error(&status)) })
            .map(drop)
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let request = self.client.request(ListStatusesRequest::default());
        let mut service = self.service();
        let answer = self.client.wait(async move {
            service.list_statuses(request).await.map_err(|status| error(&status))
        })?;
        let mut found =
            answer.into_inner().statuses.into_iter().map(status).collect::<Result<Vec<_>>>()?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn abort(&self, key: &IngestKey) -> Result<()> {
        let request = self.client.request(AbortRequest { r#ref: key.to_string() });
        let mut service = self.service();
        self.client
            .wait(async move { service.abort(request).await.map_err(|status| error(&status)) })
            .map(drop)
    }
}

fn info(info: api::Info) -> Result<Info> {
    let what = || format!("read blob {:?}", info.digest);
    Ok(Info {
        digest: info.digest.parse().context(ErrorKind::Internal, what)?,
        size: u64::try_from(info.size).context(ErrorKind::Internal, what)?,
        created_at: nanoseconds(info.created_at),
        updated_at: nanoseconds(info.updated_at),
        labels: info.labels.into_iter().collect(),
    })
}

fn status(status: api::Status) -> Result<IngestStatus> {
    let what = || format!("read ingest {:?}", status.r#ref);
    Ok(IngestStatus {
        key: status.r#ref.parse().context(ErrorKind::Internal, what)?,
        offset: u64::try_from(status.offset).context(ErrorKind::Internal, what)?,
        total: u64::try_from(status.total).ok().filter(|total| *total > 0),
        expected: status.expected.parse().ok(),
        started_at: nanoseconds(status.started_at),
        updated_at: nanoseconds(status.updated_at),
        active: false,
    })
}
