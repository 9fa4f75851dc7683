//! Where the bytes of an archive are: in a file, or on a web server that gives parts.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use dist_core::{
    ByteStream, Compression, Context as _, Descriptor, Digest, Error, ErrorKind, Fetcher,
    MediaType, Result, ResultExt as _,
};
use dist_registry::WebFile;

use crate::blocking::{Alive, Body, Downloads};
use crate::servers::Servers;

/// The least and the most that is asked of a server at once for looking at headers.
const WINDOW: std::ops::RangeInclusive<u64> = 64 << 10..=1 << 20;

/// The bytes of an archive.
pub(super) enum Source {
    File(File),
    Web(Box<WebSource>),
}

impl Source {
    /// How long it is.
    pub(super) fn size(&self) -> Result<u64> {
        match self {
            Self::File(file) => {
                let metadata = file.metadata();
                Ok(metadata.context(ErrorKind::Storage, || "look at the archive".into())?.len())
            }
            Self::Web(web) => Ok(web.desc.size),
        }
    }

    /// Reads `size` bytes at `at`. Blocks.
    pub(super) fn read(&self, at: u64, size: usize) -> Result<Vec<u8>> {
        let what = || "read a document of the archive".to_owned();
        let mut bytes = vec![0; size];
        match self {
            Self::File(file) => file.read_exact_at(&mut bytes, at),
            Self::Web(web) => web.part(at, size as u64).read_exact(&mut bytes),
        }
        .context(ErrorKind::Storage, what)?;
        Ok(bytes)
    }

    /// The bytes from `at` to `end`; `what` is what fails where they can't be read.
    pub(super) fn stream(&self, at: u64, end: u64, what: String) -> Result<ByteStream> {
        match self {
            Self::File(file) => {
                let file = file.try_clone().context(ErrorKind::Storage, || what.clone())?;
                Ok(dist_registry::file_stream(file, at, end, what))
            }
            Self::Web(web) => Ok(web.file.part(at..end)),
        }
    }

    /// A reader that can go to any place. It blocks.
    pub(super) fn reader(&self) -> Result<Reader<'_>> {
        let size = self.size()?;
        Ok(Reader {
            source: self,
            at: 0,
            size,
            window: Vec::new(),
            begin: 0,
            next: *WINDOW.start(),
        })
    }
}

/// A file on a web server.
pub(super) struct WebSource {
    file: Arc<WebFile>,
    downloads: Downloads,
    desc: Descriptor,
    _alive: Alive,
}

impl WebSource {
    /// A file of `size` bytes. Must be called on the runtime that shall drive its bodies.
    pub(super) fn new(file: Arc<WebFile>, size: u64) -> Self {
        let alive = Alive::new();
        let fetcher = Arc::new(Parts(Arc::clone(&file)));
        let downloads = alive.downloads(&Servers::new(1), fetcher);
        // Nothing looks at the digest: the file has a place, and no other name.
        let media_type = MediaType::parse("application/octet-stream");
        let desc = Descriptor::new(media_type, Digest::sha256(b""), size);
        Self { file, downloads, desc, _alive: alive }
    }

    fn part(&self, at: u64, size: u64) -> Body {
        self.downloads.start_part(&self.desc, at..at + size)
    }
}

/// Brings what of a file is asked for, whatever it is called.
struct Parts(Arc<WebFile>);

#[async_trait]
impl Fetcher for Parts {
    async fn fetch(&self, _desc: &Descriptor, _offset: u64) -> Result<ByteStream> {
        Ok(self.0.whole())
    }

    async fn fetch_part(
        &self,
        _desc: &Descriptor,
        range: std::ops::Range<u64>,
    ) -> Result<ByteStream> {
        Ok(self.0.part(range))
    }
}

/// All of a file on a web server, in one pass, for a thread that may block.
pub(crate) struct WebReader {
    body: Body,
    _alive: Alive,
}

impl WebReader {
    /// Begins at the first byte. Must be called on the runtime that shall drive it.
    pub(crate) fn new(file: Arc<WebFile>) -> Self {
        let WebSource { downloads, desc, _alive, .. } = WebSource::new(file, 0);
        Self { body: downloads.start(&desc, 0), _alive }
    }
}

impl Read for WebReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.read(buffer)
    }
}

/// Reads by stretches, which grow where one follows the other: what is between headers is not asked
/// for.
pub(super) struct Reader<'a> {
    source: &'a Source,
    at: u64,
    size: u64,
    window: Vec<u8>,
    begin: u64,
    /// How much is read next.
    next: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.begin + self.window.len() as u64;
        if !(self.begin..end).contains(&self.at) {
            let follows = self.at == end && end > 0;
            self.next = if follows { (self.next * 2).min(*WINDOW.end()) } else { *WINDOW.start() };
            let length = self.next.min(self.size.saturating_sub(self.at));
            let length = usize::try_from(length).unwrap_or(0);
            self.window = self.source.read(self.at, length).map_err(Error::into_io)?;
            self.begin = self.at;
        }
        let from = usize::try_from(self.at - self.begin).unwrap_or(usize::MAX);
        let there = self.window.get(from..).unwrap_or_default();
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// What arrives, without its compression, in a file without a name: its index may be its last entry.
pub(super) fn spool(mut input: impl Read) -> Result<File> {
    let what = || "keep the archive in a temporary file".to_owned();
    let mut start = Vec::new();
    (&mut input).take(6).read_to_end(&mut start).context(ErrorKind::Storage, what)?;
    let compression = dist_layer::detect(&start)?;
    let mut input = io::BufReader::new(io::Cursor::new(start).chain(input));
    let mut file = tempfile::tempfile().context(ErrorKind::Storage, what)?;
    if compression == Compression::None {
        io::copy(&mut input, &mut file).context(ErrorKind::Storage, what)?;
    } else {
        let limits = dist_layer::Limits { layer_bytes: u64::MAX, ..Default::default() };
        let kind = MediaType::Layer(compression);
        let mut plain = dist_layer::decompress(&kind, input, limits).during(what)?;
        io::copy(&mut plain, &mut file).context(ErrorKind::Corrupt, what)?;
    }
    Ok(file)
}
