//! One file of an image, without its layers being kept or unpacked.

use std::io::{self, Read, Seek as _, SeekFrom, Write};
use std::sync::Arc;

use dist_core::{
    Context as _, Descriptor, Error, ErrorKind, Fetcher, Hasher, Result, ResultExt as _,
};
use dist_layer::{Limits, Said, Spool, look_up};
use tempfile::SpooledTempFile;

use crate::blocking::{Alive, Body, Downloads, blocking};
use crate::servers::Servers;

/// Symlinks on the way to a file, as the kernel has it.
const LINKS: usize = 40;

/// Bytes of a file that are kept in memory; more are in a temporary file without a name.
const IN_MEMORY: usize = 1 << 20;

/// Reads the file at `path` of an image that has these layers, the lowest first.
///
/// Layers are read from the top down, until one says what the path is; those that were read are
/// verified before anything of the file is given. Symlinks are followed within the image.
///
/// # Errors
/// `NotFound` where there is none; `InvalidArgument` where it is no file; those of `fetcher` and of
/// layers.
pub async fn read_file(
    fetcher: Arc<dyn Fetcher>,
    layers: Vec<Descriptor>,
    path: &str,
    limits: Limits,
) -> Result<impl Read + Send + use<>> {
    let alive = Alive::new();
    let downloads = alive.downloads(&Servers::new(1), fetcher);
    let search = Search { downloads, layers, limits, shown: path.to_owned() };
    let path = path.as_bytes().to_vec();
    blocking(move || search.run(path)).await
}

struct Search {
    downloads: Downloads,
    layers: Vec<Descriptor>,
    limits: Limits,
    /// What was asked for.
    shown: String,
}

impl Search {
    fn run(&self, mut path: Vec<u8>) -> Result<SpooledTempFile> {
        let (mut below, mut dirs, mut links) = (self.layers.len(), 0, 0);
        while let Some(layer) = below.checked_sub(1).and_then(|at| self.layers.get(at)) {
            let mut spool = Spooled(tempfile::spooled_tempfile(IN_MEMORY));
            match self.look(layer, (&path, dirs), &mut spool)? {
                Said::Nothing(known) => (below, dirs) = (below - 1, known),
                Said::File => {
                    let mut file = spool.0;
                    let rewound = file.seek(SeekFrom::Start(0));
                    rewound.context(ErrorKind::Storage, || format!("read file {}", self.shown))?;
                    return Ok(file);
                }
                Said::Link(target) => (path, dirs, links) = (target, 0, links + 1),
                Said::Symlink(target) => {
                    (path, dirs, links) = (target, 0, links + 1);
                    below = self.layers.len();
                }
                Said::NoFile => return Err(self.error(ErrorKind::InvalidArgument, "it is no file")),
                Said::Gone => break,
            }
            if links > LINKS {
                return Err(self.error(ErrorKind::Corrupt, "too many links"));
            }
        }
        Err(self.error(ErrorKind::NotFound, "the image has none"))
    }

    /// Reads and verifies a layer.
    fn look(
        &self,
        layer: &Descriptor,
        (path, dirs): (&[u8], usize),
        spool: &mut Spooled,
    ) -> Result<Said> {
        let what = || format!("read layer {}", layer.digest);
        let hasher = layer.digest.hasher();
        let mut body = Hashed { body: self.downloads.start(layer, 0), hasher, size: 0 };
        let input = (&layer.media_type, &mut body);
        let said = look_up(input, self.limits, path, dirs, spool);
        // That a layer is not the one that was meant explains what is wrong in it.
        let is_of_layer = |kind| matches!(kind, ErrorKind::Corrupt | ErrorKind::UnsafeLayer);
        if said.as_ref().map_or_else(|error| is_of_layer(error.kind()), |_| true) {
            let rest = io::copy(&mut body, &mut io::sink());
            if said.is_err() && rest.is_err() {
                return said.during(what); // it was the body that failed, and it fails once
            }
            rest.context(ErrorKind::Storage, what)?;
            layer.verify(body.size, body.hasher.finish()).during(what)?;
        }
        said.during(what)
    }

    fn error(&self, kind: ErrorKind, problem: &str) -> Error {
        Error::new(kind, format!("find file {}: {problem}", self.shown))
    }
}

/// A body that is hashed while it is read.
struct Hashed {
    body: Body,
    hasher: Hasher,
    size: u64,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        Ok(count)
    }
}

struct Spooled(SpooledTempFile);

impl Write for Spooled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Spool for Spooled {
    fn restart(&mut self) -> io::Result<()> {
        self.0.seek(SeekFrom::Start(0))?;
        self.0.set_len(0)
    }
}
