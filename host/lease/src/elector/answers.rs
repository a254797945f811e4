//! What an answer means: to a request, and to the preparation of a claim.

use std::sync::Arc;

use windlass_core::claim::{BootTime, Claim, Term};

use super::{Elector, Holding, Own, Preparation, Request, State};
use crate::mutant::Mutant;
use crate::record::{Copy, Lease};
use crate::seen::Occupant;
use crate::step::{Failure, Leadership, Order, Purpose};

impl Elector {
    pub(super) fn answered(
        &mut self,
        now: BootTime,
        id: u64,
        result: Result<Arc<Lease>, Failure>,
        orders: &mut Vec<Order>,
    ) {
        let Some(pending) = self.pending.take_if(|pending| pending.id == id) else {
            return;
        };
        let definite = result != Err(Failure::Unknown);
        if definite {
            self.heard = now;
        }
        let create = matches!(pending.request, Request::Write { create: true, .. });
        match (pending.request, result) {
            (Request::Read, Ok(lease)) => {
                (self.stale, self.unsure) = (false, false);
                self.observe(now, Copy::Present(lease), orders);
            }
            (Request::Read, Err(Failure::Absent)) if self.was_seen_since(pending.sent) => self.stale = true,
            (Request::Read, Err(Failure::Absent)) => {
                (self.stale, self.unsure) = (false, false);
                self.observe(now, self.gone(), orders);
            }
            (Request::Write { purpose, term, .. }, Ok(lease)) => {
                self.answers_come();
                let copy = Copy::Present(lease.clone());
                if self.seen.as_ref().is_none_or(|seen| copy.is_newer_than(&seen.copy)) {
                    self.observe(now, copy, orders);
                }
                if !(create && self.doubt) {
                    self.own = Own { renewed: lease.spec.renew_time.clone(), unsure: false };
                    self.written(now, purpose, term, pending.sent, orders);
                }
            }
            (Request::Write { create: false, .. }, Err(Failure::Absent)) => {
                // A leader whose Lease may be gone ends its term; it need not know since when.
                match self.was_seen_since(pending.sent) && !matches!(self.state, State::Holding(_)) {
                    true => self.stale = true,
                    false => self.observe(now, self.gone(), orders),
                }
            }
            (Request::Write { .. }, Err(Failure::Conflict)) => {
                // Perhaps with itself: something on the way may have sent it twice.
                (self.stale, self.own.unsure) = (true, true);
                // Should it be gone again by the time that it is looked for, somebody may hold it all the same.
                if let Some(seen) = self.seen.as_mut().filter(|seen| create && seen.copy.lease().is_none()) {
                    (seen.occupant, seen.since) = (Occupant::Other, now);
                }
            }
            (request, Err(failure)) => {
                self.stale = true;
                let unknown = request != Request::Read && failure == Failure::Unknown;
                (self.unsure, self.own.unsure) = (self.unsure || unknown, self.own.unsure || unknown);
                self.not_before = now.plus(self.pause());
                if unknown && matches!(request, Request::Write { purpose: Purpose::Acquire, .. }) {
                    self.unanswered(now);
                }
            }
        }
        self.create_out &= !(create && definite);
    }

    /// Whether there was a Lease that was not known yet at `sent`. An absence that was asked for then may be older than it, and says
    /// nothing of how long nobody has renewed.
    fn was_seen_since(&self, sent: BootTime) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.copy.lease().is_some() && seen.since > sent)
    }

    /// An absence that was found by asking: it is later than the copy before it.
    fn gone(&self) -> Copy {
        Copy::Absent { at: self.seen.as_ref().and_then(|seen| seen.copy.version()) }
    }

    /// The API server accepted a write that was sent at `sent`.
    fn written(
        &mut self,
        now: BootTime,
        purpose: Purpose,
        term: Term,
        sent: BootTime,
        orders: &mut Vec<Order>,
    ) {
        let durations = self.settings.durations;
        let sent = if self.breaks(Mutant::ResponseAnchored) { now } else { sent };
        let ends = sent.plus(durations.renew_deadline());
        self.highest = self.highest.max(term);
        let in_time = now < ends && self.lost().is_none();
        match (&mut self.state, purpose) {
            (State::Standby, Purpose::Acquire) if self.ending => self.drain(now, orders),
            (State::Standby, Purpose::Acquire) if in_time => {
                let claim = Claim { holder: self.settings.identity.clone(), term, ends };
                (self.create_out, self.doubt) = (false, false);
                orders.push(Order::Prepare(claim.clone()));
                self.state = State::Holding(Holding {
                    claim,
                    renew_at: sent.plus(durations.retry_period()),
                    prepare_by: sent.plus(durations.renew_deadline()),
                    preparation: Preparation::Running,
                    raise: false,
                });
            }
            (State::Holding(holding), Purpose::Renew) => {
                let raised = holding.claim.term != term;
                holding.claim = Claim { term, ends, ..holding.claim.clone() };
                holding.renew_at = sent.plus(durations.retry_period());
                if raised {
                    holding.raise = false;
                    holding.preparation = Preparation::Running;
                    orders.push(Order::Prepare(holding.claim.clone()));
                } else if matches!(holding.preparation, Preparation::Done { .. }) {
                    self.writes_until = self.writes_until.max(ends);
                    orders.push(Order::OpenGate(holding.claim.clone()));
                }
            }
            (State::Releasing, Purpose::Release) => self.released(orders),
            _ => {}
        }
    }

    pub(super) fn term_seen(&mut self, term: Term) {
        self.highest = self.highest.max(term);
        if let State::Holding(holding) = &mut self.state
            && !matches!(holding.preparation, Preparation::Done { .. })
            && term >= holding.claim.term
        {
            holding.raise = true;
        }
    }

    pub(super) fn prepared(&mut self, now: BootTime, term: Term, done: bool, orders: &mut Vec<Order>) {
        let again = now.plus(self.pause());
        let State::Holding(holding) = &mut self.state else {
            return;
        };
        if holding.claim.term != term || holding.preparation != Preparation::Running {
            return;
        }
        if !done {
            holding.preparation = Preparation::Again { at: again };
            return;
        }
        holding.preparation = Preparation::Done { since: now };
        self.writes_until = self.writes_until.max(holding.claim.ends);
        let leading = Leadership::Leading(holding.claim.clone());
        orders.push(Order::OpenGate(holding.claim.clone()));
        orders.push(Order::Announce(leading.clone()));
        self.announced = Some(leading);
    }
}
