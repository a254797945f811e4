//! What earlier passes left behind for each key: own writes that the cache does not
//! show yet, what is remembered of our applies, and what was said already.
//!
//! One entry a key that was written for or that failed; it goes with its primary.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use windlass_core::claim::Term;
use windlass_core::decision::Notice;
use windlass_core::key::Key;
use windlass_core::loops::{Loops, Rules};
use windlass_core::memory::Memory;
use windlass_core::ports::Written;

/// A different message is published at most this often for one key, so that a
/// plugin that words its fault anew each time does not flood the Events.
const CHANGED: Duration = Duration::from_secs(10);
/// The same message is published again after so long: API servers keep Events for an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Default)]
pub(crate) struct Traces {
    term: Option<Term>,
    keys: HashMap<Key, Trace>,
    /// What is remembered for a key without a trace.
    nothing: Memory,
    /// How often each object was written lately.
    loops: Loops,
}

#[derive(Debug, Default)]
struct Trace {
    /// Own writes that the cache has not shown, and when they were made.
    unseen: Vec<(Written, Instant)>,
    /// Our applies for this key. Its own, as several plugins may share a primary.
    memory: Memory,
    /// Whether anything was ever written.
    written: bool,
    /// Passes in a row that could not begin.
    waits: u32,
    /// Hashes of the notices that the last decision had.
    said: Vec<u64>,
    /// The failure that was published last: hash of its text, and when.
    told: Option<(u64, Instant)>,
}

impl Traces {
    /// Nothing yet.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { loops: Loops::new(rules), ..Self::default() }
    }

    /// How often each object was written lately.
    pub(crate) fn loops(&mut self) -> &mut Loops {
        &mut self.loops
    }

    /// A pass begins in `term`. What is remembered of an earlier one is dropped:
    /// another leader may have written in between, under our own name.
    pub(crate) fn begin(&mut self, term: Term) {
        if self.term != Some(term) {
            self.term = Some(term);
            self.keys.values_mut().for_each(|trace| trace.memory = Memory::default());
        }
    }

    /// What is remembered of our own applies for `key` in `term`. Nothing in another term
    /// than the one that was begun last, and nothing without one: another leader may have
    /// written since.
    pub(crate) fn memory(&self, key: &Key, term: Option<Term>) -> &Memory {
        let trusted = term.is_some() && term == self.term;
        let trace = self.keys.get(key).filter(|_| trusted);
        trace.map_or(&self.nothing, |trace| &trace.memory)
    }

    /// These objects are about to be written. Should the answer be lost, nobody knows
    /// what they are then: nothing is remembered of them until it has come.
    pub(crate) fn doubt<'a>(&mut self, key: &Key, objects: impl Iterator<Item = &'a Arc<str>>) {
        if let Some(trace) = self.keys.get_mut(key) {
            objects.for_each(|uid| trace.memory.forget(uid));
        }
    }

    /// Keeps what a pass of `term` wrote.
    pub(crate) fn wrote(&mut self, key: &Key, term: Term, writes: Vec<Written>, now: Instant) {
        if writes.is_empty() {
            return;
        }
        let trace = self.keys.entry(key.clone()).or_default();
        trace.written = true;
        for written in writes {
            if written.version.is_none() {
                trace.memory.forget(&written.uid);
            } else if let Some((status, wanted, entry)) = &written.applied
                && self.term == Some(term)
            {
                trace.memory.remember(&written.uid, *status, wanted, *entry);
            }
            // A later write of one object answers for the earlier ones.
            trace.unseen.retain(|(before, _)| before.object != written.object);
            trace.unseen.push((written, now));
        }
    }

    /// Whether anything was written for `key` since it is known.
    pub(crate) fn has_written(&self, key: &Key) -> bool {
        self.keys.get(key).is_some_and(|trace| trace.written)
    }

    /// Takes out the writes that the cache had not shown at the last look.
    pub(crate) fn take_unseen(&mut self, key: &Key) -> Vec<(Written, Instant)> {
        let trace = self.keys.get_mut(key);
        trace.map(|trace| std::mem::take(&mut trace.unseen)).unwrap_or_default()
    }

    /// Puts those back that it still does not show.
    pub(crate) fn put_unseen(&mut self, key: &Key, unseen: Vec<(Written, Instant)>) {
        if !unseen.is_empty() {
            self.keys.entry(key.clone()).or_default().unseen = unseen;
        }
    }

    /// Counts one more pass that could not begin; answers how many in a row.
    pub(crate) fn waited(&mut self, key: &Key) -> u32 {
        let trace = self.keys.entry(key.clone()).or_default();
        trace.waits = trace.waits.saturating_add(1);
        trace.waits
    }

    /// The pass can begin, and these are the objects that the key has now: whatever
    /// else is remembered for it is forgotten.
    pub(crate) fn begun<'a>(&mut self, key: &Key, present: impl Iterator<Item = &'a Arc<str>>) {
        let Some(trace) = self.keys.get_mut(key) else {
            return;
        };
        trace.waits = 0;
        if trace.memory.is_empty() {
            return;
        }
        let present: BTreeSet<_> = present.collect();
        trace.memory.retain(|uid| present.contains(uid));
    }

    /// Of a decision's notices, those that the decision before it did not have: a
    /// pure plugin cannot know what it has said already.
    pub(crate) fn unsaid(&mut self, key: &Key, notices: &[Notice]) -> Vec<Notice> {
        if notices.is_empty() && !self.keys.contains_key(key) {
            return Vec::new();
        }
        let trace = self.keys.entry(key.clone()).or_default();
        let hashes: Vec<_> = notices.iter().map(hash).collect();
        let before = std::mem::replace(&mut trace.said, hashes);
        let new = notices.iter().zip(&trace.said).filter(|(_, hash)| !before.contains(hash));
        new.map(|(notice, _)| notice.clone()).collect()
    }

    /// Whether the failure `text`, the `failures`th in a row, is to be published.
    pub(crate) fn tells(&mut self, key: &Key, text: &str, failures: u32, now: Instant) -> bool {
        let trace = self.keys.entry(key.clone()).or_default();
        let hash = hash(&text);
        let due = trace.told.is_none_or(|(before, at)| {
            let age = now.duration_since(at);
            failures.is_power_of_two() || age >= AGAIN || (before != hash && age >= CHANGED)
        });
        if due {
            trace.told = Some((hash, now));
        }
        due
    }

    /// The key's primary or plugin is gone, and so is all that is known of it.
    pub(crate) fn forget(&mut self, key: &Key) {
        self.loops.forget(key);
        self.keys.remove(key);
    }

    /// Keys that something is kept for.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.keys.keys()
    }

    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        (self.keys.len(), self.keys.values().map(|trace| trace.memory.len()).sum())
    }
}

fn hash(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::decision::Severity;
    use windlass_core::key::ObjectRef;
    use windlass_core::memory::Recall;
    use windlass_core::name::PluginName;

    fn key() -> Key {
        Key::new(PluginName::try_new("p").expect("valid"), "ns", "a")
    }

    fn written(name: &str, version: Option<u64>) -> Written {
        let gvk = "v1/ConfigMap".parse().expect("valid");
        Written {
            object: ObjectRef { gvk, namespace: "ns".into(), name: name.into() },
            uid: name.into(),
            version,
            applied: Some((false, "w".into(), Some(1))),
        }
    }

    fn recall(traces: &Traces, uid: &str) -> Recall {
        traces.memory(&key(), traces.term).recall(&uid.into(), false, "w", Some(1))
    }

    #[test]
    fn a_new_term_trusts_nothing_that_was_remembered_before_it() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        traces.begin(Term(1));
        traces.wrote(&key(), Term(1), vec![written("a", Some(2))], now);
        assert_eq!(recall(&traces, "a"), Recall::Untouched);
        assert!(traces.memory(&key(), None).is_empty(), "a standby's pass");
        assert!(traces.memory(&key(), Some(Term(2))).is_empty(), "a pass that is ahead");
        traces.begin(Term(2));
        assert_eq!(recall(&traces, "a"), Recall::Unknown);
        // A pass of the old term that ends only now.
        traces.wrote(&key(), Term(1), vec![written("a", Some(3))], now);
        assert_eq!(recall(&traces, "a"), Recall::Unknown);
    }

    #[test]
    fn nothing_is_remembered_of_objects_that_are_gone() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        traces.begin(Term(1));
        let writes = vec![written("a", Some(1)), written("b", Some(2)), written("c", Some(3))];
        traces.wrote(&key(), Term(1), writes, now);
        traces.wrote(&key(), Term(1), vec![written("b", None)], now);
        assert_eq!(traces.sizes(), (1, 2));
        traces.begun(&key(), [&"a".into()].into_iter());
        assert_eq!(traces.sizes(), (1, 1));
        traces.forget(&key());
        assert_eq!(traces.sizes(), (0, 0));
    }

    #[test]
    fn what_is_about_to_be_written_is_in_doubt_until_it_is_accepted() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        traces.begin(Term(1));
        traces.wrote(&key(), Term(1), vec![written("a", Some(1)), written("b", Some(2))], now);
        traces.doubt(&key(), [&"a".into()].into_iter());
        assert_eq!((recall(&traces, "a"), recall(&traces, "b")), (Recall::Unknown, Recall::Untouched));
        traces.wrote(&key(), Term(1), vec![written("a", Some(3))], now);
        assert_eq!(recall(&traces, "a"), Recall::Untouched);
    }

    #[test]
    fn only_the_last_write_of_an_object_is_waited_for() {
        let (mut traces, now) = (Traces::default(), Instant::now());
        let writes = vec![written("a", Some(1)), written("b", Some(2)), written("a", Some(3))];
        traces.wrote(&key(), Term(1), writes, now);
        let versions: Vec<_> = traces.take_unseen(&key()).iter().map(|(w, _)| w.version).collect();
        assert_eq!(versions, [Some(2), Some(3)]);
    }

    #[test]
    fn a_notice_is_published_once_as_long_as_the_plugin_repeats_it() {
        let mut traces = Traces::default();
        let notice =
            |reason: &str| Notice { severity: Severity::Normal, reason: reason.into(), message: "m".into() };
        assert_eq!(traces.unsaid(&key(), &[notice("A")]), [notice("A")]);
        assert_eq!(traces.unsaid(&key(), &[notice("A"), notice("B")]), [notice("B")]);
        assert_eq!(traces.unsaid(&key(), &[]), []);
        assert_eq!(traces.unsaid(&key(), &[notice("A")]), [notice("A")]);
    }

    #[test]
    fn a_failure_is_published_ever_more_rarely_but_never_falls_silent() {
        let (mut traces, mut now) = (Traces::default(), Instant::now());
        let mut told = Vec::new();
        for failures in 1..=40 {
            if traces.tells(&key(), "E230", failures, now) {
                told.push(failures);
            }
            now += Duration::from_secs(300);
        }
        assert_eq!(told, [1, 2, 4, 8, 14, 16, 22, 28, 32, 38]);
        now += CHANGED;
        assert!(traces.tells(&key(), "another", 41, now));
        assert!(!traces.tells(&key(), "yet another", 42, now));
    }
}
