//! A plugin that is a closure, and a record of what was asked of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::ports::{Answer, CallError, Decide, Pass, Reader, Serving};
use windlass_core::snapshot::Snapshot;

use super::Reply;

type Script = dyn Fn(&Pass, &Snapshot, &dyn Reader) -> Reply + Send + Sync;

pub(crate) struct Brain {
    script: Box<Script>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    serving: BTreeMap<PluginName, Serving>,
    calls: Vec<(Instant, Pass)>,
    running: BTreeSet<Key>,
    most: usize,
    twice: usize,
    takes: Duration,
    reads_clock: bool,
    on_trial: bool,
}

/// Marks a key as running until it is dropped, also when its call is.
struct Mark<'a>(&'a Brain, Key);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.lock().running.remove(&self.1);
    }
}

impl Brain {
    pub(crate) fn new(
        script: impl Fn(&Pass, &Snapshot, &dyn Reader) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self { script: Box::new(script), inner: Mutex::default() }
    }

    pub(crate) fn serve(&self, serving: Serving) {
        self.lock().serving.insert(serving.manifest.name.clone(), serving);
    }

    pub(crate) fn unserve(&self, plugin: &PluginName) {
        self.lock().serving.remove(plugin);
    }

    /// From now on each call takes so long, after it has read and decided.
    pub(crate) fn takes(&self, time: Duration) {
        self.lock().takes = time;
    }

    /// From now on it asks what time it is.
    pub(crate) fn reads_clock(&self, reads: bool) {
        self.lock().reads_clock = reads;
    }

    /// From now on, or not any more, a call shows whether it works again.
    pub(crate) fn on_trial(&self, on_trial: bool) {
        self.lock().on_trial = on_trial;
    }

    pub(crate) fn calls(&self) -> usize {
        self.lock().calls.len()
    }

    /// For which names it was asked, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.lock().calls.iter().map(|(_, pass)| pass.key.name.to_string()).collect()
    }

    /// When `key` was asked for.
    pub(crate) fn times(&self, name: &str) -> Vec<Instant> {
        let inner = self.lock();
        inner.calls.iter().filter(|(_, pass)| &*pass.key.name == name).map(|(at, _)| *at).collect()
    }

    /// Whether each call was a `finalize`.
    pub(crate) fn finalizes(&self) -> Vec<bool> {
        self.lock().calls.iter().map(|(_, pass)| pass.finalize).collect()
    }

    /// The most calls that were under way at once.
    pub(crate) fn most(&self) -> usize {
        self.lock().most
    }

    /// Calls for a key that was asked for already.
    pub(crate) fn twice(&self) -> usize {
        self.lock().twice
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no fake panics while it holds its lock")
    }

    fn begin(&self, pass: &Pass) -> (Mark<'_>, Duration) {
        let mut inner = self.lock();
        inner.calls.push((Instant::now(), pass.clone()));
        if !inner.running.insert(pass.key.clone()) {
            inner.twice += 1;
        }
        inner.most = inner.most.max(inner.running.len());
        (Mark(self, pass.key.clone()), inner.takes)
    }
}

impl Decide for Brain {
    fn serving(&self, plugin: &PluginName) -> Option<Serving> {
        self.lock().serving.get(plugin).cloned()
    }

    fn plugins(&self) -> Vec<PluginName> {
        self.lock().serving.keys().cloned().collect()
    }

    fn may_skip(&self, _: &PluginName) -> bool {
        !self.lock().on_trial
    }

    async fn decide(
        &self,
        pass: Pass,
        snapshot: Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Answer, CallError> {
        let (_mark, takes) = self.begin(&pass);
        let reply = (self.script)(&pass, &snapshot, &*reader);
        if !takes.is_zero() {
            sleep(takes).await;
        }
        let repeatable = !self.lock().reads_clock;
        reply.map(|verdict| Answer { verdict, repeatable })
    }
}
