//! Claims: the proof of leadership that every write demands.
//!
//! One [`Gate`] is shared by the lease, which opens and closes it, and by the
//! write path, which must hold a [`Permit`] while a request is on the wire. So the
//! last write of a term is known to have ended before the lease is released.
//! Time is a value here ([`BootTime`], CLOCK_BOOTTIME): reading it is the caller's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

/// An instant on CLOCK_BOOTTIME: nanoseconds since boot, suspend included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This instant and `by` more.
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not.
    pub fn since(self, earlier: BootTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Reads CLOCK_BOOTTIME. A port, so that tests own time.
pub trait BootClock: Send + Sync + 'static {
    /// The present instant.
    fn now(&self) -> BootTime;
}

/// The number of a leadership. New at each acquisition, and only ever rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Term(pub u64);

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who leads, in which term, until when. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Identity of the holder.
    pub holder: Arc<str>,
    /// Its term.
    pub term: Term,
    /// The instant at which it must have stopped: the last successful renewal was
    /// *sent* a renew deadline before this.
    pub ends: BootTime,
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.holder, self.term)
    }
}

/// Why a write may not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLeading {
    /// This replica does not hold the lease.
    #[error("this replica does not lead")]
    NoClaim,
    /// The pass began in another term.
    #[error("the term has changed since the pass began")]
    OtherTerm,
    /// Too little of the claim is left to send a request within it.
    #[error("the claim is about to end")]
    Ending,
}

/// Where the claim is kept. Cheap to share through an [`Arc`].
#[derive(Debug, Default)]
pub struct Gate {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    claim: Option<Claim>,
    /// When the gate opened for the present term.
    opened: Option<BootTime>,
    /// Deadlines of the requests on the wire, by the number of their permit.
    in_flight: BTreeMap<u64, BootTime>,
    permits: u64,
    /// See [`Gate::ignore_ends`].
    #[cfg(feature = "mutants")]
    ignores_ends: bool,
}

/// The right to have one request on the wire, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    gate: Arc<Gate>,
    number: u64,
    /// How long the request may take: its timeout, on the wire and at the client.
    pub timeout: Duration,
    /// How long the gate has been open in this term.
    pub age: Duration,
}

impl Gate {
    /// A gate that is closed.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Opens the gate, or moves its end, after a successful write of the Lease. `now` is
    /// when, for the age of the term.
    pub fn open(&self, claim: Claim, now: BootTime) {
        let mut state = self.lock();
        let goes_on = state.claim.as_ref().is_some_and(|open| open.term == claim.term);
        if !goes_on {
            state.opened = Some(now);
        }
        state.claim = Some(claim);
    }

    /// Closes the gate: from now on no write begins.
    pub fn close(&self) {
        let mut state = self.lock();
        #[cfg(feature = "mutants")]
        if state.ignores_ends {
            return;
        }
        (state.claim, state.opened) = (None, None);
    }

    /// Breaks the gate on purpose: from now on it stays open once it was opened, whatever
    /// the clock and the lease say. For tests that must find that out.
    #[cfg(feature = "mutants")]
    pub fn ignore_ends(&self) {
        self.lock().ignores_ends = true;
    }

    /// The claim, if this replica holds one that has not ended at `now`.
    pub fn claim(&self, now: BootTime) -> Option<Claim> {
        let state = self.lock();
        #[cfg(feature = "mutants")]
        if state.ignores_ends {
            return state.claim.clone();
        }
        state.claim.clone().filter(|claim| now < claim.ends)
    }

    /// Writes that are on the wire now.
    pub fn in_flight(&self) -> usize {
        self.lock().in_flight.len()
    }

    /// By how much the oldest write on the wire is past its deadline; nothing while all
    /// are within theirs. A write that is long overdue is work that does not stop.
    pub fn overdue(&self, now: BootTime) -> Option<Duration> {
        let oldest = self.lock().in_flight.values().min().copied()?;
        (now > oldest).then(|| now.since(oldest))
    }

    /// By how much the claim has outlived its end without anybody closing the gate. No
    /// write gets through it then, but whoever should have closed it does not run.
    pub fn left_open(&self, now: BootTime) -> Option<Duration> {
        let ends = self.lock().claim.as_ref()?.ends;
        (now > ends).then(|| now.since(ends))
    }

    /// Allows one request of at most `wanted` under `claim`, at `now`. Its
    /// timeout ends inside the claim; a request needs at least `least`.
    ///
    /// # Errors
    /// [`NotLeading`]: the pass ends, its key comes back when this replica leads.
    pub fn permit(
        self: &Arc<Self>,
        claim: &Claim,
        now: BootTime,
        wanted: Duration,
        least: Duration,
    ) -> Result<Permit, NotLeading> {
        let mut state = self.lock();
        let current = state.claim.as_ref().ok_or(NotLeading::NoClaim)?;
        if current.term != claim.term || current.holder != claim.holder {
            return Err(NotLeading::OtherTerm);
        }
        let left = current.ends.since(now);
        #[cfg(feature = "mutants")]
        let left = if state.ignores_ends { wanted.max(least) } else { left };
        if left < least {
            return Err(NotLeading::Ending);
        }
        let timeout = wanted.min(left);
        let age = state.opened.map_or(Duration::ZERO, |opened| now.since(opened));
        state.permits += 1;
        let number = state.permits;
        state.in_flight.insert(number, now.plus(timeout));
        Ok(Permit { gate: self.clone(), number, timeout, age })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock; a poisoned one is still consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.lock().in_flight.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn claim(term: u64, ends: u64) -> Claim {
        Claim {
            holder: "a".into(),
            term: Term(term),
            ends: BootTime(0).plus(SECOND * u32::try_from(ends).expect("small")),
        }
    }

    fn at(seconds: u64) -> BootTime {
        BootTime(seconds * 1_000_000_000)
    }

    #[test]
    fn a_closed_gate_lets_nothing_through() {
        let gate = Gate::new();
        assert_eq!(gate.permit(&claim(1, 10), at(0), SECOND, SECOND).unwrap_err(), NotLeading::NoClaim);
        gate.open(claim(1, 10), at(0));
        gate.close();
        assert_eq!(gate.permit(&claim(1, 10), at(0), SECOND, SECOND).unwrap_err(), NotLeading::NoClaim);
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_timeout_ends_inside_the_claim() {
        let gate = Gate::new();
        gate.open(claim(1, 10), at(0));
        let permit = gate.permit(&claim(1, 10), at(7), SECOND * 5, SECOND).expect("three seconds are left");
        assert_eq!(permit.timeout, SECOND * 3);
        assert_eq!(gate.permit(&claim(1, 10), at(10), SECOND, SECOND).unwrap_err(), NotLeading::Ending);
        assert_eq!(gate.in_flight(), 1);
        drop(permit);
        assert_eq!(gate.in_flight(), 0);
    }

    #[test]
    fn a_pass_of_an_older_term_may_not_write_in_a_newer_one() {
        let gate = Gate::new();
        gate.open(claim(2, 10), at(0));
        assert_eq!(gate.permit(&claim(1, 10), at(0), SECOND, SECOND).unwrap_err(), NotLeading::OtherTerm);
    }

    #[test]
    fn a_renewed_claim_carries_older_passes_on() {
        let gate = Gate::new();
        gate.open(claim(1, 10), at(0));
        gate.open(claim(1, 20), at(0));
        assert!(gate.permit(&claim(1, 10), at(15), SECOND, SECOND).is_ok());
        assert_eq!(gate.claim(at(20)), None);
    }

    #[test]
    fn a_term_ages_from_its_first_opening() {
        let gate = Gate::new();
        gate.open(claim(1, 10), at(0));
        gate.open(claim(1, 20), at(5));
        let age = |term, now| gate.permit(&claim(term, 0), at(now), SECOND, SECOND).expect("open").age;
        assert_eq!(age(1, 6), SECOND * 6);
        gate.open(claim(2, 20), at(7));
        assert_eq!(age(2, 8), SECOND);
    }

    #[test]
    fn a_write_that_outlives_its_deadline_is_overdue() {
        let gate = Gate::new();
        gate.open(claim(1, 10), at(0));
        let slow = gate.permit(&claim(1, 10), at(1), SECOND * 2, SECOND).expect("open");
        let quick = gate.permit(&claim(1, 10), at(1), SECOND, SECOND).expect("open");
        assert_eq!(gate.overdue(at(2)), None);
        gate.close();
        assert_eq!(gate.overdue(at(4)), Some(SECOND * 2));
        drop(quick);
        assert_eq!(gate.overdue(at(4)), Some(SECOND));
        drop(slow);
        assert_eq!(gate.overdue(at(9)), None);
    }

    #[test]
    fn a_gate_that_nobody_closed_tells() {
        let gate = Gate::new();
        gate.open(claim(1, 10), at(0));
        assert_eq!(gate.left_open(at(10)), None);
        assert_eq!(gate.left_open(at(12)), Some(SECOND * 2));
        gate.close();
        assert_eq!(gate.left_open(at(12)), None);
    }
}
