//! Random orders of everything that can happen to the lanes, against the rule written
//! down as plainly as can be: look at everybody in line, one after the other. What each has
//! had is taken from the ledger, which has tests of its own.

use std::collections::{BTreeSet, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

impl Lanes {
    fn in_work_of(&self, plugin: &PluginName) -> usize {
        self.lanes.get(plugin).map_or(0, |lane| lane.in_work)
    }
}

/// Plugins that there are.
const PLUGINS: usize = 5;

#[derive(Clone, Debug)]
enum Op {
    Push(usize),
    Take,
    Done(usize, u64),
    Remove(usize),
    Bound(usize, usize),
    Contended(bool),
}

fn op() -> impl Strategy<Value = Op> {
    let plugin = 0..PLUGINS;
    prop_oneof![
        8 => plugin.clone().prop_map(Op::Push),
        8 => Just(Op::Take),
        5 => (plugin.clone(), 0..50u64).prop_map(|(plugin, ms)| Op::Done(plugin, ms)),
        1 => plugin.clone().prop_map(Op::Remove),
        1 => (plugin, 0..4usize).prop_map(|(plugin, most)| Op::Bound(plugin, most)),
        1 => any::<bool>().prop_map(Op::Contended),
    ]
}

fn plugin(n: usize) -> PluginName {
    PluginName::try_new(&format!("p{n}")).expect("valid")
}

fn number(plugin: &PluginName) -> usize {
    plugin.as_str()[1..].parse().expect("made by plugin()")
}

/// What the lanes should do.
#[derive(Default)]
struct Rule {
    /// Orders of the keys that are ready, a set for each plugin.
    ready: [BTreeSet<u64>; PLUGINS],
    in_work: [usize; PLUGINS],
    own: [usize; PLUGINS],
    contended: bool,
    /// Plugins with a ready key, the one whose last turn is longest ago first.
    line: VecDeque<usize>,
}

/// Slots, of which the last is kept.
const SLOTS: usize = 5;
/// The bound of those that have none of their own.
const MOST: usize = 2;

impl Rule {
    fn most(&self, plugin: usize) -> usize {
        match (self.own[plugin], self.contended) {
            (0, true) => MOST,
            (0, false) => usize::MAX,
            (own, _) => own,
        }
    }

    fn push(&mut self, plugin: usize, order: u64) {
        if self.ready[plugin].is_empty() {
            self.line.push_back(plugin);
        }
        self.ready[plugin].insert(order);
    }

    fn take(&mut self, had: impl Fn(usize) -> Duration) -> Option<(usize, u64)> {
        let last = self.contended && self.in_work.iter().sum::<usize>() + 1 >= SLOTS;
        let free = self.line.iter().copied().filter(|p| self.in_work[*p] < self.most(*p));
        // Of those that have had as much the first in line is the least.
        let plugin = free.filter(|p| !last || self.in_work[*p] == 0).min_by_key(|p| had(*p))?;
        self.line.retain(|p| *p != plugin);
        self.in_work[plugin] += 1;
        let order = self.ready[plugin].pop_first()?;
        if !self.ready[plugin].is_empty() {
            self.line.push_back(plugin);
        }
        Some((plugin, order))
    }

    fn remove(&mut self, plugin: usize) -> Option<u64> {
        let order = self.ready[plugin].pop_last()?;
        if self.ready[plugin].is_empty() {
            self.line.retain(|p| *p != plugin);
        }
        Some(order)
    }
}

fn apply(op: Op, order: u64, lanes: &mut Lanes, rule: &mut Rule) {
    match op {
        Op::Push(p) => {
            lanes.push(Key::new(plugin(p), "ns", order.to_string()), Urgency::Change, order);
            rule.push(p, order);
        }
        Op::Take => {
            let wanted = rule.take(|p| lanes.ledger.expected(&plugin(p), lanes.in_work_of(&plugin(p))));
            let taken = lanes.take(Instant::now());
            let taken = taken.map(|key| (number(&key.plugin), key.name.parse().expect("an order")));
            assert_eq!(taken, wanted);
        }
        Op::Done(p, _) if rule.in_work[p] == 0 => {}
        Op::Done(p, ms) => {
            lanes.done(&plugin(p), Duration::from_millis(ms));
            rule.in_work[p] -= 1;
            if !rule.ready[p].is_empty() {
                rule.line.retain(|other| *other != p);
                rule.line.push_back(p);
            }
        }
        Op::Remove(p) => {
            if let Some(order) = rule.remove(p) {
                lanes.remove(&plugin(p), Urgency::Change, order);
            }
        }
        Op::Bound(p, most) => {
            lanes.bound(&plugin(p), NonZeroUsize::new(most));
            rule.own[p] = most;
        }
        Op::Contended(contended) => {
            lanes.set_contended(contended);
            rule.contended = contended;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn whose_turn_it_is_is_what_the_rule_says(ops in vec(op(), 1..300)) {
        let (mut lanes, mut rule) = (Lanes::new(NonZeroUsize::new(SLOTS), NonZeroUsize::new(MOST)), Rule::default());
        for (order, op) in ops.into_iter().enumerate() {
            apply(op, order as u64, &mut lanes, &mut rule);
            assert_eq!(lanes.len(), rule.ready.iter().map(BTreeSet::len).sum::<usize>());
            assert!(lanes.line.all.len() <= rule.line.len(), "somebody is in line who has nothing");
            assert!(lanes.line.idle.len() <= lanes.line.all.len());
        }
        for p in 0..PLUGINS {
            while rule.remove(p).map(|order| lanes.remove(&plugin(p), Urgency::Change, order)).is_some() {}
            for _ in 0..rule.in_work[p] {
                lanes.done(&plugin(p), Duration::from_millis(1));
            }
        }
        assert!(lanes.lanes.is_empty() && lanes.line.all.is_empty() && lanes.line.idle.is_empty());
        assert_eq!(lanes.len(), 0);
    }
}
