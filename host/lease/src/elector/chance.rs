//! Chance: what keeps replicas from doing everything at the same moment.

/// A small generator (SplitMix64): pauses need spread, not secrecy, and tests need replay.
/// From zero it always gives the middle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Chance(pub(super) u64);

impl Chance {
    /// The next number in `0.0..1.0`.
    pub(super) fn next(&mut self) -> f64 {
        if self.0 == 0 {
            return 0.5;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
