//! The file that a benchmark leaves behind, and the arithmetic that all of them share.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::apart::Apart;
use crate::root;

/// What `target/bench/NAME.json` holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    name: String,
    /// When the run began, RFC 3339.
    started: String,
    /// Processor, cores, memory, kernel.
    machine: String,
    /// What was measured, each with its version.
    pub(crate) versions: Map<String, Value>,
    /// How it was measured, in words and numbers.
    pub(crate) conditions: Map<String, Value>,
    /// Every round, none left out.
    pub(crate) rounds: Vec<Value>,
    /// What the rounds come to.
    pub(crate) figures: Map<String, Value>,
}

impl Report {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            started: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            machine: machine(),
            versions: Map::from_iter([("windlass".to_owned(), json!(windlass_version()))]),
            conditions: Map::from_iter(
                Apart::of_this_run().map(|apart| ("processors".to_owned(), json!(apart))),
            ),
            rounds: Vec::new(),
            figures: Map::new(),
        }
    }

    /// An earlier run of the same benchmark on this machine, to go on with; says in its conditions that it was interrupted.
    pub(crate) fn resume(name: &str, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let mut report: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?;
        ensure!(report.name == name, "{} is of the benchmark {}, not {name}", path.display(), report.name);
        let here = Self::new(name);
        ensure!(
            report.machine == here.machine,
            "{} is of another machine ({}), this one is {}",
            path.display(),
            report.machine,
            here.machine
        );
        report.conditions.insert("resumed".to_owned(), json!({"at": here.started, "host": here.versions}));
        Ok(report)
    }

    /// Writes what there is so far, so that a run that is cut short is not lost.
    pub(crate) fn write(&self) -> Result<PathBuf> {
        let path = self.path("json")?;
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&path, format!("{text}\n")).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Where the picture goes, or any other file of this benchmark.
    pub(crate) fn path(&self, extension: &str) -> Result<PathBuf> {
        let directory = root().join("target/bench");
        std::fs::create_dir_all(&directory).context("create target/bench")?;
        Ok(directory.join(format!("{}.{extension}", self.name)))
    }

    /// When the run began.
    pub(crate) fn started(&self) -> &str {
        &self.started
    }
}

/// The package's version, and the commit if there is one.
fn windlass_version() -> String {
    let commit = Command::new("git").current_dir(root()).args(["rev-parse", "--short", "HEAD"]).output();
    let commit = commit.ok().filter(|output| output.status.success());
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    match commit {
        Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
        None => env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?.1.trim().to_owned();
        Some(line)
    };
    // Not those that we may use: under `--apart` we have half.
    let cores = read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count();
    let processor =
        field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {processor}, {memory}, {} {}", std::env::consts::OS, kernel.trim())
}

/// The load averages over 1, 5 and 15 minutes, and what else the kernel says with them.
pub(crate) fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// Milliseconds, to the hundredth.
pub(crate) fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 100_000.0).round() / 100.0
}

/// The value below which `share` of the sorted ones lie: the nearest rank, so always one that was measured.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied()
}

/// Minimum, median, 99th percentile and maximum, in milliseconds.
pub(crate) fn spread(of: Vec<Duration>) -> Value {
    let mut of: Vec<f64> = of.into_iter().map(milliseconds).collect();
    of.sort_by(f64::total_cmp);
    let at = |share| quantile(&of, share);
    json!({"n": of.len(), "min_ms": at(0.0), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_value_that_was_measured() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&hundred, 0.5), Some(50.0));
        assert_eq!(quantile(&hundred, 0.99), Some(99.0));
        assert_eq!(quantile(&[1.0, 2.0, 9.0], 0.99), Some(9.0));
        assert_eq!(quantile(&[1.0, 2.0, 9.0], 0.0), Some(1.0));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
