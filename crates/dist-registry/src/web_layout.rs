//! OCI layout directories on web servers (OCI image-spec, image-layout.md): `https://host/path/[#tag]`.
//!
//! ```text
//! GET PATH/oci-layout   PATH/index.json   PATH/blobs/<algorithm>/<hex>
//! ```

use async_trait::async_trait;
use dist_core::{
    ByteStream, Context as _, Descriptor, Digest, Error, ErrorKind, Fetcher, Limit,
    MAX_DOCUMENT_BYTES, MediaType, Result,
};
use http::Method;

use crate::download::Download;
use crate::layout_index::{self, Found, Object};
use crate::resolver::{check_supported, sniff};
use crate::route::{Stop, Turns};
use crate::version::Version;
use crate::web::{ask_for, length};
use crate::{WebAddress, WebFiles, escape};

impl WebFiles {
    /// Finds in a layout directory what an address means: a tag, a digest, or the only manifest.
    ///
    /// # Errors
    /// As [`WebFiles::open`]; `NotFound` for another tag; `InvalidArgument` for none where there are
    /// several; `Corrupt` for what is no layout; `ResourceExhausted` for too large an index.
    pub async fn find(&self, address: &WebAddress) -> Result<Descriptor> {
        let object = match address.object() {
            None => Object::Only,
            Some(text) if text.contains(':') => Object::Digest(
                text.parse().context(ErrorKind::InvalidArgument, || format!("read {address}"))?,
            ),
            Some(tag) => Object::Tag(tag.to_owned()),
        };
        let marker = address.below("oci-layout");
        let bytes = self.document(&marker).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::new(ErrorKind::Corrupt, "it is no OCI layout").with_source(error)
            }
            _ => error,
        })?;
        layout_index::check_marker(&bytes, &escape::url(&marker))?;
        let index = address.below("index.json");
        let bytes = self.document(&index).await?;
        match layout_index::find(&bytes, &object, || format!("read {}", escape::url(&index)))? {
            Found::Named(desc) => Ok(*desc),
            Found::Unnamed(digest) => self.blob(address, digest).await,
        }
    }

    /// Describes content that the index does not name; manifests tell their type themselves.
    async fn blob(&self, address: &WebAddress, digest: Digest) -> Result<Descriptor> {
        let url = address.below(&path(&digest));
        let stop = self.host(&url)?;
        let (head, mut tries) = (ask_for(&url, Method::HEAD), stop.registry.tries());
        let answer =
            stop.registry.ask(&head, &mut tries).await.and_then(|answer| match length(&answer) {
                Some(size) => Ok(size),
                None => Err(answer.failed(ErrorKind::Unavailable, "the answer has no length")),
            });
        let size = answer
            .map_err(|failed| failed.into_error(format!("look for {digest} in {address}")))?;
        let mut media_type = None;
        if size <= MAX_DOCUMENT_BYTES {
            media_type = sniff(&self.document(&url).await?);
        }
        let media_type = media_type.unwrap_or_else(|| MediaType::parse("application/octet-stream"));
        check_supported(&media_type)?;
        Ok(Descriptor::new(media_type, digest, size))
    }

    /// What fetches from a layout directory. Blobs are not verified here.
    ///
    /// # Errors
    /// `Denied` for a host that is blocked; `InvalidArgument` for settings that can't be read.
    pub fn layout(&self, address: &WebAddress) -> Result<impl Fetcher + use<>> {
        Ok(WebLayout { address: address.clone(), stop: self.host(&address.below(""))? })
    }
}

struct WebLayout {
    address: WebAddress,
    stop: Stop,
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

#[async_trait]
impl Fetcher for WebLayout {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let (noun, digest) = (desc.media_type.noun(), desc.digest);
        let what = format!("fetch {noun} {digest} from {}", self.address);
        if offset > desc.size {
            let message = format!("{what}: there is nothing at byte {offset} of {}", desc.size);
            return Err(Error::new(ErrorKind::OutOfRange, message));
        }
        let is_document = desc.media_type.is_manifest() || desc.media_type.is_index();
        if is_document && desc.size > MAX_DOCUMENT_BYTES {
            let limit = Limit { name: "manifest-size", limit: MAX_DOCUMENT_BYTES };
            return Err(Error::new(ErrorKind::ResourceExhausted, what).with_source(limit));
        }
        if offset == desc.size && offset > 0 {
            return Ok(Box::pin(futures_util::stream::empty()));
        }
        let Some(turns) = Turns::new(vec![self.stop.clone()]) else {
            unreachable!("there is a host")
        };
        let ask = ask_for(&self.address.below(&path(&digest)), Method::GET);
        let mut download = Download::new(turns, ask, desc.size);
        (download.version, download.at) = (Some(Version::default()), offset);
        if let Err(failed) = download.open().await {
            return Err(failed.into_error(what));
        }
        download.what = what;
        Ok(download.stream())
    }
}
