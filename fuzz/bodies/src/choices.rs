//! Choices: bytes as a sequence of decisions, so that a fuzzer's change of one byte changes
//! one part of what is built.

/// Reads choices from the front of some bytes; when they run out, each choice is the first.
pub(crate) struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// One of `of`, all with about the same chance.
    pub(crate) fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    /// Yes, one time in sixteen: what would refuse every decision if it were frequent.
    pub(crate) fn rarely(&mut self) -> bool {
        self.byte() >= 240
    }

    /// Yes, one time in two.
    pub(crate) fn maybe(&mut self) -> bool {
        self.byte() >= 128
    }

    /// A number below 2^32.
    pub(crate) fn number(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Up to `most` bytes as they are.
    pub(crate) fn bytes(&mut self, most: usize) -> &'a [u8] {
        let wanted = usize::from(self.byte()).min(most).min(self.0.len());
        let (taken, rest) = self.0.split_at(wanted);
        self.0 = rest;
        taken
    }
}
