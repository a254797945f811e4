//! Metrics of the process that runs plugins, of what holds it, and of the artefact cache.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::series::Series;
use super::{gauge, one, reach};

/// What holds the worker, a label each.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfSandbox {
    landlock: String,
    seccomp: &'static str,
    no_new_privs: &'static str,
    capabilities_dropped: &'static str,
    rlimits: &'static str,
    complete: &'static str,
}

/// The worker, read when it is scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerNow {
    /// Whether it runs and has said how it is confined.
    pub up: bool,
    /// How often one was started after the first since the host started.
    pub restarts: u64,
}

/// What holds the worker, as the worker itself reported it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxNow {
    /// Version of Landlock's interface in one word (`6`), or `none`.
    pub landlock: String,
    /// Whether system calls are filtered.
    pub seccomp: bool,
    /// Whether it can never gain rights by an exec.
    pub no_new_privs: bool,
    /// Whether it has no capability left.
    pub capabilities_dropped: bool,
    /// Whether every limit of the kernel was taken.
    pub rlimits: bool,
    /// Whether nothing is missing.
    pub complete: bool,
}

/// The cache of compiled components, read when it is scraped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArtefactsNow {
    /// Components that did not have to be compiled, since the start.
    pub hits: u64,
    /// Components that had to be, since the start.
    pub misses: u64,
    /// Entries that were not what was written, and were thrown away, since the start.
    pub corrupt: u64,
}

/// What runs plugins.
#[derive(Debug)]
pub struct WorkerMetrics {
    up: Gauge,
    restarts: Counter,
    sandbox: Series<OfSandbox, Gauge>,
    hits: Counter,
    misses: Counter,
    corrupt: Counter,
}

impl WorkerMetrics {
    pub(super) fn new(r: &mut Registry) -> Self {
        Self {
            up: one(r, "windlass_worker_up", "1 while the process that runs plugins is ready"),
            restarts: one(
                r,
                "windlass_worker_restarts",
                "Times the process that runs plugins was started again",
            ),
            sandbox: gauge(r, "windlass_sandbox_info", "1; what holds the process that runs plugins"),
            hits: one(r, "windlass_plugin_artefact_cache_hits", "Components found compiled"),
            misses: one(r, "windlass_plugin_artefact_cache_misses", "Components that had to be compiled"),
            corrupt: one(
                r,
                "windlass_plugin_artefact_cache_corrupt",
                "Compiled components that were damaged and thrown away",
            ),
        }
    }

    /// Sets what the worker is now.
    pub fn set(&self, now: WorkerNow) {
        self.up.set(now.up.into());
        reach(&self.restarts, now.restarts);
    }

    /// Sets what holds the worker.
    pub fn set_sandbox(&self, now: &SandboxNow) {
        let of = OfSandbox {
            landlock: now.landlock.clone(),
            seccomp: word(now.seccomp),
            no_new_privs: word(now.no_new_privs),
            capabilities_dropped: word(now.capabilities_dropped),
            rlimits: word(now.rlimits),
            complete: word(now.complete),
        };
        self.sandbox.retain(|labels, _| *labels == of);
        self.sandbox.get_or_create(&of).set(1);
    }

    /// Sets what the artefact cache has counted.
    pub fn set_artefacts(&self, now: ArtefactsNow) {
        reach(&self.hits, now.hits);
        reach(&self.misses, now.misses);
        reach(&self.corrupt, now.corrupt);
    }
}

fn word(is: bool) -> &'static str {
    if is { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;
    use super::*;

    #[test]
    fn the_worker_its_sandbox_and_its_cache_are_shown() {
        let metrics = Metrics::new();
        metrics.worker().set(WorkerNow { up: true, restarts: 3 });
        let weak = SandboxNow { landlock: "none".into(), seccomp: true, ..SandboxNow::default() };
        metrics.worker().set_sandbox(&weak);
        let whole = SandboxNow {
            landlock: "6".into(),
            seccomp: true,
            no_new_privs: true,
            capabilities_dropped: true,
            rlimits: true,
            complete: true,
        };
        metrics.worker().set_sandbox(&whole);
        metrics.worker().set_artefacts(ArtefactsNow { hits: 5, misses: 2, corrupt: 1 });
        let text = metrics.text();
        for line in [
            "windlass_worker_up 1\n",
            "windlass_worker_restarts_total 3\n",
            "windlass_sandbox_info{landlock=\"6\",seccomp=\"true\",no_new_privs=\"true\",\
             capabilities_dropped=\"true\",rlimits=\"true\",complete=\"true\"} 1\n",
            "windlass_plugin_artefact_cache_hits_total 5\n",
            "windlass_plugin_artefact_cache_misses_total 2\n",
            "windlass_plugin_artefact_cache_corrupt_total 1\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(text.matches("windlass_sandbox_info{").count(), 1, "{text}");
    }
}
