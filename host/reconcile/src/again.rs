//! What is made again for a primary that something was written for before.
//!
//! A child that is missing has been deleted by somebody, as a rule, and is made again. But if the primary itself is gone,
//! or has been made anew under its name, and its watch has not shown that yet, then the garbage collector ends
//! each child as fast as it is made. So before anything is made again the API server is asked once for the primary.

use std::time::Duration;

use tracing::debug;
use windlass_core::claim::BootClock;
use windlass_core::outcome::Outcome;
use windlass_core::plan::{Plan, Step};
use windlass_core::ports::{Apply, Cache, Decide};

use crate::pass::{Attempt, Seen, unapplied};
use crate::run::{Reconciler, primary_of};

/// How long a key waits whose primary the cache shows as it is not any more. The event that it lacks ends the wait.
const STALE: Duration = Duration::from_secs(2);

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Before `plan` makes anything for a key that was written for before: whether the primary lives as it was seen.
    pub(crate) async fn lives(&self, pass: &mut Attempt, seen: &Seen, plan: &Plan) -> Result<(), Outcome> {
        let makes = plan.steps().iter().any(|step| matches!(step, Step::Create { .. }));
        if !makes || !self.traces().has_written(&pass.key) {
            return Ok(());
        }
        let object = primary_of(&pass.key, &seen.kind.gvk);
        let live =
            self.ports.apply.read(&seen.kind, &object).await.map_err(|error| unapplied(pass, error))?;
        if live.is_some_and(|live| live.meta().uid == seen.primary.meta().uid) {
            return Ok(());
        }
        debug!("waiting: the primary is not there any more as the cache shows it");
        pass.wait = Some(STALE);
        Err(Outcome::Waiting)
    }
}
