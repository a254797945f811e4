//! What people and probes may ask of a running host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use windlass_admin::metrics::{
    ArtefactsNow, LeadershipNow, PluginNow, QueueNow, SandboxNow, WatchNow, WorkerNow,
};
use windlass_admin::{Answer, Certificates, Routes};
use windlass_core::rights::MissingView;
use windlass_lease::claim_role::ClaimRole;
use windlass_lease::driver::Handle;
use windlass_plugin::PluginView;
use windlass_queue::Queue;
use windlass_watch::watches::Watches;
use windlass_worker::confine::{Files, Report, SystemCalls};

use crate::fence::FenceView;
use crate::observe::Observed;
use crate::plugins::Plugins;
use crate::sandbox::Sandbox;
use crate::trust::Trusts;

/// Everything that is shown.
pub(crate) struct Views {
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) watches: Arc<Watches>,
    pub(crate) lease: Arc<Handle>,
    pub(crate) claim_role: Arc<ClaimRole>,
    pub(crate) lease_name: String,
    pub(crate) max_concurrent: u16,
    pub(crate) observed: Arc<Observed>,
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) trusts: Arc<Trusts>,
    /// What the port for metrics shows; nothing without TLS.
    pub(crate) certificates: Option<Arc<Certificates>>,
    /// Ready once stays ready: a broken plugin, a missing CRD, an outage or the loss
    /// of leadership must not block a rollout.
    pub(crate) was_ready: AtomicBool,
}

/// What `/debug/leadership` shows.
#[derive(serde::Serialize)]
struct LeadershipView {
    #[serde(flatten)]
    lease: windlass_lease::status::Status,
    /// The claim that the Role `windlass-claim` named when it was seen last.
    current_claim: Option<String>,
    fence: FenceView,
}

/// One plugin in `/debug/plugins`.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct PluginRow {
    #[serde(flatten)]
    plugin: PluginView,
    /// What it waits for, as rules to be added.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing_rights: Vec<MissingView>,
}

/// The probes' port. Everybody may ask it: what it says names parts of the host, and nobody's plugin or object.
pub(crate) struct Probes(pub(crate) Arc<Views>);

/// The port for metrics and debug views.
pub(crate) struct Inside(pub(crate) Arc<Views>);

impl Routes for Probes {
    fn get(&self, path: &str) -> Option<Answer> {
        match path {
            "/healthz" | "/livez" => Some(Answer::text("ok\n")),
            "/readyz" => Some(self.0.ready()),
            _ => None,
        }
    }
}

impl Routes for Inside {
    fn get(&self, path: &str) -> Option<Answer> {
        let views = &self.0;
        match path {
            "/metrics" => Some(Answer::metrics(views.metrics())),
            "/debug/plugins" => Some(Answer::json(&views.plugins())),
            "/debug/queue" => Some(Answer::json(&views.queue.snapshot())),
            "/debug/watches" => Some(Answer::json(&views.watches.status())),
            "/debug/signatures" => Some(Answer::json(&views.trusts.view())),
            "/debug/sandbox" => Some(Answer::json(&views.sandbox.view())),
            "/debug/leadership" => Some(Answer::json(&views.leadership())),
            _ => None,
        }
    }
}

impl Views {
    fn ready(&self) -> Answer {
        let parts = [
            ("signatures", self.trusts.is_ready()),
            ("plugins", self.plugins.is_settled()),
            ("watches", self.watches.is_ready()),
        ];
        if parts.iter().all(|(_, ready)| *ready) {
            self.was_ready.store(true, Ordering::Relaxed);
        }
        if self.was_ready.load(Ordering::Relaxed) {
            return Answer::text("ok\n");
        }
        let line = |(name, ready): &(&str, bool)| match ready {
            true => format!("[+]{name} ok\n"),
            false => format!("[-]{name} not ready yet, see /debug/{name}\n"),
        };
        Answer::unavailable(parts.iter().map(line).collect::<String>())
    }

    fn plugins(&self) -> Vec<PluginRow> {
        let rights = &self.observed.rights;
        let row = |plugin: PluginView| PluginRow { missing_rights: rights.of(&plugin.name), plugin };
        self.plugins.view().into_iter().map(row).collect()
    }

    fn leadership(&self) -> LeadershipView {
        LeadershipView {
            lease: self.lease.status(),
            current_claim: self.claim_role.current(),
            fence: self.observed.fence.view(),
        }
    }

    /// Brings what is read at scraping up to date, and writes everything down.
    fn metrics(&self) -> String {
        let metrics = &self.observed.metrics;
        for (plugin, now) in self.queue.stats() {
            metrics.set_parked(plugin.as_str(), now.parked);
            metrics.set_stuck(plugin.as_str(), now.stuck);
            let most = now.most.and_then(|most| u16::try_from(most.get()).ok());
            metrics.set_max_concurrent(plugin.as_str(), most.unwrap_or(self.max_concurrent));
            metrics.set_queue(
                plugin.as_str(),
                QueueNow {
                    depth: now.depth,
                    adds: now.adds,
                    retries: now.retries,
                    unfinished: now.unfinished,
                    longest: now.longest,
                    oldest: now.oldest,
                },
            );
        }
        let lease = self.lease.status();
        metrics.leadership().set(
            &self.lease_name,
            LeadershipNow {
                leading: lease.leading,
                term: lease.term.map_or(0, |term| term.0),
                renew_age: lease.renew_age_ms.map(Duration::from_millis),
            },
        );
        for (reason, count) in &lease.step_downs {
            metrics.leadership().set_step_downs(reason, *count);
        }
        if let Some(certificates) = &self.certificates {
            metrics.endpoint().set(certificates.now());
        }
        self.plugin_metrics();
        metrics.watches().clear();
        for watch in self.watches.status() {
            let now = WatchNow {
                objects: watch.objects,
                bytes: watch.bytes,
                json_bytes: watch.json_bytes,
                lists: watch.lists,
                events: watch.events,
                errors: watch.errors,
                last_event_age: watch.last_event_age_ms.map(Duration::from_millis),
                alive_age: watch.alive_age_ms.map(Duration::from_millis),
            };
            metrics.watches().set(&watch.gvk.to_string(), now);
        }
        let cache = self.watches.cache();
        metrics.watches().set_limit(cache.limit());
        for bill in cache.bills() {
            metrics.watches().set_bill(bill.plugin.as_str(), bill.bytes);
        }
        metrics.text()
    }

    fn plugin_metrics(&self) {
        let metrics = &self.observed.metrics;
        let plugins = self.plugins.view();
        let states: Vec<String> = plugins.iter().map(|plugin| plugin.status.state.to_string()).collect();
        let now = plugins.iter().zip(&states).map(|(plugin, state)| PluginNow {
            name: &plugin.name,
            state,
            serving: plugin.serving.as_ref().map(|s| (s.manifest.version.as_str(), &s.digest)),
        });
        metrics.plugins().set(&now.collect::<Vec<_>>());
        self.sandbox_metrics();
        metrics.keep_plugins(&plugins.iter().map(|plugin| plugin.name.clone()).collect());
    }

    fn sandbox_metrics(&self) {
        let metrics = self.observed.metrics.worker();
        let worker = self.sandbox.status();
        metrics.set(WorkerNow { up: worker.pid.is_some(), restarts: worker.restarts });
        if let Some(report) = &worker.confined {
            metrics.set_sandbox(&sandbox_now(report));
        }
        let artefacts = self.sandbox.artefacts();
        metrics.set_artefacts(ArtefactsNow {
            hits: artefacts.hits,
            misses: artefacts.misses,
            corrupt: artefacts.corrupt,
        });
    }
}

fn sandbox_now(report: &Report) -> SandboxNow {
    SandboxNow {
        landlock: match &report.files {
            Files::Landlock { abi } => abi.to_string(),
            Files::NoneOpened | Files::Open(_) => "none".to_owned(),
        },
        seccomp: matches!(report.system_calls, SystemCalls::Filtered { .. }),
        no_new_privs: report.no_new_privileges,
        capabilities_dropped: report.capabilities_left == 0,
        rlimits: report.limits.iter().all(|limit| limit.failed.is_none()),
        complete: report.is_complete(),
    }
}
