//! Rules left out on purpose, one at a time, so that the tests can show that they are
//! looked for.
//!
//! Whoever checks leadership (the model, the checker of histories) has to refute each of
//! these. They act only in a build with the feature `mutants`, which no release has;
//! without it the compiler removes them.

use std::fmt;
use std::str::FromStr;

/// One rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutant {
    /// A claim is counted from the answer to its write, and a request may take a whole
    /// renew deadline, as where nobody thinks of it.
    ResponseAnchored,
    /// A write of the Lease carries no version: the last one wins.
    NoResourceVersion,
    /// Another replica's Lease counts as expired when its `renewTime` is too long ago by
    /// the wall clock here.
    WallClock {
        /// What that wall clock shows, in milliseconds since 1970, when the boot clock
        /// shows zero. Text forms carry how far the clock is ahead instead (negative:
        /// behind), and the driver adds the truth.
        zero_ms: i64,
    },
    /// The term's number is the Lease's `leaseTransitions`.
    TermFromTransitions,
    /// A release does not wait for the writes that are on the wire.
    ReleaseBeforeDrain,
    /// A pulse that is silent counts as a death.
    EvidenceFromSilence,
}

/// By how much the clock of [`Mutant::WallClock`] is ahead when the name says nothing.
const AHEAD_MS: i64 = 20_000;

impl Mutant {
    /// All of them, each in its plain form.
    pub const ALL: [Self; 6] = [
        Self::ResponseAnchored,
        Self::NoResourceVersion,
        Self::WallClock { zero_ms: AHEAD_MS },
        Self::TermFromTransitions,
        Self::ReleaseBeforeDrain,
        Self::EvidenceFromSilence,
    ];

    /// Its name, as a flag takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::ResponseAnchored => "response-anchored",
            Self::NoResourceVersion => "no-resource-version",
            Self::WallClock { .. } => "wall-clock",
            Self::TermFromTransitions => "term-from-transitions",
            Self::ReleaseBeforeDrain => "release-before-drain",
            Self::EvidenceFromSilence => "evidence-from-silence",
        }
    }
}

/// There is no mutant of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no mutant is called {0:?}")]
pub struct NoSuchMutant(String);

impl FromStr for Mutant {
    type Err = NoSuchMutant;

    /// `wall-clock:<ms>` says how far the clock is ahead; the others are plain names.
    fn from_str(text: &str) -> Result<Self, NoSuchMutant> {
        let unknown = || NoSuchMutant(text.to_owned());
        if let Some(ahead) = text.strip_prefix("wall-clock:") {
            return Ok(Self::WallClock { zero_ms: ahead.parse().map_err(|_| unknown())? });
        }
        Self::ALL.into_iter().find(|mutant| mutant.name() == text).ok_or_else(unknown)
    }
}

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name() {
        for mutant in Mutant::ALL {
            assert_eq!(mutant.to_string().parse(), Ok(mutant));
        }
        assert_eq!("wall-clock:-5".parse(), Ok(Mutant::WallClock { zero_ms: -5 }));
        assert!("wall-clock:x".parse::<Mutant>().is_err());
        assert!("x".parse::<Mutant>().is_err());
    }
}
