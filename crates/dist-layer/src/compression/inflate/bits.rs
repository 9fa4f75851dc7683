//! What was read of a stream and is not decoded yet.

/// Bits that are read and not used, first bit lowest.
pub(super) struct Bits {
    pub(super) hold: u64,
    pub(super) held: u32,
}

/// How far a call has come.
pub(super) struct Run {
    pub(super) read: usize,
    pub(super) filled: usize,
}

impl Bits {
    /// Takes bytes from the input while there is room for whole ones.
    pub(super) fn fill(&mut self, input: &[u8], run: &mut Run) {
        while self.held <= 56
            && let Some(&byte) = input.get(run.read)
        {
            self.hold |= u64::from(byte) << self.held;
            self.held += 8;
            run.read += 1;
        }
    }

    pub(super) fn skip(&mut self, count: u32) {
        self.hold >>= count;
        self.held -= count;
    }

    pub(super) fn align(&mut self) {
        self.skip(self.held % 8);
    }

    /// Clears the bits beyond those that are held.
    pub(super) fn mask(&mut self) {
        self.hold &= (1 << self.held) - 1;
    }
}
