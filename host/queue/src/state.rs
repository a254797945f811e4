//! The queue as a pure machine: one entry a key. Time and chance are arguments,
//! so that tests try every order of things without a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroUsize;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::urgency::Urgency;

use crate::entry::{Ended, Entry, Place, Why};
use crate::lanes::Lanes;
use crate::trouble::{Errors, Growth};

mod standby;

/// All entries and where each of them is.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) entries: HashMap<Key, Entry>,
    lanes: Lanes,
    due: BTreeSet<(Instant, Key)>,
    counts: BTreeMap<PluginName, Counts>,
    paused: bool,
    /// Whether this replica only looks, and writes nothing.
    standing_by: bool,
    /// Rises when this replica begins to lead or to stand by.
    era: u64,
    /// Entries that are parked.
    parked: usize,
    /// Rises with each offer; orders keys that are ready.
    order: u64,
    errors: Errors,
}

/// How many keys are where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) ready: usize,
    pub(crate) delayed: usize,
    pub(crate) running: usize,
    pub(crate) parked: usize,
}

#[derive(Debug, Default)]
struct Counts {
    adds: u64,
    retries: u64,
}

/// A key that was handed out.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) key: Key,
    pub(crate) failures: u32,
    pub(crate) growth: Growth,
    /// How long it was ready.
    pub(crate) queued: Duration,
}

/// Numbers about one plugin's keys, or all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that could be handed out now (`workqueue_depth`).
    pub depth: usize,
    /// Keys that run now.
    pub in_flight: usize,
    /// Keys that wait for their time: failed, or to be looked at again.
    pub delayed: usize,
    /// Keys that a standby looked at, and that wait for it to lead.
    pub parked: usize,
    /// Times that a key became ready (`workqueue_adds_total`); merged offers do not count.
    pub adds: u64,
    /// Passes that ended with a pause (`workqueue_retries_total`).
    pub retries: u64,
    /// Keys that may run at once; `None` for as many as there are slots.
    pub most: Option<NonZeroUsize>,
    /// Time that all running passes have taken so far, in sum.
    pub unfinished: Duration,
    /// Time that the oldest running pass has taken so far.
    pub longest: Duration,
    /// How long the oldest key that is ready has been so; nothing while the queue is paused.
    pub oldest: Duration,
    /// Keys that have failed so often, or for so long, that somebody should look
    /// ([`STUCK_FAILURES`](crate::STUCK_FAILURES), [`STUCK_AFTER`](crate::STUCK_AFTER)).
    pub stuck: usize,
}

/// A key that is ready or parked and is not handed out, see [`Queue::waiting`](crate::Queue::waiting).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which key.
    pub key: Key,
    offered: u64,
}

impl State {
    pub(crate) fn new(paused: bool, standing_by: bool, lanes: Lanes) -> Self {
        Self { paused, standing_by, lanes, ..Self::default() }
    }

    /// Bounds how many keys of a plugin run at once; `None` gives it the common bound.
    pub(crate) fn bound(&mut self, plugin: &PluginName, most: Option<NonZeroUsize>) {
        self.lanes.bound(plugin, most);
    }

    /// Whether one more key of a plugin may run now.
    #[cfg(test)]
    pub(crate) fn has_room(&self, plugin: &PluginName, now: Instant) -> bool {
        self.lanes.has_room(plugin, now)
    }

    /// How many keys of a plugin may run at once; `None` for as many as there are slots.
    pub(crate) fn bound_of(&self, plugin: &PluginName) -> Option<NonZeroUsize> {
        self.lanes.bound_of(plugin)
    }

    pub(crate) fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.paused
    }

    /// Somebody wants `key` at `at`, which is `now` for an event. Whatever is
    /// earliest wins; a failed key's floor wins over everything. Of two that want the same
    /// the more urgent counts.
    pub(crate) fn offer(&mut self, key: Key, at: Instant, urgency: Urgency, now: Instant) {
        self.order += 1;
        let offered = self.order;
        let (at, why) = self.gathered(at, now);
        let Some(entry) = self.entries.get_mut(&key) else {
            let entry = Entry::new(offered, urgency, now);
            self.entries.insert(key.clone(), entry);
            return self.put(&key, at, why, now);
        };
        entry.offered = offered;
        let merged = urgency.min(entry.urgency);
        match &mut entry.place {
            Place::Running { again, forgotten, .. } => {
                *again = Some(again.map_or((at, urgency), |(a, u)| (a.min(at), u.min(urgency))));
                *forgotten = false;
            }
            Place::Ready { order, .. } => {
                if merged < entry.urgency {
                    self.lanes.remove(&key.plugin, entry.urgency, *order);
                    self.lanes.push(key, merged, *order);
                    entry.urgency = merged;
                }
            }
            Place::Delayed { due, why: before } => {
                let at = entry.floor.map_or(at, |floor| at.max(floor));
                let (due, before, sooner) = (*due, *before, at < *due);
                // Before the time that was asked for, nobody wants anything but this.
                entry.urgency = if sooner && before == Why::Asked { urgency } else { merged };
                let failed = before == Why::Failed;
                if failed {
                    entry.event(sooner);
                }
                if sooner {
                    self.due.remove(&(due, key.clone()));
                    self.put(&key, at, if failed { Why::Failed } else { why }, now);
                }
            }
            Place::Parked { .. } => {
                entry.urgency = merged;
                self.parked -= 1;
                // Whenever that is: should this replica lead before, it does not wait.
                self.put(&key, at, Why::Standby, now);
            }
        }
    }

    /// Hands out the key whose turn it is.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Taken> {
        if self.paused {
            return None;
        }
        self.promote(now);
        let key = self.lanes.take(now)?;
        let entry = self.entries.get_mut(&key).expect("a key in a lane has an entry");
        let since = match entry.place {
            Place::Ready { since, .. } => since,
            Place::Delayed { .. } | Place::Parked { .. } | Place::Running { .. } => now,
        };
        entry.place = Place::Running { since: now, again: None, forgotten: false, era: self.era };
        if entry.urgency == Urgency::Takeover {
            // Once. What brings it back is as urgent as everybody else's.
            entry.urgency = Urgency::Change;
        }
        Some(Taken {
            failures: entry.failures(),
            growth: entry.growth(),
            queued: now.duration_since(since),
            key,
        })
    }

    /// When the next key is due that waits for its own time, or for the rate of its plugin;
    /// `None` when none does or the queue is paused.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        due.into_iter().chain(self.lanes.next_token()).min().filter(|_| !self.paused)
    }

    /// The pass of `key` has ended. Nothing ever comes back before `at_least`.
    pub(crate) fn finish(&mut self, key: &Key, ended: Ended, at_least: Option<Duration>, now: Instant) {
        let running = self.entries.get(key).and_then(|entry| match entry.place {
            Place::Running { since, again, forgotten, era } => Some((since, again, forgotten, era)),
            Place::Ready { .. } | Place::Delayed { .. } | Place::Parked { .. } => None,
        });
        let Some((since, again, forgotten, era)) = running else {
            return;
        };
        self.lanes.done(&key.plugin, now.duration_since(since));
        if forgotten {
            self.entries.remove(key);
            return;
        }
        let needs_leader = matches!(ended, Ended::WhenLeading(_));
        let Some(ended) = self.in_this_era(key, ended, era, now) else {
            return;
        };
        let (least, standing_by) = (self.least(now), self.standing_by);
        let entry = self.entries.get_mut(key).expect("it was there a moment ago");
        let (wait, floor) = entry.settle(ended, now);
        let floor = floor.max(at_least).map(|pause| now + pause);
        entry.floor = floor;
        let failed = matches!(ended, Ended::Backoff { .. });
        let postponed = matches!(ended, Ended::Postponed(_));
        let wanted = wait.map(|pause| now + pause);
        let wanted = wanted.max(wanted.and(floor)).map(|at| at.max(least));
        let event = again.map(|(at, _)| floor.map_or(at, |floor| at.max(floor)).max(least));
        let by_event = event.is_some() && wanted.is_none_or(|wanted| event < Some(wanted));
        entry.urgency = entry.urgency_after(ended, again.map(|(_, urgency)| urgency), by_event);
        if failed && event.is_some() {
            entry.event(by_event);
        }
        let why = match failed {
            true => Why::Failed,
            false if needs_leader || (standing_by && (by_event || postponed)) => Why::Standby,
            false if by_event || postponed => Why::Held,
            false => Why::Asked,
        };
        match if by_event { event } else { wanted } {
            None => {
                self.entries.remove(key);
            }
            Some(at) => self.put_back(key, at, why, now),
        }
    }

    /// Keeps what was said of the failure of a key, until it fails or succeeds again.
    pub(crate) fn explain(&mut self, key: &Key, error: &str) {
        if let Some(trouble) = self.entries.get_mut(key).and_then(|entry| entry.trouble.as_mut()) {
            trouble.says(error, &self.errors);
        }
    }

    /// Drops every key of a plugin. One that runs is dropped when it ends, unless
    /// it is offered again before.
    pub(crate) fn forget_plugin(&mut self, plugin: &PluginName) {
        let keys: Vec<_> = self.entries.keys().filter(|k| k.plugin == *plugin).cloned().collect();
        for key in keys {
            self.remove(&key);
        }
        self.counts.remove(plugin);
        self.lanes.forget(plugin);
        self.lanes.set_contended(self.counts.len() > 1);
    }

    /// Keys that are ready or parked, for [`State::discard`].
    pub(crate) fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.entries.iter().filter(|(_, entry)| entry.is_at_rest());
        waiting.map(|(key, entry)| Waiting { key: key.clone(), offered: entry.offered }).collect()
    }

    /// Drops a key that is still ready or parked and has not been offered since.
    pub(crate) fn discard(&mut self, waiting: &Waiting) -> bool {
        let same = self
            .entries
            .get(&waiting.key)
            .is_some_and(|entry| entry.is_at_rest() && entry.offered == waiting.offered);
        if same {
            self.remove(&waiting.key);
        }
        same
    }

    /// Makes ready what is due.
    pub(crate) fn promote(&mut self, now: Instant) {
        while let Some((due, _)) = self.due.first()
            && *due <= now
        {
            let Some((due, key)) = self.due.pop_first() else {
                return;
            };
            self.put(&key, due, Why::Asked, now);
        }
    }

    /// Numbers for each plugin that has any.
    pub(crate) fn stats(&mut self, now: Instant) -> BTreeMap<PluginName, Stats> {
        self.promote(now);
        let mut all: BTreeMap<PluginName, Stats> = BTreeMap::new();
        for (plugin, counts) in &self.counts {
            let stats = all.entry(plugin.clone()).or_default();
            (stats.adds, stats.retries) = (counts.adds, counts.retries);
        }
        for (key, entry) in &self.entries {
            let stats = all.entry(key.plugin.clone()).or_default();
            stats.stuck += usize::from(entry.trouble.as_ref().is_some_and(|trouble| trouble.is_stuck(now)));
            match entry.place {
                Place::Ready { since, .. } => {
                    stats.depth += 1;
                    if !self.paused {
                        stats.oldest = stats.oldest.max(now.duration_since(since));
                    }
                }
                Place::Delayed { .. } => stats.delayed += 1,
                Place::Parked { .. } => stats.parked += 1,
                Place::Running { since, .. } => {
                    let worked = now.duration_since(since);
                    stats.in_flight += 1;
                    stats.unfinished += worked;
                    stats.longest = stats.longest.max(worked);
                }
            }
        }
        for (plugin, stats) in &mut all {
            stats.most = self.lanes.bound_of(plugin);
        }
        all
    }

    /// How many keys are where.
    pub(crate) fn sizes(&mut self, now: Instant) -> Sizes {
        self.promote(now);
        let (ready, delayed, parked) = (self.lanes.len(), self.due.len(), self.parked);
        Sizes { ready, delayed, running: self.entries.len() - ready - delayed - parked, parked }
    }

    /// Returns a key after its pass; that counts as a retry when it has to wait.
    fn put_back(&mut self, key: &Key, at: Instant, why: Why, now: Instant) {
        if at > now {
            self.counts(&key.plugin).retries += 1;
        }
        self.put(key, at, why, now);
    }

    /// Puts an entry that is in no lane, not in `due` and not counted as parked where it belongs.
    fn put(&mut self, key: &Key, at: Instant, why: Why, now: Instant) {
        let entry = self.entries.get_mut(key).expect("only entries are put");
        if at > now {
            entry.place = Place::Delayed { due: at, why };
            self.due.insert((at, key.clone()));
            return;
        }
        self.order += 1;
        entry.place = Place::Ready { since: at, order: self.order };
        self.lanes.push(key.clone(), entry.urgency, self.order);
        self.counts(&key.plugin).adds += 1;
    }

    /// The numbers of a plugin. One that is counted shares the slots with the others.
    fn counts(&mut self, plugin: &PluginName) -> &mut Counts {
        if !self.counts.contains_key(plugin) {
            self.lanes.set_contended(!self.counts.is_empty());
        }
        self.counts.entry(plugin.clone()).or_default()
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        match &mut entry.place {
            // Its entry stays until the pass ends: it is what keeps a second one out.
            Place::Running { forgotten, again, .. } => {
                (*forgotten, *again) = (true, None);
                return;
            }
            Place::Ready { order, .. } => self.lanes.remove(&key.plugin, entry.urgency, *order),
            Place::Delayed { due, .. } => {
                self.due.remove(&(*due, key.clone()));
            }
            Place::Parked { .. } => self.parked -= 1,
        }
        self.entries.remove(key);
    }
}
