//! What the loop tells about its passes, for metrics.

use std::time::Duration;

use windlass_core::code::Refusal;
use windlass_core::key::Key;
use windlass_core::kind::Gvk;
use windlass_core::name::PluginName;
use windlass_core::outcome::Outcome;

/// Is told of each pass. Called on the loop's own task: must not wait.
pub trait Observer: Send + Sync + 'static {
    /// A pass has begun (`controller_runtime_active_workers`). Exactly one
    /// [`pass_finished`](Self::pass_finished) follows, unless the process ends.
    fn pass_started(&self, _key: &Key) {}
    /// A pass has ended (`controller_runtime_reconcile_total`, `…_errors_total`,
    /// `…_time_seconds`).
    fn pass_finished(&self, _pass: &Finished<'_>) {}
    /// A kind is listed anew, because the cache lacked one of our own writes for too long
    /// (`windlass_own_write_relists_total`).
    fn relisted(&self, _kind: &Gvk) {}
    /// A resync found that passes for so many keys would find nothing to do, and offered none of
    /// them (`windlass_passes_skipped_total`).
    fn skipped(&self, _plugin: &PluginName, _keys: usize) {}
}

/// What one pass came to.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// For which key.
    pub key: &'a Key,
    /// How it ended.
    pub outcome: &'a Outcome,
    /// Whether it was a standby's: it only looked, and its outcome is nobody's work. Not
    /// one of the passes that controller-runtime would count.
    pub standby: bool,
    /// Whether it was not run to its end: nothing that it could see had changed since one that
    /// found nothing to do (`windlass_passes_skipped_total`).
    pub skipped: bool,
    /// How long it took, Events included.
    pub took: Duration,
    /// How much of that the plugin took; `None` when it was not asked.
    pub decided: Option<Duration>,
    /// What the plugin's author should know although the pass went on (W codes).
    pub warnings: &'a [Refusal],
}

/// An observer that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {}
