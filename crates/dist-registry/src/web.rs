//! Files on web servers, by their addresses.
//!
//! ```text
//! https://host[:port]/path[?query][#object]    http:// as well
//! ```
//!
//! A path that ends in `/` is a directory. What comes behind `#` says what of the file is meant, and
//! is not sent. A host is spoken to as the registry of its name would be: its certificates, headers
//! and credentials, and what blocks it, count; its mirrors do not, and neither does a wish for plain
//! http, as the address says what is spoken.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use dist_core::{ByteStream, Error, ErrorKind, MAX_DOCUMENT_BYTES, Result};
use http::Method;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use url::Url;

use crate::body::Body;
use crate::download::{Download, content_range};
use crate::failure::{Again, Failed};
use crate::registry::Ask;
use crate::retry::Tries;
use crate::route::{Known, Stop, Turns, authority};
use crate::transport::{Answer, Transport};
use crate::version::Version;
use crate::{RegistryOptions, escape};

/// How much of a file is asked for first: enough to know what it is.
const START: u64 = 4 << 10;

/// An address, with what of the file there is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    pub(crate) url: Url,
    object: Option<String>,
}

impl WebAddress {
    /// The schemes that such names begin with.
    pub const SCHEMES: [&'static str; 2] = ["http", "https"];

    /// Reads an address.
    ///
    /// # Errors
    /// `InvalidArgument`, also for one with a user in it: addresses are printed and kept.
    pub fn parse(text: &str) -> Result<Self> {
        let what = || {
            format!(
                "read address {:?}",
                escape::text(text.split(['?', '#']).next().unwrap_or_default())
            )
        };
        let invalid = |problem: &str| {
            Error::new(ErrorKind::InvalidArgument, format!("{}: {problem}", what()))
        };
        let (address, object) = match text.split_once('#') {
            Some((_, "")) => return Err(invalid("after # comes what is meant there")),
            Some((address, object)) => (address, Some(object.to_owned())),
            None => (text, None),
        };
        if !address.split_once("://").is_some_and(|(scheme, _)| Self::SCHEMES.contains(&scheme)) {
            return Err(invalid("it begins with http:// or https://"));
        }
        let url = Url::parse(address).map_err(|error| invalid("it is none").with_source(error))?;
        if !url.username().is_empty() || url.password().is_some() {
            let text = text.split_once('@').map_or("", |(_, rest)| rest);
            let message = format!(
                "read the address at {:?}: there is a user in it, who belongs to --user or `dist login`",
                escape::text(text.split(['?', '#']).next().unwrap_or_default())
            );
            return Err(Error::new(ErrorKind::InvalidArgument, message));
        }
        Ok(Self { url, object })
    }

    /// The address of the file.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What of it is meant.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// The same, with something else meant.
    #[must_use]
    pub fn with_object(&self, object: &str) -> Self {
        Self { url: self.url.clone(), object: Some(object.to_owned()) }
    }

    /// Whether it is a directory's.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.url.path().ends_with('/')
    }

    /// The whole address, its query too, which may be a secret.
    #[must_use]
    pub fn text(&self) -> String {
        match &self.object {
            Some(object) => format!("{}#{object}", self.url),
            None => self.url.to_string(),
        }
    }

    /// The whole address of the file, whatever of it is meant.
    #[must_use]
    pub fn whole_file(&self) -> String {
        self.url.to_string()
    }

    /// The address of a file in this directory.
    pub(crate) fn below(&self, path: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}{path}", self.url.path()));
        url
    }
}

impl fmt::Display for WebAddress {
    /// Writes the address without its query.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape::url(&self.url))?;
        match &self.object {
            Some(object) => write!(f, "#{}", escape::text(object)),
            None => Ok(()),
        }
    }
}

/// The files of all web servers.
pub struct WebFiles {
    transport: Arc<Transport>,
    known: Known,
}

impl WebFiles {
    /// Connects to nothing; files with settings are read when a host is first asked.
    #[must_use]
    pub fn new(options: RegistryOptions) -> Self {
        Self { transport: Arc::new(Transport::new(options)), known: Known::default() }
    }

    pub(crate) fn host(&self, url: &Url) -> Result<Stop> {
        let hosts = self.transport.options().registry_hosts(&authority(url))?;
        let mut origin = url.clone();
        origin.set_path("/");
        origin.set_query(None);
        self.known.of_files(&hosts, &origin, &self.transport)
    }

    /// Asks for a file, and learns its size and whether the server gives parts of it.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` for an empty file; `Unauthenticated`, `PermissionDenied`; `Unavailable`
    /// where the server can't be reached or does not answer as one should; `Denied` for a host that
    /// is blocked.
    pub async fn open(&self, address: &WebAddress) -> Result<WebFile> {
        let what = || format!("fetch {}", escape::url(&address.url));
        let stop = self.host(&address.url)?;
        let opened = WebFile::open(stop, &address.url).await;
        opened.map_err(|failed| failed.into_error(what()))
    }

    /// Reads a whole document.
    pub(crate) async fn document(&self, url: &Url) -> Result<Vec<u8>> {
        let stop = self.host(url)?;
        let ask = ask_for(url, Method::GET);
        let mut tries = stop.registry.tries();
        loop {
            let failed = match document(&stop, &ask, &mut tries).await {
                Ok(bytes) => return Ok(bytes),
                Err(failed) => failed,
            };
            tries
                .pause(failed)
                .await
                .map_err(|failed| failed.into_error(format!("fetch {}", escape::url(url))))?;
        }
    }
}

async fn document(stop: &Stop, ask: &Ask, tries: &mut Tries) -> Result<Vec<u8>, Box<Failed>> {
    let answer = stop.registry.ask(ask, tries).await?;
    Version::of(&answer).check_plain(&answer)?;
    let size: Option<u64> = length(&answer);
    let mut body = answer.into_body(stop.registry.stall());
    let bytes = body.collect("manifest-size", MAX_DOCUMENT_BYTES).await.map_err(|failed| {
        let again = failed.again;
        failed.again(if again == Again::Never { again } else { Again::Later })
    })?;
    if size.is_some_and(|size| size != bytes.len() as u64) {
        return Err(body.failed("the answer ended early").again(Again::Later));
    }
    Ok(bytes)
}

/// The request for what is at `url`, as it is there.
pub(crate) fn ask_for(url: &Url, method: Method) -> Ask {
    let accept = Some("*/*".to_owned());
    Ask { accept, at: Some(url.clone()), ..Ask::new(method, "", String::new()) }
}

pub(crate) fn length(answer: &Answer) -> Option<u64> {
    answer.header(CONTENT_LENGTH).and_then(|length| length.parse().ok())
}

/// A file on a web server, as it was when it was opened: where it is changed while it is read, that is
/// an error.
pub struct WebFile {
    stop: Stop,
    url: Url,
    size: Option<u64>,
    version: Version,
    /// What came of it, where the server gives parts.
    start: Option<Bytes>,
    /// All of it, where it does not, for whoever asks first.
    whole: Mutex<Option<Body>>,
    content_type: Option<String>,
}

impl WebFile {
    async fn open(stop: Stop, url: &Url) -> Result<Self, Box<Failed>> {
        let mut tries = stop.registry.tries();
        let mut ask = ask_for(url, Method::GET);
        ask.to = Some(START);
        loop {
            let place = stop.registry.place().await;
            let answer = match stop.registry.ask(&ask, &mut tries).await {
                // So answer some where there is less.
                Err(failed) if failed.failure.status == Some(416) && ask.to.is_some() => {
                    ask.to = None;
                    continue;
                }
                answer => answer?,
            };
            let mut version = Version::of(&answer);
            version.may_be_encoded = true;
            let content_type = answer.header(CONTENT_TYPE).map(escape::text);
            let file = |size, start, whole| Self {
                stop: stop.clone(),
                url: url.clone(),
                size,
                version: version.clone(),
                start,
                whole: Mutex::new(whole),
                content_type: content_type.clone(),
            };
            let range = answer.header(CONTENT_RANGE).and_then(content_range);
            let part = answer.status().as_u16() == 206 && ask.to.is_some();
            match (part, range) {
                (true, Some((0, Some(size)))) => {
                    let mut body = answer.into_body(stop.registry.stall());
                    match body.collect("part-size", START).await {
                        Ok(start) if start.len() as u64 == size.min(START) => {
                            return Ok(file(Some(size), Some(start.into()), None));
                        }
                        Ok(_) => {
                            let failed = body.failed("the part ended early");
                            tries.pause(failed.again(Again::Later)).await?;
                        }
                        Err(failed) => tries.pause(failed).await?,
                    }
                }
                _ if answer.status().as_u16() == 200 => {
                    let size = length(&answer);
                    if size == Some(0) {
                        return Err(answer.failed(ErrorKind::Corrupt, "the file is empty"));
                    }
                    let body = answer.into_body(stop.registry.stall());
                    let body = body.among(stop.registry.heard()).holding(place);
                    return Ok(file(size, None, Some(body)));
                }
                // A part that is none: all of it is asked for.
                _ if ask.to.is_some() => ask.to = None,
                _ => {
                    let problem = format!("unexpected status {}", answer.status());
                    return Err(answer.failed(ErrorKind::Unavailable, problem));
                }
            }
        }
    }

    /// Its size, where the server says that.
    #[must_use]
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The first bytes, where the server gives parts: 4 KiB, or all of a smaller file.
    #[must_use]
    pub fn start(&self) -> Option<&[u8]> {
        self.start.as_deref()
    }

    /// What the server says that it is.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.content_type.as_deref()
    }

    /// Its bytes from the first to the last. A connection that breaks is mended, unless neither the
    /// size is known nor parts are given.
    ///
    /// # Errors
    /// Of the stream: as [`WebFiles::open`]; `Unavailable` for a file that was changed.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn whole(&self) -> ByteStream {
        let body = self.whole.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (self.size, body) {
            (Some(size), body) => {
                let mut download = self.download(0..size);
                download.body = body;
                download.stream()
            }
            (None, Some(body)) => plain(body, self.what()),
            (None, None) => {
                let message = format!("{}: it can be read once", self.what());
                let failed = Err(Error::new(ErrorKind::FailedPrecondition, message));
                Box::pin(futures_util::stream::iter([failed]))
            }
        }
    }

    /// Some of its bytes; what is beyond its end is left out.
    ///
    /// # Errors
    /// Of the stream: as [`WebFile::whole`].
    #[must_use]
    pub fn part(&self, range: Range<u64>) -> ByteStream {
        self.download(range).stream()
    }

    fn what(&self) -> String {
        format!("fetch {}", escape::url(&self.url))
    }

    fn download(&self, range: Range<u64>) -> Download {
        let Some(turns) = Turns::new(vec![self.stop.clone()]) else {
            unreachable!("there is a host")
        };
        let size = self.size.unwrap_or(range.end);
        let mut download = Download::new(turns, ask_for(&self.url, Method::GET), size);
        download.end = range.end.min(size);
        download.at = range.start.min(download.end);
        (download.version, download.what) = (Some(self.version.clone()), self.what());
        download
    }
}

/// A body whose length nobody knows.
fn plain(body: Body, what: String) -> ByteStream {
    Box::pin(futures_util::stream::try_unfold((body, what), |(mut body, what)| async move {
        match body.next().await {
            Ok(chunk) => Ok(chunk.map(|chunk| (chunk, (body, what)))),
            Err(failed) => Err(failed.into_error(what)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let read = |text: &str| WebAddress::parse(text).unwrap();
        let address = read("https://h:1/a/x.tar?sig=s#redis:7");
        assert_eq!(address.object(), Some("redis:7"));
        assert_eq!(address.to_string(), "https://h:1/a/x.tar#redis:7");
        assert_eq!(address.with_object("b").text(), "https://h:1/a/x.tar?sig=s#b");
        assert!(!address.is_directory());
        let directory = read("http://h/l/?k=v");
        assert!(directory.is_directory() && read("http://h").is_directory());
        assert_eq!(directory.below("index.json").as_str(), "http://h/l/index.json?k=v");
        for text in ["http://", "https:/h/x", "ftp://h/x", "http://h/x#", "x", "http://[/"] {
            let error = WebAddress::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{text}");
        }
        let error = WebAddress::parse("https://ann:secret@h/x?sig=s").unwrap_err().to_string();
        assert!(
            error.contains("--user") && !error.contains("secret") && !error.contains("sig"),
            "{error}"
        );
    }
}
