//! What the newest copy of the Lease means for this replica: who may still act on it,
//! and from when on it may be taken.
//!
//! The question is never what a timestamp says, but how long ago, on the local clock,
//! the Lease was seen to change.

use std::time::Duration;

use windlass_core::claim::BootTime;

use crate::record::Copy;

/// The newest copy and the local instant at which it was first seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Seen {
    pub(crate) copy: Copy,
    pub(crate) since: BootTime,
    pub(crate) occupant: Occupant,
    /// How long after `since` an occupied Lease is left alone.
    pub(crate) wait: Duration,
    /// How much longer, and how long a free one is.
    pub(crate) jitter: Duration,
}

/// Who may still act on the Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Occupant {
    /// Nobody: released, or never held.
    Nobody,
    /// Only this process; its name stands in the Lease.
    Me,
    /// Only this process, until its claim would have ended; then anybody who waited.
    MeUntil(BootTime),
    /// Another process, which has ended: there is evidence.
    Dead,
    /// Another process, perhaps one that nobody knows.
    Other,
}

impl Seen {
    /// From when on this replica may take the Lease, judged at `now`.
    pub(crate) fn free_at(&self, now: BootTime) -> BootTime {
        match self.occupant {
            Occupant::Nobody => self.since.plus(self.jitter),
            Occupant::Me | Occupant::Dead => self.since,
            Occupant::MeUntil(ends) if now < ends => self.since,
            Occupant::MeUntil(_) | Occupant::Other => self.since.plus(self.wait + self.jitter),
        }
    }
}

/// Who may act on `copy`, for the process `identity`. `before` is the copy before it,
/// if there was one; `leads_until` the end of the claim that this process holds, if any.
pub(crate) fn occupant(
    copy: &Copy,
    before: Option<&Seen>,
    identity: &str,
    leads_until: Option<BootTime>,
) -> Occupant {
    match copy {
        Copy::Present(lease) => match lease.holder() {
            Some(holder) if holder == identity => Occupant::Me,
            Some(_) => Occupant::Other,
            None if lease.is_released() || lease.is_untouched() => Occupant::Nobody,
            None => leads_until.map_or(Occupant::Other, Occupant::MeUntil),
        },
        // Found at the start: nothing was ever installed here. Found later: deleted,
        // and whoever held it may not know yet.
        Copy::Absent { .. } if before.is_none() => Occupant::Nobody,
        Copy::Absent { .. } => leads_until.map_or(Occupant::Other, Occupant::MeUntil),
    }
}
