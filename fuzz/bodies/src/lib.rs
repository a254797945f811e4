//! What fuzzing calls: each target as a plain function over bytes, and what must hold for
//! any of them.
//!
//! A target returns, or panics because a promise was broken. The same functions are run by
//! libFuzzer (`cargo xtask fuzz`), by a test that replays the corpus and random changes of
//! it, and by a property test. Nothing here is part of the host.

mod choices;
mod decision;
#[cfg(feature = "frames")]
mod frames;
mod invariants;
mod json;
#[cfg(feature = "load")]
mod load;
mod mutate;
mod world;

pub use decision::{decode_decision, plan};
#[cfg(feature = "frames")]
pub use frames::frames;
#[cfg(feature = "load")]
pub use load::load;
pub use mutate::Mutator;

/// A function over any bytes.
pub type Target = fn(&[u8]);

/// Every target that this build has, by the name of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("decode_decision", decode_decision),
    ("plan", plan),
    #[cfg(feature = "frames")]
    ("frames", frames),
    #[cfg(feature = "load")]
    ("load", load),
];
