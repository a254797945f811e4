//! What is known of one key, and what the end of a pass does to it.

use std::time::Duration;

use tokio::time::Instant;
use windlass_core::urgency::Urgency;

use crate::trouble::{Growth, Trouble};

/// How long a key stays away whose pass lost its leadership although nobody has told
/// the queue. Only a safety net: the next term brings it at once.
const LEADING: Duration = Duration::from_millis(250);

/// What is known of one key.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) urgency: Urgency,
    /// Its failures since its last success, if there are any.
    pub(crate) trouble: Option<Box<Trouble>>,
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
        /// The earliest instant at which somebody wants it again, and how urgently.
        again: Option<(Instant, Urgency)>,
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
    /// A time that was asked for: until then nothing is to be done.
    Asked,
    /// Something that keeps it from being worked on, although it is wanted.
    Held,
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
            trouble: None,
            floor: None,
            offered,
        }
    }

    /// Whether it waits for somebody to take it, and for nothing else.
    pub(crate) fn is_at_rest(&self) -> bool {
        matches!(self.place, Place::Ready { .. } | Place::Parked { .. })
    }

    /// Its failures in a row.
    pub(crate) fn failures(&self) -> u32 {
        self.trouble.as_ref().map_or(0, |trouble| trouble.failures)
    }

    /// By what its pauses grow if its next pass fails.
    pub(crate) fn growth(&self) -> Growth {
        self.trouble.as_ref().map_or(Growth { honoured: 1, hurried: 0 }, |trouble| trouble.growth())
    }

    /// An event wants it back during the pause after its failure: `early`, if that is before
    /// the pause is over.
    pub(crate) fn event(&mut self, early: bool) {
        if let Some(trouble) = &mut self.trouble {
            trouble.event(early);
        }
    }

    /// Nothing that happened to it so far delays it any more.
    pub(crate) fn start_over(&mut self) {
        (self.trouble, self.floor) = (None, None);
    }

    /// Counts the failure, or forgets all of them. Answers after which pause it
    /// comes back by itself, and after which at the earliest for an event.
    pub(crate) fn settle(&mut self, ended: Ended, now: Instant) -> (Option<Duration>, Option<Duration>) {
        match ended {
            Ended::OnChange => {
                self.trouble = None;
                (None, None)
            }
            Ended::After(pause) => {
                self.trouble = None;
                (Some(pause), None)
            }
            Ended::Postponed(pause) => (Some(pause), None),
            Ended::Backoff { pause, floor } => {
                self.trouble.get_or_insert_with(|| Box::new(Trouble::new(now))).failed();
                (Some(pause), Some(floor.min(pause)))
            }
            Ended::WhenLeading(_) => (Some(LEADING), Some(LEADING)),
        }
    }

    /// How urgent it is when it comes back after a pass that ended like this, `by_event` or by
    /// itself; `again`: as which it was offered meanwhile.
    pub(crate) fn urgency_after(&self, ended: Ended, again: Option<Urgency>, by_event: bool) -> Urgency {
        let own = match ended {
            // What the pass was for is done.
            Ended::OnChange => return again.unwrap_or(self.urgency),
            Ended::After(_) if by_event => return again.unwrap_or(self.urgency),
            Ended::After(_) => Urgency::Change,
            Ended::Postponed(_) | Ended::Backoff { .. } | Ended::WhenLeading(_) => self.urgency,
        };
        again.map_or(own, |again| again.min(own))
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
