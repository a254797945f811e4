//! The one question that every error answers: who should try again, and how.

use serde::Serialize;

/// What kind of failure an error is. Retries match on it without a wildcard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// May pass by itself: timeouts, 429, 5xx, a cut connection. Back off and try again.
    Transient,
    /// Somebody else was faster (409): look again, then decide again.
    Conflict,
    /// Stays until an object, a plugin or a right changes. Back off far and say so.
    Permanent,
    /// The plugin is at fault: trap, deadline, nonsense. Back off and say so.
    Guest,
    /// This process must not go on writing: the claim is lost.
    Fatal,
}

impl Class {
    /// A label value for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Transient => "transient",
            Class::Conflict => "conflict",
            Class::Permanent => "permanent",
            Class::Guest => "guest",
            Class::Fatal => "fatal",
        }
    }
}
