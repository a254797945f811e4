//! The elector: who leads, as a pure state machine.
//!
//! It reads no clock and sends nothing: [`Elector::step`] takes the present instant and
//! one input, and gives back orders. The rules that make two leaders impossible:
//!
//! * Each write is a compare-and-swap on the copy that was judged, never on a newer one.
//! * A claim ends a renew deadline after its last accepted write was *sent*; others wait a
//!   whole lease duration after they *saw* the Lease change. Both count on their own
//!   clock; no timestamp of another machine is ever read.
//! * A Lease that is gone, or whose holder was emptied by hand, is waited for like a held
//!   one: only a release, which follows the last write, is taken at once.
//! * One request at a time. After an outcome that is unknown the Lease is read first.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use windlass_core::claim::{BootTime, Claim, Term};

use crate::durations::{Durations, LONGEST_LEASE};
use crate::mutant::Mutant;
use crate::record::{Copy, Lease};
use crate::seen::{Occupant, Seen, occupant};
use crate::step::{Failure, HeldByAnother, Input, Leadership, Order, Purpose, Step, StepDown, Write};

/// Free Leases are taken after a random pause of up to this, so that two standbys
/// seldom write at once. When they do, one of them is refused, and nothing is lost.
const JITTER: Duration = Duration::from_millis(10);

/// What an elector has to know of its replica.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Names this process and no other, also not its own predecessor: a pod's name and a
    /// random suffix. Not empty.
    pub identity: Arc<str>,
    /// Lease, renew deadline, retry period.
    pub durations: Durations,
    /// `--leader-elect`. Without it the elector ends when another process renews the Lease.
    pub elect: bool,
    /// Spreads pauses between replicas; any number that differs from theirs. Zero spreads
    /// nothing: every pause is the middle one, for a model that counts states.
    pub seed: u64,
    /// Where this replica's pulse is, to be written into the Lease: `<ip>:<port>/<nonce>`.
    pub pulse: Option<Arc<str>>,
    /// A rule to break. Without the feature `mutants` it is ignored.
    pub mutant: Option<Mutant>,
}

/// See the module's text. One replica has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Elector {
    settings: Settings,
    chance: Chance,
    state: State,
    seen: Option<Seen>,
    /// The highest term that was ever seen; zero when none was.
    highest: Term,
    /// The one request that was ordered and not answered.
    pending: Option<Pending>,
    next_id: u64,
    /// The copy may be old: nothing is written before it has been read again.
    stale: bool,
    /// An acquisition may have been carried out without our knowing.
    unsure: bool,
    /// A create was sent and may still be carried out. Unlike an update it has no version
    /// to fail on: it can land on the ruins of a Lease that others held since.
    create_out: bool,
    /// That has become possible: a Lease in our name proves nothing, until it is taken
    /// by an update.
    doubt: bool,
    /// After a failure no request is sent before this instant.
    not_before: BootTime,
    /// When the API server was last heard of, by watch or by answer.
    heard: BootTime,
    /// [`Input::Shutdown`] was said.
    ending: bool,
    announced: Option<Leadership>,
    /// Who was last found to have ended.
    dead: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    Standby,
    Holding(Holding),
    /// The gate is closed; requests of this claim may be on the wire until it ends.
    Draining {
        ends: BootTime,
    },
    Releasing,
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Holding {
    claim: Claim,
    /// When the next renewal is due.
    renew_at: BootTime,
    preparation: Preparation,
    /// The term's number turned out to be used: the next renewal writes a higher one.
    raise: bool,
}

impl Hash for Holding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { claim: Claim { holder, term, ends }, renew_at, preparation, raise } = self;
        (holder, term, ends, renew_at, preparation, raise).hash(state);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Preparation {
    Running,
    Again {
        at: BootTime,
    },
    /// The gate is open.
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pending {
    id: u64,
    sent: BootTime,
    request: Request,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Request {
    Read,
    Write { purpose: Purpose, term: Term, create: bool },
}

impl Elector {
    /// An elector that has seen nothing yet. Its first step reads the Lease.
    pub fn new(settings: Settings, now: BootTime) -> Self {
        Self {
            chance: Chance(settings.seed),
            settings,
            state: State::Standby,
            seen: None,
            highest: Term(0),
            pending: None,
            next_id: 0,
            stale: true,
            unsure: false,
            create_out: false,
            doubt: false,
            not_before: now,
            heard: now,
            ending: false,
            announced: None,
            dead: None,
        }
    }

    /// Takes one input at the instant `now`, which must have been read *before* any of
    /// the orders is carried out: a claim is counted from it.
    pub fn step(&mut self, now: BootTime, input: Input) -> Step {
        let mut orders = Vec::new();
        // Time comes first: what arrives after the end of a claim finds it ended.
        self.end_by_time(now, &mut orders);
        match input {
            Input::Tick => {}
            Input::Heard => self.heard = now,
            Input::Observed(copy) => {
                self.heard = now;
                let older = self.seen.as_ref().is_some_and(|seen| !copy.is_newer_than(&seen.copy));
                if !older {
                    self.observe(now, copy, &mut orders);
                }
            }
            Input::Answered { id, result } => self.answered(now, id, result, &mut orders),
            Input::Prepared { term, done } => self.prepared(now, term, done, &mut orders),
            Input::TermSeen(term) => self.term_seen(term),
            Input::Died(identity) => self.died(identity),
            Input::Silent(identity) => {
                if self.breaks(Mutant::EvidenceFromSilence) {
                    self.died(identity);
                }
            }
            Input::Fenced(_) => {}
            Input::Shutdown => self.shut_down(&mut orders),
            Input::Drained => {
                if matches!(self.state, State::Draining { .. }) {
                    self.state = State::Releasing;
                }
            }
        }
        self.proceed(now, &mut orders);
        Step { orders, wake_at: self.wake_at(now) }
    }

    /// The highest term that was seen so far; zero when none was.
    pub fn highest_term(&self) -> Term {
        self.highest
    }

    fn end_by_time(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        match &self.state {
            State::Holding(holding) if now >= holding.claim.ends => self.step_down(StepDown::Expired, orders),
            // Each request of the claim had a deadline inside it.
            State::Draining { ends } if now >= *ends => self.state = State::Releasing,
            _ => {}
        }
    }

    /// Takes note of a copy that differs from the last one, or was read on purpose.
    fn observe(&mut self, now: BootTime, copy: Copy, orders: &mut Vec<Order>) {
        if self.seen.as_ref().is_some_and(|seen| copy.is_same(&seen.copy)) {
            return;
        }
        if let Some(term) = copy.lease().and_then(|lease| lease.term()) {
            self.highest = self.highest.max(term);
        }
        let leads_until = match &self.state {
            State::Holding(holding) => Some(holding.claim.ends),
            _ => None,
        };
        self.doubt |= self.create_out && copy.lease().is_some_and(|lease| !self.names_me(lease));
        let mut occupant = occupant(&copy, self.seen.as_ref(), &self.settings.identity, leads_until);
        if self.doubt && occupant == Occupant::Me && leads_until.is_none() {
            occupant = Occupant::Other;
        }
        let holder = copy.lease().and_then(|lease| lease.holder());
        if occupant == Occupant::Other && holder.is_some() && holder == self.dead.as_deref() {
            occupant = Occupant::Dead;
        }
        let first = self.seen.is_none();
        let own = self.settings.durations.lease();
        let theirs = copy.lease().and_then(|lease| lease.duration()).unwrap_or(own);
        // Never less than our own: a number that was edited downwards ends no claim.
        let wait = theirs.clamp(own, LONGEST_LEASE.max(own));
        let wait = self.wait_by_wall_clock(now, &copy).unwrap_or(wait);
        let jitter = JITTER.mul_f64(self.chance.next());
        self.seen = Some(Seen { copy, since: now, occupant, wait, jitter });
        if let State::Holding(_) = self.state
            && let Some(reason) = self.lost()
        {
            self.step_down(reason, orders);
        }
        self.end_without_election(first, orders);
        self.announce_standby(orders);
    }

    /// Why the newest copy is no longer this replica's, if so.
    fn lost(&self) -> Option<StepDown> {
        let lease = match &self.seen.as_ref()?.copy {
            Copy::Absent { .. } => return Some(StepDown::Deleted),
            Copy::Present(lease) => lease,
        };
        match lease.holder() {
            Some(holder) if *holder == *self.settings.identity => None,
            Some(holder) => Some(StepDown::Taken(holder.into())),
            None => Some(StepDown::Emptied),
        }
    }

    fn end_without_election(&mut self, first: bool, orders: &mut Vec<Order>) {
        // A holder at the start may be a process that has died: only a change, or the
        // loss of a Lease that was ours, shows that another one lives.
        if self.settings.elect || first || self.ending || matches!(self.state, State::Ended) {
            return;
        }
        let holder = self.holder().filter(|holder| **holder != *self.settings.identity);
        if let Some(holder) = holder {
            self.state = State::Ended;
            orders.push(Order::End(Err(HeldByAnother { holder })));
        }
    }

    fn answered(
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
            (Request::Read, Err(Failure::Absent)) => {
                (self.stale, self.unsure) = (false, false);
                self.observe(now, self.gone(), orders);
            }
            (Request::Write { purpose, term, .. }, Ok(lease)) => {
                let copy = Copy::Present(lease);
                if self.seen.as_ref().is_none_or(|seen| copy.is_newer_than(&seen.copy)) {
                    self.observe(now, copy, orders);
                }
                if !(create && self.doubt) {
                    self.written(now, purpose, term, pending.sent, orders);
                }
            }
            (Request::Write { create: false, .. }, Err(Failure::Absent)) => {
                self.observe(now, self.gone(), orders);
            }
            (Request::Write { .. }, Err(Failure::Conflict)) => self.stale = true,
            (request, Err(failure)) => {
                self.stale = true;
                self.unsure |= request != Request::Read && failure == Failure::Unknown;
                self.not_before = now.plus(self.pause());
            }
        }
        self.create_out &= !(create && definite);
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
            (State::Standby, Purpose::Acquire) if self.ending => self.state = State::Releasing,
            (State::Standby, Purpose::Acquire) if in_time => {
                let claim = Claim { holder: self.settings.identity.clone(), term, ends };
                (self.create_out, self.doubt) = (false, false);
                orders.push(Order::Prepare(claim.clone()));
                self.state = State::Holding(Holding {
                    claim,
                    renew_at: sent.plus(durations.retry_period()),
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
                } else if holding.preparation == Preparation::Done {
                    orders.push(Order::OpenGate(holding.claim.clone()));
                }
            }
            (State::Releasing, Purpose::Release) => self.end(orders),
            _ => {}
        }
    }

    /// There is evidence that this process has ended.
    fn died(&mut self, identity: Arc<str>) {
        if identity == self.settings.identity {
            return;
        }
        if let Some(seen) = &mut self.seen
            && seen.occupant == Occupant::Other
            && seen.copy.lease().is_some_and(|lease| lease.holder() == Some(&*identity))
        {
            seen.occupant = Occupant::Dead;
        }
        self.dead = Some(identity);
    }

    fn term_seen(&mut self, term: Term) {
        self.highest = self.highest.max(term);
        if let State::Holding(holding) = &mut self.state
            && holding.preparation != Preparation::Done
            && term >= holding.claim.term
        {
            holding.raise = true;
        }
    }

    fn prepared(&mut self, now: BootTime, term: Term, done: bool, orders: &mut Vec<Order>) {
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
        holding.preparation = Preparation::Done;
        let leading = Leadership::Leading(holding.claim.clone());
        orders.push(Order::OpenGate(holding.claim.clone()));
        orders.push(Order::Announce(leading.clone()));
        self.announced = Some(leading);
    }

    fn shut_down(&mut self, orders: &mut Vec<Order>) {
        self.ending = true;
        if let State::Holding(holding) = &self.state {
            let ends = holding.claim.ends;
            self.step_down(StepDown::Shutdown, orders);
            self.state = State::Draining { ends };
            if self.breaks(Mutant::ReleaseBeforeDrain) {
                self.state = State::Releasing;
            }
            orders.push(Order::WaitDrain);
        }
    }

    fn step_down(&mut self, reason: StepDown, orders: &mut Vec<Order>) {
        self.state = State::Standby;
        orders.push(Order::CloseGate(reason));
        self.announce_standby(orders);
    }

    fn announce_standby(&mut self, orders: &mut Vec<Order>) {
        if matches!(self.state, State::Standby) {
            let standby = Leadership::Standby { holder: self.holder() };
            if self.announced.as_ref() != Some(&standby) {
                orders.push(Order::Announce(standby.clone()));
                self.announced = Some(standby);
            }
        }
    }

    fn end(&mut self, orders: &mut Vec<Order>) {
        self.state = State::Ended;
        self.pending = None;
        orders.push(Order::End(Ok(())));
    }

    /// Orders the next request, if one is due.
    fn proceed(&mut self, now: BootTime, orders: &mut Vec<Order>) {
        self.prepare_again(now, orders);
        let pending = self.pending.as_ref().map(|pending| pending.request);
        if matches!(self.state, State::Standby) && self.ending {
            match pending {
                None | Some(Request::Read) if self.is_mine() || self.unsure => self.state = State::Releasing,
                None | Some(Request::Read) => return self.end(orders),
                Some(Request::Write { .. }) => return,
            }
        }
        if matches!(self.state, State::Releasing) && !self.is_mine() && !self.stale {
            return self.end(orders);
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
        if self.seen.as_ref().map(|seen| seen.free_at(now)).is_none_or(|at| now >= at) {
            return Some(self.seen.as_ref().map(|_| (Purpose::Acquire, self.next_term())));
        }
        (now >= self.heard.plus(self.settings.durations.silence())).then_some(None)
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

    fn wake_at(&self, now: BootTime) -> Option<BootTime> {
        let durations = self.settings.durations;
        let own = match &self.state {
            State::Holding(holding) => holding.claim.ends,
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
                self.seen.as_ref().map(|seen| seen.free_at(now)).map_or(silent, |at| at.min(silent))
            }
            _ => self.not_before,
        };
        Some(own.min(prepare).min(request.max(self.not_before)))
    }

    fn holder(&self) -> Option<Arc<str>> {
        self.seen.as_ref()?.copy.lease()?.holder().map(Arc::from)
    }

    /// Whether the Lease is this replica's to give up.
    fn is_mine(&self) -> bool {
        let lease = self.seen.as_ref().and_then(|seen| seen.copy.lease());
        !self.doubt && lease.is_some_and(|lease| self.names_me(lease))
    }

    fn names_me(&self, lease: &Lease) -> bool {
        lease.holder() == Some(&*self.settings.identity)
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

    /// Whether this rule is broken on purpose. Never, without the feature `mutants`.
    fn breaks(&self, rule: Mutant) -> bool {
        cfg!(feature = "mutants") && self.settings.mutant == Some(rule)
    }

    /// How long the Lease is left alone by one who believes in wall clocks.
    fn wait_by_wall_clock(&self, now: BootTime, copy: &Copy) -> Option<Duration> {
        let Some(Mutant::WallClock { zero_ms }) = self.settings.mutant.filter(|_| cfg!(feature = "mutants"))
        else {
            return None;
        };
        let lease = copy.lease()?;
        let renewed: jiff::Timestamp = lease.spec.renew_time.as_deref()?.parse().ok()?;
        let now_ms = zero_ms.saturating_add(i64::try_from(now.0 / 1_000_000).ok()?);
        let ago = u64::try_from(now_ms.saturating_sub(renewed.as_millisecond())).unwrap_or_default();
        Some(lease.duration()?.saturating_sub(Duration::from_millis(ago)))
    }

    /// The pause after a failure: a quarter to three quarters of a retry period, so that
    /// attempts do not fall into step with a fault that comes and goes.
    fn pause(&mut self) -> Duration {
        self.settings.durations.retry_period().mul_f64(0.25 + 0.5 * self.chance.next())
    }
}

/// A small generator (SplitMix64): pauses need spread, not secrecy, and tests need replay.
/// From zero it always gives the middle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Chance(u64);

impl Chance {
    /// The next number in `0.0..1.0`.
    fn next(&mut self) -> f64 {
        if self.0 == 0 {
            return 0.5;
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
