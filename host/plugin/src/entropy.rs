//! Randomness that is a function of the object's uid.
//!
//! A guest needs some for its hash tables, and a decision must be the same when
//! it is asked for again. Not for secrets, and the contract says so.

/// SplitMix64: a counter through a mixing function; every seed gives a full period.
#[derive(Debug)]
pub(crate) struct Entropy(u64);

impl Entropy {
    /// A stream that depends on `uid` alone (FNV-1a of its bytes is the seed).
    pub(crate) fn from_uid(uid: &str) -> Self {
        let seed = uid.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_uid_gives_the_same_stream_and_another_another() {
        let stream = |uid: &str| Entropy::from_uid(uid).bytes(20);
        assert_eq!(stream("a"), stream("a"));
        assert_ne!(stream("a"), stream("b"));
        assert_eq!(stream("a").len(), 20);
    }
}
