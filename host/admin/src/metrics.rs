//! Metrics, under controller-runtime's and client-go's names where they mean the
//! same, so that dashboards and alerts that people have go on working.

mod endpoint;
mod leadership;
mod peaks;
mod plugins;
mod series;
mod watches;
mod worker;

pub use endpoint::EndpointMetrics;
pub use leadership::{Leadership, LeadershipNow};
pub use plugins::{CallNow, PluginMetrics, PluginNow, STATES, result_of};
pub use watches::{WatchMetrics, WatchNow};
pub use worker::{ArtefactsNow, SandboxNow, WorkerMetrics, WorkerNow};

use std::collections::BTreeSet;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use windlass_core::name::PluginName;

use self::series::Series;

type FloatGauge = Gauge<f64, AtomicU64>;
type FloatCounter = Counter<f64, AtomicU64>;
type Durations<L> = Series<L, Histogram>;

/// `controller`: the plugin.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfController {
    controller: String,
}

/// `controller` and `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResult {
    controller: String,
    result: &'static str,
}

/// `name`: the queue of a plugin, or the Lease.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfName {
    name: String,
}

/// `plugin`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfPlugin {
    plugin: String,
}

/// `plugin`, `verb`, `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfWrite {
    plugin: String,
    verb: &'static str,
    result: &'static str,
}

/// `kind`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfKind {
    kind: String,
}

/// Under which name the host's own writes are counted.
const OURS: &str = "windlass";

/// Every metric of the host. No global registry: each value has its own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Series<OfResult, Counter>,
    reconcile_errors: Series<OfController, Counter>,
    reconcile_seconds: Durations<OfController>,
    active: Series<OfController, Gauge>,
    max_concurrent: Series<OfController, Gauge>,
    depth: Series<OfName, Gauge>,
    adds: Series<OfName, Counter>,
    retries: Series<OfName, Counter>,
    queue_seconds: Durations<OfName>,
    work_seconds: Durations<OfName>,
    unfinished: Series<OfName, FloatGauge>,
    longest: Series<OfName, FloatGauge>,
    leadership: Leadership,
    plugins: PluginMetrics,
    worker: WorkerMetrics,
    parked: Series<OfName, Gauge>,
    skipped: Series<OfPlugin, Counter>,
    oldest: Series<OfName, FloatGauge>,
    stuck: Series<OfName, Gauge>,
    decision_seconds: Durations<OfPlugin>,
    writes: Series<OfWrite, Counter>,
    write_seconds: Durations<OfPlugin>,
    watches: WatchMetrics,
    endpoint: EndpointMetrics,
}

/// One queue, read when it is scraped.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueueNow {
    /// Keys that could be handed out now.
    pub depth: usize,
    /// Keys that became ready since the start.
    pub adds: u64,
    /// Passes that ended with a pause since the start.
    pub retries: u64,
    /// Time that running passes have taken so far, in sum.
    pub unfinished: Duration,
    /// Time that the oldest running pass has taken so far.
    pub longest: Duration,
    /// How long the oldest key that could be handed out has been so.
    pub oldest: Duration,
}

impl Metrics {
    /// All metrics at zero, in a registry of their own.
    pub fn new() -> Self {
        let mut r = Registry::default();
        Self {
            reconciles: counter(&mut r, "controller_runtime_reconcile", "Passes by their result"),
            reconcile_errors: counter(&mut r, "controller_runtime_reconcile_errors", "Passes that failed"),
            reconcile_seconds: durations(
                &mut r,
                "controller_runtime_reconcile_time_seconds",
                "Time of a pass",
            ),
            active: gauge(&mut r, "controller_runtime_active_workers", "Passes that run now"),
            max_concurrent: gauge(
                &mut r,
                "controller_runtime_max_concurrent_reconciles",
                "Passes of a plugin that may run at once",
            ),
            depth: gauge(&mut r, "workqueue_depth", "Keys that could be worked on now"),
            adds: counter(&mut r, "workqueue_adds", "Keys that became ready"),
            retries: counter(&mut r, "workqueue_retries", "Passes that ended with a pause"),
            queue_seconds: durations(
                &mut r,
                "workqueue_queue_duration_seconds",
                "Time a key was ready before it ran",
            ),
            work_seconds: durations(&mut r, "workqueue_work_duration_seconds", "Time a key ran"),
            unfinished: gauge(
                &mut r,
                "workqueue_unfinished_work_seconds",
                "Time of all running passes so far",
            ),
            longest: gauge(
                &mut r,
                "workqueue_longest_running_processor_seconds",
                "Time of the oldest running pass so far",
            ),
            leadership: Leadership::new(&mut r),
            plugins: PluginMetrics::new(&mut r),
            worker: WorkerMetrics::new(&mut r),
            parked: gauge(&mut r, "windlass_parked_keys", "Keys with writes that wait for a takeover"),
            skipped: counter(
                &mut r,
                "windlass_passes_skipped",
                "Passes that were not needed: nothing that they could see had changed",
            ),
            oldest: gauge(
                &mut r,
                "windlass_queue_oldest_ready_seconds",
                "Time that the oldest key has been ready and has not run",
            ),
            stuck: gauge(&mut r, "windlass_stuck_keys", "Keys that have failed too often or for too long"),
            decision_seconds: durations(
                &mut r,
                "windlass_plugin_decision_seconds",
                "Time of a pass in which its plugin decided, with the wait for a turn",
            ),
            writes: counter(&mut r, "windlass_writes", "Writes by what they did and how they ended"),
            write_seconds: durations(&mut r, "windlass_write_seconds", "Time of a write"),
            watches: WatchMetrics::new(&mut r),
            endpoint: EndpointMetrics::new(&mut r),
            registry: r,
        }
    }

    /// A pass has begun.
    pub fn pass_started(&self, plugin: &str) {
        self.active.get_or_create(&OfController { controller: plugin.to_owned() }).inc();
    }

    /// A pass has ended.
    pub fn pass_finished(
        &self,
        plugin: &str,
        result: &'static str,
        took: Duration,
        decided: Option<Duration>,
    ) {
        let controller = OfController { controller: plugin.to_owned() };
        self.active.get_or_create(&controller).dec();
        self.reconcile_seconds.get_or_create(&controller).observe(took.as_secs_f64());
        if result == "error" {
            self.reconcile_errors.get_or_create(&controller).inc();
        }
        self.reconciles.get_or_create(&OfResult { controller: plugin.to_owned(), result }).inc();
        if let Some(decided) = decided {
            let plugin = OfPlugin { plugin: plugin.to_owned() };
            self.decision_seconds.get_or_create(&plugin).observe(decided.as_secs_f64());
        }
    }

    /// Passes were not needed, because nothing that they could see had changed.
    pub fn skipped(&self, plugin: &str, passes: u64) {
        self.skipped.get_or_create(&OfPlugin { plugin: plugin.to_owned() }).inc_by(passes);
    }

    /// A plugin broke a rule; as [`PluginMetrics::error`], for a code that is text already.
    pub fn plugin_error(&self, plugin: &str, code: &str) {
        self.plugins.error_text(plugin, code.to_owned());
    }

    /// A key was taken after it had been ready for so long.
    pub fn taken(&self, plugin: &str, queued: Duration) {
        self.queue_seconds.get_or_create(&OfName { name: plugin.to_owned() }).observe(queued.as_secs_f64());
    }

    /// A key was finished after it had run for so long.
    pub fn finished(&self, plugin: &str, worked: Duration) {
        self.work_seconds.get_or_create(&OfName { name: plugin.to_owned() }).observe(worked.as_secs_f64());
    }

    /// A write has ended; `plugin` is `windlass` for the host's own.
    pub fn wrote(&self, plugin: &str, verb: &'static str, result: &'static str, took: Duration) {
        self.writes.get_or_create(&OfWrite { plugin: plugin.to_owned(), verb, result }).inc();
        self.write_seconds.get_or_create(&OfPlugin { plugin: plugin.to_owned() }).observe(took.as_secs_f64());
    }

    /// Sets how many passes of a plugin may run at once.
    pub fn set_max_concurrent(&self, plugin: &str, most: u16) {
        self.max_concurrent.get_or_create(&OfController { controller: plugin.to_owned() }).set(most.into());
    }

    /// Sets what the queue of a plugin is now.
    pub fn set_queue(&self, plugin: &str, now: QueueNow) {
        let name = OfName { name: plugin.to_owned() };
        self.depth.get_or_create(&name).set(whole(now.depth as u64));
        reach(&self.adds.get_or_create(&name), now.adds);
        reach(&self.retries.get_or_create(&name), now.retries);
        self.unfinished.get_or_create(&name).set(now.unfinished.as_secs_f64());
        self.longest.get_or_create(&name).set(now.longest.as_secs_f64());
        self.oldest.get_or_create(&name).set(now.oldest.as_secs_f64());
    }

    /// Those of leadership and of the fence.
    pub fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    /// Sets how many keys of a plugin wait for a takeover.
    pub fn set_parked(&self, plugin: &str, parked: usize) {
        self.parked.get_or_create(&OfName { name: plugin.to_owned() }).set(whole(parked as u64));
    }

    /// Sets how many keys of a plugin have failed too often or for too long.
    pub fn set_stuck(&self, plugin: &str, stuck: usize) {
        self.stuck.get_or_create(&OfName { name: plugin.to_owned() }).set(whole(stuck as u64));
    }

    /// Forgets which plugins there were; [`set_plugin`](Self::set_plugin) says which there are.
    pub fn clear_plugins(&self) {
        self.plugins.clear();
    }

    /// Sets one plugin as it is now. Its calls are counted by [`PluginMetrics::called`].
    pub fn set_plugin(&self, plugin: &str, version: &str, digest: &str, state: &str, _calls: u64) {
        self.plugins.set_one(plugin, version, digest, state);
    }

    /// Those of plugins.
    pub fn plugins(&self) -> &PluginMetrics {
        &self.plugins
    }

    /// Those of the process that runs plugins.
    pub fn worker(&self) -> &WorkerMetrics {
        &self.worker
    }

    /// Takes away every series of a plugin that is not among `there`. Meant for a scrape,
    /// after everything was set: a pass may outlive its plugin and count once more.
    pub fn keep_plugins(&self, there: &BTreeSet<PluginName>) {
        let there: BTreeSet<&str> = there.iter().map(PluginName::as_str).collect();
        let is_there = |name: &str| there.contains(name);
        self.plugins.keep(&is_there);
        self.reconciles.retain(|of, _| is_there(&of.controller));
        self.reconcile_errors.retain(|of, _| is_there(&of.controller));
        self.reconcile_seconds.retain(|of, _| is_there(&of.controller));
        // What still runs will be subtracted.
        self.active.retain(|of, active| is_there(&of.controller) || active.get() != 0);
        self.max_concurrent.retain(|of, _| is_there(&of.controller));
        for gauge in [&self.depth, &self.parked, &self.stuck] {
            gauge.retain(|of, _| is_there(&of.name));
        }
        for counter in [&self.adds, &self.retries] {
            counter.retain(|of, _| is_there(&of.name));
        }
        for histogram in [&self.queue_seconds, &self.work_seconds] {
            histogram.retain(|of, _| is_there(&of.name));
        }
        for gauge in [&self.unfinished, &self.longest, &self.oldest] {
            gauge.retain(|of, _| is_there(&of.name));
        }
        self.decision_seconds.retain(|of, _| is_there(&of.plugin));
        self.skipped.retain(|of, _| is_there(&of.plugin));
        self.writes.retain(|of, _| is_there(&of.plugin) || of.plugin == OURS);
        self.write_seconds.retain(|of, _| is_there(&of.plugin) || of.plugin == OURS);
    }

    /// Watches and the cache that they fill.
    pub fn watches(&self) -> &WatchMetrics {
        &self.watches
    }

    /// The port that they are scraped at.
    pub fn endpoint(&self) -> &EndpointMetrics {
        &self.endpoint
    }

    /// Everything in the text format that Prometheus reads.
    pub fn text(&self) -> String {
        self.text_at(Instant::now())
    }

    fn text_at(&self, now: Instant) -> String {
        self.plugins.settle(now);
        let mut text = String::new();
        // Writing to a String fails only if a metric's own encoding does.
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n# EOF\n"),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Brings a counter to what somebody else has counted.
fn reach(counter: &Counter, count: u64) {
    counter.inner().store(count, Ordering::Relaxed);
}

fn whole(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn one<M: Clone + prometheus_client::registry::Metric + Default>(
    r: &mut Registry,
    name: &str,
    help: &str,
) -> M {
    let metric = M::default();
    r.register(name, help, metric.clone());
    metric
}

fn counter<L>(r: &mut Registry, name: &str, help: &str) -> Series<L, Counter>
where
    L: Labels,
{
    one(r, name, help)
}

fn gauge<L, G>(r: &mut Registry, name: &str, help: &str) -> Series<L, G>
where
    L: Labels,
    G: Clone + Default,
    Series<L, G>: prometheus_client::registry::Metric,
{
    one(r, name, help)
}

fn durations<L: Labels>(r: &mut Registry, name: &str, help: &str) -> Durations<L> {
    durations_in(r, name, help, buckets)
}

fn durations_in<L: Labels>(
    r: &mut Registry,
    name: &str,
    help: &str,
    buckets: fn() -> Histogram,
) -> Durations<L> {
    let series = Series::new(buckets);
    r.register(name, help, series.clone());
    series
}

/// A set of labels.
trait Labels: Clone + Eq + Hash + std::fmt::Debug + EncodeLabelSet + Send + Sync + 'static {}

impl<L: Clone + Eq + Hash + std::fmt::Debug + EncodeLabelSet + Send + Sync + 'static> Labels for L {}

/// From 50 us, a decision, to 26 s, a pass that waits for a slow API server.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 3.0, 13))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn names_are_those_that_dashboards_know() {
        let metrics = Metrics::new();
        metrics.pass_started("webapp");
        metrics.pass_finished("webapp", "error", SECOND, Some(SECOND));
        metrics.plugin_error("webapp", "E201");
        metrics.taken("webapp", SECOND);
        metrics.finished("webapp", SECOND);
        metrics.wrote("webapp", "create", "ok", SECOND);
        metrics.set_queue("webapp", QueueNow { depth: 3, oldest: SECOND, ..QueueNow::default() });
        metrics.set_stuck("webapp", 2);
        metrics
            .leadership()
            .set("windlass", LeadershipNow { leading: true, term: 7, renew_age: Some(SECOND) });
        metrics.set_plugin("webapp", "0.1.0", "sha256:1", "serving", 9);
        metrics.watches().set("v1/ConfigMap", WatchNow { objects: 5, ..WatchNow::default() });
        let text = metrics.text();
        for line in [
            "controller_runtime_reconcile_total{controller=\"webapp\",result=\"error\"} 1\n",
            "controller_runtime_reconcile_errors_total{controller=\"webapp\"} 1\n",
            "controller_runtime_reconcile_time_seconds_count{controller=\"webapp\"} 1\n",
            "controller_runtime_active_workers{controller=\"webapp\"} 0\n",
            "workqueue_depth{name=\"webapp\"} 3\n",
            "workqueue_adds_total{name=\"webapp\"} 0\n",
            "windlass_queue_oldest_ready_seconds{name=\"webapp\"} 1.0\n",
            "windlass_stuck_keys{name=\"webapp\"} 2\n",
            "workqueue_queue_duration_seconds_sum{name=\"webapp\"} 1.0\n",
            "leader_election_master_status{name=\"windlass\"} 1\n",
            "windlass_term 7\n",
            "windlass_plugin_info{plugin=\"webapp\",version=\"0.1.0\",digest=\"sha256:1\",state=\"serving\"} 1\n",
            "windlass_plugin_errors_total{plugin=\"webapp\",code=\"E201\"} 1\n",
            "windlass_writes_total{plugin=\"webapp\",verb=\"create\",result=\"ok\"} 1\n",
            "windlass_cache_objects{kind=\"v1/ConfigMap\"} 5\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn one_state_of_the_fence_is_true_at_a_time() {
        let metrics = Metrics::new();
        metrics.leadership().set_fence("unknown");
        metrics.leadership().set_fence("present");
        metrics.leadership().took_over("died", SECOND);
        metrics.leadership().fenced(1_700_000_000.0);
        let text = metrics.text();
        for line in [
            "windlass_fence{state=\"present\"} 1\n",
            "windlass_fence{state=\"unknown\"} 0\n",
            "windlass_fence_refusals_total 1\n",
            "windlass_takeover_seconds_count{cause=\"died\"} 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_plugin_that_is_gone_is_gone_from_the_metrics() {
        let metrics = Metrics::new();
        metrics.set_plugin("webapp", "0.1.0", "sha256:1", "serving", 9);
        metrics.clear_plugins();
        assert!(!metrics.text().contains("sha256:1"));
    }
}
