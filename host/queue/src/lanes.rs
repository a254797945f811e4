//! Which key is next: a lane for each plugin, and turns between them and between urgencies.
//!
//! The plugin whose passes have taken the least time so far is next ([`Ledger`]), and among
//! equals the one whose last turn, begun or ended, is longest ago. So a plugin with ten
//! thousand keys, or with slow ones, never keeps another from its share of the time. And no
//! plugin has more keys in work than its bound, nor begins more passes a second than its
//! rate, and the last slot is only for a plugin that has none ([`Shares`]), so that a slot is
//! free for whoever comes next: without that the first to come fill all of them, and the next
//! one waits for a slow pass to end.
//!
//! Within a lane the most urgent key is next, but for the turns that the lower urgencies have
//! for themselves ([`turn_of`]).

mod ledger;
mod rate;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::urgency::Urgency;

use self::ledger::Ledger;
use self::rate::Buckets;
pub use self::rate::Rate;

/// Turns of a plugin after which the shares of its urgencies begin anew.
const ROUND: u64 = 16;

/// Whose turn it is, of the urgencies of one plugin, although more urgent keys wait: four of
/// sixteen turns are for what a child or a read brought, two for resyncs, one for what came
/// when the plugin or the host started. So a plugin whose objects never rest still gets through
/// all of them.
fn turn_of(turn: u64) -> Option<Urgency> {
    match turn % ROUND {
        2 | 6 | 10 | 14 => Some(Urgency::Related),
        0 | 8 => Some(Urgency::Resync),
        12 => Some(Urgency::Startup),
        _ => None,
    }
}

/// The keys that are ready, in lanes.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: BTreeMap<PluginName, Lane>,
    line: Line,
    /// Rises with each turn that is given out.
    turn: u64,
    ready: usize,
    in_work: usize,
    shares: Shares,
    ledger: Ledger,
    buckets: Buckets,
}

#[derive(Debug, Default)]
struct Lane {
    ready: BTreeMap<(Urgency, u64), Key>,
    in_work: usize,
    taken: u64,
    /// Its place among those whose passes have taken as long.
    turn: u64,
}

/// A lane's place in line: the time that its plugin has had, then its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    at: (Duration, u64),
    /// Whether it has no key in work.
    idle: bool,
}

/// Plugins that may have one more key in work: the first is next.
#[derive(Debug, Default)]
struct Line {
    all: BTreeMap<(Duration, u64), PluginName>,
    /// Of these, those that have none in work.
    idle: BTreeMap<(Duration, u64), PluginName>,
}

impl Line {
    fn join(&mut self, place: Place, plugin: &PluginName) {
        self.all.insert(place.at, plugin.clone());
        if place.idle {
            self.idle.insert(place.at, plugin.clone());
        }
    }

    fn leave(&mut self, place: Place) {
        self.all.remove(&place.at);
        self.idle.remove(&place.at);
    }

    /// Who is next; `last`: for the last slot.
    fn next(&self, last: bool) -> Option<&PluginName> {
        let line = if last { &self.idle } else { &self.all };
        line.first_key_value().map(|(_, plugin)| plugin)
    }
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

    /// Whether the next slot is the last one, when so many keys are in work, and only for
    /// a plugin that has none of them.
    fn is_last(&self, in_work: usize) -> bool {
        self.contended && self.slots.is_some_and(|slots| in_work + 1 >= slots.get())
    }
}

impl Lanes {
    /// No keys. Of `slots` the last one is kept for a plugin that has none; `most` bounds
    /// whoever has no bound of its own.
    pub(crate) fn new(slots: Option<NonZeroUsize>, most: Option<NonZeroUsize>) -> Self {
        Self { shares: Shares { slots, most, ..Shares::default() }, ..Self::default() }
    }

    /// Lets each plugin begin only so many passes a second.
    pub(crate) fn with_rate(self, rate: Option<Rate>) -> Self {
        Self { buckets: Buckets::new(rate), ..self }
    }

    /// Adds a key at its place; `order` is unique and rises with time.
    pub(crate) fn push(&mut self, key: Key, urgency: Urgency, order: u64) {
        self.turn += 1;
        let turn = self.turn;
        self.ready += 1;
        self.ledger.open(&key.plugin);
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
    pub(crate) fn take(&mut self, now: Instant) -> Option<Key> {
        for plugin in self.buckets.refilled(now) {
            self.change_from(None, &plugin, |_| ());
        }
        let plugin = self.line.next(self.shares.is_last(self.in_work))?.clone();
        self.turn += 1;
        let turn = self.turn;
        let before = self.place(&plugin);
        self.buckets.take(&plugin, now);
        let key = self.change_from(before, &plugin, |lane| {
            lane.turn = turn;
            lane.take()
        })?;
        self.ready -= 1;
        self.in_work += 1;
        Some(key)
    }

    /// A key that was taken is no longer in work, after so long. Its plugin has had its turn
    /// then, and goes behind whoever came while the key was in work and has had as much.
    pub(crate) fn done(&mut self, plugin: &PluginName, took: Duration) {
        self.turn += 1;
        let turn = self.turn;
        let before = self.place(plugin);
        self.ledger.charge(plugin, took);
        let was = self.change_from(before, plugin, |lane| {
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

    /// When somebody may be next who is kept back by its rate now.
    pub(crate) fn next_token(&self) -> Option<Instant> {
        self.buckets.next()
    }

    /// Bounds one plugin; `None` gives it the bound of those that have none of their own.
    pub(crate) fn bound(&mut self, plugin: &PluginName, most: Option<NonZeroUsize>) {
        let before = self.place(plugin);
        match most {
            Some(most) => self.shares.own.insert(plugin.clone(), most),
            None => self.shares.own.remove(plugin),
        };
        self.change_from(before, plugin, |_| ());
    }

    /// Forgets what a plugin that is gone has had, and its bound. Its keys go one by one.
    pub(crate) fn forget(&mut self, plugin: &PluginName) {
        let before = self.place(plugin);
        self.ledger.forget(plugin);
        self.buckets.forget(plugin);
        self.shares.own.remove(plugin);
        self.change_from(before, plugin, |_| ());
    }

    /// Whether there is more than one plugin to share the slots between.
    pub(crate) fn set_contended(&mut self, contended: bool) {
        if std::mem::replace(&mut self.shares.contended, contended) != contended {
            self.line_up();
        }
    }

    /// Whether one more key of a plugin may be taken now.
    #[cfg(test)]
    pub(crate) fn has_room(&self, plugin: &PluginName, now: Instant) -> bool {
        let own = self.lanes.get(plugin).map_or(0, |lane| lane.in_work);
        self.buckets.has_token(plugin, now)
            && self.shares.of(plugin).is_none_or(|most| own < most.get())
            && (own == 0 || !self.shares.is_last(self.in_work))
    }

    /// How many keys of a plugin may be in work at once; `None` for any number.
    pub(crate) fn bound_of(&self, plugin: &PluginName) -> Option<NonZeroUsize> {
        self.shares.of(plugin)
    }

    /// Where a plugin is in line, if it is: with a key, below its bound and its rate.
    fn place(&self, plugin: &PluginName) -> Option<Place> {
        let lane = self.lanes.get(plugin)?;
        let free = self.shares.of(plugin).is_none_or(|most| lane.in_work < most.get());
        let in_line = free && !lane.ready.is_empty() && !self.buckets.is_empty(plugin);
        let at = (self.ledger.expected(plugin, lane.in_work), lane.turn);
        in_line.then_some(Place { at, idle: lane.in_work == 0 })
    }

    /// Changes one lane and its place in line. A lane that is left empty goes.
    fn change<T>(&mut self, plugin: &PluginName, change: impl FnOnce(&mut Lane) -> T) -> T {
        self.change_from(self.place(plugin), plugin, change)
    }

    /// As [`change`](Self::change), for a lane whose place in line was `before`.
    fn change_from<T>(
        &mut self,
        before: Option<Place>,
        plugin: &PluginName,
        change: impl FnOnce(&mut Lane) -> T,
    ) -> T {
        let lane = self.lanes.entry(plugin.clone()).or_default();
        let answer = change(lane);
        if lane.ready.is_empty() && lane.in_work == 0 {
            self.lanes.remove(plugin);
            self.ledger.close(plugin);
        }
        let after = self.place(plugin);
        if before != after {
            before.into_iter().for_each(|place| self.line.leave(place));
            after.into_iter().for_each(|place| self.line.join(place, plugin));
        }
        answer
    }

    /// Puts all lanes in line anew, after the bound of several has changed.
    fn line_up(&mut self) {
        let places: Vec<_> =
            self.lanes.keys().filter_map(|plugin| Some((self.place(plugin)?, plugin.clone()))).collect();
        self.line = Line::default();
        places.iter().for_each(|(place, plugin)| self.line.join(*place, plugin));
    }
}

impl Lane {
    fn take(&mut self) -> Option<Key> {
        self.taken += 1;
        self.in_work += 1;
        // What waits for a takeover is soon worked off, and nothing goes before it.
        let takeover = self.ready.first_key_value().is_some_and(|(place, _)| place.0 == Urgency::Takeover);
        if let Some(urgency) = turn_of(self.taken).filter(|_| !takeover) {
            let oldest = self.ready.range((urgency, 0)..=(urgency, u64::MAX)).next();
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
mod tests;
