//! Passes that need not be run: what is compared, and what is remembered.

use std::time::Duration;

use tokio::time::Instant;
use windlass_core::claim::{BootClock, Term};
use windlass_core::key::Key;
use windlass_core::memo::{Basis, Fingerprint, Hit};
use windlass_core::object::Object;
use windlass_core::ports::{Apply, Cache, Decide};

use crate::pass::{Attempt, Seen};
use crate::recorder::Recorder;
use crate::run::Reconciler;

impl Seen {
    /// All that the pass saw; nothing if something changed while the plugin looked at it.
    pub(crate) fn footing<C: Cache>(&self, recorder: &Recorder<C>) -> Option<Fingerprint> {
        let mut footing = Fingerprint::default();
        footing.begin(&self.primary);
        self.children.iter().for_each(|child| footing.child(child));
        recorder.fingerprint(&mut footing).then_some(footing)
    }
}

impl<C: Cache, D: Decide, A: Apply, K: BootClock> Reconciler<C, D, A, K> {
    /// Keys that are remembered; a gauge.
    pub fn remembered_keys(&self) -> usize {
        self.memos().len()
    }

    /// Breaks the memos on purpose, for tests that must find that out.
    #[cfg(feature = "mutants")]
    pub fn be_blind(&self, to: windlass_core::memo::mutant::Blind) {
        self.memos().be_blind(to);
    }

    /// Whether the pass that just began would find what the last one found, and so nothing to
    /// do. If not, nothing is remembered of its key until it has ended.
    pub(crate) fn remembered(&self, pass: &Attempt, seen: &Seen) -> Option<Hit> {
        let key = &pass.key;
        let trusted = self.config.skip_unchanged && self.ports.decide.may_skip(&key.plugin);
        let hit = trusted.then(|| self.hit(key, &seen.basis, &seen.primary, pass.term()));
        let hit = hit.flatten();
        if hit.is_none() {
            self.memos().forget(key);
        }
        hit
    }

    /// As [`remembered`](Self::remembered), and forgets nothing.
    fn hit(&self, key: &Key, basis: &Basis, primary: &Object, term: Option<Term>) -> Option<Hit> {
        let mut now = Fingerprint::default();
        now.begin(primary);
        self.ports.cache.fingerprint(key, &mut now);
        self.memos().hit(key, basis, &now, term, Instant::now().into_std())
    }

    /// Keeps in mind that the pass had nothing to do, unless its answer may be another one next
    /// time, or what decides has changed since it began. One whose primary is being deleted is not remembered:
    /// what it waits for may be outside of the cluster.
    pub(crate) fn remember(&self, pass: &Attempt, seen: &Seen, requeue_after: Option<Duration>) {
        let Some(footing) = pass.footing.as_ref().filter(|_| !seen.primary.meta().deleting) else {
            return;
        };
        let cache = &self.ports.cache;
        if self.config.skip_unchanged && Basis::of(&seen.serving, |gvk| cache.era(gvk)) == seen.basis {
            let until = requeue_after.map(|after| (Instant::now() + after).into_std());
            let term = pass.term().filter(|term| !self.traces().memory(&pass.key, Some(*term)).is_empty());
            self.memos().remember(&pass.key, &seen.basis, footing, term, until);
        }
    }
}
