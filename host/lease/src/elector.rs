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
//!   one: only a release, which follows the last write, is taken at once. An answer that there is none
//!   counts only if it was asked for after the last Lease was seen, and a create that is refused shows
//!   that there was one.
//! * A process that has ended holds nothing: evidence of that frees the Lease that names
//!   it, for a compare-and-swap as ever. Silence is no evidence.
//! * One request at a time. After an outcome that is unknown the Lease is read first.

mod answers;
mod chance;
mod ends;
mod evidence;
mod requests;

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use windlass_core::claim::{BootTime, Claim, Term};

use crate::durations::{Durations, LONGEST_LEASE};
use crate::mutant::Mutant;
use crate::record::{Copy, Lease};
use crate::seen::{Occupant, Seen, occupant};
use crate::step::{Cause, HeldByAnother, Input, Leadership, Order, Purpose, Step, StepDown};
use chance::Chance;
use ends::{Own, Rest};
use evidence::Evidence;

/// Free Leases are taken after a random pause of up to this, so that two standbys
/// seldom write at once. When they do, one of them is refused, and nothing is lost.
const JITTER: Duration = Duration::from_millis(2);

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
    evidence: Evidence,
    rest: Rest,
    own: Own,
    /// Until then writes of this replica may be on the wire: the latest end that the gate had.
    writes_until: BootTime,
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
    /// Until then the gate has to be open.
    prepare_by: BootTime,
    preparation: Preparation,
    /// The term's number turned out to be used: the next renewal writes a higher one.
    raise: bool,
}

impl Hash for Holding {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { claim: Claim { holder, term, ends }, renew_at, prepare_by, preparation, raise } = self;
        (holder, term, ends, renew_at, prepare_by, preparation, raise).hash(state);
    }
}

impl Holding {
    /// When it is over if nothing is written and nothing prepared until then.
    fn ends(&self) -> BootTime {
        match self.preparation {
            Preparation::Done { .. } => self.claim.ends,
            Preparation::Running | Preparation::Again { .. } => self.claim.ends.min(self.prepare_by),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Preparation {
    Running,
    Again {
        at: BootTime,
    },
    /// The gate is open.
    Done {
        since: BootTime,
    },
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
            evidence: Evidence::default(),
            rest: Rest::default(),
            own: Own::default(),
            writes_until: BootTime(0),
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
            Input::Died(identity) => self.died(now, identity),
            Input::Silent(identity) => {
                if self.breaks(Mutant::EvidenceFromSilence) {
                    self.died(now, identity);
                }
            }
            Input::Fenced(term) => self.fenced(now, term, &mut orders),
            Input::Shutdown => self.shut_down(now, &mut orders),
            Input::Drained => {
                if matches!(self.state, State::Draining { .. }) {
                    self.state = State::Releasing;
                }
            }
        }
        self.look_for_impostor(now, &mut orders);
        self.proceed(now, &mut orders);
        Step { orders, wake_at: self.wake_at(now) }
    }

    /// The highest term that was seen so far; zero when none was.
    pub fn highest_term(&self) -> Term {
        self.highest
    }

    /// The Lease in another process's name, as last seen: the process whose pulse matters.
    pub fn leader_elsewhere(&self) -> Option<&Arc<Lease>> {
        let lease = self.seen.as_ref()?.copy.lease()?;
        (lease.holder().is_some() && !self.names_me(lease)).then_some(lease)
    }

    /// Why the Lease as last seen may be taken, and since when or from when on; whether
    /// this replica leads makes no difference. Nothing, when it has not been looked at.
    pub fn vacancy(&self) -> Option<(Cause, BootTime)> {
        let seen = self.seen.as_ref()?;
        Some(match seen.occupant {
            Occupant::Nobody if seen.copy.lease().is_some_and(|lease| lease.is_released()) => {
                (Cause::Released, seen.since)
            }
            Occupant::Nobody => (Cause::First, seen.since),
            Occupant::Dead => (Cause::Died, seen.since),
            Occupant::Other => (Cause::Expired, seen.since.plus(seen.wait)),
            Occupant::Me | Occupant::MeUntil(_) => (Cause::Own, seen.since),
        })
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
        let own = self.settings.durations.lease();
        if self.evidence.judge(now, &copy, own) && occupant == Occupant::Other {
            occupant = Occupant::Dead;
        }
        let first = self.seen.is_none();
        let theirs = copy.lease().and_then(|lease| lease.duration()).unwrap_or(own);
        // Never less than our own: a number that was edited downwards ends no claim.
        let wait = theirs.clamp(own, LONGEST_LEASE.max(own));
        let wait = self.wait_by_wall_clock(now, &copy).unwrap_or(wait);
        let jitter = JITTER.mul_f64(self.chance.next());
        self.seen = Some(Seen { copy, since: now, occupant, wait, jitter });
        if let State::Holding(_) = self.state
            && let Some(reason) = self.lost()
        {
            self.step_down(now, reason, orders);
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

    fn announce_standby(&mut self, orders: &mut Vec<Order>) {
        if matches!(self.state, State::Standby) {
            let standby = Leadership::Standby { holder: self.holder() };
            if self.announced.as_ref() != Some(&standby) {
                orders.push(Order::Announce(standby.clone()));
                self.announced = Some(standby);
            }
        }
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

    /// Whether a write of ours is on its way.
    fn writes(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.request != Request::Read)
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
}
