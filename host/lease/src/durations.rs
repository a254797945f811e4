//! The three durations of leadership, refused together when they cannot work together.
//!
//! They are judged once, at the start, in the words of the flags: a leader that may
//! outlive its Lease is found here and not at three in the morning.

use std::time::Duration;

/// The longest lease that is allowed, and the longest that is believed of another
/// replica's Lease: what is above it was written by hand.
pub const LONGEST_LEASE: Duration = Duration::from_secs(600);

/// Clocks of two machines may differ in rate by one part in this many: far above what
/// time synchronisation ever does to a clock (1 in 2,000).
pub const CLOCK_RATE_MARGIN: u32 = 50;

/// How long a Lease counts, how long a leader acts on it, how often it renews.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Durations {
    lease: Duration,
    renew_deadline: Duration,
    retry_period: Duration,
}

/// Why three durations cannot work together. One sentence, in the words of the flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurationsError {
    /// The Lease object carries whole seconds, and at least one.
    #[error(
        "--lease-duration {0:?} must be a whole number of seconds, from 1s to 600s: the Lease carries it as one"
    )]
    Lease(Duration),
    /// A leader would outlive its Lease.
    #[error(
        "--renew-deadline {renew_deadline:?} must be shorter than --lease-duration {lease:?}: a leader has to stop \
         before another may start"
    )]
    RenewDeadline {
        /// As given.
        renew_deadline: Duration,
        /// As given.
        lease: Duration,
    },
    /// Shorter, but not by enough for clocks that do not run at one rate.
    #[error(
        "--renew-deadline {renew_deadline:?} is too close to --lease-duration {lease:?}: the clocks of two machines \
         may differ in rate by one part in {CLOCK_RATE_MARGIN}"
    )]
    Margin {
        /// As given.
        renew_deadline: Duration,
        /// As given.
        lease: Duration,
    },
    /// A leader could not renew twice, or not at all, before it has to stop.
    #[error(
        "--retry-period {retry_period:?} must be above zero and, with a fifth more, shorter than --renew-deadline \
         {renew_deadline:?}: a leader has to try again before it has to stop"
    )]
    RetryPeriod {
        /// As given.
        retry_period: Duration,
        /// As given.
        renew_deadline: Duration,
    },
}

impl Default for Durations {
    /// Lease 15 s, renew deadline 10 s, retry period 2 s.
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

impl Durations {
    /// Durations that can work together.
    ///
    /// # Errors
    /// [`DurationsError`]: a person must change a flag (exit code 2).
    pub fn try_new(
        lease: Duration,
        renew_deadline: Duration,
        retry_period: Duration,
    ) -> Result<Self, DurationsError> {
        if lease.is_zero() || lease.subsec_nanos() != 0 || lease > LONGEST_LEASE {
            return Err(DurationsError::Lease(lease));
        }
        if renew_deadline >= lease {
            return Err(DurationsError::RenewDeadline { renew_deadline, lease });
        }
        if renew_deadline + renew_deadline / CLOCK_RATE_MARGIN >= lease {
            return Err(DurationsError::Margin { renew_deadline, lease });
        }
        if retry_period.is_zero() || retry_period.saturating_mul(6) / 5 >= renew_deadline {
            return Err(DurationsError::RetryPeriod { retry_period, renew_deadline });
        }
        Ok(Self { lease, renew_deadline, retry_period })
    }

    /// How long others leave a Lease alone that nobody renews. Whole seconds.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// How long a leader acts, from the instant before its last successful renewal was sent.
    pub fn renew_deadline(&self) -> Duration {
        self.renew_deadline
    }

    /// The pause from one renewal to the next.
    pub fn retry_period(&self) -> Duration {
        self.retry_period
    }

    /// The longest that one request may take: half a renew deadline, so that a lost
    /// answer leaves time to ask again.
    pub fn request_timeout(&self) -> Duration {
        self.renew_deadline / 2
    }

    /// For how long a watch may be silent before the Lease is read: a leader that
    /// renews in time is heard well within it.
    pub fn silence(&self) -> Duration {
        self.retry_period + self.retry_period / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(lease_ms: u64, renew_deadline_ms: u64, retry_period_ms: u64) -> String {
        let ms = Duration::from_millis;
        match Durations::try_new(ms(lease_ms), ms(renew_deadline_ms), ms(retry_period_ms)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_defaults_and_scaled_durations_work() {
        let d = Durations::default();
        assert_eq!(Durations::try_new(d.lease, d.renew_deadline, d.retry_period), Ok(d));
        assert_eq!(told(3_000, 2_000, 400), "");
        assert_eq!(told(1_000, 700, 100), "");
    }

    #[test]
    fn what_cannot_work_is_refused_in_one_sentence() {
        assert_eq!(
            told(15_000, 20_000, 2_000),
            "--renew-deadline 20s must be shorter than --lease-duration 15s: a leader has to stop before another may start"
        );
        assert!(told(15_000, 15_000, 2_000).starts_with("--renew-deadline 15s must be shorter"));
        assert!(told(15_000, 14_900, 2_000).contains("differ in rate by one part in 50"));
        assert!(
            told(15_000, 10_000, 9_000)
                .starts_with("--retry-period 9s must be above zero and, with a fifth more")
        );
        assert!(told(15_000, 10_000, 0).starts_with("--retry-period 0ns must be above zero"));
        assert!(
            told(1_500, 1_000, 100).starts_with("--lease-duration 1.5s must be a whole number of seconds")
        );
        assert!(told(0, 0, 0).starts_with("--lease-duration 0ns must be"));
        assert!(told(601_000, 10_000, 2_000).starts_with("--lease-duration 601s must be"));
    }
}
