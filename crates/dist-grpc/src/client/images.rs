//! Images over `containerd.services.images.v1`.

use dist::Images;
use dist_core::{Context as _, Descriptor, ErrorKind, Image, ImageName, Labels, Result};

use tonic::transport::Channel;

use super::{Client, MESSAGE_LIMIT};
use crate::api::containerd::services::images::v1::images_client::ImagesClient;
use crate::api::containerd::services::images::v1::{
    self as api, CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest,
    UpdateImageRequest,
};
use crate::translate;

pub(super) struct RemoteImages {
    client: Client,
}

impl RemoteImages {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }
}

fn service(channel: Channel) -> ImagesClient<Channel> {
    ImagesClient::new(channel).max_decoding_message_size(MESSAGE_LIMIT)
}

impl Images for RemoteImages {
    fn get(&self, name: &ImageName) -> Result<Image> {
        let request = GetImageRequest { name: name.to_string() };
        let answer = self
            .client
            .call(request, |channel, request| async move { service(channel).get(request).await })?;
        read(translate::required(answer.image, "image")?)
    }

    fn list(&self) -> Result<Vec<Image>> {
        let answer =
            self.client.call(ListImagesRequest::default(), |channel, request| async move {
                service(channel).list(request).await
            })?;
        let mut images = answer.images.into_iter().map(read).collect::<Result<Vec<_>>>()?;
        images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(images)
    }

    fn put(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image> {
        let image = api::Image {
            name: name.to_string(),
            target: Some(translate::api_descriptor(target)),
            labels: translate::hash_map(labels),
            ..Default::default()
        };
        let create = CreateImageRequest { image: Some(image.clone()), ..Default::default() };
        let created = self
            .client
            .call(create, |channel, request| async move { service(channel).create(request).await });
        let written = match created {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let update = UpdateImageRequest { image: Some(image), ..Default::default() };
                let call = |channel, request| async move { service(channel).update(request).await };
                self.client.call(update, call)?.image
            }
            created => created?.image,
        };
        read(translate::required(written, "image")?)
    }

    fn delete(&self, name: &ImageName) -> Result<()> {
        let request = DeleteImageRequest { name: name.to_string(), ..Default::default() };
        self.client
            .call(request, |channel, request| async move { service(channel).delete(request).await })
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
