//! Sparse files: regions of a body that is stored without its holes.
//!
//! Old GNU (type `S`) has the map in the header and in blocks after it. GNU PAX 0.0 has a pair of
//! `offset` and `numbytes` records for each region, 0.1 one `map` record, 1.0 decimal lines at the
//! body's start (tar manual, "Storing Sparse Files").

use super::pax::{decimal, name};
use super::{BLOCK, Fault};

/// Regions that one map may have.
pub(crate) const REGION_LIMIT: usize = 100_000;

/// Bytes of a sparse file that are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Checks that regions ascend, stay apart and end within `size`; returns their bytes.
pub(crate) fn check(regions: &[Region], size: u64) -> Result<u64, Fault> {
    let (mut end, mut total) = (0u64, 0u64);
    for region in regions {
        if region.start < end {
            return Err(Fault::SparseMap);
        }
        end = region.start.checked_add(region.length).ok_or(Fault::SparseMap)?;
        total += region.length;
    }
    if end > size { Err(Fault::SparseMap) } else { Ok(total) }
}

/// The `GNU.sparse.*` records of an extended header.
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub(crate) given: bool,
    pub(crate) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    size: Option<u64>,
    blocks: Option<u64>,
    regions: Option<Vec<Region>>,
    /// An `offset` whose `numbytes` has not come.
    start: Option<u64>,
}

impl Sparse {
    pub(crate) fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Fault> {
        self.given = true;
        let number = || decimal(value).ok_or(Fault::SparseMap);
        match key {
            b"name" => self.name = Some(name(value, "name")?),
            b"major" => self.major = Some(number()?),
            b"minor" => self.minor = Some(number()?),
            b"size" | b"realsize" => self.size = Some(number()?),
            b"numblocks" => self.blocks = Some(number()?),
            b"offset" if self.start.is_none() => self.start = Some(number()?),
            b"numbytes" => {
                let start = self.start.take().ok_or(Fault::SparseMap)?;
                let region = Region { start, length: number()? };
                self.regions.get_or_insert_default().push(region);
            }
            b"map" => {
                let mut numbers = value.split(|&byte| byte == b',').map(decimal);
                let regions = self.regions.insert(Vec::new());
                if value.is_empty() {
                    return Ok(());
                }
                while let Some(start) = numbers.next() {
                    match (start, numbers.next().flatten()) {
                        (Some(start), Some(length)) => regions.push(Region { start, length }),
                        _ => return Err(Fault::SparseMap),
                    }
                }
            }
            _ => return Err(Fault::SparseMap),
        }
        Ok(())
    }

    /// The file's length and its map; `None` where the map begins the body.
    pub(crate) fn resolve(self) -> Result<(u64, Option<Vec<Region>>), Fault> {
        let size = self.size.ok_or(Fault::SparseMap)?;
        if self.start.is_some() {
            return Err(Fault::SparseMap);
        }
        match (self.major, self.minor) {
            (Some(1), Some(0)) if self.regions.is_none() => Ok((size, None)),
            (None | Some(0), None | Some(0 | 1)) => {
                let regions = self.regions.unwrap_or_default();
                if self.blocks.is_some_and(|blocks| blocks != regions.len() as u64) {
                    return Err(Fault::SparseMap);
                }
                Ok((size, Some(regions)))
            }
            _ => Err(Fault::SparseMap),
        }
    }
}

/// Reads a map that begins the body, block by block.
#[derive(Debug, Default)]
pub(crate) struct MapParser {
    count: Option<usize>,
    regions: Vec<Region>,
    start: Option<u64>,
    digits: Vec<u8>,
}

impl MapParser {
    pub(crate) fn is_complete(&self) -> bool {
        self.count == Some(self.regions.len())
    }

    /// Regions that the map says it has.
    pub(crate) fn announced(&self) -> usize {
        self.count.unwrap_or(0)
    }

    pub(crate) fn into_regions(self) -> Vec<Region> {
        self.regions
    }

    pub(crate) fn feed(&mut self, block: &[u8; BLOCK]) -> Result<(), Fault> {
        for &byte in block {
            if self.is_complete() {
                break; // the rest is padding
            }
            match byte {
                b'\n' => self.line()?,
                b'0'..=b'9' if self.digits.len() < 20 => self.digits.push(byte),
                _ => return Err(Fault::SparseMap),
            }
        }
        Ok(())
    }

    fn line(&mut self) -> Result<(), Fault> {
        let value = decimal(&self.digits).ok_or(Fault::SparseMap)?;
        self.digits.clear();
        if self.count.is_none() {
            self.count = Some(usize::try_from(value).map_err(|_| Fault::SparseMap)?);
        } else if let Some(start) = self.start.take() {
            self.regions.push(Region { start, length: value });
        } else {
            self.start = Some(value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        let r = |start, length| Region { start, length };
        assert_eq!(check(&[r(0, 2), r(2, 0), r(5, 5)], 10).ok(), Some(7));
        for (regions, size) in
            [(vec![r(50, 10), r(0, 60)], 100), (vec![r(5, 6)], 10), (vec![r(u64::MAX, 2)], 1)]
        {
            assert!(check(&regions, size).is_err());
        }
    }

    #[test]
    fn map_at_the_start_of_a_body() {
        let mut block = [0; BLOCK];
        block[..11].copy_from_slice(b"2\n0\n10\n30\n4"[..11].try_into().unwrap());
        let mut parser = MapParser::default();
        assert!(parser.feed(&block).is_err(), "a zero byte inside a number");
        block[11] = b'\n';
        let mut parser = MapParser::default();
        parser.feed(&block).unwrap();
        assert!(parser.is_complete());
        assert_eq!(parser.into_regions()[1], Region { start: 30, length: 4 });
    }
}
