//! What is still to be done about directories when all entries are made.
//!
//! A directory's times change with each entry made in it, and its final mode may forbid making
//! any, so both are set at the end. One list of records in the order of events, the names in one
//! buffer; sorting it brings each directory's records together and children after parents.

use std::cmp::Ordering;

use dist_core::Result;

use crate::limits::exceeded;
use crate::tar::Time;

/// Bytes that the records may take.
const LIMIT: usize = 64 << 20;

/// The state a directory must end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Final {
    /// It has an entry.
    Explicit {
        mode: u32,
        mtime: Time,
        /// Whether it had another mode before its entry came.
        reused: bool,
    },
    /// It was made because an entry below needed it.
    Implicit,
    /// It is a lower layer's and was only written in.
    Kept { mode: u32, mtime: Time },
}

#[derive(Clone, Copy, Debug)]
enum What {
    Is(Final),
    Gone,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    start: usize,
    length: usize,
    what: What,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    names: Vec<u8>,
    records: Vec<Record>,
}

impl Ledger {
    /// Notes how a directory must end.
    pub(crate) fn set(&mut self, path: &[u8], end: Final) -> Result<()> {
        self.push(path, What::Is(end))
    }

    /// Notes that what was at `path` and below is gone.
    pub(crate) fn gone(&mut self, path: &[u8]) -> Result<()> {
        self.push(path, What::Gone)
    }

    fn push(&mut self, path: &[u8], what: What) -> Result<()> {
        let used = self.names.len() + self.records.len() * size_of::<Record>();
        if used + path.len() + size_of::<Record>() > LIMIT {
            let message = "unpack layer: it has too many directories".to_owned();
            return Err(exceeded("directory-records", LIMIT as u64, message));
        }
        let start = self.names.len();
        self.names.extend_from_slice(path);
        self.records.push(Record { start, length: path.len(), what });
        Ok(())
    }

    /// The directories that are left, parents before children, each once.
    pub(crate) fn finish(self) -> Finals {
        let Self { names, records } = self;
        let name = |index: usize| {
            let Record { start, length, .. } = records[index];
            &names[start..start + length]
        };
        let mut order: Vec<usize> = (0..records.len()).collect();
        order.sort_by(|&a, &b| compare(name(a), name(b)).then(a.cmp(&b)));
        let mut left = Vec::new();
        // Ancestors (or the path itself) that were removed, with the moment of the last removal
        // that concerns them.
        let mut gone: Vec<(usize, usize)> = Vec::new();
        for group in order.chunk_by(|&a, &b| name(a) == name(b)) {
            let (Some(&first), path) = (group.first(), name(group[0])) else { continue };
            while gone.last().is_some_and(|&(of, _)| !contains(name(of), path)) {
                gone.pop();
            }
            let own = group.iter().rev().find(|&&at| matches!(records[at].what, What::Gone));
            if let Some(&at) = own {
                let at = gone.last().map_or(at, |&(_, outer)| at.max(outer));
                gone.push((first, at));
            }
            let alive = |at: &&usize| gone.last().is_none_or(|&(_, moment)| **at > moment);
            let last = group.iter().rev().filter(alive).find_map(|&at| match records[at].what {
                What::Is(end) => Some(end),
                What::Gone => None,
            });
            if let Some(end) = last {
                left.push((Record { what: What::Is(end), ..records[first] }, end));
            }
        }
        let entries =
            left.into_iter().map(|(record, end)| (record.start, record.length, end)).collect();
        Finals { names, entries }
    }
}

/// The directories of a layer in order.
#[derive(Debug)]
pub(crate) struct Finals {
    names: Vec<u8>,
    entries: Vec<(usize, usize, Final)>,
}

impl Finals {
    /// Visits them, parents first.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], Final)> {
        self.entries.iter().map(|&(start, length, end)| (&self.names[start..start + length], end))
    }

    /// Finds one by its path.
    pub(crate) fn get(&self, path: &[u8]) -> Option<Final> {
        let at = self.find(path).ok()?;
        Some(self.entries[at].2)
    }

    /// Puts another state in the place of the one a directory has.
    pub(crate) fn replace(&mut self, path: &[u8], end: Final) {
        match self.find(path) {
            Ok(at) => self.entries[at].2 = end,
            Err(at) => {
                let start = self.names.len();
                self.names.extend_from_slice(path);
                self.entries.insert(at, (start, path.len(), end));
            }
        }
    }

    fn find(&self, path: &[u8]) -> Result<usize, usize> {
        self.entries.binary_search_by(|&(start, length, _)| {
            compare(&self.names[start..start + length], path)
        })
    }
}

/// Orders paths so that a directory's whole subtree follows it.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
    a.iter().map(rank).cmp(b.iter().map(rank))
}

fn contains(dir: &[u8], path: &[u8]) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(mode: u32) -> Final {
        Final::Explicit { mode, mtime: Time::default(), reused: false }
    }

    fn list(finals: &Finals) -> Vec<(&str, Final)> {
        finals.iter().map(|(path, end)| (std::str::from_utf8(path).unwrap(), end)).collect()
    }

    #[test]
    fn last_record_wins_and_parents_come_first() {
        let mut ledger = Ledger::default();
        ledger.set(b"a/b", Final::Implicit).unwrap();
        ledger.set(b"a.b", explicit(1)).unwrap();
        ledger.set(b"a", Final::Implicit).unwrap();
        ledger.set(b"a", explicit(2)).unwrap();
        ledger.set(b"", explicit(3)).unwrap();
        assert_eq!(
            list(&ledger.finish()),
            [("", explicit(3)), ("a", explicit(2)), ("a/b", Final::Implicit), ("a.b", explicit(1))]
        );
    }

    #[test]
    fn removal_takes_the_subtree() {
        let mut ledger = Ledger::default();
        ledger.set(b"a", explicit(1)).unwrap();
        ledger.set(b"a/b", explicit(1)).unwrap();
        ledger.set(b"a/b/c", explicit(1)).unwrap();
        ledger.set(b"ab", explicit(1)).unwrap();
        ledger.gone(b"a").unwrap();
        ledger.set(b"a", explicit(2)).unwrap();
        ledger.set(b"a/b/c", explicit(2)).unwrap();
        assert_eq!(
            list(&ledger.finish()),
            [("a", explicit(2)), ("a/b/c", explicit(2)), ("ab", explicit(1))]
        );
    }

    #[test]
    fn replaced_states_keep_the_order() {
        let mut ledger = Ledger::default();
        ledger.set(b"a", Final::Implicit).unwrap();
        ledger.set(b"c", Final::Implicit).unwrap();
        let mut finals = ledger.finish();
        finals.replace(b"b", explicit(1));
        finals.replace(b"a", explicit(2));
        assert_eq!(list(&finals), [("a", explicit(2)), ("b", explicit(1)), ("c", Final::Implicit)]);
        assert_eq!(finals.get(b"c"), Some(Final::Implicit));
    }
}
