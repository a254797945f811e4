//! What may happen in one run of the checker, how far it looks, and what has to hold.
//!
//! Two starts: nothing is installed and all begin at once, or one leads and two stand by.
//! A message that is never answered is one that is late for ever, so loss needs no step of
//! its own: an abandoned request stays in the bag and may arrive at any time or never.

use std::sync::Arc;
use std::time::Duration;

use stateright::{Model, Property};
use windlass_core::claim::{BootTime, Term};
use windlass_lease::durations::Durations;
use windlass_lease::elector::{Elector, Settings};
use windlass_lease::mutant::Mutant;
use windlass_lease::step::Input;

use crate::deeds::Action;
use crate::world::{Budget, Candidate, Hold, Object, Past, Server, World, flag};

const SECOND: u64 = 1_000_000_000;

/// The time of day at the first tick, in seconds.
pub(crate) const WALL_SECONDS: i64 = 1_700_000_000;

/// A change of the Lease or of the claim Role by a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Edit {
    Delete,
    Empty,
    Rename,
    Shorten,
    Junk,
    Lower,
    DeleteRole,
}

/// What can go wrong with one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It stops, and goes on some time later.
    Pause,
    /// It is cut off from the API server: what is on the wire comes late or never.
    Cut,
    /// A connection breaks under a request, which may have been carried out.
    Reset,
    /// A write arrives twice.
    Repeat,
    /// It is told to end.
    Shutdown,
}

/// What standbys are told of other processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// Nothing: the lease time rules.
    None,
    /// Of a process that has ended, that it died.
    True,
    /// That, and of a process that is stopped, that it is silent.
    AndSilence,
}

/// One model.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// How fast each clock runs, in thousandths of true time. As many as there are candidates.
    pub(crate) rates: Vec<u64>,
    /// How far each clock's time of day is ahead, in seconds.
    pub(crate) walls: [i64; 3],
    /// Whether the rates differ by no more than the durations allow for.
    pub(crate) in_bounds: bool,
    pub(crate) ticks: u8,
    pub(crate) budget: Budget,
    pub(crate) faults: &'static [Fault],
    pub(crate) edits: &'static [Edit],
    pub(crate) evidence: Evidence,
    /// How many API servers there are, each with an authorizer of its own.
    pub(crate) servers: u8,
    /// Whether an authorizer may be late by more than the writes of the same instant.
    pub(crate) slow_fence: bool,
    /// Whether acquisitions go through the claim Role.
    pub(crate) role: bool,
    /// Whether the API server refuses writes of other claims than the Role's.
    pub(crate) fence: bool,
    /// Whether the writes of objects carry a version.
    pub(crate) versions: bool,
    pub(crate) mutant: Option<Mutant>,
    /// Whether to begin also with nothing installed.
    pub(crate) cold: bool,
}

impl Scenario {
    /// Nothing goes wrong for eight ticks, with one slow clock, one fast one, and a true one.
    pub(crate) fn calm() -> Self {
        Self {
            rates: vec![990, 1009, 1000],
            walls: [0; 3],
            in_bounds: true,
            ticks: 8,
            budget: Budget { faults: 0, crashes: 0, starts: 0, edits: 0, writes: 0 },
            faults: &[Fault::Pause, Fault::Cut, Fault::Reset, Fault::Repeat, Fault::Shutdown],
            edits: &[],
            evidence: Evidence::True,
            servers: 1,
            slow_fence: false,
            role: true,
            fence: true,
            versions: true,
            mutant: None,
            cold: false,
        }
    }

    /// The tightest durations that are accepted: what is counted from a wrong instant
    /// shows. A tick is a second, so a claim lasts for ticks 0, 1 and 2, and a lease
    /// that was seen at 0 is free at 3 for a fast clock and at 4 for others.
    fn durations() -> Durations {
        let ms = Duration::from_millis;
        Durations::try_new(ms(3_000), ms(2_940), ms(900)).expect("within the margin")
    }

    /// What the clock of candidate `index` shows.
    pub(crate) fn clock(&self, index: usize, tick: u8) -> BootTime {
        BootTime(self.boot(index) + u64::from(tick) * self.rates[index] * (SECOND / 1_000))
    }

    /// What it shows at tick 0.
    fn boot(&self, index: usize) -> u64 {
        (index as u64 + 1) * 1_000_000 * SECOND
    }

    fn settings(&self, index: usize, identity: Arc<str>) -> Settings {
        let mutant = self.mutant.map(|mutant| match mutant {
            Mutant::WallClock { .. } => {
                let boot_ms = i64::try_from(self.boot(index) / 1_000_000).expect("small");
                Mutant::WallClock { zero_ms: (WALL_SECONDS + self.walls[index]) * 1_000 - boot_ms }
            }
            other => other,
        });
        Settings { identity, durations: Self::durations(), elect: true, seed: 0, pulse: None, mutant }
    }

    /// A process begins at place `index`, which is empty.
    pub(crate) fn start(&self, w: &mut World, index: usize) {
        let life = w.candidates[index].life + 1;
        let identity: Arc<str> = format!("{}{life}", char::from(b'a' + index as u8)).into();
        let elector = Elector::new(self.settings(index, identity.clone()), self.clock(index, w.tick));
        w.candidates[index] = Candidate { life, identity, elector: Some(elector), ..Candidate::none() };
        self.tell(w, index, Input::Tick);
    }

    fn empty(&self) -> World {
        World {
            tick: 0,
            candidates: self.rates.iter().map(|_| Candidate::none()).collect(),
            net: Vec::new(),
            server: Server {
                lease: None,
                version: 0,
                role: None,
                fences: vec![None; usize::from(self.servers)],
                object: Object { version: 0, term: Term(0) },
            },
            left: self.budget.clone(),
            past: Past::default(),
        }
    }

    /// The first leads, and the others have seen it.
    fn warm_start(&self) -> World {
        let mut w = self.empty();
        self.start(&mut w, 0);
        self.settle(&mut w);
        // A free Lease is taken after some milliseconds: at the next tick.
        w.tick = 1;
        self.settle(&mut w);
        for index in 1..w.candidates.len() {
            self.start(&mut w, index);
        }
        self.settle(&mut w);
        assert!(w.candidates[0].gate.is_some(), "the first one leads: {w:#?}");
        w
    }

    fn cold_start(&self) -> World {
        let mut w = self.empty();
        (0..w.candidates.len()).for_each(|index| self.start(&mut w, index));
        w
    }

    /// Lets everything happen that is due, in some order.
    fn settle(&self, w: &mut World) {
        loop {
            let mut due = Vec::new();
            self.due(w, &mut due);
            let Some(action) = due.into_iter().next() else {
                return;
            };
            self.act(w, action);
        }
    }

    /// Whether candidate `index` may be writing: its gate is open, or a write is on the wire.
    fn may_write(&self, w: &World, index: usize) -> bool {
        let (candidate, now) = (&w.candidates[index], self.clock(index, w.tick));
        [&candidate.gate, &candidate.permit].into_iter().flatten().any(|open| now < open.ends)
    }

    fn writers(&self, w: &World) -> usize {
        (0..w.candidates.len()).filter(|&index| self.may_write(w, index)).count()
    }
}

impl Candidate {
    fn none() -> Self {
        Self {
            life: 0,
            identity: "".into(),
            elector: None,
            wake_at: None,
            pending: None,
            preparing: None,
            gate: None,
            permit: None,
            watch: Vec::new(),
            told: 0,
            paused: Hold::No,
            cut: Hold::No,
            draining: false,
            ending: false,
        }
    }
}

/// Names of the properties.
pub(crate) mod name {
    pub(crate) const ONE: &str = "no two may write at once";
    pub(crate) const UNIQUE: &str = "no term is given twice";
    pub(crate) const RISE: &str = "terms rise";
    pub(crate) const FENCED: &str = "no earlier term overwrites a later one";
    pub(crate) const RELEASE: &str = "a release follows the last write";
    pub(crate) const CALM: &str = "requests are few";
    pub(crate) const END: &str = "time goes on to the end";
    pub(crate) const AGAIN: &str = "somebody leads after a crash";
    pub(crate) const EVIDENCE: &str = "evidence is faster than the lease";
    pub(crate) const LATE: &str = "a write of an earlier claim is refused";
    pub(crate) const OVERTAKEN: &str = "an admitted write is overtaken";
}

impl Model for Scenario {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        let mut starts = vec![self.warm_start()];
        if self.cold {
            starts.push(self.cold_start());
        }
        starts
    }

    fn actions(&self, w: &World, actions: &mut Vec<Action>) {
        self.due(w, actions);
        if let Some(lone) = self.lone_observer(w) {
            actions.clear();
            actions.push(Action::Observe(lone));
            return self.faults_for(w, lone, true, actions);
        }
        let due = actions.clone();
        if due.is_empty() && w.tick < self.ticks {
            actions.push(Action::Advance);
        }
        self.possible(w, &due, actions);
    }

    fn next_state(&self, last: &World, action: Action) -> Option<World> {
        let mut w = last.clone();
        self.act(&mut w, action);
        Some(w)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always(name::FENCED, |_, w| w.past.flags & flag::SET_BACK == 0),
            Property::<Self>::always(name::UNIQUE, |_, w| w.past.flags & flag::TERM_TWICE == 0),
            Property::<Self>::always(name::RELEASE, |_, w| w.past.flags & flag::EARLY_RELEASE == 0),
            Property::<Self>::always(name::CALM, |_, w| w.is_calm()),
            Property::<Self>::sometimes(name::END, |model, w| w.tick == model.ticks),
        ];
        if self.in_bounds {
            properties.push(Property::<Self>::always(name::ONE, |model, w| model.writers(w) < 2));
            properties.push(Property::<Self>::always(name::RISE, |_, w| w.past.flags & flag::TERM_FELL == 0));
        }
        if self.budget.crashes > 0 {
            properties
                .push(Property::<Self>::sometimes(name::AGAIN, |_, w| w.past.flags & flag::LED_AGAIN != 0));
        }
        if self.budget.crashes > 0 && self.evidence != Evidence::None {
            properties.push(Property::<Self>::sometimes(name::EVIDENCE, |_, w| {
                w.past.flags & flag::BY_EVIDENCE != 0
            }));
        }
        // Otherwise no write need ever outlive its term.
        let outlived = self.budget.crashes > 0 || !self.in_bounds;
        if self.budget.writes > 1 && self.fence && outlived {
            properties.push(Property::<Self>::sometimes(name::LATE, |_, w| w.past.flags & flag::FENCED != 0));
            properties.push(Property::<Self>::sometimes(name::OVERTAKEN, |_, w| {
                w.past.flags & flag::OVERTAKEN != 0
            }));
        }
        properties
    }
}
