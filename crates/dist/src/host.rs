//! Where images are kept: a root directory that this process opens, or a daemon's.
//!
//! Commands are written against these traits, so that each is written once. [`Local`] is the
//! one over a store; a client of a daemon is another, over the daemon's API.

use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    Cancel, ContentMismatch, Descriptor, Digest, Image, ImageName, Info, IngestKey, IngestStatus,
    Ingester, Labels, Namespace, Outline, Progress, Provider, Result, Snapshotter,
};
use dist_store::{ContentStore, ImageStore, Known, Outlined, Store};

use crate::{Engine, Operations, PullOptions, Pulled, PushOptions};

/// The blobs and ingests of one namespace.
pub trait Contents: Provider + Ingester {
    /// Describes a blob.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn info(&self, digest: &Digest) -> Result<Info>;

    /// Lists the blobs by digest.
    ///
    /// # Errors
    /// `Storage`.
    fn list(&self) -> Result<Vec<Info>>;

    /// Says which blobs there are, and what is known of those that are documents.
    ///
    /// # Errors
    /// `Storage`.
    fn known(&self) -> Result<Known>;

    /// Keeps outlines that were read, where [`Known::keeps`] says so and this may write.
    ///
    /// # Errors
    /// `Storage`.
    fn keep_outlines(&self, outlines: &[(Outlined, Arc<Outline>)]) -> Result<()>;

    /// Takes a blob from the namespace.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn delete(&self, digest: &Digest) -> Result<()>;

    /// Puts a blob aside that is not what its digest says, so that it can be brought again; one that
    /// is stays. Where the blobs are somebody else's, nothing happens.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn put_aside(&self, _digest: &Digest) -> Result<()> {
        Ok(())
    }

    /// Lists the ingests by key.
    ///
    /// # Errors
    /// `Storage`.
    fn ingests(&self) -> Result<Vec<IngestStatus>>;

    /// Removes an ingest.
    ///
    /// # Errors
    /// `NotFound`; `Busy` where a live writer has it; `Storage`.
    fn abort(&self, key: &IngestKey) -> Result<()>;
}

/// The registered images of one namespace.
pub trait Images: Send + Sync {
    /// Reads one image.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn get(&self, name: &ImageName) -> Result<Image>;

    /// Reads all images, ordered by name.
    ///
    /// # Errors
    /// `Storage`.
    fn list(&self) -> Result<Vec<Image>>;

    /// Lets a name stand for `target`, whatever it stood for before, with these labels alone.
    ///
    /// # Errors
    /// `InvalidArgument` for labels that are too long; `Storage`.
    fn put(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image>;

    /// Removes a name.
    ///
    /// # Errors
    /// `NotFound`, `Storage`.
    fn delete(&self, name: &ImageName) -> Result<()>;
}

/// What commands need of the place where one namespace's images are.
pub trait Host: Send + Sync {
    /// The blobs and ingests. A blob that is brought by hand through this stays until it is deleted.
    fn contents(&self) -> Arc<dyn Contents>;

    /// The images.
    fn images(&self) -> Arc<dyn Images>;

    /// The snapshotters, the default one first.
    ///
    /// # Errors
    /// `Storage`, `Unavailable`.
    fn snapshotters(&self) -> Result<Vec<Arc<dyn Snapshotter>>>;

    /// The snapshotter `name`.
    ///
    /// # Errors
    /// `InvalidArgument` for a name that is none; `Storage`, `Unavailable`.
    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>>;
}

/// Brings images to where they are kept, and from there into remotes.
#[async_trait(?Send)]
pub trait Puller: Operations {
    /// As [`crate::pull`].
    ///
    /// # Errors
    /// As [`crate::pull`].
    async fn pull(
        &self,
        name: &str,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Pulled>;

    /// As [`crate::push`], of an image that is registered.
    ///
    /// # Errors
    /// As [`crate::push`].
    async fn push(
        &self,
        image: &Image,
        name: &str,
        options: &PushOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Descriptor>;
}

#[async_trait(?Send)]
impl Puller for Engine {
    async fn pull(
        &self,
        name: &str,
        options: &PullOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Pulled> {
        crate::pull(self, name, options, progress).await
    }

    async fn push(
        &self,
        image: &Image,
        name: &str,
        options: &PushOptions,
        progress: Arc<dyn Progress>,
    ) -> Result<Descriptor> {
        crate::push(self, &image.target, name, options, progress).await
    }
}

/// A store of this process.
#[derive(Clone, Debug)]
pub struct Local {
    store: Store,
    namespace: Namespace,
}

impl Local {
    /// One namespace of `store`.
    #[must_use]
    pub fn new(store: Store, namespace: Namespace) -> Self {
        Self { store, namespace }
    }
}

impl Host for Local {
    fn contents(&self) -> Arc<dyn Contents> {
        Arc::new(self.store.content(&self.namespace).labelled(crate::root_label()))
    }

    fn images(&self) -> Arc<dyn Images> {
        Arc::new(self.store.images(&self.namespace))
    }

    fn snapshotters(&self) -> Result<Vec<Arc<dyn Snapshotter>>> {
        let first = dist_snapshot::default_name();
        let mut all = vec![self.snapshotter(first)?];
        let others = dist_snapshot::NAMES.iter().filter(|name| **name != first);
        // One that can't be used on this store has nothing in it either.
        all.extend(others.filter_map(|name| self.snapshotter(name).ok()));
        Ok(all)
    }

    fn snapshotter(&self, name: &str) -> Result<Arc<dyn Snapshotter>> {
        dist_snapshot::open(&self.store, &self.namespace, name)
    }
}

impl Contents for ContentStore {
    fn info(&self, digest: &Digest) -> Result<Info> {
        self.info(digest)
    }

    fn list(&self) -> Result<Vec<Info>> {
        self.list()
    }

    fn known(&self) -> Result<Known> {
        self.known()
    }

    fn keep_outlines(&self, outlines: &[(Outlined, Arc<Outline>)]) -> Result<()> {
        self.keep_outlines(outlines)
    }

    fn delete(&self, digest: &Digest) -> Result<()> {
        self.delete(digest)
    }

    fn put_aside(&self, digest: &Digest) -> Result<()> {
        match self.verify(digest, &Cancel::default()) {
            Err(error) if error.find::<ContentMismatch>().is_some() => Ok(()),
            verified => verified,
        }
    }

    fn ingests(&self) -> Result<Vec<IngestStatus>> {
        self.ingests()
    }

    fn abort(&self, key: &IngestKey) -> Result<()> {
        self.abort(key)
    }
}

impl Images for ImageStore {
    fn get(&self, name: &ImageName) -> Result<Image> {
        self.get(name)
    }

    fn list(&self) -> Result<Vec<Image>> {
        self.list()
    }

    fn put(&self, name: &ImageName, target: &Descriptor, labels: &Labels) -> Result<Image> {
        self.put(name, target, labels)
    }

    fn delete(&self, name: &ImageName) -> Result<()> {
        self.delete(name, None)
    }
}
