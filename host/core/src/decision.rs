//! Decisions: what an untrusted guest wants. Nothing here has been checked.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a guest asked for. Only [`plan`](crate::plan::plan) turns it into something
/// that may be applied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Each child as JSON text, unchecked.
    pub children: Vec<String>,
    /// The wanted `.status` as JSON text, unchecked.
    pub status: Option<String>,
    /// Events to publish on the primary.
    pub notices: Vec<Notice>,
    /// When to look again at the latest.
    pub requeue_after: Option<Duration>,
}

/// The type of a Kubernetes Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// A Kubernetes Event to publish on an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notice {
    /// Type of the Event.
    pub severity: Severity,
    /// CamelCase reason, at most 128 bytes.
    pub reason: String,
    /// One sentence, at most 1,024 bytes.
    pub message: String,
}

/// What a call into a plugin answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// What should exist.
    Decision(Decision),
    /// The clean-up of a primary that is being deleted is complete.
    Finalized,
}

/// Why a plugin did not decide: its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Fault {
    /// May pass by itself.
    #[error("transient: {0}")]
    Transient(String),
    /// Stays until the object or the plugin changes.
    #[error("permanent: {0}")]
    Permanent(String),
}
