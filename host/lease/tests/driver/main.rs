//! The driver on its thread against an API server in this process: real time, with
//! durations scaled down. Tests wait for events, never for a while.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod fake;
mod lease;
mod takeover;
