//! `cargo xtask bench noisy`: what good plugins feel of a bad one beside them, and how soon it is stopped.
//!
//! Good plugins follow a stream of a quarter of what they can: at more than that a change waits for the API server above all. In
//! all phases of a round but one a bad plugin works beside them on objects of its own that all ask for the same mischief: it
//! loops, grabs memory, panics, or floods the log. Each time it is another build of it, so that what the host has learned of the
//! last one does not help it: the failures come before it is left alone, and all are in the figures.
//!
//! In one more phase the neighbour is calm: as many changes, and it does what it should. What the others feel of that is what
//! any further work costs them, and how far two phases of this machine differ by themselves.
//!
//! A change's way through the API server and back is in what the good ones feel. What the host alone makes of it, the wait for a
//! turn and the decision, is in its own histograms, read before and after each phase and never meanwhile.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kubectl_windlass::{Beside, Package};
use serde_json::{Map, Value, json};
use windlass_core::limits::Limits;

use super::crowd::{Crowd, NAMESPACE, RARE, Sizes};
use super::observe::Observer;
use super::picture::{Axis, Row, log_rows};
use super::proc::Memory;
use super::report::{Report, load_average, quantile};
use super::scrape::{Distribution, Growth, Scrape};
use super::stamp::{Stamp, component};
use super::stream::{self, Flowed, Target};
use super::{Bench, ratio};
use crate::{build, plugin, root};

/// The neighbours: what they are called, a fixture, and what its objects ask for. The first one is bad and loops.
const NEIGHBOURS: [(&str, &str, &str); 5] = [
    ("loops", "loops", "tight"),
    ("hungry", "hungry", "pieces"),
    ("traps", "traps", "trap"),
    ("noisy", "noisy", "flood"),
    (CALM, "loops", "calm"),
];
/// The neighbour that is not bad.
const CALM: &str = "calm";
/// What stands for the phases without a neighbour.
const NOBODY: &str = "nobody";
/// Objects of the bad one.
const OBJECTS: usize = 20;
/// Changes a second to them.
const RATE: f64 = 5.0;
/// Of the changes that the good ones can follow.
const LOAD: f64 = 0.25;
/// The parts of a pass that are the host's own doing, as it measures them: the wait for a turn, and the decision.
const PARTS: [(&str, &str, &str); 2] = [
    ("turn", "workqueue_queue_duration_seconds", "name"),
    ("decision", "windlass_plugin_decision_seconds", "plugin"),
];
/// Between two looks at memory.
const LOOK: Duration = Duration::from_millis(500);

/// How much is measured.
struct Scope {
    sizes: Sizes,
    rounds: usize,
    phase: Duration,
    /// Loops that are timed alone.
    kills: usize,
}

/// A bad plugin, or the calm one.
struct Bad {
    called: &'static str,
    /// The plugin's name.
    name: &'static str,
    mode: &'static str,
    package: Package,
}

/// What was seen of host and worker in one phase.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
struct Watched {
    /// Resident memory of the host at the beginning, and the most of it, in MiB.
    host_rss_before: f64,
    host_rss_most: f64,
    worker_rss_most: f64,
    /// The largest share of its CPU limit that a call of the bad one used, of its last calls.
    cpu_ratio: f64,
    /// Calls of the bad one, and their mean wall time in milliseconds.
    calls: u64,
    call_mean_ms: f64,
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let scope = if bench.quick {
        let sizes = Sizes { plugins: 10, objects_each: 4, config_maps: 20 };
        Scope { sizes, rounds: 1, phase: Duration::from_secs(5), kills: 2 }
    } else {
        let sizes = Sizes { plugins: 99, objects_each: 4, config_maps: 100 };
        Scope { sizes, rounds: 5, phase: Duration::from_secs(15), kills: 10 }
    };
    let stamp = Stamp::build()?;
    let fixtures = Beside::of(&root().join("plugins/fixtures"))?;
    let bad = NEIGHBOURS.map(|(called, name, mode)| {
        Ok(Bad {
            called,
            name,
            mode,
            package: plugin::of(&component("windlass-fixtures", Some(name))?, fixtures.clone())?,
        })
    });
    let bad = bad.into_iter().collect::<Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("noisy");
    let rows = runtime.block_on(measure(&mut report, &scope, &stamp, binary, &bad))?;
    let title = format!("Good plugins beside a bad one: change -> effect ({})", report.started());
    let svg = report.path("svg")?;
    std::fs::write(&svg, log_rows(Axis::MIDDLE, &title, &rows, None))
        .with_context(|| format!("write {}", svg.display()))?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

async fn measure(
    report: &mut Report,
    scope: &Scope,
    stamp: &Stamp,
    binary: PathBuf,
    bad: &[Bad],
) -> Result<Vec<Row>> {
    let mut crowd = Crowd::start(binary, stamp, scope.sizes, RARE, &[]).await?;
    let widgets =
        std::fs::read_to_string(root().join("plugins/fixtures/crd.yaml")).context("read the CRD")?;
    crowd.demo.control.apply(&widgets).await?;
    for bad in bad {
        crowd.demo.control.apply(&bad.package.rights_yaml()?).await?;
    }
    crowd.serve().await?;
    eprintln!("the plugins are compiled");
    crowd.offer().await?;
    crowd.converged().await?;
    let observer = std::sync::Arc::new(crowd.observe().await?);
    let targets = crowd.targets(0..crowd.members.len());
    let capacity = stream::capacity(&crowd.client, observer.clone(), &targets, scope.phase / 2).await?;
    eprintln!("{capacity:.0} changes a second are followed; a quarter of that is made");
    report.conditions.insert("sizes".to_owned(), json!(scope.sizes));
    report.conditions.insert("changes_per_s_followed".to_owned(), json!(capacity.round()));
    report.conditions.insert("etcd_fsync".to_owned(), json!(false));
    report.conditions.insert("apiserver_gogc".to_owned(), json!(RARE));
    let (mut found, pid) = (Found::default(), crowd.host()?.pid());
    let phase = Phase {
        crowd: &crowd,
        observer: &observer,
        targets: &targets,
        rate: capacity * LOAD,
        during: scope.phase,
    };
    for round in 0..scope.rounds {
        let mut order: Vec<Option<&Bad>> = std::iter::once(None).chain(bad.iter().map(Some)).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for bad in order {
            let name = bad.map_or(NOBODY, |bad| bad.called);
            let Played { flowed, watched, parts } = phase.play(bad, round).await?;
            eprintln!("round {}, beside {name}: p99 {:?} ms, lost {}", round + 1, flowed.p99_ms, flowed.lost);
            let own: Map<_, _> =
                PARTS.iter().zip(&parts).map(|(part, of)| (part.0.to_owned(), micros(of))).collect();
            report.rounds.push(json!({
                "round": round, "beside": name, "others": flowed, "in_the_host": own, "seen": watched,
                "load_average": load_average(),
            }));
            found.add(name, flowed, watched, &parts);
        }
        report.figures = found.figures();
        report.write()?;
    }
    eprintln!("{} loops, one at a time and with nothing beside", scope.kills);
    for number in 0..scope.kills {
        found.killed_ms.push(phase.kill(&bad[0], scope.rounds + number).await?);
    }
    report.figures = found.figures();
    let same = crowd.host()?.pid() == pid && crowd.host()?.is_ready().await;
    report.figures.insert("host_restarts".to_owned(), json!(usize::from(!same)));
    for (what, says) in [
        (
            "kill_ms",
            "wall time of a call that loops, less its CPU limit; the longest of those that ran alone on a quiet host",
        ),
        (
            "others_p99_ratio",
            "p99 of change -> effect of the good ones beside a bad one, over that beside nobody, of all rounds together; the worst of the bad ones",
        ),
        (
            "others_p99_ratio_over_calm",
            "the same over that beside a neighbour that has as many changes and does what it should",
        ),
        (
            "in_the_host",
            "of the good ones' passes, from the host's histograms: the wait for a turn and the decision; quantiles within buckets of a factor of three",
        ),
    ] {
        report.conditions.insert(what.to_owned(), json!(says));
    }
    Ok(found.rows())
}

/// One stretch of time, with a bad plugin or without.
struct Phase<'a> {
    crowd: &'a Crowd,
    observer: &'a Observer,
    targets: &'a [Target],
    rate: f64,
    during: Duration,
}

/// What came of it.
struct Played {
    flowed: Flowed,
    watched: Watched,
    /// Of the good plugins' passes, as [`PARTS`] names them.
    parts: [Distribution; PARTS.len()],
}

impl Phase<'_> {
    async fn play(&self, bad: Option<&Bad>, round: usize) -> Result<Played> {
        if let Some(bad) = bad {
            self.offer(bad, round).await?;
        }
        let host = self.crowd.host()?;
        let before = Scrape::of(host).await?;
        let good = stream::flow(&self.crowd.client, self.observer, self.targets, self.rate, self.during);
        let (flowed, mut watched) = tokio::try_join!(good, self.mischief(bad))?;
        let after = Scrape::of(host).await?;
        let bad_name = bad.map_or(NOBODY, |bad| bad.name);
        let parts = PARTS.map(|(_, histogram, label)| {
            Distribution::between(&before, &after, histogram, (label, bad_name))
        });
        if let Some(bad) = bad {
            let calls =
                Growth::between(&before, &after, "windlass_plugin_call_seconds", ("plugin", bad.name));
            watched.calls = calls.count;
            watched.call_mean_ms = (calls.seconds * 1e3 / calls.count.max(1) as f64).round();
            watched.cpu_ratio = host.metric(&cpu_ratio_of(bad)).await.unwrap_or(0.0);
            self.take_back(bad).await?;
        }
        Ok(Played { flowed, watched, parts })
    }

    /// Offers a new build of it, which has nothing to do yet.
    async fn offer(&self, bad: &Bad, round: usize) -> Result<()> {
        let crowd = self.crowd;
        let mut wasm = bad.package.wasm.clone();
        // One more custom section: another digest.
        let name = format!("round-{round:03}");
        wasm.extend([0, u8::try_from(name.len() + 1)?, u8::try_from(name.len())?]);
        wasm.extend(name.as_bytes());
        let mut map = bad.package.config_maps().pop().context("a fixture fits into one ConfigMap")?;
        let compressed = zstd::encode_all(&*wasm, 3).context("compress")?;
        map["binaryData"]["plugin.wasm.zst"] =
            json!(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, compressed));
        crowd.demo.control.apply(&map.to_string()).await?;
        let digest = windlass_core::name::Digest::of(&wasm).to_string();
        crowd
            .until("the bad plugin serves", || async {
                let serving = crowd.serving(bad.name).await?;
                (serving["digest"] == digest.as_str()).then_some(())
            })
            .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(())
    }

    /// Lets it loose, and looks at host and worker meanwhile.
    async fn mischief(&self, bad: Option<&Bad>) -> Result<Watched> {
        let host = self.crowd.host()?;
        let before = Memory::of(host.pid())?.rss;
        let mut watched = Watched { host_rss_before: before, host_rss_most: before, ..Watched::default() };
        let began = Instant::now();
        let mut clock = tokio::time::interval(Duration::from_secs_f64(1.0 / RATE));
        let (mut number, mut looked) = (0, Instant::now());
        while began.elapsed() < self.during {
            clock.tick().await;
            if let Some(bad) = bad {
                self.ask_for(bad, number).await?;
                number += 1;
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.look(&mut watched).await?;
            }
        }
        Ok(watched)
    }

    /// Creates or changes one of its objects.
    async fn ask_for(&self, bad: &Bad, number: usize) -> Result<()> {
        let (name, path) = (format!("bad-{}", number % OBJECTS), widgets());
        if number >= OBJECTS {
            let change = json!({ "spec": { "text": number.to_string() } });
            return self.crowd.demo.patch(&format!("{path}/{name}"), change).await.map(drop);
        }
        let widget = json!({
            "apiVersion": "fixtures.windlass.dev/v1alpha1", "kind": "Widget",
            "metadata": { "name": name }, "spec": { "mode": bad.mode, "text": "0" },
        });
        let request = http::Request::post(&path)
            .header("content-type", "application/json")
            .body(widget.to_string().into_bytes())?;
        self.crowd.client.request::<Value>(request).await.map(drop).context("create a Widget")
    }

    async fn look(&self, watched: &mut Watched) -> Result<()> {
        let host = self.crowd.host()?;
        watched.host_rss_most = watched.host_rss_most.max(Memory::of(host.pid())?.rss);
        // It may just be started again.
        if let Ok(worker) = self.crowd.worker().await
            && let Ok(memory) = Memory::of(worker)
        {
            watched.worker_rss_most = watched.worker_rss_most.max(memory.rss);
        }
        Ok(())
    }

    /// Has one object loop once. Gives back how much longer the call took than the CPU that it may use, and how much more CPU it
    /// had, in milliseconds.
    async fn kill(&self, bad: &Bad, build: usize) -> Result<(f64, f64)> {
        self.offer(bad, build).await?;
        let host = self.crowd.host()?;
        let before = Scrape::of(host).await?;
        self.ask_for(bad, 0).await?;
        let grown = self
            .crowd
            .until("a loop is ended", || async {
                let now = Scrape::of(host).await.ok()?;
                let grown =
                    Growth::between(&before, &now, "windlass_plugin_call_seconds", ("plugin", bad.name));
                (grown.count > 0).then_some(grown)
            })
            .await?;
        let of_cpu = host.metric(&cpu_ratio_of(bad)).await.context("no metric of the CPU that a call had")?;
        self.take_back(bad).await?;
        let limit = Limits::default().cpu.as_secs_f64() * 1e3;
        Ok((grown.seconds * 1e3 / grown.count as f64 - limit, (of_cpu - 1.0) * limit))
    }

    /// Takes its objects and the plugin away, and waits until the host has noticed.
    async fn take_back(&self, bad: &Bad) -> Result<()> {
        let crowd = self.crowd;
        crowd.demo.delete(&widgets()).await?;
        let map = format!("/api/v1/namespaces/windlass-system/configmaps/{}-plugin", bad.name);
        crowd.demo.delete(&map).await?;
        crowd
            .until("the bad plugin is gone", || async {
                crowd.serving(bad.name).await.is_none().then_some(())
            })
            .await
    }
}

/// The median and the 99th percentile, in microseconds.
fn micros(of: &Distribution) -> Value {
    let at = |share| of.quantile(share).map(|seconds| (seconds * 1e6).round());
    json!({ "p50_us": at(0.5), "p99_us": at(0.99) })
}

/// To the hundredth.
fn hundredth(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The metric of the largest share of its CPU limit that a call of a plugin had lately.
fn cpu_ratio_of(bad: &Bad) -> String {
    format!("windlass_plugin_limit_ratio{{plugin=\"{}\",limit=\"cpu\"}}", bad.name)
}

fn widgets() -> String {
    format!("/apis/fixtures.windlass.dev/v1alpha1/namespaces/{NAMESPACE}/widgets")
}

/// What all phases have shown so far.
#[derive(Default)]
struct Found {
    /// Latencies beside whom, in milliseconds, of all rounds.
    took: BTreeMap<&'static str, Vec<f64>>,
    parts: BTreeMap<&'static str, [Distribution; PARTS.len()]>,
    /// The p99 of each round, beside whom.
    rounds: BTreeMap<&'static str, Vec<f64>>,
    /// Wall time and CPU of single loops beyond the limit, in milliseconds.
    killed_ms: Vec<(f64, f64)>,
    loops: Option<Watched>,
    host_rss_delta: f64,
    lost: usize,
}

impl Found {
    fn add(
        &mut self,
        beside: &'static str,
        flowed: Flowed,
        watched: Watched,
        parts: &[Distribution; PARTS.len()],
    ) {
        self.rounds.entry(beside).or_default().extend(flowed.p99_ms);
        for (known, more) in self.parts.entry(beside).or_default().iter_mut().zip(parts) {
            known.and(more);
        }
        self.lost += flowed.lost;
        if beside != NOBODY && beside != CALM {
            self.host_rss_delta = self.host_rss_delta.max(watched.host_rss_most - watched.host_rss_before);
        }
        if beside == NEIGHBOURS[0].0 {
            self.loops = Some(watched);
        }
        self.took.entry(beside).or_default().extend(flowed.took_ms);
    }

    /// The p99 of all rounds beside somebody.
    fn p99(&self, beside: &str) -> Option<f64> {
        let mut took = self.took.get(beside)?.clone();
        took.sort_by(f64::total_cmp);
        quantile(&took, 0.99)
    }

    fn figures(&self) -> Map<String, Value> {
        let mut figures = Map::new();
        let over = |beside: &str, other: &str| Some(hundredth(self.p99(beside)? / self.p99(other)?));
        let bad = || self.took.keys().filter(|beside| **beside != NOBODY && **beside != CALM);
        let worst = |other: &str| bad().filter_map(|bad| over(bad, other)).max_by(f64::total_cmp);
        figures.insert("others_p99_ratio".to_owned(), json!(worst(NOBODY)));
        figures.insert("others_p99_ratio_over_calm".to_owned(), json!(worst(CALM)));
        for beside in self.took.keys().copied() {
            let own: Map<_, _> = PARTS
                .iter()
                .zip(self.parts.get(beside).into_iter().flatten())
                .map(|(part, of)| (part.0.to_owned(), micros(of)))
                .collect();
            figures.insert(
                format!("beside_{beside}"),
                json!({
                    "n": self.took[beside].len(),
                    "p99_ms": self.p99(beside).map(hundredth),
                    "p99_over_nobody": over(beside, NOBODY),
                    "p99_over_calm": over(beside, CALM),
                    "p99_ms_by_round": ratio::spread(&self.rounds[beside]),
                    "in_the_host": own,
                }),
            );
        }
        let most =
            |of: fn(&(f64, f64)) -> f64| self.killed_ms.iter().map(of).max_by(f64::total_cmp).map(hundredth);
        figures.insert("kill_ms".to_owned(), json!(most(|killed| killed.0)));
        figures.insert("kill_cpu_ms".to_owned(), json!(most(|killed| killed.1)));
        // Many at once on a busy machine: there wall time, twice the CPU, ends them first.
        figures.insert("kill_under_load".to_owned(), json!(self.loops.map(|seen| {
            json!({ "calls": seen.calls, "wall_mean_ms": seen.call_mean_ms, "cpu_share_of_limit_most": hundredth(seen.cpu_ratio) })
        })));
        figures.insert("host_rss_delta_mib".to_owned(), json!(hundredth(self.host_rss_delta)));
        figures.insert("lost".to_owned(), json!(self.lost));
        figures
    }

    fn rows(&self) -> Vec<Row> {
        let row = |(beside, took): (&&str, &Vec<f64>)| {
            let mut values = took.clone();
            values.sort_by(f64::total_cmp);
            Row { group: "change -> effect".to_owned(), label: format!("beside {beside}"), values }
        };
        self.took.iter().map(row).collect()
    }
}
