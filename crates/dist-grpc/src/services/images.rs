//! `containerd.services.images.v1`.

use dist_core::{
    Context as _, Descriptor, Digest, Error, ErrorKind, Filter, Image, ImageName, LabelChange,
    Labels, MediaType, Namespace, Result, ResultExt as _, check_labels,
};
use dist_store::{ImageChange, ImageStore};
use prost_types::{FieldMask, Timestamp};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::answer::{answer, reply};
use crate::api::containerd::services::images::v1 as api;
use crate::api::containerd::services::images::v1::images_server::Images;
use crate::api::containerd::types;
use crate::mask::{self, MapField};
use crate::translate::{api_descriptor, hash_map, nanoseconds, required, timestamp, worded};
use crate::{Daemon, context, filters};

/// The service.
pub(crate) struct Service {
    daemon: Daemon,
}

impl Service {
    pub(crate) fn new(daemon: Daemon) -> Self {
        Self { daemon }
    }

    fn space(&self, metadata: &MetadataMap) -> Result<Space> {
        let scope = context::scope(metadata)?;
        let daemon = self.daemon.clone();
        let namespace = scope.namespace.clone();
        let images = daemon.engine().store().images(scope);
        Ok(Space { daemon, namespace, images })
    }
}

/// The images that a request can see.
struct Space {
    daemon: Daemon,
    namespace: Namespace,
    images: ImageStore,
}

impl Space {
    /// The images, to be written with the time that a request asks for.
    fn at(&self, time: Option<Timestamp>) -> Result<ImageStore> {
        let images = self.images.clone();
        match time {
            Some(time) => Ok(images.dated(nanoseconds(&time)?)),
            None => Ok(images),
        }
    }
}

#[tonic::async_trait]
impl Images for Service {
    async fn get(
        &self,
        request: Request<api::GetImageRequest>,
    ) -> Result<Response<api::GetImageResponse>, Status> {
        let work = |space: &Space, api::GetImageRequest { name }: api::GetImageRequest| {
            let image = worded(space.images.get(&known_name(&name)?), ErrorKind::NotFound, || {
                named(&name)
            })?;
            Ok(api::GetImageResponse { image: Some(api_image(&image)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn list(
        &self,
        request: Request<api::ListImagesRequest>,
    ) -> Result<Response<api::ListImagesResponse>, Status> {
        let work = |space: &Space, request: api::ListImagesRequest| {
            let filter = Filter::parse(&request.filters)?;
            let mut images = space.images.list()?;
            images.retain(|image| filter.matches(&filters::Of(image)));
            let images = images.iter().map(api_image).collect();
            Ok(api::ListImagesResponse { images })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn create(
        &self,
        request: Request<api::CreateImageRequest>,
    ) -> Result<Response<api::CreateImageResponse>, Status> {
        let work = |space: &Space, request: api::CreateImageRequest| {
            let image = required(request.image, "image")?;
            let name = new_name(&image.name)?;
            let labels = new_labels(image.labels)?;
            let target = new_target(image.target)?;
            let images = space.at(request.source_date_epoch)?;
            let image =
                worded(images.create(&name, &target, &labels), ErrorKind::AlreadyExists, || {
                    named(name.as_str())
                })?;
            let event =
                api::ImageCreate { name: name.to_string(), labels: hash_map(&image.labels) };
            space.daemon.publish(&space.namespace, "/images/create", &event);
            space.daemon.mutated(0);
            Ok(api::CreateImageResponse { image: Some(api_image(&image)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn update(
        &self,
        request: Request<api::UpdateImageRequest>,
    ) -> Result<Response<api::UpdateImageResponse>, Status> {
        let work = |space: &Space, request: api::UpdateImageRequest| {
            let image = required(request.image, "image")?;
            let name = new_name(&image.name)?;
            let change = change(image, request.update_mask)?;
            let images = space.at(request.source_date_epoch)?;
            let image = worded(images.update(&name, &change), ErrorKind::NotFound, || {
                named(name.as_str())
            })?;
            let event =
                api::ImageUpdate { name: name.to_string(), labels: hash_map(&image.labels) };
            space.daemon.publish(&space.namespace, "/images/update", &event);
            space.daemon.mutated(0);
            Ok(api::UpdateImageResponse { image: Some(api_image(&image)) })
        };
        answer(request, |metadata, _| self.space(metadata), work).await
    }

    async fn delete(
        &self,
        request: Request<api::DeleteImageRequest>,
    ) -> Result<Response<()>, Status> {
        let sync = request.get_ref().sync;
        let work = |space: &Space, request: api::DeleteImageRequest| {
            let name = known_name(&request.name)?;
            let expected = match request.target {
                Some(target) if !target.digest.is_empty() => Some(digest(&target.digest)?),
                _ => None,
            };
            let deleted = space.images.delete(&name, expected.as_ref());
            match expected {
                Some(_) => deleted?,
                None => worded(deleted, ErrorKind::NotFound, || named(&request.name))?,
            }
            let event = api::ImageDelete { name: request.name };
            space.daemon.publish(&space.namespace, "/images/delete", &event);
            space.daemon.mutated(1);
            Ok(())
        };
        let deleted = answer(request, |metadata, _| self.space(metadata), work).await?;
        if sync { reply(self.daemon.collect().await) } else { Ok(deleted) }
    }
}

/// What an update changes: the fields that its mask names, or all.
fn change(image: api::Image, mask: Option<FieldMask>) -> Result<ImageChange> {
    let paths = mask::paths(mask);
    if paths.is_empty() {
        return Ok(ImageChange {
            labels: Some(LabelChange::Replace(new_labels(image.labels)?)),
            target: Some(new_target(image.target)?),
            annotations: None,
        });
    }
    let annotations = image.target.as_ref().map(|target| target.annotations.clone());
    let mut labels = MapField::new("labels", image.labels.into_iter().collect());
    let mut annotations =
        MapField::new("annotations", annotations.unwrap_or_default().into_iter().collect());
    let mut with_target = false;
    for path in paths {
        if path == "target" {
            with_target = true;
        } else if !labels.select(&path) && !annotations.select(&path) {
            return Err(mask::unknown(&path, named(&image.name)));
        }
    }
    let labels = labels.change();
    if let Some(change) = &labels {
        check_labels(change.labels()).during(|| "image.Labels".into())?;
    }
    let target = if with_target { Some(new_target(image.target)?) } else { None };
    Ok(ImageChange { target, annotations: annotations.change(), labels })
}

/// How an image is called in errors.
fn named(name: &str) -> String {
    format!("image {name:?}")
}

/// A name that should be there: what can't be one is not.
fn known_name(name: &str) -> Result<ImageName> {
    name.parse().context(ErrorKind::NotFound, || named(name))
}

/// A name that a request gives to something.
fn new_name(name: &str) -> Result<ImageName> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::InvalidArgument, "Image.Name required"));
    }
    name.parse().context(ErrorKind::InvalidArgument, || named(name))
}

fn new_labels(labels: std::collections::HashMap<String, String>) -> Result<Labels> {
    let labels = labels.into_iter().collect();
    check_labels(&labels).during(|| "image.Labels".into())?;
    Ok(labels)
}

fn digest(text: &str) -> Result<Digest> {
    text.parse().context(ErrorKind::InvalidArgument, || format!("Target.Digest {text:?} invalid"))
}

fn new_target(target: Option<types::Descriptor>) -> Result<Descriptor> {
    let target = required(target, "Target")?;
    let refuse = |why: &'static str| Err(Error::new(ErrorKind::InvalidArgument, why));
    let digest = digest(&target.digest)?;
    let size = match u64::try_from(target.size) {
        Ok(size) if size > 0 => size,
        _ => return refuse("Target.Size must be greater than zero"),
    };
    if target.media_type.is_empty() {
        return refuse("Target.MediaType must be set");
    }
    let mut read = Descriptor::new(MediaType::parse(&target.media_type), digest, size);
    read.annotations = target.annotations.into_iter().collect();
    Ok(read)
}

fn api_image(image: &Image) -> api::Image {
    api::Image {
        name: image.name.to_string(),
        labels: hash_map(&image.labels),
        target: Some(api_descriptor(&image.target)),
        created_at: Some(timestamp(image.created_at)),
        updated_at: Some(timestamp(image.updated_at)),
    }
}
