//! Images on web servers: `https://host/image.tar[#name]`, an archive, and `https://host/layout/[#tag]`,
//! an OCI layout directory. `http://` as well.
//!
//! Of a plain archive on a server that gives parts, only what is wanted is read; any other is kept in
//! a temporary file. Blobs of a layout are asked for one by one.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use dist_core::{
    ByteStream, Descriptor, Digest, Error, ErrorKind, Fetcher, Pusher, Resolved, Resolver, Result,
    ResultExt as _,
};
use dist_registry::{RegistryOptions, WebAddress, WebFile, WebFiles};

use crate::Scheme;
use crate::archives::WebReader;
use crate::archives::read::Archive;

/// Archives and layouts by their addresses.
pub(crate) struct Addresses(Arc<Web>);

struct Web {
    files: WebFiles,
    /// Archives that were looked into, by what was asked for.
    opened: Mutex<HashMap<String, Arc<Archive>>>,
}

impl Addresses {
    /// Connects to nothing.
    pub(crate) fn new(options: RegistryOptions) -> Self {
        Self(Arc::new(Web { files: WebFiles::new(options), opened: Mutex::default() }))
    }
}

/// Opens the archive at an address to be read once, from its first byte to its last, by a thread
/// that may block. A connection that breaks is mended. Must be called on a runtime.
///
/// # Errors
/// `InvalidArgument` for what is no address; `NotFound`; `Corrupt` for a page instead of an archive;
/// those of the server.
pub async fn read_address(
    options: &RegistryOptions,
    address: &str,
) -> Result<Box<dyn Read + Send>> {
    let address = WebAddress::parse(address)?;
    let file = open(&WebFiles::new(options.clone()), &address).await?;
    Ok(Box::new(WebReader::new(Arc::new(file))))
}

/// Opens a file that may be an archive.
pub(crate) async fn open(files: &WebFiles, address: &WebAddress) -> Result<WebFile> {
    let file = files.open(address).await?;
    match file.content_type().filter(|kind| kind.contains("html")) {
        Some(kind) => {
            let message = format!(
                "read {address}: it is a page ({kind}) and no archive; the address of a layout \
                 directory ends in /, and a name in a registry has no https:// before it"
            );
            Err(Error::new(ErrorKind::Corrupt, message))
        }
        None => Ok(file),
    }
}

/// A name as images are registered: an address without its query, which may be a secret.
pub(crate) fn without_query(name: &str) -> String {
    match dist_core::scheme(name, &WebAddress::SCHEMES) {
        Some(_) => WebAddress::parse(name).map_or_else(|_| name.to_owned(), |url| url.to_string()),
        None => name.to_owned(),
    }
}

impl Web {
    async fn archive(&self, address: &WebAddress) -> Result<Arc<Archive>> {
        let key = address.whole_file();
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(archive) = opened {
            return Ok(archive);
        }
        let file = open(&self.files, address).await?;
        let archive = Archive::of_web(file).await.during(|| format!("read {address}"))?;
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(opened.entry(key).or_insert_with(|| Arc::new(archive))))
    }
}

#[async_trait]
impl Resolver for Addresses {
    async fn resolve(&self, name: &str) -> Result<Resolved> {
        let address = WebAddress::parse(name)?;
        let what = || format!("resolve {address}");
        let target = if address.is_directory() {
            self.0.files.find(&address).await.during(what)?
        } else {
            let archive = self.0.archive(&address).await?;
            archive.find(address.object()).during(what)?
        };
        Ok(Resolved { name: name.to_owned(), target })
    }

    fn fetcher(&self, name: &str) -> Result<Arc<dyn Fetcher>> {
        let address = WebAddress::parse(name)?;
        if address.is_directory() {
            return Ok(Arc::new(self.0.files.layout(&address)?));
        }
        Ok(Arc::new(ArchiveFetcher { web: Arc::clone(&self.0), address }))
    }

    fn pusher(&self, name: &str, _root: &Digest) -> Result<Arc<dyn Pusher>> {
        let address = WebAddress::parse(name)?;
        let message = format!("push {address}: an address is only read from");
        Err(Error::new(ErrorKind::Unsupported, message))
    }
}

impl Scheme for Addresses {
    fn beside(&self, name: &str, tag: &str) -> Result<String> {
        Ok(WebAddress::parse(name)?.with_object(tag).text())
    }
}

/// Fetches from an archive, which is opened when it is first needed.
struct ArchiveFetcher {
    web: Arc<Web>,
    address: WebAddress,
}

#[async_trait]
impl Fetcher for ArchiveFetcher {
    async fn fetch(&self, desc: &Descriptor, offset: u64) -> Result<ByteStream> {
        let archive = self.web.archive(&self.address).await?;
        archive.fetch(desc, offset).await.during(|| format!("read {}", self.address))
    }
}
