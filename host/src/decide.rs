//! Plugins as the loop asks them: the catalogue of what serves now, and calls on
//! threads that may block.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use windlass_core::code::{Code, Refusal};
use windlass_core::decision::Verdict;
use windlass_core::name::PluginName;
use windlass_core::ports::{CallError, Decide, Pass, Reader, Serving};
use windlass_core::snapshot::Snapshot;
use windlass_plugin::Plugin;

/// Which plugin serves under which name. Shared by the loop and whoever swaps plugins.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    serving: RwLock<BTreeMap<PluginName, Arc<Plugin>>>,
}

impl Catalogue {
    /// From now on calls go to `plugin`; calls under way end with the old one.
    pub(crate) fn put(&self, name: PluginName, plugin: Arc<Plugin>) {
        self.serving.write().unwrap_or_else(PoisonError::into_inner).insert(name, plugin);
    }

    /// From now on nothing serves under `name`.
    pub(crate) fn remove(&self, name: &PluginName) {
        self.serving.write().unwrap_or_else(PoisonError::into_inner).remove(name);
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

    async fn decide(
        &self,
        pass: Pass,
        snapshot: Snapshot,
        reader: Arc<dyn Reader>,
    ) -> Result<Verdict, CallError> {
        let Some(plugin) = self.get(&pass.key.plugin) else {
            return Err(CallError::NotServing(pass.key.plugin));
        };
        let span = tracing::Span::current();
        let call = move || span.in_scope(|| plugin.decide(&pass, &snapshot, reader));
        // Joined right here; a dropped pass lets the call run to its own deadline.
        match tokio::task::spawn_blocking(call).await {
            Ok(answer) => answer,
            Err(error) => Err(CallError::Refused(Refusal::new(
                Code::Trap,
                format!("the call ended by a mistake of the host ({error}); please report it"),
            ))),
        }
    }
}
