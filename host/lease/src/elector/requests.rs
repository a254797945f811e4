//! What is sent next, and when the elector wants to be woken for it.

use std::sync::Arc;
use std::time::Duration;

use windlass_core::claim::{BootTime, Term};

use super::{Elector, Holding, Pending, Preparation, Request, State};
use crate::mutant::Mutant;
use crate::step::{Order, Purpose, Write};

impl Elector {
    /// Orders the next request, if one is due.
    pub(super) fn proceed(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        self.prepare_again(now, orders);
        let pending = self.pending.as_ref().map(|pending| pending.request);
        if matches!(self.state, State::Standby) && self.ending {
            match pending {
                None | Some(Request::Read) if self.is_mine() || self.unsure => self.drain(now, orders),
                None | Some(Request::Read) => return self.end(orders),
                Some(Request::Write { .. }) => return,
            }
        }
        if matches!(self.state, State::Releasing) && !self.is_mine() && !self.stale {
            self.released(orders);
        }
        if self.pending.is_some() || now < self.not_before {
            return;
        }
        let next = match &self.state {
            State::Draining { .. } | State::Ended => None,
            _ if self.stale => Some(None),
            State::Standby => self.standby_request(now),
            State::Holding(holding) => {
                let term = if holding.raise { self.next_term() } else { holding.claim.term };
                (holding.raise || now >= holding.renew_at).then_some(Some((Purpose::Renew, term)))
            }
            State::Releasing => Some(Some((Purpose::Release, self.highest))),
        };
        match next {
            Some(Some((purpose, term))) => self.write(now, purpose, term, orders),
            Some(None) => self.read(now, orders),
            None => {}
        }
    }

    fn prepare_again(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        if let State::Holding(holding) = &mut self.state
            && let Preparation::Again { at } = holding.preparation
            && now >= at
        {
            holding.preparation = Preparation::Running;
            orders.push(Order::Prepare(holding.claim.clone()));
        }
    }

    /// What a standby has to send: a write, a read (`Some(None)`), or nothing.
    fn standby_request(&self, now: BootTime) -> Option<Option<(Purpose, Term)>> {
        if self.take_at(now).is_none_or(|at| now >= at) {
            return Some(self.seen.as_ref().map(|_| (Purpose::Acquire, self.next_term())));
        }
        (now >= self.heard.plus(self.settings.durations.silence())).then_some(None)
    }

    /// When the Lease is taken, if nothing changes until then. Nothing: nobody has looked yet.
    fn take_at(&self, now: BootTime) -> Option<BootTime> {
        self.seen.as_ref().map(|seen| seen.free_at(now).max(self.rest.until))
    }

    fn read(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        let id = self.request(now, Request::Read);
        orders.push(Order::Read { id, timeout: self.timeout(now) });
    }

    fn write(&mut self, now: BootTime, purpose: Purpose, term: Term, orders: &mut Vec<Order>) {
        let mut base = self.seen.as_ref().and_then(|seen| seen.copy.lease()).cloned();
        if self.breaks(Mutant::NoResourceVersion)
            && let Some(base) = &mut base
        {
            Arc::make_mut(base).metadata.resource_version = None;
        }
        self.create_out |= base.is_none();
        let id = self.request(now, Request::Write { purpose, term, create: base.is_none() });
        orders.push(Order::Write(Write {
            id,
            purpose,
            base,
            holder: self.settings.identity.clone(),
            term,
            lease_duration: self.settings.durations.lease(),
            pulse: self.settings.pulse.clone(),
            timeout: self.timeout(now),
        }));
    }

    fn request(&mut self, now: BootTime, request: Request) -> u64 {
        self.next_id += 1;
        self.pending = Some(Pending { id: self.next_id, sent: now, request });
        self.next_id
    }

    fn timeout(&self, now: BootTime) -> Duration {
        let most = self.settings.durations.request_timeout();
        if self.breaks(Mutant::ResponseAnchored) {
            return self.settings.durations.renew_deadline();
        }
        match &self.state {
            State::Holding(holding) => most.min(holding.claim.ends.since(now)),
            _ => most,
        }
    }

    pub(super) fn wake_at(&self, now: BootTime) -> Option<BootTime> {
        let durations = self.settings.durations;
        let own = match &self.state {
            State::Holding(holding) => holding.ends(),
            State::Draining { ends } => return Some(*ends),
            State::Ended => return None,
            State::Standby | State::Releasing => BootTime(u64::MAX),
        };
        let prepare = match &self.state {
            State::Holding(Holding { preparation: Preparation::Again { at }, .. }) => *at,
            _ => BootTime(u64::MAX),
        };
        if self.pending.is_some() {
            return Some(own.min(prepare)).filter(|at| *at != BootTime(u64::MAX));
        }
        let request = match &self.state {
            _ if self.stale => self.not_before,
            State::Holding(holding) => holding.renew_at,
            State::Standby => {
                let silent = self.heard.plus(durations.silence());
                self.take_at(now).map_or(silent, |at| at.min(silent))
            }
            _ => self.not_before,
        };
        Some(own.min(prepare).min(request.max(self.not_before)))
    }

    /// The number of the next term: above all that were ever seen.
    fn next_term(&self) -> Term {
        let lease = self.seen.as_ref().and_then(|seen| seen.copy.lease());
        if self.breaks(Mutant::TermFromTransitions) {
            let transitions = lease.and_then(|lease| lease.spec.lease_transitions).unwrap_or_default();
            return Term(u64::try_from(transitions).unwrap_or_default().saturating_add(1));
        }
        Term(self.highest.0.saturating_add(1))
    }

    /// The pause after a failure: a quarter to three quarters of a retry period, so that
    /// attempts do not fall into step with a fault that comes and goes.
    pub(super) fn pause(&mut self) -> Duration {
        self.settings.durations.retry_period().mul_f64(0.25 + 0.5 * self.chance.next())
    }
}
