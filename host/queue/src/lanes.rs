//! Which key is next: a lane for each plugin, and turns between them.
//!
//! The plugin with the fewest keys in work goes first, and among equals the one
//! whose last turn, begun or ended, is longest ago. So a plugin with ten thousand keys, or with slow
//! ones, never keeps another from its share of the slots. And no plugin has more
//! keys in work than its bound, and the last slot is only for a plugin that has
//! none ([`Shares`]), so that a slot is free for whoever comes next: without that
//! the first to come fill all of them, and the next one waits for a slow pass to
//! end.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

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
    /// Plugins that have a key ready and are below their bound, by keys in work and
    /// then by turn: the first is next.
    turns: BTreeMap<(usize, u64), PluginName>,
    /// Rises with each turn that is given out.
    turn: u64,
    ready: usize,
    in_work: usize,
    shares: Shares,
}

#[derive(Debug, Default)]
struct Lane {
    ready: BTreeMap<(Urgency, u64), Key>,
    in_work: usize,
    taken: u64,
    /// Its place among those with as many keys in work.
    turn: u64,
}

/// How many keys of one plugin may be in work at once.
#[derive(Debug, Default)]
struct Shares {
    /// How many keys of all plugins are in work at most, if that is known.
    slots: Option<NonZeroUsize>,
    /// For whoever has no bound of its own, while there is more than one plugin.
    most: Option<NonZeroUsize>,
    own: BTreeMap<PluginName, NonZeroUsize>,
    /// Whether there is more than one plugin.
    contended: bool,
}

impl Shares {
    fn of(&self, plugin: &PluginName) -> Option<NonZeroUsize> {
        self.own.get(plugin).copied().or(self.most.filter(|_| self.contended))
    }

    /// Whether a plugin with so many keys in work may have one more, of all that are.
    fn spare(&self, own: usize, all: usize) -> bool {
        let last = self.slots.is_some_and(|slots| all + 1 >= slots.get());
        own == 0 || !last || !self.contended
    }
}

impl Lanes {
    /// No keys. Of `slots` the last one is kept for a plugin that has none; `most` bounds
    /// whoever has no bound of its own.
    pub(crate) fn new(slots: Option<NonZeroUsize>, most: Option<NonZeroUsize>) -> Self {
        Self { shares: Shares { slots, most, ..Shares::default() }, ..Self::default() }
    }

    /// Adds a key at its place; `order` is unique and rises with time.
    pub(crate) fn push(&mut self, key: Key, urgency: Urgency, order: u64) {
        self.turn += 1;
        let turn = self.turn;
        self.ready += 1;
        self.change(&key.plugin.clone(), |lane| {
            if lane.ready.is_empty() {
                lane.turn = turn;
            }
            lane.ready.insert((urgency, order), key);
        });
    }

    /// Takes the key at this place out again.
    pub(crate) fn remove(&mut self, plugin: &PluginName, urgency: Urgency, order: u64) {
        let removed = self.change(plugin, |lane| lane.ready.remove(&(urgency, order)));
        self.ready -= usize::from(removed.is_some());
    }

    /// Takes the key whose turn it is, and counts it as in work.
    pub(crate) fn take(&mut self) -> Option<Key> {
        // Whoever is first has the fewest in work: if it may not, nobody may.
        let spare = |(own, _): &(usize, u64)| self.shares.spare(*own, self.in_work);
        let plugin = self.turns.first_key_value().filter(|(place, _)| spare(place))?.1.clone();
        self.turn += 1;
        let turn = self.turn;
        let key = self.change(&plugin, |lane| {
            lane.turn = turn;
            lane.take()
        })?;
        self.ready -= 1;
        self.in_work += 1;
        Some(key)
    }

    /// A key that was taken is no longer in work. Its plugin has had its turn then, and
    /// goes behind whoever came while the key was in work.
    pub(crate) fn done(&mut self, plugin: &PluginName) {
        self.turn += 1;
        let turn = self.turn;
        let was = self.change(plugin, |lane| {
            lane.turn = turn;
            let was = lane.in_work;
            lane.in_work = was.saturating_sub(1);
            was
        });
        self.in_work -= was.min(1);
    }

    /// Keys that are ready.
    pub(crate) fn len(&self) -> usize {
        self.ready
    }

    /// Bounds one plugin; `None` gives it the bound of those that have none of their own.
    pub(crate) fn bound(&mut self, plugin: &PluginName, most: Option<NonZeroUsize>) {
        let before = self.shares.of(plugin);
        match most {
            Some(most) => self.shares.own.insert(plugin.clone(), most),
            None => self.shares.own.remove(plugin),
        };
        if self.shares.of(plugin) != before {
            self.line_up();
        }
    }

    /// Whether there is more than one plugin to share the slots between.
    pub(crate) fn set_contended(&mut self, contended: bool) {
        if std::mem::replace(&mut self.shares.contended, contended) != contended {
            self.line_up();
        }
    }

    /// Whether one more key of a plugin may be taken now.
    #[cfg(test)]
    pub(crate) fn has_room(&self, plugin: &PluginName) -> bool {
        let own = self.lanes.get(plugin).map_or(0, |lane| lane.in_work);
        self.shares.of(plugin).is_none_or(|most| own < most.get()) && self.shares.spare(own, self.in_work)
    }

    /// How many keys of a plugin may be in work at once; `None` for any number.
    pub(crate) fn bound_of(&self, plugin: &PluginName) -> Option<NonZeroUsize> {
        self.shares.of(plugin)
    }

    /// Changes one lane and its place in line. A lane that is left empty goes.
    fn change<T>(&mut self, plugin: &PluginName, change: impl FnOnce(&mut Lane) -> T) -> T {
        let most = self.shares.of(plugin);
        let lane = self.lanes.entry(plugin.clone()).or_default();
        let before = lane.place(most);
        let answer = change(lane);
        let (after, empty) = (lane.place(most), lane.ready.is_empty() && lane.in_work == 0);
        if before != after {
            if let Some(place) = before {
                self.turns.remove(&place);
            }
            if let Some(place) = after {
                self.turns.insert(place, plugin.clone());
            }
        }
        if empty {
            self.lanes.remove(plugin);
        }
        answer
    }

    /// Puts all lanes in line anew, after a bound has changed.
    fn line_up(&mut self) {
        let place = |(plugin, lane): (&PluginName, &Lane)| {
            lane.place(self.shares.of(plugin)).map(|place| (place, plugin.clone()))
        };
        self.turns = self.lanes.iter().filter_map(place).collect();
    }
}

impl Lane {
    /// Its place in line, if it is in line: with a key, and below its bound.
    fn place(&self, most: Option<NonZeroUsize>) -> Option<(usize, u64)> {
        let free = most.is_none_or(|most| self.in_work < most.get());
        (free && !self.ready.is_empty()).then_some((self.in_work, self.turn))
    }

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
mod model;

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

    #[test]
    fn a_plugin_at_its_bound_waits_for_itself_and_for_nobody_else() {
        let mut lanes = Lanes::new(None, NonZeroUsize::new(2));
        lanes.set_contended(true);
        for order in 0..4 {
            lanes.push(key("a", &format!("a{order}")), Change, order);
        }
        assert_eq!(names(&mut lanes, 9), "a0 a1");
        lanes.push(key("b", "b0"), Change, 9);
        assert_eq!(names(&mut lanes, 9), "b0");
        lanes.done(&key("b", "").plugin);
        assert_eq!(names(&mut lanes, 9), "");
        lanes.done(&key("a", "").plugin);
        assert_eq!(names(&mut lanes, 9), "a2");
    }

    #[test]
    fn a_bound_of_its_own_goes_before_the_common_one() {
        let mut lanes = Lanes::new(None, NonZeroUsize::new(2));
        let a = key("a", "").plugin;
        lanes.set_contended(true);
        lanes.bound(&a, NonZeroUsize::new(1));
        for order in 0..4 {
            lanes.push(key("a", &format!("a{order}")), Change, order);
        }
        assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a0", NonZeroUsize::new(1)));
        lanes.bound(&a, None);
        assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a1", NonZeroUsize::new(2)));
        lanes.set_contended(false);
        assert_eq!((names(&mut lanes, 9).as_str(), lanes.bound_of(&a)), ("a2 a3", None));
    }

    #[test]
    fn whoever_comes_while_another_works_goes_before_its_next_key() {
        let mut lanes = lanes(&[("a", "a1", Change), ("a", "a2", Change)]);
        assert_eq!(names(&mut lanes, 1), "a1");
        lanes.push(key("b", "b1"), Change, 9);
        lanes.done(&key("a", "").plugin);
        assert_eq!(names(&mut lanes, 2), "b1 a2");
    }

    #[test]
    fn the_last_slot_is_for_a_plugin_that_has_none() {
        let mut lanes = Lanes::new(NonZeroUsize::new(4), None);
        for order in 0..8 {
            lanes.push(key("a", &format!("a{order}")), Change, order);
        }
        assert_eq!(names(&mut lanes, 4), "a0 a1 a2 a3", "there is nobody else");
        lanes.set_contended(true);
        lanes.done(&key("a", "").plugin);
        assert_eq!(names(&mut lanes, 1), "");
        lanes.push(key("b", "b0"), Change, 9);
        lanes.push(key("b", "b1"), Change, 10);
        assert_eq!(names(&mut lanes, 1), "b0");
        lanes.done(&key("a", "").plugin);
        assert_eq!(names(&mut lanes, 1), "");
        lanes.done(&key("a", "").plugin);
        assert_eq!(names(&mut lanes, 9), "b1", "the next to last is for anybody");
    }
}
