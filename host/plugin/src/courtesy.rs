//! Courtesy: what a process does with calls that take long, so that short ones do not wait behind them.

use std::time::{Duration, Instant};

/// What is done once a call has used so much CPU time. How is the business of whoever owns the thread.
#[derive(Clone, Copy, Debug)]
pub struct Courtesy {
    /// CPU time after which a call counts as long: looked at when the epoch moves, so within two milliseconds.
    pub after: Duration,
    /// Called once a call, on its thread, with the instant at which its wall time is over and the CPU
    /// time that it has used. It must be quick: the guest waits.
    pub step_back: fn(Instant, Duration),
}

impl Courtesy {
    /// Eight milliseconds: twenty times what a usual decision takes, and little enough that others hardly feel it.
    pub const AFTER: Duration = Duration::from_millis(8);
}
