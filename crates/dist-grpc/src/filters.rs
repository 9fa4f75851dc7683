//! What filters can ask each kind of object for: containerd's field names.
//!
//! As there, a field that is empty counts as absent, but for a snapshot's parent.

use std::borrow::Cow;
use std::collections::HashMap;

use dist_core::filter::label;
use dist_core::{Container, Fields, Image, Info, IngestStatus, Lease, SnapshotInfo};
use prost::{Message, Name};

use crate::api::containerd::events as ev;
use crate::api::containerd::services::events::v1::Envelope;
use crate::api::containerd::services::images::v1 as images;
use crate::api::containerd::services::introspection::v1::Plugin;

/// An object, as filters see it.
pub(crate) struct Of<'a, T>(pub(crate) &'a T);

/// A text that counts as absent where it is empty.
fn some(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty()).then_some(Cow::Borrowed(text))
}

impl Fields for Of<'_, Info> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["digest", ..] => Some(self.0.digest.to_string().into()),
            ["labels", key @ ..] => label(&self.0.labels, key),
            _ => None,
        }
    }
}

impl Fields for Of<'_, IngestStatus> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["ref", ..] => Some(self.0.key.as_str().into()),
            _ => None,
        }
    }
}

impl Fields for Of<'_, Image> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        let target = &self.0.target;
        match path {
            ["name", ..] => some(self.0.name.as_str()),
            ["target", "digest", ..] => Some(target.digest.to_string().into()),
            ["target", "mediatype", ..] => some(target.media_type.as_str()),
            ["labels", key @ ..] => label(&self.0.labels, key),
            ["annotations", key @ ..] => label(&target.annotations, key),
            _ => None,
        }
    }
}

impl Fields for Of<'_, Container> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => Some(self.0.id.as_str().into()),
            ["runtime", "name", ..] => some(&self.0.runtime),
            ["image", ..] => some(&self.0.image),
            ["labels", key @ ..] => label(&self.0.labels, key),
            _ => None,
        }
    }
}

impl Fields for Of<'_, Lease> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["id", ..] => some(self.0.id.as_str()),
            ["labels", key @ ..] => label(&self.0.labels, key),
            _ => None,
        }
    }
}

impl Fields for Of<'_, SnapshotInfo> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["kind", ..] => Some(self.0.kind.to_string().into()),
            ["name", ..] => Some(self.0.key.as_str().into()),
            ["parent", ..] => {
                Some(self.0.parent.as_ref().map_or("", |parent| parent.as_str()).into())
            }
            ["labels", key @ ..] => label(&self.0.labels, key),
            _ => None,
        }
    }
}

impl Fields for Of<'_, Plugin> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["type", ..] => some(&self.0.r#type),
            ["id", ..] => some(&self.0.id),
            _ => None,
        }
    }
}

impl Fields for Of<'_, Envelope> {
    fn field(&self, path: &[&str]) -> Option<Cow<'_, str>> {
        match path {
            ["namespace", ..] => some(&self.0.namespace),
            ["topic", ..] => some(&self.0.topic),
            ["event", path @ ..] => {
                let event = self.0.event.as_ref()?;
                event_field(&event.type_url, &event.value, path).map(Cow::Owned)
            }
            _ => None,
        }
    }
}

/// A field of an event's message, of those messages that we and shims send.
fn event_field(type_url: &str, value: &[u8], path: &[&str]) -> Option<String> {
    let name = type_url.rsplit('/').next()?;
    macro_rules! fields {
        ($($message:ty => |$event:ident| { $($field:literal: $text:expr),* $(,)? } $([$labels:ident])?;)*) => {
            $(if name == <$message>::full_name() {
                let $event = <$message>::decode(value).ok()?;
                return match path {
                    $([$field, ..] => Some($text).filter(|text| !text.is_empty()),)*
                    $(["labels", key @ ..] => map_field(&$event.$labels, key),)?
                    _ => None,
                };
            })*
        };
    }
    fields! {
        ev::ContainerCreate => |event| {
            "id": event.id,
            "image": event.image,
            "runtime": event.runtime.map(|runtime| runtime.name).filter(|_| path.get(1) == Some(&"name"))
                .unwrap_or_default(),
        };
        ev::ContainerUpdate => |event| {
            "id": event.id, "image": event.image, "snapshot_key": event.snapshot_key,
        } [labels];
        ev::ContainerDelete => |event| { "id": event.id };
        ev::TaskCreate => |event| {
            "container_id": event.container_id, "bundle": event.bundle,
            "checkpoint": event.checkpoint,
        };
        ev::TaskStart => |event| { "container_id": event.container_id };
        ev::TaskDelete => |event| { "container_id": event.container_id, "id": event.id };
        ev::TaskExit => |event| { "container_id": event.container_id, "id": event.id };
        ev::TaskOom => |event| { "container_id": event.container_id };
        ev::TaskExecAdded => |event| {
            "container_id": event.container_id, "exec_id": event.exec_id,
        };
        ev::TaskExecStarted => |event| {
            "container_id": event.container_id, "exec_id": event.exec_id,
        };
        ev::TaskPaused => |event| { "container_id": event.container_id };
        ev::TaskResumed => |event| { "container_id": event.container_id };
        ev::ContentCreate => |event| { "digest": event.digest };
        ev::ContentDelete => |event| { "digest": event.digest };
        images::ImageCreate => |event| { "name": event.name } [labels];
        images::ImageUpdate => |event| { "name": event.name } [labels];
        images::ImageDelete => |event| { "name": event.name };
        ev::NamespaceCreate => |event| { "name": event.name } [labels];
        ev::NamespaceUpdate => |event| { "name": event.name } [labels];
        ev::NamespaceDelete => |event| { "name": event.name };
        ev::SnapshotPrepare => |event| {
            "key": event.key, "parent": event.parent, "snapshotter": event.snapshotter,
        };
        ev::SnapshotCommit => |event| {
            "key": event.key, "name": event.name, "snapshotter": event.snapshotter,
        };
        ev::SnapshotRemove => |event| { "key": event.key, "snapshotter": event.snapshotter };
    }
    None
}

fn map_field(map: &HashMap<String, String>, key: &[&str]) -> Option<String> {
    map.get(&key.join(".")).cloned()
}
