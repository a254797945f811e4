//! What the stages tell of their work, as metrics.

use std::sync::Arc;
use std::time::Duration;

use windlass_admin::metrics::Metrics;
use windlass_apply::Verb;
use windlass_core::class::Class;
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::outcome::Outcome;
use windlass_reconcile::Finished;

/// Counts for the loop and the writer.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    /// Where it is counted.
    pub(crate) metrics: Metrics,
}

/// Counts for the queue.
pub(crate) struct QueueTimes(pub(crate) Arc<Observed>);

impl windlass_reconcile::Observer for Observed {
    fn pass_started(&self, key: &Key) {
        self.metrics.pass_started(key.plugin.as_str());
    }

    fn pass_finished(&self, pass: &Finished<'_>) {
        let plugin = pass.key.plugin.as_str();
        self.metrics.pass_finished(plugin, pass.outcome.result(), pass.took, pass.decided);
        if let Outcome::Failed(failure) = pass.outcome
            && let Some(code) = failure.code
        {
            self.metrics.plugin_error(plugin, &format!("E{}", code as u16));
        }
    }
}

impl windlass_queue::Observer for QueueTimes {
    fn taken(&self, key: &Key, queued: Duration) {
        self.0.metrics.taken(key.plugin.as_str(), queued);
    }

    fn finished(&self, key: &Key, worked: Duration) {
        self.0.metrics.finished(key.plugin.as_str(), worked);
    }
}

impl windlass_apply::Observe for Observed {
    fn wrote(&self, plugin: Option<&PluginName>, verb: Verb, result: Result<(), Class>, took: Duration) {
        let plugin = plugin.map_or("windlass", PluginName::as_str);
        let result = result.map_or_else(Class::as_str, |()| "ok");
        self.metrics.wrote(plugin, verb.as_str(), result, took);
    }
}
