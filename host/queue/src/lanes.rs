//! Which key is next: a lane for each plugin, and turns between them.
//!
//! The plugin with the fewest keys in work goes first, and among equals the one
//! that has waited longest. So a plugin with ten thousand keys, or with slow
//! ones, never keeps another from its share of the slots.

use std::collections::{BTreeMap, VecDeque};

use windlass_core::key::Key;
use windlass_core::name::PluginName;

/// How soon a key wants to be looked at among those of its own plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// A standby found that it is not as it should be: first when that one leads.
    Takeover,
    /// Something changed, or a pause ran out.
    Change,
    /// Nothing is known to have changed: a resync.
    Resync,
}

/// One key in so many is the oldest resync even though changes wait, so that a
/// plugin whose objects never rest still gets through its resyncs.
const RESYNC_SHARE: u64 = 8;

/// The keys that are ready, in lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: BTreeMap<PluginName, Lane>,
    /// Plugins whose lane is not empty, the one that waited longest first.
    turns: VecDeque<PluginName>,
    ready: usize,
}

#[derive(Debug, Default)]
struct Lane {
    ready: BTreeMap<(Urgency, u64), Key>,
    in_work: usize,
    taken: u64,
}

impl Lanes {
    /// Adds a key at its place; `order` is unique and rises with time.
    pub(crate) fn push(&mut self, key: Key, urgency: Urgency, order: u64) {
        let lane = self.lanes.entry(key.plugin.clone()).or_default();
        if lane.ready.is_empty() {
            self.turns.push_back(key.plugin.clone());
        }
        lane.ready.insert((urgency, order), key);
        self.ready += 1;
    }

    /// Takes the key at this place out again.
    pub(crate) fn remove(&mut self, plugin: &PluginName, urgency: Urgency, order: u64) {
        let Some(lane) = self.lanes.get_mut(plugin) else {
            return;
        };
        if lane.ready.remove(&(urgency, order)).is_some() {
            self.ready -= 1;
            if lane.ready.is_empty() {
                self.turns.retain(|p| p != plugin);
                self.tidy(plugin);
            }
        }
    }

    /// Takes the key whose turn it is, and counts it as in work.
    pub(crate) fn take(&mut self) -> Option<Key> {
        let in_work = |lanes: &Self, at: usize| lanes.lanes[&lanes.turns[at]].in_work;
        // min_by_key answers the first of equals: the one that waited longest.
        let at = (0..self.turns.len()).min_by_key(|at| in_work(self, *at))?;
        let plugin = self.turns.remove(at)?;
        let lane = self.lanes.get_mut(&plugin)?;
        let key = lane.take()?;
        self.ready -= 1;
        if !lane.ready.is_empty() {
            self.turns.push_back(plugin);
        }
        Some(key)
    }

    /// A key that was taken is no longer in work.
    pub(crate) fn done(&mut self, plugin: &PluginName) {
        if let Some(lane) = self.lanes.get_mut(plugin) {
            lane.in_work = lane.in_work.saturating_sub(1);
            self.tidy(plugin);
        }
    }

    /// Keys that are ready.
    pub(crate) fn len(&self) -> usize {
        self.ready
    }

    fn tidy(&mut self, plugin: &PluginName) {
        if self.lanes.get(plugin).is_some_and(|l| l.ready.is_empty() && l.in_work == 0) {
            self.lanes.remove(plugin);
        }
    }
}

impl Lane {
    fn take(&mut self) -> Option<Key> {
        self.taken += 1;
        self.in_work += 1;
        // What waits for a takeover is soon worked off, and nothing goes before it.
        let takeover = self.ready.first_key_value().is_some_and(|(place, _)| place.0 == Urgency::Takeover);
        if self.taken.is_multiple_of(RESYNC_SHARE) && !takeover {
            let oldest = self.ready.range((Urgency::Resync, 0)..).next();
            if let Some(place) = oldest.map(|(place, _)| *place) {
                return self.ready.remove(&place);
            }
        }
        self.ready.pop_first().map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(plugin: &str, name: &str) -> Key {
        Key::new(PluginName::try_new(plugin).expect("valid"), "ns", name)
    }

    fn lanes(keys: &[(&str, &str, Urgency)]) -> Lanes {
        let mut lanes = Lanes::default();
        for (order, (plugin, name, urgency)) in keys.iter().enumerate() {
            lanes.push(key(plugin, name), *urgency, order as u64);
        }
        lanes
    }

    fn names(lanes: &mut Lanes, n: usize) -> String {
        let names: Vec<_> = (0..n).map_while(|_| lanes.take()).map(|k| k.name.to_string()).collect();
        names.join(" ")
    }

    use Urgency::{Change, Resync, Takeover};

    #[test]
    fn a_plugin_with_few_keys_does_not_queue_behind_one_with_many() {
        let mut lanes = lanes(&[
            ("a", "a1", Change),
            ("a", "a2", Change),
            ("a", "a3", Change),
            ("b", "b1", Change),
            ("b", "b2", Change),
        ]);
        assert_eq!(names(&mut lanes, 9), "a1 b1 a2 b2 a3");
        assert_eq!(lanes.len(), 0);
    }

    #[test]
    fn a_plugin_whose_passes_are_slow_does_not_take_the_slots_of_another() {
        let mut lanes = lanes(&[("slow", "s1", Change), ("slow", "s2", Change), ("slow", "s3", Change)]);
        assert_eq!(names(&mut lanes, 2), "s1 s2");
        for order in 10..13 {
            lanes.push(key("fast", "f"), Change, order);
        }
        for _ in 0..3 {
            assert_eq!(names(&mut lanes, 1), "f");
            lanes.done(&key("fast", "f").plugin);
        }
        assert_eq!(names(&mut lanes, 1), "s3");
    }

    #[test]
    fn changes_go_before_resyncs_but_never_starve_them() {
        let mut keys = vec![("a", "r", Resync)];
        keys.extend((0..9).map(|_| ("a", "c", Change)));
        assert_eq!(names(&mut lanes(&keys), 10), "c c c c c c c r c c");
    }

    #[test]
    fn nothing_goes_before_what_waits_for_a_takeover() {
        let mut keys = vec![("a", "r", Resync), ("a", "c", Change)];
        keys.extend((0..9).map(|_| ("a", "t", Takeover)));
        assert_eq!(names(&mut lanes(&keys), 11), "t t t t t t t t t c r");
    }

    #[test]
    fn a_lane_that_is_empty_leaves_nothing_behind() {
        let mut lanes = lanes(&[("a", "a1", Change), ("b", "b1", Change)]);
        lanes.remove(&key("a", "").plugin, Change, 0);
        let b = lanes.take().expect("one is left");
        lanes.done(&b.plugin);
        assert!(lanes.lanes.is_empty() && lanes.turns.is_empty());
    }
}
