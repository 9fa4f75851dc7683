//! Images over `containerd.services.images.v1`.

use dist::Images;
use dist_core::{Context as _, ErrorKind, Image, ImageName, Result};

use super::{Client, MESSAGE_LIMIT, error};
use crate::api::containerd::services::images::v1::images_client::ImagesClient;
use crate::api::containerd::services::images::v1::{
    self as api, DeleteImageRequest, GetImageRequest, ListImagesRequest,
};
use crate::translate;

pub(super) struct RemoteImages {
    client: Client,
}

impl RemoteImages {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    fn service(&self) -> ImagesClient<tonic::transport::Channel> {
        ImagesClient::new(self.client.channel.clone()).max_decoding_message_size(MESSAGE_LIMIT)
    }
}

impl Images for RemoteImages {
    fn get(&self, name: &ImageName) -> Result<Image> {
        let request = self.client.request(GetImageRequest { name: name.to_string() });
        let mut service = self.service();
        let answer = self
            .client
            .wait(async move { service.get(request).await.map_err(|status| error(&status)) })?;
        read(translate::required(answer.into_inner().image, "image")?)
    }

    fn list(&self) -> Result<Vec<Image>> {
        let request = self.client.request(ListImagesRequest::default());
        let mut service = self.service();
        let answer = self
            .client
            .wait(async move { service.list(request).await.map_err(|status| error(&status)) })?;
        let mut images =
            answer.into_inner().images.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    fn delete(&self, name: &ImageName) -> Result<()> {
        let request = DeleteImageRequest { name: name.to_string(), ..Default::default() };
        let (request, mut service) = (self.client.request(request), self.service());
        self.client
            .wait(async move { service.delete(request).await.map_err(|status| error(&status)) })
            .map(drop)
    }
}

fn read(image: api::Image) -> Result<Image> {
    let what = || format!("read image {:?}", image.name);
    Ok(Image {
        name: image.name.parse().context(ErrorKind::Internal, what)?,
        target: translate::descriptor(translate::required(image.target, "target")?)?,
        labels: image.labels.into_iter().collect(),
        created_at: super::read::nanoseconds(image.created_at),
        updated_at: super::read::nanoseconds(image.updated_at),
    })
}
