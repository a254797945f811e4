//! Urgency: all that is left of an event once it has become a Key.
//!
//! Whoever offers a key says how soon it is wanted, and nothing else: no pass can find out
//! what happened, so none can depend on it.

use serde::Serialize;

/// How soon a key wants to be looked at among those of its own plugin; the most urgent first.
/// Each of the lower ones gets a fixed share of its plugin's turns, so none waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// A standby found that it is not as it should be: first when that one leads. Only passes
    /// say so, and it holds for one pass.
    Takeover,
    /// The primary changed, or a time has come that was asked for: somebody waits for this.
    Change,
    /// A child changed, or something that a pass read: mostly the echo of our own writes.
    Related,
    /// Nothing is known to have changed: everything is looked at again from time to time.
    Resync,
    /// A kind has been listed for the first time, or a plugin is new: everything is looked at once.
    Startup,
}

impl Urgency {
    /// Every urgency, the most urgent first.
    pub const ALL: [Self; 5] = [Self::Takeover, Self::Change, Self::Related, Self::Resync, Self::Startup];
}
