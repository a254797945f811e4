//! Outcomes: what a pass came to, and so when its key comes back.

use std::time::Duration;

use crate::class::Class;
use crate::code::Code;

/// What happened to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The primary does not exist, or its deletion is somebody else's to finish.
    Gone,
    /// Nothing had to be written, or all that had to be was.
    Converged {
        /// Requests sent: 0 when everything was as wanted.
        writes: usize,
        /// When the plugin wants to look again at the latest.
        requeue_after: Option<Duration>,
    },
    /// Part of the plan was written, then another writer was faster: what is left is
    /// decided anew.
    Overtaken {
        /// Requests that were accepted; at least one.
        writes: usize,
    },
    /// A standby found that it is not as it should be: a leader is to decide it anew, and
    /// to write.
    Planned {
        /// Requests that a leader would send now; 0 when there is only something to say.
        steps: usize,
    },
    /// The cache has not seen our own last writes yet: look again when it has.
    Waiting,
    /// The pass failed.
    Failed(Failure),
}

/// Why a pass failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Who should try again.
    pub class: Class,
    /// The code of a plugin's mistake, if it was one.
    pub code: Option<Code>,
    /// One sentence for people.
    pub message: String,
}

/// When a key comes back without any event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Only when something changes; its failures are forgotten.
    OnChange,
    /// After this long; its failures are forgotten.
    After(Duration),
    /// After a pause that grows with its failures.
    Backoff,
    /// After milliseconds: another writer was faster, which is nobody's failure. The
    /// pauses grow to a second while that goes on.
    Soon,
    /// When this replica leads again.
    WhenLeading,
}

/// How long to wait for the cache to show our own write before looking anyway.
pub const WAITING: Duration = Duration::from_secs(1);

/// How soon an overtaken key comes back if no event brings it: the other writer's
/// change is an event as a rule.
pub const OVERTAKEN: Duration = Duration::from_millis(10);

/// How soon a key that was written for is looked at again if none of its own writes brings it back. As a rule each is an
/// event. But a child that was made, and deleted by somebody before a late watch heard of it, may never have been in the
/// cache: when the watch lists again nothing has changed there, and the child is missing.
pub const WROTE: Duration = Duration::from_secs(10);

impl Outcome {
    /// Decides when the key comes back.
    pub fn next(&self) -> Next {
        match self {
            Outcome::Gone => Next::OnChange,
            Outcome::Converged { writes: 0, requeue_after: None } => Next::OnChange,
            Outcome::Converged { writes: 0, requeue_after: Some(after) } => Next::After(*after),
            Outcome::Converged { requeue_after, .. } => {
                Next::After(requeue_after.map_or(WROTE, |after| after.min(WROTE)))
            }
            Outcome::Overtaken { .. } => Next::After(OVERTAKEN),
            Outcome::Planned { .. } => Next::WhenLeading,
            Outcome::Waiting => Next::After(WAITING),
            Outcome::Failed(failure) => match failure.class {
                Class::Transient | Class::Permanent | Class::Guest => Next::Backoff,
                Class::Conflict => Next::Soon,
                Class::Fatal => Next::WhenLeading,
            },
        }
    }

    /// A label value for metrics, as controller-runtime counts results.
    pub fn result(&self) -> &'static str {
        match self {
            Outcome::Gone | Outcome::Converged { requeue_after: None, .. } => "success",
            Outcome::Converged { .. } => "requeue_after",
            Outcome::Overtaken { .. } | Outcome::Waiting => "requeue",
            Outcome::Planned { .. } => "planned",
            Outcome::Failed(_) => "error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_outcome_says_when_its_key_comes_back() {
        let failed = |class| Outcome::Failed(Failure { class, code: None, message: String::new() });
        let hour = Duration::from_secs(3600);
        for (outcome, next) in [
            (Outcome::Gone, Next::OnChange),
            (Outcome::Converged { writes: 0, requeue_after: None }, Next::OnChange),
            (Outcome::Converged { writes: 0, requeue_after: Some(hour) }, Next::After(hour)),
            (Outcome::Converged { writes: 3, requeue_after: None }, Next::After(WROTE)),
            (Outcome::Converged { writes: 3, requeue_after: Some(hour) }, Next::After(WROTE)),
            (Outcome::Converged { writes: 3, requeue_after: Some(SECOND) }, Next::After(SECOND)),
            (Outcome::Overtaken { writes: 1 }, Next::After(OVERTAKEN)),
            (Outcome::Planned { steps: 2 }, Next::WhenLeading),
            (Outcome::Waiting, Next::After(WAITING)),
            (failed(Class::Conflict), Next::Soon),
            (failed(Class::Transient), Next::Backoff),
            (failed(Class::Permanent), Next::Backoff),
            (failed(Class::Guest), Next::Backoff),
            (failed(Class::Fatal), Next::WhenLeading),
        ] {
            assert_eq!(outcome.next(), next, "{outcome:?}");
        }
    }
}
