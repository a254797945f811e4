//! A small deterministic world: one API server, several electors, a network that loses,
//! delays and repeats, clocks that differ in rate, processes that stop and go on.
//!
//! It runs the shipped elector; what is made up is everything around it. Time is true
//! time in nanoseconds; each process sees it through its own clock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use windlass_core::claim::{BootTime, Claim, Term};
use windlass_lease::durations::Durations;
use windlass_lease::elector::{Elector, Settings};
use windlass_lease::mutant::Mutant;
use windlass_lease::record::{Copy, Lease};
use windlass_lease::step::{Failure, Input, Order, Step, StepDown, Write};

pub(crate) const MS: u64 = 1_000_000;

/// What goes wrong in one run. Probabilities are in thousandths.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) seed: u64,
    pub(crate) loss: u64,
    pub(crate) slow: u64,
    pub(crate) repeat: u64,
    /// How often a standby learns that a process was killed.
    pub(crate) evidence: u64,
    /// What all replicas do wrong.
    pub(crate) mutant: Option<Mutant>,
    /// How fast each clock runs, in parts per million beside true time.
    pub(crate) rates: Vec<i64>,
    pub(crate) script: Vec<(u64, Deed)>,
    /// Until when the network misbehaves; the world runs on for a while afterwards.
    pub(crate) until_ms: u64,
}

/// Something that is done to a replica or to the Lease at a given time.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deed {
    /// Stops a process for so many ms; its clock runs on.
    Pause(usize, u64),
    /// Kills it; another process takes its place after so many ms.
    Kill(usize, u64),
    /// Ends it in order; another takes its place after so many ms.
    Shutdown(usize, u64),
    /// Cuts a replica off from the API server for so many ms.
    Cut(usize, u64),
    /// The API server refuses a write of its present term.
    Fence(usize),
    /// Somebody annotates the Lease.
    Touch,
    /// Somebody removes the holder.
    Empty,
    /// Somebody writes another name.
    Rename,
    /// Somebody shortens the lease to a second.
    Shorten,
    /// Somebody deletes it. At most once, and not before everybody has seen it.
    Delete,
}

/// While writes of one process were possible, in one term.
#[derive(Clone, Debug)]
pub(crate) struct Reign {
    pub(crate) holder: Arc<str>,
    pub(crate) term: Term,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Debug)]
enum Event {
    Wake { of: u64 },
    Arrive(Write),
    ArriveRead(u64),
    Input(Input),
    Do(Deed),
    Start,
    Drained,
}

struct Replica {
    elector: Option<Elector>,
    identity: Arc<str>,
    incarnation: u64,
    /// Which of its wake-ups is meant.
    wakes: u64,
    stopped_until: u64,
    cut_until: u64,
    rate_ppm: i64,
    reign: Option<Reign>,
    restart_after: u64,
    drained_at: u64,
    has_seen: bool,
}

pub(crate) struct World {
    faults: Faults,
    durations: Durations,
    now: u64,
    count: u64,
    queue: BTreeMap<(u64, u64), (usize, u64, Event)>,
    random: u64,
    replicas: Vec<Replica>,
    lease: Option<Lease>,
    version: u64,
    uid: u64,
    deleted: bool,
    pub(crate) reigns: Vec<Reign>,
}

impl World {
    pub(crate) fn new(faults: Faults, durations: Durations) -> Self {
        let replicas = faults.rates.iter().map(|rate| Replica::new(*rate)).collect();
        let mut world = Self {
            random: faults.seed,
            durations,
            now: 0,
            count: 0,
            queue: BTreeMap::new(),
            replicas,
            lease: None,
            version: 10,
            uid: 0,
            deleted: false,
            reigns: Vec::new(),
            faults,
        };
        for replica in 0..world.replicas.len() {
            world.plan(0, replica, Event::Start);
        }
        for (at_ms, deed) in world.faults.script.clone() {
            world.plan(at_ms * MS, deed.replica(), Event::Do(deed));
        }
        world
    }

    /// Runs to the end, which is `calm_ms` after the last fault. Gives back who leads then.
    pub(crate) fn run(&mut self, calm_ms: u64) -> Vec<Arc<str>> {
        let end = (self.faults.until_ms + calm_ms) * MS;
        while let Some((&key, _)) = self.queue.first_key_value() {
            if key.0 > end {
                break;
            }
            let (replica, incarnation, event) = self.queue.remove(&key).expect("just seen");
            self.now = key.0;
            self.happen(replica, incarnation, event);
        }
        self.now = end;
        let leading =
            |r: &Replica| r.reign.as_ref().filter(|reign| reign.to > end).map(|reign| reign.holder.clone());
        let leaders = self.replicas.iter().filter_map(leading).collect();
        for replica in 0..self.replicas.len() {
            self.finish(replica, end);
        }
        self.reigns.sort_by_key(|reign| reign.from);
        leaders
    }

    fn happen(&mut self, i: usize, incarnation: u64, event: Event) {
        match event {
            Event::Do(deed) => return self.deed(deed),
            Event::Start => return self.start(i),
            Event::Arrive(write) => return self.arrive(i, incarnation, write),
            Event::ArriveRead(id) => {
                let result = self.lease.clone().map(Arc::new).ok_or(Failure::Absent);
                return self.answer(i, incarnation, Input::Answered { id, result });
            }
            _ => {}
        }
        let replica = &mut self.replicas[i];
        if incarnation != replica.incarnation || replica.elector.is_none() {
            return;
        }
        if self.now < replica.stopped_until {
            let at = replica.stopped_until;
            return self.plan_for(at, i, incarnation, event);
        }
        match event {
            Event::Wake { of } if of == replica.wakes => self.step(i, Input::Tick),
            Event::Input(input) => {
                if matches!(&input, Input::Observed(Copy::Present(_)) | Input::Answered { result: Ok(_), .. })
                {
                    self.replicas[i].has_seen = true;
                }
                self.step(i, input);
            }
            Event::Drained => self.step(i, Input::Drained),
            _ => {}
        }
    }

    fn start(&mut self, i: usize) {
        let now = self.local(i);
        let (seed, incarnation) = (self.roll(), self.count);
        let replica = &mut self.replicas[i];
        replica.incarnation = incarnation;
        replica.identity = format!("r{i}_{incarnation}").into();
        replica.stopped_until = 0;
        let settings = Settings {
            identity: replica.identity.clone(),
            durations: self.durations,
            elect: true,
            seed: seed | 1,
            pulse: Some(format!("10.0.0.{i}:8082/{incarnation}").into()),
            mutant: self.faults.mutant,
        };
        replica.elector = Some(Elector::new(settings, now));
        self.step(i, Input::Tick);
    }

    fn step(&mut self, i: usize, input: Input) {
        let now = self.local(i);
        let Some(elector) = &mut self.replicas[i].elector else {
            return;
        };
        let Step { orders, wake_at } = elector.step(now, input);
        for order in orders {
            self.obey(i, order);
        }
        let replica = &mut self.replicas[i];
        replica.wakes += 1;
        if let (Some(at), true) = (wake_at, replica.elector.is_some()) {
            let (of, at) = (replica.wakes, self.real(i, at).max(self.now + 1));
            self.plan(at, i, Event::Wake { of });
        }
    }

    fn obey(&mut self, i: usize, order: Order) {
        match order {
            Order::Write(write) => {
                self.deadline(i, write.id, write.timeout);
                if self.chance(self.faults.repeat) {
                    self.send(i, Event::Arrive(write.clone()));
                }
                self.send(i, Event::Arrive(write));
            }
            Order::Read { id, timeout } => {
                self.deadline(i, id, timeout);
                self.send(i, Event::ArriveRead(id));
            }
            Order::Prepare(claim) => {
                let at = self.now + self.below(20) * MS;
                self.plan(at, i, Event::Input(Input::Prepared { term: claim.term, done: true }));
            }
            Order::OpenGate(claim) => self.open(i, claim),
            // Writes that are on the wire end one by one, whatever is done next.
            Order::CloseGate(StepDown::Shutdown | StepDown::Fenced) => {
                let at = self.now + self.below(500) * MS;
                self.replicas[i].drained_at = self.replicas[i].drained_at.max(at);
                self.finish(i, at);
            }
            Order::CloseGate(reason) => {
                let impostor = reason == StepDown::Impostor && self.faults.mutant.is_none();
                assert!(!impostor, "there is none in this world");
                self.finish(i, self.now);
            }
            Order::WaitDrain => {
                let at = self.replicas[i].drained_at.max(self.now);
                self.plan(at, i, Event::Drained);
            }
            Order::End(_) => self.end(i),
            _ => {}
        }
    }

    fn open(&mut self, i: usize, claim: Claim) {
        let to = self.real(i, claim.ends);
        match &mut self.replicas[i].reign {
            Some(reign) if reign.term == claim.term && self.now <= reign.to => reign.to = to,
            _ => {
                self.finish(i, self.now);
                self.replicas[i].reign = Some(Reign {
                    holder: claim.holder,
                    term: claim.term,
                    from: self.now,
                    to: to.max(self.now),
                });
            }
        }
    }

    /// No write of this replica is possible after `at`.
    fn finish(&mut self, i: usize, at: u64) {
        if let Some(mut reign) = self.replicas[i].reign.take() {
            reign.to = reign.to.min(at);
            self.reigns.push(reign);
        }
    }

    /// Writes that a shutdown was still waiting for end with the process too.
    fn cut_short(&mut self, i: usize) {
        for reign in self.reigns.iter_mut().filter(|reign| reign.holder == self.replicas[i].identity) {
            reign.to = reign.to.min(self.now);
        }
    }

    fn end(&mut self, i: usize) {
        self.finish(i, self.now);
        let replica = &mut self.replicas[i];
        replica.elector = None;
        let at = self.now + replica.restart_after * MS;
        self.plan(at, i, Event::Start);
    }

    fn deed(&mut self, deed: Deed) {
        match deed {
            Deed::Pause(i, ms) => {
                let until = self.now + ms * MS;
                // What others hear of a process that is stopped.
                self.tell_of_pulse(i, Input::Silent(self.replicas[i].identity.clone()));
                self.replicas[i].stopped_until = self.replicas[i].stopped_until.max(until);
            }
            Deed::Cut(i, ms) => self.replicas[i].cut_until = self.now + ms * MS,
            Deed::Kill(i, after) if self.replicas[i].elector.is_some() => {
                self.replicas[i].restart_after = after;
                self.tell_of_pulse(i, Input::Died(self.replicas[i].identity.clone()));
                self.cut_short(i);
                self.end(i);
            }
            Deed::Fence(i) => {
                if let Some(reign) = &self.replicas[i].reign {
                    let (term, incarnation) = (reign.term, self.replicas[i].incarnation);
                    self.plan_for(self.now, i, incarnation, Event::Input(Input::Fenced(term)));
                }
            }
            Deed::Shutdown(i, after) if self.replicas[i].elector.is_some() => {
                self.replicas[i].restart_after = after;
                let incarnation = self.replicas[i].incarnation;
                self.plan_for(self.now, i, incarnation, Event::Input(Input::Shutdown));
            }
            Deed::Delete if !self.deleted && self.replicas.iter().all(|replica| replica.has_seen) => {
                self.deleted = true;
                self.version += 1;
                self.lease = None;
                self.tell_watches(Copy::Absent { at: Some(self.version) });
            }
            Deed::Touch => self.edit(|lease| {
                lease.metadata.annotations.insert("touched".to_owned(), "yes".to_owned());
            }),
            Deed::Empty => self.edit(|lease| lease.spec.holder_identity = None),
            Deed::Rename => {
                self.edit(|lease| lease.spec.holder_identity = Some("nobody-you-know".to_owned()))
            }
            Deed::Shorten => self.edit(|lease| lease.spec.lease_duration_seconds = Some(2)),
            Deed::Kill(..) | Deed::Shutdown(..) | Deed::Delete => {}
        }
    }

    /// What the other replicas learn from the pulse of replica `i`, within milliseconds,
    /// each of them perhaps. It comes by a connection of its own: no API server is needed.
    fn tell_of_pulse(&mut self, i: usize, input: Input) {
        for other in (0..self.replicas.len()).filter(|other| *other != i) {
            if self.chance(self.faults.evidence) {
                let (at, incarnation) =
                    (self.now + (1 + self.below(30)) * MS, self.replicas[other].incarnation);
                self.plan_for(at, other, incarnation, Event::Input(input.clone()));
            }
        }
    }

    fn edit(&mut self, edit: impl FnOnce(&mut Lease)) {
        if let Some(mut lease) = self.lease.take() {
            // Emptying what a release wrote, and such, is no edit but a forged release.
            if !lease.is_released() {
                edit(&mut lease);
            }
            self.store(lease);
        }
    }

    fn store(&mut self, mut lease: Lease) -> Arc<Lease> {
        self.version += 1;
        lease.metadata.resource_version = Some(self.version.to_string());
        self.lease = Some(lease.clone());
        let lease = Arc::new(lease);
        self.tell_watches(Copy::Present(lease.clone()));
        lease
    }

    fn tell_watches(&mut self, copy: Copy) {
        for i in 0..self.replicas.len() {
            let incarnation = self.replicas[i].incarnation;
            self.answer(i, incarnation, Input::Observed(copy.clone()));
        }
    }

    /// A write reaches the API server, which compares and swaps.
    fn arrive(&mut self, i: usize, incarnation: u64, write: Write) {
        let same = |base: &Lease, lease: &Lease| {
            let unconditional = base.metadata.resource_version.is_none();
            (unconditional || base.metadata.resource_version == lease.metadata.resource_version)
                && base.metadata.annotations.get("uid") == lease.metadata.annotations.get("uid")
        };
        let result = match (&write.base, &self.lease) {
            (None, Some(_)) => Err(Failure::Conflict),
            (Some(_), None) => Err(Failure::Absent),
            (Some(base), Some(lease)) if !same(base, lease) => Err(Failure::Conflict),
            (base, _) => {
                let wall = Timestamp::from_nanosecond(i128::from(self.now)).expect("runs are short");
                let mut lease = Lease::written(&write, "ns", "windlass", wall);
                if base.is_none() {
                    self.uid += 1;
                    lease.metadata.annotations.insert("uid".to_owned(), self.uid.to_string());
                }
                Ok(self.store(lease))
            }
        };
        self.answer(i, incarnation, Input::Answered { id: write.id, result });
    }

    fn answer(&mut self, i: usize, incarnation: u64, input: Input) {
        if let Some(at) = self.travel(i) {
            self.plan_for(at, i, incarnation, Event::Input(input));
        }
    }

    fn send(&mut self, i: usize, event: Event) {
        if let Some(at) = self.travel(i) {
            self.plan(at, i, event);
        }
    }

    /// When a message to or from replica `i` arrives, if it does.
    fn travel(&mut self, i: usize) -> Option<u64> {
        let quick = self.now + (1 + self.below(15)) * MS;
        if self.now > self.faults.until_ms * MS {
            return Some(quick);
        }
        if self.now < self.replicas[i].cut_until || self.chance(self.faults.loss) {
            return None;
        }
        if self.chance(self.faults.slow) {
            return Some(self.now + self.below(4_000) * MS);
        }
        Some(quick)
    }

    fn deadline(&mut self, i: usize, id: u64, timeout: Duration) {
        let at = self.real(i, self.local(i).plus(timeout));
        self.plan(at, i, Event::Input(Input::Answered { id, result: Err(Failure::Unknown) }));
    }

    fn plan(&mut self, at: u64, i: usize, event: Event) {
        self.plan_for(at, i, self.replicas[i].incarnation, event);
    }

    fn plan_for(&mut self, at: u64, i: usize, incarnation: u64, event: Event) {
        self.count += 1;
        self.queue.insert((at, self.count), (i, incarnation, event));
    }

    /// What the clock of replica `i` shows now.
    fn local(&self, i: usize) -> BootTime {
        BootTime(scale(self.now, self.replicas[i].rate_ppm) + 1_000_000 * MS * (i as u64 + 1))
    }

    /// When the clock of replica `i` will show `at`, rounded up.
    fn real(&self, i: usize, at: BootTime) -> u64 {
        let local = at.0.saturating_sub(1_000_000 * MS * (i as u64 + 1));
        let rate = 1_000_000 + self.replicas[i].rate_ppm;
        let real = u128::from(local) * 1_000_000 / u128::try_from(rate).expect("rates are near one");
        u64::try_from(real).expect("runs are short") + 1
    }

    fn roll(&mut self) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.random ^ (self.random >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        mixed ^ (mixed >> 29)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.roll() % most.max(1)
    }

    fn chance(&mut self, thousandths: u64) -> bool {
        self.below(1_000) < thousandths
    }
}

impl Replica {
    fn new(rate_ppm: i64) -> Self {
        Self {
            elector: None,
            identity: "".into(),
            incarnation: 0,
            wakes: 0,
            stopped_until: 0,
            cut_until: 0,
            rate_ppm,
            reign: None,
            restart_after: 0,
            drained_at: 0,
            has_seen: false,
        }
    }
}

impl Deed {
    fn replica(self) -> usize {
        match self {
            Deed::Pause(i, _)
            | Deed::Kill(i, _)
            | Deed::Shutdown(i, _)
            | Deed::Cut(i, _)
            | Deed::Fence(i) => i,
            Deed::Touch | Deed::Empty | Deed::Rename | Deed::Shorten | Deed::Delete => 0,
        }
    }
}

fn scale(time: u64, ppm: i64) -> u64 {
    let rate = u128::try_from(1_000_000 + ppm).expect("rates are near one");
    u64::try_from(u128::from(time) * rate / 1_000_000).expect("runs are short")
}
