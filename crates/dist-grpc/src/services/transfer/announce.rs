//! What a transfer brings into the store, for subscribers of events.

use std::sync::Arc;

use dist_core::{Event, Namespace, Progress};

use crate::Daemon;
use crate::api::containerd::events::{ContentCreate, SnapshotCommit, SnapshotPrepare};

/// Publishes what subscribers are told of the services that clients would have used, and passes
/// everything on.
pub(super) struct Announcing {
    pub(super) daemon: Daemon,
    pub(super) namespace: Namespace,
    pub(super) progress: Arc<dyn Progress>,
}

impl Progress for Announcing {
    fn event(&self, event: Event<'_>) {
        match &event {
            Event::Created { digest, size } => {
                let size = i64::try_from(*size).unwrap_or(i64::MAX);
                let event = ContentCreate { digest: digest.to_string(), size };
                self.daemon.publish(&self.namespace, "/content/create", &event);
            }
            Event::Snapshotted { snapshotter, key, name, parent } => {
                let prepared = SnapshotPrepare {
                    key: key.to_string(),
                    parent: parent.map(ToString::to_string).unwrap_or_default(),
                    snapshotter: (*snapshotter).to_owned(),
                };
                self.daemon.publish(&self.namespace, "/snapshot/prepare", &prepared);
                let committed = SnapshotCommit {
                    key: prepared.key,
                    name: name.to_string(),
                    snapshotter: prepared.snapshotter,
                };
                self.daemon.publish(&self.namespace, "/snapshot/commit", &committed);
                self.daemon.settler().committed();
            }
            _ => {}
        }
        self.progress.event(event);
    }
}
