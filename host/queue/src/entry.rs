//! What is known of one key, and what the end of a pass does to it.

use std::time::Duration;

use tokio::time::Instant;

use crate::lanes::Urgency;

/// How long a key stays away whose pass lost its leadership although nobody has told
/// the queue. Only a safety net: the next term brings it at once.
const LEADING: Duration = Duration::from_millis(250);

/// What is known of one key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) urgency: Urgency,
    /// Failures in a row.
    pub(crate) failures: u32,
    /// Of these, the last so many each followed an event.
    pub(crate) hurried: u32,
    /// Whether an event brought it forward since it failed last.
    pub(crate) forward: bool,
    /// No event brings it back before this.
    pub(crate) floor: Option<Instant>,
    /// `State::order` at the last offer.
    pub(crate) offered: u64,
}

/// Where a key is. It is in one place only, so it cannot run twice at once.
#[derive(Debug)]
pub(crate) enum Place {
    /// In its plugin's lane at `order`.
    Ready { since: Instant, order: u64 },
    /// In `State::due`.
    Delayed { due: Instant, why: Why },
    /// At rest until this replica leads, or something changes.
    Parked { since: Instant },
    /// With somebody who holds a `Running`.
    Running {
        since: Instant,
        /// The earliest instant at which somebody wants it again.
        again: Option<Instant>,
        /// Whether its plugin was forgotten meanwhile.
        forgotten: bool,
        /// `State::era` when it was handed out.
        era: u64,
    },
}

/// What a delayed key waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The end of its backoff.
    Failed,
    /// A time that was asked for.
    Asked,
    /// This replica to lead, which ends the wait at once, or else a moment in which
    /// more may change.
    Standby,
}

/// How a pass ended, with every pause already computed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended {
    OnChange,
    After(Duration),
    /// As `After`, with the failures kept.
    Postponed(Duration),
    /// Failed: back after `pause`; for an event after `floor`.
    Backoff {
        pause: Duration,
        floor: Duration,
    },
    /// Only a leader can go on; it is then as urgent as this.
    WhenLeading(Urgency),
}

impl Entry {
    pub(crate) fn new(offered: u64, urgency: Urgency, now: Instant) -> Self {
        Self {
            place: Place::Delayed { due: now, why: Why::Asked },
            urgency,
            failures: 0,
            hurried: 0,
            forward: false,
            floor: None,
            offered,
        }
    }

    /// Whether it waits for somebody to take it, and for nothing else.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.place, Place::Ready { .. } | Place::Parked { .. })
    }

    /// Nothing that happened to it so far delays it any more.
    pub(crate) fn start_over(&mut self) {
        (self.failures, self.hurried, self.forward, self.floor) = (0, 0, false, None);
    }

    /// Counts the failure, or forgets all of them. Answers after which pause it
    /// comes back by itself, and after which at the earliest for an event.
    pub(crate) fn settle(&mut self, ended: Ended) -> (Option<Duration>, Option<Duration>) {
        let forward = std::mem::take(&mut self.forward);
        match ended {
            Ended::OnChange | Ended::After(_) => {
                (self.failures, self.hurried) = (0, 0);
                match ended {
                    Ended::After(pause) => (Some(pause), None),
                    _ => (None, None),
                }
            }
            Ended::Postponed(pause) => {
                self.forward = forward;
                (Some(pause), None)
            }
            Ended::Backoff { pause, floor } => {
                self.failures = self.failures.saturating_add(1);
                self.hurried = if forward { self.hurried + 1 } else { 0 };
                (Some(pause), Some(floor.min(pause)))
            }
            Ended::WhenLeading(_) => (Some(LEADING), Some(LEADING)),
        }
    }
}

#[cfg(test)]
mod tests {
    use windlass_core::key::Key;

    use super::*;

    #[test]
    fn a_key_and_what_is_known_of_it_fit_into_144_bytes() {
        // Besides that, one that is ready takes 64 bytes in its lane, one that is delayed
        // as much in `State::due`, and both maps are less than full.
        assert!(size_of::<(Key, Entry)>() <= 144, "{} bytes", size_of::<(Key, Entry)>());
        assert!(size_of::<((Urgency, u64), Key)>() <= 64);
    }
}
