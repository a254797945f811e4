//! What a plugin has cost so far, for metrics and the debug view.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// Counters of one plugin; they go on when a new version replaces the old one.
#[derive(Debug, Default)]
pub struct Counts {
    calls: AtomicU64,
    faults: AtomicU64,
    refusals: AtomicU64,
    total_ns: AtomicU64,
    last_ns: AtomicU64,
}

/// How a call ended, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Decided,
    Fault,
    Refused,
}

impl Counts {
    pub(crate) fn add(&self, ended: Ended, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        self.last_ns.store(ns, Ordering::Relaxed);
        match ended {
            Ended::Decided => {}
            Ended::Fault => drop(self.faults.fetch_add(1, Ordering::Relaxed)),
            Ended::Refused => drop(self.refusals.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// The counters now. Each is exact; together they may be one call apart.
    pub fn read(&self) -> CountsNow {
        let seconds = |ns: &AtomicU64| Duration::from_nanos(ns.load(Ordering::Relaxed)).as_secs_f64();
        CountsNow {
            calls: self.calls.load(Ordering::Relaxed),
            faults: self.faults.load(Ordering::Relaxed),
            traps: self.refusals.load(Ordering::Relaxed),
            decision_seconds_total: seconds(&self.total_ns),
            decision_seconds_last: seconds(&self.last_ns),
        }
    }
}

/// [`Counts`] at one moment. All count from the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CountsNow {
    /// Calls into the plugin that have ended.
    pub calls: u64,
    /// Of these, answered by the plugin with a fault of its own.
    pub faults: u64,
    /// Of these, ended by the host: trap, deadline, memory, bad value.
    pub traps: u64,
    /// Wall time of all calls, in seconds.
    pub decision_seconds_total: f64,
    /// Wall time of the last call that ended, in seconds.
    pub decision_seconds_last: f64,
}
