//! A blob that is looked at as it comes, and verified in the end.

use std::io::{self, Read};

use dist_core::{Context as _, Descriptor, Digest, ErrorKind, Event, Hasher, Progress, Result};

use crate::blocking::Body;

/// A body that is hashed and counted while it is read.
pub(crate) struct Input<'a> {
    body: Body,
    hasher: Hasher,
    size: u64,
    /// Whether there was an error; nothing comes after it.
    pub(crate) failed: bool,
    digest: Digest,
    progress: &'a dyn Progress,
}

impl<'a> Input<'a> {
    pub(crate) fn new(body: Body, digest: Digest, progress: &'a dyn Progress) -> Self {
        Self { body, hasher: digest.hasher(), size: 0, failed: false, digest, progress }
    }

    /// Reads what is left, and compares all of it with what it should be.
    ///
    /// # Errors
    /// That of the body; `Corrupt` with `ContentMismatch`.
    pub(crate) fn verify(mut self, desc: &Descriptor) -> Result<()> {
        io::copy(&mut self, &mut io::sink()).context(ErrorKind::Storage, || {
            format!("read {} {}", desc.media_type.noun(), desc.digest)
        })?;
        desc.verify(self.size, self.hasher.finish())
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.body.read(buffer).inspect_err(|_| self.failed = true)?;
        self.hasher.update(&buffer[..count]);
        self.size += count as u64;
        if count > 0 {
            self.progress.event(Event::Advanced { digest: self.digest, bytes: count as u64 });
        }
        Ok(count)
    }
}
