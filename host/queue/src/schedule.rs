//! Random schedules in simulated time: two plugins that always have work, one with passes of
//! about 1 ms and one with passes of about 50 ms, whose keys come back as urgent as chance has it.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::urgency::Urgency;

use crate::entry::{Ended, Place};
use crate::lanes::Lanes;
use crate::state::State;

/// Turns of a plugin within which each urgency that has a key ready gets one.
const TURNS_MOST: usize = 16;
/// How long the passes of both take together.
const WORK: Duration = Duration::from_secs(5);
/// The longest pass.
const LONGEST: Duration = Duration::from_millis(60);

/// What happens by chance, again and again.
#[derive(Clone, Copy, Debug)]
struct Chance {
    /// As how urgent the key comes back whose pass has ended.
    urgency: Urgency,
    /// How long its pass took, of the usual time.
    percent: u32,
    /// As how urgent which key is offered on top of that.
    event: (usize, Urgency),
}

fn urgency() -> impl Strategy<Value = Urgency> {
    proptest::sample::select(&Urgency::ALL[1..])
}

fn chance() -> impl Strategy<Value = Chance> {
    (urgency(), 80..=120u32, (0..200usize, urgency())).prop_map(|(urgency, percent, event)| Chance {
        urgency,
        percent,
        event,
    })
}

struct Simulation {
    state: State,
    now: Instant,
    slots: usize,
    /// When which pass ends, and when it began.
    running: BTreeSet<(Instant, Key, Instant)>,
    spent: BTreeMap<PluginName, Duration>,
    /// Turns of a plugin since this urgency had one, while a key of it was ready.
    waited: BTreeMap<(PluginName, Urgency), usize>,
}

fn key(plugin: &str, n: usize) -> Key {
    Key::new(PluginName::try_new(plugin).expect("valid"), "ns", format!("k{n}"))
}

impl Simulation {
    fn new(slots: usize, told: bool, keys: usize) -> Self {
        let lanes = Lanes::new(NonZeroUsize::new(slots).filter(|_| told), None);
        let now = Instant::now();
        let mut state = State::new(false, false, lanes);
        for n in 0..keys {
            state.offer(key("fast", n), now, Urgency::Startup, now);
            state.offer(key("slow", n), now, Urgency::Startup, now);
        }
        let (running, spent, waited) = Default::default();
        Self { state, now, slots, running, spent, waited }
    }

    fn begin(&mut self, chance: Chance) -> bool {
        if self.running.len() == self.slots {
            return false;
        }
        let ready: Vec<_> = (self.state.entries.iter())
            .filter(|(_, entry)| matches!(entry.place, Place::Ready { .. }))
            .map(|(key, entry)| (key.clone(), entry.urgency))
            .collect();
        let Some(taken) = self.state.take(self.now) else {
            return false;
        };
        let of = ready.iter().filter(|(key, _)| key.plugin == taken.key.plugin);
        let took = ready.iter().find(|(key, _)| *key == taken.key).map(|(_, urgency)| *urgency);
        let there: BTreeSet<Urgency> = of.map(|(_, urgency)| *urgency).collect();
        for urgency in Urgency::ALL {
            let waited = self.waited.entry((taken.key.plugin.clone(), urgency)).or_default();
            *waited = if took == Some(urgency) || !there.contains(&urgency) { 0 } else { *waited + 1 };
            assert!(*waited < TURNS_MOST, "{urgency:?} keys of {} starve", taken.key.plugin);
        }
        let usual = if taken.key.plugin.as_str() == "slow" { 50_000 } else { 1_000 };
        let ends = self.now + Duration::from_micros(usual) * chance.percent / 100;
        let twice = self.running.iter().any(|(_, running, _)| *running == taken.key);
        assert!(!twice, "{} runs twice at once", taken.key);
        self.running.insert((ends, taken.key, self.now));
        true
    }

    fn end(&mut self, chance: Chance, keys: usize) {
        let (now, key, began) = self.running.pop_first().expect("both always have work");
        self.now = now;
        self.state.finish(&key, Ended::OnChange, None, now);
        *self.spent.entry(key.plugin.clone()).or_default() += now - began;
        let (n, urgency) = chance.event;
        let other = Key { name: format!("k{}", n % keys).into(), ..key.clone() };
        self.state.offer(key, now, chance.urgency, now);
        self.state.offer(other, now, urgency, now);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn time_is_shared_evenly_no_urgency_starves_and_no_key_is_lost(
        slots in 1..=8usize,
        told in any::<bool>(),
        keys in 10..40usize,
        chances in vec(chance(), 50..100),
    ) {
        let mut simulation = Simulation::new(slots, told, keys);
        for chance in chances.iter().cycle() {
            while simulation.begin(*chance) {}
            simulation.end(*chance, keys);
            if simulation.spent.values().sum::<Duration>() >= WORK {
                break;
            }
        }
        assert_eq!(simulation.state.entries.len(), 2 * keys, "each of them is somewhere");
        let spent = |name: &str| simulation.spent.get(&key(name, 0).plugin).copied().unwrap_or_default();
        let apart = spent("fast").abs_diff(spent("slow"));
        // What runs when it is looked at counts for neither.
        assert!(apart <= LONGEST * (slots as u32 + 1), "{:?} {:?}", spent("fast"), spent("slow"));
    }
}
