//! What each call into a plugin leaves behind for people: its lines, its figures, doubts.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;
use windlass_admin::metrics::{CallNow, result_of};
use windlass_core::code::Refusal;
use windlass_core::flood::{Admit, Flood, Rate, Summary};
use windlass_core::key::Key;
use windlass_core::name::PluginName;
use windlass_core::ports::Pass;
use windlass_core::sampling::is_sampled;
use windlass_plugin::{Asked, Plugin, publish};

use crate::observe::Observed;
use crate::quarantine::failure_of;

/// How often it is looked whether a flood is over.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes what calls leave behind.
#[derive(Debug)]
pub(crate) struct Told {
    observed: Arc<Observed>,
    /// One decision in how many is asked for twice.
    sampled: Option<NonZeroU32>,
    flood: Mutex<Flood>,
    began: Instant,
}

impl Told {
    /// Nothing told yet.
    pub(crate) fn new(observed: Arc<Observed>, sampled: Option<NonZeroU32>) -> Self {
        Self { observed, sampled, flood: Mutex::new(Flood::new(Rate::default())), began: Instant::now() }
    }

    /// Whether this pass asks twice.
    pub(crate) fn samples(&self, key: &Key, pass: u64) -> bool {
        self.sampled.is_some_and(|one_in| is_sampled(key, pass, one_in))
    }

    /// Who counts.
    pub(crate) fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Publishes one call.
    pub(crate) fn call(&self, pass: &Pass, plugin: &Plugin, asked: &Asked, snapshot_bytes: usize) {
        self.observed.called(&pass.key, &asked.called, asked.took);
        let (name, limits) = (&pass.key.plugin, plugin.limits());
        publish(pass, &asked.called, limits.log_bytes, |bytes| {
            self.flood().admit(self.began.elapsed(), name, bytes) == Admit::Pass
        });
        let metrics = self.observed.metrics.plugins();
        let call = CallNow {
            result: result_of(&asked.called.result),
            took: asked.took,
            used: asked.called.used,
            snapshot_bytes: snapshot_bytes as u64,
            failure: failure_of(&asked.called, asked.took),
        };
        metrics.called(Instant::now(), name, &call, limits);
    }

    /// A sampled call was answered differently the second time.
    pub(crate) fn doubt(&self, pass: &Pass, plugin: &Plugin, doubt: &Refusal) {
        let name = &pass.key.plugin;
        let sees_secrets = plugin.serving().manifest.sees_secrets();
        let doubt = if sees_secrets { doubt.clone().discreet() } else { doubt.clone() };
        self.observed.metrics.plugins().error(name, doubt.code);
        warn!(plugin = %name, key = pass.key.primary(), pass = pass.number, digest = plugin.digest().short(), "{doubt}");
    }

    /// Says how much of each flood was dropped. Never returns.
    pub(crate) async fn sum_up(self: Arc<Self>) {
        loop {
            tokio::time::sleep(LOOK).await;
            let summaries = self.flood().summary(self.began.elapsed());
            for summary in summaries {
                self.say(&summary);
            }
        }
    }

    /// A version of the plugin was refused before it served.
    pub(crate) fn refused(&self, plugin: &PluginName, refusal: &Refusal) {
        self.observed.metrics.plugins().error(plugin, refusal.code);
    }

    /// The plugin is gone.
    pub(crate) fn forget(&self, plugin: &PluginName) {
        let summary = self.flood().forget(self.began.elapsed(), plugin);
        if let Some(summary) = summary {
            self.say(&summary);
        }
    }

    fn say(&self, summary: &Summary) {
        self.observed.metrics.plugins().log_dropped(&summary.plugin, summary.lines);
        self.observed.metrics.plugins().error(&summary.plugin, summary.refusal().code);
        warn!(plugin = %summary.plugin, "{summary}");
    }

    fn flood(&self) -> MutexGuard<'_, Flood> {
        // An entry a plugin, each sound after every step.
        self.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
