//! Leading and standing by: what a change from one to the other does to the keys.
//!
//! A pass may end in another era than the one it began in. What it found then is not
//! rested on: a standby's finding is acted upon at once by a leader, and a leader's
//! unfinished work is looked at once more by a standby.

use std::time::Duration;

use tokio::time::Instant;
use windlass_core::key::Key;

use super::State;
use crate::entry::{Ended, Entry, Place, Why};

/// How long a standby lets changes gather. A leader's writes for one key follow each
/// other within milliseconds, and only the last of them says whether all is well.
const GATHER: Duration = Duration::from_millis(100);

impl State {
    pub(crate) fn is_standing_by(&self) -> bool {
        self.standing_by
    }

    /// A term of this replica begins.
    pub(crate) fn lead(&mut self, now: Instant) {
        self.standing_by = false;
        self.era += 1;
        let mut wanted = Vec::new();
        for (key, entry) in &mut self.entries {
            wanted.extend(entry.waits_for_a_term().map(|since| (since, key.clone())));
            entry.start_over();
        }
        // What has waited longest first.
        wanted.sort_unstable();
        self.parked = 0;
        for (_, key) in wanted {
            if let Some(Place::Delayed { due, .. }) = self.entries.get(&key).map(|entry| &entry.place) {
                self.due.remove(&(*due, key.clone()));
            }
            self.put(&key, now, Why::Asked, now);
        }
    }

    /// No term of this replica holds any more.
    pub(crate) fn stand_by(&mut self) {
        self.era += u64::from(!self.standing_by);
        self.standing_by = true;
    }

    /// What is wanted at `at` comes when, and what it waits for until then.
    pub(super) fn gathered(&self, at: Instant, now: Instant) -> (Instant, Why) {
        let least = self.least(now);
        if at < least { (least, Why::Standby) } else { (at, Why::Asked) }
    }

    /// The earliest instant at which a key may come back.
    pub(super) fn least(&self, now: Instant) -> Instant {
        if self.standing_by { now + GATHER } else { now }
    }

    /// What the end of a pass that began in `era` means now. `None` when its key has
    /// been parked: it needs a leader, which this replica is not.
    pub(super) fn in_this_era(&mut self, key: &Key, ended: Ended, era: u64, now: Instant) -> Option<Ended> {
        let entry = self.entries.get_mut(key)?;
        let Place::Running { again, .. } = entry.place else {
            return None;
        };
        if let Ended::WhenLeading(urgency) = ended {
            entry.urgency = urgency;
        }
        match (ended, self.standing_by, era == self.era) {
            (Ended::WhenLeading(_), true, same) => {
                if same && again.is_none() {
                    entry.start_over();
                    entry.place = Place::Parked { since: now };
                    self.parked += 1;
                    return None;
                }
                Some(Ended::Postponed(GATHER))
            }
            (Ended::WhenLeading(_) | Ended::Backoff { .. }, false, false) => {
                entry.start_over();
                Some(Ended::Postponed(Duration::ZERO))
            }
            _ => Some(ended),
        }
    }
}

impl Entry {
    /// Since when it has waited for nothing but a term, if it does.
    fn waits_for_a_term(&self) -> Option<Instant> {
        match self.place {
            Place::Parked { since } => Some(since),
            Place::Delayed { due, why } => {
                (matches!(why, Why::Failed | Why::Standby) || self.failures() > 0).then_some(due)
            }
            Place::Ready { .. } | Place::Running { .. } => None,
        }
    }
}
