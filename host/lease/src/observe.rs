//! What a host may count of its leadership.

use std::time::Duration;

use crate::step::{Cause, StepDown};

/// Told by the lease's thread as things happen; must not block. Each does nothing unless
/// it is wanted.
pub trait Observe: Send + Sync + 'static {
    /// A renewal was accepted, `took` after it was sent.
    fn renewed(&self, took: Duration) {
        let _ = took;
    }

    /// The gate opened in a new term. `waited`: since this replica could have known that the
    /// Lease was free, because of `cause`: the release seen, the death found, the lease
    /// time over, its own term ended.
    fn acquired(&self, cause: Cause, waited: Duration) {
        let _ = (cause, waited);
    }

    /// This replica stopped leading, or gave up a Lease that it could not use.
    fn stepped_down(&self, reason: &StepDown) {
        let _ = reason;
    }
}
