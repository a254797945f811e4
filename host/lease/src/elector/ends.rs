//! How a term ends: what closes the gate, what has to happen before the Lease is given
//! up, and how long it is left alone afterwards.

use std::time::Duration;

use windlass_core::claim::{BootTime, Term};

use super::{Elector, Preparation, State};
use crate::mutant::Mutant;
use crate::seen::Occupant;
use crate::step::{Order, StepDown};

/// After a term that the API server did not accept the Lease is left alone for this
/// long; twice as long after each further one.
const FIRST_REST: Duration = Duration::from_millis(10);

/// After so many acquisitions in a row without an answer others get their turn.
const UNANSWERED: u32 = 2;

/// Why the Lease is not taken although it is free: terms that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rest {
    /// How many there were, since one that lasted.
    failures: u32,
    /// Acquisitions in a row of which no answer came in time; not counted beyond
    /// [`UNANSWERED`].
    unanswered: u32,
    pub(super) until: BootTime,
}

/// What is known of this replica's own renewals, to tell them from another's in its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Own {
    /// The `renewTime` of the last one that was accepted.
    pub(super) renewed: Option<String>,
    /// One since then may have been carried out without our knowing.
    pub(super) unsure: bool,
}

impl Default for Rest {
    fn default() -> Self {
        Self { failures: 0, unanswered: 0, until: BootTime(0) }
    }
}

impl Rest {
    /// One more failure: `first`, twice that, and so on up to `most`.
    fn grow(&mut self, now: BootTime, first: Duration, most: Duration) {
        let pause = first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(most);
        self.failures = (self.failures + 1).min(31);
        self.until = now.plus(pause);
    }
}

impl Elector {
    /// An acquisition may have been carried out, and was not answered in time. Where that is
    /// so for as long as a fault lasts (requests arrive, answers come late) this replica can
    /// never lead, and each attempt keeps the others away, because they see the Lease change. So it is left
    /// alone for longer than they wait.
    pub(super) fn unanswered(&mut self, now: BootTime) {
        self.rest.unanswered = (self.rest.unanswered + 1).min(UNANSWERED);
        if self.rest.unanswered == UNANSWERED {
            let durations = self.settings.durations;
            self.rest.until = self.rest.until.max(now.plus(durations.lease() + durations.retry_period()));
        }
    }

    /// A write of the Lease was answered in time.
    pub(super) fn answers_come(&mut self) {
        self.rest.unanswered = 0;
    }

    /// Ends what time ends, and forgets what it has made unimportant.
    pub(super) fn end_by_time(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        match &self.state {
            State::Holding(holding) if now >= holding.claim.ends => {
                self.step_down(now, StepDown::Expired, orders);
            }
            State::Holding(holding) if now >= holding.ends() => self.unprepared(now, orders),
            // Each request of the claim had a deadline inside it.
            State::Draining { ends } if now >= *ends => self.state = State::Releasing,
            _ => {}
        }
        for past in [&mut self.rest.until, &mut self.writes_until] {
            if now >= *past {
                *past = BootTime(0);
            }
        }
    }

    pub(super) fn step_down(&mut self, now: BootTime, reason: StepDown, orders: &mut Vec<Order>) {
        if let State::Holding(holding) = &self.state
            && let Preparation::Done { since } = holding.preparation
            && now.since(since) >= self.settings.durations.renew_deadline()
        {
            self.rest.failures = 0;
        }
        self.state = State::Standby;
        orders.push(Order::CloseGate(reason));
        self.announce_standby(orders);
    }

    /// The API server refused a write of `term`. The Lease may still be ours: then it is
    /// taken again, in a new term, after a pause.
    pub(super) fn fenced(&mut self, now: BootTime, term: Term, orders: &mut Vec<Order>) {
        if !matches!(&self.state, State::Holding(holding) if holding.claim.term == term) {
            return;
        }
        self.step_down(now, StepDown::Fenced, orders);
        self.rest.grow(now, FIRST_REST, self.settings.durations.retry_period());
    }

    /// The claim could not be prepared in time. Others may be luckier: the Lease is given
    /// back. No write of the term was possible, and those of a term before it have ended,
    /// because a whole renew deadline has passed.
    fn unprepared(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        self.step_down(now, StepDown::Unprepared, orders);
        let durations = self.settings.durations;
        self.rest.grow(now, durations.retry_period(), durations.lease());
        self.state = State::Releasing;
    }

    /// Looks whether the Lease was renewed in our name by somebody else. If so it counts
    /// as another's, and is waited for as long.
    pub(super) fn look_for_impostor(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        if !matches!(self.state, State::Holding(_)) || self.writes() || self.own.unsure {
            return;
        }
        let Some(seen) = &mut self.seen else {
            return;
        };
        let renewed = seen.copy.lease().and_then(|lease| lease.spec.renew_time.as_ref());
        if renewed == self.own.renewed.as_ref() {
            return;
        }
        (seen.occupant, seen.since) = (Occupant::Other, now);
        self.doubt = true;
        self.step_down(now, StepDown::Impostor, orders);
    }

    pub(super) fn shut_down(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        self.ending = true;
        if matches!(self.state, State::Holding(_)) {
            self.step_down(now, StepDown::Shutdown, orders);
            self.drain(now, orders);
        }
    }

    /// Gives up the Lease as soon as no write of this replica can be on the wire.
    pub(super) fn drain(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        let ends = self.writes_until;
        if now >= ends || self.breaks(Mutant::ReleaseBeforeDrain) {
            self.state = State::Releasing;
        } else {
            self.state = State::Draining { ends };
            orders.push(Order::WaitDrain);
        }
    }

    /// The Lease is no longer ours.
    pub(super) fn released(&mut self, orders: &mut Vec<Order>) {
        if self.ending {
            self.end(orders);
        } else {
            self.state = State::Standby;
            self.announce_standby(orders);
        }
    }

    pub(super) fn end(&mut self, orders: &mut Vec<Order>) {
        self.state = State::Ended;
        self.pending = None;
        orders.push(Order::End(Ok(())));
    }
}
