//! Random changes of a corpus: what a test can do without a compiler's help.

/// Words that matter to some target.
const WORDS: &[&str] = &[
    "windlass.dev/",
    "\"metadata\":",
    "\"name\":\"..\"",
    "\"kind\":\"Role\"",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\ud800",
    "1e400",
    "NaN",
    "\u{feff}",
    "null",
    ",",
    "\0asm\x0d\0\x01\0",
    "\u{1}\u{2}\u{3}",
    "\n---\n",
    "status:",
];

/// Changes inputs. The same seed gives the same changes.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next random number.
    pub fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.random() % most.max(1) as u64) as usize
    }

    /// One of `corpus`, changed in a few places; sometimes random bytes.
    pub fn next_input(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = match corpus.is_empty() || self.below(8) == 0 {
            true => (0..self.below(512)).map(|_| self.random() as u8).collect(),
            false => corpus[self.below(corpus.len())].clone(),
        };
        for _ in 0..=self.below(6) {
            self.change(&mut input, corpus);
        }
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.random() as u8,
            2 => input.truncate(at),
            3 => {
                let word = WORDS[self.below(WORDS.len())];
                input.splice(at..at, word.bytes());
            }
            4 => {
                let end = (at + self.below(16)).min(input.len());
                input.drain(at..end);
            }
            5 if !corpus.is_empty() => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len());
                let to = from + self.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            _ => {
                let end = (at + self.below(64)).min(input.len());
                let again = input[at..end].to_vec();
                input.splice(at..at, again);
            }
        }
    }
}
