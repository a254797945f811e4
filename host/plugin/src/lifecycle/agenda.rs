//! The agenda: which ConfigMap is looked at next, and when.
//!
//! A value; the caller owns time. Three rules. A change after a quiet time is looked at at
//! once, but one that follows another within [`QUIET`] waits until it is quiet, [`LATEST`] at
//! most: whoever flaps costs a bounded number of compilations. Newer news replaces older, so there
//! is one entry a ConfigMap. And of one plugin, whatever its ConfigMaps, one thing is looked
//! at at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A change that follows another within this time is looked at when this much time has passed
/// without a further one.
pub const QUIET: Duration = Duration::from_millis(300);
/// The longest that a ConfigMap which never is quiet waits for its next look.
pub const LATEST: Duration = Duration::from_secs(2);

/// What is to be looked at. `T` is what was told last.
#[derive(Debug)]
pub struct Agenda<T> {
    known: BTreeMap<String, Known<T>>,
    /// Lanes and ConfigMaps that are being looked at.
    busy: BTreeSet<Busy>,
}

/// One thing to look at. Hand it back with [`Agenda::done`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// `<namespace>/<name>`.
    pub config_map: String,
    /// What it shares a lane with is not looked at at the same time: the plugin's name.
    pub lane: String,
    /// What was told last.
    pub what: T,
}

#[derive(Debug)]
struct Known<T> {
    lane: String,
    /// When something was told of it last.
    told: Instant,
    pending: Option<Pending<T>>,
}

#[derive(Debug)]
struct Pending<T> {
    what: T,
    first: Instant,
    due: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Busy {
    Lane(String),
    ConfigMap(String),
}

impl<T> Default for Agenda<T> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), busy: BTreeSet::new() }
    }
}

impl<T> Agenda<T> {
    /// A ConfigMap is there, has changed or is gone. `lane` is its plugin's name; `None`
    /// when nobody knows: then it keeps the one that it had.
    pub fn told(&mut self, config_map: &str, lane: Option<&str>, what: T, now: Instant) {
        let Some(known) = self.known.get_mut(config_map) else {
            let lane = lane.unwrap_or(config_map).to_owned();
            let pending = Some(Pending { what, first: now, due: now });
            self.known.insert(config_map.to_owned(), Known { lane, told: now, pending });
            return;
        };
        if let Some(lane) = lane {
            lane.clone_into(&mut known.lane);
        }
        let calm = now.duration_since(known.told) >= QUIET;
        known.told = now;
        let (first, due) = match &known.pending {
            None if calm => (now, now),
            None => (now, now + QUIET),
            // Later than it was, but it is not put off for ever.
            Some(waiting) => (waiting.first, (now + QUIET).min(waiting.first + LATEST)),
        };
        known.pending = Some(Pending { what, first, due });
    }

    /// Takes what has been due the longest and may be looked at now.
    pub fn take(&mut self, now: Instant) -> Option<Item<T>> {
        let ready = self.waiting().filter(|(_, _, due)| *due <= now).min_by_key(|(_, _, due)| *due);
        let config_map = ready?.0.to_owned();
        let known = self.known.get_mut(&config_map)?;
        let what = known.pending.take()?.what;
        let lane = known.lane.clone();
        self.busy.insert(Busy::Lane(lane.clone()));
        self.busy.insert(Busy::ConfigMap(config_map.clone()));
        Some(Item { config_map, lane, what })
    }

    /// The look at what was taken under these names has ended.
    pub fn done(&mut self, config_map: &str, lane: &str) {
        self.busy.remove(&Busy::Lane(lane.to_owned()));
        self.busy.remove(&Busy::ConfigMap(config_map.to_owned()));
    }

    /// Forgets a ConfigMap that is gone, unless there is news of it.
    pub fn forget(&mut self, config_map: &str) {
        if self.known.get(config_map).is_some_and(|known| known.pending.is_none()) {
            self.known.remove(config_map);
        }
    }

    /// When something will be due that may be looked at. What waits for [`done`](Self::done)
    /// does not count.
    pub fn next(&self) -> Option<Instant> {
        self.waiting().map(|(_, _, due)| due).min()
    }

    /// Whether there is nothing to look at and nothing being looked at.
    pub fn is_idle(&self) -> bool {
        self.busy.is_empty() && self.known.values().all(|known| known.pending.is_none())
    }

    /// What waits and is not held up by a look that goes on.
    fn waiting(&self) -> impl Iterator<Item = (&str, &str, Instant)> {
        self.known.iter().filter_map(|(config_map, known)| {
            let due = known.pending.as_ref()?.due;
            let free = !self.busy.contains(&Busy::Lane(known.lane.clone()))
                && !self.busy.contains(&Busy::ConfigMap(config_map.clone()));
            free.then_some((config_map.as_str(), known.lane.as_str(), due))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Desk {
        agenda: Agenda<u64>,
        start: Instant,
    }

    impl Desk {
        fn new() -> Self {
            Self { agenda: Agenda::default(), start: Instant::now() }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        fn told(&mut self, config_map: &str, lane: &str, what: u64, ms: u64) {
            let now = self.at(ms);
            self.agenda.told(config_map, Some(lane), what, now);
        }

        /// Takes and ends a look.
        fn look(&mut self, ms: u64) -> Option<u64> {
            let item = self.agenda.take(self.at(ms))?;
            self.agenda.done(&item.config_map, &item.lane);
            Some(item.what)
        }
    }

    #[test]
    fn a_change_after_a_quiet_time_is_looked_at_at_once() {
        let mut desk = Desk::new();
        desk.told("ns/a", "p", 1, 0);
        assert_eq!(desk.look(0), Some(1));
        desk.told("ns/a", "p", 2, 300);
        assert_eq!(desk.look(300), Some(2));
        assert!(desk.agenda.is_idle());
    }

    #[test]
    fn a_change_on_the_heels_of_another_waits_until_it_is_quiet() {
        let mut desk = Desk::new();
        desk.told("ns/a", "p", 1, 0);
        assert_eq!(desk.look(0), Some(1));
        desk.told("ns/a", "p", 2, 100);
        desk.told("ns/a", "p", 3, 200);
        assert_eq!(desk.agenda.next(), Some(desk.at(500)));
        assert_eq!(desk.look(499), None);
        assert_eq!(desk.look(500), Some(3), "the newest alone");
        assert_eq!(desk.look(5000), None);
    }

    #[test]
    fn ten_changes_a_second_for_a_minute_cost_thirty_looks_and_the_last_one_counts() {
        let mut desk = Desk::new();
        let (mut looks, mut waited, mut taken) = (Vec::new(), 0, 0);
        for ms in 0..60_000 {
            if ms % 100 == 0 {
                desk.told("ns/a", "p", ms, ms);
            }
            match desk.look(ms) {
                Some(what) => {
                    looks.push(what);
                    taken = ms;
                }
                None => waited = waited.max(ms - taken),
            }
        }
        looks.extend(desk.look(60_500));
        assert!(looks.len() <= 30, "{} looks", looks.len());
        assert!(waited <= 2_100, "{waited} ms without a look");
        assert_eq!(looks.last(), Some(&59_900));
    }

    #[test]
    fn of_one_plugin_one_thing_is_looked_at_at_a_time() {
        let mut desk = Desk::new();
        desk.told("ns/a", "p", 1, 0);
        desk.told("ns/b", "p", 2, 0);
        desk.told("ns/c", "q", 3, 0);
        let first = desk.agenda.take(desk.at(0)).expect("due");
        let other = desk.agenda.take(desk.at(0)).expect("another plugin's");
        assert_eq!((first.lane.as_str(), other.lane.as_str()), ("p", "q"));
        assert!(desk.agenda.take(desk.at(9000)).is_none());
        assert_eq!(desk.agenda.next(), None, "nothing to wait for but the end of a look");
        desk.agenda.done(&first.config_map, &first.lane);
        assert_eq!(desk.look(9000), Some(2));
    }

    #[test]
    fn a_config_map_that_changes_its_plugin_is_not_looked_at_twice_at_once() {
        let mut desk = Desk::new();
        desk.told("ns/a", "p", 1, 0);
        let first = desk.agenda.take(desk.at(0)).expect("due");
        desk.told("ns/a", "q", 2, 1000);
        assert!(desk.agenda.take(desk.at(1000)).is_none());
        desk.agenda.done(&first.config_map, &first.lane);
        let second = desk.agenda.take(desk.at(1000)).expect("free again");
        assert_eq!((second.lane.as_str(), second.what), ("q", 2));
    }

    #[test]
    fn what_is_gone_is_forgotten_unless_it_is_back() {
        let mut desk = Desk::new();
        desk.told("ns/a", "p", 1, 0);
        desk.agenda.forget("ns/a");
        assert_eq!(desk.look(0), Some(1), "there was news");
        desk.agenda.forget("ns/a");
        assert!(desk.agenda.known.is_empty());
        desk.agenda.told("ns/a", None, 2, desk.at(1));
        assert_eq!(desk.agenda.take(desk.at(1)).expect("new").lane, "ns/a");
    }
}
