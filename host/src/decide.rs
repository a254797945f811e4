//! Plugins as the loop asks them: the catalogue of what serves now, and calls: as tasks where that can be, and
//! on threads that may block.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use tokio::sync::oneshot;
use windlass_core::breaker::Before;
use windlass_core::code::{Code, Refusal};
use windlass_core::guests::LoadId;
use windlass_core::name::PluginName;
use windlass_core::ports::{Answer, CallError, Decide, Pass, Reader, Serving};
use windlass_core::snapshot::Snapshot;
use windlass_plugin::{Asked, Plugin};

use crate::quarantine::Quarantine;
use crate::told::Told;

/// Which plugin serves under which name. Shared by the loop and whoever swaps plugins.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    serving: RwLock<BTreeMap<PluginName, Arc<Plugin>>>,
    quarantine: Arc<Quarantine>,
    /// Hears of each call; nobody in tests.
    told: Option<Arc<Told>>,
    doubted: Arc<Doubted>,
}

/// Plugins whose second answer to the same question was another one although they had not asked for the time, and as what
/// they were loaded then.
#[derive(Debug, Default)]
struct Doubted(Mutex<BTreeMap<PluginName, LoadId>>);

impl Doubted {
    fn all(&self) -> MutexGuard<'_, BTreeMap<PluginName, LoadId>> {
        // Each use is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Catalogue {
    /// Nothing serves yet. Plugins that `quarantine` keeps away are not called.
    pub(crate) fn new(quarantine: Arc<Quarantine>, told: Arc<Told>) -> Self {
        Self { serving: RwLock::default(), quarantine, told: Some(told), doubted: Arc::default() }
    }

    /// Who keeps failing plugins away.
    pub(crate) fn quarantine(&self) -> &Arc<Quarantine> {
        &self.quarantine
    }

    /// From now on calls go to `plugin`; calls under way end with the old one.
    pub(crate) fn put(&self, name: PluginName, plugin: Arc<Plugin>) {
        self.serving.write().unwrap_or_else(PoisonError::into_inner).insert(name, plugin);
    }

    /// From now on nothing serves under `name`.
    pub(crate) fn remove(&self, name: &PluginName) {
        self.serving.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        self.doubted.all().remove(name);
        if let Some(told) = &self.told {
            told.forget(name);
        }
    }

    /// A version of the plugin was refused before it served.
    pub(crate) fn refused(&self, name: &PluginName, refusal: &Refusal) {
        if let Some(told) = &self.told {
            told.refused(name, refusal);
        }
    }

    /// The plugin that serves under `name`.
    pub(crate) fn get(&self, name: &PluginName) -> Option<Arc<Plugin>> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

impl Decide for Catalogue {
    fn serving(&self, plugin: &PluginName) -> Option<Serving> {
        self.get(plugin).map(|plugin| plugin.serving())
    }

    fn plugins(&self) -> Vec<PluginName> {
        self.serving.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    fn may_skip(&self, plugin: &PluginName) -> bool {
        // What was decided once says nothing of what a plugin would decide now that answers as it likes.
        let doubted = self.doubted.all().get(plugin).copied();
        let is_doubted = doubted.is_some() && doubted == self.get(plugin).map(|plugin| plugin.serving().load);
        !is_doubted && self.quarantine.read(plugin).quarantines == 0
    }

    async fn decide(
        &self,
        pass: Pass,
        snapshot: Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Answer, CallError> {
        let Some(plugin) = self.get(&pass.key.plugin) else {
            return Err(CallError::NotServing(pass.key.plugin));
        };
        if let Some(rest) = self.quarantine.rest(&pass.key) {
            return Err(CallError::Resting(rest));
        }
        // The keys of a quarantined plugin are let go, and all offered again when it is over.
        if let Before::Wait(_) = self.quarantine.before(&pass.key) {
            return Err(CallError::NotServing(pass.key.plugin));
        }
        plugin.suspect(self.quarantine.suspects(&pass.key.plugin));
        let asked = Asking {
            sampled: self.told.as_ref().is_some_and(|told| told.samples(&pass.key, pass.number)),
            told: self.told.clone(),
            doubted: Arc::clone(&self.doubted),
            plugin: Arc::clone(&plugin),
            pass,
            snapshot,
        };
        let name = asked.pass.key.plugin.clone();
        let answer = async {
            match asked.without_a_thread(&reader).await {
                Ok(answer) => Ok(answer),
                Err(asked) => asked.on_a_thread(reader).await,
            }
        };
        let answer = match &self.told {
            Some(told) => told.observed().one_if_long(&name, answer).await,
            None => answer.await,
        };
        match answer {
            // Swapped there and back while it ran: the loop would take the answer for the other's.
            Ok(_) if !self.get(&name).is_some_and(|now| Arc::ptr_eq(&now, &plugin)) => {
                Err(CallError::NotServing(name))
            }
            Ok(answer) => answer,
            Err(error) => {
                let how = error.map_or_else(|| "without an answer".to_owned(), |error| error.to_string());
                Err(CallError::Refused(Refusal::new(
                    Code::Trap,
                    format!("the call ended by a mistake of the host ({how}); please report it"),
                )))
            }
        }
    }
}

/// One pass that asks its plugin.
struct Asking {
    pass: Pass,
    snapshot: Snapshot,
    plugin: Arc<Plugin>,
    /// Whether it is asked twice.
    sampled: bool,
    told: Option<Arc<Told>>,
    doubted: Arc<Doubted>,
}

impl Asking {
    /// Asks where the answer wakes this task and nothing else is in between: each hand-over to a thread costs
    /// more than a small call on a machine that has gone to sleep. Gives itself back when that cannot be done.
    async fn without_a_thread(self, reader: &Arc<dyn Reader>) -> Result<Result<Answer, CallError>, Self> {
        let begun = self.plugin.begin(&self.pass, &self.snapshot, Arc::clone(reader), self.sampled);
        let Some(begun) = begun else { return Err(self) };
        let Some((asked, sample)) = self.plugin.ended(begun).await else { return Err(self) };
        let read_clock = asked.called.read_clock;
        self.tell(&asked);
        if let Some(sample) = sample {
            let span = tracing::Span::current();
            // Nobody waits for it.
            drop(tokio::task::spawn_blocking(move || {
                span.in_scope(|| {
                    let doubt = self.plugin.second(&self.pass, &self.snapshot, &sample);
                    self.doubt(doubt, read_clock);
                });
            }));
        }
        Ok(asked.answer())
    }

    /// Asks on a thread that may block. The answer is waited for, and not the thread: a sampled call goes on to be
    /// asked again, and that of a dropped pass runs to its own deadline.
    async fn on_a_thread(
        self,
        reader: Arc<dyn Reader>,
    ) -> Result<Result<Answer, CallError>, Option<tokio::task::JoinError>> {
        let span = tracing::Span::current();
        let (tell, answer) = oneshot::channel();
        let running = tokio::task::spawn_blocking(move || {
            span.in_scope(|| {
                let read_clock = Cell::new(false);
                let answered = |asked: Asked| {
                    read_clock.set(asked.called.read_clock);
                    self.tell(&asked);
                    // Nobody: the pass was dropped.
                    let _ = tell.send(asked.answer());
                };
                let doubt = self.plugin.ask(&self.pass, &self.snapshot, reader, self.sampled, answered);
                self.doubt(doubt, read_clock.get());
            });
        });
        match answer.await {
            Ok(answer) => Ok(answer),
            Err(_) => Err(running.await.err()),
        }
    }

    fn tell(&self, asked: &Asked) {
        if let Some(told) = &self.told {
            told.call(&self.pass, &self.plugin, asked, self.snapshot.bytes());
        }
    }

    fn doubt(&self, doubt: Option<Refusal>, read_clock: bool) {
        let Some(doubt) = doubt else { return };
        // What went by the time is not repeatable anyway, and says nothing of other decisions.
        if !read_clock {
            self.doubted.all().insert(self.pass.key.plugin.clone(), self.plugin.serving().load);
        }
        if let Some(told) = &self.told {
            told.doubt(&self.pass, &self.plugin, &doubt);
        }
    }
}

#[cfg(test)]
mod tests;
