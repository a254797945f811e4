//! Growing pauses between attempts: pure, so that the caller owns time and chance.

use std::time::Duration;

/// A pause that doubles from `first` to `most`, spread by up to half of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

/// Why two durations do not make a backoff.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("backoff from {first:?} to {most:?}: the first pause must be above zero and not above the longest")]
pub struct BackoffError {
    /// The first pause.
    pub first: Duration,
    /// The longest pause.
    pub most: Duration,
}

impl Backoff {
    /// A backoff that starts at `first` and never exceeds `most`.
    ///
    /// # Errors
    /// [`BackoffError`] when `first` is zero or above `most`.
    pub const fn try_new(first: Duration, most: Duration) -> Result<Self, BackoffError> {
        if first.is_zero() || first.as_nanos() > most.as_nanos() {
            return Err(BackoffError { first, most });
        }
        Ok(Self { first, most })
    }

    /// The pause before attempt number `failures + 1`, after `failures` failures in
    /// a row (at least 1). `chance` in `0.0..1.0` spreads it over the upper half of
    /// the interval, so that many that failed together do not return together.
    pub fn pause(&self, failures: u32, chance: f64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let full = self.first.saturating_mul(1 << doublings).min(self.most);
        full.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let b = Backoff::try_new(Duration::from_millis(100), Duration::from_secs(10)).expect("valid");
        let full: Vec<_> = (1..10).map(|n| b.pause(n, 1.0).as_millis()).collect();
        assert_eq!(full, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(b.pause(1, 0.0).as_millis(), 50);
        assert_eq!(b.pause(u32::MAX, 1.0), Duration::from_secs(10));
    }

    #[test]
    fn zero_is_not_a_backoff() {
        assert!(Backoff::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
