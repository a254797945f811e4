//! Random orders of everything that can happen to the machine, against a model
//! that knows only who runs, who is owed a pass and how many may run at once.

use std::collections::BTreeSet;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::Instant;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::urgency::Urgency;

use crate::entry::{Ended, Place};
use crate::lanes::{Lanes, Rate};
use crate::state::{Sizes, State};

#[derive(Clone, Debug)]
enum Op {
    Offer(u8, u64, Urgency),
    Take,
    Finish(u8, u8, u64),
    Advance(u64),
    Forget(u8),
    Paused(bool),
    Lead,
    StandBy,
    Discard(u8),
    Bound(u8, Option<NonZeroUsize>),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..12u8, prop_oneof![Just(0u64), 1..5000u64], select(&Urgency::ALL[1..])).prop_map(|(k, ms, u)| Op::Offer(k, ms, u)),
        6 => Just(Op::Take),
        5 => (any::<u8>(), 0..5u8, 0..3000u64).prop_map(|(i, how, ms)| Op::Finish(i, how, ms)),
        4 => (0..4000u64).prop_map(Op::Advance),
        1 => (0..3u8).prop_map(Op::Forget),
        1 => any::<bool>().prop_map(Op::Paused),
        1 => Just(Op::Lead),
        2 => Just(Op::StandBy),
        1 => any::<u8>().prop_map(Op::Discard),
        1 => (0..3u8, 0..4usize).prop_map(|(p, most)| Op::Bound(p, NonZeroUsize::new(most))),
    ]
}

fn plugin(n: u8) -> PluginName {
    PluginName::try_new(&format!("p{}", n % 3)).expect("valid")
}

fn key(n: u8) -> Key {
    Key::new(plugin(n), "ns", format!("k{n}"))
}

fn ended(how: u8, pause: Duration) -> Ended {
    match how {
        0 => Ended::OnChange,
        1 => Ended::After(pause),
        2 => Ended::Postponed(pause),
        3 => Ended::WhenLeading(Urgency::Takeover),
        _ => Ended::Backoff { pause, floor: pause / 2 },
    }
}

struct Model {
    state: State,
    now: Instant,
    running: Vec<Key>,
    /// Of these, those whose plugin was forgotten and that were not offered since.
    forgotten: BTreeSet<Key>,
    owed: BTreeSet<Key>,
}

impl Model {
    fn take(&mut self) -> bool {
        let room: Vec<_> =
            (0..3).map(plugin).filter(|plugin| self.state.has_room(plugin, self.now)).collect();
        let Some(taken) = self.state.take(self.now) else {
            assert!(self.state.is_paused() || self.nobody_may_run(), "a slot stays empty: {:?}", self.state);
            return false;
        };
        assert!(!self.running.contains(&taken.key), "{} runs twice at once", taken.key);
        assert!(room.contains(&taken.key.plugin), "{} is above its plugin's bound or rate", taken.key);
        self.owed.remove(&taken.key);
        self.running.push(taken.key);
        true
    }

    /// Whether every key that is ready is of a plugin at its bound or its rate.
    fn nobody_may_run(&self) -> bool {
        let ready = self.state.entries.iter().filter(|(_, entry)| matches!(entry.place, Place::Ready { .. }));
        !ready.into_iter().any(|(key, _)| self.state.has_room(&key.plugin, self.now))
    }

    fn finish(&mut self, at: u8, how: u8, ms: u64) {
        if self.running.is_empty() {
            return;
        }
        let key = self.running.swap_remove(usize::from(at) % self.running.len());
        let at_least = (ms.is_multiple_of(7)).then(|| Duration::from_millis(ms / 2));
        self.state.finish(&key, ended(how, Duration::from_millis(ms)), at_least, self.now);
        if !self.forgotten.remove(&key) && how != 0 {
            self.owed.insert(key);
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Offer(k, ms, urgency) => {
                let at = self.now + Duration::from_millis(ms);
                self.state.offer(key(k), at, urgency, self.now);
                self.owed.insert(key(k));
                self.forgotten.remove(&key(k));
            }
            Op::Take => {
                self.take();
            }
            Op::Finish(at, how, ms) => self.finish(at, how, ms),
            Op::Advance(ms) => self.now += Duration::from_millis(ms),
            Op::Forget(p) => {
                self.state.forget_plugin(&plugin(p));
                self.owed.retain(|k| k.plugin != plugin(p));
                let running = self.running.iter().filter(|k| k.plugin == plugin(p));
                self.forgotten.extend(running.cloned());
            }
            Op::Paused(paused) => self.state.set_paused(paused),
            Op::Lead => self.state.lead(self.now),
            Op::StandBy => self.state.stand_by(),
            Op::Discard(at) => {
                let waiting = self.state.waiting();
                if let Some(one) = waiting.get(usize::from(at) % waiting.len().max(1)) {
                    assert!(self.state.discard(one));
                    self.owed.remove(&one.key);
                }
            }
            Op::Bound(p, most) => self.state.bound(&plugin(p), most),
        }
    }

    /// Every count agrees with the entries, and every key that runs has one.
    fn check(&mut self) {
        let Sizes { ready, delayed, running, parked } = self.state.sizes(self.now);
        let count = |f: fn(&Place) -> bool| self.state.entries.values().filter(|e| f(&e.place)).count();
        assert_eq!(ready, count(|p| matches!(p, Place::Ready { .. })));
        assert_eq!(delayed, count(|p| matches!(p, Place::Delayed { .. })));
        assert_eq!(running, count(|p| matches!(p, Place::Running { .. })));
        assert_eq!(running, self.running.len());
        assert_eq!(parked, count(|p| matches!(p, Place::Parked { .. })));
        assert!(parked == 0 || self.state.is_standing_by(), "a leader's key rests");
        let stats = self.state.stats(self.now);
        assert_eq!(stats.values().map(|s| s.depth).sum::<usize>(), ready);
        assert_eq!(stats.values().map(|s| s.in_flight).sum::<usize>(), running);
    }

    /// Lets everything come to rest: whoever is owed a pass gets it.
    fn settle(mut self) {
        self.state.set_paused(false);
        self.state.lead(self.now);
        for _ in 0..100 {
            self.now += Duration::from_secs(10);
            while self.take() {}
            while !self.running.is_empty() {
                self.finish(0, 0, 1);
            }
        }
        assert_eq!(self.owed, BTreeSet::new(), "lost");
        assert!(self.state.entries.is_empty(), "left over: {:?}", self.state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn no_order_of_things_loses_a_key_or_runs_it_twice_at_once_or_beyond_its_bound(
        ops in vec(op(), 1..200),
        rate in 0..20u32,
    ) {
        let rate = NonZeroU32::new(rate).map(|per_second| Rate { per_second });
        let lanes = Lanes::new(NonZeroUsize::new(5), NonZeroUsize::new(3)).with_rate(rate);
        let mut model = Model {
            state: State::new(false, false, lanes),
            now: Instant::now(),
            running: Vec::new(),
            forgotten: BTreeSet::new(),
            owed: BTreeSet::new(),
        };
        for op in ops {
            model.apply(op);
            model.check();
        }
        model.settle();
    }
}
