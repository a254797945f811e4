//! Why a pass could not decide.

use std::fmt::Display;

/// Why a pass could not decide; what the author's function returns as its error.
///
/// The host keeps what exists as it is. Texts are for people; the host takes the first 1,024
/// bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// May pass by itself: it goes into the log and the pass is tried again with growing pauses.
    #[error("{0}")]
    Transient(String),
    /// Stays until the object or the plugin changes: it becomes a Warning Event on the primary.
    #[error("{0}")]
    Permanent(String),
}

impl Fault {
    /// A fault that may pass by itself, such as something that is not there yet.
    ///
    /// Waiting for an object is usually better said with a condition in the status: whatever a
    /// pass read is watched, so the host comes back by itself when it appears.
    #[must_use]
    pub fn transient(message: impl Display) -> Self {
        Self::Transient(message.to_string())
    }

    /// A fault that somebody has to mend, such as a spec that contradicts itself.
    #[must_use]
    pub fn permanent(message: impl Display) -> Self {
        Self::Permanent(message.to_string())
    }
}

/// JSON that does not parse or does not fit stays so until somebody changes it: permanent.
impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::permanent(error)
    }
}
