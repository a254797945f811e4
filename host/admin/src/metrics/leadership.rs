//! Metrics of leadership and of the fence.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::series::Series;
use super::{Durations, FloatGauge, OfName, counter, durations_in, gauge, one, reach, whole};

/// `reason`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfReason {
    reason: &'static str,
}

/// `cause`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCause {
    cause: &'static str,
}

/// `state`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

/// The leadership, read when it is scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeadershipNow {
    /// Whether this replica may write.
    pub leading: bool,
    /// The highest term seen.
    pub term: u64,
    /// Time since the last successful renewal was sent; while leading.
    pub renew_age: Option<Duration>,
}

/// Who leads, how it came to that, and what the API server's fence says to it.
#[derive(Debug)]
pub struct Leadership {
    leading: Series<OfName, Gauge>,
    term: Gauge,
    renew_age: FloatGauge,
    renew_seconds: Histogram,
    step_downs: Series<OfReason, Counter>,
    takeover_seconds: Durations<OfCause>,
    first_write_seconds: Histogram,
    fence: Series<OfState, Gauge>,
    fence_refusals: Counter,
    fence_unseen: Counter,
    fence_refused_at: FloatGauge,
}

impl Leadership {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            leading: gauge(r, "leader_election_master_status", "1 while this replica may write"),
            term: one(r, "windlass_term", "The highest term seen"),
            renew_age: one(
                r,
                "windlass_renew_age_seconds",
                "Time since the last renewal was sent, while leading",
            ),
            renew_seconds: histogram(r, "windlass_renew_seconds", "Time of a renewal that succeeded"),
            step_downs: counter(r, "windlass_step_downs", "Ends of this replica's leadership"),
            takeover_seconds: durations_in(
                r,
                "windlass_takeover_seconds",
                "Time from knowing that the Lease is free to being allowed to write",
                buckets,
            ),
            first_write_seconds: histogram(
                r,
                "windlass_takeover_first_write_seconds",
                "Time from being allowed to write to the first write that was accepted",
            ),
            fence: gauge(r, "windlass_fence", "1 for what is known of the fence in the API server"),
            fence_refusals: one(
                r,
                "windlass_fence_refusals",
                "Writes that the fence refused for good: another replica leads",
            ),
            fence_unseen: one(
                r,
                "windlass_fence_unseen",
                "Writes sent again because the fence had not seen the new claim yet",
            ),
            fence_refused_at: one(
                r,
                "windlass_fence_last_refusal_timestamp_seconds",
                "When the fence last refused a write, in Unix time; 0 for never",
            ),
        }
    }

    /// Sets what the leadership is now.
    pub fn set(&self, lease: &str, now: LeadershipNow) {
        self.leading.get_or_create(&OfName { name: lease.to_owned() }).set(now.leading.into());
        self.term.set(whole(now.term));
        self.renew_age.set(now.renew_age.unwrap_or_default().as_secs_f64());
    }

    /// Sets how often this replica has stopped leading for a reason.
    pub fn set_step_downs(&self, reason: &'static str, count: u64) {
        reach(&self.step_downs.get_or_create(&OfReason { reason }), count);
    }

    /// A renewal was accepted.
    pub fn renewed(&self, took: Duration) {
        self.renew_seconds.observe(took.as_secs_f64());
    }

    /// This replica may write, so long after it knew that it could take the Lease.
    pub fn took_over(&self, cause: &'static str, after: Duration) {
        self.takeover_seconds.get_or_create(&OfCause { cause }).observe(after.as_secs_f64());
    }

    /// The first write of a term was accepted, so long after the gate had opened.
    pub fn first_write(&self, after: Duration) {
        self.first_write_seconds.observe(after.as_secs_f64());
    }

    /// Sets what is known of the fence: `present`, `absent` or `unknown`.
    pub fn set_fence(&self, state: &'static str) {
        for other in ["present", "absent", "unknown"] {
            self.fence.get_or_create(&OfState { state: other }).set((other == state).into());
        }
    }

    /// The fence refused a write for good. `at` is Unix time in seconds.
    pub fn fenced(&self, at: f64) {
        self.fence_refusals.inc();
        self.fence_refused_at.set(at);
    }

    /// The fence had not seen the new claim yet.
    pub fn fence_unseen(&self) {
        self.fence_unseen.inc();
    }
}

fn histogram(r: &mut Registry, name: &str, help: &str) -> Histogram {
    let histogram = buckets();
    r.register(name, help, histogram.clone());
    histogram
}

/// From 1 ms, a round trip, to 33 s, a Lease that had to expire.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}
