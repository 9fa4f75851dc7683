//! The compressed bytes, in one buffer.

use std::io::{ErrorKind as IoErrorKind, Read};

use dist_core::{Context, ErrorKind, Result};

const SIZE: usize = 128 << 10;

pub(crate) struct Input<R> {
    reader: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    read: u64,
    ended: bool,
}

impl<R: Read> Input<R> {
    pub(crate) fn new(reader: R) -> Self {
        let buffer = vec![0; SIZE].into_boxed_slice();
        Self { reader, buffer, start: 0, end: 0, read: 0, ended: false }
    }

    /// Goes on with another reader of the same bytes; gives the one that it had.
    pub(crate) fn exchange_reader<S>(self, reader: S) -> (Input<S>, R) {
        let Self { reader: old, buffer, start, end, read, ended } = self;
        (Input { reader, buffer, start, end, read, ended }, old)
    }

    /// The offset of the next byte.
    pub(crate) fn offset(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    /// Bytes the reader has given so far.
    pub(crate) fn taken(&self) -> u64 {
        self.read
    }

    /// Bytes at hand; reads once where there are none. Empty at the end only.
    pub(crate) fn available(&mut self) -> Result<&[u8]> {
        if self.start == self.end {
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end])
    }

    /// The next `count` bytes; fewer at the end only.
    pub(crate) fn peek(&mut self, count: usize) -> Result<&[u8]> {
        debug_assert!(count <= SIZE);
        while self.end - self.start < count && !self.ended {
            self.read_more()?;
        }
        Ok(&self.buffer[self.start..self.end.min(self.start + count)])
    }

    pub(crate) fn advance(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
    }

    /// Leaves out the bytes before the one at `offset`.
    pub(crate) fn skip_to(&mut self, offset: u64) -> Result<()> {
        while self.offset() < offset && !self.available()?.is_empty() {
            let count = usize::try_from(offset - self.offset()).unwrap_or(usize::MAX);
            self.advance(count.min(self.end - self.start));
        }
        Ok(())
    }

    pub(crate) fn byte(&mut self) -> Result<Option<u8>> {
        let byte = self.available()?.first().copied();
        self.advance(1);
        Ok(byte)
    }

    /// Fills `out` with bytes as they are; less than all of it at the end only.
    pub(crate) fn copy(&mut self, out: &mut [u8]) -> Result<usize> {
        let mut filled = self.available()?.len().min(out.len());
        out[..filled].copy_from_slice(&self.buffer[self.start..self.start + filled]);
        self.advance(filled);
        while filled < out.len() && !self.ended {
            let count = read(&mut self.reader, &mut out[filled..], self.read)?;
            self.ended = count == 0;
            self.read += count as u64;
            filled += count;
        }
        Ok(filled)
    }

    fn read_more(&mut self) -> Result<()> {
        if self.ended {
            return Ok(());
        }
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = read(&mut self.reader, &mut self.buffer[self.end..], self.read)?;
        self.ended = count == 0;
        self.end += count;
        self.read += count as u64;
        Ok(())
    }
}

fn read(reader: &mut impl Read, out: &mut [u8], offset: u64) -> Result<usize> {
    loop {
        match reader.read(out) {
            Err(error) if error.kind() == IoErrorKind::Interrupted => {}
            result => {
                return result
                    .context(ErrorKind::Storage, || format!("read layer at byte {offset}"));
            }
        }
    }
}
