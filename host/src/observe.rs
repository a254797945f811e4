//! What the stages tell of their work: as metrics, and to each other where that is the host's to do.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};
use windlass_admin::metrics::Metrics;
use windlass_apply::Verb;
use windlass_core::breaker::Rules;
use windlass_core::claim::{Claim, Term};
use windlass_core::class::Class;
use windlass_core::code::Code;
use windlass_core::guests::Called;
use windlass_core::key::Key;
use windlass_core::kind::Gvk;
use windlass_core::name::PluginName;
use windlass_core::outcome::Outcome;
use windlass_core::probation::{CLEAN_MIN, Turn};
use windlass_core::rights::Missing;
use windlass_lease::step::{Cause, StepDown};
use windlass_queue::Queue;
use windlass_reconcile::Finished;

use crate::fence::Fence;
use crate::quarantine::Quarantine;
use crate::rights::Rights;

/// Counts for the loop, the writer and the election.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Where it is counted.
    pub(crate) metrics: Metrics,
    /// What the fence said.
    pub(crate) fence: Fence,
    /// Hears how each pass went.
    pub(crate) quarantine: Arc<Quarantine>,
    /// Which plugin lacks which right.
    pub(crate) rights: Rights,
    /// Tells the election of a term whose write was refused.
    refused: mpsc::Sender<Term>,
    /// When the gate opened, until the first write of the term.
    no_write_since: Mutex<Option<Instant>>,
    /// Hears of plugins that loop; it tells this of its times, so neither keeps the other.
    queue: OnceLock<Weak<Queue>>,
}

impl Observed {
    /// Nothing counted yet. A term whose writes the API server refuses goes into `refused`; plugins that
    /// keep failing are left alone as `rules` say.
    pub(crate) fn new(refused: mpsc::Sender<Term>, rules: Rules) -> Self {
        Self {
            metrics: Metrics::new(),
            fence: Fence::default(),
            quarantine: Arc::new(Quarantine::new(rules)),
            rights: Rights::default(),
            refused,
            no_write_since: Mutex::default(),
            queue: OnceLock::new(),
        }
    }

    /// From now on plugins that loop get one slot of this queue. For the only queue there is.
    pub(crate) fn narrows(&self, queue: &Arc<Queue>) {
        let known = self.queue.set(Arc::downgrade(queue));
        debug_assert!(known.is_ok(), "there is one queue");
    }

    /// A plugin that has used up its CPU time has one slot until it has shown better.
    fn narrow(&self, plugin: &PluginName, turn: Turn) {
        match turn {
            Turn::Begun => warn!(
                %plugin, code = %Code::Timeout,
                "plugin has used up its CPU time: one pass at a time until {CLEAN_MIN} in a row have gone well"
            ),
            Turn::Longer => {}
            Turn::Over => info!(%plugin, "plugin may have several passes at a time again"),
        }
        self.bound(plugin, (turn != Turn::Over).then_some(NonZeroUsize::MIN));
    }

    /// Waits for a call of the plugin. While it takes much longer than usual no other is begun beside it: one that
    /// loops would soon have half of all slots and every processor.
    pub(crate) async fn one_if_long<T>(&self, plugin: &PluginName, call: impl Future<Output = T>) -> T {
        let mut call = pin!(call);
        let patience = self.quarantine.patience(plugin);
        if let Ok(answer) = tokio::time::timeout(patience, call.as_mut()).await {
            return answer;
        }
        let _long = Long::begin(self, plugin);
        call.await
    }

    /// A call of the plugin has ended.
    pub(crate) fn called(&self, key: &Key, called: &Called, took: Duration) {
        if let Some(turn) = self.quarantine.called(key, called, took) {
            self.narrow(&key.plugin, turn);
        }
    }

    fn bound(&self, plugin: &PluginName, most: Option<NonZeroUsize>) {
        if let Some(queue) = self.queue.get().and_then(Weak::upgrade) {
            queue.bound(plugin, most);
        }
    }

    fn no_write_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // Each use is one assignment.
        self.no_write_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way that takes long.
struct Long<'a> {
    observed: &'a Observed,
    plugin: &'a PluginName,
}

impl<'a> Long<'a> {
    fn begin(observed: &'a Observed, plugin: &'a PluginName) -> Self {
        observed.quarantine.is_long(plugin);
        observed.bound(plugin, Some(NonZeroUsize::MIN));
        Self { observed, plugin }
    }
}

impl Drop for Long<'_> {
    fn drop(&mut self) {
        if self.observed.quarantine.was_long(self.plugin) {
            self.observed.bound(self.plugin, None);
        }
    }
}

/// Counts for the queue.
pub(crate) struct QueueTimes(pub(crate) Arc<Observed>);

impl windlass_reconcile::Observer for Observed {
    fn pass_started(&self, key: &Key) {
        self.metrics.pass_started(key.plugin.as_str());
    }

    fn pass_finished(&self, pass: &Finished<'_>) {
        if let Some(turn) = self.quarantine.finished(pass) {
            self.narrow(&pass.key.plugin, turn);
        }
        let plugin = pass.key.plugin.as_str();
        // What a standby found out is no result that anybody waits for.
        let result = if pass.standby { "standby" } else { pass.outcome.result() };
        self.metrics.pass_finished(plugin, result, pass.took, pass.decided);
        if pass.skipped {
            self.metrics.skipped(plugin, 1);
        }
        for warning in pass.warnings {
            self.metrics.plugins().error(&pass.key.plugin, warning.code);
        }
        if let Outcome::Failed(failure) = pass.outcome
            && let Some(code) = failure.code
        {
            self.metrics.plugins().error(&pass.key.plugin, code);
        }
    }

    fn relisted(&self, kind: &Gvk) {
        self.metrics.watches().own_write_unseen(&kind.to_string());
    }

    fn skipped(&self, plugin: &PluginName, keys: usize) {
        self.metrics.skipped(plugin.as_str(), keys as u64);
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
        if result.is_ok()
            && let Some(since) = self.no_write_since().take()
        {
            self.metrics.leadership().first_write(since.elapsed());
        }
        let result = result.map_or_else(Class::as_str, |()| "ok");
        self.metrics.wrote(plugin, verb.as_str(), result, took);
    }

    fn fenced(&self, claim: &Claim) {
        self.fence.refused(claim);
        self.metrics.leadership().fenced(jiff::Timestamp::now().as_duration().as_secs_f64());
        // When it is full, the election has not yet heard of the one before.
        let _ = self.refused.try_send(claim.term);
    }

    fn fence_unseen(&self, _: &Claim) {
        self.metrics.leadership().fence_unseen();
    }

    fn denied(&self, plugin: Option<&PluginName>, missing: &Missing) {
        // What the host lacks itself is said by whoever wrote.
        if let Some(plugin) = plugin {
            self.rights.lacks(plugin, missing);
        }
    }
}

impl windlass_lease::observe::Observe for Observed {
    fn renewed(&self, took: Duration) {
        self.metrics.leadership().renewed(took);
    }

    fn acquired(&self, cause: Cause, waited: Duration) {
        *self.no_write_since() = Some(Instant::now());
        self.metrics.leadership().took_over(cause.as_str(), waited);
    }

    fn stepped_down(&self, _: &StepDown) {
        *self.no_write_since() = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use windlass_core::code::Refusal;
    use windlass_core::decision::Verdict;
    use windlass_core::name::Digest;
    use windlass_core::outcome::Failure;
    use windlass_core::ports::CallError;
    use windlass_reconcile::Observer as _;

    #[tokio::test(start_paused = true)]
    async fn beside_a_call_that_takes_long_no_other_is_begun() {
        let observed = Observed::new(mpsc::channel(1).0, Rules::default());
        let queue = Queue::new(windlass_queue::Config::default());
        observed.narrows(&queue);
        let plugin = PluginName::try_new("p").expect("valid");
        observed.quarantine.serves(&plugin, &Digest::of(b"1"));
        let key = Key::new(plugin.clone(), "ns", "a");
        let takes = async |millis: u64, called: Option<&Called>| {
            let took = Duration::from_millis(millis);
            let call = async {
                tokio::time::sleep(took).await;
                if let Some(called) = called {
                    observed.called(&key, called, took);
                }
                queue.bound_of(&plugin)
            };
            (observed.one_if_long(&plugin, call).await, queue.bound_of(&plugin))
        };
        let one = Some(NonZeroUsize::MIN);
        assert_eq!(takes(40, None).await, (None, None));
        assert_eq!(takes(60, None).await, (one, None));
        let well = Called {
            result: Ok(Verdict::Finalized),
            ..Called::failed(CallError::NotServing(plugin.clone()))
        };
        takes(40, Some(&well)).await;
        assert_eq!(takes(60, None).await, (None, None), "that is usual now");
        assert_eq!(takes(200, None).await, (one, None));
        let late = Called::failed(CallError::Refused(Refusal::new(Code::Timeout, "1 s of CPU time")));
        assert_eq!(takes(200, Some(&late)).await, (one, one), "it is on probation before its pass has ended");
    }

    #[tokio::test]
    async fn a_plugin_that_loops_has_one_slot_until_ten_passes_in_a_row_have_gone_well() {
        let observed = Observed::new(mpsc::channel(1).0, Rules::default());
        let queue = Queue::new(windlass_queue::Config::default());
        observed.narrows(&queue);
        let plugin = PluginName::try_new("p").expect("valid");
        observed.quarantine.serves(&plugin, &Digest::of(b"1"));
        let ends = |outcome: &Outcome| {
            let key = Key::new(plugin.clone(), "ns", "a");
            let took = Duration::from_millis(1);
            let (decided, warnings) = (Some(took), &[][..]);
            let finished =
                Finished { key: &key, outcome, standby: false, skipped: false, took, decided, warnings };
            observed.pass_started(&key);
            observed.pass_finished(&finished);
            queue.bound_of(&plugin)
        };
        let well = Outcome::Converged { writes: 0, requeue_after: None };
        assert_eq!(ends(&well), None);
        let code = Code::Timeout;
        let message = Refusal::new(code, "1 s of CPU time used up").to_string();
        let looped = Outcome::Failed(Failure { class: Class::Guest, code: Some(code), message });
        assert_eq!(ends(&looped), Some(NonZeroUsize::MIN));
        for _ in 1..CLEAN_MIN {
            assert_eq!(ends(&well), Some(NonZeroUsize::MIN));
        }
        assert_eq!(ends(&well), None);
    }
}
