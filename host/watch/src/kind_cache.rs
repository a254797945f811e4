//! What is held of one kind, behind one lock that is never held across a wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use windlass_core::kind::{Gvk, Kind};
use windlass_core::object::Object;
use windlass_core::ports::Written;

use crate::budget::Budget;
use crate::needs::Need;
use crate::objects::{Change, Objects, held_bytes};
use crate::part::{Part, Reach};
use crate::progress::{Counters, Progress, WatchStatus};

/// The era that began last, of whatever kind.
static ERAS: AtomicU64 = AtomicU64::new(0);

/// One kind: its objects, who needs it, and how its watch is doing.
#[derive(Debug)]
pub(crate) struct KindCache {
    pub(crate) gvk: Gvk,
    /// How the kind is doing where it is not for one of its parts to say.
    pub(crate) progress: Progress,
    state: RwLock<State>,
}

/// What came of an object that was to be taken.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is as it was, or nobody asked.
    NoNews,
    /// It has changed; or, if `first`, its kind is being listed for the first time.
    News { change: Change, need: Arc<Need>, first: bool },
    /// There was no room: the first one of its kind that had none.
    Full,
}

/// What discovery has said.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Presence {
    /// Nothing yet.
    Unknown,
    /// That it is not served.
    Absent,
    /// How it is served.
    Present(Kind),
}

#[derive(Debug)]
struct State {
    objects: Objects,
    presence: Presence,
    /// Changes with `presence` and when the past was rewritten.
    era: u64,
    /// Where it is watched, and how far each has come. Never empty.
    reaches: Vec<Reach>,
    /// There was no room for an object: what is held is not all, until a new driver lists again.
    full: bool,
    need: Arc<Need>,
    /// Names one driver with one selection: what an earlier one says is ignored.
    round: u64,
}

impl KindCache {
    pub(crate) fn new(gvk: Gvk, objects: Objects, need: Need, round: u64) -> Self {
        let state = State {
            objects,
            presence: Presence::Unknown,
            era: next_era(),
            reaches: Reach::of(&need.wire().namespaces, &[], false),
            full: false,
            need: Arc::new(need),
            round,
        };
        Self { gvk, progress: Progress::default(), state: RwLock::new(state) }
    }

    /// Says what is needed from now on. With other scopes than before, or when there was no
    /// room for all of it, `round` begins: a new driver must list the kind again; what is held stays readable.
    pub(crate) fn require(&self, need: Need, round: u64) {
        let mut state = self.write();
        if state.need.scopes != need.scopes || state.full {
            state.round = round;
            let covered = state.need.covers(&need);
            self.divide(&mut state, &need.wire().namespaces, covered);
            state.full = false;
        }
        state.need = Arc::new(need);
    }

    /// Has it watched in these namespaces from now on; none: as a whole.
    fn divide(&self, state: &mut State, namespaces: &[String], covered: bool) {
        let reaches = Reach::of(namespaces, &state.reaches, covered);
        let before = std::mem::replace(&mut state.reaches, reaches);
        let stays = |reach: &&Reach| state.reaches.iter().any(|now| Arc::ptr_eq(&now.part, &reach.part));
        let gone = before.iter().filter(|reach| !stays(reach));
        gone.for_each(|reach| self.progress.absorb(&reach.part.progress));
    }

    /// Nobody needs it any more.
    pub(crate) fn retire(&self) {
        self.write().objects.retire();
    }

    pub(crate) fn round(&self) -> u64 {
        self.read().round
    }

    /// Whether there was no room for all of it, so that nobody drives it.
    pub(crate) fn is_full(&self) -> bool {
        self.read().full
    }

    pub(crate) fn need(&self) -> Arc<Need> {
        self.read().need.clone()
    }

    pub(crate) fn kind(&self) -> Option<Kind> {
        match &self.read().presence {
            Presence::Present(kind) => Some(kind.clone()),
            Presence::Unknown | Presence::Absent => None,
        }
    }

    /// Whether absence from the cache means absence: listed, or not served at all.
    pub(crate) fn is_synced(&self) -> bool {
        let state = self.read();
        state.is_listed() || state.presence == Presence::Absent
    }

    /// Whether the API server keeps refusing it, so that a person must act first.
    pub(crate) fn is_denied(&self) -> bool {
        self.counters().is_denied()
    }

    /// The counters of the kind and of all its parts.
    pub(crate) fn counters(&self) -> Counters {
        let parts: Vec<Counters> = self.parts().iter().map(|part| part.progress.counters()).collect();
        self.progress.counters().with_parts(&parts)
    }

    /// Where it is watched.
    pub(crate) fn parts(&self) -> Vec<Arc<Part>> {
        self.read().reaches.iter().map(|reach| reach.part.clone()).collect()
    }

    /// Asks for a list of every part. Answers whether nobody else had.
    pub(crate) fn ask_anew(&self) -> bool {
        self.parts().iter().filter(|part| part.anew.ask()).count() > 0
    }

    /// Whether of each part a list that is complete began after `at`.
    pub(crate) fn listed_since(&self, at: std::time::Instant) -> bool {
        self.parts().iter().all(|part| part.anew.began_after(at))
    }

    /// As [`Cache::era`](windlass_core::ports::Cache::era).
    pub(crate) fn era(&self) -> u64 {
        self.read().era
    }

    /// The newest version that a part has reached.
    pub(crate) fn newest(&self, part: &Part) -> u64 {
        self.read().reach(&part.namespace).map_or(0, |reach| reach.newest)
    }

    /// Runs `look` on the objects, under the lock: it must be short.
    pub(crate) fn with_objects<T>(&self, look: impl FnOnce(&Objects) -> T) -> T {
        look(&self.read().objects)
    }

    /// As [`Cache::caught_up`](windlass_core::ports::Cache::caught_up).
    ///
    /// That the watch has got past the version of a write does not prove that the write was seen:
    /// its event may be missing. It was seen if the object is held at that version or a later one, or was
    /// seen to end then.
    pub(crate) fn caught_up(&self, write: &Written) -> bool {
        let state = self.read();
        if state.presence == Presence::Absent {
            return true;
        }
        // Nothing comes from where nobody looks.
        let Some(reach) = state.reach(&write.object.namespace) else { return true };
        let held = state.objects.get(&write.object.namespace, &write.object.name);
        let same = |object: &&Arc<Object>| object.meta().uid == write.uid;
        match (write.version, held) {
            (None, None) => reach.listed,
            (None, Some(object)) => !same(&object) || object.meta().deleting,
            (Some(version), Some(object)) => object.meta().version() >= version,
            // What a list of a later time did not bring has ended, whether its end was heard of or not.
            (Some(version), None) => {
                reach.listed_at >= version
                    || state.objects.has_ended(&write.object.namespace, &write.object.name, version)
            }
        }
    }

    /// Discovery has found the kind. Answers whether it was served in another way before.
    pub(crate) fn found(&self, round: u64, kind: Kind) -> bool {
        self.change(round, |state| {
            if state.presence == Presence::Absent {
                state.unlist();
            }
            // What is in no namespace is one whole, whatever is needed of it.
            let namespaces = if kind.namespaced { state.need.wire().namespaces } else { Vec::new() };
            if !state.is_divided(&namespaces) {
                self.divide(state, &namespaces, false);
            }
            let now = Presence::Present(kind);
            let changed = matches!(&state.presence, Presence::Present(_)) && state.presence != now;
            state.turn(now);
            changed
        })
        .unwrap_or_default()
    }

    /// Discovery says that the kind is not served. Answers what went with it, and
    /// whether that is news.
    pub(crate) fn absent(&self, round: u64) -> (Vec<Change>, bool) {
        self.change(round, |state| {
            let news = state.presence != Presence::Absent;
            state.turn(Presence::Absent);
            state.unlist();
            (state.objects.clear(), news)
        })
        .unwrap_or_default()
    }

    /// A list of a part begins.
    pub(crate) fn begin(&self, round: u64, part: &Part, rewound: bool) {
        self.change(round, |state| {
            state.objects.begin(&part.namespace, rewound);
            if rewound {
                state.era = next_era();
                if let Some(reach) = state.reach_mut(part) {
                    (reach.newest, reach.listed_at) = (0, 0);
                }
            }
        });
    }

    /// Takes an object as it is now, if there is room. One that nobody needs any more is let go.
    pub(crate) fn put(&self, round: u64, mut object: Object, budget: &Budget) -> Put {
        let put = self.change(round, |state| {
            if state.full {
                return Put::NoNews;
            }
            let meta = object.meta();
            if !state.need.admits(&object) {
                let first = !state.is_listed_at(&meta.namespace);
                let gone = state.objects.remove(&meta.namespace, &meta.name, meta.version());
                return gone.map_or(Put::NoNews, |change| Put::News {
                    change,
                    need: state.need.clone(),
                    first,
                });
            }
            // Before it is asked whether there is room: packed is how it is held.
            state.objects.pack(&mut object);
            let meta = object.meta();
            let before = state.objects.get(&meta.namespace, &meta.name).map_or(0, |held| held_bytes(held));
            let grows = held_bytes(&object).saturating_sub(before);
            if grows > 0 && budget.exceeds(grows) {
                state.full = true;
                state.unlist();
                return Put::Full;
            }
            let first = !state.is_listed_at(&meta.namespace);
            match state.objects.put(object) {
                Some(change) => Put::News { change, need: state.need.clone(), first },
                None => Put::NoNews,
            }
        });
        put.unwrap_or(Put::NoNews)
    }

    /// Takes the end of an object; `last` is its last state, with the end's version.
    pub(crate) fn remove(&self, round: u64, last: &Object) -> Option<(Change, Arc<Need>)> {
        let meta = last.meta();
        self.change(round, |state| {
            let change = state.objects.remove(&meta.namespace, &meta.name, meta.version())?;
            Some((change, state.need.clone()))
        })?
    }

    /// The list of a part is complete. Answers what it did not bring, and whether the kind
    /// is synced only now.
    pub(crate) fn listed(&self, round: u64, part: &Part, version: u64) -> (Vec<Change>, bool) {
        self.change(round, |state| {
            if state.full {
                // What it did not bring may only have had no room.
                return (Vec::new(), false);
            }
            let before = state.is_listed();
            if let Some(reach) = state.reach_mut(part) {
                reach.listed = true;
                reach.newest = reach.newest.max(version);
                reach.listed_at = version;
            }
            part.anew.complete();
            let State { objects, reaches, .. } = state;
            let is_watched = |namespace: &str| reaches.iter().any(|reach| reach.part.reaches(namespace));
            let gone = objects.sweep(&part.namespace, version, is_watched);
            (gone, !before && state.is_listed())
        })
        .unwrap_or_default()
    }

    /// Everything of a part up to `version` has been seen.
    pub(crate) fn reached(&self, round: u64, part: &Part, version: u64) {
        self.change(round, |state| {
            if let Some(reach) = state.reach_mut(part) {
                reach.newest = reach.newest.max(version);
            }
        });
    }

    pub(crate) fn status(&self) -> WatchStatus {
        let counters = self.counters();
        let state = self.read();
        WatchStatus {
            gvk: self.gvk.clone(),
            selector: state.need.wire().to_string(),
            state: counters.phase,
            synced: state.is_listed() || state.presence == Presence::Absent,
            objects: state.objects.len(),
            bytes: state.objects.bytes(),
            json_bytes: state.objects.json_bytes(),
            last_event_age_ms: counters.last_event_age_ms(),
            alive_age_ms: counters.alive_age_ms(),
            lists: counters.lists,
            watches: counters.watches,
            events: counters.events,
            errors: counters.errors,
            missing_right: counters.missing().map(|missing| missing.view()),
            last_error: counters.last_error,
        }
    }

    /// Runs `change` unless the driver that asks has been replaced.
    fn change<T>(&self, round: u64, change: impl FnOnce(&mut State) -> T) -> Option<T> {
        let mut state = self.write();
        (state.round == round).then(|| change(&mut state))
    }

    /// Keeps everybody out, for as long as the answer lives.
    #[cfg(test)]
    pub(crate) fn locked(&self) -> impl Drop {
        self.write()
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn turn(&mut self, presence: Presence) {
        if self.presence != presence {
            self.presence = presence;
            self.era = next_era();
        }
    }

    /// Whether it is watched in these namespaces; none: as a whole.
    fn is_divided(&self, namespaces: &[String]) -> bool {
        let parts = self.reaches.iter().map(|reach| &*reach.part.namespace);
        if namespaces.is_empty() { parts.eq([""]) } else { parts.eq(namespaces.iter().map(String::as_str)) }
    }

    /// Whether every part has been listed.
    fn is_listed(&self) -> bool {
        self.reaches.iter().all(|reach| reach.listed)
    }

    /// Whether the part has been listed in which this namespace is.
    fn is_listed_at(&self, namespace: &str) -> bool {
        self.reach(namespace).is_some_and(|reach| reach.listed)
    }

    /// Nothing counts as listed any more.
    fn unlist(&mut self) {
        self.reaches.iter_mut().for_each(|reach| reach.listed = false);
    }

    /// The part in which this namespace is.
    fn reach(&self, namespace: &str) -> Option<&Reach> {
        self.reaches.iter().find(|reach| reach.part.reaches(namespace))
    }

    fn reach_mut(&mut self, part: &Part) -> Option<&mut Reach> {
        self.reaches.iter_mut().find(|reach| reach.part.namespace == part.namespace)
    }
}

fn next_era() -> u64 {
    ERAS.fetch_add(1, Ordering::Relaxed) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::scope::Scope;

    fn need(labels: &[(&str, &str)]) -> Need {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Need { scopes: vec![Scope::of_labels(labels)], ..Need::default() }
    }

    /// All namespaces.
    fn whole() -> Part {
        Part::default()
    }

    fn object(version: u64) -> Object {
        let text = format!(
            r#"{{"metadata":{{"name":"a","namespace":"ns","resourceVersion":"{version}","labels":{{"a":"1"}}}}}}"#
        );
        Object::parse(&"v1/Pod".parse().expect("valid"), &text).expect("an object")
    }

    fn kind(budget: &Budget, need: Need) -> KindCache {
        let gvk: Gvk = "v1/Pod".parse().expect("valid");
        let objects = Objects::new(gvk.clone(), "sys".into(), budget.total().clone(), Arc::default());
        KindCache::new(gvk, objects, need, 0)
    }

    #[test]
    fn a_kind_without_room_is_not_complete_until_it_is_listed_again() {
        let size = held_bytes(&object(3));
        let budget = Budget::new(Some(size + size / 2));
        let kind = kind(&budget, need(&[]));
        kind.begin(0, &whole(), false);
        assert!(matches!(kind.put(0, object(3), &budget), Put::News { .. }));
        assert!(kind.listed(0, &whole(), 3).1 && kind.is_synced());
        assert!(matches!(kind.put(0, object(4), &budget), Put::News { .. }), "it does not grow");
        let other = object(5).json().replace("\"a\"", "\"b\"");
        let other = || Object::parse(&kind.gvk, &other).expect("an object");
        assert!(matches!(kind.put(0, other(), &budget), Put::Full));
        assert!(matches!(kind.put(0, other(), &budget), Put::NoNews), "said once");
        let (gone, first) = kind.listed(0, &whole(), 9);
        assert!(gone.is_empty() && !first, "what it did not bring may have had no room");
        assert!(kind.is_full() && !kind.is_synced());
        kind.require(need(&[]), 1);
        assert!(!kind.is_full() && !kind.is_synced());
        assert_eq!(kind.round(), 1, "a new driver lists it, whatever the need is");
        drop(kind);
        assert!(!budget.exceeds(size), "what is gone is not counted");
    }

    #[test]
    fn there_is_room_for_an_object_as_it_is_held_and_not_as_it_came() {
        let long = |name: &str| {
            let said: Vec<String> = (0..400).map(|line| format!("line {}", line * 7919)).collect();
            let data = format!(r#","data":{{"a":"{}"}}}}"#, said.join(" "));
            let text = object(3).json().replace("\"name\":\"a\"", &format!("\"name\":\"{name}\""));
            let text = format!("{}{data}", text.strip_suffix('}').expect("an object"));
            Object::parse(&"v1/Pod".parse().expect("valid"), &text).expect("an object")
        };
        let budget = Budget::new(Some(held_bytes(&long("a")) * 2));
        let kind = kind(&budget, need(&[]));
        kind.begin(0, &whole(), false);
        for name in ["a", "b", "c", "d", "e"] {
            assert!(matches!(kind.put(0, long(name), &budget), Put::News { .. }), "{name}");
        }
    }

    #[test]
    fn what_a_replaced_driver_says_is_ignored() {
        let budget = Budget::new(None);
        let kind = kind(&budget, need(&[("a", "1")]));
        kind.begin(0, &whole(), false);
        assert!(matches!(kind.put(0, object(3), &budget), Put::News { .. }));
        assert!(kind.listed(0, &whole(), 5).1);
        kind.require(need(&[]), 1);
        assert!(!kind.is_synced(), "a wider list is due");
        assert!(matches!(kind.put(0, object(7), &budget), Put::NoNews));
        assert!(!kind.listed(0, &whole(), 9).1);
        kind.reached(0, &whole(), 9);
        assert_eq!((kind.is_synced(), kind.newest(&whole())), (false, 5));
        kind.begin(1, &whole(), false);
        assert!(matches!(kind.put(1, object(7), &budget), Put::News { .. }));
        assert!(kind.listed(1, &whole(), 9).1 && kind.is_synced());
        kind.require(need(&[("a", "1")]), 2);
        assert!(kind.is_synced(), "a narrower list changes nothing that is known");
        kind.require(need(&[("a", "1")]), 3);
        assert_eq!(kind.round(), 2, "the same need goes on with the same driver");
    }
    #[test]
    fn an_object_that_nobody_needs_is_not_kept_and_its_version_still_counts() {
        let budget = Budget::new(None);
        let kind = kind(&budget, need(&[("a", "1")]));
        kind.begin(0, &whole(), false);
        assert!(matches!(kind.put(0, object(3), &budget), Put::News { .. }));
        kind.listed(0, &whole(), 3);
        let unlabelled = |version: u64| {
            Object::parse(&kind.gvk, &object(version).json().replace("\"a\":\"1\"", "\"a\":\"2\""))
                .expect("an object")
        };
        let Put::News { change, .. } = kind.put(0, unlabelled(4), &budget) else { panic!("it was held") };
        assert!(change.old.is_some() && change.new.is_none());
        assert!(matches!(kind.put(0, unlabelled(5), &budget), Put::NoNews));
        assert_eq!(kind.with_objects(Objects::len), 0);
        assert!(matches!(kind.put(0, object(4), &budget), Put::NoNews), "older than its end");
        assert!(matches!(kind.put(0, object(6), &budget), Put::News { .. }), "it is needed again");
    }

    #[test]
    fn a_kind_of_several_namespaces_is_synced_when_each_of_them_is() {
        let written = |namespace: &str| Written {
            object: windlass_core::key::ObjectRef {
                gvk: "v1/Pod".parse().expect("valid"),
                namespace: namespace.into(),
                name: "b".into(),
            },
            uid: "u".into(),
            version: Some(6),
            applied: None,
        };
        let scope = |names: &[&str]| Scope {
            namespaces: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Scope::default()
        };
        let of = |names: &[&str]| Need { scopes: vec![scope(names)], ..Need::default() };
        let budget = Budget::new(None);
        let kind = kind(&budget, of(&["ns", "x"]));
        let parts = kind.parts();
        let [ns, x] = &parts[..] else { panic!("one a namespace: {parts:?}") };
        kind.begin(0, ns, false);
        assert!(matches!(kind.put(0, object(3), &budget), Put::News { first: true, .. }));
        assert!(!kind.listed(0, ns, 7).1 && !kind.is_synced(), "the other one is still to come");
        assert!(matches!(kind.put(0, object(8), &budget), Put::News { first: false, .. }));
        assert!(kind.caught_up(&written("ns")) && !kind.caught_up(&written("x")));
        assert!(kind.caught_up(&written("y")), "nobody looks there");
        kind.begin(0, x, false);
        let (gone, first) = kind.listed(0, x, 9);
        assert!(first && gone.is_empty() && kind.is_synced());
        assert_eq!((kind.newest(ns), kind.newest(x)), (7, 9));
        assert!(kind.ask_anew() && !kind.ask_anew());
        assert!(parts.iter().all(|part| part.anew.is_wanted()));
        kind.require(of(&["x"]), 1);
        assert!(kind.is_synced());
        kind.begin(1, x, false);
        assert_eq!(kind.listed(1, x, 10).0.len(), 1, "what is where nobody looks any more is let go");
    }
}
