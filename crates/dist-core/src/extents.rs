//! Which bytes of a content are there.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of bytes by their offsets, kept as ranges that neither overlap nor touch.
///
/// ```
/// use dist_core::Extents;
///
/// let mut there = Extents::default();
/// assert_eq!(there.insert(0..10), 10);
/// assert_eq!(there.insert(5..20), 10);
/// there.insert(30..40);
/// assert_eq!((there.end_at(0), there.next_from(20)), (20, Some(30)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(BTreeMap<u64, u64>);

impl Extents {
    /// Adds a range; returns how many of its bytes were not there.
    pub fn insert(&mut self, range: Range<u64>) -> u64 {
        let Range { start, end } = range;
        if start >= end {
            return 0;
        }
        let mut new = (start, end);
        let mut had = 0;
        // From the last on that begins before the end: only the first of them can begin before `start`.
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            had += last.min(end).saturating_sub(first.max(start));
            new = (new.0.min(first), new.1.max(last));
            self.0.remove(&first);
        }
        self.0.insert(new.0, new.1);
        end - start - had
    }

    /// The first byte from `at` on that is not there.
    #[must_use]
    pub fn end_at(&self, at: u64) -> u64 {
        self.0.range(..=at).next_back().map_or(at, |(_, &end)| end.max(at))
    }

    /// Where the first range begins that begins at `at` or behind it.
    #[must_use]
    pub fn next_from(&self, at: u64) -> Option<u64> {
        self.0.range(at..).next().map(|(&start, _)| start)
    }

    /// The first gap at or behind `at` that begins before `end`, as far as `end`.
    #[must_use]
    pub fn gap(&self, at: u64, end: u64) -> Option<Range<u64>> {
        let start = self.end_at(at);
        (start < end).then(|| start..self.next_from(start).map_or(end, |next| next.min(end)))
    }

    /// How many bytes are there.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = Range<u64>> {
        self.0.iter().map(|(&start, &end)| start..end)
    }

    /// Forgets what is at `end` or behind it.
    pub fn truncate(&mut self, end: u64) {
        let _ = self.0.split_off(&end);
        if let Some(mut last) = self.0.last_entry() {
            let kept = (*last.get()).min(end);
            *last.get_mut() = kept;
        }
    }

    /// Takes out the range that has the byte `at`.
    pub fn take_at(&mut self, at: u64) -> Option<Range<u64>> {
        let (&start, &end) = self.0.range(..=at).next_back()?;
        if end <= at {
            return None;
        }
        self.0.remove(&start);
        Some(start..end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_set_of_bytes(
            steps in proptest::collection::vec((0..40_u64, 0..12_u64, 0..8_u8), 0..40)
        ) {
            let (mut extents, mut model) = (Extents::default(), BTreeSet::new());
            for (start, length, what) in steps {
                match what {
                    0 => {
                        extents.truncate(start);
                        model.retain(|byte| *byte < start);
                    }
                    1 => {
                        let taken = extents.take_at(start);
                        prop_assert_eq!(taken.is_some(), model.contains(&start));
                        model.retain(|byte| !taken.clone().is_some_and(|taken| taken.contains(byte)));
                    }
                    _ => {
                        let new = (start..start + length).filter(|byte| model.insert(*byte)).count();
                        prop_assert_eq!(extents.insert(start..start + length), new as u64);
                    }
                }
                prop_assert_eq!(extents.bytes(), model.len() as u64);
                let listed: Vec<u64> = extents.iter().flatten().collect();
                prop_assert_eq!(&listed, &model.iter().copied().collect::<Vec<_>>());
                let ranges: Vec<_> = extents.iter().collect();
                prop_assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
                for at in 0..55 {
                    let end = (at..).find(|byte| !model.contains(byte)).unwrap_or(at);
                    prop_assert_eq!(extents.end_at(at), end);
                    let gap = (at..50).find(|byte| !model.contains(byte)).map(|start| {
                        start..(start..50).find(|byte| model.contains(byte)).unwrap_or(50)
                    });
                    prop_assert_eq!(extents.gap(at, 50), gap);
                }
            }
        }
    }
}
