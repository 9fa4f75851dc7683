//! Content over `containerd.services.content.v1`.

use std::sync::Arc;

use dist::Contents;
use dist_core::{
    Blob, Cancel, Context as _, Digest, ErrorKind, Expected, Info, Ingest, IngestKey, IngestStatus,
    Ingester, Labels, Outline, Provider, Result,
};
use dist_store::{Known, Outlined};

use prost_types::FieldMask;
use tonic::transport::Channel;

use super::read::{nanoseconds, pipe};
use super::{Client, MESSAGE_LIMIT, write};
use crate::api::containerd::services::content::v1::content_client::ContentClient;
use crate::api::containerd::services::content::v1::{
    self as api, AbortRequest, DeleteContentRequest, InfoRequest, ListContentRequest,
    ListStatusesRequest, ReadContentRequest, StatusRequest, UpdateRequest,
};
use crate::translate;

#[derive(Clone)]
pub(super) struct RemoteContents {
    pub(super) client: Client,
    /// What is brought gets these labels.
    pub(super) labels: Labels,
}

impl RemoteContents {
    pub(super) fn new(client: Client, labels: Labels) -> Self {
        Self { client, labels }
    }

    /// How many bytes an ingest has; `None` where there is none.
    pub(super) fn written(&self, key: &IngestKey) -> Result<Option<u64>> {
        let request = StatusRequest { r#ref: key.to_string() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).status(request).await
        });
        match answer {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            answer => Ok(Some(status(translate::required(answer?.status, "status")?)?.offset)),
        }
    }

    /// Gives a blob those of `labels` that it lacks.
    pub(super) fn add_labels(&self, info: Info, labels: &Labels) -> Result<Info> {
        let mut lacking = labels.clone();
        lacking.retain(|key, _| !info.labels.contains_key(key));
        if lacking.is_empty() { Ok(info) } else { self.label(&info.digest, lacking) }
    }

    /// Sets labels of a blob.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` for labels that are too long.
    pub(super) fn label(&self, digest: &Digest, labels: Labels) -> Result<Info> {
        let paths = labels.keys().map(|key| format!("labels.{key}")).collect();
        let asked = api::Info {
            digest: digest.to_string(),
            labels: labels.into_iter().collect(),
            ..Default::default()
        };
        let request = UpdateRequest { info: Some(asked), update_mask: Some(FieldMask { paths }) };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).update(request).await
        })?;
        info(translate::required(answer.info, "info")?)
    }
}

/// The service, for messages as large as the daemon sends and takes them.
pub(super) fn service(channel: Channel) -> ContentClient<Channel> {
    ContentClient::new(channel)
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(MESSAGE_LIMIT)
}

impl Provider for RemoteContents {
    fn open(&self, digest: &Digest) -> Result<Blob> {
        let info = self.info(digest)?;
        let request = ReadContentRequest { digest: digest.to_string(), ..Default::default() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).read(request).await
        })?;
        pipe(&self.client, info.size, answer)
    }
}

impl Ingester for RemoteContents {
    fn ingest(&self, key: &IngestKey, expected: Expected, cancel: &Cancel) -> Result<Ingest> {
        write::open(self, key, expected, cancel)
    }
}

impl Contents for RemoteContents {
    fn info(&self, digest: &Digest) -> Result<Info> {
        let request = InfoRequest { digest: digest.to_string() };
        let answer = self.client.call(request, |channel, request| async move {
            service(channel).info(request).await
        })?;
        info(translate::required(answer.info, "info")?)
    }

    fn list(&self) -> Result<Vec<Info>> {
        let blocks = self
            .client
            .call_for_all(ListContentRequest::default(), |channel, request| async move {
                service(channel).list(request).await
            })?;
        let infos = blocks.into_iter().flat_map(|block| block.info);
        let mut found = infos.map(info).collect::<Result<Vec<_>>>()?;
        found.sort_by_key(|info| info.digest);
        Ok(found)
    }

    /// The API has no outlines: documents are read.
    fn known(&self) -> Result<Known> {
        let blobs = self.list()?.into_iter().map(|info| (info.digest, info.size)).collect();
        Ok(Known { blobs, ..Known::default() })
    }

    fn keep_outlines(&self, _outlines: &[(Outlined, Arc<Outline>)]) -> Result<()> {
        Ok(())
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        let request = DeleteContentRequest { digest: digest.to_string() };
        self.client
            .call(request, |channel, request| async move { service(channel).delete(request).await })
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        let answer =
            self.client.call(ListStatusesRequest::default(), |channel, request| async move {
                service(channel).list_statuses(request).await
            })?;
        let mut found = answer.statuses.into_iter().map(status).collect::<Result<Vec<_>>>()?;
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    fn abort(&self, key: &IngestKey) -> Result<()> {
        let request = AbortRequest { r#ref: key.to_string() };
        self.client
            .call(request, |channel, request| async move { service(channel).abort(request).await })
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
        active: None,
    })
}
