//! `cargo xtask bench idle`: what a hundred plugins cost while nothing happens, and how long one takes to wake.
//!
//! Memory is what the host and the process that runs plugins have for themselves (`smaps_rollup`), less the same host on the same
//! cluster without a plugin. A wake is one change to one object, after which nothing has to be written: from the moment
//! that the object's key is ready in the queue, right after the watch's event has gone into the cache, to the decision. It is
//! the growth of two of the host's own sums, and holds the wait in the queue, the snapshot, the way to the other process, the
//! call, and the way back; what is before it, the parsing of the event, is measured by itself. So is the floor: a byte to a thread
//! that sleeps, and back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use windlass_core::kind::Gvk;
use windlass_core::object::Object;
use windlass_testbed::{Replica, ReplicaOptions};

use super::crowd::{Crowd, NAMESPACE, RARE, Sizes};
use super::hop::hops;
use super::picture::{Axis, Row, log_rows};
use super::proc::{Memory, cpu};
use super::report::{Report, load_average, quantile};
use super::scrape::{Growth, Scrape};
use super::stamp::Stamp;
use super::{Bench, peers};
use crate::{build, root};

/// After a start, until memory has settled.
const SETTLE: Duration = Duration::from_secs(10);
/// After a change, until it is looked at what it cost.
const WOKEN: Duration = Duration::from_millis(20);
/// Processes of the peer; a hundred do not fit beside everything else.
const PEERS: usize = 3;

/// How much is measured.
struct Scope {
    sizes: Sizes,
    /// Starts of the host without plugins, and with them.
    starts: usize,
    quiet: Duration,
    wakes: usize,
    peers: bool,
}

impl Scope {
    fn of(bench: &Bench) -> Self {
        if bench.quick {
            let sizes = Sizes { plugins: 20, objects_each: 5, config_maps: 200 };
            return Self { sizes, starts: 1, quiet: Duration::from_secs(5), wakes: 60, peers: false };
        }
        let sizes = Sizes { plugins: 100, objects_each: 20, config_maps: 2000 };
        Self { sizes, starts: 3, quiet: Duration::from_secs(30), wakes: 1000, peers: true }
    }
}

/// Measures and writes down.
pub(crate) fn run(bench: &Bench) -> Result<()> {
    let binary = bench.binary.clone().map_or_else(|| build::host(true), Ok)?;
    let scope = Scope::of(bench);
    let stamp = Stamp::build()?;
    let peer = scope.peers.then(peers::controller_runtime).transpose()?;
    let runtime = tokio::runtime::Runtime::new().context("start a runtime")?;
    let mut report = Report::new("idle");
    let wakes = runtime.block_on(measure(&mut report, &scope, &stamp, binary, peer.as_deref()))?;
    picture(&report, wakes)?;
    let path = report.write()?;
    println!("{}\n-> {}", serde_json::to_string_pretty(&report.figures)?, path.display());
    Ok(())
}

async fn measure(
    report: &mut Report,
    scope: &Scope,
    stamp: &Stamp,
    binary: PathBuf,
    peer: Option<&Path>,
) -> Result<Vec<Wake>> {
    let mut crowd = Crowd::start(binary, stamp, scope.sizes, RARE, &[]).await?;
    conditions(report, scope, stamp);
    let without = memories(&mut crowd, scope, false).await?;
    crowd.serve().await?;
    eprintln!("the plugins are compiled");
    crowd.offer().await?;
    crowd.converged().await?;
    crowd.stop().await?;
    let with = memories(&mut crowd, scope, true).await?;
    report.rounds = without.iter().chain(&with).map(|round| round.value.clone()).collect();
    crowd.serve().await?;
    crowd.decided().await?;
    tokio::time::sleep(SETTLE).await;
    eprintln!("nothing happens for {:?}", scope.quiet);
    let load = load_average();
    let quiet = quiet(&crowd, scope.quiet).await?;
    eprintln!("{} wakes", scope.wakes);
    let wakes = wakes(&crowd, scope.wakes).await?;
    report.rounds.push(json!({ "wakes": wakes }));
    let after = Memory::of(crowd.host()?.pid())?.and(Memory::of(crowd.worker().await?)?);
    eprintln!("{} hops", scope.wakes);
    let hops = hops(scope.wakes, WOKEN)?;
    let figures = &mut report.figures;
    let extra = |of: fn(&Memory) -> f64| {
        json!(round(median(with.iter().map(|r| of(&r.both))) - median(without.iter().map(|r| of(&r.both)))))
    };
    figures.insert("private_mib".into(), extra(|memory| memory.private));
    figures.insert("dirty_mib".into(), extra(|memory| memory.dirty));
    figures.insert("pss_mib".into(), extra(|memory| memory.pss));
    figures.insert("private_whole_mib".into(), json!(round(median(with.iter().map(|r| r.both.private)))));
    figures.insert(
        "private_after_wakes_mib".into(),
        json!(round(after.private - median(without.iter().map(|r| r.both.private)))),
    );
    figures.insert("load_average_at_quiet".into(), json!(load));
    figures.extend(quiet);
    figures.extend(watches(crowd.host()?).await?);
    figures.extend(wake_figures(&wakes, scope.wakes));
    for (name, share) in [("floor_p50_us", 0.5), ("floor_p99_us", 0.99)] {
        figures.insert(name.into(), json!(quantile(&hops, share).map(f64::round)));
    }
    figures.insert("parse_us".into(), json!(parse_us(&crowd).await?));
    report.write()?;
    if let Some(peer) = peer {
        crowd.stop().await?;
        report.figures.extend(peer_memory(&crowd, peer).await?);
        let versions = peers::versions()?.into_iter().map(|(name, version)| (name, json!(version)));
        report.versions.extend(versions);
    }
    Ok(wakes)
}

fn conditions(report: &mut Report, scope: &Scope, stamp: &Stamp) {
    for (what, value) in [
        ("sizes", json!(scope.sizes)),
        ("component_bytes", json!(stamp.bytes())),
        ("etcd_fsync", json!(false)),
        ("apiserver_gogc", json!(RARE)),
        (
            "private",
            json!(
                "Private_Clean + Private_Dirty of host and worker, less the same without plugins; medians over starts with everything compiled"
            ),
        ),
        (
            "wake",
            json!(
                "key ready in the queue -> decision, one at a time, each in another plugin than the one before; growth of workqueue_queue_duration_seconds and windlass_plugin_decision_seconds"
            ),
        ),
        (
            "floor",
            json!(
                "a byte through a socket pair to a thread that sleeps and back, with the same pause before it"
            ),
        ),
        ("sampling", json!("one decision in 64 is asked for twice, as shipped; those are among the wakes")),
    ] {
        report.conditions.insert(what.to_owned(), value);
    }
}

/// What was measured after one start.
struct Started {
    both: Memory,
    value: Value,
}

/// Memory after each of some starts.
async fn memories(crowd: &mut Crowd, scope: &Scope, plugins: bool) -> Result<Vec<Started>> {
    let mut rounds = Vec::new();
    for start in 0..scope.starts {
        eprintln!("memory, {} plugins, start {}", if plugins { "with" } else { "without" }, start + 1);
        crowd.serve().await?;
        if plugins {
            crowd.decided().await?;
        }
        tokio::time::sleep(SETTLE).await;
        let (host, worker) = (Memory::of(crowd.host()?.pid())?, Memory::of(crowd.worker().await?)?);
        let value = json!({ "plugins": plugins, "start": start, "host": host, "worker": worker, "load_average": load_average() });
        rounds.push(Started { both: host.and(worker), value });
        crowd.stop().await?;
    }
    Ok(rounds)
}

/// CPU and calls while nothing happens.
async fn quiet(crowd: &Crowd, during: Duration) -> Result<Map<String, Value>> {
    let (host, worker) = (crowd.host()?.pid(), crowd.worker().await?);
    let before = Scrape::of(crowd.host()?).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = (Instant::now(), cpu(host)?, cpu(worker)?);
    tokio::time::sleep(during).await;
    let (seconds, hosts, workers) =
        (began.0.elapsed().as_secs_f64(), cpu(host)? - began.1, cpu(worker)? - began.2);
    let after = Scrape::of(crowd.host()?).await?;
    let calls =
        after.sum("windlass_plugin_calls_total", None) - before.sum("windlass_plugin_calls_total", None);
    let percent = |of: Duration| (of.as_secs_f64() / seconds * 1e4).round() / 100.0;
    let figures = json!({
        "cpu_percent": percent(hosts + workers), "cpu_host_percent": percent(hosts), "cpu_worker_percent": percent(workers),
        "calls_while_quiet": calls,
    });
    Ok(figures.as_object().cloned().unwrap_or_default())
}

/// How many watches there are, of how many kinds.
async fn watches(host: &Replica) -> Result<Map<String, Value>> {
    let (_, view) = host.ask("/debug/watches").await?;
    let view: Vec<Value> = serde_json::from_str(&view).context("/debug/watches is no list")?;
    let kinds: std::collections::BTreeSet<_> = view.iter().map(|watch| watch["gvk"].to_string()).collect();
    let figures =
        json!({ "watches": view.len(), "watches_a_kind": view.len() as f64 / kinds.len().max(1) as f64 });
    Ok(figures.as_object().cloned().unwrap_or_default())
}

/// One wake, in microseconds.
#[derive(serde::Serialize)]
struct Wake {
    number: usize,
    queued: f64,
    decided: f64,
    called: f64,
}

impl Wake {
    fn whole(&self) -> f64 {
        self.queued + self.decided
    }
}

/// Wakes one plugin after the other. One that more than one pass followed is left out: its sums are not one pass's.
///
/// The metrics are read once every plugin has been woken, and not after each: to write a megabyte of them would leave nothing of
/// the host in the processor's caches right before the next wake.
async fn wakes(crowd: &Crowd, count: usize) -> Result<Vec<Wake>> {
    let targets = crowd.targets(0..crowd.members.len());
    let host = crowd.host()?;
    let mut before = Scrape::of(host).await?;
    let mut wakes = Vec::new();
    let numbers: Vec<_> = (0..count).collect();
    for round in numbers.chunks(crowd.members.len()) {
        tokio::time::sleep(WOKEN).await;
        for number in round {
            let target = &targets[number % targets.len()];
            // Its text stays, so that the same is decided and nothing is written.
            let note = json!({ "metadata": { "annotations": { "fixtures.windlass.dev/wake": number.to_string() } } });
            crowd.demo.patch(&target.path, note).await?;
            tokio::time::sleep(WOKEN).await;
        }
        let after = Scrape::of(host).await?;
        let woken = round.iter().map(|number| (*number, &crowd.members[number % crowd.members.len()].name));
        wakes.extend(woken.filter_map(|(number, plugin)| wake(&before, &after, number, plugin.as_str())));
        before = after;
    }
    ensure!(!wakes.is_empty(), "no wake was one pass");
    Ok(wakes)
}

fn wake(before: &Scrape, after: &Scrape, number: usize, plugin: &str) -> Option<Wake> {
    let grown = |name, label| Growth::between(before, after, name, (label, plugin));
    let queued = grown("workqueue_queue_duration_seconds", "name");
    let decided = grown("windlass_plugin_decision_seconds", "plugin");
    let called = grown("windlass_plugin_call_seconds", "plugin");
    let once = [queued, decided, called].iter().all(|growth| growth.count == 1);
    once.then_some(Wake {
        number,
        queued: queued.seconds * 1e6,
        decided: decided.seconds * 1e6,
        called: called.seconds * 1e6,
    })
}

fn wake_figures(wakes: &[Wake], asked: usize) -> Map<String, Value> {
    let at = |of: fn(&Wake) -> f64, share| quantile(&sorted(wakes.iter().map(of)), share).map(f64::round);
    let figures = json!({
        "wakes": wakes.len(),
        "wakes_left_out": asked - wakes.len(),
        "wake_p50_us": at(Wake::whole, 0.5),
        "wake_p99_us": at(Wake::whole, 0.99),
        "wake_max_us": at(Wake::whole, 1.0),
        "queued_p50_us": at(|wake| wake.queued, 0.5),
        "queued_p99_us": at(|wake| wake.queued, 0.99),
        "call_p50_us": at(|wake| wake.called, 0.5),
        "call_p99_us": at(|wake| wake.called, 0.99),
    });
    figures.as_object().cloned().unwrap_or_default()
}

/// What it takes to read one event of a primary into an object: the part of a wake before it counts.
async fn parse_us(crowd: &Crowd) -> Result<f64> {
    let object = crowd.demo.get(&crowd.targets(0..1)[0].path).await.context("an object is gone")?;
    let (text, times) = (object.to_string(), 2000);
    let gvk: Gvk = Gvk::try_new("", "v1", "Any")?;
    let began = Instant::now();
    for _ in 0..times {
        std::hint::black_box(Object::parse(&gvk, &text)?);
    }
    Ok(round(began.elapsed().as_secs_f64() * 1e6 / f64::from(times)))
}

/// Private memory of operators on controller-runtime that have the same to hold: each twenty objects and all the ConfigMaps.
async fn peer_memory(crowd: &Crowd, binary: &Path) -> Result<Map<String, Value>> {
    let crd = std::fs::read_to_string(root().join("plugins/webapp/crd.yaml")).context("read the CRD")?;
    crowd.demo.control.apply(&crd).await?;
    let apps: Vec<_> = (0..crowd.sizes.objects_each).map(webapp_yaml).collect();
    crowd
        .until("WebApps can be made", || async { crowd.demo.control.apply(&apps.join("---\n")).await.ok() })
        .await?;
    let directory = tempfile::tempdir().context("make a folder for logs")?;
    let mut peers = Vec::new();
    for index in 0..PEERS {
        peers.push(Replica::start(ReplicaOptions {
            binary: binary.to_owned(),
            name: format!("peer-{index}"),
            namespace: NAMESPACE.to_owned(),
            kubeconfig: crowd.demo.control.kubeconfig_path().to_owned(),
            directory: directory.path().to_owned(),
            flags: vec!["--leader-elect=false".into(), "--tuned=true".into()],
            environment: Vec::new(),
        })?);
    }
    for peer in &peers {
        crowd.until("a peer is ready", || async { peer.is_ready().await.then_some(()) }).await?;
    }
    tokio::time::sleep(SETTLE * 3).await;
    let each: Vec<_> = peers.iter().map(|peer| Memory::of(peer.pid())).collect::<Result<_>>()?;
    let mean = each.iter().map(|memory| memory.private).sum::<f64>() / PEERS as f64;
    let figures = json!({
        "peer_private_each_mib": each.iter().map(|memory| round(memory.private)).collect::<Vec<_>>(),
        "peer_private_mib": round(mean * crowd.members.len() as f64),
        "peer_private_is": format!("an estimate: the mean of {PEERS} processes of controller-runtime times {}", crowd.members.len()),
    });
    Ok(figures.as_object().cloned().unwrap_or_default())
}

fn webapp_yaml(number: usize) -> String {
    format!(
        "apiVersion: apps.windlass.dev/v1alpha1\nkind: WebApp\nmetadata: {{ name: app-{number}, namespace: {NAMESPACE} }}\n\
         spec: {{ image: nginx, replicas: 0 }}\n"
    )
}

fn picture(report: &Report, wakes: Vec<Wake>) -> Result<()> {
    let row = |label: &str, of: fn(&Wake) -> f64| {
        let values = sorted(wakes.iter().map(|wake| of(wake) / 1000.0));
        Row { group: "100 plugins, one change at a time".to_owned(), label: label.to_owned(), values }
    };
    let rows = [
        row("ready -> decision", Wake::whole),
        row("of it the wait in the queue", |w| w.queued),
        row("of it the call", |w| w.called),
    ];
    let title = format!("Waking one of many idle plugins ({})", report.started());
    let path = report.path("svg")?;
    std::fs::write(&path, log_rows(Axis::SHORT, &title, &rows, None))
        .with_context(|| format!("write {}", path.display()))
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&sorted(values), 0.5).unwrap_or(0.0)
}

/// To the hundredth.
fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
