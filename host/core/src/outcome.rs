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

impl Outcome {
    /// Decides when the key comes back.
    pub fn next(&self) -> Next {
        match self {
            Outcome::Gone => Next::OnChange,
            Outcome::Converged { requeue_after: None, .. } => Next::OnChange,
            Outcome::Converged { requeue_after: Some(after), .. } => Next::After(*after),
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
            Outcome::Waiting => "requeue",
            Outcome::Failed(_) => "error",
        }
    }
}
