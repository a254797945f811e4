//! Metrics of plugins: what they do, what they did wrong, how near they are to their limits.
//!
//! Every label value is a plugin's checked name or one of a few words of ours, and a
//! plugin that goes takes its series along ([`super::Metrics::keep_plugins`]): what is
//! held is bounded by the plugins that there are.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use windlass_core::code::Code;
use windlass_core::decision::Verdict;
use windlass_core::guests::Used;
use windlass_core::limits::Limits;
use windlass_core::name::{Digest, PluginName};
use windlass_core::ports::CallError;

use super::peaks::Peaks;
use super::series::Series;
use super::{FloatCounter, FloatGauge, OfPlugin, counter, durations, gauge, one, whole};

/// `plugin` and `code`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfCode {
    plugin: String,
    code: String,
}

/// `plugin` and `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfResult {
    plugin: String,
    result: &'static str,
}

/// `plugin` and `limit`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfLimit {
    plugin: String,
    limit: &'static str,
}

/// `plugin` and `state`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfState {
    plugin: String,
    state: &'static str,
}

/// `plugin`, `version`, `digest`, `state`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfVersion {
    plugin: String,
    version: String,
    digest: String,
    state: &'static str,
}

/// `plugin`, `mode` and `result`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSignature {
    plugin: String,
    mode: &'static str,
    result: &'static str,
}

/// Words for how far a plugin has come; any other is shown as `other`.
pub const STATES: [&str; 9] =
    ["found", "checked", "compiling", "compiled", "warmed", "serving", "refused", "quarantined", "other"];

/// Limits whose nearness is shown, in the order of [`CallNow::shares`].
const LIMITS: [&str; 5] = ["memory", "cpu", "snapshot", "decision", "log"];

/// One call into a plugin that has ended.
#[derive(Clone, Copy, Debug)]
pub struct CallNow {
    /// How it ended, see [`result_of`].
    pub result: &'static str,
    /// Wall time, the way to the process that runs it and back included.
    pub took: Duration,
    /// What it used; nothing if it never ran.
    pub used: Used,
    /// JSON of the snapshot, in bytes.
    pub snapshot_bytes: u64,
    /// What it has cost of a processor, if it was ended by the host or refused for what it answered; else nothing.
    pub failure: Duration,
}

/// How a call ended, in one word: `decided`; `fault`, the plugin answered with one of its
/// own; `refused`, the host ended it or refused its answer; `not_serving`, it never ran.
pub fn result_of(result: &Result<Verdict, CallError>) -> &'static str {
    match result {
        Ok(_) => "decided",
        Err(CallError::Fault(_)) => "fault",
        Err(CallError::Refused(_)) => "refused",
        Err(CallError::NotServing(_)) => "not_serving",
        Err(CallError::Resting(_)) => "resting",
    }
}

/// One plugin as it is now, read when it is scraped.
#[derive(Clone, Copy, Debug)]
pub struct PluginNow<'a> {
    /// Which plugin.
    pub name: &'a PluginName,
    /// How far its ConfigMap has come, one of [`STATES`].
    pub state: &'a str,
    /// Version and component that serve, if any do.
    pub serving: Option<(&'a str, &'a Digest)>,
}

/// What plugins do. Fed by whoever calls them, and at each scrape.
#[derive(Debug)]
pub struct PluginMetrics {
    info: Series<OfVersion, Gauge>,
    state: Series<OfState, Gauge>,
    quarantined: Gauge,
    calls: Series<OfResult, Counter>,
    call_seconds: Series<OfPlugin, Histogram>,
    failure_seconds: Series<OfPlugin, FloatCounter>,
    errors: Series<OfCode, Counter>,
    memory: Series<OfPlugin, Gauge>,
    limit_ratio: Series<OfLimit, FloatGauge>,
    log_dropped: Series<OfPlugin, Counter>,
    signature: Series<OfSignature, Gauge>,
    /// Nearness to each of `LIMITS`, and bytes of memory.
    peaks: Mutex<BTreeMap<PluginName, Peaks<6>>>,
}

impl PluginMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            info: gauge(r, "windlass_plugin_info", "1 for each plugin as it is now"),
            state: gauge(r, "windlass_plugin_state", "1 for the state in which a plugin's ConfigMap is"),
            quarantined: one(r, "windlass_plugin_quarantined", "Plugins that are not called for a while"),
            calls: counter(r, "windlass_plugin_calls", "Calls into a plugin that have ended, by how"),
            call_seconds: durations(r, "windlass_plugin_call_seconds", "Time of a call into a plugin"),
            failure_seconds: one(
                r,
                "windlass_plugin_failure_seconds",
                "Time of a processor that calls have cost which the host ended",
            ),
            errors: counter(r, "windlass_plugin_errors", "What plugins did wrong, by code"),
            memory: gauge(
                r,
                "windlass_plugin_memory_bytes",
                "Highest linear memory of one call in the last minute",
            ),
            limit_ratio: gauge(
                r,
                "windlass_plugin_limit_ratio",
                "Highest share of a limit that one call used in the last minute; 1 is the limit",
            ),
            log_dropped: counter(r, "windlass_plugin_log_lines_dropped", "Lines beyond a plugin's log rate"),
            signature: gauge(r, "windlass_plugin_signature", "1 for what came of a plugin's signature"),
            peaks: Mutex::default(),
        }
    }

    /// A call has ended under these limits.
    pub fn called(&self, now: Instant, plugin: &PluginName, call: &CallNow, limits: &Limits) {
        let name = plugin.as_str().to_owned();
        self.calls.get_or_create(&OfResult { plugin: name.clone(), result: call.result }).inc();
        self.call_seconds.get_or_create(&OfPlugin { plugin: name }).observe(call.took.as_secs_f64());
        if !call.failure.is_zero() {
            let of = OfPlugin { plugin: plugin.as_str().to_owned() };
            self.failure_seconds.get_or_create(&of).inc_by(call.failure.as_secs_f64());
        }
        let [memory, cpu, snapshot, decision, log] = call.shares(limits);
        let values = [memory, cpu, snapshot, decision, log, call.used.memory_bytes as f64];
        let mut peaks = self.peaks();
        match peaks.get_mut(plugin) {
            Some(of) => of.add(now, values),
            None => peaks.entry(plugin.clone()).or_insert_with(|| Peaks::new(now)).add(now, values),
        }
    }

    /// A plugin broke a rule, or something was worth a warning. A refusal is counted here
    /// and nowhere else: [`called`](Self::called) counts calls.
    pub fn error(&self, plugin: &PluginName, code: Code) {
        let letter = if code.is_warning() { 'W' } else { 'E' };
        self.error_text(plugin.as_str(), format!("{letter}{}", code as u16));
    }

    pub(super) fn error_text(&self, plugin: &str, code: String) {
        self.errors.get_or_create(&OfCode { plugin: plugin.to_owned(), code }).inc();
    }

    /// Lines of a plugin were dropped because it writes too much.
    pub fn log_dropped(&self, plugin: &PluginName, lines: u64) {
        self.log_dropped.get_or_create(&OfPlugin { plugin: plugin.as_str().to_owned() }).inc_by(lines);
    }

    /// Sets what came of a plugin's signature (`valid`, `absent`, `unknown_key`, ..) under
    /// a mode (`enforce`, `warn`, `off`).
    pub fn set_signature(&self, plugin: &PluginName, mode: &'static str, result: &'static str) {
        let of = OfSignature { plugin: plugin.as_str().to_owned(), mode, result };
        self.signature.retain(|labels, _| labels.plugin != of.plugin || *labels == of);
        self.signature.get_or_create(&of).set(1);
    }

    /// Sets which plugins there are and how they fare.
    pub fn set(&self, plugins: &[PluginNow<'_>]) {
        let mut quarantined = 0;
        let is = |of: &OfVersion, now: &PluginNow<'_>| {
            let (version, digest) = now.words();
            (of.plugin.as_str(), of.version.as_str(), of.digest.as_str(), of.state)
                == (now.name.as_str(), version, digest, state_of(now.state))
        };
        self.info.retain(|of, _| plugins.iter().any(|now| is(of, now)));
        for plugin in plugins {
            let (version, digest) = plugin.words();
            self.set_one(plugin.name.as_str(), version, digest, plugin.state);
            quarantined += u64::from(state_of(plugin.state) == "quarantined");
        }
        self.quarantined.set(whole(quarantined));
    }

    pub(super) fn clear(&self) {
        self.info.clear();
        self.quarantined.set(0);
    }

    pub(super) fn set_one(&self, plugin: &str, version: &str, digest: &str, state: &str) {
        let state = state_of(state);
        for other in STATES {
            let of = OfState { plugin: plugin.to_owned(), state: other };
            self.state.get_or_create(&of).set((other == state).into());
        }
        let (version, digest) = (version.to_owned(), digest.to_owned());
        self.info.get_or_create(&OfVersion { plugin: plugin.to_owned(), version, digest, state }).set(1);
    }

    /// Sets what is read out of the last minute.
    pub(super) fn settle(&self, now: Instant) {
        for (plugin, peaks) in &*self.peaks() {
            let plugin = plugin.as_str();
            let [shares @ .., memory] = peaks.highest(now);
            self.memory.get_or_create(&OfPlugin { plugin: plugin.to_owned() }).set(whole(memory as u64));
            for (limit, share) in LIMITS.into_iter().zip(shares) {
                self.limit_ratio.get_or_create(&OfLimit { plugin: plugin.to_owned(), limit }).set(share);
            }
        }
    }

    /// Takes away whatever is about a plugin that is gone.
    pub(super) fn keep(&self, is_there: &dyn Fn(&str) -> bool) {
        self.info.retain(|of, _| is_there(&of.plugin));
        self.state.retain(|of, _| is_there(&of.plugin));
        self.calls.retain(|of, _| is_there(&of.plugin));
        self.call_seconds.retain(|of, _| is_there(&of.plugin));
        self.failure_seconds.retain(|of, _| is_there(&of.plugin));
        self.errors.retain(|of, _| is_there(&of.plugin));
        self.memory.retain(|of, _| is_there(&of.plugin));
        self.limit_ratio.retain(|of, _| is_there(&of.plugin));
        self.log_dropped.retain(|of, _| is_there(&of.plugin));
        self.signature.retain(|of, _| is_there(&of.plugin));
        self.peaks().retain(|plugin, _| is_there(plugin.as_str()));
    }

    fn peaks(&self) -> MutexGuard<'_, BTreeMap<PluginName, Peaks<6>>> {
        // Each use leaves every entry whole.
        self.peaks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PluginNow<'_> {
    /// Version and digest, empty when nothing serves.
    fn words(&self) -> (&str, &str) {
        self.serving.map_or(("", ""), |(version, digest)| (version, digest.as_str()))
    }
}

/// `state` as one of [`STATES`].
fn state_of(state: &str) -> &'static str {
    STATES.into_iter().find(|known| *known == state).unwrap_or("other")
}

impl CallNow {
    /// What was used of each of [`LIMITS`], as a share. A limit of nothing is never near.
    fn shares(&self, limits: &Limits) -> [f64; LIMITS.len()] {
        let share = |used: u64, limit: usize| if limit == 0 { 0.0 } else { used as f64 / limit as f64 };
        let cpu = limits.cpu.as_secs_f64();
        [
            share(self.used.memory_bytes, limits.memory_bytes),
            if cpu > 0.0 { self.used.cpu.as_secs_f64() / cpu } else { 0.0 },
            share(self.snapshot_bytes, limits.snapshot_bytes),
            share(self.used.decision_bytes, limits.decision_bytes),
            share(self.used.log_bytes, limits.log_bytes),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Metrics;
    use super::*;

    fn plugin(name: &str) -> PluginName {
        PluginName::try_new(name).expect("valid")
    }

    fn call(memory: u64, cpu: Duration) -> CallNow {
        CallNow {
            result: "decided",
            took: cpu * 2,
            used: Used { cpu, memory_bytes: memory, decision_bytes: 1 << 20, log_bytes: 16 << 10 },
            snapshot_bytes: 2 << 20,
            failure: Duration::ZERO,
        }
    }

    fn expect(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.contains(&format!("{line}\n")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_call_shows_how_near_it_came_to_each_limit() {
        let metrics = Metrics::new();
        let (webapp, now) = (plugin("webapp"), Instant::now());
        let limits = Limits::default();
        metrics.plugins().called(now, &webapp, &call(48 << 20, Duration::from_millis(100)), &limits);
        metrics.plugins().called(now, &webapp, &call(16 << 20, Duration::from_millis(250)), &limits);
        expect(
            &metrics.text_at(now + Duration::from_secs(30)),
            &[
                "windlass_plugin_calls_total{plugin=\"webapp\",result=\"decided\"} 2",
                "windlass_plugin_call_seconds_count{plugin=\"webapp\"} 2",
                "windlass_plugin_memory_bytes{plugin=\"webapp\"} 50331648",
                "windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"memory\"} 0.75",
                "windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"cpu\"} 0.25",
                "windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"snapshot\"} 0.25",
                "windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"decision\"} 0.25",
                "windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"log\"} 1.0",
            ],
        );
        assert!(!metrics.text().contains("windlass_plugin_failure_seconds_total{"), "nothing failed");
        let failed = CallNow { failure: Duration::from_millis(1500), ..call(1, Duration::from_secs(1)) };
        metrics.plugins().called(now, &webapp, &failed, &limits);
        expect(&metrics.text(), &["windlass_plugin_failure_seconds_total{plugin=\"webapp\"} 1.5"]);
        let quiet = metrics.text_at(now + Duration::from_secs(90));
        expect(&quiet, &["windlass_plugin_limit_ratio{plugin=\"webapp\",limit=\"memory\"} 0.0"]);
    }

    #[test]
    fn a_limit_of_zero_is_no_number_that_nobody_can_read() {
        let limits = Limits { memory_bytes: 0, cpu: Duration::ZERO, ..Limits::default() };
        assert!(call(1, Duration::from_secs(1)).shares(&limits).iter().all(|share| share.is_finite()));
    }

    #[test]
    fn a_plugin_is_in_one_state_and_a_word_that_nobody_knows_is_other() {
        let metrics = Metrics::new();
        let (a, b, digest) = (plugin("a"), plugin("b"), Digest::of(b"a"));
        let now = |state| {
            let a = PluginNow { name: &a, state, serving: Some(("0.1.0", &digest)) };
            metrics.plugins().set(&[a, PluginNow { name: &b, state: "sleeping", serving: None }]);
            metrics.text()
        };
        expect(&now("serving"), &["windlass_plugin_state{plugin=\"a\",state=\"serving\"} 1"]);
        let text = now("quarantined");
        expect(
            &text,
            &[
                "windlass_plugin_state{plugin=\"a\",state=\"serving\"} 0",
                "windlass_plugin_state{plugin=\"a\",state=\"quarantined\"} 1",
                "windlass_plugin_state{plugin=\"b\",state=\"other\"} 1",
                "windlass_plugin_quarantined 1",
                &format!(
                    "windlass_plugin_info{{plugin=\"a\",version=\"0.1.0\",digest=\"{digest}\",state=\"quarantined\"}} 1"
                ),
            ],
        );
        assert_eq!(text.matches("windlass_plugin_info{plugin=\"a\"").count(), 1, "{text}");
    }

    #[test]
    fn errors_and_warnings_are_counted_by_code_and_a_signature_has_one_result() {
        let metrics = Metrics::new();
        let a = plugin("a");
        metrics.plugins().error(&a, Code::Trap);
        metrics.plugins().error(&a, Code::RequeueClamped);
        metrics.plugins().log_dropped(&a, 7);
        metrics.plugins().set_signature(&a, "warn", "absent");
        metrics.plugins().set_signature(&a, "enforce", "valid");
        let text = metrics.text();
        expect(
            &text,
            &[
                "windlass_plugin_errors_total{plugin=\"a\",code=\"E201\"} 1",
                "windlass_plugin_errors_total{plugin=\"a\",code=\"W311\"} 1",
                "windlass_plugin_log_lines_dropped_total{plugin=\"a\"} 7",
                "windlass_plugin_signature{plugin=\"a\",mode=\"enforce\",result=\"valid\"} 1",
            ],
        );
        assert!(!text.contains("absent"), "{text}");
    }

    #[test]
    fn a_plugin_that_is_gone_takes_every_series_along() {
        let metrics = Metrics::new();
        let second = Duration::from_secs(1);
        for name in ["stays", "goes"] {
            let (name, of) = (name, plugin(name));
            metrics.pass_started(name);
            metrics.pass_finished(name, "error", second, Some(second));
            metrics.taken(name, second);
            metrics.finished(name, second);
            metrics.wrote(name, "apply", "ok", second);
            metrics.set_max_concurrent(name, 4);
            metrics.set_queue(name, super::super::QueueNow::default());
            metrics.set_parked(name, 1);
            metrics.set_stuck(name, 1);
            metrics.plugins().called(Instant::now(), &of, &call(1, second), &Limits::default());
            metrics.plugins().error(&of, Code::Trap);
            metrics.plugins().log_dropped(&of, 1);
            metrics.plugins().set_signature(&of, "warn", "absent");
            metrics.plugins().set(&[PluginNow { name: &of, state: "serving", serving: None }]);
        }
        metrics.wrote("windlass", "apply", "ok", second);
        assert!(metrics.text().contains("\"goes\""));
        metrics.keep_plugins(&BTreeSet::from([plugin("stays")]));
        let text = metrics.text();
        assert!(!text.contains("\"goes\""), "{text}");
        let stays: BTreeSet<_> = text.lines().filter(|line| line.contains("\"stays\"")).collect();
        assert!(stays.len() > 40, "{stays:#?}");
        expect(&text, &["windlass_writes_total{plugin=\"windlass\",verb=\"apply\",result=\"ok\"} 1"]);
    }

    #[test]
    fn a_pass_that_outlives_its_plugin_leaves_nothing_behind() {
        let metrics = Metrics::new();
        metrics.pass_started("goes");
        metrics.keep_plugins(&BTreeSet::new());
        expect(&metrics.text(), &["controller_runtime_active_workers{controller=\"goes\"} 1"]);
        metrics.pass_finished("goes", "success", Duration::ZERO, None);
        metrics.keep_plugins(&BTreeSet::new());
        assert!(!metrics.text().contains("goes"));
    }
}
