//! Evidence that another process has ended: what it is about, and when it is believed.
//!
//! Evidence names one process and no other. The Lease copy that names the same process may
//! come later than the evidence, so the latest is remembered. It can be false: a box in the network
//! that cuts a connection and refuses the next one looks like a death. Two gates are never open for
//! that reason longer than a write needs to be refused by the fence; but a leader that is pushed
//! aside again and again is no leader. So whoever was declared dead, was succeeded, and holds the Lease again
//! makes this replica deaf to evidence: for a lease duration, then for twice as long, and so on.

use std::sync::Arc;

use windlass_core::claim::BootTime;

use super::Elector;
use crate::durations::LONGEST_LEASE;
use crate::record::Copy;
use crate::seen::Occupant;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Evidence {
    /// Who was last found to have ended.
    dead: Option<Dead>,
    /// How often that turned out to be wrong.
    falsehoods: u32,
    /// Before this instant nothing is believed.
    deaf_until: BootTime,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Dead {
    identity: Arc<str>,
    /// Another one was seen to hold the Lease afterwards.
    succeeded: bool,
}

impl Default for Evidence {
    fn default() -> Self {
        Self { dead: None, falsehoods: 0, deaf_until: BootTime(0) }
    }
}

impl Evidence {
    /// Whether the holder of `copy`, the newest one, has ended.
    pub(super) fn judge(&mut self, now: BootTime, copy: &Copy, lease: std::time::Duration) -> bool {
        let holder = copy.lease().and_then(|lease| lease.holder());
        let (Some(dead), Some(holder)) = (&mut self.dead, holder) else {
            return false;
        };
        if *holder != *dead.identity {
            dead.succeeded = true;
            return false;
        }
        if !dead.succeeded {
            return true;
        }
        // It has come back, and a process never does.
        self.dead = None;
        let pause = lease.saturating_mul(1_u32.checked_shl(self.falsehoods).unwrap_or(u32::MAX));
        self.falsehoods = (self.falsehoods + 1).min(31);
        self.deaf_until = now.plus(pause.min(LONGEST_LEASE));
        false
    }
}

impl Elector {
    /// There is evidence that the process `identity` has ended.
    pub(super) fn died(&mut self, now: BootTime, identity: Arc<str>) {
        if identity == self.settings.identity || now < self.evidence.deaf_until {
            return;
        }
        self.evidence.deaf_until = BootTime(0);
        if let Some(seen) = &mut self.seen
            && seen.occupant == Occupant::Other
            && seen.copy.lease().is_some_and(|lease| lease.holder() == Some(&*identity))
        {
            (seen.occupant, seen.since) = (Occupant::Dead, now);
        }
        self.evidence.dead = Some(Dead { identity, succeeded: false });
    }
}
