//! What grows and never moves: no copy of it is made while it grows, and no room is kept for more than
//! a page.

/// Elements of a page of [`Pages`], and bytes of one of [`Texts`].
const ELEMENTS: usize = 1 << 10;
const BYTES: usize = 1 << 16;

/// Values by their number.
#[derive(Debug)]
pub(super) struct Pages<T>(Vec<Vec<T>>);

impl<T> Pages<T> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * ELEMENTS + last.len())
    }

    pub(super) fn push(&mut self, value: T) {
        match self.0.last_mut() {
            Some(last) if last.len() < ELEMENTS => last.push(value),
            _ => {
                let mut page = Vec::with_capacity(ELEMENTS);
                page.push(value);
                self.0.push(page);
            }
        }
    }

    pub(super) fn at(&self, number: u32) -> &T {
        let number = number as usize;
        &self.0[number / ELEMENTS][number % ELEMENTS]
    }

    pub(super) fn at_mut(&mut self, number: u32) -> &mut T {
        let number = number as usize;
        &mut self.0[number / ELEMENTS][number % ELEMENTS]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

/// Names and targets of symlinks, each behind its length.
#[derive(Debug, Default)]
pub(super) struct Texts(Vec<Vec<u8>>);

impl Texts {
    /// Keeps a text; says where. `None` where it is longer than any can be.
    pub(super) fn keep(&mut self, text: &[u8]) -> Option<u32> {
        let length = u16::try_from(text.len()).ok()?;
        let size = text.len() + 2;
        if self.0.last().is_none_or(|last| last.len() + size > BYTES) {
            // Of two bytes more than a page is nothing that one can hold.
            self.0.push(Vec::with_capacity(BYTES.max(size)));
        }
        let page = u32::try_from(self.0.len() - 1).ok().filter(|page| *page < 1 << 16)?;
        let last = self.0.last_mut()?;
        let at = u32::try_from(last.len()).ok()?;
        last.extend_from_slice(&length.to_le_bytes());
        last.extend_from_slice(text);
        Some(page << 16 | at)
    }

    pub(super) fn at(&self, place: u32) -> &[u8] {
        let (page, at) = (&self.0[(place >> 16) as usize], (place & 0xffff) as usize);
        let length = usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
        &page[at + 2..at + 2 + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_texts_are_found_again() {
        let (mut pages, mut texts) = (Pages::new(), Texts::default());
        let text = |number: usize| vec![b'x'; number * 7 % 5000];
        let mut places = Vec::new();
        for number in 0..3000 {
            pages.push(number);
            places.push(texts.keep(&text(number)).unwrap());
        }
        *pages.at_mut(2999) = 7;
        assert_eq!((pages.len(), *pages.at(1024), *pages.at(2999)), (3000, 1024, 7));
        assert!(pages.iter().take(2999).copied().eq(0..2999));
        for (number, place) in places.into_iter().enumerate() {
            assert_eq!(texts.at(place), text(number));
        }
        let longest = vec![b'y'; 65535];
        let place = texts.keep(&longest).unwrap();
        let behind = texts.keep(b"z").unwrap();
        assert_eq!((texts.at(place), texts.at(behind)), (&longest[..], &b"z"[..]));
        assert_eq!(texts.keep(&[b'y'; 65536]), None);
    }
}
