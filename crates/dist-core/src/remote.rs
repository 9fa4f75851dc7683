//! Remotes: where names are resolved, content is fetched, and content is pushed.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::{Descriptor, Digest, Error, ErrorKind, Progress, Result};

/// A body as it arrives, in order, from the offset that was asked for.
///
/// It ends with an error where the remote ended it too early; it never yields more bytes than the
/// descriptor allows.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What a name stands for at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The full name.
    pub name: String,
    /// The manifest or index it names.
    pub target: Descriptor,
}

/// Resolves names of one kind of remote and gives out fetchers and pushers for them.
///
/// Names are opaque here: `host/repository:tag` for registries, `oci:path:tag` for layout
/// directories. The text before the first `:` picks the resolver, see [`scheme`].
#[async_trait]
pub trait Resolver: Send + Sync {
    /// Finds what `name` stands for. Fetches no content beyond what that needs.
    ///
    /// # Errors
    /// `InvalidArgument` where the name cannot be one; `NotFound`; `Unauthenticated`,
    /// `PermissionDenied`; `Unavailable` where the remote does not answer; `Corrupt` where the
    /// answer contradicts itself.
    async fn resolve(&self, name: &str) -> Result<Resolved>;

    /// As [`Resolver::resolve`], for a name that may well be one of nothing: `None` then, found out
    /// with as little asking as can be.
    ///
    /// # Errors
    /// As [`Resolver::resolve`], without `NotFound`.
    async fn look_up(&self, name: &str) -> Result<Option<Resolved>> {
        match self.resolve(name).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            resolved => resolved.map(Some),
        }
    }

    /// Returns a fetcher for the content that belongs to `name`.
    ///
    /// # Errors
    /// `InvalidArgument` where the name cannot be one.
    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>>;

    /// Returns a pusher for content that shall belong to `name`, whose manifest or index is `root`:
    /// that one alone gets the tag of `name`.
    ///
    /// # Errors
    /// `InvalidArgument` where the name cannot be one, or is pinned to another digest;
    /// `Unsupported` where nothing can be pushed to remotes of this kind.
    fn pusher(&self, name: &str, root: &Digest) -> Result<Arc<dyn Pusher>>;
}

/// Fetches content by descriptor.
#[async_trait]
pub trait Fetcher: Send + Sync {
    /// Opens the content named by `desc` from byte `offset` on.
    ///
    /// Nothing is verified here: whoever stores the bytes checks size and digest.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream>;

    /// Notes that what came for `desc` was other content: who sent it is not asked for it again. Tells
    /// whether there is somebody else to ask.
    fn doubt(&self, desc: &Descriptor) -> bool {
        let _ = desc;
        false
    }

    /// Whom [`Fetcher::fetch_part`] asks; `None` for a remote that has no use for it.
    fn host(&self) -> Option<&str> {
        None
    }

    /// Opens some bytes of the content named by `desc`, over a connection that nothing else uses
    /// meanwhile. It is asked for once: a caller has other parts to go on with.
    ///
    /// The stream may end early, without an error.
    ///
    /// # Errors
    /// `Unsupported` where there is no such part to be had, or none of the very content that came
    /// before; `Busy` where the remote wants fewer requests; as [`Resolver::resolve`].
    async fn fetch_part(&self, desc: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let message = format!("fetch bytes {}-{} of {}", range.start, range.end, desc.digest);
        Err(Error::new(ErrorKind::Unsupported, message))
    }

    /// Lists what refers to the manifest or index `subject` (distribution-spec, "Listing
    /// Referrers"); `None` where the remote keeps no such lists, but perhaps a tag instead.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    async fn referrers(&self, subject: &Digest) -> Result<Option<Vec<Referrer>>> {
        let _ = subject;
        Ok(None)
    }
}

/// A manifest or index that says that it is about another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referrer {
    /// What names it, with the annotations that lists have of it.
    pub desc: Descriptor,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
}

/// Pushes content by descriptor.
#[async_trait]
pub trait Pusher: Send + Sync {
    /// Makes the remote have the content named by `desc`.
    ///
    /// What it has is not sent again, and `content` is not asked for it. What a repository in
    /// `sources` of the same registry may have is taken from there, where the remote can do that.
    /// A manifest must come after what it names. What `content` brings is verified on its way: the
    /// remote never gets the end of something that is not what `desc` says.
    ///
    /// # Errors
    /// As [`Resolver::resolve`]; those of `content`, `NotFound` among them, where the remote does not
    /// have it either; `Corrupt` where the content is not what `desc` says.
    async fn push(
        &self,
        desc: &Descriptor,
        content: Arc<dyn Fetcher>,
        sources: &[String],
        progress: Arc<dyn Progress>,
    ) -> Result<Pushed>;

    /// Whether nothing has to be done for the content named by `desc`: it is there, and has the tag
    /// if that is for it.
    ///
    /// # Errors
    /// As [`Resolver::resolve`].
    async fn has(&self, desc: &Descriptor) -> Result<bool>;
}

/// How content came to be in a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// Its bytes were sent.
    Uploaded,
    /// It was taken from another repository of the remote.
    Mounted,
    /// It was there.
    Existed,
}

/// The scheme of a name, where it has one: `oci` in `oci:path:tag`.
///
/// Only schemes in `known` count: `oci:latest` is the directory `latest`, `redis:latest` a tag.
#[must_use]
pub fn scheme<'a>(name: &'a str, known: &[&str]) -> Option<(&'a str, &'a str)> {
    let (scheme, rest) = name.split_once(':')?;
    known.contains(&scheme).then_some((scheme, rest))
}
