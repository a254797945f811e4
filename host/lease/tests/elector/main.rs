//! The elector's rules on pure values: one candidate, every answer given by hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod alone;
mod desk;
mod ending;
mod evidence;
mod failing;
mod leading;
mod standing_by;
